"""`Stack` in, `Volume` out: the same function for a whole sweep and for each new piece of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offbragg.errors import GeometryError, ReductionError
from offbragg.geometry import Geometry
from offbragg.grid import Grid, extent
from offbragg.lattice import direct_basis
from offbragg.reduction.accumulator import BY_STAYS, Accumulator, weight_exponent
from offbragg.reduction.air import AirRate
from offbragg.reduction.binning import Binner, FrameToAdd, Oversample, check_memory
from offbragg.reduction.corrections import Corrections
from offbragg.reduction.folding import Folding
from offbragg.sample import Sample
from offbragg.stack import Stack, read_frame
from offbragg.sweep import Sweep
from offbragg.volume import Volume

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class ReductionSetup:
    """Everything about a sweep that does not change from frame to frame.

    Parameters
    ----------
    geometry
        Beam, panel and goniometer.
    UB
        Orientation matrix, Å⁻¹ without 2π, shape (3, 3).
    grid
        The cells.
    corrections
        Which corrections are applied.
    detector
        Facts of the sensor, as in a start document: ``sensor_material``, ``sensor_thickness``,
        ``saturation``.
    mask
        Pixels that must not count, shape (slow, fast); negative counts never do.
    oversample
        Number of parts into which pixels and frames are divided.
    air
        Counts of each pixel without the crystal, to subtract.
    sample
        The crystal, for the volume.
    threads
        Number of threads; the result does not depend on it.
    folding
        Of ``grid``: sums are kept of the part that a Laue class does not repeat; None: of all.

    Raises
    ------
    GeometryError
        If ``UB`` is singular, left-handed, or in other units than the lattice; or lengths of the
        geometry cannot be Å and mm.
    """

    geometry: Geometry
    UB: Array
    grid: Grid
    corrections: Corrections = field(default_factory=Corrections)
    detector: Mapping[str, Any] = field(default_factory=dict[str, Any])
    mask: Mask | None = None
    oversample: Oversample = field(default_factory=Oversample)
    air: AirRate | None = None
    sample: Sample | None = None
    threads: int | None = None
    folding: Folding | None = None

    def __post_init__(self) -> None:
        lattice = None if self.sample is None else self.sample.lattice
        object.__setattr__(self, "UB", check_UB(self.UB, lattice))
        check_units(self.geometry)
        if self.mask is not None and self.mask.shape != self.geometry.panel.shape:
            raise ReductionError(
                f"the mask has shape {self.mask.shape}, the frames {self.geometry.panel.shape}"
            )

    def check_memory(self, *, arrays: float | None = None) -> None:
        """Refuse a grid whose sums would not fit into memory.

        Parameters
        ----------
        arrays
            Number of values of 8 bytes that each cell will have; None: those of a `Volume`.

        Raises
        ------
        ReductionError
            Before anything is allocated.
        """
        variance, air = self.oversample.parts > 1, self.air is not None
        check_memory(self.grid, arrays=arrays or 2 + variance + 2 * air)

    def empty(self) -> Volume:
        """Make the volume that its frames can be added to.

        Raises
        ------
        ReductionError
            If it would not fit into memory; nothing is allocated then.
        """
        self.check_memory()
        return Volume.empty(
            self.grid, sample=self.sample, variance=self.oversample.parts > 1,
            background=self.air is not None,
        )  # fmt: skip

    def factor(self) -> Array:
        """Return the weight of each pixel for a flux of one, shape (slow, fast)."""
        factor = self.corrections.factor(self.geometry, self.detector)
        return factor if self.mask is None else np.where(self.mask, 0.0, factor)

    def exponent(self, flux: float) -> int:
        """Choose the unit 2⁻ⁿ of the weights for the largest flux during a frame.

        It does not depend on the mask.
        """
        factor = self.corrections.factor(self.geometry, self.detector)
        return weight_exponent(float(np.nanmax(factor)) / self.oversample.parts, flux)

    def background_exponents(self, exponent: int) -> tuple[int, int] | None:
        """Choose the units of the background for the flux that the unit 2⁻ⁿ of weights allows.

        Parameters
        ----------
        exponent
            n, of `exponent`.

        Returns
        -------
        exponents
            n of the background and of its variance; None if there is no background.
        """
        if self.air is None:
            return None
        if self.air.by_stays:
            return BY_STAYS
        return self.air.exponents(2.0 ** (self.exponent(1.0) - exponent), self.oversample.parts)

    def accumulator(
        self, exponent: int, *, background: tuple[int, int] | None = None
    ) -> Accumulator:
        """Make the sums that its frames can be added to.

        Parameters
        ----------
        exponent
            n of the unit 2⁻ⁿ of weights.
        background
            The same of the background and its variance; None: those for this sweep.
        """
        folding = self.folding
        return Accumulator(
            self.grid if folding is None else folding.part, exponent, parts=self.oversample.parts,
            background=background or self.background_exponents(exponent), sample=self.sample,
            symmetry="" if folding is None else folding.laue.name,
        )  # fmt: skip

    def binner(self) -> Binner:
        """Compute, once, where every pixel looks and its weight."""
        return Binner(
            self.geometry, self.UB, self.grid, self.factor(),
            saturation=self.detector.get("saturation"), oversample=self.oversample,
            air=self.air, threads=self.threads,
            fold=None if self.folding is None else self.folding.kernel,
        )  # fmt: skip


def reduce(
    stack: Stack,
    setup: ReductionSetup,
    flux: Array,
    *,
    angles: Array | None = None,
    into: Volume | None = None,
    binner: Binner | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Volume:
    """Sum the frames of a stack, or of a part of one, into a volume.

    Parameters
    ----------
    stack
        The frames; one whose pixels are all negative was not stored and adds nothing.
    setup
        What does not change from frame to frame.
    flux
        On the crystal during each frame of the stack (see `corrections.frame_weights`); frames
        without flux are not read.
    angles
        Of the middle of each frame as it was read, degree; NaN and None: as commanded.
    into
        A volume of ``setup.empty()`` or of an earlier call, to which the frames are added in
        place. None: a new one.
    binner
        Of ``setup.binner()``, to prepare it once for many calls.
    progress
        Called with the number of frames that are done, and of all.

    Returns
    -------
    volume
        ``into``, or the new one.
    """
    volume = setup.empty() if into is None else into
    if volume.grid != setup.grid:
        raise ReductionError(f"the volume to add to has another grid: {volume.grid}")
    if setup.air is not None and volume.background is None:
        raise ReductionError("the volume to add to keeps no background: take setup.empty()")
    if setup.oversample.parts > 1 and volume.variance is None:
        raise ReductionError("the volume to add to keeps no variance: take setup.empty()")
    most = float(np.max(flux, initial=0.0, where=np.isfinite(flux)))
    if most > 0:
        sums = setup.accumulator(setup.exponent(most))
        add_frames(
            stack, setup, flux, sums, angles=angles, binner=binner, progress=progress
        )  # fmt: skip
        sums.add_to(volume)
    else:
        _check(stack, setup, flux)
    return volume


def add_frames(
    stack: Stack,
    setup: ReductionSetup,
    flux: Array,
    sums: Accumulator,
    *,
    angles: Array | None = None,
    binner: Binner | None = None,
    subtract: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Add the frames of a stack to sums, or take them away again.

    Parameters
    ----------
    stack, setup, flux, angles, binner, progress
        As for `reduce`.
    sums
        Of ``setup.accumulator()``; they are changed.
    subtract
        Take frames away that were added before, with the same flux and angles.
    """
    _check(stack, setup, flux)
    middle = stack.angles if angles is None else np.where(np.isfinite(angles), angles, stack.angles)
    half = 0.5 * stack.sweep.step
    which = np.flatnonzero(np.isfinite(flux) & (flux > 0))
    total, count = len(which), 0

    def frames() -> Iterator[FrameToAdd]:
        for i in which:
            yield FrameToAdd(
                _reader(stack, int(i)), float(middle[i] - half), float(middle[i] + half),
                float(flux[i]),
            )  # fmt: skip

    def one_more() -> None:
        nonlocal count
        count += 1
        progress(count, total)

    (binner or setup.binner()).add(frames(), sums, subtract=subtract, done=one_more)


def _reader(stack: Stack, number: int) -> Callable[[NDArray[np.int32]], None]:
    def read(out: NDArray[np.int32]) -> None:
        counts = read_frame(stack.counts, number, out)
        if counts is not out:
            np.copyto(out, counts)

    return read


def _check(stack: Stack, setup: ReductionSetup, flux: Array) -> None:
    """Refuse frames that do not fit to what they are reduced with."""
    if stack.counts.shape[1:] != setup.geometry.panel.shape:
        raise GeometryError(
            f"frames of {stack.counts.shape[1:]} pixels for a panel of "
            f"{setup.geometry.panel.shape} (slow, fast)"
        )
    if flux.shape != (len(stack),):
        raise ReductionError(f"{len(stack)} frames have flux of shape {flux.shape}")
    if stack.sweep.axis != setup.geometry.scan_axis:
        raise GeometryError(
            f"the sweep turns {stack.sweep.axis!r}, but the geometry's scan axis is "
            f"{setup.geometry.scan_axis!r}"
        )


def air_rate(
    stack: Stack,
    flux: Array,
    *,
    mask: Mask | None = None,
    saturation: float | None = None,
    by_stays: bool = False,
) -> AirRate:
    """Average frames without the crystal: what each pixel counts for a flux of one.

    Air and windows stand still while the crystal turns, so all frames of an air run measure the
    same scattering, whatever their angles: rate = Σ counts / Σ flux, with variance
    Σ counts / (Σ flux)².

    Parameters
    ----------
    stack
        Frames of the air run.
    flux
        During each of them, in the unit of the data's.
    mask, saturation
        As for `ReductionSetup`.
    by_stays
        As `AirRate` has it.

    Returns
    -------
    air
        A pixel that counted during less than a quarter of the time is not known: its variance
        would set the unit for all others (by stays: one that never did).
    """
    counts = np.zeros(stack.counts.shape[1:])
    time = np.zeros(stack.counts.shape[1:])
    for i in np.flatnonzero(np.isfinite(flux) & (flux > 0)):
        frame = np.asarray(stack.counts[int(i)])
        good = frame >= 0
        if saturation is not None:
            good &= frame < saturation
        counts[good] += frame[good]
        time[good] += flux[i]
    if mask is not None:
        time[mask] = 0.0
    if not time.any():
        raise ReductionError("the background has no frame with flux")
    known = time > (0.0 if by_stays else 0.25 * time.max())
    rate, variance = np.full(counts.shape, np.nan), np.full(counts.shape, np.nan)
    rate[known] = counts[known] / time[known]
    # what was never counted is still not known to be nothing: one count more
    variance[known] = np.maximum(counts[known], 1.0) / time[known] ** 2
    return AirRate(rate, variance, by_stays=by_stays)


def check_UB(UB: ArrayLike, lattice: Sequence[float] | None = None) -> Array:
    """Refuse a matrix that is not an orientation of this lattice.

    Raises
    ------
    GeometryError
        If it is singular, left-handed, contains 2π, or has another cell than the lattice.
    """
    matrix = np.asarray(UB, np.float64)
    if matrix.shape != (3, 3) or not np.all(np.isfinite(matrix)):
        raise GeometryError(f"UB must be 3 × 3 finite numbers, not {matrix.tolist()}")
    if np.linalg.cond(matrix) > 1e9:
        raise GeometryError(f"UB is singular: its rows are {matrix.tolist()}")
    determinant = float(np.linalg.det(matrix))
    if determinant < 0:
        raise GeometryError(
            f"UB is left-handed: its determinant is {determinant:.4g} Å⁻³\n"
            "Its columns are the reciprocal basis vectors: change the sign of all of them, or the "
            "order of two."
        )
    lengths = np.linalg.norm(np.linalg.inv(matrix), axis=1)  # a, b, c
    if lattice is not None:
        expected = np.array(lattice[:3], np.float64)
        ratio = lengths / expected
        if np.all(np.abs(ratio * 2 * math.pi - 1) < 0.05):
            raise GeometryError(
                f"UB contains 2π: it gives axes of {_list(lengths)} Å, the lattice has "
                f"{_list(expected)} Å\nDivide it by 2π."
            )
        A = direct_basis(lattice)
        apart = np.linalg.inv(matrix) @ np.linalg.inv(matrix).T - A.T @ A
        if np.any(np.abs(apart) > 0.05 * np.outer(expected, expected)):
            raise GeometryError(
                f"UB does not belong to the lattice: it gives axes of {_list(lengths)} Å, the "
                f"lattice is {_list(lattice)} (Å, degree)\nUB is in Å⁻¹, without 2π."
            )
    elif lengths.max() > 1000 or lengths.min() < 0.5:
        raise GeometryError(f"UB gives axes of {_list(lengths)} Å: is it in Å⁻¹, without 2π?")
    return matrix


def check_units(geometry: Geometry) -> None:
    """Refuse a geometry whose numbers cannot be Å and mm.

    Raises
    ------
    GeometryError
        Naming the number.
    """
    if not 0.04 <= geometry.wavelength <= 12.0:
        raise GeometryError(
            f"wavelength {geometry.wavelength:g} Å is not one that a Pilatus detects: is it in nm, "
            "or an energy?"
        )
    for size in geometry.panel.pixel_size:
        if not 0.005 <= size <= 5.0:
            raise GeometryError(f"panel.pixel_size {size:g} mm: is it in m, or in µm?")
    away = float(np.linalg.norm(geometry.panel.origin))
    if not 1.0 <= away <= 1e5:
        raise GeometryError(f"panel.origin is {away:g} mm from the crystal: is it in m?")


def check_overlap(grid: Grid, geometry: Geometry, sweep: Sweep, UB: Array) -> None:
    """Refuse a grid that no frame of the sweep reaches.

    Raises
    ------
    ReductionError
        With what is measured, and what was asked for.
    """
    low, high = extent(geometry, sweep, UB)
    n = np.array(grid.per_unit)
    first, last = (np.array(grid.first) - 0.5) / n, (np.array(grid.end) - 0.5) / n
    if np.any(first > high) or np.any(last < low):
        seen = ", ".join(
            f"{x} {a:.3g} to {b:.3g}" for x, a, b in zip("hkl", low, high, strict=True)
        )
        raise ReductionError(f"no frame reaches the grid ({grid}): the sweep sees {seen}")


def _list(values: Iterable[float]) -> str:
    return ", ".join(f"{float(v):.4g}" for v in values)
