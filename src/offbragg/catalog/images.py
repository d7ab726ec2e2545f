"""Read image files in the server: each is opened below the roots, and decoded from memory.

A decoder that is given a path may open further files: some TIFF files name their neighbours, or
any path.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import math
import os
import tempfile
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
from tiled.structures.array import ArrayStructure
from tiled.structures.data_source import DataSource
from tiled.utils import BrokenLink, path_from_uri

from offbragg.catalog.read_limits import ANSWER
from offbragg.catalog.readable import Readable, check_size, shown
from offbragg.errors import CatalogError, FrameError
from offbragg.files import read_cbf
from offbragg.files.root import path_of
from offbragg.private_parts import PrivatePart, examine

Decode = Callable[[Readable, Path], NDArray[Any]]


def _cbf(readable: Readable, path: Path) -> NDArray[Any]:
    descriptor = readable.open(path)
    try:
        return read_cbf(path_of(descriptor), number=0).counts
    finally:
        os.close(descriptor)


def _tiff(readable: Readable, path: Path) -> NDArray[Any]:
    raw = io.BytesIO(readable.read(path, most=ANSWER))
    # neither files that this one names nor an index file beside it
    with _refusing_damaged(path), tifffile.TiffFile(raw, _multifile=False, is_ndtiff=False) as file:
        first = file.series[0]
        # the decoded size, not that of the file: zeros take a thousandth of it on the disk
        check_size(path, math.prod(first.shape) * np.dtype(first.dtype or "u1").itemsize, ANSWER)
        return first.asarray()


def _jpeg(readable: Readable, path: Path) -> NDArray[Any]:
    raw = io.BytesIO(readable.read(path, most=ANSWER))
    with _refusing_damaged(path), Image.open(raw, formats=["JPEG"]) as image:
        check_size(path, math.prod(image.size) * len(image.getbands()), ANSWER)
        return np.asarray(image)


@contextlib.contextmanager
def _refusing_damaged(path: Path) -> Iterator[None]:
    """Refuse a file that cannot be decoded: a decoder may raise any error for a damaged file."""
    try:
        yield
    except CatalogError:
        raise
    except Exception as error:
        what = shown(str(error).partition("\n")[0][:200])
        raise CatalogError(
            f"{shown(path)} is not read: it is damaged, or of another type ({what})"
        ) from error


IMAGES: dict[str, Decode] = {"image/x-cbf": _cbf, "image/tiff": _tiff, "image/jpeg": _jpeg}


class _ImageAdapter:
    """Part of an adapter of images: how they are decoded, and where they may be read."""

    readable: ClassVar[Readable]
    decode: ClassVar[Decode]

    @classmethod
    def of(cls, decode: Decode, readable: Readable) -> type[Self]:
        """Return an adapter class for one type of files, and where these may be read."""
        bound = {"decode": staticmethod(decode), "readable": readable}
        return cast("type[Self]", type(cls.__name__, (cls,), bound))


class ImageSequenceAdapter(_ImageAdapter, FileSequenceAdapter):
    """A sequence of image files as one array, the files first.

    A CBF file that is missing, incomplete or damaged reads as −1: its neighbours keep their index.
    """

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

    def _read_one(self, filepath: str | Path) -> NDArray[Any]:
        try:
            return type(self).decode(self.readable, Path(filepath))
        except (FrameError, FileNotFoundError):
            structure = getattr(self, "_structure", None)
            if structure is None or type(self).decode is not _cbf:
                raise
            return np.full(structure.shape[-2:], -1, np.int32)


class OneImageAdapter(_ImageAdapter, ArrayAdapter):
    """One image file as an array."""

    @classmethod
    def from_catalog(
        cls, data_source: DataSource[ArrayStructure], node: Any, /, **_: object
    ) -> Self:
        """Read the file of a catalog node."""
        path = path_from_uri(data_source.assets[0].data_uri)
        try:
            array: Any = cls.decode(cls.readable, path)
        except FileNotFoundError as error:
            raise BrokenLink(f"{path.name} is missing") from error
        structure = data_source.structure
        array = force_reshape(array, structure.shape)
        return cls(array, structure, metadata=node.metadata_, specs=node.specs)


# -- whether these files are still read alone, and by us -----------------------------------------

_OME = """<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"
UUID="urn:uuid:1"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8"
SizeX="2" SizeY="2" SizeZ="1" SizeC="1" SizeT="2"><Channel ID="Channel:0:0"/>
<TiffData FirstT="0" IFD="0"><UUID FileName="first.tif">urn:uuid:1</UUID></TiffData>
<TiffData FirstT="1" IFD="0"><UUID FileName="{}">urn:uuid:2</UUID></TiffData>
</Pixels></Image></OME>"""


def self_test() -> list[PrivatePart]:
    """Return whether images are read without the files that they name, and with our decoders."""
    return [
        examine(
            "tifffile", "images read without the files that they name", _read_alone, guards=True
        ),
        examine("tiled", "image sequences read below the roots only", _read_sequence, guards=True),
    ]


def _read_alone() -> None:
    """Read an image of which a part lies in another file, and check that this is not read."""
    with tempfile.TemporaryDirectory(prefix="offbragg-") as folder:
        first, other = Path(folder) / "first.tif", Path(folder) / "other.tif"
        tifffile.imwrite(other, np.full((2, 2), 2, np.uint8), metadata=None)
        tifffile.imwrite(
            first, np.full((2, 2), 1, np.uint8), metadata=None, description=_OME.format(other)
        )
        if not (_tiff(Readable([Path(folder)]), first) == 1).all():
            raise ValueError("an image is read together with others")


def _read_sequence() -> None:
    """Let Tiled's adapter read a sequence, and check that it calls our decoder for each file."""
    decoded: list[Path] = []

    def decode(readable: Readable, path: Path) -> NDArray[Any]:
        decoded.append(path)
        return np.zeros((1, 2), np.uint8)

    paths = [Path("/first"), Path("/second")]
    adapter: Any = ImageSequenceAdapter.of(decode, Readable([]))
    sequence = adapter.from_uris(*(path.as_uri() for path in paths))
    decoded.clear()
    if sequence.read().shape != (2, 1, 2) or sorted(decoded) != paths:
        raise ValueError("the files of a sequence are read without our decoder")
