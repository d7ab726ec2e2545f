"""How Tiled's server reads the arrays of volume files: each answer is of one file.

A volume that grows is replaced by another file, again and again. So a file is opened once for each
answer, and what was opened is read. A shared lock keeps whoever makes it grow from writing over it
meanwhile. Its chunks are decoded by our kernels, in several threads.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import h5py
import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray
from tiled.adapters.core import Adapter
from tiled.ndslice import NDBlock, NDSlice
from tiled.structures.array import ArrayStructure
from tiled.structures.core import Spec, StructureFamily
from tiled.structures.data_source import DataSource
from tiled.type_aliases import JSON
from tiled.utils import BrokenLink, path_from_uri

from offbragg.catalog.inside import check_pieces
from offbragg.catalog.opened_runs import NodeRuns
from offbragg.catalog.readable import Readable, shown
from offbragg.errors import CatalogError, ScanFileError
from offbragg.files.cells import StoredArray
from offbragg.files.hdf5 import find_inside
from offbragg.files.lock import lock

_TRIES, _PAUSE = 100, 0.01  # s


class VolumeArrayAdapter(Adapter[ArrayStructure]):
    """An array of a volume file, opened at each request.

    Parameters
    ----------
    path
        The file.
    dataset
        Name of the array in it.
    structure
        What was registered: the file must still hold an array of this shape and type.
    """

    structure_family = StructureFamily.array
    readable: ClassVar[Readable]
    runs: ClassVar[NodeRuns | None] = None

    @classmethod
    def of(cls, readable: Readable, runs: NodeRuns | None = None) -> type[Self]:
        """Return an adapter class for files that lie where they may be read.

        With ``runs``, a file is read for those only who see all runs of its record.
        """
        bound = {"readable": readable, "runs": runs}
        return cast("type[Self]", type(cls.__name__, (cls,), bound))

    def __init__(
        self,
        path: Path,
        dataset: str,
        structure: ArrayStructure,
        *,
        metadata: JSON | None = None,
        specs: list[Spec] | None = None,
    ) -> None:
        super().__init__(structure, metadata=metadata, specs=specs)
        self._path = path
        self._dataset = dataset

    @classmethod
    def from_catalog(
        cls, data_source: DataSource[ArrayStructure], node: Any, /, *, dataset: str, **_: object
    ) -> Self:
        """Make the adapter of a catalog node; Tiled has checked that the file may be read."""
        path = path_from_uri(data_source.assets[0].data_uri)
        return cls(path, dataset, data_source.structure, metadata=node.metadata_, specs=node.specs)

    def read(self, slice: NDSlice = NDSlice(...)) -> NDArray[Any]:  # noqa: B008
        """Read a slice."""
        asked = NDSlice(slice).expand_for_shape(self._structure.shape)
        with self._opened() as array:
            return _read(array, self._structure, tuple(asked))

    def read_block(self, block: NDBlock, slice: NDSlice = NDSlice(...)) -> NDArray[Any]:  # noqa: B008
        """Read a block, or a slice of it."""
        found = self.read(block.slice_from_chunks(self._structure.chunks))
        return found[tuple(slice)] if slice else found

    @contextlib.contextmanager
    def _opened(self) -> Iterator[StoredArray]:
        descriptor = self._locked()
        # HDF5 opens a file by its name, and one that was replaced since then has none
        with os.fdopen(descriptor, "rb", buffering=0) as raw:
            if self.runs is not None:
                self.runs.check_volume_seen(self._path, descriptor)
            try:
                file = h5py.File(raw, "r")
            except (OSError, RuntimeError) as error:
                name = shown(self._path.name)
                raise CatalogError(f"{name} is not read: it is not an HDF5 file") from error
            with file:
                array = self._found(file)
                with _refusing_damaged():
                    yield StoredArray(array)

    def _locked(self) -> int:
        """Open the file with a shared lock; it is written for moments after it got its name."""
        for _ in range(_TRIES):
            try:
                descriptor = self.readable.open(self._path)
            except FileNotFoundError as error:
                raise BrokenLink(f"the volume file is missing: {self._path.name}") from error
            try:
                lock(descriptor, shared=True)
            except BlockingIOError:
                os.close(descriptor)
                time.sleep(_PAUSE)
            except OSError:  # there are no locks on this disk
                return descriptor
            else:
                return descriptor
        raise HTTPException(
            503, f"{shown(self._path.name)} is being written.", headers={"retry-after": "1"}
        )

    def _found(self, file: Any) -> Any:
        expected, where = self._structure, f"{shown(self._path.name)}: {shown(self._dataset)}"
        try:
            array = find_inside(file, self._dataset, self._path)
        except (KeyError, OSError, ScanFileError) as error:
            raise CatalogError(f"{where} is not read: {shown(error)}") from error
        held = getattr(array, "shape", None), getattr(array, "dtype", None)
        if held != (expected.shape, expected.data_type.to_numpy_dtype()):
            raise HTTPException(
                503,
                f"{where} is not as it was published: it has the shape {shown(held[0])} now, not "
                f"{expected.shape}. Publish the volume again.",
                headers={"retry-after": "5"},
            )
        check_pieces(array, where)
        return array


@contextlib.contextmanager
def _refusing_damaged() -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ScanFileError) as error:
        raise HTTPException(
            503,
            "This part of the volume is damaged in its file. offbragg reduce --again makes the "
            "volume again.",
            headers={"retry-after": "60"},
        ) from error


def _read(
    array: StoredArray, structure: ArrayStructure, asked: tuple[builtins.slice | int, ...]
) -> NDArray[Any]:
    """Read a box, or layer by layer what is not one: no more is in memory than is asked for."""
    along = [range(n)[each] for n, each in zip(structure.shape, asked, strict=True)]
    kept = tuple(0 if isinstance(numbers, int) else builtins.slice(None) for numbers in along)
    numbers = [range(each, each + 1) if isinstance(each, int) else each for each in along]
    kind = structure.data_type.to_numpy_dtype()
    out = np.empty([len(each) for each in numbers], kind)
    if not out.size:
        return out[kept]
    if all(each.step == 1 for each in numbers):
        return array.read(tuple(builtins.slice(each.start, each.stop) for each in numbers))[kept]
    ends = [(min(each[0], each[-1]), max(each[0], each[-1])) for each in numbers]
    steps = [np.array(each) - a for each, (a, _) in zip(numbers[1:], ends[1:], strict=True)]
    for place, layer in enumerate(numbers[0]):
        box = tuple(builtins.slice(a, b + 1) for a, b in [(layer, layer), *ends[1:]])
        out[place] = array.read(box)[0][np.ix_(*steps)]
    return out[kept]
