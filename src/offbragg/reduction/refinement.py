"""Refine orientation, cell and, if asked, where the panel is, against the peaks of all sweeps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from offbragg.errors import OrientationError
from offbragg.geometry import Geometry, rotation_about
from offbragg.instrument import Panel
from offbragg.lattice import direct_basis
from offbragg.reduction.bravais import free_metrics, symmetrise
from offbragg.reduction.peaks import Peaks
from offbragg.sweep import Sweep

Array = NDArray[Any]

REFINABLE = ("beam", "distance", "tilt")
"""What of the panel can be refined: where it stands across the beam, how far, how it leans."""

_STEPS = {"beam": 2, "distance": 1, "tilt": 3}
_GRAZING = 0.12  # a reflection that passes the Ewald sphere slower tells little of its angle
_ENOUGH = 3000  # peaks to refine against


@dataclass(frozen=True, slots=True, eq=False)
class SweepPeaks:
    """One sweep as it was seen: where everything was, how the crystal turned, its peaks."""

    geometry: Geometry
    sweep: Sweep
    peaks: Peaks


@dataclass(frozen=True, slots=True, eq=False)
class Spots:
    """Peaks of all sweeps in the crystal's frame; one row each.

    ``q`` is (s − s0) at zero angles, Å⁻¹ without 2π; ``moves`` its derivatives by column, row
    (pixel) and angle (degree), shape (n, 3, 3); ``speed`` how fast a reflection passes the Ewald
    sphere, 0 to 1 (the ζ of Kabsch, Acta Cryst. D66, 125, 2010); ``view`` of which sweep it is.
    """

    q: Array
    moves: Array
    speed: Array
    view: NDArray[np.int64]
    clean: NDArray[np.bool_]
    intensity: Array
    step: Array
    width: Array

    def __len__(self) -> int:
        return len(self.q)

    def take(self, which: NDArray[Any]) -> Spots:
        """Take some of them."""
        return Spots(*(getattr(self, each.name)[which] for each in dataclasses.fields(self)))


def spots_of(views: Sequence[SweepPeaks]) -> Spots:
    """Turn peaks into scattering vectors with what their positions leave uncertain."""
    parts: list[tuple[Array, ...]] = []
    for number, (geometry, sweep, peaks) in enumerate(
        (view.geometry, view.sweep, view.peaks) for view in views
    ):
        angle = sweep.start + sweep.step * peaks.z

        def q_at(
            dx: float,
            dy: float,
            da: float,
            g: Geometry = geometry,
            p: Peaks = peaks,
            a: Array = angle,
        ) -> Array:
            return g.q(p.x + dx, p.y + dy, a + da)

        moves = np.stack(
            [
                q_at(0.5, 0, 0) - q_at(-0.5, 0, 0),
                q_at(0, 0.5, 0) - q_at(0, -0.5, 0),
                (q_at(0, 0, 0.05) - q_at(0, 0, -0.05)) / 0.1,
            ],
            axis=-1,
        )
        q = q_at(0, 0, 0)
        outwards = np.cross(moves[:, :, 0], moves[:, :, 1])
        outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
        half = 0.5 * geometry.wavelength * np.linalg.norm(q, axis=1)
        across = 2.0 * half * np.sqrt(np.maximum(1.0 - half**2, 1e-12)) / geometry.wavelength
        passing = np.abs(np.sum(outwards * moves[:, :, 2], axis=1)) * 180.0 / math.pi
        n = len(peaks)
        parts.append(
            (
                q, moves, passing / np.maximum(across, 1e-9), np.full(n, number), peaks.clean,
                peaks.intensity, np.full(n, abs(sweep.step)), peaks.width,
            )
        )  # fmt: skip
    return Spots(*(np.concatenate(each) for each in zip(*parts, strict=True)))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, eq=False)
class Refined:
    """Result of a refinement.

    Parameters
    ----------
    UB
        Å⁻¹ without 2π, shape (3, 3).
    views
        As given, with the panels moved if that was asked.
    spots
        Of those views.
    hkl
        Whole numbers, shape (n, 3).
    off
        Observed − calculated in column, row (pixel) and angle (degree), shape (n, 3).
    sigma
        Robust standard deviations of ``off`` for clean peaks: column, row, angle.
    used
        Which peaks it was refined against.
    indexed
        Which peaks belong to this lattice.
    esd
        Of the cell's lengths, Å, and angles, degree.
    moved
        How the panel moved: along fast, slow and its normal, mm; about them, degree; with the
        standard deviation of each.
    """

    UB: Array
    views: tuple[SweepPeaks, ...]
    spots: Spots
    hkl: Array
    off: Array
    sigma: Array
    used: NDArray[np.bool_]
    indexed: NDArray[np.bool_]
    esd: Array
    moved: dict[str, tuple[float, float]]

    @property
    def rms(self) -> float:
        """Root mean square deviation of the peaks that were used, in their sigmas."""
        return float(np.sqrt(np.mean((self.off[self.used] / self.sigma) ** 2)))


def moved_panel(
    panel: Panel, shift: Sequence[float] | Array, tilt: Sequence[float] | Array
) -> Panel:
    """Move a panel: mm along fast, slow and normal; then degree about them, at its foot."""
    fast, slow, normal = np.array(panel.fast), np.array(panel.slow), panel.normal
    origin = np.array(panel.origin)
    foot = float(origin @ normal) * normal
    about = tilt[0] * fast + tilt[1] * slow + tilt[2] * normal
    angle = float(np.linalg.norm(about))
    turn = rotation_about(about / angle, angle) if angle > 1e-12 else np.eye(3)
    origin = foot + turn @ (origin - foot)
    origin = origin + shift[0] * fast + shift[1] * slow + shift[2] * normal

    def vector(v: Array) -> tuple[float, float, float]:
        x, y, z = (float(each) for each in v)
        return x, y, z

    return dataclasses.replace(
        panel, origin=vector(origin), fast=vector(turn @ fast), slow=vector(turn @ slow)
    )


def moved_views(
    views: Sequence[SweepPeaks], shift: Sequence[float] | Array, tilt: Sequence[float] | Array
) -> tuple[SweepPeaks, ...]:
    """Move the panels of all sweeps in the same way."""
    return tuple(
        dataclasses.replace(
            view,
            geometry=dataclasses.replace(
                view.geometry, panel=moved_panel(view.geometry.panel, shift, tilt)
            ),
        )
        for view in views
    )


def residuals(spots: Spots, UB: Array, hkl: Array) -> Array:
    """Return observed − calculated position: column, row, pixel, and angle, degree, shape (n, 3).

    To first order in what they are off; of grazing reflections the angle means nothing.
    """
    away = spots.q - hkl @ UB.T
    moves = spots.moves
    grazing = spots.speed < 1e-3
    if grazing.any():
        moves = moves.copy()
        moves[grazing] += 1e-6 * np.eye(3)
    return np.linalg.solve(moves, away[..., None])[..., 0]


def nearest(spots: Spots, UB: Array) -> tuple[Array, Array]:
    """Return the nearest whole hkl of every peak, and the distance from it."""
    h = spots.q @ np.linalg.inv(UB).T
    hkl = np.rint(h)
    return hkl, np.abs(h - hkl).max(axis=1)


def _spread(off: Array, floor: Array) -> Array:
    """Return the robust standard deviation of each column (1.48 × median absolute)."""
    return np.maximum(1.4826 * np.median(np.abs(off), axis=0), floor)


def refine(
    views: Sequence[SweepPeaks],
    UB: Array,
    operations: NDArray[np.int64],
    *,
    what: Sequence[str] = (),
    rounds: int = 4,
    near: float = 0.3,
    fixed: Sequence[float] | None = None,
) -> Refined:
    """Refine UB, the cell within a lattice symmetry, and the panel.

    Least squares of what peaks are off in column, row and angle, each in units of its own spread,
    with a robust loss (soft L1); outliers are left out and hkl assigned again between rounds.

    Parameters
    ----------
    views
        All sweeps of one mount.
    UB
        To begin with.
    operations
        Lattice symmetry that the cell keeps, on its own axes, shape (n, 3, 3).
    what
        Of the panel: any of ``beam``, ``distance``, ``tilt``; the same for all sweeps.
    rounds
        How often.
    near
        Peaks further from whole hkl are left out, reciprocal-lattice units.
    fixed
        A cell that is kept: only the orientation is refined, then.

    Raises
    ------
    OrientationError
        If too few peaks are left to refine with.
    """
    for each in what:
        if each not in REFINABLE:
            raise OrientationError(f"{each!r} cannot be refined: {', '.join(REFINABLE)} can")
    before = tuple(views)
    shift, tilt, errors = np.zeros(3), np.zeros(3), np.zeros(6)
    free = free_metrics(operations) if fixed is None else np.zeros((0, 3, 3))
    kept = None if fixed is None else direct_basis(fixed).T @ direct_basis(fixed)
    views = before
    spots = spots_of(views)
    floor = np.array([0.02, 0.02, 0.002])
    sigma = np.array([0.5, 0.5, max(0.3 * float(np.median(spots.step)), 0.05)])
    n_free = 3 + len(free) + sum(_STEPS[each] for each in what)
    esd = np.zeros(6)
    used = np.zeros(len(spots), np.bool_)
    for number in range(rounds):
        hkl, far = nearest(spots, UB)
        off = residuals(spots, UB, hkl)
        telling = (spots.speed > _GRAZING) & np.any(hkl != 0, axis=1)
        good = telling & (far < near)
        clean = good & spots.clean
        if clean.sum() >= 3 * n_free:
            good = clean
        if number:
            wide = np.array([6.0, 6.0, 6.0]) * np.maximum(sigma, floor * 5)
            good &= np.all(np.abs(off) < wide, axis=1)
        if good.sum() < max(8, n_free):
            raise OrientationError(
                f"only {int(good.sum())} peaks fit this lattice: too few to refine "
                f"{n_free} parameters"
            )
        if good.sum() > _ENOUGH:
            strongest = np.flatnonzero(good)
            strongest = strongest[np.argsort(-spots.intensity[strongest])[:_ENOUGH]]
            good = np.zeros_like(good)
            good[strongest] = True
        used = good
        if number:
            sigma = _spread(off[good], floor)
        some, h = spots.take(good), hkl[good]
        UB, shift, tilt, errors, esd = _adjust(
            before, views, some, good, h, UB, free, operations, sigma, what, shift, tilt, kept
        )
        if what:
            views = moved_views(before, shift, tilt)
            spots = spots_of(views)
    hkl, far = nearest(spots, UB)
    off = residuals(spots, UB, hkl)
    sigma = _spread(off[used], floor)
    indexed = belongs(spots, off, far, sigma) & np.any(hkl != 0, axis=1)
    names = ("fast", "slow", "normal", "about fast", "about slow", "about normal")
    chosen = {"beam": (0, 1), "distance": (2,), "tilt": (3, 4, 5)}
    moved = {
        names[i]: (float([*shift, *tilt][i]), float(errors[i]))
        for each in what
        for i in chosen[each]
    }
    return Refined(UB, views, spots, hkl, off, sigma, used, indexed, esd, moved)


def belongs(spots: Spots, off: Array, far: Array, sigma: Array) -> NDArray[np.bool_]:
    """Return which peaks are where a lattice has them, within six standard deviations.

    At the least 1.5 pixel and a step (a peak that is not clean: twice that); grazing reflections
    have no angle to speak of.
    """
    room = np.where(spots.clean, 1.0, 2.0)
    wide = np.maximum(6.0 * sigma[:2], 1.5)[None, :] * room[:, None]
    turned = np.maximum(6.0 * sigma[2], spots.step) * room / np.maximum(spots.speed, 0.05)
    return (
        (far < 0.3)
        & np.all(np.abs(off[:, :2]) < wide, axis=1)
        & ((np.abs(off[:, 2]) < turned) | (spots.speed < 0.05))
    )


def chance(spots: Spots, UB: Array, sigma: Array) -> float:
    """Return the share of peaks that a lattice in any orientation would index, by chance."""
    room = np.where(spots.clean, 1.0, 2.0)
    wide = np.maximum(6.0 * sigma[:2], 1.5)
    turned = np.maximum(6.0 * sigma[2], spots.step) * room / np.maximum(spots.speed, 0.05)
    volume = 8.0 * wide[0] * wide[1] * room**2 * turned * np.abs(np.linalg.det(spots.moves))
    return float(np.mean(np.minimum(volume / abs(np.linalg.det(UB)), 0.6**3)))


def _adjust(
    before: Sequence[SweepPeaks],
    views: Sequence[SweepPeaks],
    spots: Spots,
    which: NDArray[np.bool_],
    hkl: Array,
    UB: Array,
    free: Array,
    operations: NDArray[np.int64],
    sigma: Array,
    what: Sequence[str],
    shift: Array,
    tilt: Array,
    kept: Array | None,
) -> tuple[Array, Array, Array, Array, Array]:
    """Fit once by least squares; hkl and the excluded peaks stay as they are."""
    basis = np.linalg.inv(UB)  # rows are the direct vectors
    metric = symmetrise(basis @ basis.T, operations) if kept is None else kept
    coefficients = np.zeros(0)
    if len(free):
        flat = free.reshape(len(free), 9).T
        coefficients = np.linalg.lstsq(flat, metric.ravel(), rcond=None)[0]
    # the orientation of the symmetrised cell nearest to UB
    B0 = _reciprocal(metric)
    u, _, v = np.linalg.svd(UB @ np.linalg.inv(B0))
    U0 = u @ v
    inverse = np.linalg.inv(spots.moves)
    k = len(free)
    scale = float(np.trace(metric)) / 3.0
    chosen = [
        i for each in what for i in {"beam": (0, 1), "distance": (2,), "tilt": (3, 4, 5)}[each]
    ]
    still = _still(before, which) if chosen else []

    def model(p: Array) -> Array:
        about = np.rad2deg(p[:3])
        angle = float(np.linalg.norm(about))
        turn = rotation_about(about / angle, angle) if angle > 1e-14 else np.eye(3)
        g = np.tensordot(coefficients + scale * p[3 : 3 + k], free, 1) if k else metric
        return turn @ U0 @ _reciprocal(g)

    def panel(p: Array) -> Array:
        place = np.concatenate([shift, tilt])
        place[chosen] += p[3 + k :]
        return place

    def fun(p: Array) -> Array:
        try:
            calculated = hkl @ model(p).T
        except np.linalg.LinAlgError:
            return np.full(3 * len(hkl), 1e3)
        q = spots.q if not chosen else _seen(before, still, panel(p))
        off = (inverse @ (q - calculated)[..., None])[..., 0]
        return (off / sigma).ravel()

    start = np.zeros(3 + k + len(chosen))
    # parameters by how far they move a peak: radian, relative, mm, degree
    x_scale = np.array([1e-3] * 3 + [1e-3] * k + [0.1] * len(chosen))
    result = least_squares(fun, start, loss="soft_l1", x_scale=x_scale, max_nfev=60)
    p = result.x
    UB = model(p)
    lengths = np.linalg.norm(np.linalg.inv(UB), axis=1)
    if not np.all(np.isfinite(UB)) or lengths.min() < 1.0 or lengths.max() > 1e3:
        raise OrientationError(
            f"the cell ran away in refinement, to lengths of {lengths.round(2).tolist()} Å"
        )
    covariance = np.linalg.pinv(result.jac.T @ result.jac)
    errors = np.zeros(6)
    errors[chosen] = np.sqrt(np.maximum(np.diag(covariance)[3 + k :], 0.0))
    place = panel(p)
    return (
        UB,
        place[:3],
        place[3:],
        errors,
        _cell_errors(
            coefficients + scale * p[3 : 3 + k], free, covariance[3 : 3 + k, 3 : 3 + k] * scale**2
        ),
    )


def _cell_errors(coefficients: Array, free: Array, covariance: Array) -> Array:
    if not len(free):
        return np.zeros(6)

    def cell(c: Array) -> Array:
        g = np.tensordot(c, free, 1)
        length = np.sqrt(np.diag(g))
        angle = [g[i, j] / length[i] / length[j] for i, j in ((1, 2), (0, 2), (0, 1))]
        return np.concatenate([length, np.rad2deg(np.arccos(np.clip(angle, -1, 1)))])

    small = 1e-6 * float(np.abs(coefficients).max())
    jacobian = np.array(
        [(cell(coefficients + d) - cell(coefficients - d)) / (2 * small)
         for d in small * np.eye(len(coefficients))]
    ).T  # fmt: skip
    return np.sqrt(np.maximum(np.diag(jacobian @ covariance @ jacobian.T), 0.0))


def _reciprocal(metric: Array) -> Array:
    """Return B of Busing & Levy for a direct metric: upper triangular, a* along x."""
    return np.linalg.cholesky(np.linalg.inv(metric)).T


_Still = tuple[SweepPeaks, NDArray[np.bool_], Array, Array, Array]


def _still(views: Sequence[SweepPeaks], which: NDArray[np.bool_]) -> list[_Still]:
    """Take what does not change when the panel moves: places on it, and rotations."""
    parts: list[_Still] = []
    first = 0
    for view in views:
        mine = which[first : first + len(view.peaks)]
        first += len(view.peaks)
        angle = view.sweep.start + view.sweep.step * view.peaks.z[mine]
        parts.append(
            (view, mine, view.peaks.x[mine], view.peaks.y[mine], view.geometry.rotation(angle))
        )
    return parts


def _seen(views: Sequence[SweepPeaks], still: list[_Still], place: Array) -> Array:
    out: list[Array] = []
    for view, _, x, y, turned in still:
        panel = moved_panel(view.geometry.panel, place[:3], place[3:])
        size = panel.pixel_size
        position = (
            np.array(panel.origin)
            + x[:, None] * size[0] * np.array(panel.fast)
            + y[:, None] * size[1] * np.array(panel.slow)
        )
        s = position / np.linalg.norm(position, axis=1, keepdims=True)
        s[:, 2] -= 1.0
        out.append((s[:, None, :] @ turned)[:, 0, :] / view.geometry.wavelength)
    return np.concatenate(out)
