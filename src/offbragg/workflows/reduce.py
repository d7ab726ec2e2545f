"""From scan files to a volume, by a record that is kept in the volume's file.

Everything that is chosen or found (orientation, background, grid, the frames and pixels that count)
goes into a `ReductionRecord` first; the volume is then made from the record and the files that it
names, and from nothing else. So the record is enough to reproduce the volume.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ReductionError
from offbragg.files.checked import REPAIR
from offbragg.files.digest import sha256
from offbragg.files.mask import read_mask, split_name
from offbragg.files.orientation import read_orientation
from offbragg.files.scan_file import ScanFile
from offbragg.files.volume_file import VolumeFile
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.lattice import lattice_of
from offbragg.reduction.accumulator import Accumulator
from offbragg.reduction.binning import check_memory
from offbragg.reduction.folding import Unfolded
from offbragg.reduction.hot_pixels import LEAST_TURN
from offbragg.reduction.reduce import check_overlap, check_UB, check_units
from offbragg.reduction.symmetry import Laue
from offbragg.sample import Sample
from offbragg.volume import Volume, check_same_sample
from offbragg.workflows.background import find_background
from offbragg.workflows.choices import START, Choices, Progress, Say
from offbragg.workflows.orientation import (
    check_same_lattice,
    check_same_orientation,
    orientation_of,
)
from offbragg.workflows.record import BackgroundInput, MaskInput, ReductionRecord, SweepInput
from offbragg.workflows.sums import background_exponents, sum_record, weight_exponent
from offbragg.workflows.sweeps import (
    Compared,
    describe_glitch,
    header_contradictions,
    opened,
    select,
    temperature_of,
)

_SAME_TEMPERATURE = 2.0  # K: what is further apart is another measurement
_MOST_MASKED = 0.5  # of the pixels that count
_FILLED = 0.5  # 8-byte values a cell takes for each sum: full rotations of a 2M, 601³ and more


def _warn(text: str) -> None:
    """Warn of what must not be overlooked, where the caller does not take the messages."""
    if "WARNING" in text:
        warnings.warn(text, stacklevel=4)


def reduce_files(
    files: Sequence[Path | str] | Path | str,
    choices: Choices | None = None,
    *,
    out: Path | str | None = None,
    scheduler: str | None = None,
    progress: Progress = lambda done, total: None,
    writing: Progress = lambda done, total: None,
    say: Say = _warn,
) -> Volume:
    """Make one volume of one scan file, or of several sweeps of the same crystal.

    Parameters
    ----------
    files
        Scan files; several are merged.
    choices
        Parameters of the reduction; None: the defaults.
    out
        The volume file to write, if one is wanted.
    scheduler
        Address of a Dask scheduler whose workers sum the frames; None: this process does.
    progress
        Called with the number of frames that are done, and of all.
    writing
        The same with bricks of the volume file.
    say
        Called with a message for each automatic choice (background, orientation, hot pixels) and
        for damaged frames. If it is left out, warnings become a `UserWarning`.

    Raises
    ------
    ReductionError
        If the sweeps do not belong together, nothing would be measured, or something that is
        needed is not known.
    """
    paths = [Path(files)] if isinstance(files, (str, Path)) else [Path(f) for f in files]
    record = build_record(paths, choices or Choices(), say=say)
    sums = _sum(record, scheduler, progress)
    if out is not None:
        write_volume(out, sums, record.relative_to(Path(out)).to_dict(), progress=writing)
    return sums if isinstance(sums, Volume) else sums.volume()


@dataclass(frozen=True, slots=True)
class VolumeWritten:
    """What is in a volume file that was made.

    Parameters
    ----------
    grid
        The cells.
    symmetry
        Laue class over which the sums were made; empty: none.
    completeness
        Measured part of the cells, 0 to 1.
    counts
        Sum over all cells.
    """

    grid: Grid
    symmetry: str
    completeness: float
    counts: float


def reduce_to_file(
    files: Sequence[Path],
    choices: Choices,
    out: Path,
    *,
    scheduler: str | None = None,
    progress: Progress = lambda done, total: None,
    writing: Progress = lambda done, total: None,
    say: Say = _warn,
) -> VolumeWritten:
    """Make a volume file without having the whole volume in memory a second time.

    Parameters
    ----------
    files, choices, out, scheduler, progress, writing, say
        As for `reduce_files`.
    """
    record = build_record(files, choices, say=say)
    sums = _sum(record, scheduler, progress)
    write_volume(out, sums, record.relative_to(out).to_dict(), progress=writing)
    with VolumeFile(out) as file:
        completeness = file.completeness
    counts = float(sums.counts.sum()) if isinstance(sums, Volume) else sums.total("counts")
    return VolumeWritten(record.grid, sums.symmetry, completeness, counts)


def merge_and_reduce(
    *files: Path | str,
    grid: Grid | str | None = None,
    out: Path | str | None = None,
    scheduler: str | None = None,
    progress: Progress = lambda done, total: None,
    say: Say = _warn,
    **choices: Any,
) -> Volume:
    """Make one volume of one scan file or several, in one line.

    Parameters
    ----------
    files
        Scan files; several are merged.
    grid
        The cells, also as text: ``"-5:5:0.05,-5:5:0.05,-3:3:0.1"``.
    out
        The volume file to write, if one is wanted.
    scheduler, progress, say
        As for `reduce_files`.
    choices
        The fields of `Choices`: ``symmetry="m-3m"``, ``background="none"``, ``monitor=False``.
    """
    chosen = Choices(grid=Grid.parse(grid) if isinstance(grid, str) else grid, **choices)
    return reduce_files(
        list(files), chosen, out=out, scheduler=scheduler, progress=progress, say=say
    )


def _sum(
    record: ReductionRecord, scheduler: str | None, progress: Progress
) -> Accumulator | Unfolded | Volume:
    if scheduler is None:
        return sum_record(record, progress=progress)
    from offbragg.workflows.dask import sum_on_cluster  # an extra

    return sum_on_cluster(record, scheduler, progress=progress)


def build_record(
    paths: Sequence[Path],
    choices: Choices,
    *,
    say: Say,
    compared: Mapping[str, Compared] | None = None,
) -> ReductionRecord:
    """Find how a volume is made: from which files, with what, and which frames and pixels count.

    Parameters
    ----------
    paths, choices, say
        As for `reduce_files`.
    compared
        What was found by comparing frames before, by run; the record is the same.

    Returns
    -------
    record
        With absolute paths.
    """
    if not paths:
        raise ReductionError("no scan file is given")
    if choices.mask is None and (choices.invert_mask or choices.mask_over_half):
        raise ReductionError("no mask is given to invert or to accept: give one (--mask FILE)")
    mask_file = choices.mask
    user_mask = None if mask_file is None else read_mask(mask_file, inverted=choices.invert_mask)
    inputs: list[SweepInput] = []
    samples: list[Sample] = []
    covering: Grid | None = None
    for path in paths:
        with opened(path) as scan:
            if user_mask is not None:
                _check_mask(user_mask, path, scan, choices, say)
            before = (compared or {}).get(scan.run)
            with ThreadPoolExecutor(1, thread_name_prefix="sha256") as pool:
                digest = pool.submit(sha256, path)  # all of the file; meanwhile it is looked at
                each, sample, covered = _look_at(path.absolute(), scan, choices, say, before)
                each = replace(each, sha256=digest.result())
        for earlier in samples:
            check_same_sample(earlier, sample)
        inputs.append(each)
        samples.append(sample)
        covering = covered if covering is None else covering | covered
    _check_belong(inputs)
    sample = samples[0]
    assert covering is not None
    laue = _laue(choices.symmetry, sample)
    if choices.fold and laue is None:
        raise ReductionError("fold needs a symmetry to fold by: give it (--symmetry), or no --fold")
    grid = choices.grid or covering
    # the cells of a box have equivalents outside: they are binned, too, and cut off at the end
    binned = grid if laue is None else laue.covering(grid)
    if choices.grid is None:
        grid = binned
    else:
        for each in inputs:
            with opened(Path(each.file)) as scan:
                check_overlap(binned, each.geometry, scan.sweep, each.UB)
    if laue is not None:
        say(f"symmetry: {laue.name}, {len(laue.operations)} operations")
    sums = 2 + (choices.oversample.parts > 1) + 2 * (inputs[0].background is not None)
    # halves of 64 bits where they are full; with a symmetry the sums as float64, too
    try:
        arrays = _FILLED * sums + (sums if laue is not None else 0)
        if choices.fold and laue is not None:
            arrays = _FILLED * sums / len(laue.operations)
        check_memory(binned, arrays=arrays)
    except ReductionError as error:
        if binned == grid or laue is None:
            raise
        raise ReductionError(
            f"{error}\nIt is larger than --grid ({grid}), since it holds all that is equivalent to "
            f"that in {laue.name}: {binned}."
        ) from None
    mask = None
    if user_mask is not None and choices.mask is not None:
        file, dataset = split_name(choices.mask)
        mask = MaskInput(
            str(file.absolute()), sha256(file), dataset, choices.invert_mask,
            int(np.count_nonzero(user_mask)),
        )  # fmt: skip
    kelvin = [each.temperature for each in inputs if each.temperature is not None]
    record = ReductionRecord(
        inputs=tuple(inputs),
        sample=sample,
        temperature=float(np.mean(kelvin)) if kelvin else None,
        grid=grid,
        binned=binned,
        symmetry="" if laue is None else laue.name,
        fold=choices.fold,
        monitor=choices.monitor,
        corrections=choices.corrections,
        oversample=choices.oversample,
        mask=mask,
        hot=choices.hot,
        background_scale=choices.background_scale,
        weight_exponent=weight_exponent(inputs, choices),
        background_exponents=None,
        versions={name: version(name) for name in ("offbragg", "numpy", "scipy", "h5py")},
    )
    return replace(record, background_exponents=background_exponents(record))


def _look_at(
    path: Path, scan: ScanFile, choices: Choices, say: Say, compared: Compared | None
) -> tuple[SweepInput, Sample, Grid]:
    """Find everything about one sweep but its checksum, and the grid that covers it."""
    stored = scan.ledger.counts()["stored"]
    if not stored:
        raise ReductionError(f"{path} holds no frame: none of {scan.n_frames} is stored")
    damaged = _damaged(path, scan, choices, say)
    contradictions = _look_at_headers(scan, choices, say)
    UB, lattice, geometry, source = orientation_of(path, scan, choices)
    check_units(geometry)
    check_UB(UB, lattice)
    if source != START:
        check_same_lattice(path, scan.sample, read_orientation(source), source, say)
    sample = replace(scan.sample, lattice=lattice or lattice_of(UB), UB=None)
    say(f"{path.name}: orientation from {source}")
    try:
        chosen = select(
            scan, monitor=choices.monitor, hot=choices.hot, damaged=damaged, compared=compared
        )
    except ReductionError as error:
        raise ReductionError(f"{path}: {error}") from None
    if not chosen.frames:
        raise ReductionError(f"{path}: none of {stored} stored frames has flux")
    if glitch := describe_glitch(path.name, chosen):
        say(glitch)
    if chosen.frames < stored:
        say(
            f"{path.name}: {stored - chosen.frames} of {stored} stored frames are excluded (no "
            "beam, damaged or repeated)"
        )
    if repeated := chosen.repeats:
        some = ", ".join(f"{n} = {first}" for n, first in sorted(repeated.items())[:8])
        more = f" and {len(repeated) - 8} more" if len(repeated) > 8 else ""
        say(f"{path.name}: frames with the pixels of an earlier one do not count: {some}{more}")
    background = None
    if choices.background != "none":
        found = find_background(path, scan, choices.background)
        if found is None:
            say(f"{path.name}: no air run is found that belongs to it; nothing is subtracted")
        else:
            with ScanFile.open(found) as other:
                _look_at_headers(other, choices, say)
                background = BackgroundInput(
                    str(found), sha256(found), other.run,
                    tuple(_damaged(found, other, choices, say)),
                )  # fmt: skip
            say(f"{path.name}: background {found}")
    if n := chosen.hot.size:
        say(f"{path.name}: {n} hot pixel{'' if n == 1 else 's'} excluded")
    elif choices.hot and (turn := scan.sweep.n_frames * abs(scan.sweep.step)) < LEAST_TURN:
        say(
            f"{path.name}: hot pixels are not looked for: it turned by only {turn:g}°, and below "
            f"{LEAST_TURN:g}° they cannot be distinguished from reflections"
        )
    covered = Grid.covering(geometry, scan.sweep, UB, step=choices.step)
    sweep = SweepInput(
        file=str(path),
        sha256="",
        run=scan.run,
        frames=chosen.frames,
        damaged=tuple(damaged),
        contradictions=contradictions,
        UB=UB,
        orientation=source,
        geometry=geometry,
        background=background,
        temperature=temperature_of(scan.start),
        selection=chosen,
    )
    return sweep, sample, covered


def _check_mask(
    mask: NDArray[np.bool_], path: Path, scan: ScanFile, choices: Choices, say: Say
) -> None:
    """Check how much a mask masks of a sweep's pixels, and report it.

    Raises
    ------
    ReductionError
        If its shape is not that of the frames, or it excludes more than half of the pixels that
        count and that was not asked for.
    """
    name = split_name(choices.mask or "")[0].name
    if mask.shape != scan.shape:
        turned = ": it is transposed" if mask.shape == scan.shape[::-1] else ""
        raise ReductionError(
            f"the mask {choices.mask} has shape {mask.shape}, the frames of {path} have "
            f"{scan.shape} (slow, fast){turned}"
        )
    live = scan.pixel_mask() == 0
    count, part = int(np.count_nonzero(mask)), float(mask[live].mean()) if live.any() else 0.0
    how_much = f"{count:,} of {mask.size:,} pixels ({count / mask.size:.1%})"
    if part > _MOST_MASKED and not choices.mask_over_half:
        zero = "0" if choices.invert_mask else "not 0"
        hint = ""
        if not live.all() and float(mask[~live].mean()) < part - _MOST_MASKED:
            hint = (
                "; it leaves in the gaps and dead pixels of the detector, so its polarity is "
                "likely reversed"
            )
        other = "leave out --invert-mask" if choices.invert_mask else "add --invert-mask"
        raise ReductionError(
            f"the mask {choices.mask} leaves out {how_much}: what is {zero} there is masked{hint}\n"
            f"If it marks the pixels to keep, {other}; if it is right, add --mask-over-half."
        )
    say(f"{path.name}: the mask {name} leaves out {how_much}")
    if not count:
        say(f"{path.name}: WARNING: the mask {name} masks nothing")


def _look_at_headers(scan: ScanFile, choices: Choices, say: Say) -> tuple[str, ...]:
    """Return in what headers contradict the run, and report all in which they differ from it.

    Raises
    ------
    ReductionError
        If scattering vectors would be others, and that was not accepted.
    """
    found = header_contradictions(scan, despite=choices.despite_headers)
    for text in found:
        say(f"{scan.path.name}: WARNING: header and run contradict each other: {text}")
    for text in scan.header_findings.get("differences", []):
        say(f"{scan.path.name}: header and run differ, which changes no scattering vector: {text}")
    return found


def _damaged(path: Path, scan: ScanFile, choices: Choices, say: Say) -> list[int]:
    """Return the indices of the stored frames that are damaged, and report them.

    Raises
    ------
    ReductionError
        If none is intact, or damage is to be refused and there is some.
    """
    damage = scan.damage()
    if choices.refuse_damaged and (lines := damage.describe(left_out=False)):
        raise ReductionError(f"{path}: {'; '.join(lines)}\n{REPAIR}")
    if damage.frames and len(damage.frames) == damage.stored:
        raise ReductionError(
            f"{path}: none of {damage.stored} stored frames is intact: their chunks do not have "
            f"the checksums with which they were stored\n{REPAIR}"
        )
    for line in damage.describe(left_out=True):
        say(f"{path.name}: WARNING: {line}")
    if damage.unchecked:
        say(
            f"{path.name}: {damage.unchecked} frames were written by a version without stored "
            "checksums: whether they are intact is not known"
        )
    return list(damage.frames)


def _check_belong(inputs: Sequence[SweepInput]) -> None:
    """Refuse sweeps that do not belong into one volume."""
    runs = [each.run for each in inputs]
    for run in runs:
        if runs.count(run) > 1:
            raise ReductionError(f"run {run} is given twice: its counts would count twice")
    first = inputs[0]
    for each in inputs:
        if each.background is not None and each.background.run in runs:
            raise ReductionError(
                f"{each.background.file} is to be reduced, and to be the background of "
                f"{each.file}: it cannot be both"
            )
    for each in inputs[1:]:
        if (each.background is None) != (first.background is None):
            without = each if each.background is None else first
            raise ReductionError(
                f"{without.file} has no air run that belongs to it, others have\n"
                "Name one (--background UID), or subtract none (--background none)."
            )
        a, b = first.temperature, each.temperature
        if a is not None and b is not None and abs(a - b) > _SAME_TEMPERATURE:
            raise ReductionError(
                f"{first.file} was measured at {a:g} K and {each.file} at {b:g} K: "
                "temperatures are not merged"
            )
    for one, other in itertools.combinations(inputs, 2):
        check_same_orientation(one, other)


def _laue(wanted: str, sample: Sample) -> Laue | None:
    """Return the Laue class that is asked for; None: no symmetry."""
    if wanted in ("none", ""):
        return None
    if wanted == "auto":
        if sample.space_group is None:
            raise ReductionError(
                "the sample has no space group to take the symmetry from\n"
                "Give the Laue class: --symmetry m-3m"
            )
        return Laue.of(sample.space_group, sample.lattice)
    return Laue.named(wanted, sample.lattice)
