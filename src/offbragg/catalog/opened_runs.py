"""Whose an opened file is: a path in the catalog may lead to a file of other runs by now.

A scan is numbered again once its file is archived away, and volumes are written again under their
names. So who may see a node is asked of the catalog, and what was opened is compared with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import anyio.from_thread
import h5py
from fastapi import HTTPException
from sqlalchemy import func, select
from tiled.catalog.orm import NodesClosure

from offbragg.catalog.containers import VOLUMES
from offbragg.catalog.readable import shown
from offbragg.catalog.searched import RUNS
from offbragg.catalog.sent import OpenFile, Refusal, state
from offbragg.catalog.viewers import seen_runs, viewer
from offbragg.catalog.volume_files import opened_volume
from offbragg.catalog.volumes import inputs_of
from offbragg.errors import ScanFileError
from offbragg.files.hdf5 import find_inside

NO_VOLUME = f"This volume does not exist. The container {VOLUMES} lists them."

_MOST_NODES = 10_000  # whose run is kept
_MOST_VOLUMES = 1000  # whose runs are kept
_runs_of_volumes: dict[tuple[int, ...], frozenset[str]] = {}


async def are_seen(tree: Any, runs: AbstractSet[str]) -> bool:
    """Return whether who asks sees all of these runs, of which there must be one."""
    if viewer().sees_everything:
        return True
    some = select(func.count()).select_from(RUNS).where(seen_runs(), RUNS.c.uid.in_(runs))
    async with tree.context.engine.connect() as connection:
        return bool(runs) and await connection.scalar(some) == len(runs)


def runs_of_volume(file: OpenFile) -> frozenset[str]:
    """Return the runs that the record of an open volume names.

    Raises
    ------
    CatalogError
        If it is not a volume.
    """
    if (known := _runs_of_volumes.get(file.identity)) is not None:
        return known
    with opened_volume(file) as volume:
        runs = frozenset(str(each.get("run")) for each in inputs_of(volume.record))
    while len(_runs_of_volumes) >= _MOST_VOLUMES:
        _runs_of_volumes.clear()
    _runs_of_volumes[file.identity] = runs
    return runs


async def check_volume_seen(tree: Any, file: OpenFile) -> None:
    """Refuse an open volume of which who asks does not see every run, as one that is not there."""
    if viewer().sees_everything:
        return
    if not await are_seen(tree, await asyncio.to_thread(runs_of_volume, file)):
        raise Refusal(404, NO_VOLUME)


def of_another(name: str) -> str:
    """Return why a scan file is not read; whose it is now is nobody else's concern."""
    return f"{shown(name)} is the scan file of another run now: this one's is not there any more."


def run_of_file(file: h5py.File) -> str | None:
    """Return the run of an open scan file; None if it is not one."""
    try:
        found = find_inside(file, "/entry/entry_identifier")
        run = found[()] if found.shape == () else None
    except (KeyError, OSError, AttributeError, ScanFileError):
        return None
    return run.decode("utf-8", "replace") if isinstance(run, bytes) else None


class NodeRuns:
    """The runs to which nodes belong, for threads of requests.

    Parameters
    ----------
    context
        Context of Tiled's catalog.
    """

    def __init__(self, context: Any) -> None:
        self.context = context
        self._known: dict[int, str | None] = {}

    def of(self, node: Any) -> str | None:
        """Return the run of a node; None if it is not below one."""
        if node.id not in self._known:
            if len(self._known) >= _MOST_NODES:
                self._known.clear()
            self._known[node.id] = anyio.from_thread.run(self._find, node.id)
        return self._known[node.id]

    def check_volume_seen(self, path: Path, descriptor: int) -> None:
        """Refuse an open volume of which who asks does not see every run, in a thread."""
        file = OpenFile(path, descriptor, *state(descriptor))
        try:
            anyio.from_thread.run(check_volume_seen, self, file)
        except Refusal as refusal:
            raise HTTPException(refusal.status, str(refusal)) from None

    async def _find(self, node: int) -> str | None:
        closure = NodesClosure.__table__
        above = closure.join(RUNS, RUNS.c.node_id == closure.c.ancestor)
        asked = select(RUNS.c.uid).select_from(above).where(closure.c.descendant == node)
        async with self.context.engine.connect() as connection:
            return await connection.scalar(asked)
