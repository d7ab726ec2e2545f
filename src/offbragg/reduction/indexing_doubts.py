"""What speaks against a lattice: a second one, twins, mosaicity, what is left over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from offbragg.errors import OrientationError
from offbragg.reduction.bravais import (
    angle_of,
    cell_of,
    lattice_operations,
    matches,
    reduce,
    turn_of,
)
from offbragg.reduction.indexed import (
    EXACT,
    SEARCHED,
    Array,
    SecondLattice,
    Whole,
    cell_text,
    score_of,
    strongest,
)
from offbragg.reduction.leftover import Superlattice, find_shells
from offbragg.reduction.refinement import (
    Refined,
    Spots,
    residuals,
)
from offbragg.reduction.search import FoundLattice, find_given, inliers, primitive
from offbragg.reduction.setting import to_conventional
from offbragg.reduction.twins import (
    twin_law,
)

_NEARER = 0.5  # of how far peaks are from the first lattice, they may be from a second one


def doubts_of(
    refined: Refined,
    lattice: Sequence[float] | None,
    name: str,
    operations: Whole,
    free: Refined,
    basis: Array,
) -> list[str]:
    """Return what makes a lattice doubtful, one sentence each."""
    doubts: list[str] = []
    spots = refined.spots
    UB = refined.UB
    # a cell with symmetry against one without
    change = np.rint(np.linalg.inv(np.linalg.inv(free.UB).T) @ basis).astype(np.int64)
    used = free.used
    off = residuals(spots, UB, free.hkl @ change)[used]
    worse = score_of(off, free.sigma) / score_of(free.off[used], free.sigma)
    if lattice is not None and len(operations) > 1 and worse > 1.3 and not refined.moved:
        doubts.append(
            f"a cell without the given one's symmetry fits {worse:.1f} times better: "
            f"{cell_text(cell_of(np.linalg.inv(free.UB).T))} (reduced)"
        )
    conventional = np.linalg.inv(UB).T
    small, _ = reduce(conventional @ np.linalg.inv(to_conventional(name[1])))
    q = spots.q[refined.indexed]
    divided = primitive(q, small)
    times = round(float(np.linalg.det(small) / abs(np.linalg.det(divided))))
    if times > 1:
        doubts.append(
            f"all indexed peaks fit a {times} times smaller primitive cell, too: "
            f"{cell_text(cell_of(reduce(divided * np.sign(np.linalg.det(divided)))[0]))}"
        )
    width = float(np.median(spots.width[refined.used] * spots.step[refined.used]))
    pixels, angle = float(refined.sigma[:2].max()), float(refined.sigma[2])
    if pixels > 2.0 or angle > max(1.5 * width, 0.5 * float(np.median(spots.step))):
        doubts.append(
            f"peaks are off by {pixels:.2f} pixel and {angle:.3f}° (they are {width:.3f}° wide): a "
            "split crystal, one that moved, or a geometry that is not quite right"
        )
    clean = int(spots.clean.sum())
    if clean < 30:
        doubts.append(f"only {clean} peaks are clean (whole, unsaturated, away from gaps)")
    turned = sum(abs(v.sweep.step) * v.sweep.n_frames for v in refined.views)
    if turned < 20.0:
        doubts.append(
            f"the crystal turned by {turned:.3g}° only: what lies along the beam is known less well"
        )
    return doubts


def find_second(
    refined: Refined, expected: float, superlattice: Superlattice | None
) -> SecondLattice | None:
    """Look for a second lattice of the same cell among the peaks that are left."""
    left = ~refined.indexed
    n = len(left)
    if left.sum() < max(15, 0.04 * n):
        return None
    spots = refined.spots.take(left)
    basis, _ = reduce(np.linalg.inv(refined.UB).T)
    centring_free = primitive(refined.spots.q[refined.indexed], basis)
    basis, _ = reduce(centring_free * np.sign(np.linalg.det(centring_free)))
    cell = cell_of(basis)
    found = find_given(strongest(spots), cell, "P", within=0.01)
    size = float(np.cbrt(np.linalg.det(basis)))
    whole = np.rint(spots.q @ basis)
    beside = np.linalg.norm(spots.q - whole @ np.linalg.inv(basis), axis=1) * size
    best: tuple[int, Array] | None = None
    for each in found[:4]:
        way = matches(each.basis, cell, "P", within=0.03)
        if not way:
            continue
        UB = np.linalg.inv(way[0].basis).T
        hkl = np.rint(spots.q @ np.linalg.inv(UB).T)
        off = residuals(spots, UB, hkl)
        away = np.linalg.norm(spots.q - hkl @ UB.T, axis=1) * size
        good = (away < 0.12) & np.all(np.abs(off[:, :2]) < 6.0, axis=1)
        # of what is scattered around the first one's points, none is nearer to another lattice's
        if np.median(away[good]) > _NEARER * np.median(beside[good]):
            continue
        if best is None or good.sum() > best[0]:
            best = int(good.sum()), UB
    if best is None:
        return None
    count, second = best
    share = max(expected, (0.24**3) * 0.52)
    by_chance = share * left.sum()
    if count < max(12, 0.03 * n, by_chance + 6 * math.sqrt(by_chance) + 8):
        return None
    # the points of a superlattice hold rotated lattices of the small cell as well
    if superlattice is not None and count < 0.8 * superlattice.count:
        hkl = np.rint(spots.q @ np.linalg.inv(second).T)
        at = np.linalg.norm(spots.q - hkl @ second.T, axis=1) * size
        others = int(((at < 0.12) & ~superlattice.which[left]).sum())
        if others < max(12, 0.5 * count):
            return None
    first = basis
    turn = turn_of(np.linalg.inv(second).T) @ turn_of(first).T
    own = lattice_operations(basis, 1.0)
    ways = [first @ w @ np.linalg.inv(first) for w in own]
    smallest = max(ways, key=lambda w: float(np.trace(turn @ w)))
    axis, angle = _axis(turn @ smallest)
    exact = lattice_operations(basis, EXACT)
    law = twin_law(turn, first, exact, np.linalg.inv(refined.UB).T)
    return SecondLattice(second, count, axis, angle, law)


def _axis(turn: Array) -> tuple[tuple[float, float, float], float]:
    values, vectors = np.linalg.eig(turn)
    axis: Any = np.real(vectors[:, int(np.argmin(np.abs(values - 1.0)))])
    axis = axis / np.linalg.norm(axis)
    return (float(axis[0]), float(axis[1]), float(axis[2])), angle_of(turn)


def mosaicity_of(refined: Refined) -> float:
    """Return the width of a reflection across the Ewald sphere (Kabsch, Acta D66, 125, 2010)."""
    spots = refined.spots
    good = refined.indexed & spots.clean & (spots.speed > 0.3)
    if not good.any():
        return math.nan
    # a frame smears by its own width
    variance = (spots.width[good] ** 2 - 1.0 / 12.0) * spots.step[good] ** 2
    return float(np.median(np.sqrt(np.maximum(variance, 0.0)) * spots.speed[good]))


def refusal_of(
    spots: Spots, found: list[FoundLattice], lattice: Sequence[float] | None, within: float
) -> OrientationError:
    """Return the error that says why no lattice is given."""
    n = min(len(spots), SEARCHED)
    if found:
        best = found[0]
        count = inliers(strongest(spots), best.basis).sum()
        what = (
            f"no lattice explains the {len(spots)} peaks: the best one, "
            f"{cell_text(cell_of(best.basis))} (reduced), is near {count} of {n}, no more "
            "than chance"
        )
    elif lattice is not None:
        what = (
            f"the given cell, {cell_text(lattice)}, lies nowhere in the {len(spots)} peaks, "
            f"even if its lengths are off by {within:.0%}"
        )
    else:
        what = f"no lattice explains the {len(spots)} peaks"
    shells = find_shells(spots.q)
    advice = "Is the given cell right? Try --unknown-cell. " if lattice is not None else ""
    if shells is not None:
        advice += str(shells)
    return OrientationError(
        f"{what}\n{advice}Are wavelength, distance and beam centre right, and is there one crystal?"
    )
