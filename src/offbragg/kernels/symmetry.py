"""Sums over the cells of a box that are equivalent."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from offbragg.kernels import level, number_of, reference_symmetry

_PARTS = 32  # of a volume, for each array: so fine that no thread waits for the last of another


def symmetrise(
    array: NDArray[np.float64] | None,
    first: Sequence[int],
    operations: NDArray[np.int8],
    steps: Sequence[Sequence[int]],
    out: NDArray[np.float64],
    *,
    share: NDArray[np.float64] | None = None,
    threads: int = 1,
    level: str = level,
) -> None:
    """Sum an array over the cells of a box that are equivalent: each cell gets the sum of all.

    Beside the arrays it needs a few hundred KiB for each thread; the reference, two arrays more.

    Parameters
    ----------
    array
        float64, shape (h, k, l), C-contiguous; None: ones.
    first
        Labels of the first cell along h, k, l.
    operations
        int8, shape (n, 3, 3): a group of at most 48, identity first; they act on the labels as a
        column. Those with which l changes places may not mix axes (cubic, rhombohedral).
    steps
        The order of the sums: out[x] = in[x] + Σ in[W x] over the operations W of a step, given
        by their numbers, where W x is in the box; the next step begins with ``out``. In the
        end each cell is divided by the number of operations that leave it where it is. Together
        the steps must make the group; a first step, or one after such steps, that has a single
        operation must double it, and all but the last must take the box onto itself.
    out
        float64, as ``array``, and may be it.
    share
        Factor of each cell of ``array``, shape as ``array``.
    threads
        How many of them divide the work.
    level
        One of `available`. All give the same bits.

    Raises
    ------
    ValueError
        If arrays do not fit, or the operations are not such a group.

    Examples
    --------
    >>> inversion = np.array([np.eye(3), -np.eye(3)], np.int8)
    >>> out = np.empty((3, 1, 1))
    >>> symmetrise(np.array([2.0, 5.0, 4.0]).reshape(3, 1, 1), (-1, 0, 0), inversion, [[1]], out)
    >>> out.ravel()
    array([6., 5., 6.])
    """
    for name, each in (("array", array), ("share", share), ("out", out)):
        if each is not None and (
            each.dtype != np.float64 or each.ndim != 3 or each.shape != out.shape
            or not each.flags.c_contiguous or not each.flags.aligned
        ):  # fmt: skip
            raise ValueError(
                f"{name} must be float64, C-contiguous, and of shape {out.shape}, three axes: it "
                f"is {each.dtype} of shape {each.shape}"
            )
    if operations.dtype != np.int8 or operations.shape[1:] != (3, 3):
        raise ValueError(
            f"operations must be int8 of shape (n, 3, 3), not {operations.dtype} of shape "
            f"{operations.shape}"
        )
    number = number_of(level)
    if number is None:
        reference_symmetry.symmetrise(array, first, operations, steps, out, share)
        return
    kernel, labels = number[0].symmetrise, tuple(int(n) for n in first)
    matrices = operations.tobytes()
    order = b"".join(bytes([*step, 255]) for step in steps) + b"\xff"

    def do(part: int) -> None:
        kernel(array, share, out, labels, out.shape, matrices, order, part, _PARTS)

    if threads == 1:
        for part in range(_PARTS):
            do(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(do, range(_PARTS)))
