"""How the server reads image files: each is opened below the roots, and decoded from memory.

A decoder that is given a name may open others: some TIFF files name their neighbours, or any path.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.sequence import FileSequenceAdapter
from tiled.adapters.utils import force_reshape
from tiled.utils import BrokenLink, path_from_uri

from offbragg.catalog.read_limits import ANSWER
from offbragg.catalog.readable import Readable, check_size, shown
from offbragg.errors import CatalogError, FrameError
from offbragg.files import read_cbf
from offbragg.files.root import path_of

Decode = Callable[[Readable, Path], NDArray[Any]]


def _cbf(readable: Readable, path: Path) -> NDArray[Any]:
    descriptor = readable.open(path)
    try:
        return read_cbf(path_of(descriptor), number=0).counts
    finally:
        os.close(descriptor)


def _tiff(readable: Readable, path: Path) -> NDArray[Any]:
    raw = io.BytesIO(readable.read(path, most=ANSWER))
    # neither files that this one names nor an index beside it
    with _not_trusted(path), tifffile.TiffFile(raw, _multifile=False, is_ndtiff=False) as file:
        first = file.series[0]
        # what it decodes to, not what it has: zeros take a thousandth on the disk
        check_size(path, math.prod(first.shape) * np.dtype(first.dtype or "u1").itemsize, ANSWER)
        return first.asarray()


def _jpeg(readable: Readable, path: Path) -> NDArray[Any]:
    raw = io.BytesIO(readable.read(path, most=ANSWER))
    with _not_trusted(path), Image.open(raw, formats=["JPEG"]) as image:
        check_size(path, math.prod(image.size) * len(image.getbands()), ANSWER)
        return np.asarray(image)


@contextlib.contextmanager
def _not_trusted(path: Path) -> Iterator[None]:
    """Refuse a file that cannot be decoded: a decoder has any error for what is damaged."""
    try:
        yield
    except CatalogError:
        raise
    except Exception as error:
        what = shown(str(error).partition("\n")[0][:200])
        raise CatalogError(
            f"{shown(path)} is not read: it is damaged, or of another kind ({what})"
        ) from error


IMAGES: dict[str, Decode] = {"image/x-cbf": _cbf, "image/tiff": _tiff, "image/jpeg": _jpeg}


class ImageSequenceAdapter(FileSequenceAdapter):
    """A sequence of image files as one array, the files first.

    A CBF file that is not there, not complete or must not be trusted reads as −1: its neighbours
    keep their index.
    """

    readable: ClassVar[Readable]
    decode: ClassVar[Decode]

    @classmethod
    def of(cls, decode: Decode, readable: Readable) -> type[Self]:
        """Return the adapter of one kind of files, and of where they may be read."""
        bound = {"decode": staticmethod(decode), "readable": readable}
        return cast("type[Self]", type(cls.__name__, (cls,), bound))

    def _load_from_files(
        self,
        slice: builtins.slice | int | Iterable[int] = builtins.slice(None),  # noqa: B008
    ) -> NDArray[Any]:
        if isinstance(slice, int):
            chosen = [self.filepaths[slice]]
        elif isinstance(slice, builtins.slice):
            chosen = self.filepaths[slice]
        else:
            chosen = [self.filepaths[i] for i in slice]
        return np.stack(self._map_read(chosen))

    def _read_one(self, filepath: Any) -> NDArray[Any]:
        try:
            return type(self).decode(self.readable, Path(filepath))
        except (FrameError, FileNotFoundError):
            structure = getattr(self, "_structure", None)
            if structure is None or type(self).decode is not _cbf:
                raise
            return np.full(structure.shape[-2:], -1, np.int32)


class OneImageAdapter(ArrayAdapter):
    """One image file as an array."""

    readable: ClassVar[Readable]
    decode: ClassVar[Decode]

    @classmethod
    def of(cls, decode: Decode, readable: Readable) -> type[Self]:
        """Return the adapter of one kind of files, and of where they may be read."""
        bound = {"decode": staticmethod(decode), "readable": readable}
        return cast("type[Self]", type(cls.__name__, (cls,), bound))

    @classmethod
    def from_catalog(cls, data_source: Any, node: Any, /, **_: Any) -> Self:
        """Read the file of a catalog's node."""
        path = path_from_uri(data_source.assets[0].data_uri)
        try:
            array: Any = cls.decode(cls.readable, path)
        except FileNotFoundError as error:
            raise BrokenLink(f"{path.name} is not there") from error
        structure = data_source.structure
        array = force_reshape(array, structure.shape)
        return cls(array, structure, metadata=node.metadata_, specs=node.specs)
