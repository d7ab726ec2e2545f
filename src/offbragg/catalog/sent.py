"""What answers from files share: the open file, its tag, and how they are refused."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiled.utils import BrokenLink, path_from_uri

from offbragg.catalog.authentication import Send
from offbragg.catalog.readable import Readable, shown
from offbragg.errors import CatalogError


class Refusal(Exception):  # noqa: N818  an answer, not an error
    """An answer with another status than 200."""

    def __init__(self, status: int, why: str, **headers: str) -> None:
        super().__init__(why)
        self.status = status
        self.headers = headers


@dataclass(frozen=True, slots=True)
class OpenFile:
    """An open file, and its state when it was opened."""

    path: Path
    descriptor: int
    size: int
    modified: int
    identity: tuple[int, ...]

    @classmethod
    @contextlib.contextmanager
    def below(cls, readable: Readable, path: Path) -> Iterator[OpenFile]:
        """Open a file below the roots, within a ``with``."""
        try:
            descriptor = readable.open(path)
        except FileNotFoundError:
            raise Refusal(410, f"{path.name} does not exist any more.") from None
        try:
            yield cls(path, descriptor, *state(descriptor))
        finally:
            os.close(descriptor)

    @property
    def etag(self) -> str:
        """A tag that changes whenever the file does."""
        text = ":".join(map(str, self.identity))
        return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'

    @property
    def is_replaced(self) -> bool:
        """Whether its name leads to another file by now, or to none; HDF5 does not open it then."""
        return os.fstat(self.descriptor).st_nlink == 0

    def check_unchanged(self) -> None:
        """Raise if the file was changed since it was opened; its name may lead to another one."""
        identity = state(self.descriptor)[2]
        if self.is_replaced:  # its last time is that of the deletion
            identity = (*identity[:-1], self.identity[-1])
        if identity != self.identity:
            raise CatalogError(f"{shown(self.path.name)} was changed while it was sent")


def state(file: int | Path) -> tuple[int, int, tuple[int, ...]]:
    """Return the size in bytes, the time of the last change, POSIX s, and the identity."""
    stat = os.stat(file)  # noqa: PTH116  a descriptor, too
    identity = stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
    return stat.st_size, int(stat.st_mtime), identity


async def lookup(tree: Any, segments: Sequence[str]) -> Any:
    """Return a node of the catalog; None: there is none."""
    from tiled.server.core import NoEntry

    try:
        return await tree.lookup_adapter(list(segments))
    except (NoEntry, BrokenLink, KeyError, TypeError, AttributeError):
        return None


async def asset_of(tree: Any, segments: Sequence[str], number: int | None = None) -> Path | None:
    """Return the path of an asset of a node; of the first one if number is None."""
    node = await lookup(tree, segments)
    if not hasattr(node, "data_sources"):
        return None
    for source in await node.data_sources(include_assets=True) or ():
        for asset in source.assets:
            if number in (None, asset.id) and asset.data_uri.startswith("file:"):
                return path_from_uri(asset.data_uri)
    return None


def matches(tags: str, etag: str) -> bool:
    """Return whether one of the tags of a header is this one."""
    return tags.strip() == "*" or etag in (tag.strip() for tag in tags.split(","))


async def begin(send: Send, status: int, headers: Mapping[str, str]) -> None:
    """Begin an answer."""
    coded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": coded})
