"""Answer ``/series`` and ``/volumes``: phase diagrams that fill while a series is measured.

Runs without a series are listed by their day, as the series ``day-2026-11-29``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sqlalchemy import BigInteger, ColumnElement, and_, case, cast, func, literal_column, select
from tiled.catalog import orm

from offbragg.catalog.authentication import App, Receive, Scope, Send
from offbragg.catalog.local_days import changes_of_clock
from offbragg.catalog.readable import Readable
from offbragg.catalog.refined_lattice import RefinedLattices
from offbragg.catalog.run_routes import RunRoutes, answer_json
from offbragg.catalog.run_search import (
    RUNNING,
    asked,
    between,
    exact_or_pattern,
    limit_of,
    run_row,
    temperature_range,
)
from offbragg.catalog.searched import MEMBERS, RUNS, VOLUMES
from offbragg.catalog.sent import Refusal
from offbragg.catalog.series_board import series_board
from offbragg.catalog.series_order import SeriesOrder, point_of
from offbragg.catalog.viewers import seen_runs, seen_volumes

PATH, VOLUMES_PATH = "/series", "/volumes"
_DAY = re.compile(r"day-([0-9]{4}-[0-9]{2}-[0-9]{2})")
_MOST_RUNS = 5000  # of one series
_LATEST = 1e11  # POSIX s; what is later is not a time
_VOLUME_PARAMETERS = ("sample", "temperature", "series", "run", "state", "limit")


class SeriesRoutes:
    """Answers requests for series and for the list of volumes, and passes on all others.

    Parameters
    ----------
    runs
        Answers requests for runs.
    app
        The app that answers all other requests.
    tree
        The root of Tiled's catalog.
    readable
        Where files may be read.
    """

    def __init__(self, app: App, tree: Any, readable: Readable, runs: RunRoutes) -> None:
        self._app = app
        self._engine = tree.context.engine
        self._runs = runs
        self._order = SeriesOrder(tree, readable)
        self._lattices = RefinedLattices(readable)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "").removesuffix("/")
        if scope["type"] != "http" or not (
            path in (PATH, VOLUMES_PATH) or path.startswith(f"{PATH}/")
        ):
            await self._app(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        await answer_json(self._answer(path, query), scope, send)

    async def _answer(self, path: str, query: str) -> Any:
        if path == VOLUMES_PATH:
            return {"volumes": await self._volumes(query)}
        if path == PATH:
            return {"series": await self._list(limit_of(asked(query, ("limit",), PATH)))}
        uid, _, what = unquote(path.removeprefix(f"{PATH}/")).partition("/")
        if what == "order":
            given = asked(query, ("at", "sample"), f"{PATH}/UID/order")
            at = point_of(given.get("at", "0.5,0.5,0.5"))
            board, volumes = await self.board(uid)
            files = {each["key"]: Path(each["file"]) for each in volumes if each["file"]}
            return await self._order.find(board, files, at, given.get("sample", ""))
        if what:
            raise Refusal(404, f"The address is {PATH}/UID or {PATH}/UID/order.")
        asked(query, (), f"{PATH}/UID")
        return (await self.board(uid))[0]

    # -- series --------------------------------------------------------------------------------

    async def _list(self, limit: int) -> list[dict[str, Any]]:
        """List the newest series, and the newest days of runs without one."""
        begun = func.min(RUNS.c.time).label("begun")
        day = day_of_runs()
        dated = and_(RUNS.c.series.is_(None), RUNS.c.time.between(0.0, _LATEST))
        async with self._engine.connect() as connection:
            found: list[tuple[float, str | int]] = []
            for group, named in ((RUNS.c.series, True), (day, False)):
                kind = and_(seen_runs(), RUNS.c.series.is_not(None) if named else dated)
                newest = select(group, begun).where(kind).group_by(group).order_by(begun.desc())
                groups = (await connection.execute(newest.limit(limit))).all()
                found += [(float(time), key) for key, time in groups]
            found = sorted(found, key=lambda each: -each[0])[:limit]
            kinds: dict[Any, list[Any]] = {}
            for group, named in ((RUNS.c.series, True), (day, False)):
                keys = [key for _, key in found if isinstance(key, str) == named]
                counted = (
                    select(group, RUNS.c.sample, RUNS.c.temperature)
                    .add_columns(func.count(), func.max(RUNS.c.time))
                    .add_columns(func.count().filter(RUNS.c.status.is_(None)))
                    .where(seen_runs(), group.in_(keys) if named else and_(dated, group.in_(keys)))
                    .group_by(group, RUNS.c.sample, RUNS.c.temperature)
                )
                for key, *kind in (await connection.execute(counted)).tuples() if keys else ():
                    kinds.setdefault(key, []).append(kind)
        return [_entry(key, time, kinds[key]) for time, key in found if key in kinds]

    async def board(self, uid: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the phase diagram of a series, and its volumes."""
        uid, rows, start = await self.runs_of(uid)
        volumes = await self.volumes_of([row["uid"] for row in rows])
        await asyncio.to_thread(self._add_lattices, volumes)
        group = start.get("series")
        parameters = group.get("parameters") if isinstance(group, Mapping) else None
        known = parameters if isinstance(parameters, Mapping) else {}
        return series_board(uid, rows, volumes, known), volumes

    def _add_lattices(self, volumes: list[dict[str, Any]]) -> None:
        for each in volumes:
            if each["file"]:
                folder = Path(each["file"]).parent
                each["lattice"] = self._lattices.of(folder, each["runs"])

    async def runs_of(self, uid: str) -> tuple[str, list[dict[str, Any]], Mapping[str, Any]]:
        """Return the uid of a series, the rows of its runs, oldest first, and the last start."""
        async with self._engine.connect() as connection:
            if uid == "latest":
                uid = await self._latest(connection)
            wanted = (
                select(RUNS)
                .where(seen_runs(), _of_series(uid))
                .order_by(RUNS.c.time.desc(), RUNS.c.node_id.desc())
                .limit(_MOST_RUNS)
            )
            found = (await connection.execute(wanted)).mappings().all()[::-1]
            if not found:
                raise Refusal(
                    404, f"No run is of this series. {PATH} lists them; latest is the newest one."
                )
            node = select(orm.Node.metadata_).where(orm.Node.id == found[-1]["node_id"])
            metadata = await connection.scalar(node) or {}
        rows: list[dict[str, Any]] = []
        for each in found:
            growing = each["status"] is None
            counts = await self._runs.frame_counts(each["uid"]) if growing else None
            rows.append(run_row(each, counts))
        return uid, rows, metadata.get("start") or {}

    async def _latest(self, connection: Any) -> str:
        """Return the newest series; the day of the newest run, if that was a day or more later."""
        newest = (
            select(RUNS.c.time)
            .where(seen_runs())
            .order_by(RUNS.c.time.desc(), RUNS.c.node_id.desc())
            .limit(1)
        )
        last = await connection.scalar(newest)
        if last is None:
            raise Refusal(404, "The catalog has no runs yet.")
        named = newest.with_only_columns(RUNS.c.series).where(
            RUNS.c.series.is_not(None), RUNS.c.time > last - 86400.0
        )
        return await connection.scalar(named) or _day_of(float(last))

    # -- volumes -------------------------------------------------------------------------------

    async def volumes_of(self, runs: Sequence[str]) -> list[dict[str, Any]]:
        """Return the volumes that were made of some of these runs, newest first."""
        nodes: set[int] = set()
        async with self._engine.connect() as connection:
            for first in range(0, len(runs), 500):
                some = MEMBERS.c.run.in_(runs[first : first + 500])
                nodes.update(await connection.scalars(select(MEMBERS.c.node_id).where(some)))
        return await self._listed(VOLUMES.c.node_id.in_(nodes), len(nodes)) if nodes else []

    async def _volumes(self, query: str) -> list[dict[str, Any]]:
        given = asked(query, _VOLUME_PARAMETERS, VOLUMES_PATH)
        conditions: list[ColumnElement[bool]] = []
        for name, value in given.items():
            if name == "temperature":
                conditions.append(between(VOLUMES.c.temperature, temperature_range(name, value)))
            elif name == "run":
                uid = (await self._runs.find(value))["uid"]
                of_run = select(MEMBERS.c.node_id).where(MEMBERS.c.run == uid)
                conditions.append(VOLUMES.c.node_id.in_(of_run))
            elif name != "limit":
                conditions.append(exact_or_pattern(VOLUMES.c[name], value))
        return await self._listed(and_(True, *conditions), limit_of(given))

    async def _listed(self, condition: ColumnElement[bool], limit: int) -> list[dict[str, Any]]:
        metadata = orm.Node.metadata_
        wanted = (
            select(VOLUMES, *(metadata[key].label(key) for key in _SHOWN))
            .join(orm.Node, orm.Node.id == VOLUMES.c.node_id)
            .where(seen_volumes(), condition)
            .order_by(VOLUMES.c.written.desc(), VOLUMES.c.node_id.desc())
            .limit(limit)
        )
        async with self._engine.connect() as connection:
            found = (await connection.execute(wanted)).mappings().all()
        return [_volume(each) for each in found]


_SHOWN = ("runs", "completeness", "grid", "levels", "symmetry", "frames")


def _volume(found: Mapping[str, Any]) -> dict[str, Any]:
    names = ("sample", "label", "temperature", "series", "state", "written", "file")
    return {
        "key": found["uid"],
        **{name: found[name] for name in names},
        **{name: found[name] for name in _SHOWN},
        "runs": found["runs"] or [],
    }


def _entry(key: str | int, begun: float, kinds: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Return what the list has of a series, or of a day: by sample and temperature, what is in it.

    Parameters
    ----------
    key
        Uid of the series, or number of the day.
    begun
        Time of its first run.
    kinds
        Sample, temperature, number of runs, time of the last one, and how many are measured now.
    """
    return {
        "uid": key if isinstance(key, str) else _day_of(begun),
        "time": begun,
        "last": max(last for _, _, _, last, _ in kinds),
        "samples": sorted({sample for sample, *_ in kinds if sample}),
        "temperatures": sorted({kelvin for _, kelvin, *_ in kinds if kelvin is not None}),
        "runs": sum(count for _, _, count, *_ in kinds),
        "state": RUNNING if any(running for *_, running in kinds) else "ended",
    }


def day_of_runs() -> ColumnElement[int]:
    """Return the number of the day on which a run began, as the beamline's clock counts."""
    # as text: PostgreSQL does not see that two expressions with parameters are the same
    changes = (
        (RUNS.c.time >= literal_column(str(since)), literal_column(str(ahead)))
        for since, ahead in changes_of_clock()
    )
    ahead = case(*changes, else_=literal_column("0.0"))
    return cast(RUNS.c.time + ahead, BigInteger) // 86400


def _day_of(time: float) -> str:
    return f"day-{datetime.fromtimestamp(min(max(time, 0.0), _LATEST)).date().isoformat()}"


def _of_series(uid: str) -> ColumnElement[bool]:
    """Return the condition that a run is of a series, or of a day and of none."""
    if (day := _DAY.fullmatch(uid)) is None:
        return RUNS.c.series == uid
    try:
        begin = datetime.fromisoformat(day[1])
        ends = [each.timestamp() for each in (begin, begin + timedelta(days=1))]
    except (ValueError, OverflowError, OSError):  # also of a year that has no time
        raise Refusal(404, f"{uid} is not a day: day-2026-11-29 would be.") from None
    return and_(RUNS.c.series.is_(None), RUNS.c.time >= ends[0], RUNS.c.time < ends[1])
