"""Let Tiled find those nodes only that who asks may see.

Whatever Tiled lists, counts, sorts, looks up or searches, also in depth, is one statement with the
conditions of an adapter. The condition of who asks is added to every one. So no route of Tiled's
has a rule of its own, and a node that is hidden is not found, as one that does not exist.

Tiled has access policies, too. They are asked at each step of a path, and not for the counts of
the containers in a listing.
"""

from __future__ import annotations

import functools
from typing import Any

from sqlalchemy import and_
from tiled.catalog import orm
from tiled.catalog.adapter import CatalogContainerAdapter, CatalogNodeAdapter

from offbragg.catalog.containers import CONTAINER, VOLUMES
from offbragg.catalog.viewers import seen_nodes, viewer
from offbragg.private_parts import PrivatePart, examine

_ASKED_WITH_CONDITIONS = (
    "exact_len", "lbound_len", "lookup_adapter", "_scoped", "keys_range", "items_range",
    "cursor_for_offset", "_apply_cursor_pagination",
)  # fmt: skip


def self_test() -> PrivatePart:
    """Hide from now on, and return whether Tiled asks with the conditions that are added."""
    return examine("tiled", "nodes that are seen by some only", _add_condition, guards=True)


def _add_condition() -> None:
    base: Any = CatalogNodeAdapter
    for name in _ASKED_WITH_CONDITIONS:
        way = getattr(CatalogContainerAdapter, name)
        code = getattr(way, "__wrapped__", way).__code__
        if not {"apply_conditions", "_apply_cursor_pagination"} & {*code.co_names}:
            raise ValueError(f"{name} asks without the conditions of its adapter")
    for kind in (base, *base.__subclasses__()):
        if kind is not base and "apply_conditions" in kind.__dict__:
            raise ValueError(f"{kind.__name__} has conditions of its own")
    if hasattr(base.apply_conditions, "__wrapped__"):
        return
    base.apply_conditions = _with_condition(base.apply_conditions)
    base.approx_len = _counted_exactly(base.approx_len)


def _with_condition(way: Any) -> Any:
    @functools.wraps(way)
    def apply_conditions(self: Any, statement: Any) -> Any:
        statement = way(self, statement)
        if viewer().sees_everything:
            return statement
        containers = and_(orm.Node.parent == 0, orm.Node.key.in_((CONTAINER, VOLUMES)))
        return statement.filter(seen_nodes(orm.Node, orm.NodesClosure.__table__, containers))

    return apply_conditions


def _counted_exactly(way: Any) -> Any:
    """Return what asks PostgreSQL's statistics for those only who see all that they count."""

    @functools.wraps(way)
    async def approx_len(self: Any) -> int | None:
        return await way(self) if viewer().sees_everything else None

    return approx_len
