"""Let Tiled's own searches of runs and volumes read the searched tables instead of all JSON.

What a search finds is the same. A key or a value that the tables do not hold goes Tiled's way.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, case, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import aliased
from sqlalchemy.sql.functions import FunctionElement
from tiled.catalog import adapter, orm
from tiled.catalog.adapter import CatalogNodeAdapter
from tiled.queries import Comparison, Contains, Eq, FullText, In, Like, Operator

from offbragg.catalog.containers import CONTAINER, VOLUMES
from offbragg.catalog.search_tables import LONGEST, RUN_COLUMNS, VOLUME_COLUMNS, Column
from offbragg.catalog.searched import MEMBERS, RUNS
from offbragg.catalog.searched import VOLUMES as VOLUME_ROWS
from offbragg.private_parts import PrivatePart, examine, require

_EXACT = 2**53  # larger integers are not exact in a column of numbers
_UID = 36  # characters
_COMPARISONS: dict[Operator, Callable[[Any, Any], Any]] = {
    Operator.lt: operator.lt, Operator.le: operator.le,
    Operator.gt: operator.gt, Operator.ge: operator.ge,
}  # fmt: skip


def _columns(table: Any, columns: tuple[Column, ...]) -> dict[str, tuple[Any, str]]:
    plain = [each for each in columns if "[" not in each.path and each.kind != "length"]
    return {each.path: (table.c[each.name], each.kind) for each in plain}


_KNOWN: Mapping[str, tuple[Any, Mapping[str, tuple[Any, str]]]] = {
    CONTAINER: (RUNS, {**_columns(RUNS, RUN_COLUMNS), "start.uid": (RUNS.c.uid, "text")}),
    VOLUMES: (VOLUME_ROWS, _columns(VOLUME_ROWS, VOLUME_COLUMNS)),
}


def self_test() -> PrivatePart:
    """Use the tables from now on, and return whether Tiled's searches do."""
    return examine("tiled", "searches by index", _use_tables)


def _use_tables() -> None:
    require(adapter, "construct_order_by_clauses")
    registry: dict[type, Any] = CatalogNodeAdapter.query_registry._lookup  # pyright: ignore
    for kind, find in _FINDERS.items():
        way: Any = registry[kind]
        if not hasattr(way, "__wrapped__"):
            registry[kind] = _indexed(find, way)
    build: Any = adapter.construct_order_by_clauses
    if not hasattr(build, "__wrapped__"):
        adapter.construct_order_by_clauses = _sorted_by_column(build)


def _indexed(
    find: Callable[[Any, Any], ColumnElement[bool] | None], way: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Any]:
    """Return a search that asks the tables if it can, and goes Tiled's way otherwise."""

    @functools.wraps(way)
    def search(query: Any, tree: Any) -> Any:
        condition = find(query, tree)
        if condition is None:
            return way(query, tree)
        return tree.new_variation(conditions=[*tree.conditions, condition])

    search.__wrapped__ = way  # type: ignore[attr-defined]  a partial has no name to take over
    return search


def _column(query: Any, tree: Any, *values: object) -> tuple[Any, Any] | None:
    """Return the table and column for a key; None if these values are compared otherwise."""
    if tree.deep or tree.node.parent != 0 or tree.node.key not in _KNOWN:
        return None
    table, known = _KNOWN[tree.node.key]
    column, kind = known.get(query.key, (None, ""))
    if column is None or not values or not all(_fits(value, kind) for value in values):
        return None
    return table, column


def _fits(value: object, kind: str) -> bool:
    if kind == "text":
        return isinstance(value, str) and len(value) < LONGEST
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) <= _EXACT


def _nodes(table: Any, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return orm.Node.id.in_(select(table.c.node_id).where(condition))


def _equal(query: Any, tree: Any) -> ColumnElement[bool] | None:
    found = _column(query, tree, query.value)
    return None if found is None else _nodes(found[0], found[1] == query.value)


def _compared(query: Any, tree: Any) -> ColumnElement[bool] | None:
    if isinstance(query.value, str):
        return None  # texts have another order in each database
    found = _column(query, tree, query.value)
    if found is None:
        return None
    return _nodes(found[0], _COMPARISONS[query.operator](found[1], query.value))


def _among(query: Any, tree: Any) -> ColumnElement[bool] | None:
    found = _column(query, tree, *query.value)
    return None if found is None else _nodes(found[0], found[1].in_(list(query.value)))


def _like(query: Any, tree: Any) -> ColumnElement[bool] | None:
    found = _column(query, tree, query.pattern)
    return None if found is None else _nodes(found[0], found[1].like(query.pattern))


def _contained(query: Any, tree: Any) -> ColumnElement[bool] | None:
    of_volumes = not tree.deep and tree.node.parent == 0 and tree.node.key == VOLUMES
    if of_volumes and query.key == "runs":
        value = query.value
        if isinstance(value, str) and len(value) == _UID:
            return _nodes(MEMBERS, MEMBERS.c.run == value)
    return None


def _words(query: Any, tree: Any) -> ColumnElement[bool] | None:
    """Find nodes by words: SQLite looks these up first, instead of for each node."""
    if tree.context.engine.dialect.name != "sqlite":
        return None
    words = orm.metadata_fts5.c
    return orm.Node.id.in_(select(words.rowid).where(words.metadata.match(query.text)))


_FINDERS = {
    Eq: _equal, Comparison: _compared, In: _among, Like: _like, Contains: _contained,
    FullText: _words,
}  # fmt: skip


def _sorted_by_column(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what sorts runs and volumes by the values in the tables."""

    @functools.wraps(build)
    def construct_order_by_clauses(sorting: Any) -> Any:
        clauses, direction = build(sorting)
        asked = [(key.removeprefix("metadata."), way) for key, way in sorting if key]
        for place, (key, way) in enumerate(asked):
            if (order := _ordered(key)) is not None:
                clauses[place] = order.desc() if way == -1 else order
        return clauses, direction

    return construct_order_by_clauses


def _ordered(key: str) -> Any:
    """Return what nodes are sorted by; None if it is in no table."""
    cases: list[tuple[Any, Any]] = []
    for container, (table, known) in _KNOWN.items():
        if key in known:
            above = aliased(orm.Node)
            parent = select(above.id).where(above.parent == 0, above.key == container)
            value = select(_as_json(known[key][0])).where(table.c.node_id == orm.Node.id)
            cases.append((orm.Node.parent == parent.scalar_subquery(), value.scalar_subquery()))
    otherwise: Any = orm.Node.metadata_
    for part in key.split("."):
        otherwise = otherwise[part]
    return case(*cases, else_=otherwise) if cases else None


class _as_json(FunctionElement[Any]):  # noqa: N801  a function of SQL
    """The value of a column, of the type that metadata have in this database."""

    inherit_cache = True
    type = orm.JSONVariant


@compiles(_as_json, "sqlite")
def _plain(element: Any, compiler: Any, **kwargs: Any) -> str:
    return compiler.process(element.clauses, **kwargs)


@compiles(_as_json, "postgresql")
def _converted(element: Any, compiler: Any, **kwargs: Any) -> str:
    return f"to_jsonb({compiler.process(element.clauses, **kwargs)})"
