"""The sums of a volume file over equivalent cells, made for the cells of a cut only.

They are those of `offbragg.reduction.symmetry.symmetrise`: each equivalent cell counts once,
however many operations lead to it, and one outside the grid does not count. With K the operations
that take a box of cells onto itself, the sum over the group is that over its cosets r K,

    B(y) = Σ A(r y),    S(x) = Σ B(k x) / m(x)

with m the number of operations that leave x where it is. So of a plane whose mirror images lie in
itself each image plane is read once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.bricks import BRICK
from offbragg.errors import ReductionError
from offbragg.files.cut_source import Slices, Source
from offbragg.files.volume_file import VolumeFile
from offbragg.grid import Array, Three

Matrix = tuple[Three, Three, Three]
"""An operation on (h, k, l) as a column, of whole numbers."""

Operation = NDArray[np.int64]

_WHOLE = 4_000_000  # cells of a piece that is not divided: its images are read once
_LOOSE = 4  # cells that are read for one that is wanted; beyond it a box is divided


class EquivalentCells(Source):
    """A source whose sums are over all cells that are equivalent to each.

    Parameters
    ----------
    file, level, sigma, reading
        As for `Source`.
    operations
        Of a Laue class, the identity among them; they must take cells to cells.

    Raises
    ------
    ReductionError
        As `Source` does, and if the volume is symmetrised already.
    """

    as_stored = False

    def __init__(
        self, file: VolumeFile, level: int, sigma: bool, reading: Callable[[int], None],
        operations: Sequence[Matrix],
    ) -> None:  # fmt: skip
        if file.symmetry:
            raise ReductionError(
                f"the sums of {file.path.name} were made over {file.symmetry} already: ask for "
                "them without symmetry"
            )
        super().__init__(file, level, sigma, reading)
        self.merge()
        self._operations = [np.array(each, np.int64) for each in operations]
        self._cosets: dict[Any, tuple[list[Operation], list[Operation]]] = {}

    def pieces(self, box: Slices, axes: tuple[int, ...]) -> list[Slices]:
        """Divide a box; one that is not large stays whole."""
        cells = math.prod(part.stop - part.start for part in box) * self.cells_in_one
        return [box] if cells <= _WHOLE else super().pieces(box, axes)

    def read(self, name: str, box: Slices) -> Array:
        """Read the sums over the equivalents of the cells of a box, in the order h, k, l."""
        onto, cosets = self._divided(box)
        once = np.zeros([part.stop - part.start for part in box])
        for operation in cosets:
            self._add_image(name, operation, box, once)
        total = np.zeros_like(once)
        for operation in onto:
            total += _turned(once, operation)
        total /= self._fixing(box)
        return total

    def _divided(self, box: Slices) -> tuple[list[Operation], list[Operation]]:
        """Return the operations that take a box onto itself, and one of each of their cosets."""
        low, high = which = self._labels(box)
        if which not in self._cosets:
            onto = [each for each in self._operations if _image(each, low, high) == (low, high)]
            onto = [each for each in onto if np.all(np.count_nonzero(each, axis=0) == 1)]
            seen: set[bytes] = set()
            cosets: list[Operation] = []
            for operation in self._operations:
                if operation.tobytes() not in seen:
                    cosets.append(operation)
                    seen.update((operation @ each).tobytes() for each in onto)
            self._cosets[which] = onto, cosets
        return self._cosets[which]

    def _labels(self, box: Slices) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the first and the last label of a box, in steps."""
        low = tuple(a + part.start for a, part in zip(self.grid.first, box, strict=True))
        return low, tuple(a + part.stop - 1 for a, part in zip(self.grid.first, box, strict=True))

    def _add_image(self, name: str, operation: Operation, box: Slices, total: Array) -> None:
        """Add to each cell x of a box what the cell W x holds."""
        low, high = self._labels(box)
        begin, end = _image(operation, low, high)
        begin = np.maximum(np.array(begin) - self.grid.first, 0)
        end = np.minimum(np.array(end) - self.grid.first + 1, self.grid.shape)
        if np.any(end <= begin):
            return
        size = math.prod(int(n) for n in end - begin)
        if size > _LOOSE * total.size and max(total.shape) > BRICK:
            for part in _halves(box):
                inside = tuple(
                    slice(p.start - b.start, p.stop - b.start)
                    for p, b in zip(part, box, strict=True)
                )
                self._add_image(name, operation, part, total[inside])
            return
        self.count(size)
        image: Slices = tuple(slice(int(a), int(b)) for a, b in zip(begin, end, strict=True))  # type: ignore[assignment]
        found = super().read(name, image)
        # where each cell of the box is in the image, along each axis of the image
        labels = [np.arange(a, b + 1) for a, b in zip(low, high, strict=True)]
        places = [
            _along(row, labels) - self.grid.first[i] - begin[i] for i, row in enumerate(operation)
        ]
        inside = np.ones((1, 1, 1), np.bool_)
        for place, n in zip(places, found.shape, strict=True):
            inside = inside & (place >= 0) & (place < n)
        clipped = [np.clip(p, 0, n - 1) for p, n in zip(places, found.shape, strict=True)]
        total += np.where(inside, found[tuple(clipped)], 0.0)

    def _fixing(self, box: Slices) -> NDArray[np.int64]:
        """Return how many operations leave each cell of a box where it is."""
        low, high = self._labels(box)
        labels = [np.arange(a, b + 1) for a, b in zip(low, high, strict=True)]
        count = np.zeros([len(each) for each in labels], np.int64)
        for operation in self._operations:
            moved = operation - np.eye(3, dtype=np.int64)
            stays = np.ones((1, 1, 1), np.bool_)
            for row in moved:
                stays = stays & (_along(row, labels) == 0)
            count += stays
        return count


def _image(
    operation: Operation, low: Sequence[int], high: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the first and last labels of the smallest box around the image of a box."""
    ends = np.sort([operation * np.array(low), operation * np.array(high)], axis=0).sum(axis=2)
    return tuple(int(n) for n in ends[0]), tuple(int(n) for n in ends[1])


def _along(row: NDArray[np.int64], labels: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return Σ row · label in every cell, in as few dimensions as that needs."""
    total = np.zeros((1, 1, 1), np.int64)
    for axis, (factor, each) in enumerate(zip(row, labels, strict=True)):
        if factor:
            shape = [1, 1, 1]
            shape[axis] = len(each)
            total = total + factor * each.reshape(shape)
    return total


def _turned(array: Array, operation: Operation) -> Array:
    """Return array[W x] for an operation that takes the box of the array onto itself."""
    axis_of = np.abs(operation).argmax(axis=1)  # axis i of the image runs along this one
    signs = operation[np.arange(3), axis_of]
    flipped = array[tuple(slice(None, None, int(sign)) for sign in signs)]
    return flipped.transpose(np.argsort(axis_of))


def _halves(box: Slices) -> list[Slices]:
    """Divide a box across its longest side."""
    size = [part.stop - part.start for part in box]
    longest = int(np.argmax(size))
    middle = box[longest].start + size[longest] // 2
    ends = ((box[longest].start, middle), (middle, box[longest].stop))
    parts = [tuple(slice(*end) if i == longest else box[i] for i in range(3)) for end in ends]
    return [(part[0], part[1], part[2]) for part in parts]
