"""Who asks, and which runs and volumes they see: conditions for every question to the database.

A run is of the proposal that its start document names. A volume is of the proposals of all its
runs: only those who see every one of them see it. What has no proposal, is not a run or volume, or
whose run is not in the catalog, is seen by those only who see everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, exists, false, or_, select, true

from offbragg.catalog.searched import MEMBERS, RUNS, VOLUMES

EVERYTHING: Literal["everything"] = "everything"
Proposals = frozenset[str] | Literal["everything"]


@dataclass(frozen=True, slots=True)
class Viewer:
    """Somebody who asks.

    Parameters
    ----------
    name
        Of the person, or the label of the key.
    sees
        Proposals whose runs they see.
    annotates
        Proposals of which they may annotate a run while these are measured.
    host
        Whether they see how the beamline's services and disks are.
    """

    name: str
    sees: Proposals
    annotates: Proposals = frozenset()
    host: bool = False

    @property
    def sees_everything(self) -> bool:
        """Whether nothing is hidden."""
        return self.sees == EVERYTHING

    def may_see(self, proposal: object) -> bool:
        """Return whether runs of a proposal are seen; None: they have none."""
        return self.sees == EVERYTHING or proposal in self.sees


SERVER = Viewer("the catalog", EVERYTHING, EVERYTHING, host=True)
"""The server itself, and whoever has its own key."""

NOBODY = Viewer("", frozenset())

_viewer: ContextVar[Viewer | None] = ContextVar("_viewer", default=None)
_otherwise = SERVER


def hide_from_nobody() -> None:
    """Let whatever asks without having been let in see nothing, from now on in this process."""
    global _otherwise
    _otherwise = NOBODY


def viewer() -> Viewer:
    """Return who asks."""
    found = _viewer.get()
    return _otherwise if found is None else found


@contextmanager
def seen_by(who: Viewer) -> Iterator[None]:
    """Let somebody be the one who asks, within a ``with``."""
    token = _viewer.set(who)
    try:
        yield
    finally:
        _viewer.reset(token)


def seen_runs(who: Viewer | None = None) -> ColumnElement[bool]:
    """Return the condition that a row of `RUNS` is seen by who asks."""
    return _is_seen(RUNS, who or viewer())


def seen_volumes(who: Viewer | None = None) -> ColumnElement[bool]:
    """Return the condition that a row of `VOLUMES` is seen by who asks."""
    return _are_seen(VOLUMES.c.node_id, who or viewer())


def seen_nodes(node: Any, closure: Any, containers: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition that a node of Tiled's is seen, wherever below the root it is.

    Parameters
    ----------
    node
        Tiled's nodes.
    closure
        Which node is below which, itself included.
    containers
        The condition that a node is the container of the runs, or of the volumes.
    """
    who = viewer()
    if who.sees_everything:
        return true()
    if not who.sees:
        return containers
    runs, volumes = RUNS.alias("runs_above"), VOLUMES.alias("volumes_above")
    above_run, above_volume = closure.alias("above_run"), closure.alias("above_volume")
    in_run = (
        exists()
        .select_from(above_run.join(runs, runs.c.node_id == above_run.c.ancestor))
        .where(above_run.c.descendant == node.id, _is_seen(runs, who))
        .correlate(node.__table__)
    )
    in_volume = (
        exists()
        .select_from(above_volume.join(volumes, volumes.c.node_id == above_volume.c.ancestor))
        .where(above_volume.c.descendant == node.id, _are_seen(volumes.c.node_id, who))
        .correlate(node.__table__)
    )
    return or_(containers, in_run, in_volume)


def _is_seen(runs: Any, who: Viewer) -> ColumnElement[bool]:
    if who.sees == EVERYTHING:
        return true()
    return runs.c.proposal.in_(sorted(who.sees)) if who.sees else false()


def _are_seen(node_id: Any, who: Viewer) -> ColumnElement[bool]:
    """Return the condition that all runs of a volume are seen."""
    if who.sees == EVERYTHING:
        return true()
    if not who.sees:
        return false()
    some, each, runs = MEMBERS.alias("some_run"), MEMBERS.alias("each_run"), RUNS.alias("its_run")
    there = exists(select(1).select_from(some).where(some.c.node_id == node_id))
    seen = select(1).select_from(runs).where(runs.c.uid == each.c.run, _is_seen(runs, who))
    hidden = select(1).select_from(each).where(each.c.node_id == node_id, ~exists(seen))
    return and_(there, ~exists(hidden))
