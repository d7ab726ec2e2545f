"""Find the scan file of a run in the catalog."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offbragg.catalog.containers import CONTAINER
from offbragg.catalog.sent import Refusal, asset_of, lookup
from offbragg.catalog.viewers import Viewer, viewer

_PRIMARY, _ROWS = "primary", "internal"
_HOLDS, _MOST = 1.0, 10_000  # s; to ask the database takes longer than to read a frame

FindRun = Callable[[str], Awaitable[Mapping[str, Any]]]
"""Finds a run by what people call it; its ``uid`` is that of its node."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """Where a run is stored."""

    uid: str
    path: Path | None
    """None: it has no scan file yet, or never has one."""
    start: Mapping[str, Any]
    """Its start document, if it has no scan file."""


class RunFiles:
    """The scan files of runs; where one is, is looked up once a second.

    Parameters
    ----------
    tree
        The root of Tiled's catalog.
    find_run
        Finds the uid.
    """

    def __init__(self, tree: Any, find_run: FindRun) -> None:
        self._tree = tree
        self._find_run = find_run
        self._known: dict[tuple[Viewer, str], tuple[RunFile, float]] = {}

    async def find(self, name: str) -> RunFile:
        """Return where a run is stored.

        Parameters
        ----------
        name
            Its uid, the beginning of it, or its scan id.

        Raises
        ------
        Refusal
            404 if there is no such run.
        """
        now = time.monotonic()
        who = viewer()  # the same number is another run for somebody else
        known, until = self._known.get((who, name), (None, 0.0))
        if known is not None and now < until:
            return known
        uid = str((await self._find_run(name))["uid"])
        path = await asset_of(self._tree, [CONTAINER, uid, _PRIMARY, _ROWS])
        found = RunFile(uid, path, {} if path is not None else await self._start(uid))
        if path is not None:  # else it may come at any moment
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[who, name] = found, now + _HOLDS
        return found

    async def _start(self, uid: str) -> Mapping[str, Any]:
        node = await lookup(self._tree, [CONTAINER, uid])
        if node is None:
            raise Refusal(404, "This run does not exist. The address is /runs/UID with a uid.")
        return node.metadata().get("start") or {}
