"""What was counted in reciprocal space: the box of cells, and the sums in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from offbragg.errors import ReductionError
from offbragg.grid import NAMES, Array, Grid, Mask, Three
from offbragg.sample import Sample


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Volume:
    """What was counted in each hkl cell, and how long we looked there.

    The sums are kept apart so that volumes add: live chunks, detector positions and repeats
    merge by ``+`` in any order, and the division is done once, on reading.

    Parameters
    ----------
    counts
        Sum of the counts in each cell, float64, shape of the grid (h, k, l).
    weight
        Sum of flux × solid angle × corrections in each cell, same shape; 0 where nothing was
        measured.
    grid
        Where the cells are, r.l.u.
    variance
        Of ``counts``, counts², same shape, if it differs from them: a pixel that was divided among
        cells is not a Poisson count in any of them. None: variance is ``counts``.
    background
        Counts that are expected without the crystal, same shape; None: not subtracted.
    background_variance
        Of ``background``, counts², same shape.
    sample
        The crystal; volumes of different ones do not add.
    symmetry
        Laue class over which the sums were made; its equivalent cells hold the same sums.

    Raises
    ------
    ReductionError
        If an array has another shape than the grid, or a background has no variance.

    Examples
    --------
    >>> once = Volume(np.array([3.0, 0.0]), np.array([1.0, 0.0]))
    >>> (once + Volume(np.array([21.0, 4.0]), np.array([7.0, 2.0]))).intensity
    array([3., 2.])
    """

    counts: Array
    weight: Array
    grid: Grid | None = None
    variance: Array | None = None
    background: Array | None = None
    background_variance: Array | None = None
    sample: Sample | None = None
    symmetry: str = ""

    def __post_init__(self) -> None:
        shape = self.counts.shape if self.grid is None else self.grid.shape
        for name in ("counts", "weight", "variance", "background", "background_variance"):
            array: Array | None = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ReductionError(f"volume.{name} has shape {array.shape}: it must be {shape}")
        if (self.background is None) != (self.background_variance is None):
            raise ReductionError("a volume's background and its variance come together")

    @classmethod
    def empty(
        cls,
        grid: Grid,
        *,
        sample: Sample | None = None,
        variance: bool = False,
        background: bool = False,
    ) -> Volume:
        """Make a volume in which nothing was measured yet.

        Parameters
        ----------
        grid
            Where the cells are.
        sample
            The crystal.
        variance, background
            Whether these are to be kept, too.
        """

        def new(wanted: bool) -> Array | None:
            return np.zeros(grid.shape) if wanted else None

        return cls(
            np.zeros(grid.shape), np.zeros(grid.shape), grid, new(variance),
            new(background), new(background), sample,
        )  # fmt: skip

    def __repr__(self) -> str:
        where = " × ".join(map(str, self.counts.shape)) + " cells"
        if self.grid is not None:
            where = ", ".join(
                f"{name} {axis[0]:g} to {axis[-1]:g} by 1/{n}"
                for name, axis, n in zip(
                    NAMES, (self.grid.h, self.grid.k, self.grid.l), self.grid.per_unit, strict=True
                )
            )
        sample = "" if self.sample is None else f"{self.sample.name} {self.sample.label}; "
        symmetry = f"; {self.symmetry}" if self.symmetry else ""
        background = "" if self.background is None else ", background subtracted"
        return (
            f"<Volume {sample}{where}; {self.completeness:.1%} of {self.counts.size} cells "
            f"measured; {float(self.counts.sum()):.4g} counts{background}{symmetry}>"
        )

    @property
    def intensity(self) -> Array:
        """Counts above background per weight, shape (h, k, l); NaN where nothing was measured."""
        above = self.counts if self.background is None else self.counts - self.background
        return _divide(above, self.weight)

    @property
    def sigma(self) -> Array:
        """Standard deviation of the intensity, from the counts; NaN where nothing was measured.

        Where nothing was counted it is 0: a mean over cells must weigh by ``weight``, not by
        1/sigma².
        """
        return _divide(np.sqrt(self.total_variance), self.weight)

    @property
    def total_variance(self) -> Array:
        """Variance of the counts above background, counts², shape (h, k, l)."""
        own = self.counts if self.variance is None else self.variance
        return own if self.background_variance is None else own + self.background_variance

    @property
    def measured(self) -> Mask:
        """Mask of the cells that were measured, shape (h, k, l)."""
        return self.weight > 0

    @property
    def completeness(self) -> float:
        """Fraction of the cells that were measured, 0 to 1."""
        return float(np.count_nonzero(self.weight)) / max(self.weight.size, 1)

    def __add__(self, other: Volume) -> Volume:
        check_mergeable(self, other)

        def both(a: Array | None, b: Array | None) -> Array | None:
            return None if a is None or b is None else a + b

        variance = None
        if self.variance is not None or other.variance is not None:
            mine, its = (v.counts if v.variance is None else v.variance for v in (self, other))
            variance = mine + its
        return replace(
            self,
            counts=self.counts + other.counts,
            weight=self.weight + other.weight,
            variance=variance,
            background=both(self.background, other.background),
            background_variance=both(self.background_variance, other.background_variance),
            sample=self.sample or other.sample,
        )

    def subtract(self, background: Volume, *, scale: float = 1.0) -> Volume:
        """Subtract another volume's intensity from this one's; the variances add.

        Cells that the background does not know become unmeasured: what is in them above it
        cannot be known. The background of several sweeps that share it is subtracted from their
        sum, not from each: so its variance is counted as often as it is there.

        Parameters
        ----------
        background
            On the same grid.
        scale
            Factor on the background, e.g. the crystal's transmission.

        Raises
        ------
        ReductionError
            If the grids differ, or a background is subtracted already.

        Examples
        --------
        >>> data = Volume(np.array([30.0, 5.0]), np.array([2.0, 1.0]))
        >>> air = Volume(np.array([8.0, 0.0]), np.array([4.0, 0.0]))
        >>> above = data.subtract(air)
        >>> above.intensity, above.sigma.round(3)
        (array([13., nan]), array([2.828,   nan]))
        """
        if background.grid != self.grid or background.counts.shape != self.counts.shape:
            raise ReductionError(f"background on another grid ({background.grid}): {self.grid}")
        if self.background is not None:
            raise ReductionError("this volume's background is subtracted already")
        known = background.weight > 0
        times = np.where(known, scale * self.weight, 0.0)
        own_variance = None if self.variance is None else np.where(known, self.variance, 0.0)
        return replace(
            self,
            counts=np.where(known, self.counts, 0.0),
            weight=np.where(known, self.weight, 0.0),
            variance=own_variance,
            background=times * np.nan_to_num(background.intensity),
            background_variance=(times * np.nan_to_num(background.sigma)) ** 2,
        )

    def __getitem__(self, part: tuple[slice, slice, slice]) -> Volume:
        """Cut out a smaller box.

        Parameters
        ----------
        part
            Slices of cell indices along h, k, l, in steps of 1.

        Raises
        ------
        ReductionError
            If the part is empty, has another step, or the volume has no grid.
        """
        if self.grid is None:
            raise ReductionError("a volume without a grid has no part")
        bounds = [s.indices(n) for s, n in zip(part, self.grid.shape, strict=True)]
        if any(step != 1 or stop <= start for start, stop, step in bounds):
            raise ReductionError(f"{part} is not a box inside {self.grid}")
        grid = Grid(
            cast(Three, tuple(a + b[0] for a, b in zip(self.grid.first, bounds, strict=True))),
            cast(Three, tuple(b[1] - b[0] for b in bounds)),
            self.grid.per_unit,
        )
        cut = {
            name: None if (array := getattr(self, name)) is None else array[part]
            for name in ("counts", "weight", "variance", "background", "background_variance")
        }
        return replace(self, grid=grid, **cut)


def check_mergeable(one: Volume, other: Volume) -> None:
    """Refuse to add what is not the same measurement of the same crystal.

    Raises
    ------
    ReductionError
        Saying what differs.
    """
    if one.grid != other.grid or one.counts.shape != other.counts.shape:
        raise ReductionError(
            f"volumes on different grids do not add: {one.grid} and {other.grid}\n"
            "Reduce both with the same --grid."
        )
    if one.symmetry != other.symmetry:
        raise ReductionError(
            f"volumes of different symmetry do not add: {one.symmetry or 'none'} and "
            f"{other.symmetry or 'none'}\nAdd first, then symmetrise."
        )
    if (one.background is None) != (other.background is None):
        raise ReductionError("of two volumes, only one has its background subtracted: do both")
    if one.sample is not None and other.sample is not None:
        check_same_sample(one.sample, other.sample)


def check_same_sample(one: Sample, other: Sample) -> None:
    """Refuse to merge two crystals.

    The lattice may have grown with temperature, but by no more than 2 % or 1 degree.

    Raises
    ------
    ReductionError
        Naming both.
    """
    for field in ("name", "label", "space_group"):
        mine, its = getattr(one, field), getattr(other, field)
        if mine is not None and its is not None and mine != its:
            raise ReductionError(
                f"different samples do not merge: sample.{field} is {mine!r} and {its!r}\n"
                "Reduce them one by one."
            )
    if one.lattice is not None and other.lattice is not None:
        a, b = np.array(one.lattice), np.array(other.lattice)
        apart = np.abs(a - b)
        if np.any(apart[:3] > 0.02 * a[:3]) or np.any(apart[3:] > 1.0):
            raise ReductionError(
                f"different samples do not merge: sample.lattice is {list(one.lattice)} and "
                f"{list(other.lattice)}\nReduce them one by one."
            )


def _divide(value: Array, by: Array) -> Array:
    out = np.full(value.shape, np.nan)
    np.divide(value, by, out=out, where=by > 0)
    return out
