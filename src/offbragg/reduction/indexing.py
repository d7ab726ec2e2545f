"""From peaks to an orientation: search, name the lattice, refine, and refuse what is not sure."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree
from scipy.special import fdtri

from offbragg.errors import OrientationError
from offbragg.reduction.lattice import (
    CENTRINGS,
    Bravais,
    angle_of,
    bravais_lattices,
    cell_of,
    free_metrics,
    lattice_operations,
    matches,
    primitive_basis,
    reduce,
    turn_of,
)
from offbragg.reduction.leftover import Superlattice, find_shells, find_superlattice
from offbragg.reduction.refinement import (
    Refined,
    Spots,
    View,
    belongs,
    chance,
    nearest,
    refine,
    residuals,
    spots_of,
)
from offbragg.reduction.search import Found, find_given, find_lattice, inliers, primitive
from offbragg.reduction.twins import (
    CentringCheck,
    Superposed,
    check_centring,
    find_superposed,
    hidden_twins,
    twin_law,
)

Array = NDArray[Any]
Whole = NDArray[np.int64]

_LEAST = 12  # peaks; fewer fit something by chance
_SHARE = 0.25  # of the peaks that a lattice must index, or
_WEIGHT = 0.5  # of their intensity, and then
_FEWER = 0.05  # of the peaks: diffuse scattering can look like many weak ones
_POOR = 0.5  # of the peaks: a search that explains fewer is done once more for larger cells
_SCATTERED = 3.0  # pixels
_CROWDED = 0.1  # of the peaks by chance: points lie nearly as close as peaks are known, and
_SUPER = 0.1  # of the peaks at fractions of a cell: if there are fewer, it is kept without them
_DENSE = 0.8  # of the peaks a lattice must index there
_SEARCHED = 1500  # strongest peaks that the search looks at
_WORSE = 1.08  # a symmetry may make residuals worse by so much
_HOLDS = 0.99865  # probability that a symmetry which holds is not refused
_BIASED = 1.25  # or so much, where the cell without it agrees: few peaks, or not quite in place
_AGREE = (5e-4, 0.03)  # relative difference of lengths, degrees between angles
_LONGEST = (12.0, 90.0)  # Å, between which the longest axis is sought
_NEARER = 0.5  # of how far peaks are from the first lattice, they may be from a second one
_FLAT = 0.01  # Å⁻¹ from a plane through the origin: peaks nearer than that lie on it
_EXACT = 0.02  # degree: a given cell has the symmetries that hold so well


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """A candidate for the lattice: what it would be called, and how well it fits.

    ``worse`` is the factor by which residuals grow against a cell without symmetry.
    """

    name: str
    cell: tuple[float, ...]
    worse: float


@dataclass(frozen=True, slots=True, eq=False)
class Second:
    """A second lattice of the same cell among the peaks that the first leaves.

    ``axis`` and ``angle`` are the smallest rotation that takes the first to it: a unit vector in
    the laboratory at zero angles, and degree. ``law`` is the twin law that this is, as
    ``180° about [110]``; empty if it is none of a simple one.
    """

    UB: Array
    count: int
    axis: tuple[float, float, float]
    angle: float
    law: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Indexed:
    """An orientation that was found.

    Parameters
    ----------
    refined
        UB, residuals, hkl, panel.
    lattice
        a, b, c in Å and alpha, beta, gamma in degree.
    name
        Bravais lattice (mP, cF …) that the cell has, or was given with.
    candidates
        The lattices that were compared, if the cell was not known.
    setting
        Which of the equivalent settings was taken, in words.
    mosaicity
        Standard deviation of a peak along its rotation, degree.
    expected
        Share of the peaks that would be indexed by chance.
    second
        A second lattice, if there is one.
    superlattice
        Peaks at simple fractions of the lattice, if there are such.
    centring_check
        How many indexed peaks the given cell's centring forbids.
    superposed
        Smaller lattices that would explain the peaks together, if there are such.
    warnings
        What should be known before this is used; one sentence each.
    """

    refined: Refined
    lattice: tuple[float, ...]
    name: str
    candidates: tuple[Lattice, ...]
    setting: str
    mosaicity: float
    expected: float
    second: Second | None
    superlattice: Superlattice | None
    centring_check: CentringCheck | None
    superposed: Superposed | None
    warnings: tuple[str, ...]

    @property
    def UB(self) -> Array:
        """Å⁻¹ without 2π, shape (3, 3)."""
        return self.refined.UB

    @property
    def fraction(self) -> float:
        """Share of the peaks that it indexes."""
        return float(np.mean(self.refined.indexed))


def index(
    views: Sequence[View],
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
        cell, shape (n, 3, 3), if that is known: twins by other rotations of the lattice are told.

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
    q = _searched(spots)
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
        raise _refusal(spots, found, lattice, within)
    if lattice is None:
        best = _whole(views, *best)
    basis, free = best
    trial = _trial(views, free)
    judged = tuple(what) or (("beam", "distance") if trial else ())
    if lattice is None:
        chosen, candidates = _name(views, basis, free, judged)
        name, operations = chosen.name, chosen.operations
        basis = basis @ chosen.change
    else:
        name, operations = _given_symmetry(lattice, centring)
    basis, said, unsure = _setting(basis, operations, lattice, centring, reference, free, within)
    # a short sweep tells how a crystal lies, but hardly its cell
    kept = lattice if lattice is not None and _tells_little(views, free) else None
    refined = refine(views, np.linalg.inv(basis).T, operations, what=what, fixed=kept)
    cell = cell_of(np.linalg.inv(refined.UB).T)
    expected = chance(refined.spots, refined.UB, refined.sigma)
    superlattice = find_superlattice(refined)
    _sure(refined, expected, lattice, superlattice)
    if lattice is not None:
        _near_given(refined, cell, lattice, centring, within)
    else:
        _on_planes(refined)
    second = _second(refined, expected, superlattice)
    # a twin whose points are thirds, say, of the first one's is no superlattice
    if superlattice is not None and second is not None and second.count > 0.8 * superlattice.count:
        superlattice = None
    warnings = list(_doubts(refined, lattice, name, operations, free, basis))
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
        primitive_cell = np.linalg.inv(refined.UB).T @ np.linalg.inv(_to_conventional(name[1]))
        superposed = find_superposed(refined.spots.q[refined.indexed], primitive_cell)
    if superposed is not None:
        warnings.append(str(superposed))
    if rotations is not None and lattice is not None:
        warnings += _hidden(cell, centring, rotations)
    return Indexed(
        refined, cell, name, candidates, said, _mosaicity(refined), expected, second,
        superlattice, checked, superposed, tuple(warnings),
    )  # fmt: skip


_SAME_PLACE = 0.01  # pixel and frame: nearer than that it is one peak that is listed twice


def usable(views: Sequence[View]) -> tuple[list[View], str]:
    """Leave out peaks that are not anywhere on the panel and in the sweep, and those listed twice.

    Returns
    -------
    views
        With the other peaks.
    left_out
        What was left out, in words; empty if nothing was.
    """
    kept: list[View] = []
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
    """Refuse peaks on a plane: they tell nothing, or one plane only, of the third axis."""
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
                f"Its cell is {_told(cell_of(np.linalg.inv(refined.UB).T))}. "
                "Turn further, or about another axis; or give the cell (--cell)."
            )


def _check_centring(
    refined: Refined, centring: str, cell: Sequence[float], expected: float
) -> CentringCheck:
    indexed = refined.indexed
    strays = float((~indexed).sum()) * expected / max(1.0 - expected, 0.1)
    return check_centring(refined.hkl[indexed], centring, cell, strays=strays)


def _hidden(cell: Sequence[float], centring: str, rotations: Whole) -> list[str]:
    """Name the twins that positions cannot tell, or only as a small splitting."""
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


def _enough(n: int, views: Sequence[View], left_out: str) -> None:
    if n >= _LEAST:
        return
    ignored: dict[str, int] = {}
    for view in views:
        for key, value in view.peaks.ignored.items():
            ignored[key] = ignored.get(key, 0) + value
    told = ", ".join(f"{value} {key}" for key, value in ignored.items() if value)
    raise OrientationError(
        f"{n} peaks were found: at least {_LEAST} are needed\n"
        + (f"Left out: {left_out}. " if left_out else "")
        + (f"Strong, but no peaks: {told}. " if told else "")
        + "Measure longer, turn further, or attenuate less."
    )


def _searched(spots: Spots) -> Array:
    """Take the strongest peaks, clean ones first."""
    order = np.lexsort((-spots.intensity, ~spots.clean))
    return spots.q[order[:_SEARCHED]]


def _longest(views: Sequence[View], spots: Spots) -> float:
    """How long an axis could be, from how near peaks are to each other in parts of a sweep."""
    near: list[Array] = []
    z = np.concatenate([view.peaks.z * abs(view.sweep.step) for view in views])
    part = spots.view * 10_000 + (z // 30.0).astype(np.int64)
    for number in np.unique(part):
        some = spots.q[part == number]
        if len(some) > 5:
            near.append(KDTree(some).query(some, k=2)[0][:, 1])
    if not near:
        return 40.0
    typical = max(float(np.quantile(np.concatenate(near), 0.25)), 1e-6)
    return float(np.clip(1.6 / typical, *_LONGEST))


def _given(q: Array, lattice: Sequence[float], centring: str, within: float) -> list[Found]:
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
            found += [Found(each.basis, int(inliers(q, each.basis).sum())) for each in scaled]
            if scaled and scaled[0].count > 0.6 * len(q):
                break
    return sorted(found, key=lambda each: -each.count)


_ONE = np.eye(3, dtype=np.int64)[None]
_NORMALS = np.array([v for v in itertools.product((-1, 0, 1), repeat=3) if v > (0, 0, 0)], np.int64)


def _larger(
    views: Sequence[View], q: Array, longest: float, best: tuple[Array, Refined] | None
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
    """Whether a search has found less than half of the peaks, but for what fits by chance."""
    return best is None or _beyond(best[1]) < _POOR * len(best[1].indexed)


def _whole(views: Sequence[View], basis: Array, free: Refined) -> tuple[Array, Refined]:
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
            if added < _by_chance(share, int(left.sum())) or added < _SUPER * near.sum():
                continue
            larger = primitive(free.spots.q[near], basis * m)
            try:
                refined = refine(views, np.linalg.inv(larger).T, _ONE)
            except (OrientationError, np.linalg.LinAlgError):
                continue
            if _evidence(refined) > _evidence(best or free):
                best = refined
        if best is None:
            break
        # the points of a twin can lie at fractions of those of the first lattice
        second = _second(free, chance(free.spots, free.UB, free.sigma), None)
        if second is not None and second.count > 0.8 * (best.indexed & left).sum():
            break
        basis, change = reduce(np.linalg.inv(best.UB).T)
        free = _rebased(best, change)
    return basis, free


def _by_chance(share: float, n: int) -> float:
    """How many of ``n`` peaks a lattice must index to be far beyond chance."""
    return share * n + 6.0 * math.sqrt(n * share * (1.0 - share)) + 6.0


def _best(
    views: Sequence[View],
    found: list[Found],
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
            refined = refine(views, np.linalg.inv(each.basis).T, _ONE)
            # of what is indexed now, hardly any is by chance: a multiple of the cell shows
            small = primitive(refined.spots.q[refined.indexed], np.linalg.inv(refined.UB).T)
            if abs(np.linalg.det(small @ refined.UB.T)) < 0.7:
                again = refine(views, np.linalg.inv(small).T, _ONE)
                if again.indexed.sum() > 0.93 * refined.indexed.sum():
                    refined = again
        except (OrientationError, np.linalg.LinAlgError):
            continue
        basis, change = reduce(np.linalg.inv(refined.UB).T)
        refined = _rebased(refined, change)
        expected = chance(refined.spots, refined.UB, refined.sigma)
        n = len(refined.indexed)
        count = refined.indexed.sum()
        if count < _by_chance(expected, n):
            continue
        # a multiple of a cell indexes no more than the cell does, but for what fits by chance
        if best is None or _beyond(refined) > 1.05 * _beyond(best[1]):
            best = basis, refined
    return best


def _beyond(refined: Refined) -> float:
    """How many peaks a lattice indexes beyond chance."""
    expected = chance(refined.spots, refined.UB, refined.sigma)
    return float(refined.indexed.sum()) - expected * len(refined.indexed)


def _evidence(refined: Refined) -> float:
    """How unlikely what a lattice indexes is by chance, as a logarithm: of a small cell, more."""
    expected = chance(refined.spots, refined.UB, refined.sigma)
    return -math.log(max(expected, 1e-12)) * float(refined.indexed.sum())


def _rebased(refined: Refined, change: Whole) -> Refined:
    """Tell the same fit on another basis of the lattice."""
    return Refined(
        np.linalg.inv(np.linalg.inv(refined.UB).T @ change).T,
        refined.views,
        refined.spots,
        refined.hkl @ change,
        *(getattr(refined, name) for name in ("off", "sigma", "used", "indexed", "esd", "moved")),
    )


def _score(off: Array, sigma: Array) -> float:
    return float(np.sqrt(np.mean(np.minimum((off / sigma) ** 2, 16.0))))


def _trial(views: Sequence[View], free: Refined) -> str:
    """Say so if another beam centre and distance explain the peaks much better."""
    if free.used.sum() < 40:
        return ""
    try:
        moved = refine(views, free.UB, _ONE, what=("beam", "distance"), rounds=3)
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


def _name(
    views: Sequence[View], basis: Array, free: Refined, judged: tuple[str, ...]
) -> tuple[Bravais, tuple[Lattice, ...]]:
    """Choose the most symmetric lattice that the peaks allow."""
    views, start, reference = free.views, free, free
    if judged:
        start = refine(views, free.UB, _ONE, what=judged, rounds=3)
        views, reference = start.views, start
    hkl, used, sigma = free.hkl, free.used, reference.sigma
    level = _score(residuals(reference.spots, reference.UB, hkl)[used], sigma)
    tried: list[Lattice] = []
    chosen: Bravais | None = None
    for order, group in itertools.groupby(
        bravais_lattices(basis), key=lambda each: len(each.operations)
    ):
        fitting: list[tuple[float, Bravais]] = []
        for each in group:
            if chosen is not None and order > 1:
                break
            laid = basis @ each.change
            if order == 1:
                tried.append(Lattice(each.name, cell_of(laid), 1.0))
                fitting.append((1.0, each))
                continue
            try:
                fit = refine(
                    views, np.linalg.inv(laid).T, each.operations, what=judged, rounds=2, near=0.35
                )
            except (OrientationError, np.linalg.LinAlgError):
                continue
            off = residuals(fit.spots, fit.UB, hkl @ each.change)[used]
            worse = _score(off, sigma) / level
            cell = cell_of(np.linalg.inv(fit.UB).T)
            tried.append(Lattice(each.name, cell, worse))
            allowed = _allowed(3 * int(used.sum()), each)
            if worse < allowed or (worse < _BIASED and _agree(cell_of(laid), cell)):
                fitting.append((worse, each))
        if fitting and chosen is None:
            chosen = min(fitting, key=lambda pair: pair[0])[1]
    assert chosen is not None
    return chosen, tuple(tried)


def _allowed(n: int, lattice: Bravais) -> float:
    """Factor by which a symmetry may make ``n`` residuals larger; few residuals tell less.

    At least what a symmetry that holds makes of them but once in 740 times, which is that of three
    standard deviations (the ratio of Hamilton, Acta Cryst. 18, 502, 1965).
    """
    less, over = 6 - len(free_metrics(lattice.operations)), max(n - 9, 1)
    return max(_WORSE, math.sqrt(1.0 + less / over * float(fdtri(less, over, _HOLDS))))


def _agree(free: Sequence[float], cell: Sequence[float]) -> bool:
    """Whether two cells are the same as far as peaks can tell."""
    lengths = np.abs(np.divide(free[:3], cell[:3]) - 1.0)
    angles = np.abs(np.subtract(free[3:], cell[3:]))
    return bool(lengths.max() < _AGREE[0] and angles.max() < _AGREE[1])


def _given_symmetry(lattice: Sequence[float], centring: str) -> tuple[str, Whole]:
    """Bravais lattice and rotations that the numbers of a given cell have."""
    given, change = primitive_basis(lattice, centring)
    inverse = np.linalg.inv(change)
    turned = inverse @ lattice_operations(given, _EXACT) @ change
    whole = np.abs(turned - np.rint(turned)).max(axis=(1, 2)) < 1e-6
    operations = np.rint(turned[whole]).astype(np.int64)
    letters = {1: "a", 2: "m", 4: "o", 6: "h", 8: "t", 12: "h", 24: "c"}
    return letters.get(len(operations), "a") + centring, operations


def _tells_little(views: Sequence[View], free: Refined) -> bool:
    turned = sum(abs(view.sweep.step) * view.sweep.n_frames for view in views)
    return turned < 5.0 or int(free.used.sum()) < 30


def _setting(
    basis: Array,
    operations: Whole,
    lattice: Sequence[float] | None,
    centring: str,
    reference: Array | None,
    free: Refined,
    within: float,
) -> tuple[Array, str, list[str]]:
    """Choose among settings that cannot be told apart, always in the same way."""
    unsure: list[str] = []
    if lattice is None:
        settings = [basis @ w for w in operations]
    else:
        ways = matches(basis, lattice, centring, within=max(within, 0.02) * 1.5)
        if not ways:
            raise OrientationError(
                f"the lattice that was found, {_told(cell_of(basis))} (reduced), is not the given "
                f"one, {_told(lattice)}\nIs the cell right? Try --unknown-cell."
            )
        lengths = np.linalg.norm(basis, axis=0)
        relative = np.concatenate([free.esd[:3] / lengths, np.deg2rad(free.esd[3:])])
        error = max(4.0 * float(np.sqrt(np.mean(relative**2))), 2e-4)
        if _tells_little(free.views, free):
            error = max(error, 0.01)
        settings = [way.basis for way in ways if way.strain <= ways[0].strain + error]
        if len(settings) > len(operations):
            unsure.append(
                f"the given cell fits in {len(settings)} ways, its symmetry explains "
                f"{len(operations)}: lengths or angles differ by less than the errors"
            )
    goal = np.eye(3) if reference is None else turn_of(np.linalg.inv(np.asarray(reference)).T)
    nearness = [float(np.trace(turn_of(s) @ goal.T)) for s in settings]
    chosen = settings[int(np.argmax(nearness))]
    nearest = "the earlier orientation" if reference is not None else "the axes of the laboratory"
    if len(settings) == 1:
        return chosen, "the only right-handed one", unsure
    said = f"of {len(settings)} that cannot be told apart, the nearest to {nearest}"
    return chosen, said, unsure


def _sure(
    refined: Refined,
    expected: float,
    lattice: Sequence[float] | None,
    superlattice: Superlattice | None,
) -> None:
    """Refuse a lattice that explains too few peaks, or hardly more than chance.

    Superlattice reflections count as explained, but they prove nothing.
    """
    n, count = len(refined.indexed), int(refined.indexed.sum())
    explained = refined.indexed if superlattice is None else refined.indexed | superlattice.which
    intensity = np.maximum(refined.spots.intensity, 0.0)
    intensity = intensity / intensity.max() if intensity.max() > 0 else np.ones(n)
    weight = float(intensity[explained].sum() / intensity.sum())
    share = _FEWER if weight >= _WEIGHT else _SHARE
    beyond = max(_LEAST - 2, _by_chance(expected, n), _DENSE * n if expected > _CROWDED else 0.0)
    # where the cell is not known, peaks scattered around few of its points are no lattice
    pixels = float(refined.sigma[:2].max())
    scattered = lattice is None and pixels > _SCATTERED and explained.mean() < _POOR
    if count >= beyond and explained.sum() >= share * n and not scattered:
        return
    named = "" if superlattice is None else f"{superlattice}. "
    needed = math.ceil(max(beyond, share * n, _POOR * n if scattered else 0.0))
    raise OrientationError(
        f"the best lattice indexes {count} of {n} peaks ({count / n:.0%}): too few to be sure, "
        f"{needed} are needed ({expected:.1%} would be by chance; they are off by {pixels:.1f} "
        f"pixel and have {weight:.0%} of the intensity)\n"
        f"Its cell is {_told(cell_of(np.linalg.inv(refined.UB).T))}. {named}"
        + ("Is the given cell right? Try --unknown-cell. " if lattice is not None else "")
        + "Are wavelength, distance and beam centre right?"
    )


def _near_given(
    refined: Refined, cell: Sequence[float], lattice: Sequence[float], centring: str, within: float
) -> None:
    basis, _ = reduce(np.linalg.inv(refined.UB).T @ np.linalg.inv(_to_conventional(centring)))
    if not matches(basis, lattice, centring, within=max(within, 0.005)):
        raise OrientationError(
            f"the cell refines to {_told(cell)}, more than {within:.0%} from the given one, "
            f"{_told(lattice)}\nIs the cell right? Try --unknown-cell."
        )


def _to_conventional(centring: str) -> Array:
    """Conventional basis = primitive basis @ this, for some primitive basis."""
    fractions = np.vstack([np.eye(3), *(np.array([each]) for each in CENTRINGS[centring])])
    for chosen in itertools.combinations(range(len(fractions)), 3):
        rows = fractions[list(chosen)]
        volume = float(np.linalg.det(rows))
        if abs(abs(volume) - 1.0 / (1 + len(CENTRINGS[centring]))) < 1e-6:
            return np.linalg.inv(rows.T if volume > 0 else -rows.T)
    raise AssertionError


def _doubts(
    refined: Refined,
    lattice: Sequence[float] | None,
    name: str,
    operations: Whole,
    free: Refined,
    basis: Array,
) -> list[str]:
    said: list[str] = []
    spots = refined.spots
    UB = refined.UB
    # a cell with symmetry against one without
    change = np.rint(np.linalg.inv(np.linalg.inv(free.UB).T) @ basis).astype(np.int64)
    used = free.used
    off = residuals(spots, UB, free.hkl @ change)[used]
    worse = _score(off, free.sigma) / _score(free.off[used], free.sigma)
    if lattice is not None and len(operations) > 1 and worse > 1.3 and not refined.moved:
        said.append(
            f"a cell without the given one's symmetry fits {worse:.1f} times better: "
            f"{_told(cell_of(np.linalg.inv(free.UB).T))} (reduced)"
        )
    conventional = np.linalg.inv(UB).T
    small, _ = reduce(conventional @ np.linalg.inv(_to_conventional(name[1])))
    q = spots.q[refined.indexed]
    divided = primitive(q, small)
    times = round(float(np.linalg.det(small) / abs(np.linalg.det(divided))))
    if times > 1:
        said.append(
            f"all indexed peaks fit a {times} times smaller primitive cell, too: "
            f"{_told(cell_of(reduce(divided * np.sign(np.linalg.det(divided)))[0]))}"
        )
    width = float(np.median(spots.width[refined.used] * spots.step[refined.used]))
    pixels, angle = float(refined.sigma[:2].max()), float(refined.sigma[2])
    if pixels > 2.0 or angle > max(1.5 * width, 0.5 * float(np.median(spots.step))):
        said.append(
            f"peaks are off by {pixels:.2f} pixel and {angle:.3f}° (they are {width:.3f}° wide): a "
            "split crystal, one that moved, or a geometry that is not quite right"
        )
    clean = int(spots.clean.sum())
    if clean < 30:
        said.append(f"only {clean} peaks are clean (whole, unsaturated, away from gaps)")
    turned = sum(abs(v.sweep.step) * v.sweep.n_frames for v in refined.views)
    if turned < 20.0:
        said.append(
            f"the crystal turned by {turned:.3g}° only: what lies along the beam is known less well"
        )
    return said


def _second(refined: Refined, expected: float, superlattice: Superlattice | None) -> Second | None:
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
    found = find_given(_searched(spots), cell, "P", within=0.01)
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
    count, UB = best
    share = max(expected, (0.24**3) * 0.52)
    by_chance = share * left.sum()
    if count < max(12, 0.03 * n, by_chance + 6 * math.sqrt(by_chance) + 8):
        return None
    # the points of a superlattice hold rotated lattices of the small cell as well
    if superlattice is not None and count < 0.8 * superlattice.count:
        hkl = np.rint(spots.q @ np.linalg.inv(UB).T)
        at = np.linalg.norm(spots.q - hkl @ UB.T, axis=1) * size
        others = int(((at < 0.12) & ~superlattice.which[left]).sum())
        if others < max(12, 0.5 * count):
            return None
    first = basis
    turn = turn_of(np.linalg.inv(UB).T) @ turn_of(first).T
    own = lattice_operations(basis, 1.0)
    ways = [first @ w @ np.linalg.inv(first) for w in own]
    smallest = max(ways, key=lambda w: float(np.trace(turn @ w)))
    axis, angle = _axis(turn @ smallest)
    exact = lattice_operations(basis, _EXACT)
    law = twin_law(turn, first, exact, np.linalg.inv(refined.UB).T)
    return Second(UB, count, axis, angle, law)


def _axis(turn: Array) -> tuple[tuple[float, float, float], float]:
    values, vectors = np.linalg.eig(turn)
    axis: Any = np.real(vectors[:, int(np.argmin(np.abs(values - 1.0)))])
    axis = axis / np.linalg.norm(axis)
    return (float(axis[0]), float(axis[1]), float(axis[2])), angle_of(turn)


def _mosaicity(refined: Refined) -> float:
    """Width of a reflection across the Ewald sphere (Kabsch, Acta Cryst. D66, 125, 2010)."""
    spots = refined.spots
    good = refined.indexed & spots.clean & (spots.speed > 0.3)
    if not good.any():
        return math.nan
    # a frame smears by its own width
    variance = (spots.width[good] ** 2 - 1.0 / 12.0) * spots.step[good] ** 2
    return float(np.median(np.sqrt(np.maximum(variance, 0.0)) * spots.speed[good]))


def _refusal(
    spots: Spots, found: list[Found], lattice: Sequence[float] | None, within: float
) -> OrientationError:
    n = min(len(spots), _SEARCHED)
    if found:
        best = found[0]
        count = inliers(_searched(spots), best.basis).sum()
        what = (
            f"no lattice explains the {len(spots)} peaks: the best one, "
            f"{_told(cell_of(best.basis))} (reduced), is near {count} of {n}, no more than chance"
        )
    elif lattice is not None:
        what = (
            f"the given cell, {_told(lattice)}, lies nowhere in the {len(spots)} peaks, "
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


def _told(cell: Sequence[float]) -> str:
    lengths = ", ".join(f"{x:.3f}" for x in cell[:3])
    return f"{lengths} Å, {', '.join(f'{x:.2f}' for x in cell[3:])}°"
