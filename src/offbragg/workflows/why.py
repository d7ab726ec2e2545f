"""Ask a cell of a volume: which frames and pixels made it, and which did not count and why.

The answer is found from the record in the volume's file and the scan files that it names. Counts
and whole-number weights of the pixels that count sum to the cell exactly.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offbragg.errors import ReductionError
from offbragg.files.digest import sha256
from offbragg.files.other_volumes import KINDS, other_kind
from offbragg.files.volume_file import VolumeFile
from offbragg.grid import NAMES, Grid, Three
from offbragg.kernels.transform import weights
from offbragg.reduction.binning import FrameToAdd
from offbragg.reduction.symmetry import Laue
from offbragg.reduction.trace import Visit, visits
from offbragg.workflows.choices import Progress
from offbragg.workflows.record import ReductionRecord, SweepInput
from offbragg.workflows.sums import PreparedSweep, exponent, prepared

COUNTED = "counted"
"""State of a pixel that counts."""
_EARLIER = 2.0**-18  # rounding of weights in files of earlier versions
_ROUNDING = 1e-12  # of sums over equivalent cells, where parts of counts are no whole numbers


@dataclass(frozen=True, slots=True)
class PixelInCell:
    """A pixel of a frame that falls into a cell.

    Parameters
    ----------
    file
        Scan file of the sweep.
    frame
        Number of the frame.
    angle
        Of its middle, degree.
    slow, fast
        Of the pixel.
    parts
        How many of its parts fall into the cell; 1 without oversampling.
    counts
        Of the whole pixel; None if the frame cannot be read.
    weight
        Of these parts, in units of the volume's weight; 0 if the pixel does not count.
    state
        ``counted``; or why it does not count: ``masked``, ``hot``, ``no background``, ``invalid``
        (a negative count), ``saturated``; or of the whole frame: ``missing``, ``rejected``,
        ``pending``, ``damaged``, ``repeated``, ``no flux``.
    """

    file: str
    frame: int
    angle: float
    slow: int
    fast: int
    parts: int
    counts: int | None
    weight: int
    state: str


@dataclass(frozen=True, slots=True)
class CellOrigin:
    """What made a cell of a volume.

    Parameters
    ----------
    hkl
        Its centre, r.l.u.
    cells
        Centres of the cells whose pixels it has: with a symmetry, its equivalents too.
    parts
        Number of parts of a pixel of a frame.
    weight_unit
        What a weight of one means.
    stored_counts, stored_weight
        What the volume's file has in the cell.
    pixels
        All that fall into the cell, whether they count or not.
    reasons
        Of missing and rejected frames, by scan file and number.
    exact
        Whether the file has exactly the sums of these pixels.
    """

    hkl: tuple[float, float, float]
    cells: tuple[tuple[float, float, float], ...]
    parts: int
    weight_unit: float
    stored_counts: float
    stored_weight: float
    pixels: tuple[PixelInCell, ...]
    reasons: dict[tuple[str, int], str] = field(default_factory=dict[tuple[str, int], str])
    exact: bool = True

    @property
    def counts(self) -> float:
        """Sum of the counts of the pixels that count."""
        return _counts(self.pixels) * (1.0 / self.parts)  # rounded as the accumulator's

    @property
    def weight(self) -> float:
        """Sum of their weights."""
        return sum(each.weight for each in self.pixels) * self.weight_unit

    @property
    def states(self) -> dict[str, int]:
        """Number of pixels in each state, the most frequent first."""
        return dict(Counter(each.state for each in self.pixels).most_common())

    @property
    def verdict(self) -> str:
        """In words: what the cell was measured with, or why it was not."""
        if not self.pixels:
            return "not measured: no frame of these sweeps reaches it"
        counted = [each for each in self.pixels if each.state == COUNTED]
        if counted:
            frames = len({(each.file, each.frame) for each in counted})
            return (
                f"measured with {_number(len(counted), 'pixel')} of {_number(frames, 'frame')}: "
                f"{self.counts:g} counts, weight {self.weight:.6g}"
            )
        why = ", ".join(f"{n} {state}" for state, n in self.states.items())
        return (
            f"not measured: {_number(len(self.pixels), 'pixel')} fall into it, none counts ({why})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "hkl": list(self.hkl),
            "cells": [list(each) for each in self.cells],
            "verdict": self.verdict,
            "exact": self.exact,
            "counts": self.counts,
            "weight": self.weight,
            "stored_counts": self.stored_counts,
            "stored_weight": self.stored_weight,
            "parts": self.parts,
            "weight_unit": self.weight_unit,
            "states": self.states,
            "reasons": [
                {"file": file, "frame": frame, "reason": reason}
                for (file, frame), reason in self.reasons.items()
            ],
            "pixels": [asdict(each) for each in self.pixels],
        }


def why(
    path: Path | str,
    hkl: ArrayLike,
    *,
    progress: Progress = lambda done, total: None,
) -> CellOrigin:
    """Find what made one cell of a volume.

    Parameters
    ----------
    path
        The volume file; its scan files must be where its record has them.
    hkl
        A point in the cell, r.l.u.
    progress
        Called with the number of sweeps that are done, and of all.

    Raises
    ------
    ReductionError
        If the point is outside the grid, or a scan file is not there or has changed.
    """
    return why_cells(path, [np.asarray(hkl, np.float64)], progress=progress)[0]


def why_cells(
    path: Path | str,
    points: ArrayLike,
    *,
    progress: Progress = lambda done, total: None,
) -> list[CellOrigin]:
    """Find what made several cells of a volume; each frame is read once.

    Parameters
    ----------
    path, progress
        As for `why`.
    points
        One in each of the cells, r.l.u., shape (n, 3).
    """
    path = Path(path)
    if (kind := other_kind(path)) is not None:
        raise ReductionError(
            f"{path} cannot be traced: it is a volume of {KINDS[kind]}, whose frames are not known "
            "here\nAsk the program that made it."
        )
    with VolumeFile(path) as file:
        _check_not_converted(path, file.record)
        try:
            record = ReductionRecord.from_dict(file.record).absolute_from(path)
        except ReductionError as error:
            raise ReductionError(f"{path} cannot be traced: {error}") from error
        cells = _indices(file.grid, points, path)
        stored = [_stored(file, cell) for cell in cells]
    record = replace(record, weight_exponent=(unit := exponent(record)))
    binned, of = _binned_cells(record, cells)
    pixels: list[list[PixelInCell]] = [[] for _ in cells]
    reasons: list[dict[tuple[str, int], str]] = [{} for _ in cells]
    for done, each in enumerate(record.inputs):
        with prepared(record, each, threads=1) as sweep:
            frames = _Frames(sweep, each, unit)
            found = visits(frames.binner, frames.all, binned)
            for number, together in groupby(found, key=lambda visit: visit.frame):
                for visit, rows in frames.look(number, list(together)):
                    for cell in of[visit.cell]:
                        pixels[cell] += rows
                        if reason := frames.reason(number):
                            reasons[cell][each.file, number] = reason
        progress(done + 1, len(record.inputs))
    made: list[CellOrigin] = []
    for number, (cell, (counts, weight)) in enumerate(zip(cells, stored, strict=True)):
        origin = CellOrigin(
            hkl=_centre(record.grid, cell),
            cells=tuple(
                _centre(record.binned, other)
                for other, wanted in zip(binned, of, strict=True)
                if number in wanted
            ),
            parts=record.oversample.parts,
            weight_unit=2.0**-unit,
            stored_counts=counts,
            stored_weight=weight,
            pixels=tuple(pixels[number]),
            reasons=reasons[number],
        )
        made.append(replace(origin, exact=_is_exact(origin, file.record, record)))
    if not all(each.exact for each in made):
        _check_unchanged(record, path)
    return made


def _check_not_converted(path: Path, record: Mapping[str, Any]) -> None:
    if not isinstance(made := record.get("converted"), dict):
        return
    source, kind = (str(cast(dict[str, Any], made).get(key)) for key in ("file", "format"))
    if kind not in KINDS:
        raise ReductionError(f"{path} cannot be traced: it is a copy of {source}\nAsk of that one.")
    raise ReductionError(
        f"{path} cannot be traced: it was converted from {source}, a volume of {KINDS[kind]}, "
        "whose frames are not known here\nAsk the program that made it."
    )


class _Frames:
    """The frames of a sweep: which of them count, and what their pixels are.

    Parameters
    ----------
    sweep
        The sweep.
    each
        What the record has of it.
    unit
        n of the unit 2⁻ⁿ of the weights.
    """

    def __init__(self, sweep: PreparedSweep, each: SweepInput, unit: int) -> None:
        self._sweep, self._file, self.binner = sweep, each.file, sweep.setup.binner()
        self._hot = sweep.selection.hot_mask(sweep.scan.shape)
        self._counts = sweep.scan.stack.counts
        flux = sweep.selection.flux
        ledger = sweep.scan.ledger
        self._reasons = ledger.reasons
        self._states = [
            str(status) if status != "stored" else
            "damaged" if n in each.damaged else
            "repeated" if n in sweep.selection.repeats else
            COUNTED if flux[n] > 0 and n < self._counts.shape[0] else
            "no flux"
            for n, status in enumerate(ledger.statuses)
        ]  # fmt: skip
        middle, half = sweep.scan.sweep.midpoints, 0.5 * sweep.scan.sweep.step
        read = sweep.scan.frame_values()["angle"]
        self._angles = np.where(np.isfinite(read), read, middle)
        self.all = [
            FrameToAdd(
                _unread, float(angle - half), float(angle + half),
                float(flux[n]) if self._states[n] == COUNTED else 0.0,
            )
            for n, angle in enumerate(self._angles)
        ]  # fmt: skip
        self._flux = self.binner.flux(self.all, unit)

    def reason(self, number: int) -> str:
        """Return why a frame is missing or was rejected."""
        return "" if self._states[number] == COUNTED else self._reasons[number]

    def look(self, number: int, found: list[Visit]) -> list[tuple[Visit, list[PixelInCell]]]:
        """Return what the pixels of a frame are, cell by cell."""
        state, counts = self._states[number], None
        if state in (COUNTED, "no flux", "repeated") and number < self._counts.shape[0]:
            counts = np.asarray(self._counts[number])
        return [(visit, self._rows(visit, state, counts)) for visit in found]

    def _rows(
        self, visit: Visit, state: str, counts: NDArray[np.int32] | None
    ) -> list[PixelInCell]:
        at, factor = (visit.slow, visit.fast), self.binner.factor[visit.slow, visit.fast]
        weight = visit.parts * weights(factor, self._flux[visit.frame])
        states = np.full(factor.shape, state, object)
        if state == COUNTED:
            assert counts is not None
            # what stands later is the reason where there are several
            for word, which in (
                ("saturated", counts[at] > self.binner.most),
                ("invalid", counts[at] < 0),
                ("no background", factor <= 0),
                ("hot", self._hot[at]),
                ("masked", self._sweep.masked[at]),
            ):
                states[which] = word
        return [
            PixelInCell(
                self._file, visit.frame, float(self._angles[visit.frame]), int(slow), int(fast),
                int(parts), None if counts is None else int(counts[slow, fast]),
                int(each) if word == COUNTED else 0, word,
            )
            for slow, fast, parts, each, word in zip(
                *at, visit.parts, weight, states, strict=True
            )
        ]  # fmt: skip


def _unread(out: NDArray[np.int32]) -> None:
    raise AssertionError("frames that are traced are not read here")


def _indices(grid: Grid, points: ArrayLike, path: Path) -> list[Three]:
    given = np.asarray(points, np.float64)
    if given.ndim != 2 or given.shape[1] != 3 or not np.all(np.isfinite(given)):
        raise ReductionError(
            f"{given.tolist()} is not a list of points: each is h, k and l, r.l.u."
        )
    try:
        return [grid.index(point) for point in given]
    except ReductionError as error:
        raise ReductionError(f"{path}: {error}") from None


def _centre(grid: Grid, cell: Three) -> tuple[float, float, float]:
    h, k, l = ((a + i) / n for a, i, n in zip(grid.first, cell, grid.per_unit, strict=True))  # noqa: E741
    return h, k, l


def _stored(file: VolumeFile, cell: Three) -> tuple[float, float]:
    h, k, l = (slice(i, i + 1) for i in cell)  # noqa: E741
    part = file.part((h, k, l))
    return float(part.counts[0, 0, 0]), float(part.weight[0, 0, 0])


def _binned_cells(
    record: ReductionRecord, cells: Sequence[Three]
) -> tuple[list[Three], list[list[int]]]:
    """Find the cells that were summed into each cell, in the grid that was binned.

    Returns
    -------
    binned
        Cells, each once.
    of
        Into which of ``cells`` each of them was summed.
    """
    binned = record.binned
    operations = Laue.named(record.symmetry).operations if record.symmetry else None
    found: dict[Three, list[int]] = {}
    for number, cell in enumerate(cells):
        label = np.array(record.grid.first) + cell
        images = [label] if operations is None else [np.array(op) @ label for op in operations]
        for image in sorted({tuple(map(int, each - binned.first)) for each in images}):
            if all(0 <= i < n for i, n in zip(image, binned.shape, strict=True)):
                found.setdefault((image[0], image[1], image[2]), []).append(number)
    return list(found), list(found.values())


def _counts(pixels: Sequence[PixelInCell]) -> int:
    return sum(
        each.parts * each.counts
        for each in pixels
        if each.state == COUNTED and each.counts is not None
    )


def _is_exact(origin: CellOrigin, kept: dict[str, Any], record: ReductionRecord) -> bool:
    """Return whether a cell has the sums of its pixels, as far as its file can hold them."""
    many = _ROUNDING if record.symmetry and record.oversample.parts > 1 else 0.0
    earlier = kept.get("weight_exponent") is None
    return math.isclose(origin.counts, origin.stored_counts, rel_tol=many) and math.isclose(
        origin.weight, origin.stored_weight, rel_tol=_EARLIER if earlier else many
    )


def _check_unchanged(record: ReductionRecord, path: Path) -> None:
    for each in record.files():
        if sha256(each.file) != each.sha256:
            raise ReductionError(
                f"{each.file} has changed since {path} was made of it: its SHA-256 is not "
                f"{each.sha256[:12]}…, and the pixels that are in it now do not make the cell"
            )


def _number(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def describe(origin: CellOrigin, *, most: int = 40) -> str:
    """Write what made a cell as text.

    Parameters
    ----------
    origin
        Of `why`.
    most
        Limit on the number of pixels that are listed.
    """
    where = ", ".join(f"{name} {x:g}" for name, x in zip(NAMES, origin.hkl, strict=True))
    lines = [f"cell {where}: {origin.verdict}"]
    if len(origin.cells) > 1:
        lines.append(f"with the pixels of {len(origin.cells)} equivalent cells")
    lines.append(
        f"the file has {origin.stored_counts:g} counts, weight {origin.stored_weight:.6g}: "
        + ("exactly these pixels" if origin.exact else "NOT the sum of these pixels")
    )
    left_out = {state: n for state, n in origin.states.items() if state != COUNTED}
    if left_out:
        lines.append("do not count: " + ", ".join(f"{n} {s}" for s, n in left_out.items()))
    for (file, frame), reason in list(origin.reasons.items())[:most]:
        lines.append(f"  {Path(file).name} frame {frame}: {reason}")
    if origin.pixels:
        lines.append(
            f"{'file':<12} {'frame':>6} {'angle °':>9} {'slow':>5} {'fast':>5} {'parts':>5} "
            f"{'counts':>8} {'weight':>12}  state"
        )
    for each in origin.pixels[:most]:
        counts = "-" if each.counts is None else str(each.counts)
        weight = each.weight * origin.weight_unit
        lines.append(
            f"{Path(each.file).name:<12} {each.frame:>6} {each.angle:>9.3f} {each.slow:>5} "
            f"{each.fast:>5} {each.parts:>5} {counts:>8} {weight:>12.6g}  {each.state}"
        )
    if (more := len(origin.pixels) - most) > 0:
        lines.append(f"and {_number(more, 'pixel')} more (--rows, --json)")
    return "\n".join(lines)
