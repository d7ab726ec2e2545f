"""The orientation of a sweep, and whether those of several belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from offbragg.errors import ReductionError
from offbragg.files.orientation import NAME, Orientation, read_orientation
from offbragg.files.scan_file import ScanFile
from offbragg.geometry import Geometry
from offbragg.lattice import Cell, lattice_of
from offbragg.reduction.bravais import SAME_ANGLE, SAME_CELL, angle_of, same_lattice, turn_of
from offbragg.sample import Sample
from offbragg.workflows.choices import START, Array, Choices, Say
from offbragg.workflows.record import SweepInput

_REFINED = 3.0  # mm: a refinement moves a panel less than this, a detector position moves it more
_SAME_TURN = 0.2  # degree: a crystal does not turn on its mount; all axes are in the geometry
_SAME_LENGTH = 0.005  # of the axes of its cell, at one temperature


def orientation_of(
    path: Path, scan: ScanFile, choices: Choices
) -> tuple[Array, Cell | None, Geometry, str]:
    """Find UB, lattice and geometry of a sweep, and which file they are from."""
    beside = path.parent / NAME
    given = choices.orientation or (beside if beside.exists() else None)
    if given is not None:
        found = read_orientation(given)
        UB, geometry = np.array(found.UB), scan.geometry
        if found.geometry is not None:
            geometry = _refined(path, geometry, found.geometry, given)
        return UB, found.lattice, geometry, str(given)
    sample = scan.sample
    if sample.UB is None:
        raise ReductionError(
            f"{path} does not say how the crystal lies: it has no UB\n"
            f"Find it: offbragg index {path}; or give --orientation FILE."
        )
    return np.array(sample.UB), sample.lattice, scan.geometry, START


def check_same_lattice(
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
    files: Sequence[Mapping[str, Any]] = found.source.get("files") or []
    of: list[Mapping[str, Any]] = [each.get("sample") or {} for each in files]
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
    if why := why_not_refined(own, found):
        raise ReductionError(
            f"the refined geometry in {source} is not that of {path}: {why}\n"
            f"Index this sweep (offbragg index {path} --refine …), or one of the same place "
            "without --refine."
        )
    return replace(own, panel=found.panel)


def why_not_refined(own: Geometry, found: Geometry) -> str:
    """Return why a refined geometry is not that of a sweep; empty if it may be."""
    if own.panel.shape != found.panel.shape:
        return f"its panel has {found.panel.shape} pixels, the sweep's {own.panel.shape}"
    if not math.isclose(own.wavelength, found.wavelength, rel_tol=1e-3):
        return f"its wavelength is {found.wavelength:g} Å, the sweep's {own.wavelength:g} Å"
    apart = float(np.linalg.norm(np.subtract(own.panel.origin, found.panel.origin)))
    if apart > _REFINED:
        return f"its panel is {apart:.3g} mm away from where the sweep's was"
    return ""


def check_same_orientation(one: SweepInput, other: SweepInput) -> None:
    """Refuse two sweeps of one mount in which the crystal lies, or is called, differently.

    Raises
    ------
    ReductionError
        With the difference, and where both orientations are from.
    """
    mine, its = one.UB, other.UB
    turn = angle_of(turn_of(np.linalg.inv(its).T) @ turn_of(np.linalg.inv(mine).T).T)
    a, b = (np.array(lattice_of(UB)[:3]) for UB in (mine, its))
    longer = float(np.abs(b / a - 1.0).max())
    if turn > _SAME_TURN or longer > _SAME_LENGTH:
        where = "; ".join(
            f"{each.file}: {', '.join(f'{x:.4f}' for x in axes)} Å by {each.orientation}"
            for each, axes in ((one, a), (other, b))
        )
        raise ReductionError(
            f"two orientations of one mount contradict each other: {turn:.2f} degree apart "
            f"(at most {_SAME_TURN:g} merge), axes by up to {longer:.2%} (at most "
            f"{_SAME_LENGTH:.1%}): {where}\n"
            "Give one for all sweeps (--orientation FILE), or reduce them one by one."
        )
