"""Choose and wrap the adapters of the catalog's server, so that they read below its roots only.

Tiled compares the path of an asset with the roots as text: it follows neither a symbolic link nor
what an HDF5 file refers to. So each asset is checked here before its adapter is made: its real
path, and for HDF5 the object in it. That is for a clear answer; `readable` and `inside`, which open
the files, check again what they have opened.
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
from urllib.parse import urlparse

import numpy as np
from fastapi import HTTPException
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.hdf5 import SWMR_DEFAULT
from tiled.catalog.adapter import CatalogNodeAdapter
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import DataSource
from tiled.utils import BrokenLink, path_from_uri

from offbragg.catalog.adapters import FramesAdapter
from offbragg.catalog.checked import CheckedHDF5Adapter
from offbragg.catalog.containers import VOLUME_ARRAY
from offbragg.catalog.images import IMAGES, ImageSequenceAdapter, OneImageAdapter
from offbragg.catalog.inside import check_pieces, check_readable, open_readable
from offbragg.catalog.opened_runs import NodeRuns, of_another, run_of_file
from offbragg.catalog.read_limits import ANSWER, CountedAdapter, is_countable
from offbragg.catalog.readable import Readable, check_size, shown
from offbragg.catalog.volume_arrays import VolumeArrayAdapter
from offbragg.errors import CatalogError
from offbragg.private_parts import PrivatePart, examine

HDF5 = frozenset({"application/x-hdf5", "application/x-offbragg-frames"})
_TABLES = "application/x-tiled-sql-table"  # in a database, which must be the catalog's own
OWN = frozenset({"application/x-zarr", "application/x-parquet", _TABLES})
"""Stored by Tiled itself, in many files each: these are read from its own storage only."""
_NOT_HERE = (
    "The rows of this stream are in tables.duckdb, which only the process that writes can open. "
    "Ask that one, or move the run to PostgreSQL: offbragg rebuild UID."
)
_IN_PIECES = frozenset({"application/x-hdf5", "application/x-zarr"})
_SEQUENCES = {f"multipart/related;type={kind}" for kind in IMAGES}
SERVED = HDF5 | OWN | {VOLUME_ARRAY} | IMAGES.keys() | _SEQUENCES


class ConfinedAdapter:
    """Wraps the class of an adapter, and checks every file before an adapter of it is made.

    Parameters
    ----------
    adapter
        Class of the adapter.
    mimetype
        Type of the files that it reads.
    readable
        Where these may lie.
    runs
        Finds the run of a node, whose scan file must be of it.
    """

    def __init__(
        self, adapter: Any, mimetype: str, readable: Readable, runs: NodeRuns | None = None
    ) -> None:
        self._adapter = adapter
        self._runs = runs
        self._mimetype = mimetype
        self._readable = readable

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def from_catalog(self, data_source: DataSource[Any], node: Any, /, **parameters: Any) -> Any:
        """Make the adapter of a node, if all of its assets may be read.

        Raises
        ------
        CatalogError
            If one of them must not be read: its name, and the reason.
        """
        kept = _Kept()
        uris = [asset.data_uri for asset in data_source.assets]
        uris += [uri for uri in parameters.get("data_uris") or () if uri is not None]
        for uri in dict.fromkeys(uris):
            if urlparse(uri).scheme == "file":  # as Tiled reads it: FILE: is a file, too
                self._check(path_from_uri(uri), node, parameters, kept)
            elif self._mimetype != _TABLES:
                raise CatalogError(f"{shown(uri)} is not read: it is not a file")
        try:
            adapter = self._adapter.from_catalog(data_source, node, **parameters)
        except KeyError as error:  # a storage that this process does not have
            if self._mimetype != _TABLES:
                raise
            raise HTTPException(503, _NOT_HERE) from error
        except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
            if self._mimetype in OWN:
                raise
            what = shown(str(error).partition("\n")[0][:200])
            raise CatalogError(
                f"{shown(uris[0] if uris else 'a file')} is not read: it does not hold what the "
                f"catalog says of it ({what})"
            ) from error
        if adapter.structure_family == StructureFamily.table and not is_countable(adapter):
            raise CatalogError(f"{type(adapter).__name__} is not read: its size cannot be known")
        if self._mimetype in _IN_PIECES and adapter.structure_family == StructureFamily.array:
            check_pieces(_array_of(adapter), uris[0] if uris else "an array")
        return CountedAdapter(adapter, kept=kept)

    def _check(self, path: Path, node: Any, parameters: Mapping[str, Any], kept: _Kept) -> None:
        real = self._readable.real(path)
        if self._mimetype in HDF5:
            dataset = parameters.get("dataset", "/")
            names = [dataset] if isinstance(dataset, str) else ["/".join(dataset)]
            # HDF5 opens a file that this process has open only in the same way
            ours = self._mimetype != "application/x-hdf5"
            locking = False if ours else parameters.get("locking")
            swmr = ours or parameters.get("swmr", SWMR_DEFAULT)
            with contextlib.suppress(BrokenLink):
                # while it is open no reader waits for a page that a killed writer left half written
                how = {"swmr": swmr, "locking": locking, "libver": "latest"}
                file = open_readable(self._readable, path, kept.files, **how)
                self._check_run(path, file, node)
                check_readable(self._readable, path, names=names, swmr=swmr, locking=locking)
        elif self._mimetype != VOLUME_ARRAY and real.is_file():  # of a volume, only parts are read
            check_size(path, real.stat().st_size, ANSWER)

    def _check_run(self, path: Path, file: Any, node: Any) -> None:
        held = None if self._runs is None else run_of_file(file)
        if self._runs is not None and held is not None and held != (self._runs.of(node) or held):
            raise HTTPException(410, of_another(path.name))


def _array_of(adapter: object) -> Any:
    """Return the array that an adapter of Tiled reads; without it the chunks are not known."""
    if not hasattr(adapter, "_array"):
        raise CatalogError(f"{type(adapter).__name__} is not read: its chunks cannot be checked")
    return adapter._array  # pyright: ignore[reportAttributeAccessIssue]


class _Kept:
    """Keeps files open as long as there is something to read."""

    def __init__(self) -> None:
        self.files = contextlib.ExitStack()
        weakref.finalize(self, self.files.close)


def confine_adapters(context: Any, readable: Readable, own: Readable) -> None:
    """Replace the adapters of a catalog by confined ones.

    Parameters
    ----------
    context
        Context of Tiled's catalog.
    readable, own
        As in `confined_adapters`.

    Raises
    ------
    CatalogError
        If this version of Tiled takes its adapters from elsewhere: then nothing is served.
    """
    part = self_test()
    if not part.active or not hasattr(context, "adapters_by_mimetype"):
        raise CatalogError(
            f"the catalog is not served: its adapters could read outside its roots\n{part}"
        )
    context.adapters_by_mimetype = confined_adapters(
        context.adapters_by_mimetype, readable, own, NodeRuns(context)
    )


def self_test() -> PrivatePart:
    """Return whether Tiled takes every adapter from the table that we replace."""
    return examine("tiled", "adapters that read below the roots only", _make_one, guards=True)


def _make_one() -> None:
    """Let Tiled's catalog make an adapter from a table with only one."""
    made: list[Any] = []

    class ProbeAdapter:
        @staticmethod
        def from_catalog(*_: object, **__: object) -> ProbeAdapter:
            made.append(ProbeAdapter())
            return made[-1]

    class ProbeNode:
        node, queries = None, ()
        context = SimpleNamespace(adapters_by_mimetype={"application/x-hdf5": ProbeAdapter})
        source = SimpleNamespace(mimetype="application/x-hdf5", assets=[], parameters={})

        async def data_sources(self, **_: object) -> list[Any]:
            return [self.source]

    node: Any = ProbeNode()
    found: Any = []
    # in a thread of its own: there may be an event loop in this one
    thread = threading.Thread(
        target=lambda: found.append(asyncio.run(CatalogNodeAdapter.get_adapter(node)))
    )
    thread.start()
    thread.join()
    if not found or found != made:
        raise ValueError("adapters are not taken from adapters_by_mimetype")
    _array_of(ArrayAdapter.from_array(np.zeros(1)))


def confined_adapters(
    adapters: Mapping[str, Any], readable: Readable, own: Readable, runs: NodeRuns | None = None
) -> dict[str, Any]:
    """Return the adapters that a catalog is served with.

    Parameters
    ----------
    adapters
        Adapters of Tiled, by mimetype.
    readable
        Where files may be read.
    own
        The catalog's own storage, to which only the server writes.
    runs
        Finds the run of a node.
    """
    made: dict[str, Any] = {}
    for mimetype in SERVED:
        kind = mimetype.rpartition("=")[2]
        if mimetype in OWN:
            made[mimetype] = ConfinedAdapter(adapters[mimetype], mimetype, own)
            continue
        if mimetype == "application/x-hdf5":
            adapter = CheckedHDF5Adapter
        elif mimetype in HDF5:
            adapter = FramesAdapter.of(readable)
        elif mimetype == VOLUME_ARRAY:
            adapter = VolumeArrayAdapter.of(readable, runs)
        elif kind != mimetype:
            adapter = ImageSequenceAdapter.of(IMAGES[kind], readable)
        else:
            adapter = OneImageAdapter.of(IMAGES[kind], readable)
        made[mimetype] = ConfinedAdapter(adapter, mimetype, readable, runs)
    return made
