"""What the catalog's server may read: files below its roots, whatever they or their links say.

Tiled compares an asset's path with the roots as text: it does not see a symbolic link, nor what an
HDF5 file refers to. So each asset is looked at here before its adapter is made: its real path, and
for HDF5 what is asked of it. That is for a clear answer. What is read is opened by `readable` and
`inside`, which look again at what was opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tiled.adapters.hdf5 import SWMR_DEFAULT
from tiled.catalog.adapter import CatalogNodeAdapter
from tiled.structures.core import StructureFamily
from tiled.utils import BrokenLink, path_from_uri

from offbragg.catalog.adapters import FramesAdapter
from offbragg.catalog.checked import CheckedHDF5Adapter
from offbragg.catalog.images import IMAGES, ImageSequenceAdapter, OneImageAdapter
from offbragg.catalog.inside import check_pieces, check_readable, open_readable
from offbragg.catalog.read_limits import ANSWER, CountedAdapter
from offbragg.catalog.readable import Readable, check_size, shown
from offbragg.errors import CatalogError
from offbragg.private_parts import PrivatePart, examine

HDF5 = frozenset({"application/x-hdf5", "application/x-offbragg-frames"})
OWN = frozenset({"application/x-zarr", "application/x-parquet", "application/x-tiled-sql-table"})
"""What Tiled keeps itself, of many files each: these are read from its own storage only."""
_IN_PIECES = frozenset({"application/x-hdf5", "application/x-zarr"})
SERVED = HDF5 | OWN | IMAGES.keys() | {f"multipart/related;type={kind}" for kind in IMAGES}


class GuardedAdapter:
    """Stands before an adapter of Tiled, and looks at what it is about to read.

    Parameters
    ----------
    adapter
        The adapter's class.
    mimetype
        Of what it reads.
    readable
        Where that may lie.
    """

    def __init__(self, adapter: Any, mimetype: str, readable: Readable) -> None:
        self._adapter = adapter
        self._mimetype = mimetype
        self._readable = readable

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def from_catalog(self, data_source: Any, node: Any, /, **parameters: Any) -> Any:
        """Make the adapter of a node whose assets may be read.

        Raises
        ------
        CatalogError
            If one of them may not: its name, and why.
        """
        kept = _Kept()
        uris = [asset.data_uri for asset in data_source.assets]
        uris += [uri for uri in parameters.get("data_uris") or () if uri is not None]
        for uri in dict.fromkeys(uris):
            if uri.startswith("file:"):
                self._look_at(path_from_uri(uri), parameters, kept)
        try:
            adapter = self._adapter.from_catalog(data_source, node, **parameters)
        except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
            if self._mimetype in OWN:
                raise
            what = shown(str(error).partition("\n")[0][:200])
            raise CatalogError(
                f"{shown(uris[0] if uris else 'a file')} is not read: it does not hold what the "
                f"catalog has of it ({what})"
            ) from error
        if self._mimetype in _IN_PIECES and adapter.structure_family == StructureFamily.array:
            check_pieces(_array_of(adapter), uris[0] if uris else "an array")
        return CountedAdapter(adapter, kept=kept)

    def _look_at(self, path: Path, parameters: Mapping[str, Any], kept: _Kept) -> None:
        real = self._readable.real(path)
        if self._mimetype in HDF5:
            dataset = parameters.get("dataset", "/")
            names = [dataset] if isinstance(dataset, str) else ["/".join(dataset)]
            # HDF5 opens a file that it has open only in the same way
            ours = self._mimetype != "application/x-hdf5"
            locking = False if ours else parameters.get("locking")
            swmr = ours or parameters.get("swmr", SWMR_DEFAULT)
            with contextlib.suppress(BrokenLink):
                # as long as it is open nobody waits for what a kill tore
                how = {"swmr": swmr, "locking": locking, "libver": "latest"}
                open_readable(self._readable, path, kept.files, **how)
                check_readable(self._readable, path, names=names, swmr=swmr, locking=locking)
        elif real.is_file():
            check_size(path, real.stat().st_size, ANSWER)


def _array_of(adapter: Any) -> Any:
    """Return the array that an adapter of Tiled reads; what has none cannot be bounded."""
    if not hasattr(adapter, "_array"):
        raise CatalogError(f"{type(adapter).__name__} is not read: its pieces cannot be looked at")
    return adapter._array


class _Kept:
    """Files that stay open as long as there is something to read."""

    def __init__(self) -> None:
        self.files = contextlib.ExitStack()
        weakref.finalize(self, self.files.close)


def put_before(context: Any, readable: Readable, own: Readable) -> None:
    """Put a guard before every adapter of a catalog.

    Parameters
    ----------
    context
        Of Tiled's catalog.
    readable, own
        As `guarded` has them.

    Raises
    ------
    CatalogError
        If this version of Tiled has its adapters elsewhere: then nothing is served.
    """
    part = self_test()
    if not part.active or not hasattr(context, "adapters_by_mimetype"):
        raise CatalogError(f"the catalog's files cannot be guarded\n{part}")
    context.adapters_by_mimetype = guarded(context.adapters_by_mimetype, readable, own)


def self_test() -> PrivatePart:
    """Return whether Tiled makes every adapter of the table in which ours are."""
    return examine("tiled", "a guard before every adapter", _make_one, guards=True)


def _make_one() -> None:
    """Let Tiled's catalog make an adapter, of a table in which there is only one."""
    made: list[Any] = []

    class Adapter:
        @staticmethod
        def from_catalog(*_: Any, **__: Any) -> Adapter:
            made.append(Adapter())
            return made[-1]

    class Node:
        node, queries = None, ()
        context = SimpleNamespace(adapters_by_mimetype={"application/x-hdf5": Adapter})
        source = SimpleNamespace(mimetype="application/x-hdf5", assets=[], parameters={})

        async def data_sources(self, **_: Any) -> list[Any]:
            return [self.source]

    node: Any = Node()
    found: Any = []
    # in a thread of its own: there may be a loop in this one
    asking = threading.Thread(
        target=lambda: found.append(asyncio.run(CatalogNodeAdapter.get_adapter(node)))
    )
    asking.start()
    asking.join()
    if not found or found != made:
        raise ValueError("it does not make an adapter of adapters_by_mimetype")


def guarded(adapters: Mapping[str, Any], readable: Readable, own: Readable) -> dict[str, Any]:
    """Return the adapters that a catalog is served with.

    Parameters
    ----------
    adapters
        Tiled's, by mimetype.
    readable
        Where files may be read.
    own
        The catalog's own storage, which nobody else writes to.
    """
    made: dict[str, Any] = {}
    for mimetype in SERVED:
        kind = mimetype.rpartition("=")[2]
        if mimetype in OWN:
            made[mimetype] = GuardedAdapter(adapters[mimetype], mimetype, own)
            continue
        if mimetype == "application/x-hdf5":
            adapter = CheckedHDF5Adapter
        elif mimetype in HDF5:
            adapter = FramesAdapter.of(readable)
        elif kind != mimetype:
            adapter = ImageSequenceAdapter.of(IMAGES[kind], readable)
        else:
            adapter = OneImageAdapter.of(IMAGES[kind], readable)
        made[mimetype] = GuardedAdapter(adapter, mimetype, readable)
    return made
