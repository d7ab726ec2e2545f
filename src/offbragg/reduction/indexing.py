"""From peaks to an orientation: search, name the lattice, refine, and refuse what is not sure."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial import KDTree  # pyright: ignore[reportMissingTypeStubs]

from offbragg.errors import OrientationError
from offbragg.reduction.bravais import (
    cell_of,
    matches,
    primitive_basis,
    reduce,
)
from offbragg.reduction.indexed import (
    LEAST,
    ONE,
    POOR,
    Array,
    Indexed,
    Lattice,
    Whole,
    cell_text,
    chance_level,
    says_little,
    strongest,
)
from offbragg.reduction.indexing_doubts import doubts_of, find_second, mosaicity_of, refusal_of
from offbragg.reduction.leftover import find_superlattice
from offbragg.reduction.refinement import (
    Refined,
    Spots,
    SweepPeaks,
    belongs,
    chance,
    nearest,
    refine,
    residuals,
    spots_of,
)
from offbragg.reduction.search import FoundLattice, find_given, find_lattice, inliers, primitive
from offbragg.reduction.setting import (
    choose_setting,
    name_symmetry,
    near_given,
    sure_symmetry,
    symmetry_of_given,
    to_conventional,
)
from offbragg.reduction.twins import (
    CentringCheck,
    check_centring,
    find_superposed,
    hidden_twins,
)

_SUPER = 0.1  # of the peaks at fractions of a cell: if there are fewer, it is kept without them


_LONGEST = (12.0, 90.0)  # Å, between which the longest axis is sought


_FLAT = 0.01  # Å⁻¹ from a plane through the origin: peaks nearer than that lie on it


def index(
    views: Sequence[SweepPeaks],
    *,
    lattice: Sequence[float] | None = None,
    centring: str = "P",
    what: Sequence[str] = (),
    reference: Array | None = None,
    within: float = 0.02,
    rotations: Whole | None = None,
) -> Indexed:
    """Find how the crystal lies, and its cell if that is not known.

    Parameters
    ----------
    views
        Sweeps of one mount, with their peaks.
    lattice
        The cell, a, b, c in Å and alpha, beta, gamma in degree; None if not known. A symmetry
        that its numbers have (equal lengths, 90°) is kept in the refinement.
    centring
        Of the given cell: P, A, B, C, I, F or R (hexagonal axes).
    what
        Of the panel, to be refined: any of ``beam``, ``distance``, ``tilt``.
    reference
        An earlier UB; of the settings that the lattice cannot tell apart, the nearest to it is
        taken. Without one, that whose rotation U is nearest to none.
    within
        How much a length may differ from the given cell's, relative.
    rotations
        Proper rotations of the crystal's Laue class on hkl, columns, on the axes of the given
        cell, shape (n, 3, 3), if that is known: twins by others are reported.

    Raises
    ------
    OrientationError
        If there are too few peaks, or no lattice explains them well beyond chance: with the
        numbers.
    """
    views, left_out = usable(views)
    spots = spots_of(views)
    n = len(spots)
    _enough(n, views, left_out)
    q = strongest(spots)
    if lattice is None:
        _spanning(q)
    candidates: tuple[Lattice, ...] = ()
    if lattice is not None:
        found = _given(q, lattice, centring, within)
    else:
        found = find_lattice(q, _longest(views, spots))
    best = _best(views, found, lattice, centring, within)
    if lattice is None and _poor(best):
        # few peaks of a large cell lie far apart, and tell too little of its size
        best = _larger(views, q, _longest(views, spots), best)
    if best is None:
        raise refusal_of(spots, found, lattice, within)
    if lattice is None:
        best = _whole(views, *best)
    basis, free = best
    trial = _trial(views, free)
    judged = tuple(what) or (("beam", "distance") if trial else ())
    if lattice is None:
        chosen, candidates = name_symmetry(views, basis, free, judged)
        name, operations = chosen.name, chosen.operations
        basis = basis @ chosen.change
    else:
        name, operations = symmetry_of_given(lattice, centring)
    basis, setting, unsure = choose_setting(
        basis, operations, lattice, centring, reference, free, within
    )
    # a short sweep tells how a crystal lies, but hardly its cell
    kept = lattice if lattice is not None and says_little(views, free) else None
    refined = refine(views, np.linalg.inv(basis).T, operations, what=what, fixed=kept)
    cell = cell_of(np.linalg.inv(refined.UB).T)
    expected = chance(refined.spots, refined.UB, refined.sigma)
    superlattice = find_superlattice(refined)
    sure_symmetry(refined, expected, lattice, superlattice)
    if lattice is not None:
        near_given(refined, cell, lattice, centring, within)
    else:
        _on_planes(refined)
    second = find_second(refined, expected, superlattice)
    # a twin whose points are thirds, say, of the first one's is not a superlattice
    if superlattice is not None and second is not None and second.count > 0.8 * superlattice.count:
        superlattice = None
    warnings = list(doubts_of(refined, lattice, name, operations, free, basis))
    warnings += unsure
    if kept is not None:
        warnings.append("the cell was kept as it was given: these peaks hardly tell it")
    if trial and not what:
        warnings.insert(0, trial)
    if left_out:
        warnings.append(f"peaks that cannot be used were left out: {left_out}")
    if superlattice is not None:
        warnings.append(str(superlattice))
    explained = refined.indexed if superlattice is None else refined.indexed | superlattice.which
    if second is not None:
        law = f" (a twin: {second.law})" if second.law else ""
        warnings.append(
            f"a second lattice of the same cell indexes {second.count} of the "
            f"{int((~refined.indexed).sum())} peaks that are left: a twin or a second crystal, "
            f"turned by {second.angle:.2f}° about ({', '.join(f'{x:.3f}' for x in second.axis)})"
            f"{law}"
        )
    elif explained.mean() < 0.6:
        warnings.append(
            f"only {explained.mean():.0%} of the peaks belong to this lattice, and the rest "
            "to no second one of its cell"
        )
    checked = None if lattice is None else _check_centring(refined, centring, cell, expected)
    if checked is not None and checked.doubtful:
        warnings.append(str(checked))
    superposed = None
    if checked is None or not checked.doubtful:
        primitive_cell = np.linalg.inv(refined.UB).T @ np.linalg.inv(to_conventional(name[1]))
        superposed = find_superposed(refined.spots.q[refined.indexed], primitive_cell)
    if superposed is not None:
        warnings.append(str(superposed))
    if rotations is not None and lattice is not None:
        warnings += _hidden(cell, centring, rotations)
    return Indexed(
        refined, cell, name, candidates, setting, mosaicity_of(refined), expected, second,
        superlattice, checked, superposed, tuple(warnings),
    )  # fmt: skip


_SAME_PLACE = 0.01  # pixel and frame: nearer than that it is one peak that is listed twice


def usable(views: Sequence[SweepPeaks]) -> tuple[list[SweepPeaks], str]:
    """Exclude peaks that are not anywhere on the panel and in the sweep, and those listed twice.

    Returns
    -------
    views
        With the other peaks.
    left_out
        What was left out, in words; empty if nothing was.
    """
    kept: list[SweepPeaks] = []
    numbers = {"not numbers": 0, "outside the panel or the sweep": 0, "listed twice": 0}
    for view in views:
        peaks = view.peaks
        columns = np.stack([peaks.x, peaks.y, peaks.z, peaks.intensity, peaks.width])
        finite = np.all(np.isfinite(columns), axis=0)
        place = np.where(finite, columns[:3], 0.0)
        rows, wide = view.geometry.panel.shape
        ends = np.array([[wide], [rows], [view.sweep.n_frames]])
        inside = np.all((place >= -1.0) & (place <= ends + 1.0), axis=0)
        good = np.flatnonzero(finite & inside)
        rounded = np.rint(columns[:3, good] / _SAME_PLACE)
        first = np.sort(np.unique(rounded, axis=1, return_index=True)[1])
        numbers["not numbers"] += int((~finite).sum())
        numbers["outside the panel or the sweep"] += int((finite & ~inside).sum())
        numbers["listed twice"] += len(good) - len(first)
        if len(first) < len(peaks):
            view = dataclasses.replace(view, peaks=peaks[good[first]])
        kept.append(view)
    return kept, ", ".join(f"{n} {words}" for words, n in numbers.items() if n)


def _spanning(q: Array) -> None:
    """Refuse peaks on a plane: the third axis is then unknown, or seen in one plane only."""
    for centre, where in ((np.zeros(3), " through the origin"), (np.median(q, axis=0), "")):
        off = q - centre
        normal = np.linalg.svd(off, full_matrices=False)[2][2]
        flat = float(np.quantile(np.abs(off @ normal), 0.9))
        if flat < _FLAT:
            raise OrientationError(
                f"90% of the {len(q)} peaks lie within {flat:.4f} Å⁻¹ of one plane{where}: they "
                "tell two axes of the cell, not three\n"
                "Turn further, or about another axis; or give the cell (--cell)."
            )


def _on_planes(refined: Refined) -> None:
    """Refuse a cell whose indexed peaks lie on one of its planes: what is between is a guess."""
    hkl = refined.hkl[refined.indexed] @ reduce(np.linalg.inv(refined.UB).T)[1]
    for v in _NORMALS:
        _, counts = np.unique(np.rint(hkl @ v), return_counts=True)
        if counts.max() > 0.9 * len(hkl):
            raise OrientationError(
                f"{counts.max()} of the {len(hkl)} peaks that the best lattice indexes lie on one "
                "of its planes: they tell two axes of the cell, not three\n"
                f"Its cell is {cell_text(cell_of(np.linalg.inv(refined.UB).T))}. "
                "Turn further, or about another axis; or give the cell (--cell)."
            )


def _check_centring(
    refined: Refined, centring: str, cell: Sequence[float], expected: float
) -> CentringCheck:
    indexed = refined.indexed
    strays = float((~indexed).sum()) * expected / max(1.0 - expected, 0.1)
    return check_centring(refined.hkl[indexed], centring, cell, strays=strays)


def _hidden(cell: Sequence[float], centring: str, rotations: Whole) -> list[str]:
    """Name the twins that do not show in the positions, or only as a small splitting."""
    domains, missing = hidden_twins(cell, centring, rotations)
    if domains == 1:
        return []
    least = min(missing, key=lambda each: each[1])
    laws = "; ".join(
        f"{law}, off by {off:.2f}°" if off >= 0.005 else law for law, off in missing[:3]
    )
    return [
        f"the lattice has {domains} times the rotations of the crystal's class: twins by {laws} "
        + (
            "have their peaks on the same points, and only intensities tell them"
            if least[1] < 0.02
            else "have their peaks on nearly the same points"
        )
    ]


def _enough(n: int, views: Sequence[SweepPeaks], left_out: str) -> None:
    if n >= LEAST:
        return
    ignored: dict[str, int] = {}
    for view in views:
        for key, value in view.peaks.ignored.items():
            ignored[key] = ignored.get(key, 0) + value
    strong = ", ".join(f"{value} {key}" for key, value in ignored.items() if value)
    raise OrientationError(
        f"{n} peaks were found: at least {LEAST} are needed\n"
        + (f"Left out: {left_out}. " if left_out else "")
        + (f"Strong, but not peaks: {strong}. " if strong else "")
        + "Measure longer, turn further, or attenuate less."
    )


def _longest(views: Sequence[SweepPeaks], spots: Spots) -> float:
    """Return how long an axis could be, from how near peaks are to each other in a sweep."""
    near: list[Array] = []
    z = np.concatenate([view.peaks.z * abs(view.sweep.step) for view in views])
    part = spots.view * 10_000 + (z // 30.0).astype(np.int64)
    for number in np.unique(part):
        some = spots.q[part == number]
        if len(some) > 5:
            tree: Any = KDTree(some)
            near.append(tree.query(some, k=2)[0][:, 1])
    if not near:
        return 40.0
    typical = max(float(np.quantile(np.concatenate(near), 0.25)), 1e-6)
    return float(np.clip(1.6 / typical, *_LONGEST))


def _given(q: Array, lattice: Sequence[float], centring: str, within: float) -> list[FoundLattice]:
    found = find_given(q, lattice, centring, within=max(within, 0.02))
    most = max((each.count for each in found), default=0)
    if most < 0.5 * len(q):
        longest = float(np.linalg.norm(primitive_basis(lattice, centring)[0], axis=0).max())
        found += [
            each
            for each in find_lattice(q, 1.3 * longest)
            if matches(each.basis, lattice, centring, within=max(within, 0.02))
        ]
        # where superlattice reflections are many, the cell explains all peaks at n/2 or n/3
        for m in (2, 3, 4):
            scaled = find_given(m * q, lattice, centring, within=max(within, 0.02))[:3]
            found += [
                FoundLattice(each.basis, int(inliers(q, each.basis).sum())) for each in scaled
            ]
            if scaled and scaled[0].count > 0.6 * len(q):
                break
    return sorted(found, key=lambda each: -each.count)


_NORMALS = np.array([v for v in itertools.product((-1, 0, 1), repeat=3) if v > (0, 0, 0)], np.int64)


def _larger(
    views: Sequence[SweepPeaks], q: Array, longest: float, best: tuple[Array, Refined] | None
) -> tuple[Array, Refined] | None:
    """Search for larger cells, step by step, until one explains most peaks."""
    while longest < _LONGEST[1]:
        # in a spectrum for much longer axes, those of a small cell are not resolved
        longest = min(2.0 * longest, _LONGEST[1])
        larger = _best(views, find_lattice(q, longest), None, "P", 0.0)
        if larger is None:
            continue
        if best is None or _evidence(larger[1]) > _evidence(best[1]):
            best = larger
        if not _poor(best):
            break
    return best


def _poor(best: tuple[Array, Refined] | None) -> bool:
    """Return whether a search explains less than half of the peaks, those by chance excluded."""
    return best is None or _beyond(best[1]) < POOR * len(best[1].indexed)


def _whole(views: Sequence[SweepPeaks], basis: Array, free: Refined) -> tuple[Array, Refined]:
    """Enlarge a cell until peaks at fractions of it are less than a tenth of all.

    A search may find a sublattice, above all where peaks are few: all points of a lattice that
    obey some rule. Then the others lie at n/2 to n/6 of it, as closely as its own.
    """
    for _ in range(4):
        left = ~free.indexed
        best: Refined | None = None
        for m in (2, 3, 4, 5, 6):
            fine = free.UB / m
            share = chance(free.spots, fine, free.sigma)
            hkl, far = nearest(free.spots, fine)
            near = belongs(free.spots, residuals(free.spots, fine, hkl), far, free.sigma)
            added = int((near & left).sum())
            if added < chance_level(share, int(left.sum())) or added < _SUPER * near.sum():
                continue
            larger = primitive(free.spots.q[near], basis * m)
            try:
                refined = refine(views, np.linalg.inv(larger).T, ONE)
            except (OrientationError, np.linalg.LinAlgError):
                continue
            if _evidence(refined) > _evidence(best or free):
                best = refined
        if best is None:
            break
        # the points of a twin can lie at fractions of those of the first lattice
        second = find_second(free, chance(free.spots, free.UB, free.sigma), None)
        if second is not None and second.count > 0.8 * (best.indexed & left).sum():
            break
        basis, change = reduce(np.linalg.inv(best.UB).T)
        free = _rebased(best, change)
    return basis, free


def _best(
    views: Sequence[SweepPeaks],
    found: list[FoundLattice],
    lattice: Sequence[float] | None,
    centring: str,
    within: float,
) -> tuple[Array, Refined] | None:
    """Refine the best few without symmetry, and take the one that indexes most."""
    best: tuple[Array, Refined] | None = None
    tried: list[Array] = []
    for each in found[:12]:
        if any(np.abs(each.basis - other).max() < 0.2 for other in tried) or len(tried) >= 4:
            continue
        tried.append(each.basis)
        try:
            refined = refine(views, np.linalg.inv(each.basis).T, ONE)
            # of what is indexed now, hardly any is by chance: a multiple of the cell shows
            small = primitive(refined.spots.q[refined.indexed], np.linalg.inv(refined.UB).T)
            if abs(np.linalg.det(small @ refined.UB.T)) < 0.7:
                again = refine(views, np.linalg.inv(small).T, ONE)
                if again.indexed.sum() > 0.93 * refined.indexed.sum():
                    refined = again
        except (OrientationError, np.linalg.LinAlgError):
            continue
        basis, change = reduce(np.linalg.inv(refined.UB).T)
        refined = _rebased(refined, change)
        expected = chance(refined.spots, refined.UB, refined.sigma)
        n = len(refined.indexed)
        count = refined.indexed.sum()
        if count < chance_level(expected, n):
            continue
        # a multiple of a cell indexes no more than the cell does, but for what fits by chance
        if best is None or _beyond(refined) > 1.05 * _beyond(best[1]):
            best = basis, refined
    return best


def _beyond(refined: Refined) -> float:
    """Count the peaks that a lattice indexes beyond chance."""
    expected = chance(refined.spots, refined.UB, refined.sigma)
    return float(refined.indexed.sum()) - expected * len(refined.indexed)


def _evidence(refined: Refined) -> float:
    """Return how unlikely a lattice is by chance, as a logarithm; small cells are favoured."""
    expected = chance(refined.spots, refined.UB, refined.sigma)
    return -math.log(max(expected, 1e-12)) * float(refined.indexed.sum())


def _rebased(refined: Refined, change: Whole) -> Refined:
    """Return the same fit on another basis of the lattice."""
    return Refined(
        np.linalg.inv(np.linalg.inv(refined.UB).T @ change).T,
        refined.views,
        refined.spots,
        refined.hkl @ change,
        *(getattr(refined, name) for name in ("off", "sigma", "used", "indexed", "esd", "moved")),
    )


def _trial(views: Sequence[SweepPeaks], free: Refined) -> str:
    """Return a warning if another beam centre and distance explain the peaks much better."""
    if free.used.sum() < 40:
        return ""
    try:
        moved = refine(views, free.UB, ONE, what=("beam", "distance"), rounds=3)
    except (OrientationError, np.linalg.LinAlgError):
        return ""
    off = residuals(moved.spots, moved.UB, free.hkl)[free.used]
    better = float(np.max(free.sigma / np.maximum(1.4826 * np.median(np.abs(off), axis=0), 0.02)))
    size = views[0].geometry.panel.pixel_size
    x, y = moved.moved["fast"][0] / size[0], moved.moved["slow"][0] / size[1]
    z = moved.moved["normal"][0]
    if better < 1.2 or (math.hypot(x, y) < 0.2 and abs(z) < 0.05):
        return ""
    return (
        f"the peaks fit {better:.1f} times better with the panel moved by {x:+.2f} pixel "
        f"along fast, {y:+.2f} along slow and {z:+.3f} mm away: try --refine beam,distance"
    )
