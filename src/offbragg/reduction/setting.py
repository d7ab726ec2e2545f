"""The symmetry of a lattice, and the setting in which it is given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import fdtri  # pyright: ignore[reportMissingTypeStubs]

from offbragg.errors import OrientationError
from offbragg.reduction.bravais import (
    CENTRINGS,
    Bravais,
    bravais_lattices,
    cell_of,
    free_metrics,
    lattice_operations,
    matches,
    primitive_basis,
    reduce,
    turn_of,
)
from offbragg.reduction.indexed import (
    EXACT,
    LEAST,
    ONE,
    POOR,
    Array,
    Lattice,
    Whole,
    cell_text,
    chance_level,
    says_little,
    score_of,
)
from offbragg.reduction.leftover import Superlattice
from offbragg.reduction.refinement import (
    Refined,
    SweepPeaks,
    refine,
    residuals,
)

_SHARE = 0.25  # of the peaks that a lattice must index, or


_WEIGHT = 0.5  # of their intensity, and then


_FEWER = 0.05  # of the peaks: diffuse scattering can look like many weak ones


_SCATTERED = 3.0  # pixels


_CROWDED = 0.1  # of the peaks by chance: points lie nearly as close as peaks are known, and


_DENSE = 0.8  # of the peaks a lattice must index there


_WORSE = 1.08  # factor by which a symmetry may make residuals larger


_HOLDS = 0.99865  # probability that a symmetry which holds is not refused


_BIASED = 1.25  # the same where the free cell agrees: few peaks, or not quite in place


_AGREE = (5e-4, 0.03)  # relative difference of lengths, degrees between angles


def name_symmetry(
    views: Sequence[SweepPeaks], basis: Array, free: Refined, judged: tuple[str, ...]
) -> tuple[Bravais, tuple[Lattice, ...]]:
    """Choose the most symmetric lattice that the peaks allow."""
    views, start, reference = free.views, free, free
    if judged:
        start = refine(views, free.UB, ONE, what=judged, rounds=3)
        views, reference = start.views, start
    hkl, used, sigma = free.hkl, free.used, reference.sigma
    level = score_of(residuals(reference.spots, reference.UB, hkl)[used], sigma)
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
            worse = score_of(off, sigma) / level
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
    """Return the factor by which a symmetry may make ``n`` residuals larger.

    At least the factor that a true symmetry exceeds once in 740 times, as three standard deviations
    are (the ratio of Hamilton, Acta Cryst. 18, 502, 1965).
    """
    less, over = 6 - len(free_metrics(lattice.operations)), max(n - 9, 1)
    return max(_WORSE, math.sqrt(1.0 + less / over * float(fdtri(less, over, _HOLDS))))


def _agree(free: Sequence[float], cell: Sequence[float]) -> bool:
    """Return whether two cells are the same within the uncertainty of the peaks."""
    lengths = np.abs(np.divide(free[:3], cell[:3]) - 1.0)
    angles = np.abs(np.subtract(free[3:], cell[3:]))
    return bool(lengths.max() < _AGREE[0] and angles.max() < _AGREE[1])


def symmetry_of_given(lattice: Sequence[float], centring: str) -> tuple[str, Whole]:
    """Return the Bravais lattice and rotations that the numbers of a given cell have."""
    given, change = primitive_basis(lattice, centring)
    inverse = np.linalg.inv(change)
    turned = inverse @ lattice_operations(given, EXACT) @ change
    whole = np.abs(turned - np.rint(turned)).max(axis=(1, 2)) < 1e-6
    operations = np.rint(turned[whole]).astype(np.int64)
    letters = {1: "a", 2: "m", 4: "o", 6: "h", 8: "t", 12: "h", 24: "c"}
    return letters.get(len(operations), "a") + centring, operations


def choose_setting(
    basis: Array,
    operations: Whole,
    lattice: Sequence[float] | None,
    centring: str,
    reference: Array | None,
    free: Refined,
    within: float,
) -> tuple[Array, str, list[str]]:
    """Choose among indistinguishable settings, always in the same way."""
    unsure: list[str] = []
    if lattice is None:
        settings = [basis @ w for w in operations]
    else:
        ways = matches(basis, lattice, centring, within=max(within, 0.02) * 1.5)
        if not ways:
            raise OrientationError(
                f"the lattice that was found, {cell_text(cell_of(basis))} (reduced), is not the "
                f"given one, {cell_text(lattice)}\nIs the cell right? Try --unknown-cell."
            )
        lengths = np.linalg.norm(basis, axis=0)
        relative = np.concatenate([free.esd[:3] / lengths, np.deg2rad(free.esd[3:])])
        error = max(4.0 * float(np.sqrt(np.mean(relative**2))), 2e-4)
        if says_little(free.views, free):
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
    why = f"of {len(settings)} indistinguishable ones, the nearest to {nearest}"
    return chosen, why, unsure


def sure_symmetry(
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
    beyond = max(LEAST - 2, chance_level(expected, n), _DENSE * n if expected > _CROWDED else 0.0)
    # where the cell is not known, peaks scattered around few of its points are not a lattice
    pixels = float(refined.sigma[:2].max())
    scattered = lattice is None and pixels > _SCATTERED and explained.mean() < POOR
    if count >= beyond and explained.sum() >= share * n and not scattered:
        return
    named = "" if superlattice is None else f"{superlattice}. "
    needed = math.ceil(max(beyond, share * n, POOR * n if scattered else 0.0))
    raise OrientationError(
        f"the best lattice indexes {count} of {n} peaks ({count / n:.0%}): too few to be sure, "
        f"{needed} are needed ({expected:.1%} would be by chance; they are off by {pixels:.1f} "
        f"pixel and have {weight:.0%} of the intensity)\n"
        f"Its cell is {cell_text(cell_of(np.linalg.inv(refined.UB).T))}. {named}"
        + ("Is the given cell right? Try --unknown-cell. " if lattice is not None else "")
        + "Are wavelength, distance and beam centre right?"
    )


def near_given(
    refined: Refined, cell: Sequence[float], lattice: Sequence[float], centring: str, within: float
) -> None:
    """Refuse a refined cell that is not near the given one."""
    basis, _ = reduce(np.linalg.inv(refined.UB).T @ np.linalg.inv(to_conventional(centring)))
    if not matches(basis, lattice, centring, within=max(within, 0.005)):
        raise OrientationError(
            f"the cell refines to {cell_text(cell)}, more than {within:.0%} from the given one, "
            f"{cell_text(lattice)}\nIs the cell right? Try --unknown-cell."
        )


def to_conventional(centring: str) -> Array:
    """Return the change for conventional basis = primitive basis @ change."""
    fractions = np.vstack([np.eye(3), *(np.array([each]) for each in CENTRINGS[centring])])
    for chosen in itertools.combinations(range(len(fractions)), 3):
        rows = fractions[list(chosen)]
        volume = float(np.linalg.det(rows))
        if abs(abs(volume) - 1.0 / (1 + len(CENTRINGS[centring]))) < 1e-6:
            return np.linalg.inv(rows.T if volume > 0 else -rows.T)
    raise AssertionError
