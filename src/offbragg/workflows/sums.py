"""From a record to the sums that it describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from offbragg.errors import ReductionError
from offbragg.files.mask import read_mask
from offbragg.files.scan_file import ScanFile
from offbragg.grid import Grid
from offbragg.reduction.accumulator import Accumulator
from offbragg.reduction.accumulator import weight_exponent as exponent_of
from offbragg.reduction.binning import AirRate
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
            factor = choices.corrections.factor(each.geometry, scan.start.get("detector") or {})
        assert each.selection is not None
        found.append(
            exponent_of(
                float(factor.max()) / choices.oversample.parts, float(each.selection.flux.max())
            )
        )
    return min(found)


def reduce_record(
    record: ReductionRecord, *, progress: Progress = lambda done, total: None
) -> Volume:
    """Make the volume that a record describes; parameters as for `sum_record`."""
    sums = sum_record(record, progress=progress)
    return sums if isinstance(sums, Volume) else sums.volume()


def sum_record(
    record: ReductionRecord, *, progress: Progress = lambda done, total: None
) -> Accumulator | Volume:
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
        An accumulator; a volume where they were symmetrised or cut.
    """
    total = sum(each.frames for each in record.inputs)
    before = 0
    sums: Accumulator | None = None
    exponent = record.weight_exponent
    if exponent is None:  # written before weights were whole numbers
        exponent = weight_exponent(
            [replace(each, selection=_selection(each, record)) for each in record.inputs], record
        )
    for each in record.inputs:
        with opened(Path(each.file)) as scan:
            stack = scan.stack
            chosen = each.selection or _selection(each, record)
            setup = sweep_setup(replace(each, selection=chosen), record, scan)
            if sums is None:
                sums = setup.accumulator(exponent)
            flux = chosen.flux[: len(stack)]
            angles = scan.frame_values()["angle"][: len(stack)]
            done_before = before

            def report(done: int, _: int, so_far: int = done_before) -> None:
                progress(so_far + done, total)

            add_frames(stack, setup, flux, sums, angles=angles, progress=report)
            before += int(np.count_nonzero(flux > 0))
    assert sums is not None
    if is_as_binned(sums, record):
        return sums
    volume = sums.volume()
    del sums
    return symmetrised(volume, record)


def sweep_setup(each: SweepInput, record: ReductionRecord, scan: ScanFile) -> ReductionSetup:
    """Return what does not change from frame to frame of a sweep, by the record.

    Parameters
    ----------
    each
        The sweep, with its selection.
    record
        With absolute paths.
    scan
        Its scan file.
    """
    detector: Mapping[str, Any] = scan.start.get("detector") or {}
    mask = scan.pixel_mask() != 0
    if record.mask is not None:
        user_mask = read_mask(record.mask.name, inverted=record.mask.inverted)
        if user_mask.shape != mask.shape:
            raise ReductionError(f"the mask has shape {user_mask.shape}, the frames {mask.shape}")
        mask |= user_mask
    assert each.selection is not None
    mask |= each.selection.hot_mask(mask.shape)
    air = None
    if each.background is not None:
        air = _air(each.background, record, detector.get("saturation"))
    return ReductionSetup(
        each.geometry, each.UB, record.binned, record.corrections, detector, mask,
        record.oversample, air, record.sample,
    )  # fmt: skip


def is_as_binned(sums: Accumulator, record: ReductionRecord) -> bool:
    """Return whether the sums are the volume: neither to be symmetrised nor to be cut.

    Raises
    ------
    ReductionError
        If nothing was measured in the grid.
    """
    if not sums.total("weight"):
        raise ReductionError(_NOTHING)
    return not record.symmetry and record.grid == record.binned


def symmetrised(volume: Volume, record: ReductionRecord) -> Volume:
    """Return the volume of all that was binned, symmetrised and cut as the record has it.

    Raises
    ------
    ReductionError
        If nothing was measured in the grid.
    """
    if record.symmetry:
        volume = symmetrise(volume, Laue.named(record.symmetry))
    if record.grid != record.binned:
        volume = volume[_part(record.binned, record.grid)]
    if not np.any(volume.weight):
        raise ReductionError(_NOTHING)
    return volume


def _selection(each: SweepInput, record: ReductionRecord) -> Selection:
    """Find again what of a sweep counts."""
    with opened(Path(each.file)) as scan:
        return select(scan, monitor=record.monitor, hot=record.hot, damaged=each.damaged)


def _air(background: BackgroundInput, record: ReductionRecord, saturation: float | None) -> AirRate:
    """Return what each pixel counts without the crystal, times the background's scale."""
    with opened(Path(background.file)) as empty:
        chosen = select(
            empty, monitor=record.monitor, hot=record.hot, damaged=background.damaged,
            least_turn=0.0,
        )  # fmt: skip
        stack = empty.stack
        return air_rate(
            stack,
            chosen.flux / record.background_scale,
            mask=chosen.hot_mask(empty.shape),
            saturation=saturation,
        )


def _part(grid: Grid, wanted: Grid) -> tuple[slice, slice, slice]:
    """Return the slices of the cells of one grid inside another."""
    h, k, l = (  # noqa: E741
        slice(a - first, b - first)
        for a, b, first in zip(wanted.first, wanted.end, grid.first, strict=True)
    )
    return h, k, l
