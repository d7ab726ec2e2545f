"""Keep what the catalog says of volume files as the files are: they grow, are replaced and deleted.

The server looks at the files, not those who write them: a volume that was published once stays
right whoever writes it, also when it was written while the catalog was away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offbragg.catalog.containers import CONTAINER, DAMAGED, GROWING, MISSING, VOLUMES
from offbragg.catalog.readable import Readable
from offbragg.catalog.sent import OpenFile, Refusal, asset_of, lookup, state
from offbragg.catalog.volume_files import opened_volume
from offbragg.catalog.volumes import VolumeNode, describe_volume
from offbragg.errors import OffbraggError
from offbragg.printable import printable

if TYPE_CHECKING:
    from fastapi import FastAPI

EVERY = 1.0
"""Time between two looks, s."""

_AT_ONCE = 200  # files that are looked at each time, beside those that grow
_NEW = 20  # nodes that are looked up each time, after the server has started
_MOST_RUNS = 200  # whose series are looked up

Identity = tuple[int, ...]
_log = logging.getLogger(__name__)


def watch_volumes(app: FastAPI, tree: Any, readable: Readable) -> None:
    """Let the app watch the volumes of a catalog as long as it runs."""
    lifespan = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def with_watch(app: FastAPI) -> AsyncIterator[Any]:
        async with lifespan(app) as lifespan_state:
            watching = asyncio.create_task(VolumeWatch(tree, readable).run())
            try:
                yield lifespan_state
            finally:
                watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watching

    app.router.lifespan_context = with_watch


class VolumeWatch:
    """Compares volume files with their nodes, and brings the nodes up to date.

    Parameters
    ----------
    tree
        The root of Tiled's catalog.
    readable
        Where files may be read.
    """

    def __init__(self, tree: Any, readable: Readable) -> None:
        self._tree, self._readable = tree, readable
        self._known: dict[str, _Watched] = {}
        self._next = 0

    async def run(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self.look()
            except Exception:
                _log.exception("volumes of the catalog could not be compared with their files")

    async def look(self) -> None:
        """Compare once."""
        container = await lookup(self._tree, [VOLUMES])
        keys: list[str] = await container.keys_range(0, None)
        for key in self._known.keys() - set(keys):
            del self._known[key]
        # the newest first: those that grow, however many there are
        for key in [key for key in keys if key not in self._known][-_NEW:]:
            if (path := await asset_of(self._tree, [VOLUMES, key, "intensity"])) is not None:
                metadata = await self._metadata(key)
                self._known[key] = _Watched(path, metadata)
        which = self._which()
        seen = await asyncio.to_thread(lambda: {key: _identity(w.path) for key, w in which.items()})
        for key, identity in seen.items():
            if which[key].differs(identity):
                try:
                    await self._follow(key, which[key], identity)
                except Exception:  # of this one; the others do not wait for it
                    _log.exception("what the catalog says of volume %s is not up to date", key)

    def _which(self) -> dict[str, _Watched]:
        """Return those that grow, and some of the others in turn."""
        growing = {key: each for key, each in self._known.items() if each.state == GROWING}
        others = [key for key in self._known if key not in growing]
        begin = self._next if self._next < len(others) else 0
        self._next = begin + _AT_ONCE
        return growing | {key: self._known[key] for key in others[begin : self._next]}

    async def _metadata(self, key: str) -> dict[str, Any]:
        node = await lookup(self._tree, [VOLUMES, key])
        return {} if node is None else dict(node.metadata())

    async def _follow(self, key: str, watched: _Watched, identity: Identity | None) -> None:
        """Bring one node up to date."""
        node = await lookup(self._tree, [VOLUMES, key])
        if node is None:
            return  # it is deleted, or being made
        before = dict(node.metadata())
        if "grid" not in before:
            return  # it is being made
        described: VolumeNode | None = None
        found = MISSING
        if identity is not None:
            try:
                described = await asyncio.to_thread(self._describe, watched.path)
                described.metadata["series"] = await self._series(described.metadata["runs"])
                found = described.metadata["state"]
            except Refusal:
                return  # it was deleted or replaced a moment ago
            except OffbraggError as error:
                _log.warning("%s", printable(str(error).partition("\n")[0]))
                found = DAMAGED
        if described is None:
            metadata: Mapping[str, Any] = {**before, "state": found}
        else:
            metadata = described.metadata
            if not described.holds_the_same(before):
                await self._replace_arrays(described)
        if metadata != before:
            await node.replace_metadata(metadata=dict(metadata), drop_revision=True)
        watched.compared(identity, found)

    def _describe(self, path: Path) -> VolumeNode:
        with OpenFile.below(self._readable, path) as file:
            try:
                with opened_volume(file) as volume:
                    return describe_volume(volume, written=os.fstat(file.descriptor).st_mtime)
            except OffbraggError as error:
                if file.is_replaced:
                    raise Refusal(409, str(error)) from error
                raise

    async def _series(self, runs: list[str]) -> Any:
        """Return the series of runs, if all are of one, as the catalog has them."""
        found: list[Any] = []
        for uid in runs[:_MOST_RUNS]:
            run = await lookup(self._tree, [CONTAINER, uid])
            start = {} if run is None else dict(run.metadata()).get("start") or {}
            found.append(start.get("series"))
        uids = {each.get("uid") if isinstance(each, Mapping) else None for each in found}
        return dict(found[0]) if len(uids) == 1 and None not in uids else None

    async def _replace_arrays(self, described: VolumeNode) -> None:
        """Let the arrays be those of another grid, in place: nobody finds a node without them."""
        from tiled.server.schemas import PostMetadataRequest

        for below, body in described.children:
            asked = PostMetadataRequest.model_validate(body)
            inside = [VOLUMES, described.key, *below.split("/")[1:]]
            array = await lookup(self._tree, [*inside, body["id"]])
            if array is None:
                parent = await lookup(self._tree, inside)
                await parent.create_node(
                    structure_family=asked.structure_family, metadata=asked.metadata,
                    key=asked.id, specs=asked.specs, data_sources=asked.data_sources,
                )  # fmt: skip
            elif asked.data_sources:
                (there,) = await array.data_sources()
                asked.data_sources[0].id = there.id
                await array.put_data_source(asked.data_sources[0], patch=None)
        levels = await lookup(self._tree, [VOLUMES, described.key, "levels"])
        for level in await levels.keys_range(0, None):
            if int(level) not in described.metadata["levels"]:
                await (await levels.lookup_adapter([level])).delete()


class _Watched:
    """A file as it was when it was last compared with its node."""

    def __init__(self, path: Path, metadata: Mapping[str, Any]) -> None:
        self.path, self.state = path, metadata.get("state")
        self._written = metadata.get("written")
        self._compared = False
        self._identity: Identity | None = None

    def differs(self, identity: Identity | None) -> bool:
        """Return whether the file is another one now."""
        if self._compared:
            return identity != self._identity
        # the server was started: of the file as it was only the time is known
        same = identity is not None and identity[3] / 1e9 == self._written
        if same and self.state not in (MISSING, DAMAGED):
            self.compared(identity, self.state)
            return False
        return True

    def compared(self, identity: Identity | None, state: object) -> None:
        """Take note that the node is that of the file as it is."""
        self._identity, self.state, self._compared = identity, state, True


def _identity(path: Path) -> Identity | None:
    """Return what tells a file from another one; None if it is not there."""
    try:
        return state(path)[2]
    except (OSError, ValueError):
        return None
