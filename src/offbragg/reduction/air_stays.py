"""What is expected without the crystal as records of earlier versions have it: stay by stay.

It depends on the order of the frames, so none can be taken away again; `offbragg.reduction.air` is
what replaced it. Here so that ``offbragg reduce --again`` reproduces volumes made before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from offbragg.kernels.folding import Fold
from offbragg.kernels.folding import fold as folded
from offbragg.kernels.numbering import NOWHERE, Shape
from offbragg.kernels.transform import Exposures, add, places
from offbragg.reduction.accumulator import Accumulator
from offbragg.reduction.air import AirRate


class AirByStays:
    """Adds the air's counts, stay by stay.

    A pixel stays in a cell for some frames, and all that time it is one measurement of the air
    that is used: its share of the variance goes with the square of the flux while it was there.

    Parameters
    ----------
    air
        Counts without the crystal.
    parts
        Number of parts into which a pixel of a frame is divided.
    shape
        Cells of the grid along h, k, l.
    fold
        Brings them into the part whose sums are kept.
    """

    def __init__(self, air: AirRate, parts: int, shape: Shape, fold: Fold | None) -> None:
        self._air, self._parts, self._shape, self._fold = air, parts, shape, fold
        size = (self._parts, *air.rate.shape)
        self._cell = np.full(size, NOWHERE, np.uint32)
        self._flux = np.zeros(size)

    def follow(self, parts: Sequence[Exposures], flux: Sequence[float], sums: Accumulator) -> None:
        """Follow each pixel through the frames of a batch; add what it leaves behind."""
        rows, columns = self._air.rate.shape
        band = (0, rows, 0, columns)
        for part, exposures in enumerate(parts):
            cell, since = self._cell[part], self._flux[part]
            for number, counts in enumerate(exposures.counts):
                where = places(exposures, self._shape, band, number)
                good = (counts >= 0) & (counts <= exposures.most) & (exposures.factor > 0)
                good &= where != NOWHERE
                moved = np.nonzero(good & (where != cell))
                self._leave(part, moved, sums)
                cell[moved] = where[moved]
                since[good] += flux[number] / self._parts

    def leave_all(self, sums: Accumulator) -> None:
        """Add what is left when the sweep ends."""
        for part in range(self._parts):
            self._leave(part, np.nonzero(self._cell[part] != NOWHERE), sums)
        self._cell[:] = NOWHERE

    def _leave(self, part: int, which: tuple[NDArray[np.intp], ...], sums: Accumulator) -> None:
        assert sums.air is not None
        cell, flux = self._cell[part][which], self._flux[part][which]
        known = cell != NOWHERE
        counts = self._air.rate[which] * flux / sums.unit("background")
        # parts of a pixel share its counts: taken as if all were in one cell
        spread = flux**2 * self._air.variance[which] * self._parts
        spread /= sums.unit("background_variance")
        whole = [np.rint(values[known]).astype(np.int64) for values in (counts, spread)]
        where = cell[known] if self._fold is None else folded(cell[known], self._fold)
        add(sums.air, where, whole[0], whole[1])
        self._flux[part][which] = 0.0
