"""Sums over equivalent cells in NumPy: what the C is held against, and what serves without it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Whole = NDArray[np.int8]


def symmetrise(
    array: Array | None,
    first: Sequence[int],
    operations: Whole,
    steps: Sequence[Sequence[int]],
    out: Array,
    share: Array | None,
) -> None:
    """Sum step by step: out[x] = in[x] + Σ in[W x], where W x is in the box; then divide."""
    total = np.ones_like(out) if array is None else array
    if share is not None:
        total = total * share
    for step in steps:
        before, total = total, total.copy()
        for number in step:
            _add_image(total, before, first, operations[number])
    np.divide(total, _fixing(first, out.shape, operations), out=out)


def _add_image(out: Array, array: Array, begin: Sequence[int], W: Whole) -> None:
    """Add array[W x] to out[x] wherever W x lies in the grid."""
    first, shape = np.array(begin), np.array(array.shape)
    if np.all(np.count_nonzero(W, axis=1) == 1):
        # axes change places and directions: slices do
        source = np.argmax(W != 0, axis=1)  # (W x)_i = ±x_source[i]
        target = np.argsort(source)
        to: list[slice] = [slice(0)] * 3
        of: list[slice] = [slice(0)] * 3
        for i, j in enumerate(source):
            sign = int(W[i, j])
            ends = (first[i], first[i] + shape[i] - 1)
            low, high = ends if sign > 0 else (-ends[1], -ends[0])
            low, high = max(low, first[j]), min(high, first[j] + shape[j] - 1)
            if low > high:
                return
            to[j] = slice(low - first[j], high - first[j] + 1)
            start, end = sign * low - first[i], sign * high - first[i]
            of[i] = slice(start, end + sign if end + sign >= 0 else None, sign)
        out[tuple(to)] += array[tuple(of)].transpose(target)
        return
    # hexagonal axes: h and k mix, l keeps to itself
    assert not W[2, :2].any()
    assert not W[:2, 2].any()
    h = np.arange(first[0], first[0] + shape[0], dtype=np.int64)[:, None]
    k = np.arange(first[1], first[1] + shape[1], dtype=np.int64)[None, :]
    i = W[0, 0] * h + W[0, 1] * k - first[0]
    j = W[1, 0] * h + W[1, 1] * k - first[1]
    there = (i >= 0) & (i < shape[0]) & (j >= 0) & (j < shape[1])
    if W[2, 2] > 0:
        to_l = of_l = slice(None)
    else:
        last = first[2] + shape[2] - 1
        low, high = max(-last, first[2]), min(-first[2], last)
        if low > high:
            return
        to_l = slice(low - first[2], high - first[2] + 1)
        start, end = -low - first[2], -high - first[2] - 1
        of_l = slice(start, end if end >= 0 else None, -1)
    for row in range(shape[0]):  # a slab at a time: no copy of the whole
        columns = np.flatnonzero(there[row])
        if columns.size:
            out[row, columns, to_l] += array[i[row, columns], j[row, columns], of_l]


def _fixing(first: Sequence[int], shape: Sequence[int], operations: Whole) -> NDArray[np.uint8]:
    """Count the operations that leave each cell where it is."""
    h, k, l = (  # noqa: E741
        np.arange(a, a + n).reshape([-1 if i == j else 1 for j in range(3)])
        for i, (a, n) in enumerate(zip(first, shape, strict=True))
    )
    number = np.ones(shape, np.uint8)  # at most 48
    for operation in operations[1:]:
        D = operation - np.eye(3, dtype=int)
        same: NDArray[np.bool_] = np.ones((1, 1, 1), bool)
        for a, b, c in D:
            if a or b or c:
                same = same & ((a * h if a else 0) + (b * k if b else 0) + (c * l if c else 0) == 0)
        if same.any():
            number += same
    return number
