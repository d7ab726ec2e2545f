"""TIFF files that are no camserver's: other depths, tiles, compression, BigTIFF; by tifffile.

Such frames come from other programs and are slower to read. What tifffile would take on trust is
checked first: that every piece is there, and that it unpacks to what it should, and no further.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import FrameError, IncompleteFrame, RejectedFrame

_PIXEL_LIMIT = 1 << 26
_TEXT_LIMIT = 1 << 16
_NONE, _LZW, _DEFLATE = 1, 5, (8, 32946)
_UNSIGNED, _SIGNED = 1, 2
_PIECE_LIMIT = 1 << 20  # strips or tiles


@dataclass(frozen=True, slots=True)
class Description:
    """What a TIFF file says of its pixels."""

    shape: tuple[int, int]
    most_counts: int
    text: str
    date: str


def read_description(file: IO[bytes], *, where: str) -> Description:
    """Read the directory of a TIFF file; its pixels are not looked at.

    Raises
    ------
    IncompleteFrame, RejectedFrame
        As `read_counts` does.
    """
    return _by_library(file, where, None, None)[0]


def read_counts(
    file: IO[bytes], *, where: str, shape: tuple[int, int] | None
) -> tuple[NDArray[np.int32], Description]:
    """Read the one image of a TIFF file as counts.

    Parameters
    ----------
    file
        The file, which can be sought in.
    where
        What messages begin with.
    shape
        Rows and columns that it must have; any if None.

    Raises
    ------
    IncompleteFrame
        If a piece of it lies behind its end.
    RejectedFrame
        If it is not an image of integers of up to 32 bits, uncompressed or by deflate or LZW, in
        one page; or its pieces do not unpack to that.
    """
    description, counts = _by_library(file, where, shape, _counts)
    return counts, description


def _by_library(file: IO[bytes], where: str, shape: tuple[int, int] | None, read: Any) -> Any:
    import tifffile

    file.seek(0)
    try:
        with tifffile.TiffFile(file, name="frame.tif") as tiff:
            page = tiff.pages.first
            described = _described(page, where, shape)
            try:
                _ = tiff.pages[1]
            except IndexError:
                pass
            else:
                raise RejectedFrame(
                    f"{where} has more than one image: one frame is read from each file"
                )
            return described, None if read is None else read(page, file, where)
    except (FrameError, MemoryError):
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise RejectedFrame(f"{where} cannot be read by tifffile: {error}") from error
    except Exception as error:  # a damaged directory leads tifffile anywhere
        raise RejectedFrame(f"{where} cannot be read by tifffile: {error!r:.200}") from error


class Pages:
    """The images of a TIFF file that is open, all of one shape; one thread at a time reads them.

    Parameters
    ----------
    file
        The file, which can be sought in.
    where
        What messages begin with.

    Raises
    ------
    RejectedFrame
        If it is not a TIFF file, or its first image is not one of integers as `read_counts` has it.
    """

    def __init__(self, file: IO[bytes], *, where: str) -> None:
        import tifffile

        self._file, self._where = file, where
        try:
            # neither files that this one names nor an index file beside it
            self._tiff = tifffile.TiffFile(
                cast(Any, file), name="frames.tif", _multifile=False, is_ndtiff=False
            )
            self.first = _described(self._tiff.pages.first, where, None)
            self.length = len(self._tiff.pages)
        except (FrameError, MemoryError):
            raise
        except Exception as error:  # a damaged directory leads tifffile anywhere
            raise RejectedFrame(f"{where} cannot be read by tifffile: {error!r:.200}") from error

    def stored(self, at: int) -> Iterator[bytes]:
        """Read the pieces of an image as they are stored.

        Raises
        ------
        FrameError
            If it is not there, or not of the first one's shape.
        """
        page = self._page(at)
        for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
            self._file.seek(offset)
            yield self._file.read(size)

    def counts(self, at: int) -> NDArray[np.int32]:
        """Read an image as counts, as `read_counts` does.

        Raises
        ------
        FrameError
            As `stored`, or if its pieces do not unpack to what it says.
        """
        page = self._page(at)
        where = f"{self._where}, image {at}"
        try:
            return _counts(page, self._file, where)
        except (FrameError, MemoryError):
            raise
        except Exception as error:
            raise RejectedFrame(f"{where} cannot be read by tifffile: {error!r:.200}") from error

    def _page(self, at: int) -> Any:
        where = f"{self._where}, image {at}"
        try:
            page: Any = self._tiff.pages[at]
            page = page if isinstance(page, type(self._tiff.pages.first)) else page.aspage()
        except Exception as error:
            raise RejectedFrame(f"{where} cannot be read by tifffile: {error!r:.200}") from error
        _described(page, where, self.first.shape)
        return page


def _described(page: Any, where: str, shape: tuple[int, int] | None) -> Description:
    rows, columns = int(page.imagelength), int(page.imagewidth)
    if shape is not None and (rows, columns) != tuple(shape):
        raise RejectedFrame(
            f"{where} has {rows} rows × {columns} columns: expected {shape[0]} × {shape[1]}"
        )
    if not 0 < rows * columns <= _PIXEL_LIMIT:
        raise RejectedFrame(f"{where} claims {rows} × {columns} pixels: that is not believed")
    bits, kind = page.bitspersample, int(page.sampleformat)
    for name, value, wanted, what in (
        ("samples per pixel", page.samplesperpixel, (1,), "1"),
        ("bits per pixel", bits, (8, 16, 32), "8, 16 or 32"),
        ("sample format", kind, (_UNSIGNED, _SIGNED), "an integer (1 or 2)"),
        ("compression", int(page.compression), (_NONE, _LZW, *_DEFLATE), "none, LZW or deflate"),
        ("predictor", int(page.predictor), (1, 2), "1 or 2"),
        ("fill order", int(page.fillorder), (1,), "1"),
        ("depth", int(page.imagedepth), (1,), "1"),
    ):
        if value not in wanted:
            raise RejectedFrame(f"{where} has {name} {value!r:.40}: only {what} is read")
    return Description(
        (rows, columns),
        (1 << (bits - (kind == _SIGNED))) - 1,
        str(page.description or "")[:_TEXT_LIMIT],
        _word(page, "DateTime"),
    )


def _word(page: Any, tag: str) -> str:
    found = page.tags.get(tag)
    return found.value if found is not None and isinstance(found.value, str) else ""


def _counts(page: Any, file: IO[bytes], where: str) -> NDArray[np.int32]:
    _check_pieces(page, file, where)
    # one thread: the frames beside it have the others
    pixels = np.asarray(page.asarray(maxworkers=1))
    if pixels.shape != (page.imagelength, page.imagewidth) or pixels.dtype.kind not in "iu":
        raise RejectedFrame(f"{where} comes out as {pixels.shape} of {pixels.dtype}")
    if pixels.dtype.itemsize == 4:  # camserver says unsigned and means signed: −1 is a gap
        return np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="))).view(np.int32)
    return np.ascontiguousarray(pixels, np.int32)


def _check_pieces(page: Any, file: IO[bytes], where: str) -> None:
    """Refuse an image with a piece that is not there, or is not as long as it should be."""
    sizes = _sizes(page, where)
    offsets, lengths = page.dataoffsets, page.databytecounts
    if not len(offsets) == len(lengths) == len(sizes):
        raise RejectedFrame(
            f"{where} has {len(offsets)} pieces of pixels, and the lengths of {len(lengths)}: "
            f"{len(sizes)} are expected"
        )
    end = file.seek(0, 2)
    for number, (offset, length, size) in enumerate(zip(offsets, lengths, sizes, strict=True)):
        piece = f"piece {number} of the pixels"
        if offset + length > end:
            raise IncompleteFrame(f"{where} has {end} of {offset + length} bytes")
        if page.compression == _NONE:
            if length != size:
                raise RejectedFrame(f"{where} has {length} bytes in {piece}: {size} are expected")
            continue
        if length == 0:
            raise RejectedFrame(f"{where} has nothing in {piece}")
        file.seek(offset)
        unpacked = _unpacked_size(file.read(length), size, page.compression == _LZW, where)
        if unpacked != size:
            some = "more than" if unpacked > size else f"{unpacked} instead of"
            raise RejectedFrame(f"{where} unpacks {piece} to {some} {size} bytes")


def _sizes(page: Any, where: str) -> Sequence[int]:
    """Return how many bytes each strip or tile has when it is unpacked."""
    rows, columns, width = page.imagelength, page.imagewidth, page.bitspersample // 8
    if page.is_tiled:
        high, wide = int(page.tilelength), int(page.tilewidth)
        n = math.ceil(rows / high) * math.ceil(columns / wide) if high and wide else 0
        if not 0 < n * high * wide <= 4 * rows * columns + _PIECE_LIMIT:
            raise RejectedFrame(f"{where} has tiles of {high} × {wide} pixels: not believed")
        return [high * wide * width] * n
    high = max(1, min(int(page.rowsperstrip), rows))
    whole, rest = divmod(rows, high)
    return [high * columns * width] * whole + [rest * columns * width] * (rest > 0)


def _unpacked_size(packed: bytes, size: int, lzw: bool, where: str) -> int:
    """Return to how many bytes a piece unpacks, as far as one beyond ``size``."""
    if not lzw:
        return len(zlib.decompressobj().decompress(packed, size + 1))
    try:
        from imagecodecs import lzw_decode
    except ImportError as error:
        raise RejectedFrame(
            f"{where} is compressed by LZW, and imagecodecs is not installed\n"
            "Run: pip install imagecodecs"
        ) from error
    return len(lzw_decode(packed, out=size + 1))
