"""How the server reads HDF5: frames are compared with their checksums as they are read.

Every file is opened through Tiled's ``h5open``, which `inside` has replaced by its own.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask.array
import h5py
import numpy as np
from numpy.typing import NDArray
from tiled.adapters import hdf5 as tiled_hdf5
from tiled.adapters.hdf5 import SWMR_DEFAULT, HDF5Adapter, HDF5ArrayAdapter
from tiled.structures.array import ArrayStructure
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import Asset, DataSource, Management

from offbragg.catalog.readable import shown
from offbragg.errors import CatalogError, ScanFileError
from offbragg.files import scan_layout
from offbragg.files.adopted import OpenFile
from offbragg.files.filters import check_part
from offbragg.files.hdf5 import find_inside
from offbragg.files.root import path_behind
from offbragg.files.scan_file import ScanFile
from offbragg.private_parts import PrivatePart, examine

_allowed: OpenFile | None = None
"""Opens files that hold adopted frames; see `serve_adopted`."""


def serve_adopted(allowed: OpenFile) -> None:
    """Let this process read adopted frames in the files that a function opens."""
    global _allowed  # as Tiled makes adapters by their class alone
    _allowed = allowed


def _opened(path: Path, dataset: str | None, how: Mapping[str, Any]) -> Any:
    """Open a file as Tiled does, and return a dataset or group of it, within a ``with``."""
    return tiled_hdf5.h5open(path, dataset, **how)


class _CheckedDataset:
    """A dataset of an HDF5 file that is opened, and checked, whenever a part of it is read.

    Frames of a scan file are compared with their checksums, wherever in the file they are linked
    and whichever file links to them. For anything else the filters are checked.
    """

    def __init__(self, path: Path, dataset: str | None, how: Mapping[str, Any]) -> None:
        self._path, self._dataset, self._how = path, dataset, dict(how)
        self._scan_file: Path | None = None
        with _opened(path, dataset, self._how) as found:
            self.shape, self.dtype = found.shape, found.dtype
            self.chunks = found.chunks or found.shape
            if _are_frames(found):  # perhaps in the file that a link leads to
                self._scan_file = path_behind(found.file.id.get_vfd_handle())

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        if self._scan_file is not None:
            with self._scan(self._scan_file) as scan:
                return scan.stack.counts[key]
        with _opened(self._path, self._dataset, self._how) as found:
            check_part(found, key)
            return found[key]

    @contextlib.contextmanager
    def _scan(self, path: Path) -> Iterator[ScanFile]:
        # not a dataset: while HDF5 has two handles of one, neither sees new frames
        with _opened(path, None, self._how) as root:
            if self._how["swmr"]:
                descriptor = root.file.id.get_vfd_handle()
                with ScanFile.open(path, descriptor=descriptor, allowed=_allowed) as scan:
                    yield scan
            else:  # a file that this process has open is opened by HDF5 only in the same way
                yield ScanFile(root.file, path, alone=_allowed is None, allowed=_allowed)


def _are_frames(found: h5py.Dataset) -> bool:
    try:
        if find_inside(found.file, scan_layout.DATA) != found:
            return False
    except (KeyError, OSError, ScanFileError):  # what is found can be opened
        return False
    try:
        find_inside(found.file, f"{scan_layout.FRAMES}/status")
    except (KeyError, ScanFileError):
        return False
    return True


class CheckedArrayAdapter(HDF5ArrayAdapter):
    """An array in HDF5 files, checked as it is read."""

    @staticmethod
    def lazy_load_hdf5_array(
        *file_paths: str | Path,
        dataset: str | None = None,
        swmr: bool = SWMR_DEFAULT,
        libver: str = "latest",
        locking: bool | str | None = None,
    ) -> dask.array.Array:
        """Return a lazy array, read chunk by chunk from one file or several."""
        how = {"swmr": swmr, "libver": libver, "locking": locking}
        parts = [_CheckedDataset(Path(path), dataset, how) for path in file_paths]
        if any(not part.shape or 0 in part.shape or part.dtype.kind == "O" for part in parts):
            for path in file_paths:
                with _opened(Path(path), dataset, how) as found:
                    check_part(found)
            return HDF5ArrayAdapter.lazy_load_hdf5_array(*file_paths, dataset=dataset, **how)
        arrays = [
            # without a name dask makes a unique one: the file may have grown since the last request
            dask.array.from_array(part, chunks=part.chunks, name=False, fancy=False)
            for part in parts
        ]
        return arrays[0] if len(arrays) == 1 else dask.array.concatenate(arrays)


class CheckedHDF5Adapter(HDF5Adapter):
    """An HDF5 file, a group or an array of one, checked as it is read."""

    @classmethod
    def from_catalog(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, data_source: DataSource[Any], node: Any, /, **parameters: Any
    ) -> Any:
        """Make the adapter of a catalog node."""
        if data_source.structure_family != StructureFamily.array:
            return super().from_catalog(data_source, node, **parameters)
        dataset = parameters.pop("dataset", "/")
        name = dataset if isinstance(dataset, str) else "/".join(dataset)
        return CheckedArrayAdapter.from_catalog(data_source, node, dataset=name, **parameters)

    def metadata(self) -> Any:
        """Return the metadata, with the attributes of the file."""
        with _refusing_unreadable(self.uris[0]):
            return super().metadata()

    def __getitem__(self, key: str) -> Any:
        with _refusing_unreadable(self.uris[0]):
            return self._child(key)

    def _child(self, key: str) -> Any:
        found = super().__getitem__(key)
        name = f"{self.dataset or ''}/{key.strip('/')}"
        how: Any = self._kwargs
        if isinstance(found, HDF5ArrayAdapter):
            return CheckedArrayAdapter.from_uris(*self.uris, dataset=name, **how)
        return type(self)(
            found._tree, *found.uris, dataset=found.dataset, metadata=self._metadata,
            specs=self.specs, **how,
        )  # fmt: skip


def self_test() -> PrivatePart:
    """Return whether Tiled loads arrays of HDF5 files through our checks."""
    return examine("tiled", "frames compared with their checksums", _load_one, guards=True)


def _load_one() -> None:
    """Make adapters in each of the ways in which the server does, and check how they load."""
    loaded: list[Any] = []

    class ProbeAdapter(CheckedArrayAdapter):
        @staticmethod
        def lazy_load_hdf5_array(*file_paths: object, **how: object) -> dask.array.Array:
            loaded.append(how.get("dataset"))
            return dask.array.zeros(3, chunks=3, dtype="i4")

    with tempfile.TemporaryDirectory(prefix="offbragg-") as folder:
        path = Path(folder) / "probe.h5"
        with h5py.File(path, "w") as file:
            file["data"] = file["group/data"] = np.zeros(3, "i4")
        source: Any = DataSource(
            structure_family=StructureFamily.array,
            structure=ArrayStructure.from_array(np.zeros(3, "i4")),
            mimetype="application/x-hdf5",
            parameters={},
            management=Management.external,
            assets=[
                Asset(data_uri=path.as_uri(), is_directory=False, parameter="data_uris", num=0)
            ],
        )
        node: Any = SimpleNamespace(metadata_={}, specs=[])
        ProbeAdapter.from_catalog(source, node, dataset="/data")
        ProbeAdapter.from_uris(path.as_uri(), dataset="/data")
        group: Any = CheckedHDF5Adapter.from_uris(path.as_uri())
        if not isinstance(group["group"]["data"], CheckedArrayAdapter):
            raise ValueError("arrays of groups are opened in another way")
    if loaded != ["/data", "/data"]:
        raise ValueError("arrays are loaded without lazy_load_hdf5_array")


@contextlib.contextmanager
def _refusing_unreadable(uri: str) -> Iterator[None]:
    """Refuse by name what Tiled cannot read: attributes that are not text, unknown types."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        what = shown(str(error).partition("\n")[0][:200])
        raise CatalogError(
            f"{shown(uri)} is not read: it holds what cannot be sent ({what})"
        ) from error
