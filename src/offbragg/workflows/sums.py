"""From a record to the sums that it describes."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ReductionError
from offbragg.files.mask import read_mask
from offbragg.files.scan_file import ScanFile
from offbragg.grid import Grid
from offbragg.reduction.accumulator import BY_STAYS, Accumulator
from offbragg.reduction.accumulator import weight_exponent as exponent_of
from offbragg.reduction.air import AirRate
from offbragg.reduction.binning import Binner
from offbragg.reduction.folding import Folding, Unfolded
from offbragg.reduction.reduce import ReductionSetup, add_frames, air_rate
from offbragg.reduction.symmetry import Laue, symmetrise
from offbragg.volume import Volume
from offbragg.workflows.choices import Choices, Progress
from offbragg.workflows.record import BackgroundInput, ReductionRecord, SweepInput
from offbragg.workflows.sweeps import Selection, opened, select

_NOTHING = "nothing was measured in the grid: no pixel of any frame with flux falls into it"


def weight_exponent(inputs: Sequence[SweepInput], choices: Choices | ReductionRecord) -> int:
    """Choose the unit of the weights of all sweeps."""
    found: list[int] = []
    for each in inputs:
        with opened(Path(each.file)) as scan:
            detector: Mapping[str, Any] = scan.start.get("detector") or {}
        most = float(choices.corrections.factor(each.geometry, detector).max())
        assert each.selection is not None
        found.append(exponent_of(most / choices.oversample.parts, float(each.selection.flux.max())))
    return min(found)


def background_exponents(record: ReductionRecord) -> tuple[int, int] | None:
    """Choose the units of background and variance of all sweeps; None without a background."""
    n = exponent(record)
    found: list[tuple[int, int]] = []
    for each in record.inputs:
        if each.background is not None:
            with prepared(replace(record, background_exponents=(0, 0)), each, threads=1) as sweep:
                units = sweep.setup.background_exponents(n)
            assert units is not None
            found.append(units)
    return (min(a for a, _ in found), min(b for _, b in found)) if found else None


def reduce_record(
    record: ReductionRecord, *, progress: Progress = lambda done, total: None
) -> Volume:
    """Make the volume that a record describes; parameters as for `sum_record`."""
    sums = sum_record(record, progress=progress)
    return sums if isinstance(sums, Volume) else sums.volume()


def sum_record(
    record: ReductionRecord, *, progress: Progress = lambda done, total: None
) -> Accumulator | Unfolded | Volume:
    """Make the sums that a record describes.

    Parameters
    ----------
    record
        With absolute paths.
    progress
        Called with the number of frames that are done, and of all.

    Returns
    -------
    sums
        An accumulator, a view of one that was folded; a volume where they were symmetrised or cut.
    """
    sums = empty_sums(record)
    total, before = sum(each.frames for each in record.inputs), 0
    for each in record.inputs:
        with prepared(record, each) as sweep:

            def report(done: int, _: int, so_far: int = before) -> None:
                progress(so_far + done, total)

            sweep.add(sums, progress=report)
            before += sweep.frames
    return finished(record, sums)


def empty_sums(record: ReductionRecord) -> Accumulator:
    """Make the sums that the frames of a record are added to."""
    by = folding(record)
    units = record.background_exponents
    if units is None and record.inputs[0].background is not None:
        units = BY_STAYS
    return Accumulator(
        record.binned if by is None else by.part, exponent(record), parts=record.oversample.parts,
        background=units, sample=record.sample,
        symmetry="" if by is None else by.laue.name,
    )  # fmt: skip


def folding(record: ReductionRecord) -> Folding | None:
    """Return how the sums of a record are folded; None: they are not."""
    return Folding.of(record.binned, Laue.named(record.symmetry)) if record.fold else None


def exponent(record: ReductionRecord) -> int:
    """Return n of the unit 2⁻ⁿ of a record's weights."""
    if record.weight_exponent is not None:
        return record.weight_exponent
    return weight_exponent(  # written before weights were whole numbers
        [replace(each, selection=selection(each, record)) for each in record.inputs], record
    )


def finished(record: ReductionRecord, sums: Accumulator) -> Accumulator | Unfolded | Volume:
    """Symmetrise and cut the sums of all frames of a record, where it says so.

    Raises
    ------
    ReductionError
        If nothing was measured.
    """
    if is_as_binned(sums, record):
        return sums
    if (by := folding(record)) is not None:
        return Unfolded(sums, by, record.grid)
    volume = sums.volume()
    del sums
    return symmetrised(volume, record)


def is_as_binned(sums: Accumulator, record: ReductionRecord) -> bool:
    """Return whether the sums are the volume: neither to be symmetrised nor to be cut.

    Raises
    ------
    ReductionError
        If nothing was measured in the grid.
    """
    if not any(sums.integers("weight", number).any() for number in sums.touched()):
        raise ReductionError(_NOTHING)
    return not record.symmetry and record.grid == record.binned


def symmetrised(volume: Volume, record: ReductionRecord) -> Volume:
    """Return the volume of all that was binned, symmetrised and cut as the record has it.

    It takes the arrays of ``volume``.

    Raises
    ------
    ReductionError
        If nothing was measured in the grid.
    """
    if record.symmetry:
        volume = symmetrise(volume, Laue.named(record.symmetry), overwrite=True)
    if record.grid != record.binned:
        volume = volume[_part(record.binned, record.grid)]
    if not np.any(volume.weight):
        raise ReductionError(_NOTHING)
    return volume


@dataclass(frozen=True, slots=True, eq=False)
class PreparedSweep:
    """One sweep of a record, open, with all that is needed to add its frames.

    Parameters
    ----------
    scan
        Its scan file.
    setup
        What does not change from frame to frame.
    selection
        What of it counts.
    masked
        Pixels that the scan file or the user masked, without the hot ones, shape (slow, fast).
    """

    scan: ScanFile
    setup: ReductionSetup
    selection: Selection
    masked: NDArray[np.bool_]

    @property
    def frames(self) -> int:
        """Number of frames that add something."""
        return int(np.count_nonzero(self.selection.flux[: len(self.scan.stack)] > 0))

    def add(
        self,
        sums: Accumulator,
        *,
        begin: int = 0,
        end: int | None = None,
        binner: Binner | None = None,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Add its frames from one number to another (one past the last) to sums.

        A ``binner`` of ``setup.binner()`` is prepared once for many calls.
        """
        stack = self.scan.stack
        part = slice(begin, len(stack) if end is None else min(end, len(stack)))
        add_frames(
            stack[part], self.setup, self.selection.flux[part], sums,
            angles=self.scan.frame_values()["angle"][part], binner=binner, progress=progress,
        )  # fmt: skip


@contextmanager
def prepared(
    record: ReductionRecord, each: SweepInput, *, threads: int | None = None
) -> Generator[PreparedSweep]:
    """Open a sweep of a record, and find what is needed to add its frames.

    Parameters
    ----------
    record
        With absolute paths.
    each
        One of its inputs.
    threads
        Number of threads; the result does not depend on it.

    Raises
    ------
    ReductionError
        If a file is not there, or the mask does not fit.
    """
    with opened(Path(each.file)) as scan:
        masked = masked_pixels(record, scan)
        chosen = each.selection or selection(each, record)
        setup = sweep_setup(
            replace(each, selection=chosen), record, scan, masked=masked, threads=threads
        )
        yield PreparedSweep(scan, setup, chosen, masked)


def masked_pixels(record: ReductionRecord, scan: ScanFile) -> NDArray[np.bool_]:
    """Return the pixels that the scan file or the user masked, without the hot ones.

    Raises
    ------
    ReductionError
        If the mask does not fit.
    """
    masked = scan.pixel_mask() != 0
    if record.mask is not None:
        user_mask = read_mask(record.mask.name, inverted=record.mask.inverted)
        if user_mask.shape != masked.shape:
            raise ReductionError(f"the mask has shape {user_mask.shape}, the frames {masked.shape}")
        masked |= user_mask
    return masked


def sweep_setup(
    each: SweepInput,
    record: ReductionRecord,
    scan: ScanFile,
    *,
    masked: NDArray[np.bool_] | None = None,
    threads: int | None = None,
) -> ReductionSetup:
    """Return what does not change from frame to frame of a sweep, by the record.

    Parameters
    ----------
    each
        The sweep, with its selection.
    record
        With absolute paths.
    scan
        Its scan file.
    masked
        Of `masked_pixels`, if they were found before.
    threads
        Number of threads; the result does not depend on it.
    """
    detector: Mapping[str, Any] = scan.start.get("detector") or {}
    masked = masked_pixels(record, scan) if masked is None else masked
    assert each.selection is not None
    air = None
    if each.background is not None:
        air = _air(
            each.background, record.background_scale, record.monitor, record.hot,
            detector.get("saturation"), record.background_exponents is None,
        )  # fmt: skip
        air = replace(air, frames=scan.n_frames)
    return ReductionSetup(
        each.geometry, each.UB, record.binned, record.corrections, detector,
        masked | each.selection.hot_mask(masked.shape), record.oversample, air, record.sample,
        threads, folding(record),
    )  # fmt: skip


def selection(each: SweepInput, record: ReductionRecord) -> Selection:
    """Find again what of a sweep counts."""
    with opened(Path(each.file)) as scan:
        return select(scan, monitor=record.monitor, hot=record.hot, damaged=each.damaged)


@lru_cache(maxsize=2)  # the units of the sums are chosen by it before frames are added
def _air(
    background: BackgroundInput,
    scale: float,
    monitor: bool,
    hot: bool,
    saturation: float | None,
    by_stays: bool,
) -> AirRate:
    """Return what each pixel counts without the crystal, times the background's scale."""
    with opened(Path(background.file)) as empty:
        chosen = select(
            empty, monitor=monitor, hot=hot, damaged=background.damaged, least_turn=0.0
        )  # fmt: skip
        return air_rate(
            empty.stack,
            chosen.flux / scale,
            mask=chosen.hot_mask(empty.shape),
            saturation=saturation,
            by_stays=by_stays,
        )


def _part(grid: Grid, wanted: Grid) -> tuple[slice, slice, slice]:
    """Return the slices of the cells of one grid inside another."""
    h, k, l = (  # noqa: E741
        slice(a - first, b - first)
        for a, b, first in zip(wanted.first, wanted.end, grid.first, strict=True)
    )
    return h, k, l
