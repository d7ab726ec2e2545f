"""From the sweeps of a temperature series to a transition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from offbragg.errors import OffbraggError, ReductionError
from offbragg.files.orientation import NAME
from offbragg.files.scan_file import ScanFile
from offbragg.grid import Grid
from offbragg.ledger import FrameStatus
from offbragg.reduction.order_parameter import Transition, box_around, check_number, fit_series
from offbragg.reduction.symmetry import Laue
from offbragg.sample import Sample
from offbragg.volume import Volume
from offbragg.workflows.choices import START, Choices
from offbragg.workflows.record import SweepInput
from offbragg.workflows.reduce import build_record
from offbragg.workflows.sums import reduce_record
from offbragg.workflows.sweeps import temperature_of

_SAME = 0.5  # K: sweeps this close are one temperature


def find_sweeps(
    where: Sequence[Path | str], series: str | Sequence[str] | None = None
) -> dict[float, list[Path]]:
    """Find the scan files of a series, by temperature.

    Parameters
    ----------
    where
        Scan files, or folders that are searched for them.
    series
        Uids of series or runs, or their first characters, if there are others in the folders.

    Returns
    -------
    sweeps
        Scan files for each temperature, K; one that was settled counts by its mean.

    Raises
    ------
    ReductionError
        If there are none with a temperature, or none of a series that is named.
    """
    wanted = [series] if isinstance(series, str) else list(series or ())
    met: set[str] = set()
    found: list[tuple[float, Path]] = []
    for place in map(Path, where):
        given = [place] if place.is_file() else sorted(place.rglob("f*.h5"))
        for path in given:
            try:
                with ScanFile.open(path) as scan:
                    start = scan.start
            except (OffbraggError, OSError) as error:
                if not place.is_file():
                    continue
                if isinstance(error, OffbraggError):
                    raise
                raise ReductionError(f"{path} cannot be opened: {error.strerror}") from error
            group: Mapping[str, Any] = start.get("series") or {}
            uids = (str(group.get("uid", "")), str(start["uid"]))
            named = {each for each in wanted if each and any(u.startswith(each) for u in uids)}
            met |= named
            if start.get("purpose", "data") != "data" or (wanted and not named):
                continue
            if (kelvin := temperature_of(start)) is not None:
                found.append((float(kelvin), path))
    if missing := [each for each in wanted if each not in met]:
        raise ReductionError(
            f"{', '.join(map(repr, missing))}: not a file, a folder, or the uid of a series or run "
            f"that is found in {', '.join(map(str, where))}"
        )
    if not found:
        raise ReductionError(
            f"no sweep with a temperature is found in {', '.join(map(str, where))}"
        )
    groups: list[list[tuple[float, Path]]] = []
    for kelvin, path in sorted(found):
        if groups and kelvin - groups[-1][0][0] < _SAME:
            groups[-1].append((kelvin, path))
        else:
            groups.append([(kelvin, path)])
    return {float(np.mean([k for k, _ in g])): [p for _, p in g] for g in groups}


def order_parameter(
    sweeps: dict[float, list[Path]],
    at: tuple[float, float, float],
    *,
    reach: float = 0.2,
    step: float = 0.025,
    choices: Choices | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Transition:
    """Follow a point of reciprocal space through a series.

    Parameters
    ----------
    sweeps
        Of `find_sweeps`.
    at
        h, k, l of the point.
    reach, step
        Of the box around it, r.l.u.
    choices
        For the reduction; its grid is not used. With a symmetry, all that was measured at
        equivalents of the point counts.
    progress
        Called with the number of temperatures that are done, and of all.
    """
    check_number(len(sweeps))
    box = Grid.box(*[(x - reach, x + reach) for x in at], step=step)
    chosen = replace(choices or Choices(), grid=box)
    volumes: dict[float, Volume] = {}
    inputs: list[SweepInput] = []
    warnings: list[str] = []

    def note(text: str) -> None:
        about_mask = text.partition(": ")[2]
        if "WARNING" in text:
            warnings.append(text)
        elif about_mask.startswith("the mask ") and about_mask not in warnings:
            warnings.append(about_mask)  # once for all sweeps

    for n, (kelvin, files) in enumerate(sweeps.items()):
        try:
            record = build_record(files, chosen, say=note)
            volumes[kelvin] = reduce_record(record)
            box_around(volumes[kelvin], at)
        except ReductionError as error:
            elsewhere = _elsewhere(files, chosen, at)
            raise ReductionError(f"at {kelvin:g} K: {error}{elsewhere}") from error
        inputs += record.inputs
        progress(n + 1, len(sweeps))
    return replace(fit_series(volumes, at), notes=(*_notes(inputs, chosen), *warnings))


def _elsewhere(files: Sequence[Path], choices: Choices, at: tuple[float, float, float]) -> str:
    """Name the equivalents of a point that the sweeps of a temperature measured."""
    try:
        record = build_record(
            files, replace(choices, grid=None, step=1.0, symmetry="none", background="none"),
            say=lambda text: None,
        )  # fmt: skip
        laue = _laue_of(choices, record.sample)
    except OffbraggError:
        return ""  # the error that is raised says what is wrong
    points = np.unique(
        np.round(np.array(laue.operations) @ np.array(at), 9) + 0.0, axis=0
    )  # of (0.5, 0.5, 0.5) some are the same
    met: list[str] = []
    for each in record.inputs:
        try:
            with ScanFile.open(each.file) as scan:
                found = each.geometry.predict(points, each.UB, scan.sweep)
                counts = scan.pixel_mask() == 0
                there = [status is FrameStatus.STORED for status in scan.ledger.statuses]
        except OffbraggError:
            continue
        for x, y, z, which in zip(found.x, found.y, found.z, found.which, strict=True):
            if counts[int(y), int(x)] and int(z) < len(there) and there[int(z)]:
                point = ",".join(f"{v:g}" for v in points[which])
                if point not in met:
                    met.append(point)
    cls = f"{laue.name}, {len(points)} points"
    if not met:
        return f"\nNone of its equivalents ({cls}) was measured."
    shown = "  ".join(f"--at {point}" for point in met[:6])
    more = f" and {len(met) - 6} more" if len(met) > 6 else ""
    return (
        f"\nMeasured equivalents ({cls}): {shown}{more}; or all of them: --symmetry {laue.name!r}"
        if choices.symmetry in ("none", "")
        else f"\nMeasured equivalents ({cls}): {shown}{more}."
    )


def _laue_of(choices: Choices, sample: Sample) -> Laue:
    """Return the Laue class that is asked for, or that of the space group."""
    if choices.symmetry not in ("none", "", "auto"):
        return Laue.named(choices.symmetry, sample.lattice)
    if sample.space_group is None:
        return Laue.named("-1")  # what holds of any crystal
    return Laue.of(sample.space_group, sample.lattice)


def _notes(inputs: Sequence[SweepInput], choices: Choices) -> list[str]:
    """Return where orientations and backgrounds are from; a warning if they differ."""
    orientation: dict[str, list[str]] = {}
    background: dict[str, list[str]] = {}
    for each in inputs:
        source = each.orientation
        if choices.orientation is None and source != START:
            source = f"{NAME} beside the scan file"
        orientation.setdefault(source, []).append(each.file)
        used = each.background
        air = "none" if used is None else "an air run"
        if used is not None and choices.background != "auto":
            air = used.file
        background.setdefault(air, []).append(each.file)
    notes: list[str] = []
    for what, found in (("orientation", orientation), ("background", background)):
        if len(found) == 1:
            notes.append(f"{what} of all {len(inputs)} sweeps: {next(iter(found))}")
        else:
            of = "; ".join(f"{source}: {', '.join(files)}" for source, files in found.items())
            notes.append(f"WARNING: {what} is not from the same for all sweeps: {of}")
    return notes
