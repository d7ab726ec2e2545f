"""The searched tables hold what Tiled's table of nodes holds, whoever changes it, and are used."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from postgresql import PostgreSQL, postgresql, why_not
from sqlalchemy import and_, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from tiled.catalog import orm
from tiled.utils import ensure_specified_sql_driver

from offbragg.catalog.run_search import RunSearch, run_row
from offbragg.catalog.search_index import dialect_of, ensure_search_tables
from offbragg.catalog.search_tables import RUNS_TABLE, Tables
from offbragg.catalog.searched import RUNS, VOLUMES
from offbragg.catalog.tiled_app import create_database
from offbragg.catalog.viewers import Viewer, seen_by, seen_nodes, seen_runs, seen_volumes
from offbragg.errors import CatalogError

# of Alembic, about the configuration that Tiled gives it
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")

NODES: Any = orm.Node.__table__
UID = "11111111-2222-4333-8444-555555555555"
START = {
    "uid": UID, "time": 1000.0, "scan_id": 7, "purpose": "data", "plan_name": "rotation_scan",
    "sample": {"name": "LSMO-140", "label": "crystal2", "formula": "LaMnO3"},
    "temperature": {"setpoint": 90.0, "settled": {"mean": 90.02}},
    "series": {"uid": "series-1", "sweep_of": [2, 1], "parameters": {"sweeps": [{}, {}, {}]}},
    "sweep": {"axis": "phi", "n_frames": 10},
    "note": "under_way to the Needle",
}  # fmt: skip
STOP = {
    "time": 1010.0, "exit_status": "success", "reason": "",
    "offbragg": {"frames": {"stored": 9, "missing": 1, "rejected": 0}},
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    if why := why_not():
        pytest.skip(why)
    with postgresql() as running:
        yield running


class Catalog:
    """A catalog's database, and what its server does when it starts."""

    def __init__(self, uri: str) -> None:
        self.uri = ensure_specified_sql_driver(uri)
        self._runner = asyncio.Runner()
        self._engine = create_async_engine(self.uri, json_serializer=json.dumps)
        self.start()
        (self.root, self.raw, self.volumes) = (0, self.add(0, "raw"), self.add(0, "volumes"))

    def close(self) -> None:
        self._runner.run(self._engine.dispose())
        self._runner.close()

    def within(self, do: Callable[[AsyncConnection], Coroutine[Any, Any, Any]]) -> Any:
        async def run() -> Any:
            async with self._engine.begin() as connection:
                return await do(connection)

        return self._runner.run(run())

    def start(self) -> bool:
        """Return whether the tables were made, as when a server starts."""
        return self._runner.run(ensure_search_tables(self._engine))

    def add(self, parent: int, key: str, **metadata: Any) -> int:
        values = {
            "parent": parent, "key": key, "structure_family": "container", "metadata": metadata,
            "specs": [],
        }  # fmt: skip

        async def do(connection: AsyncConnection) -> int:
            return (await connection.execute(insert(NODES).values(values))).inserted_primary_key[0]

        return self.within(do)

    def change(self, node: int, **values: Any) -> None:
        self.within(
            lambda connection: connection.execute(
                NODES.update().where(NODES.c.id == node).values(values)
            )
        )

    def delete(self, node: int) -> None:
        async def do(connection: AsyncConnection) -> None:
            if connection.dialect.name == "sqlite":
                await connection.execute(text("PRAGMA foreign_keys = ON"))  # as Tiled does
            await connection.execute(NODES.delete().where(NODES.c.id == node))

        self.within(do)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        async def do(connection: AsyncConnection) -> list[tuple[Any, ...]]:
            done = await connection.execute(text(statement))
            return [tuple(row) for row in done] if done.returns_rows else []

        return self.within(do)

    def rows(self, query: str = "") -> list[dict[str, Any]]:
        async def do(connection: AsyncConnection) -> list[dict[str, Any]]:
            found = RunSearch.parse(query).rows(dialect_of(connection.engine), None)
            return [run_row(row) for row in (await connection.execute(found)).mappings()]

        return self.within(do)

    def plan(self, query: str, *, off: str = "enable_seqscan") -> str:
        """Return how the database finds what a search asks for; a few rows are read in one go."""

        async def do(connection: AsyncConnection) -> str:
            found = RunSearch.parse(query).rows(dialect_of(connection.engine), None)
            compiled = found.compile(
                dialect=connection.dialect, compile_kwargs={"literal_binds": True}
            )
            explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
            if connection.dialect.name == "postgresql":
                for setting in {"enable_seqscan", off}:
                    await connection.execute(text(f"SET LOCAL {setting} = off"))
            statement = f"{explain} {compiled}".replace("%%", "%")
            lines = await connection.exec_driver_sql(statement)
            return "\n".join(str(tuple(row)) for row in lines)

        return self.within(do)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def another(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Catalog]:
    """Make catalogs in a kind of database; they are copied, Tiled takes a second for its tables."""
    number = itertools.count()
    if request.param == "sqlite":
        folder = tmp_path_factory.mktemp("catalogs")
        create_database(f"sqlite:///{folder / 'empty.db'}")

        def of_sqlite() -> Catalog:
            path = shutil.copy(folder / "empty.db", folder / f"{next(number)}.db")
            return Catalog(f"sqlite:///{path}")

        return of_sqlite
    server: PostgreSQL = request.getfixturevalue("server")
    create_database(server.create("empty"))
    return lambda: Catalog(server.create(f"catalog_{next(number)}", like="empty"))


@pytest.fixture
def catalog(another: Callable[[], Catalog]) -> Iterator[Catalog]:
    made = another()
    yield made
    made.close()


def test_rows_are_what_the_nodes_are_whoever_writes_them(catalog: Catalog):
    assert catalog.rows() == []
    run = catalog.add(catalog.raw, UID, start=START, stop={})

    (opened,) = catalog.rows()
    assert (opened["uid"], opened["scan_id"], opened["sample"]) == (UID, 7, "LSMO-140")
    assert (opened["exit_status"], opened["complete"]) == ("running", False)
    assert (opened["sweep"], opened["sweeps"], opened["temperature_measured"]) == (2, 3, 90.02)
    assert opened["frames"] == {"stored": 0, "missing": 0, "rejected": 0, "pending": 10}

    catalog.add(run, "primary", data_keys={})  # a stream is not a run
    catalog.change(run, metadata={"start": START, "stop": STOP})
    (ended,) = catalog.rows()
    assert (ended["exit_status"], ended["stop_time"]) == ("success", 1010.0)
    assert ended["frames"] == {"stored": 9, "missing": 1, "rejected": 0, "pending": 0}
    assert ended["what"] == "LSMO-140 at 90 K, sweep 2 of 3, 9 of 10 frames, 1 missing"

    catalog.delete(run)
    assert catalog.rows() == []
    again = catalog.add(catalog.raw, UID, start=START, stop=STOP)
    assert [row["uid"] for row in catalog.rows("text=needle")] == [UID]
    catalog.change(again, parent=catalog.root)
    assert (catalog.rows(), catalog.rows("text=needle")) == ([], [])
    catalog.change(again, parent=catalog.raw)
    assert len(catalog.rows("text=needle")) == 1
    catalog.delete(catalog.raw)
    assert (catalog.rows(), catalog.rows("text=needle")) == ([], [])


def test_volumes_and_their_runs_are_rows(catalog: Catalog):
    members = "SELECT run FROM offbragg_volume_runs ORDER BY run"
    node = catalog.add(
        catalog.volumes, "v-1", state="growing", written=5.0, sample={"name": "LSMO-140"},
        temperature=90.0, runs=["b", "a", "a", 3],
    )  # fmt: skip

    assert catalog.sql(members) == [("a",), ("b",)]
    catalog.change(node, metadata={"state": "finished", "written": 6.0, "runs": ["a"]})
    assert catalog.sql(members) == [("a",)]
    rows = catalog.sql("SELECT uid, state, written, sample FROM offbragg_volumes")
    assert rows == [("v-1", "finished", 6.0, None)]
    catalog.delete(node)
    assert catalog.sql(members) == catalog.sql("SELECT uid FROM offbragg_volumes") == []


def test_values_of_another_kind_count_as_absent_and_refuse_no_run(catalog: Catalog):
    odd = {
        "uid": 3, "time": "noon", "scan_id": True, "sample": "a name alone", "plan_name": ["x"],
        "temperature": {"setpoint": "cold", "settled": 4}, "series": [], "sweep": {"n_frames": {}},
        "purpose": "data " * 1000, "big": "word " * 50_000, "formula": None,
    }  # fmt: skip
    catalog.add(catalog.raw, "odd", start=odd, stop=None)
    catalog.add(catalog.raw, "huge", start={"scan_id": 10**300, "time": 1e300}, stop={"time": []})
    catalog.add(catalog.raw, "not-a-run", start="yes")
    catalog.add(catalog.raw, "nothing")

    first, second = catalog.rows()
    assert first["uid"] == "huge"
    assert (second["sample"], second["time"], second["plan"]) == ("a name alone", 0.0, None)
    assert (second["temperature"], second["series"], second["frames"]) == (None, None, None)
    assert len(second["purpose"]) == 200


def test_tables_are_made_from_the_nodes_when_they_are_missing_or_old(catalog: Catalog):
    catalog.add(catalog.raw, UID, start=START, stop=STOP)
    catalog.add(catalog.volumes, "v-1", state="finished", written=6.0, runs=[UID])
    before = catalog.rows(), catalog.sql("SELECT * FROM offbragg_volumes")
    sqlite = "sqlite" in catalog.uri
    trigger = "DROP TRIGGER " + (
        "offbragg_runs_update" if sqlite else "offbragg_follow_nodes ON nodes"
    )

    assert catalog.start() is False  # what is kept is not looked through
    for lost in ("DROP TABLE offbragg_tables", trigger, "UPDATE offbragg_tables SET signature = 1"):
        catalog.sql(lost)
        catalog.sql("DELETE FROM offbragg_runs")
        catalog.sql("DELETE FROM offbragg_volumes")
        assert catalog.start() is True
        assert (catalog.rows(), catalog.sql("SELECT * FROM offbragg_volumes")) == before
        assert len(catalog.rows("text=needle")) == 1
        assert catalog.sql("SELECT run FROM offbragg_volume_runs") == [(UID,)]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("sample=LSMO-140", True), ("sample=lsmo-140", False), ("sample=lsmo-1*", True),
        ("sample=LSMO_140*", False), ("temperature=90", True), ("temperature=90.4", True),
        ("temperature=91", False), ("temperature=80:", True), ("temperature=:80", False),
        ("temperature=80:120", True), ("since=1000", True), ("until=999", False),
        ("since=1970-01-01T00:00%2B00:00&until=1970-01-02T00:00%2B00:00", True),
        ("purpose=data", True), ("purpose=dark", False), ("scan_id=7", True), ("scan_id=8", False),
        ("series=series-1", True), ("plan=rotation_scan", True), ("plan=rotat*", True),
        ("status=success", True), ("status=running", False), ("text=NEEDLE", True),
        ("text=need", True), ("text=eedle", False), ("text=LSMO-140", True),
        ("text=under_way needle", True), ("text=under way", True), ("text=needle haystack", False),
        ("text=%27%22%2A x", False),
        ("sample=LSMO-140&temperature=90&text=needle&status=success", True),
    ],
)  # fmt: skip
def test_each_parameter_finds_what_it_says(shared: Catalog, query: str, found: bool):
    assert len(shared.rows(query)) == found


@pytest.fixture(scope="module")
def shared(another: Callable[[], Catalog]) -> Iterator[Catalog]:
    made = another()
    made.add(made.raw, UID, start=START, stop=STOP)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("query", "index"),
    [("", "newest"), ("sample=LSMO-140", "sample"), ("temperature=80:120", "temperature"),
     ("since=5", "newest"), ("scan_id=7", "scan_id"), ("series=x", "series"),
     ("purpose=data", "purpose"), ("plan=x", "plan"), ("status=fail", "status")],
)  # fmt: skip
def test_searches_use_an_index(shared: Catalog, query: str, index: str):
    plan = shared.plan(query)

    assert f"{RUNS_TABLE}_" in plan
    if query != "temperature=80:120":  # or the newest first, whichever reads less
        assert f"{RUNS_TABLE}_{index}" in plan
    assert "SCAN offbragg_runs\n" not in f"{plan}\n"


def test_words_are_found_by_their_index(shared: Catalog):
    plan = shared.plan("text=needle", off="enable_indexscan")

    assert "VIRTUAL TABLE INDEX" in plan if "sqlite" in shared.uri else "offbragg_run_words" in plan


def test_other_statements_have_another_signature():
    one, other = Tables.of("sqlite"), Tables.of("postgresql")

    assert one.signature == Tables.of("sqlite").signature != other.signature


def test_a_database_that_is_not_there_is_named_without_its_password(tmp_path: Path):
    uri = f"postgresql://me:secret@/gone?host={tmp_path}"

    with pytest.raises(CatalogError, match="cannot be used") as refused:
        create_database(uri)

    assert "secret" not in str(refused.value)
    assert "createdb" in str(refused.value)


def test_runs_and_volumes_are_seen_by_those_of_their_proposals(catalog):
    uids = {name: f"{n}1111111-2222-4333-8444-555555555555" for n, name in enumerate("abcn")}
    of = {"a": {"proposal": "A"}, "b": {"proposal": "B"}, "c": {"proposal": 117}, "n": {}}
    for name, uid in uids.items():
        run = catalog.add(catalog.raw, uid, start={**START, "uid": uid, **of[name]})
        catalog.add(run, f"stream-{name}")
    for key in ("a", "b", "ab", "ac", "an", "", "ax"):
        runs = [uids.get(name, "of no run") for name in key]
        catalog.add(catalog.volumes, f"volume-{key}", runs=runs)
    catalog.add(0, "elsewhere")
    containers = and_(orm.Node.parent == 0, orm.Node.key.in_(("raw", "volumes")))
    closure = orm.NodesClosure.__table__

    def seen(*proposals: str) -> tuple[str, str, set[str]]:
        async def ask(connection: AsyncConnection) -> Any:
            with seen_by(Viewer("somebody", frozenset(proposals))):
                runs, volumes = select(RUNS.c.uid), select(VOLUMES.c.uid)
                nodes = select(orm.Node.key).where(seen_nodes(orm.Node, closure, containers))
                asked = (runs.where(seen_runs()), volumes.where(seen_volumes()), nodes)
                return [set(await connection.scalars(each)) for each in asked]

        runs, volumes, nodes = catalog.within(ask)
        return (
            "".join(sorted(name for name in uids if uids[name] in runs)),
            " ".join(sorted(key.removeprefix("volume-") for key in volumes)),
            nodes - set(uids.values()) - {f"volume-{key}" for key in ("a", "b", "ab")},
        )

    assert seen() == ("", "", {"raw", "volumes"})
    assert seen("A") == ("a", "a", {"raw", "volumes", "stream-a"})
    assert seen("B", "C") == ("b", "b", {"raw", "volumes", "stream-b"})
    assert seen("A", "B") == ("ab", "a ab b", {"raw", "volumes", "stream-a", "stream-b"})
    assert seen("117", "None", "null", "") == ("", "", {"raw", "volumes"})


def test_the_rows_of_a_table_are_those_that_are_listed():
    assert {"uid", "node_id", "time", "status"} <= set(RUNS.c.keys())
    assert "offbragg_runs" in str(select(RUNS))
