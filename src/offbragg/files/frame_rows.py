"""Rows of frames in the columns of an open scan file; whoever calls these flushes between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, cast

import numpy as np
from h5py import h5s  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from offbragg.files.frame_columns import BY_NAME
from offbragg.files.nexus import fit

Column = Callable[[str], Any]
"""Returns a column of the file, an h5py dataset, by its name."""


def put_known(
    column: Column,
    numbers: NDArray[np.int64],
    *,
    sources: Iterable[str],
    md5s: Iterable[str | None],
    crcs: Iterable[int] | None,
    times: NDArray[np.float64],
) -> None:
    """Write what is known of frames whose pixels are written.

    Parameters
    ----------
    column
        Of the file.
    numbers
        Frame indices, ascending, shape (n,).
    sources, md5s
        Name of each frame file, and the MD5 of its pixels if it states one.
    crcs
        CRC-64 of each stored chunk; None in a file that has no column for them.
    times
        Start of each exposure, POSIX s; NaN if not known. Shape (n,).
    """
    names = [fit(source, BY_NAME["source"].length) for source in sources]
    digests = [(md5 or "").encode("ascii", "replace") for md5 in md5s]
    _put(column("source"), numbers, _text("source", names))
    _put(column("md5"), numbers, _text("md5", digests))
    if crcs is not None:
        _put(column("crc64"), numbers, _text("crc64", [b"%016x" % crc for crc in crcs]))
    known = np.isfinite(times)
    _put(column("time"), numbers[known], times[known])


def put_stored(column: Column, numbers: NDArray[np.int64]) -> None:
    """Write that frames are stored; once this is flushed, they can be read."""
    _put(column("reason"), numbers, _text("reason", [b""] * numbers.size))
    _put(column("status"), numbers, _text("status", [b"stored"] * numbers.size))


def put_values(
    column: Column, name: str, numbers: NDArray[np.int64], values: NDArray[np.float64]
) -> None:
    """Write values of frames in any order, shape (n,); all rows between them are read first."""
    first, last = int(numbers.min()), int(numbers.max()) + 1
    rows = column(name)[first:last]
    rows[numbers - first] = values
    column(name)[first:last] = rows


def put_angle_source(column: Column, numbers: NDArray[np.int64], how: str) -> None:
    """Write how the angles of frames were measured, shape (n,), in any order."""
    first, last = int(numbers.min()), int(numbers.max()) + 1
    sources = column("angle_source")[first:last]
    # in a file of an earlier version there is room for 12 letters
    fits = len(how) <= sources.dtype.itemsize
    sources[numbers - first] = how.encode() if fits else b"read"
    column("angle_source")[first:last] = sources


def _text(column: str, words: list[bytes]) -> NDArray[Any]:
    """Return words as the column has them."""
    return np.array(words, BY_NAME[column].dtype)


def _put(dataset: Any, numbers: NDArray[np.int64], values: NDArray[Any]) -> None:
    """Write rows of a column, those that follow each other at once."""
    ends = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), numbers.size]
    for begin, end in pairwise(ends):
        if begin < end:
            # what `dataset[...] = ` does in the end, after four times as long in Python
            rows = dataset.id.get_space()
            rows.select_hyperslab((int(numbers[begin]),), (end - begin,))
            some = np.ascontiguousarray(values[begin:end])
            dataset.id.write(cast(Any, h5s).create_simple(some.shape), rows, some)
