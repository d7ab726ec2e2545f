"""How complete a volume is, by distance from the origin of reciprocal space."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offbragg.bricks import brick_slices
from offbragg.grid import Grid, Three
from offbragg.kernels.brick import Distances, count_beyond
from offbragg.lattice import direct_basis
from offbragg.sample import Sample

Array = NDArray[np.float64]

SHELLS = 40


@dataclass(frozen=True, slots=True)
class Counted:
    """What one brick adds to the shells."""

    beyond: NDArray[np.int64]
    """Cells at each edge of a shell or further out: all, and those that were measured."""
    weighed: int
    """Cells that have a weight."""
    measured: bytes
    """Which of them, a bit each."""


class Shells:
    """Counts cells, and measured ones, in shells of equal thickness; brick by brick.

    The shells reach as far as the box could, each includes its inner edge, and the last one its
    outer edge, too. Instead of the distance of each cell its square is compared, with the smallest
    number whose root is not below the edge: so no cell falls on another side of it.
    """

    def __init__(self, grid: Grid, sample: Sample | None) -> None:
        self._grid = grid
        metric = np.eye(3)
        if sample is not None and sample.lattice is not None:
            reciprocal = np.linalg.inv(direct_basis(sample.lattice)).T * 2 * math.pi
            metric = reciprocal.T @ reciprocal
        h, k, l = grid.h, grid.k, grid.l  # noqa: E741
        ends = [max(abs(axis[0]), abs(axis[-1])) for axis in (h, k, l)]
        furthest = sum(math.sqrt(metric[i, i]) * end for i, end in enumerate(ends))
        self.edges: Array = np.linspace(0.0, furthest, SHELLS + 1)
        self._thresholds = np.array(
            [_square_from(edge) for edge in self.edges[:-1]]
            + [_square_from(math.nextafter(self.edges[-1], math.inf))]
        )
        self._squares = metric[0, 0] * h**2, metric[1, 1] * k**2, metric[2, 2] * l**2
        self._products = (
            metric[0, 1] * h[:, None] * k,
            metric[0, 2] * h[:, None] * l,
            metric[1, 2] * k[:, None] * l,
        )
        self._oblique = any(product.any() for product in self._products)
        self._beyond = np.zeros((2, SHELLS + 1), np.int64)
        self._weighed = 0

    def count(
        self, place: tuple[int, ...], weight: Array | None, *, before: Counted | None = None
    ) -> Counted:
        """Count a brick's cells; nothing is changed.

        Parameters
        ----------
        place
            Of the brick, along l, k, h.
        weight
            Of its cells, [l, k, h], none below 0; None: nothing was measured there.
        before
            What was counted of the same brick: the same, if the same cells are measured.
        """
        measured = None if weight is None else weight > 0
        bits = b"" if measured is None else np.packbits(measured).tobytes()
        if before is not None and before.measured == bits:
            return before
        l, k, h = brick_slices(self._grid, *place)  # noqa: E741
        of_h, of_k, of_l = (s[part] for s, part in zip(self._squares, (h, k, l), strict=True))
        squared = (of_h + of_k[:, None]) + of_l[:, None, None]
        if self._oblique:
            hk, hl, kl = self._products
            mixed = hk[h, k].T + hl[h, l].T[:, None, :]
            mixed += kl[k, l].T[:, :, None]
            mixed *= 2
            squared += mixed
        found = np.zeros((2, SHELLS + 1), np.int64)
        all_beyond = np.searchsorted(self._thresholds, squared.min(), "right")
        some_beyond = np.searchsorted(self._thresholds, squared.max(), "right")
        found[0, :all_beyond] = squared.size
        if measured is not None:
            found[1, :all_beyond] = np.count_nonzero(measured)
        for i in range(all_beyond, some_beyond):
            beyond = squared >= self._thresholds[i]
            found[0, i] = np.count_nonzero(beyond)
            if measured is not None:
                found[1, i] = np.count_nonzero(np.logical_and(beyond, measured, out=beyond))
        return Counted(found, 0 if weight is None else int(np.count_nonzero(weight)), bits)

    def count_bits(
        self,
        place: tuple[int, ...],
        bits: NDArray[np.uint8] | None,
        side: Three,
        before: Counted | None,
    ) -> Counted:
        """Count a brick's cells by a kernel; as `count`.

        Parameters
        ----------
        place, before
            As for `count`.
        bits
            Which cells of its chunk are measured, a bit each; None: nothing was measured there.
        side
            Cells of its chunk along l, k, h.
        """
        text = b"" if bits is None else bits.tobytes()
        if before is not None and before.measured == text:
            return before
        if bits is None:
            bits = np.zeros(-(-math.prod(side) // 8), np.uint8)
        l, k, h = brick_slices(self._grid, *place)  # noqa: E741
        hk, hl, kl = self._products
        of_h, of_k, of_l = (s[part] for s, part in zip(self._squares, (h, k, l), strict=True))
        products = (hk[h, k], hl[h, l], kl[k, l]) if self._oblique else None
        where = Distances(of_h, of_k, of_l, products, self._thresholds)
        weighed = int.from_bytes(text, "little").bit_count()
        return Counted(count_beyond(where, side, bits), weighed, text)

    def add(self, counted: Counted, *, instead: Counted | None = None) -> None:
        """Add what `count` returned, instead of what it returned for the same brick before."""
        self._beyond += counted.beyond
        self._weighed += counted.weighed
        if instead is not None:
            self._beyond -= instead.beyond
            self._weighed -= instead.weighed

    @property
    def completeness(self) -> float:
        """Part of all cells that has a weight."""
        return self._weighed / self._grid.size

    def measured(self) -> tuple[Array, Array]:
        """Return the middle of each shell that has cells, Å⁻¹, and the measured part of them."""
        cells, seen = -np.diff(self._beyond, axis=1)
        known = cells > 0
        return (0.5 * (self.edges[1:] + self.edges[:-1]))[known], seen[known] / cells[known]


def _square_from(edge: float) -> float:
    """Return the smallest number whose root is not below an edge; of 0, one below all."""
    if edge == 0:
        return -math.inf
    square = edge * edge
    while (below := math.nextafter(square, 0.0)) > 0 and math.sqrt(below) >= edge:
        square = below
    while math.sqrt(square) < edge:
        square = math.nextafter(square, math.inf)
    return square
