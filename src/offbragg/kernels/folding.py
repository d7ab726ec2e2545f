"""Cells brought into the part of a grid that a group of operations does not repeat.

Of the images of a cell that with the greatest label is taken, first by h, then k, then l: the same
for all equivalent cells, and for one on a mirror plane as for any other. So sums over the images
of a cell are made by adding each pixel once, where the image of its cell lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offbragg.kernels import level, number_of
from offbragg.kernels.numbering import NOWHERE, Shape, cell_of, place_of

MOST_LABEL = 1 << 18
"""Labels of a grid that is folded must be below."""


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """How cells of a grid are brought into a part of it.

    Parameters
    ----------
    shape, first
        Cells of the grid along h, k, l, and labels of the first of them.
    operations
        int8, shape (n, 3, 3): a group of at most 48, identity first.
    candidates
        For each brick of the grid a bit for each operation that leads from one of its cells to the
        greatest of its images: uint64, shape (bricks,). More of them cost time only.
    part_first, part_shape
        The same of the part, which holds the greatest image of each cell.
    """

    shape: Shape
    first: Shape
    operations: NDArray[np.int8]
    candidates: NDArray[np.uint64]
    part_first: Shape
    part_shape: Shape

    def arguments(self) -> tuple[object, ...]:
        """Return it as the kernel takes it."""
        return (
            self.shape, self.first, self.operations.tobytes(), self.candidates, self.part_first,
            self.part_shape,
        )  # fmt: skip


def keys(operations: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return what orders the images of a cell x: key · x for each operation, shape (n, 3)."""
    return np.array([1 << 42, 1 << 21, 1]) @ operations.astype(np.int64)


def fold(where: NDArray[np.uint32], by: Fold, *, level: str = level) -> NDArray[np.uint32]:
    """Return the places in the part of places in the grid; of `NOWHERE` it is `NOWHERE`.

    Parameters
    ----------
    where
        Places of `numbering.place_of` in the grid.
    by
        The fold.
    """
    kernels = number_of(level)
    if kernels is not None:
        found = np.array(where, np.uint32, order="C")
        kernels[0].fold(kernels[1], found, by.arguments())
        return found
    found = np.full(where.shape, NOWHERE, np.uint32)
    inside = where != NOWHERE
    label = cell_of(where[inside], by.shape) + np.array(by.first)[:, None]
    best = np.argmax(keys(by.operations) @ label, axis=0)
    image = np.einsum("nij,jn->in", by.operations.astype(np.int64)[best], label)
    found[inside] = place_of(image - np.array(by.part_first)[:, None], by.part_shape)
    return found
