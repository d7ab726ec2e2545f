"""Count the children of all entries of a listing at once; Tiled asks its database for each."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import func, select
from tiled.catalog import orm
from tiled.catalog.adapter import CatalogContainerAdapter

from offbragg.catalog.containers import CONTAINER, VOLUMES
from offbragg.private_parts import PrivatePart, examine

_COUNT = "_offbragg_children"


def self_test() -> PrivatePart:
    """Count at once from now on, and return whether Tiled lets us."""
    return examine("tiled", "children of a listing counted at once", _count_at_once)


def _count_at_once() -> None:
    kind: Any = CatalogContainerAdapter
    signature = inspect.signature(kind.lbound_len)
    if list(signature.parameters) != ["self", "threshold"]:
        raise TypeError(f"lbound_len takes {signature}")
    if hasattr(kind.lbound_len, "__wrapped__"):
        return
    kind.items_page = _counting(kind.items_page, lambda found: found[0])
    kind.items_range = _counting(kind.items_range, lambda found: found)
    kind.lbound_len = _known(kind.lbound_len)


def _counting(
    way: Callable[..., Awaitable[Any]], items_of: Callable[[Any], Any]
) -> Callable[..., Awaitable[Any]]:
    """Return what lists runs or volumes with the number of their children."""

    @functools.wraps(way)
    async def listed(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = await way(self, *args, **kwargs)
        if self.node.parent == 0 and self.node.key in (CONTAINER, VOLUMES):
            entries = {each.node.id: each for _, each in items_of(found)}
            counted = (
                select(orm.Node.parent, func.count())
                .where(orm.Node.parent.in_(entries))
                .group_by(orm.Node.parent)
            )
            async with self.context.session() as session:
                counts = dict((await session.execute(counted)).tuples().all())
            for node, entry in entries.items():
                setattr(entry, _COUNT, counts.get(node, 0))
        return found

    return listed


def _known(way: Callable[..., Awaitable[int]]) -> Callable[..., Awaitable[int]]:
    """Return the number of children that is known from a listing, or ask for it."""

    @functools.wraps(way)
    async def lbound_len(self: Any, threshold: int) -> int:
        count: int | None = getattr(self, _COUNT, None)
        return await way(self, threshold) if count is None else min(count, threshold + 1)

    return lbound_len
