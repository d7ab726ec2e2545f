"""From scan files to a volume, by a recipe that is kept in the volume's file.

Everything that is chosen or found (orientation, background, grid, hot pixels, the order) is first
written down as a *record* of plain JSON types; the volume is then made from the record and the
files that it names, and from nothing else. So the record is enough to make it again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from glob import glob
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from offbragg.errors import OffbraggError, ReductionError, ScanFileError
from offbragg.files.checked import REPAIR
from offbragg.files.mask import read_mask, split_name
from offbragg.files.orientation import NAME, Orientation, read_orientation
from offbragg.files.scan_file import ScanFile
from offbragg.files.volume_file import VolumeFile, passing_volume, write_volume
from offbragg.geometry import Geometry
from offbragg.reduction.binning import Oversample, check_memory
from offbragg.reduction.corrections import LEAST_TURN, Corrections, frame_weights, hot_pixels
from offbragg.reduction.lattice import SAME_ANGLE, SAME_CELL, angle_of, same_lattice, turn_of
from offbragg.reduction.reduce import (
    Scene,
    air_rate,
    check_overlap,
    check_UB,
    check_units,
    reduce,
)
from offbragg.reduction.symmetry import Laue, symmetrise
from offbragg.sample import Sample
from offbragg.volume import Grid, Volume, check_same_sample

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]
Say = Callable[[str], None]

FORMAT = 1
START = "start document"
"""Where an orientation is from, if no file says it."""
_SAME_TEMPERATURE = 2.0  # K: what is further apart is another measurement
_SAME_PLACE = 0.05  # mm, of the panel
_REFINED = 3.0  # mm: further no refinement moves a panel, but a detector position does
_SAME_TURN = 0.2  # degree: a mount does not turn in itself; all axes are in the geometry
_SAME_LENGTH = 0.005  # of the axes of its cell, at one temperature
_MOST_MASKED = 0.5  # of the pixels that count
_SLAB = 32  # planes of a volume that are compared at a time
_BY_CHANCE = 30  # counts: frames with fewer may be the same by chance


@dataclass(frozen=True, slots=True)
class Choices:
    """What one can choose; everything has a default that is written into the record.

    Parameters
    ----------
    grid
        The cells; None: all that the sweeps see, in cells of at least 0.01 Å⁻¹.
    step
        Of a grid that covers all, r.l.u.: one, or one each for h, k, l.
    symmetry
        A Laue class, ``auto`` for that of the sample's space group, or ``none``.
    background
        ``auto`` for the air run with the same detector position and attenuation that is nearest in
        time, the uid or the path of one, or ``none``.
    background_scale
        The background counts so much, e.g. for the crystal's transmission.
    orientation
        JSON file with ``UB`` and ``lattice``, perhaps ``geometry``; None: ``orientation.json``
        beside the scan file, else the start document's.
    monitor
        False: the flux was constant.
    corrections
        Which are made.
    oversample
        Into how many parts pixels and frames are divided.
    mask
        File with pixels that must not count, as `read_mask` takes it: what is not 0 there.
    invert_mask
        What is 0 there must not count, instead.
    mask_over_half
        Accept a mask that leaves out more than half of the pixels: the mask of a small region, and
        not one whose 0 and 1 are exchanged.
    hot
        Whether hot pixels are looked for.
    refuse_damaged
        Fail if a stored frame does not have its checksum, or the file has changed since it was
        closed; False: leave such frames out, with a warning.
    """

    grid: Grid | None = None
    step: float | Sequence[float] | None = None
    symmetry: str = "none"
    background: str = "auto"
    background_scale: float = 1.0
    orientation: Path | str | None = None
    monitor: bool = True
    corrections: Corrections = field(default_factory=Corrections)
    oversample: Oversample = field(default_factory=Oversample)
    mask: Path | str | None = None
    invert_mask: bool = False
    mask_over_half: bool = False
    hot: bool = True
    refuse_damaged: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.background_scale) and self.background_scale > 0):
            raise ReductionError(
                f"background_scale is {self.background_scale:g}: it must be a number above 0, as "
                "0.8\nTo subtract nothing: background none."
            )


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
    record = write_record(paths, choices or Choices(), say=say)
    volume = make(record, progress=progress)
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


def write_record(paths: Sequence[Path], choices: Choices, *, say: Say) -> dict[str, Any]:
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
        with _opened(path) as scan:
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
            with _opened(Path(told["file"])) as scan:
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
            "file": str(file.absolute()), "sha256": _sha256(file), "dataset": dataset,
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


def make(record: Mapping[str, Any], *, progress: Progress = lambda done, total: None) -> Volume:
    """Make the volume that a record describes.

    Parameters
    ----------
    record
        Of `write_record`, with absolute paths.
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
        with _opened(Path(told["file"])) as scan:
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
                with _opened(Path(told["background"]["file"])) as empty:
                    measured = empty.stack
                    broken = told["background"].get("damaged", ())
                    air_mask = None
                    if record["hot"]:
                        air_mask = hot_pixels(measured, least_turn=0.0, without=broken)
                    air = air_rate(
                        measured,
                        _flux(empty, record["monitor"], broken) / record["background_scale"],
                        mask=air_mask,
                        saturation=saturation,
                    )
            scene = Scene(
                geometry, np.array(told["UB"]), grid, corrections, detector, mask,
                oversample, air, sample,
            )  # fmt: skip
            if volume is None:
                volume = scene.empty()
            flux = _flux(scan, record["monitor"], damaged)[: len(stack)]
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


@dataclass(frozen=True, slots=True)
class Again:
    """Whether a volume file could be made again."""

    file: str
    same: bool
    differences: tuple[str, ...]
    """Datasets that are not the same, bit for bit; empty if all are."""


def make_again(
    path: Path | str,
    *,
    out: Path | str | None = None,
    progress: Progress = lambda done, total: None,
) -> Again:
    """Make a volume file again from its own record, and compare.

    Parameters
    ----------
    path
        The volume file.
    out
        Where the new one is kept; None: it is removed after the comparison.
    progress
        Told how many frames are done, and of how many.

    Raises
    ------
    ReductionError
        If an input is not there, or is not what it was.
    """
    path = Path(path)
    with VolumeFile(path) as file:
        kept = file.record
    record = _absolute(kept, path)
    for told in _files(record):
        if not Path(told["file"]).exists():
            raise ReductionError(f"{told['file']} is not there: {path} was made of it")
        if _sha256(told["file"]) != told["sha256"]:
            raise ReductionError(
                f"{told['file']} has changed since {path} was made of it: its SHA-256 is not "
                f"{told['sha256'][:12]}…"
            )
    volume = make(record, progress=progress)
    if out is not None:
        write_volume(out, volume, kept)
        differences = _differences(path, Path(out))
    else:
        with passing_volume(path.parent, volume, kept) as new:
            differences = _differences(path, new)
    return Again(str(path), not differences, tuple(differences))


def find_background(path: Path, scan: ScanFile, wanted: str) -> Path | None:
    """Find the air run that belongs to a sweep.

    Parameters
    ----------
    path, scan
        The sweep.
    wanted
        ``auto``, or the uid (or its begin) or the path of an air run.

    Returns
    -------
    path
        Of its scan file; None if ``auto`` finds none.

    Raises
    ------
    ReductionError
        If the one that is named is not there, or was measured otherwise.
    """
    if not wanted.strip():
        raise ReductionError("the background is '': say auto, none, or an air run's uid or file")
    if wanted != "auto" and Path(wanted).exists():
        with _opened(Path(wanted)) as other:
            why = _no_air(scan, other) or _not_paired(scan, other)
        if why:
            raise ReductionError(f"{wanted} is no background of {path}: {why}")
        return Path(wanted).absolute()
    found: list[tuple[float, Path]] = []
    near = ""
    for candidate in _candidates(path):
        try:
            with ScanFile.open(candidate) as other:
                is_air = other.start.get("purpose") == "background"
                named = wanted != "auto" and other.run.startswith(wanted)
                if not (named or (wanted == "auto" and is_air)):
                    continue
                why = _no_air(scan, other) or _not_paired(scan, other)
                apart = abs(other.start["time"] - scan.start["time"])
        except (OffbraggError, OSError):
            continue
        if why and named:
            raise ReductionError(f"run {wanted} is no background of {path}: {why}")
        if why:
            near = f"{candidate}: {why}"
        else:
            found.append((apart, candidate))
    if not found and wanted != "auto":
        raise ReductionError(
            f"no run {wanted!r} is found near {path}" + (f" ({near})" if near else "")
            + "\nGive the path of its scan file, or --background none."
        )  # fmt: skip
    return min(found)[1] if found else None


def lattice_of(UB: Array) -> tuple[float, float, float, float, float, float]:
    """Say which lattice an orientation matrix has: Å and degree."""
    axes = np.linalg.inv(UB)
    a, b, c = (float(x) for x in np.linalg.norm(axes, axis=1))

    def between(i: int, j: int, product: float) -> float:
        return math.degrees(math.acos(float(axes[i] @ axes[j]) / product))

    return a, b, c, between(1, 2, b * c), between(0, 2, a * c), between(0, 1, a * b)


def next_free(directory: Path, stem: str, suffix: str = ".h5") -> Path:
    """Find a name that is not taken: ``stem.h5``, ``stem_2.h5`` and so on."""
    path, number = directory / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = directory / f"{stem}_{number}{suffix}"
    return path


def relative(record: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Give the record with its files relative to where the volume file is, so that both move."""
    copy: dict[str, Any] = json.loads(json.dumps(record))
    for told in _files(copy):
        told["file"] = _from(path.absolute().parent, Path(told["file"]))
    return copy


def _from(folder: Path, file: Path) -> str:
    """Say where a file is, seen from a folder; also right where either is reached by a link."""
    name, really = os.path.relpath(file, folder), folder.resolve()
    there = Path(os.path.normpath(really / name))
    if there.exists() and there.samefile(file):
        return name
    return os.path.relpath(file.parent.resolve() / file.name, really)


# ---- looking at a sweep ----------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[ScanFile]:
    if not path.exists():
        raise ReductionError(f"{path} is not there")
    if path.is_dir():
        raise ReductionError(f"{path} is a folder\nGive a scan file, as {path / 'f1.h5'}.")
    try:
        scan = ScanFile.open(path)
    except OSError as error:
        raise ReductionError(f"{path} cannot be opened: {error.strerror or error}") from error
    with scan:
        yield scan


def _look_at(
    path: Path, scan: ScanFile, choices: Choices, say: Say
) -> tuple[dict[str, Any], Sample, Grid]:
    stored = scan.ledger.counts()["stored"]
    if not stored:
        raise ReductionError(f"{path} holds no frame: none of {scan.n_frames} is stored")
    damaged = _damaged(path, scan, choices, say)
    for text in scan.header_findings.get("contradictions", []):
        say(f"WARNING: {path.name}: header and run contradict each other: {text}")
    UB, lattice, geometry, source = _orientation(path, scan, choices)
    check_units(geometry)
    check_UB(UB, lattice)
    if source != START:
        _check_same_lattice(path, scan.sample, read_orientation(source), source, say)
    sample = replace(scan.sample, lattice=lattice or lattice_of(UB), UB=None)
    say(f"{path.name}: orientation from {source}")
    try:
        flux = _flux(scan, choices.monitor, damaged)
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
                    "file": str(found), "sha256": _sha256(found), "run": other.run,
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
        "sha256": _sha256(path),
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


def _orientation(path: Path, scan: ScanFile, choices: Choices) -> tuple[Array, Any, Geometry, str]:
    beside = path.parent / NAME
    given = choices.orientation or (beside if beside.exists() else None)
    if given is not None:
        told = read_orientation(given)
        UB, where = np.array(told.UB), scan.geometry
        if told.geometry is not None:
            where = _refined(path, where, told.geometry, given)
        return UB, told.lattice, where, str(given)
    sample = scan.sample
    if sample.UB is None:
        raise ReductionError(
            f"{path} does not say how the crystal lies: it has no UB\n"
            f"Find it: offbragg index {path}; or give --orientation FILE."
        )
    return np.array(sample.UB), sample.lattice, scan.geometry, START


def _check_same_lattice(
    path: Path, sample: Sample, found: Orientation, source: str, say: Say
) -> None:
    """Refuse the orientation of another crystal, on whatever axes; one found in this may differ.

    Raises
    ------
    ReductionError
        With both cells.
    """
    if sample.lattice is None or same_lattice(sample.lattice, found.lattice, sample.space_group):
        return
    own, its = (", ".join(f"{x:.5g}" for x in cell) for cell in (sample.lattice, found.lattice))
    differ = f"the lattice in {source} is {its}, that of {sample.name} in {path} is {own}"
    of = [each.get("sample") or {} for each in found.source.get("files") or []]
    if any((it.get("name"), it.get("label")) == (sample.name, sample.label) for it in of):
        say(
            f"{path.name}: WARNING: {differ}; the first is used, since it was found in this crystal"
        )
        return
    raise ReductionError(
        f"this is the orientation of another crystal: {differ} (Å, degree)\n"
        f"Their reduced cells differ by more than {SAME_CELL:.0%} or {SAME_ANGLE:g} degree. Give "
        "that of this crystal; if it is the start document that is wrong: "
        f"offbragg index {path} --unknown-cell"
    )


def _refined(path: Path, own: Geometry, found: Geometry, source: Path | str) -> Geometry:
    """Take the panel as it was refined, and the sweep's own angles: these may differ.

    Raises
    ------
    ReductionError
        If the refined panel is not the one of this sweep.
    """
    apart = float(np.linalg.norm(np.subtract(own.panel.origin, found.panel.origin)))
    why = ""
    if own.panel.shape != found.panel.shape:
        why = f"its panel has {found.panel.shape} pixels, the sweep's {own.panel.shape}"
    elif not math.isclose(own.wavelength, found.wavelength, rel_tol=1e-3):
        why = f"its wavelength is {found.wavelength:g} Å, the sweep's {own.wavelength:g} Å"
    elif apart > _REFINED:
        why = f"its panel is {apart:.3g} mm away from where the sweep's was"
    if why:
        raise ReductionError(
            f"the refined geometry in {source} is not that of {path}: {why}\n"
            f"Index this sweep (offbragg index {path} --refine …), or one of the same place "
            "without --refine."
        )
    return replace(own, panel=found.panel)


def repeats(scan: ScanFile, damaged: Collection[int] = ()) -> dict[int, int]:
    """Find frames that hold the pixels of an earlier one, under a number of their own.

    A detector that repeats itself gives what it counted at another angle. Two exposures never
    agree in every pixel, unless next to nothing was counted in them: so one that does is no
    measurement at its angle, and must not count.

    Parameters
    ----------
    scan
        The sweep.
    damaged
        Frames that cannot be compared; what has the checksum of one of them repeats it.

    Returns
    -------
    repeats
        For each such frame, the first with these pixels.
    """
    values = scan.frame_values()
    alike: dict[tuple[str, str], list[int]] = {}
    for column in ("md5", "crc64"):
        for n in np.flatnonzero(values["status"] == "stored") if column in values else ():
            if digest := str(values[column][n]):
                alike.setdefault((column, digest), []).append(int(n))
    found: dict[int, int] = {}
    counts = scan.stack.counts
    for first, *others in alike.values():
        if not others or all(n in found for n in others):
            continue
        intact = [n for n in (first, *others) if n not in damaged]
        pixels = np.asarray(counts[intact[0]]) if intact else np.zeros(0, np.int32)
        if pixels[pixels > 0].sum() < _BY_CHANCE:
            continue
        for n in intact:
            if n != first and np.array_equal(np.asarray(counts[n]), pixels):
                found[n] = first
    return found


def _flux(scan: ScanFile, use_monitor: bool, damaged: Collection[int] = ()) -> Array:
    values = scan.frame_values()
    flux = frame_weights(
        scan.n_frames,
        values.get("monitor"),
        exposure=scan.sweep.exposure,
        weight=values.get("weight"),
        transmission=values.get("transmission"),
        use_monitor=use_monitor,
        attenuation=float(scan.start.get("attenuation") or 1.0),
    )
    flux = np.where(values["status"] == "stored", flux, 0.0)
    flux[[*damaged, *repeats(scan, damaged)]] = 0.0
    return flux


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
        _check_same_orientation(one, other)


def _check_same_orientation(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Refuse two sweeps of one mount in which the crystal lies, or is called, differently.

    Raises
    ------
    ReductionError
        Saying by how much, and where both orientations are from.
    """
    mine, its = np.array(one["UB"]), np.array(other["UB"])
    turn = angle_of(turn_of(np.linalg.inv(its).T) @ turn_of(np.linalg.inv(mine).T).T)
    a, b = (np.array(lattice_of(UB)[:3]) for UB in (mine, its))
    longer = float(np.abs(b / a - 1.0).max())
    if turn > _SAME_TURN or longer > _SAME_LENGTH:
        where = "; ".join(
            f"{told['file']}: {', '.join(f'{x:.4f}' for x in axes)} Å by {told['orientation']}"
            for told, axes in ((one, a), (other, b))
        )
        raise ReductionError(
            f"two orientations of one mount contradict each other: {turn:.2f} degree apart "
            f"(at most {_SAME_TURN:g} merge), axes by up to {longer:.2%} (at most "
            f"{_SAME_LENGTH:.1%}): {where}\n"
            "Give one for all sweeps (--orientation FILE), or reduce them one by one."
        )


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


# ---- background ------------------------------------------------------------------------


def _candidates(path: Path) -> Iterator[Path]:
    """Scan files near this one: in its folder, and where air runs of this experiment are."""
    seen: set[Path] = {path}
    parents = path.absolute().parents
    places = [(path.absolute().parent, "*.h5")]
    places += [(p, "*_background/*/f*.h5") for p in parents[1:4]]
    places += [(p, "*/*_background/*/f*.h5") for p in parents[2:4]]
    for place, pattern in places:
        # Path.glob fails if a folder goes meanwhile
        for name in sorted(glob(pattern, root_dir=place)):  # noqa: PTH207
            candidate = place / name
            if candidate not in seen:
                seen.add(candidate)
                yield candidate


def _no_air(scan: ScanFile, other: ScanFile) -> str:
    """Why a file that was named is none of an air run; empty if it is."""
    if other.run == scan.run:
        return "it is the same run"
    purpose = other.start.get("purpose", "data")
    # of frames that were stacked from a folder nobody could say what they were for
    if purpose != "background" and other.start.get("plan_name") != "from_files":
        return (
            f"its purpose is {purpose!r}, not 'background': there is a crystal in its beam, or no "
            "beam\nGive an air run, or --background none."
        )
    return ""


def _not_paired(scan: ScanFile, other: ScanFile) -> str:
    """Why an air run does not belong to a sweep; empty if it does."""
    try:
        mine, its = scan.geometry, other.geometry
    except ScanFileError as error:
        return str(error)
    for name in ("origin", "fast", "slow"):
        a, b = np.array(getattr(mine.panel, name)), np.array(getattr(its.panel, name))
        apart = float(np.linalg.norm(a - b))
        if apart > (_SAME_PLACE if name == "origin" else 1e-3):
            return f"the panel's {name} is {apart:.3g} away"
    if mine.panel.shape != its.panel.shape:
        return f"its frames are {its.panel.shape}, not {mine.panel.shape}"
    if not math.isclose(mine.wavelength, its.wavelength, rel_tol=1e-3):
        return f"its wavelength is {its.wavelength:g} Å, not {mine.wavelength:g} Å"
    a, b = (float(s.start.get("attenuation") or 1.0) for s in (scan, other))
    if not math.isclose(a, b, rel_tol=0.01):
        return f"its attenuation is {b:g}, not {a:g}"
    if not other.ledger.counts()["stored"]:
        return "it holds no frame"
    return ""


# ---- records ---------------------------------------------------------------------------


def _files(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for told in record["inputs"]:
        yield told
        if told["background"] is not None:
            yield told["background"]
    if record["mask"] is not None:
        yield record["mask"]


def _absolute(record: Mapping[str, Any], path: Path) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(record))
    for told in _files(copy):
        name = told["file"]
        told["file"] = os.path.normpath(path.absolute().parent / name)
        if not Path(told["file"]).exists():  # the folder may be a link: .. leads elsewhere then
            told["file"] = os.path.normpath(path.parent.resolve() / name)
    return copy


def _sha256(path: Path | str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _differences(one: Path, other: Path) -> list[str]:
    """Where two volume files differ, by datasets and attributes.

    The bytes between them may: another version may put them elsewhere.
    """
    if _sha256(one) == _sha256(other):
        return []
    with h5py.File(one, "r", locking=False) as a, h5py.File(other, "r", locking=False) as b:
        mine, its = _contents(a), _contents(b)
    return sorted(name for name in mine.keys() | its.keys() if mine.get(name) != its.get(name))


def _contents(file: h5py.File) -> dict[str, tuple[Any, ...]]:
    """Everything in a file: of each array its type, shape and digest."""
    found: dict[str, tuple[Any, ...]] = {}

    def look(name: str, thing: Any) -> None:
        attributes = {key: np.asarray(value) for key, value in thing.attrs.items()}
        found[name] = tuple((k, v.dtype.str, v.tobytes()) for k, v in sorted(attributes.items()))
        if isinstance(thing, h5py.Dataset):
            digest = hashlib.sha256()
            for n in range(0, thing.shape[0] if thing.ndim else 1, _SLAB):
                part = thing[n : n + _SLAB] if thing.ndim else thing[()]
                digest.update(np.ascontiguousarray(part).tobytes())
            found[name] += (thing.dtype.str, thing.shape, digest.hexdigest())

    look("/", file)
    file.visititems(look)
    return found
