"""Scan files in, ``orientation.json`` out: what ``offbragg index`` does."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import OrientationError, ReductionError
from offbragg.files.checked import REPAIR, Damage
from offbragg.files.dials_spots import read_spots
from offbragg.files.digest import sha256
from offbragg.files.orientation import NAME, Orientation, write_orientation
from offbragg.files.scan_file import ScanFile
from offbragg.lattice import Cell
from offbragg.ledger import FrameStatus
from offbragg.plots.peaks import draw
from offbragg.reduction.bravais import CENTRINGS
from offbragg.reduction.indexed import Indexed
from offbragg.reduction.indexing import index
from offbragg.reduction.peaks import Peaks, find_peaks
from offbragg.reduction.refinement import SweepPeaks
from offbragg.reduction.symmetry import Laue
from offbragg.sample import Sample
from offbragg.workflows.choices import Progress
from offbragg.workflows.sweeps import header_contradictions, repeats


@dataclass(frozen=True, slots=True, eq=False)
class IndexingResult:
    """Result of `find_orientation`: the orientation, its files, and all the numbers behind it."""

    orientation: Orientation
    indexed: Indexed
    path: Path
    kept: Path | None
    picture: Path | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            **self.orientation.to_dict(),
            "path": str(self.path),
            "kept": None if self.kept is None else str(self.kept),
            "picture": None if self.picture is None else str(self.picture),
            "seconds": self.seconds,
        }


def find_orientation(
    paths: Sequence[Path | str],
    *,
    lattice: Sequence[float] | None = None,
    unknown_cell: bool = False,
    centring: str | None = None,
    what: Sequence[str] = (),
    out: Path | str | None = None,
    picture: bool = True,
    refuse_damaged: bool = False,
    despite_headers: bool = False,
    spots: Sequence[Path] = (),
    progress: Progress = lambda done, total: None,
) -> IndexingResult:
    """Find how the crystal of some sweeps lies, and write it beside the first scan file.

    Parameters
    ----------
    paths
        Scan files of one mount; omega, phi … may differ.
    lattice
        The cell; that of the start document if None.
    unknown_cell
        Do not use the start document's cell.
    centring
        Of the cell; if None, the first letter of the start document's space group, or P.
    what
        Of the panel, to be refined: any of ``beam``, ``distance``, ``tilt``.
    out
        The file to write, instead of ``orientation.json`` beside the first scan file.
    picture
        Draw the peaks and residuals beside it, PNG.
    refuse_damaged
        Fail if a stored frame does not have its checksum, or the file has changed since it was
        closed; False: exclude such frames, with a warning in the result.
    despite_headers
        Index also what the headers of frames contradict in what changes scattering vectors: the run
        is right, with a warning in the result.
    spots
        What DIALS has found in each of the sweeps (``.refl``), instead of looking for peaks.
    progress
        Called with the number of frames that are done, and of all.

    Raises
    ------
    OrientationError
        If there is nothing to index, or no lattice that is certain.
    """
    began = time.monotonic()
    if not paths:
        raise OrientationError("no scan file was given")
    if spots and len(spots) != len(paths):
        raise OrientationError(f"{len(spots)} files of spots were given for {len(paths)} sweeps")
    target = Path(out) if out is not None else Path(paths[0]).resolve().parent / NAME
    if target.suffix != ".json":
        raise OrientationError(f"{target} cannot be written: an orientation's name ends with .json")
    if not target.parent.is_dir():
        raise OrientationError(
            f"{target} cannot be written: the folder {target.parent} does not exist"
        )
    with contextlib.ExitStack() as opened:
        scans = [opened.enter_context(_open(Path(path))) for path in paths]
        sample = _one_sample(scans)
        contradictions = [
            header_contradictions(scan, despite=despite_headers, error=OrientationError)
            for scan in scans
        ]
        damages = [_damage(scan, refuse_damaged) for scan in scans]
        views = _views(scans, damages, spots, progress)
    if lattice is None and not unknown_cell:
        lattice = sample.lattice
    if lattice is not None:
        Sample.from_dict({"name": "x", "label": "x", "lattice": list(lattice)})
    letter = _centring(centring, sample, lattice)
    reference = None if sample.UB is None else np.array(sample.UB)
    with ThreadPoolExecutor(1) as beside:  # what follows takes one processor, and seconds
        digests = beside.map(sha256, [scan.path for scan in scans])
        indexed = index(
            views, lattice=lattice, centring=letter, what=what, reference=reference,
            rotations=_rotations(sample, lattice),
        )  # fmt: skip
        files = [_file_entry(*each) for each in zip(scans, digests, strict=True)]
    warnings = [
        f"{scan.path.name}: {line}"
        for scan, damage, found in zip(scans, damages, contradictions, strict=True)
        for line in (
            *damage.describe(left_out=True),
            *(f"header and run contradict each other: {text}" for text in found),
        )
    ]
    indexed = replace(indexed, warnings=(*warnings, *indexed.warnings))
    orientation = _orientation(indexed, files, what)
    kept = write_orientation(target, orientation)
    drawn = draw(indexed, target.with_suffix(".png")) if picture else None
    return IndexingResult(
        orientation, indexed, target, kept, drawn, round(time.monotonic() - began, 2)
    )


def _open(path: Path) -> ScanFile:
    if not path.is_file():
        raise OrientationError(f"{path} is not a file\nGive the path of a scan file (fN.h5).")
    return ScanFile.open(path)


def _one_sample(scans: Sequence[ScanFile]) -> Sample:
    samples = [scan.sample for scan in scans]
    first = samples[0]
    for scan, sample in zip(scans, samples, strict=True):
        if (sample.name, sample.label) != (first.name, first.label):
            raise OrientationError(
                f"{scan.path} is of {sample.name} {sample.label}, but {scans[0].path} of "
                f"{first.name} {first.label}: index each mount separately"
            )
    runs = [scan.run for scan in scans]
    for i, (scan, run) in enumerate(zip(scans, runs, strict=True)):
        if run in runs[:i]:
            raise OrientationError(
                f"{scan.path} holds the same run as {scans[runs.index(run)].path}: its peaks would "
                "count twice"
            )
    return first


def _damage(scan: ScanFile, refuse: bool) -> Damage:
    damage = scan.damage()
    if refuse and (lines := damage.describe(left_out=False)):
        raise OrientationError(f"{scan.path}: {'; '.join(lines)}\n{REPAIR}")
    return damage


def _views(
    scans: Sequence[ScanFile],
    damages: Sequence[Damage],
    spots: Sequence[Path],
    progress: Progress,
) -> list[SweepPeaks]:
    views: list[SweepPeaks] = []
    total = sum(scan.length for scan in scans)
    done = 0
    files = spots or [None] * len(scans)
    for scan, damage, file in zip(scans, damages, files, strict=True):
        geometry = scan.geometry
        sweep = scan.sweep
        if sweep.step == 0:
            raise OrientationError(
                f"{scan.path} has step 0: a crystal that stands still cannot be indexed"
            )
        mask = scan.pixel_mask() != 0
        if file is not None:
            views.append(SweepPeaks(geometry, sweep, _peaks_of_dials(file, sweep.n_frames, mask)))
            continue
        there = np.array([status is FrameStatus.STORED for status in scan.ledger.statuses])
        there[[*damage.frames, *repeats(scan, damage.frames)]] = False
        detector: Mapping[str, Any] = scan.start.get("detector") or {}
        saturation = detector.get("saturation")
        before = done

        def report(n: int, of: int, before: int = before) -> None:
            progress(before + n, total)

        try:
            peaks = find_peaks(
                scan.stack, stored=there, mask=mask, saturation=saturation, progress=report
            )
        except OrientationError as error:
            raise OrientationError(f"{scan.path}: {error}") from error
        done += scan.length
        progress(done, total)
        views.append(SweepPeaks(geometry, sweep, peaks))
    return views


def _peaks_of_dials(path: Path, n_frames: int, mask: NDArray[np.bool_]) -> Peaks:
    """Read the spots of DIALS as peaks: as wide as all that fills their boxes evenly would be."""
    shape = mask.shape
    found = read_spots(path, n_frames=n_frames, panel=(shape[0], shape[1]))
    x, y, z = found.at.T
    box = np.clip(found.box, 0, np.repeat([shape[1], shape[0], n_frames], 2))
    left, right, top, bottom, first, last = box.T
    # pixels that are masked in each box, from sums over all above and left of a corner
    sums = np.pad(np.cumsum(np.cumsum(mask, axis=0, dtype=np.int64), axis=1), ((1, 0), (1, 0)))
    masked = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    clean = (masked == 0) & (first > 0) & (last < n_frames)
    width = (last - first) / math.sqrt(12.0)
    order = np.argsort(-found.intensity, kind="stable")
    return Peaks(x, y, z, found.intensity, width, clean, {})[order]


def _centring(asked: str | None, sample: Sample, lattice: Sequence[float] | None) -> str:
    if asked is not None:
        if asked not in CENTRINGS:
            raise OrientationError(f"centring {asked!r} is unknown: one of {', '.join(CENTRINGS)}")
        return asked
    given = sample if lattice is None else replace(sample, lattice=_lattice(lattice))
    return given.centring or "P"


def _rotations(sample: Sample, lattice: Sequence[float] | None) -> NDArray[np.int64] | None:
    """Return the rotations of the crystal's Laue class on the given axes; None: not known."""
    if sample.space_group is None or lattice is None:
        return None
    try:
        operations = np.array(Laue.of(sample.space_group, lattice).operations, np.int64)
    except ReductionError:
        return None  # a symbol that is not understood does not say which twins there can be
    return operations[np.rint(np.linalg.det(operations)) == 1]


def _lattice(cell: Sequence[float]) -> Cell:
    a, b, c, alpha, beta, gamma = (float(x) for x in cell)
    return a, b, c, alpha, beta, gamma


def _file_entry(scan: ScanFile, digest: str) -> dict[str, Any]:
    """Return how an orientation names a scan file that it comes from."""
    return {
        "path": scan.path.name,
        "sha256": digest,
        "run": scan.run,
        "time": scan.start["time"],
        "sample": {key: scan.start["sample"].get(key) for key in ("name", "label")},
    }


def _orientation(
    indexed: Indexed, files: Sequence[Mapping[str, Any]], what: Sequence[str]
) -> Orientation:
    """Return what was found as it is written."""
    refined = indexed.refined
    spots = refined.spots
    good = refined.indexed & spots.clean & (spots.speed > 0.12)
    rms = np.sqrt(np.mean(refined.off[good] ** 2, axis=0)) if good.any() else [math.nan] * 3
    names = ("a", "b", "c", "alpha", "beta", "gamma")
    residuals: dict[str, Any] = {
        "peaks": len(spots),
        "indexed": int(refined.indexed.sum()),
        "fraction": round(indexed.fraction, 4),
        "by_chance": round(indexed.expected, 4),
        "rms": {
            "column": _number(rms[0]), "row": _number(rms[1]), "angle": _number(rms[2]),
            "units": "pixel, pixel, degree",
        },
        "mosaicity": _number(indexed.mosaicity),
        "bravais": indexed.name,
        "setting": indexed.setting,
        "esd": {name: _number(x) for name, x in zip(names, refined.esd, strict=True)},
        "moved": {
            key: {"by": _number(by), "esd": _number(esd)}
            for key, (by, esd) in refined.moved.items()
        },
        "ignored": {
            key: sum(view.peaks.ignored.get(key, 0) for view in refined.views)
            for key in refined.views[0].peaks.ignored
        },
        "candidates": [
            {"bravais": each.name, "lattice": [round(float(x), 4) for x in each.cell],
             "worse": round(each.worse, 3)}
            for each in indexed.candidates
        ],
        "warnings": list(indexed.warnings),
    }  # fmt: skip
    if indexed.second is not None:
        second = indexed.second
        residuals["second"] = {
            "UB": second.UB.tolist(), "indexed": second.count, "axis": list(second.axis),
            "angle": _number(second.angle), "law": second.law,
        }  # fmt: skip
    for key, found in (
        ("superlattice", indexed.superlattice), ("centring", indexed.centring_check),
        ("superposed", indexed.superposed),
    ):  # fmt: skip
        if found is not None:
            residuals[key] = found.to_dict()
    source = {
        "what": "offbragg index",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": version("offbragg"),
        "refined": ["UB", "lattice", *what],
        "files": list(files),
    }
    rows: Any = tuple(tuple(float(x) for x in row) for row in refined.UB)
    cell: Any = tuple(float(x) for x in indexed.lattice)
    geometry = refined.views[0].geometry if what else None
    return Orientation(rows, cell, source, residuals, geometry)


def _number(value: float) -> float | None:
    """Return a number as it is written; None: it is not known."""
    return round(float(value), 5) if math.isfinite(value) else None


def describe(found: IndexingResult) -> str:
    """Return what was found, as text to be printed."""
    indexed, numbers = found.indexed, found.orientation.residuals
    refined = indexed.refined
    cell, esd = indexed.lattice, refined.esd
    lengths = "  ".join(f"{x:.4f}({e:.4f})" for x, e in zip(cell[:3], esd[:3], strict=True))
    angles = "  ".join(f"{x:.3f}({e:.3f})" for x, e in zip(cell[3:], esd[3:], strict=True))
    rms = numbers["rms"]
    lines = [
        f"{numbers['indexed']} of {numbers['peaks']} peaks indexed ({indexed.fraction:.1%}); by "
        f"chance it would be {indexed.expected:.1%}",
        f"lattice    {indexed.name}",
        f"a b c      {lengths} Å",
        f"α β γ      {angles}°",
        *(
            f"{'UB' if i == 0 else '  '}         " + "  ".join(f"{x:+.7f}" for x in row)
            for i, row in enumerate(refined.UB)
        ),
        f"setting    {indexed.setting}",
        f"residuals  column {rms['column']:.3f}, row {rms['row']:.3f} pixel; angle "
        f"{rms['angle']:.4f}°",
        f"mosaicity  {indexed.mosaicity:.3f}°",
    ]
    if (check := indexed.centring_check) is not None and check.centring != "P":
        lines.append(
            f"centring   {check.centring}: {check.broken} of {check.of} indexed peaks break "
            f"{check.rule}"
        )
    for name, (by, error) in refined.moved.items():
        unit = "°" if name.startswith("about") else " mm"
        lines.append(f"panel      {name}: {by:+.4f}{unit} ± {error:.4f}")
    if len(indexed.candidates) > 1:
        lines.append("compared   lattice, how much worse it fits than a free cell, its cell")
        lines += [
            f"           {each.name}  {each.worse:6.2f}  " + " ".join(f"{x:.3f}" for x in each.cell)
            for each in indexed.candidates[:12]
        ]
    ignored = ", ".join(f"{n} {key}" for key, n in numbers["ignored"].items() if n)
    if ignored:
        lines.append(f"no peaks   {ignored}")
    lines += [f"WARNING: {warning}" for warning in indexed.warnings]
    lines.append(f"{found.path} ({found.seconds:.1f} s)")
    if found.kept is not None:
        lines.append(f"the earlier one is {found.kept.name} now")
    return "\n".join(lines)
