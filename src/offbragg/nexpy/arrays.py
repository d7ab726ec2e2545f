"""Arrays that stay in the catalog: NeXpy reads the slab that it draws, and nothing else is sent."""

# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportMissingImports=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from nexusformat.nexus import NXfield
from numpy.typing import NDArray

from offbragg.errors import CatalogError

MOST_BYTES = 256_000_000  # of one slab: more is a mistake over a network
_HELD = 16  # slabs that are kept: NeXpy asks for each one several times


class Readable(Protocol):
    """What an array reads from: an index of slices in steps of 1 gives a block."""

    def __call__(self, part: tuple[slice, ...], /) -> NDArray[Any]:
        """Read a block."""
        ...


class RemoteArray:
    """An array that is sliced over HTTP, as `NXfield` slices one in a file.

    Parameters
    ----------
    read
        Reads a block.
    shape, dtype
        Of the array.
    advice
        What to do about a slab that is too large.
    """

    def __init__(
        self, read: Readable, shape: Sequence[int], dtype: Any, *, advice: str = ""
    ) -> None:
        self._read = read
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self._advice = advice
        self._slabs: dict[tuple[tuple[int, int], ...], NDArray[Any]] = {}

    def __getitem__(self, index: Any) -> NDArray[Any]:
        part, rest = _block(index, self.shape)
        ends = tuple((each.start, each.stop) for each in part)
        if (block := self._slabs.get(ends)) is None:
            block = self._block(part)
            self._slabs[ends] = block
            if len(self._slabs) > _HELD:
                del self._slabs[next(iter(self._slabs))]
        return block[rest]

    def _block(self, part: tuple[slice, ...]) -> NDArray[Any]:
        shape = tuple(each.stop - each.start for each in part)
        size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        if size > MOST_BYTES:
            raise CatalogError(
                f"{' × '.join(map(str, shape))} values are {size / 1e6:.0f} MB, more than "
                f"{MOST_BYTES / 1e6:.0f} MB at a time\n{self._advice or 'Ask for a part of them.'}"
            )
        return np.asarray(self._read(part), self.dtype).reshape(shape)


def remote_field(array: RemoteArray, name: str, **attributes: Any) -> NXfield:
    """Return a field of NeXus whose values stay in the catalog.

    nexusformat keeps large arrays that belong to no file in an HDF5 file in memory; here the
    catalog stands in its place. The field is copied with it.
    """
    field = NXfield(name=name, shape=array.shape, dtype=array.dtype, attrs=attributes)
    field._memfile = _Catalog(array)
    return field


class _Catalog(Mapping[str, RemoteArray]):
    """The one array, under the name that nexusformat gives it."""

    def __init__(self, array: RemoteArray) -> None:
        self.array = array

    def __getitem__(self, name: str) -> RemoteArray:
        if name != "data":
            raise KeyError(name)
        return self.array

    def __iter__(self) -> Any:
        return iter(("data",))

    def __len__(self) -> int:
        return 1


def array_behind(field: NXfield) -> RemoteArray | None:
    """Return the array of a field of `remote_field`; None for any other."""
    catalog = getattr(field, "_memfile", None)
    return catalog.array if isinstance(catalog, _Catalog) else None


def grown(field: NXfield, shape: Sequence[int]) -> bool:
    """Return whether an array has another shape by now; its field has it afterwards."""
    array = array_behind(field)
    if array is None or array.shape == tuple(shape):
        return False
    array.shape = tuple(shape)
    field._shape = array.shape
    field._value = None
    return True


def _block(
    index: Any, shape: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice | int | NDArray[np.int64], ...]]:
    """Divide an index into the block that is read, and what is taken of it."""
    given = index if isinstance(index, tuple) else (index,)
    if any(each is Ellipsis for each in given):
        at = next(i for i, each in enumerate(given) if each is Ellipsis)
        more = len(shape) - len(given) + 1
        given = (*given[:at], *[slice(None)] * more, *given[at + 1 :])
    given = (*given, *[slice(None)] * (len(shape) - len(given)))
    if len(given) > len(shape):
        raise IndexError(f"{len(given)} indices for an array of {len(shape)} dimensions")
    part: list[slice] = []
    rest: list[Any] = []
    for each, n in zip(given, shape, strict=True):
        if isinstance(each, slice):
            places = range(n)[each]
            low, high = (min(places), max(places) + 1) if places else (0, 0)
            part.append(slice(low, high))
            rest.append(slice(None, None, places.step))
        else:
            place = range(n)[int(each)]
            part.append(slice(place, place + 1))
            rest.append(0)
    return tuple(part), tuple(rest)
