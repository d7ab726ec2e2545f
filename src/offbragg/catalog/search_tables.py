"""The tables of runs and volumes that are searched, beside Tiled's own table of nodes.

Tiled keeps the documents of a run as JSON; each search reads those of all runs. Here are the
values that people search for, one row per run, in the same database. Triggers on Tiled's table
keep the rows: whatever writes or deletes a node changes its row in the same transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from offbragg.catalog.containers import CONTAINER, VOLUMES

RUNS_TABLE, VOLUMES_TABLE = "offbragg_runs", "offbragg_volumes"
WORDS_TABLE, MEMBERS_TABLE = "offbragg_run_words", "offbragg_volume_runs"
STATE_TABLE = "offbragg_tables"
LONGEST = 200  # characters of a text; PostgreSQL refuses longer keys of an index
_MOST_WORDS = 500_000  # characters that PostgreSQL makes words of; it refuses 1 MB

Dialect = Literal["sqlite", "postgresql"]


@dataclass(frozen=True, slots=True)
class Column:
    """A value of the metadata that is searched for.

    Parameters
    ----------
    name
        Of the column.
    path
        Where the value is in the metadata: keys with dots between, ``[0]`` for a place in a list.
    kind
        A value of another kind counts as absent; ``length`` is that of a list.
    other
        Where it is otherwise.
    """

    name: str
    path: str
    kind: Literal["text", "number", "length"] = "text"
    other: str = ""

    def value(self, dialect: Dialect, json: str) -> str:
        """Return the SQL expression of the value in a JSON column."""
        read = _sqlite_value if dialect == "sqlite" else _postgresql_value
        first = read(json, self.path, self.kind)
        return f"coalesce({first}, {read(json, self.other, self.kind)})" if self.other else first

    def definition(self, dialect: Dialect) -> str:
        """Return its definition in a table."""
        number = "REAL" if dialect == "sqlite" else "double precision"
        return f"{self.name} {'text' if self.kind == 'text' else number}"


RUN_COLUMNS = (
    Column("scan_id", "start.scan_id", "number"),
    Column("time", "start.time", "number"),
    Column("stop_time", "stop.time", "number"),
    Column("status", "stop.exit_status"),
    Column("reason", "stop.reason"),
    Column("sample", "start.sample.name", other="start.sample"),
    Column("label", "start.sample.label"),
    Column("formula", "start.sample.formula"),
    Column("proposal", "start.proposal"),
    Column("temperature", "start.temperature.setpoint", "number"),
    Column("measured", "start.temperature.settled.mean", "number"),
    Column("purpose", "start.purpose"),
    Column("plan", "start.plan_name"),
    Column("series", "start.series.uid"),
    Column("point", "start.series.sweep_of[0]", "number"),
    Column("sweep", "start.series.sweep_of[1]", "number"),
    Column("sweeps", "start.series.parameters.sweeps", "length"),
    Column("axis", "start.sweep.axis"),
    Column("n_frames", "start.sweep.n_frames", "number"),
    Column("stored", "stop.offbragg.frames.stored", "number"),
    Column("missing", "stop.offbragg.frames.missing", "number"),
    Column("rejected", "stop.offbragg.frames.rejected", "number"),
)
VOLUME_COLUMNS = (
    Column("written", "written", "number"),
    Column("state", "state"),
    Column("sample", "sample.name"),
    Column("label", "sample.label"),
    Column("temperature", "temperature", "number"),
    Column("series", "series.uid"),
    Column("file", "file"),
)
_SEARCHED = {
    RUNS_TABLE: (
        "sample",
        "temperature",
        "purpose",
        "plan",
        "series",
        "status",
        "scan_id",
        "proposal",
    ),
    VOLUMES_TABLE: ("sample", "temperature", "series"),
}
"""Each has an index, together with the time: what is found is listed newest first."""

_NEWEST = {RUNS_TABLE: "time", VOLUMES_TABLE: "written"}


@dataclass(frozen=True, slots=True)
class Tables:
    """Statements that make the tables and triggers, and fill them from Tiled's table."""

    drop: tuple[str, ...]
    create: tuple[str, ...]
    fill: tuple[str, ...]
    triggers: tuple[str, ...]
    """Names of the triggers; PostgreSQL has those of Tiled's table only."""

    @property
    def signature(self) -> str:
        """Of these statements; tables of others are made again."""
        return hashlib.sha256("\n".join((*self.create, *self.fill)).encode()).hexdigest()[:16]

    @classmethod
    def of(cls, dialect: Dialect) -> Tables:
        """Return the statements for a kind of database."""
        return _sqlite_tables() if dialect == "sqlite" else _postgresql_tables()


def _columns(table: str) -> Sequence[Column]:
    return RUN_COLUMNS if table == RUNS_TABLE else VOLUME_COLUMNS


def _children(container: str, parent: str) -> str:
    """Return the condition that a parent is one of Tiled's containers below its root."""
    return f"{parent} = (SELECT id FROM nodes WHERE parent = 0 AND \"key\" = '{container}')"


def _table(table: str, dialect: Dialect, *more: str) -> list[str]:
    columns = ", ".join(column.definition(dialect) for column in _columns(table))
    newest = _NEWEST[table]
    by_bytes = ' COLLATE "C"' if dialect == "postgresql" else ""
    return [
        f"CREATE TABLE {table} (node_id integer PRIMARY KEY, uid text{by_bytes} NOT NULL, {columns}"
        f"{''.join(f', {each}' for each in more)})",
        f"CREATE INDEX {table}_uid ON {table} (uid)",
        f"CREATE INDEX {table}_newest ON {table} ({newest}, node_id)",
        *(
            f"CREATE INDEX {table}_{name} ON {table} ({name}, {newest}, node_id)"
            for name in _SEARCHED[table]
        ),
    ]


def _insert(table: str, dialect: Dialect, row: str, condition: str = "") -> str:
    """Return the statement that inserts the row of one node, or of those of a condition."""
    columns, json = _columns(table), f"{row}.metadata"
    names = ", ".join(("node_id", "uid", *(column.name for column in columns)))
    values = ", ".join(
        f"coalesce({value}, 0.0)" if column.name == _NEWEST[table] else value
        for column in columns
        for value in [column.value(dialect, json)]
    )
    rest = f" FROM nodes AS {row} WHERE {condition}" if condition else ""
    return f'INSERT INTO {table} ({names}) SELECT {row}.id, {row}."key", {values}{rest}'


# -- SQLite ----------------------------------------------------------------------------------------


def _sqlite_value(json: str, path: str, kind: str) -> str:
    place = f"'$.{path}'"
    types = {"text": "'text'", "number": "'integer', 'real'", "length": "'array'"}[kind]
    value = f"json_extract({json}, {place})"
    value = {
        "text": f"substr({value}, 1, {LONGEST})",
        "number": f"CAST({value} AS REAL)",
        "length": f"json_array_length({json}, {place})",
    }[kind]
    return f"CASE WHEN json_type({json}, {place}) IN ({types}) THEN {value} END"


def _sqlite_words(row: str) -> str:
    return (
        f"(SELECT group_concat(atom, ' ') FROM json_tree({row}.metadata, '$.start') "
        "WHERE type = 'text')"
    )


def _sqlite_tables() -> Tables:
    raw = (
        f"{_children(CONTAINER, '{0}.parent')} AND json_type({{0}}.metadata, '$.start') = 'object'"
    )
    volumes = _children(VOLUMES, "{0}.parent")
    gone = (
        f"DELETE FROM {RUNS_TABLE} WHERE node_id = OLD.id; "
        f"DELETE FROM {WORDS_TABLE} WHERE rowid = OLD.id; "
        f"DELETE FROM {VOLUMES_TABLE} WHERE node_id = OLD.id; "
        f"DELETE FROM {MEMBERS_TABLE} WHERE node_id = OLD.id; "
    )
    run = (
        f"{_insert(RUNS_TABLE, 'sqlite', 'NEW')}; "
        f"INSERT INTO {WORDS_TABLE} (rowid, words) SELECT NEW.id, {_sqlite_words('NEW')}; "
    )
    members = "FROM {} json_each({}.metadata, '$.runs') AS each WHERE each.type = 'text'"
    volume = (
        f"{_insert(VOLUMES_TABLE, 'sqlite', 'NEW')}; "
        f"INSERT OR IGNORE INTO {MEMBERS_TABLE} (run, node_id) "
        f"SELECT each.value, NEW.id {members.format('', 'NEW')}; "
    )
    events = {
        "INSERT": "",
        'UPDATE OF metadata, "key", parent': gone,
    }
    triggers = {
        f"{table}_{event[:6].lower()}": (
            f"AFTER {event} ON nodes WHEN {where.format('NEW')} BEGIN {first}{then}END"
        )
        for table, where, then in ((RUNS_TABLE, raw, run), (VOLUMES_TABLE, volumes, volume))
        for event, first in events.items()
    }
    known = "EXISTS (SELECT 1 FROM {} WHERE node_id = OLD.id)"
    rows = f"({known.format(RUNS_TABLE)} OR {known.format(VOLUMES_TABLE)})"
    moved = f"NOT ({raw.format('NEW')}) AND NOT ({volumes.format('NEW')})"
    triggers["offbragg_rows_moved"] = (
        f"AFTER UPDATE OF metadata, parent ON nodes WHEN {rows} AND {moved} BEGIN {gone}END"
    )
    triggers["offbragg_rows_delete"] = f"AFTER DELETE ON nodes WHEN {rows} BEGIN {gone}END"
    filled = _children(VOLUMES, "node.parent")
    return Tables(
        drop=(
            *(f"DROP TRIGGER IF EXISTS {name}" for name in triggers),
            *(
                f"DROP TABLE IF EXISTS {table}"
                for table in (RUNS_TABLE, VOLUMES_TABLE, WORDS_TABLE, MEMBERS_TABLE, STATE_TABLE)
            ),
        ),
        create=(
            *_table(RUNS_TABLE, "sqlite"),
            *_table(VOLUMES_TABLE, "sqlite"),
            f"CREATE TABLE {MEMBERS_TABLE} (run text NOT NULL, node_id integer NOT NULL, "
            "PRIMARY KEY (run, node_id)) WITHOUT ROWID",
            f"CREATE INDEX {MEMBERS_TABLE}_node ON {MEMBERS_TABLE} (node_id)",
            f"CREATE VIRTUAL TABLE {WORDS_TABLE} USING fts5(words)",
            f"CREATE TABLE {STATE_TABLE} (signature text NOT NULL)",
            *(f"CREATE TRIGGER {name} {body}" for name, body in triggers.items()),
        ),
        fill=(
            _insert(RUNS_TABLE, "sqlite", "node", raw.format("node")),
            f"INSERT INTO {WORDS_TABLE} (rowid, words) SELECT node.id, {_sqlite_words('node')} "
            f"FROM nodes AS node WHERE {raw.format('node')}",
            _insert(VOLUMES_TABLE, "sqlite", "node", filled),
            f"INSERT OR IGNORE INTO {MEMBERS_TABLE} (run, node_id) SELECT each.value, node.id "
            f"{members.format('nodes AS node,', 'node')} AND {filled}",
        ),
        triggers=tuple(triggers),
    )


# -- PostgreSQL ------------------------------------------------------------------------------------


def _postgresql_value(json: str, path: str, kind: str) -> str:
    place = ",".join(path.replace("[", ".").replace("]", "").split("."))
    return f"offbragg_{kind}({json} #> '{{{place}}}')"


_POSTGRESQL_READERS = (
    f"""CREATE OR REPLACE FUNCTION offbragg_text(value jsonb) RETURNS text AS $$
SELECT CASE WHEN jsonb_typeof(value) = 'string' THEN left(value #>> '{{}}', {LONGEST}) END
$$ LANGUAGE sql IMMUTABLE""",
    """CREATE OR REPLACE FUNCTION offbragg_number(value jsonb) RETURNS double precision AS $$
SELECT CASE WHEN jsonb_typeof(value) = 'number' THEN CASE
WHEN abs(value::numeric) < 1e300 AND (value::numeric = 0 OR abs(value::numeric) > 1e-300)
THEN value::numeric::double precision END END
$$ LANGUAGE sql IMMUTABLE""",
    """CREATE OR REPLACE FUNCTION offbragg_length(value jsonb) RETURNS double precision AS $$
SELECT CASE WHEN jsonb_typeof(value) = 'array' THEN jsonb_array_length(value) END
$$ LANGUAGE sql IMMUTABLE""",
    # as SQLite's: words are letters and digits, whatever stands between them
    f"""CREATE OR REPLACE FUNCTION offbragg_words(metadata jsonb) RETURNS tsvector AS $$
SELECT to_tsvector('simple', left(regexp_replace(coalesce(
(SELECT string_agg(value #>> '{{}}', ' ') FROM jsonb_path_query(metadata, '$.start.**') AS value
WHERE jsonb_typeof(value) = 'string'), ''),
'[\\x01-\\x2f\\x3a-\\x40\\x5b-\\x60\\x7b-\\x7f]+', ' ', 'g'), {_MOST_WORDS}))
$$ LANGUAGE sql STABLE""",
)


def _postgresql_tables() -> Tables:
    raw = (
        f"{_children(CONTAINER, '{0}.parent')} "
        "AND jsonb_typeof({0}.metadata -> 'start') = 'object'"
    )
    volumes = _children(VOLUMES, "NEW.parent")
    words = f"UPDATE {RUNS_TABLE} SET words = offbragg_words({{}}.metadata)"
    members = (
        f"INSERT INTO {MEMBERS_TABLE} (run, node_id) SELECT DISTINCT each #>> '{{{{}}}}', "
        "{0}.id FROM {1} jsonb_path_query({0}.metadata, '$.runs[*]') AS each "
        "WHERE jsonb_typeof(each) = 'string'"
    )
    follow = f"""CREATE OR REPLACE FUNCTION offbragg_follow_nodes() RETURNS trigger AS $$
BEGIN
IF TG_OP = 'UPDATE' THEN
DELETE FROM {RUNS_TABLE} WHERE node_id = OLD.id;
DELETE FROM {VOLUMES_TABLE} WHERE node_id = OLD.id;
END IF;
IF {raw.format("NEW")} THEN
{_insert(RUNS_TABLE, "postgresql", "NEW")};
{words.format("NEW")} WHERE node_id = NEW.id;
ELSIF {volumes} THEN
{_insert(VOLUMES_TABLE, "postgresql", "NEW")};
{members.format("NEW", "")};
END IF;
RETURN NULL;
END
$$ LANGUAGE plpgsql"""
    of_node = "FOREIGN KEY (node_id) REFERENCES nodes (id) ON DELETE CASCADE"
    filled = _children(VOLUMES, "node.parent")
    return Tables(
        drop=(
            "DROP TRIGGER IF EXISTS offbragg_follow_nodes ON nodes",
            *(
                f"DROP TABLE IF EXISTS {table}"
                for table in (MEMBERS_TABLE, RUNS_TABLE, VOLUMES_TABLE, STATE_TABLE)
            ),
        ),
        create=(
            *_POSTGRESQL_READERS,
            *_table(RUNS_TABLE, "postgresql", "words tsvector", of_node),
            f"CREATE INDEX {WORDS_TABLE} ON {RUNS_TABLE} USING gin (words)",
            *_table(VOLUMES_TABLE, "postgresql", of_node),
            f"CREATE TABLE {MEMBERS_TABLE} (run text NOT NULL, node_id integer NOT NULL "
            f"REFERENCES {VOLUMES_TABLE} (node_id) ON DELETE CASCADE, PRIMARY KEY (run, node_id))",
            f"CREATE INDEX {MEMBERS_TABLE}_node ON {MEMBERS_TABLE} (node_id)",
            f"CREATE TABLE {STATE_TABLE} (signature text NOT NULL)",
            follow,
            'CREATE TRIGGER offbragg_follow_nodes AFTER INSERT OR UPDATE OF metadata, "key", '
            "parent ON nodes FOR EACH ROW EXECUTE FUNCTION offbragg_follow_nodes()",
        ),
        fill=(
            _insert(RUNS_TABLE, "postgresql", "node", raw.format("node")),
            f"{words.format('node')} FROM nodes AS node WHERE node.id = node_id",
            _insert(VOLUMES_TABLE, "postgresql", "node", filled),
            f"{members.format('node', 'nodes AS node,')} AND {filled}",
        ),
        triggers=("offbragg_follow_nodes",),
    )
