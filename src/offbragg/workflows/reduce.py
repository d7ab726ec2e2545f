"""From scan files to a volume, by a recipe that is kept in the volume's file.

Everything that is chosen or found (orientation, background, grid, hot pixels, the order) is first
written down as a *record* of plain JSON types; the volume is then made from the record and the
files that it names, and from nothing else. So the record is enough to make it again.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ReductionError
from offbragg.files.checked import REPAIR
from offbragg.files.mask import read_mask, split_name
from offbragg.files.orientation import read_orientation
from offbragg.files.scan_file import ScanFile
from offbragg.files.volume_file import write_volume
from offbragg.geometry import Geometry
from offbragg.grid import Grid
from offbragg.reduction.binning import Oversample, check_memory
from offbragg.reduction.corrections import LEAST_TURN, Corrections, hot_pixels
from offbragg.reduction.reduce import (
    ReductionSetup,
    air_rate,
    check_overlap,
    check_UB,
    check_units,
    reduce,
)
from offbragg.reduction.symmetry import Laue, symmetrise
from offbragg.sample import Sample
from offbragg.volume import Volume, check_same_sample
from offbragg.workflows.background import find_background
from offbragg.workflows.choices import START, Choices, Progress, Say
from offbragg.workflows.orientation import (
    check_same_lattice,
    check_same_orientation,
    lattice_of,
    orientation_of,
)
from offbragg.workflows.record import FORMAT, relative, sha256
from offbragg.workflows.sweeps import flux_of, opened, repeats

_SAME_TEMPERATURE = 2.0  # K: what is further apart is another measurement


_MOST_MASKED = 0.5  # of the pixels that count


def _warn(text: str) -> None:
    """Pass on what must not be overlooked to who did not ask to be told anything."""
    if "WARNING" in text:
        warnings.warn(text, stacklevel=4)


def reduce_files(
    files: Sequence[Path | str] | Path | str,
    choices: Choices | None = None,
    *,
    out: Path | str | None = None,
    progress: Progress = lambda done, total: None,
    say: Say = _warn,
) -> Volume:
    """Make one volume of one scan file, or of several sweeps of the same crystal.

    Parameters
    ----------
    files
        Scan files; several are merged.
    choices
        What one can choose.
    out
        The volume file to write, if one is wanted.
    progress
        Told how many frames are done, and of how many.
    say
        Told what was chosen by itself: background, orientation, hot pixels; and of frames that
        are damaged. Left out, what is a warning becomes a `UserWarning`.

    Raises
    ------
    ReductionError
        If the sweeps do not belong together, nothing would be measured, or something that is
        needed is not known.
    """
    paths = [Path(files)] if isinstance(files, (str, Path)) else [Path(f) for f in files]
    record = build_record(paths, choices or Choices(), say=say)
    volume = reduce_record(record, progress=progress)
    if out is not None:
        write_volume(out, volume, relative(record, Path(out)))
    return volume


def merge_and_reduce(
    *files: Path | str,
    grid: Grid | str | None = None,
    out: Path | str | None = None,
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
    progress, say
        As for `reduce_files`.
    choices
        The fields of `Choices`: ``symmetry="m-3m"``, ``background="none"``, ``monitor=False``.
    """
    chosen = Choices(grid=Grid.parse(grid) if isinstance(grid, str) else grid, **choices)
    return reduce_files(list(files), chosen, out=out, progress=progress, say=say)


def build_record(paths: Sequence[Path], choices: Choices, *, say: Say) -> dict[str, Any]:
    """Write down how a volume is to be made; the frames are not read yet.

    Parameters
    ----------
    paths, choices, say
        As for `reduce_files`.

    Returns
    -------
    record
        Plain JSON types; files with their absolute paths.
    """
    if not paths:
        raise ReductionError("no scan file is given")
    if choices.mask is None and (choices.invert_mask or choices.mask_over_half):
        raise ReductionError("there is no mask to invert or to accept: give one (--mask FILE)")
    user_mask = None
    if choices.mask is not None:
        user_mask = read_mask(choices.mask, inverted=choices.invert_mask)
    inputs: list[dict[str, Any]] = []
    samples: list[Sample] = []
    covering: Grid | None = None
    for path in paths:
        with opened(path) as scan:
            if user_mask is not None:
                _check_mask(user_mask, path, scan, choices, say)
            told, sample, covered = _look_at(path.absolute(), scan, choices, say)
        for earlier in samples:
            check_same_sample(earlier, sample)
        inputs.append(told)
        samples.append(sample)
        covering = covered if covering is None else covering | covered
    _check_belong(inputs)
    sample = samples[0]
    assert covering is not None
    laue = _laue(choices.symmetry, sample)
    grid = choices.grid or covering
    # the cells of a box have equivalents outside: they are binned, too, and cut off at the end
    binned = grid if laue is None else laue.covering(grid)
    if choices.grid is None:
        grid = binned
    else:
        for told in inputs:
            geometry = Geometry.from_dict(told["geometry"])
            with opened(Path(told["file"])) as scan:
                check_overlap(binned, geometry, scan.sweep, np.array(told["UB"]))
    if laue is not None:
        say(f"symmetry: {laue.name}, {len(laue.operations)} operations")
    sums = 2 + (choices.oversample.parts > 1) + 2 * (inputs[0]["background"] is not None)
    # beside the sums: their symmetrised ones and two steps of one, or what is written
    try:
        check_memory(binned, arrays=2 * sums + 2 if laue is not None else sums + 2)
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
        mask = {
            "file": str(file.absolute()), "sha256": sha256(file), "dataset": dataset,
            "inverted": choices.invert_mask, "masked": int(np.count_nonzero(user_mask)),
        }  # fmt: skip
    temperatures = [t["temperature"] for t in inputs if t["temperature"] is not None]
    return {
        "format": FORMAT,
        "inputs": inputs,
        "sample": sample.to_dict(),
        "temperature": float(np.mean(temperatures)) if temperatures else None,
        "grid": grid.to_dict(),
        "binned": binned.to_dict(),
        "symmetry": "" if laue is None else laue.name,
        "monitor": choices.monitor,
        "corrections": choices.corrections.to_dict(),
        "oversample": asdict(choices.oversample),
        "mask": mask,
        "hot": choices.hot,
        "background_scale": choices.background_scale,
        "versions": {name: version(name) for name in ("offbragg", "numpy", "scipy", "h5py")},
    }


def reduce_record(
    record: Mapping[str, Any], *, progress: Progress = lambda done, total: None
) -> Volume:
    """Make the volume that a record describes.

    Parameters
    ----------
    record
        Of `build_record`, with absolute paths.
    progress
        Told how many frames are done, and of how many.
    """
    wanted = Grid.from_dict(record["grid"])
    grid = Grid.from_dict(record.get("binned", record["grid"]))  # older records have but one
    sample = Sample.from_dict(record["sample"])
    corrections = Corrections(**record["corrections"])
    oversample = Oversample(**record["oversample"])
    user_mask = None if record["mask"] is None else _mask_of(record["mask"])
    total = sum(told["frames"] for told in record["inputs"])
    before = 0
    volume: Volume | None = None
    for told in record["inputs"]:
        with opened(Path(told["file"])) as scan:
            geometry = Geometry.from_dict(told["geometry"])
            detector = scan.start.get("detector") or {}
            saturation = detector.get("saturation")
            mask = scan.pixel_mask() != 0
            if user_mask is not None:
                if user_mask.shape != mask.shape:
                    raise ReductionError(
                        f"the mask has shape {user_mask.shape}, the frames {mask.shape}"
                    )
                mask |= user_mask
            stack = scan.stack
            damaged = told.get("damaged", ())  # older records have none
            if record["hot"]:
                mask |= hot_pixels(stack, without=damaged)
            air = None
            if told["background"] is not None:
                with opened(Path(told["background"]["file"])) as empty:
                    measured = empty.stack
                    broken = told["background"].get("damaged", ())
                    air_mask = None
                    if record["hot"]:
                        air_mask = hot_pixels(measured, least_turn=0.0, without=broken)
                    air = air_rate(
                        measured,
                        flux_of(empty, record["monitor"], broken) / record["background_scale"],
                        mask=air_mask,
                        saturation=saturation,
                    )
            scene = ReductionSetup(
                geometry, np.array(told["UB"]), grid, corrections, detector, mask,
                oversample, air, sample,
            )  # fmt: skip
            if volume is None:
                volume = scene.empty()
            flux = flux_of(scan, record["monitor"], damaged)[: len(stack)]
            angles = scan.frame_values()["angle"][: len(stack)]
            done_before = before

            def report(done: int, _: int, so_far: int = done_before) -> None:
                progress(so_far + done, total)

            reduce(stack, scene, flux, angles=angles, into=volume, progress=report)
            before += int(np.count_nonzero(flux > 0))
    assert volume is not None
    if record["symmetry"] and np.any(volume.weight):
        volume = symmetrise(volume, Laue.named(record["symmetry"]))
    if wanted != grid:
        volume = volume[_part(grid, wanted)]
    if not np.any(volume.weight):
        raise ReductionError(
            "nothing was measured in the grid: no pixel of any frame with flux falls into it"
        )
    return volume


def _part(grid: Grid, wanted: Grid) -> tuple[slice, slice, slice]:
    """Slices of the cells of one grid inside another."""
    h, k, l = (  # noqa: E741
        slice(a - first, b - first)
        for a, b, first in zip(wanted.first, wanted.end, grid.first, strict=True)
    )
    return h, k, l


def _look_at(
    path: Path, scan: ScanFile, choices: Choices, say: Say
) -> tuple[dict[str, Any], Sample, Grid]:
    stored = scan.ledger.counts()["stored"]
    if not stored:
        raise ReductionError(f"{path} holds no frame: none of {scan.n_frames} is stored")
    damaged = _damaged(path, scan, choices, say)
    for text in scan.header_findings.get("contradictions", []):
        say(f"WARNING: {path.name}: header and run contradict each other: {text}")
    UB, lattice, geometry, source = orientation_of(path, scan, choices)
    check_units(geometry)
    check_UB(UB, lattice)
    if source != START:
        check_same_lattice(path, scan.sample, read_orientation(source), source, say)
    sample = replace(scan.sample, lattice=lattice or lattice_of(UB), UB=None)
    say(f"{path.name}: orientation from {source}")
    try:
        flux = flux_of(scan, choices.monitor, damaged)
    except ReductionError as error:
        raise ReductionError(f"{path}: {error}") from None
    frames = int(np.count_nonzero(flux > 0))
    if not frames:
        raise ReductionError(f"{path}: none of {stored} stored frames has flux")
    if frames < stored:
        say(f"{path.name}: {stored - frames} of {stored} stored frames count for nothing")
    if again := repeats(scan, damaged):
        some = ", ".join(f"{n} = {first}" for n, first in sorted(again.items())[:8])
        more = f" and {len(again) - 8} more" if len(again) > 8 else ""
        say(f"{path.name}: frames with the pixels of an earlier one do not count: {some}{more}")
    background = None
    if choices.background != "none":
        found = find_background(path, scan, choices.background)
        if found is None:
            say(f"{path.name}: no air run is found that belongs to it; nothing is subtracted")
        else:
            with ScanFile.open(found) as other:
                background = {
                    "file": str(found), "sha256": sha256(found), "run": other.run,
                    "damaged": _damaged(found, other, choices, say),
                }  # fmt: skip
            say(f"{path.name}: background {found}")
    if choices.hot and (n := int(np.count_nonzero(hot_pixels(scan.stack, without=damaged)))):
        say(f"{path.name}: {n} hot pixels are left out")
    elif choices.hot and (turn := scan.sweep.n_frames * abs(scan.sweep.step)) < LEAST_TURN:
        say(
            f"{path.name}: hot pixels are not looked for: it turned by {turn:g}° only, and below "
            f"{LEAST_TURN:g}° they cannot be told from reflections"
        )
    covered = Grid.covering(geometry, scan.sweep, UB, step=choices.step)
    temperature = scan.start.get("temperature") or {}
    settled = temperature.get("settled") or {}
    told = {
        "file": str(path),
        "sha256": sha256(path),
        "run": scan.run,
        "frames": frames,
        "damaged": damaged,
        "UB": UB.tolist(),
        "orientation": source,
        "geometry": geometry.to_dict(),
        "background": background,
        "temperature": settled.get("mean", temperature.get("setpoint")),
    }
    return told, sample, covered


def _mask_of(told: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Read the mask of a record; older ones are not inverted, and name no dataset."""
    dataset = told.get("dataset")
    name = told["file"] if dataset is None else f"{told['file']}::{dataset}"
    return read_mask(name, inverted=told.get("inverted", False))


def _check_mask(
    mask: NDArray[np.bool_], path: Path, scan: ScanFile, choices: Choices, say: Say
) -> None:
    """Tell how much a mask masks of a sweep's pixels.

    Raises
    ------
    ReductionError
        If it is not of the frames' shape, or leaves out more than half of the pixels that count
        and that was not asked for.
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


def _damaged(path: Path, scan: ScanFile, choices: Choices, say: Say) -> list[int]:
    """Return the numbers of the stored frames that are damaged, having told of them.

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


def _check_belong(inputs: Sequence[Mapping[str, Any]]) -> None:
    runs = [told["run"] for told in inputs]
    for run in runs:
        if runs.count(run) > 1:
            raise ReductionError(f"run {run} is given twice: its counts would count twice")
    first = inputs[0]
    for told in inputs:
        if told["background"] is not None and told["background"]["run"] in runs:
            raise ReductionError(
                f"{told['background']['file']} is to be reduced, and to be the background of "
                f"{told['file']}: it cannot be both"
            )
    for told in inputs[1:]:
        if (told["background"] is None) != (first["background"] is None):
            without = told if told["background"] is None else first
            raise ReductionError(
                f"{without['file']} has no air run that belongs to it, others have\n"
                "Name one (--background UID), or subtract none (--background none)."
            )
        a, b = first["temperature"], told["temperature"]
        if a is not None and b is not None and abs(a - b) > _SAME_TEMPERATURE:
            raise ReductionError(
                f"{first['file']} was measured at {a:g} K and {told['file']} at {b:g} K: "
                "temperatures are not merged"
            )
    for one, other in itertools.combinations(inputs, 2):
        check_same_orientation(one, other)


def _laue(wanted: str, sample: Sample) -> Laue | None:
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
