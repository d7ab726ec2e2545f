"""An order parameter over temperature: a superlattice point of a series, fitted at each.

Around the point the intensity is [Gaussian + Lorentzian + quadratic]: the Bragg peak of the ordered
crystal with the width of the instrument, critical scattering A / (κ² + q²) (Ornstein & Zernike,
Proc. Acad. Sci. Amsterdam 17, 793, 1914), and everything else, which is smooth but not flat. Taking
a box minus the shell around it instead gives a wrong transition: thermal diffuse scattering is
concave.

Neither the width of the critical scattering nor Tc enters linearly: a covariance from the slope at
the best fit says too little, most of all at the law's corner. So both are averaged over what the
counts allow, with the likelihood as weight (flat priors in log κ, and in Tc and β).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import gammaincc

from offbragg.errors import ReductionError
from offbragg.lattice import direct_basis
from offbragg.reduction.symmetry import Laue
from offbragg.volume import Volume

if TYPE_CHECKING:
    pass


Array = NDArray[np.float64]


_SUB = 3  # points along each side over which a peak is averaged in a cell


_GRID = (241, 81)  # Tc, β


_DISPLACEMENT = np.linspace(0.0, 0.006, 5)  # Å² K⁻¹: how B of a solid grows with temperature


_FAR = 1e300  # costs of a peak that no equations describe
_CHANCE = 0.05  # a larger χ² than this often comes by chance says that the errors are too small


@dataclass(frozen=True, slots=True)
class Fit:
    """What was found at one temperature."""

    temperature: float
    """K."""
    peak: float
    """Height of the Gaussian, counts / weight: the square of the order parameter."""
    peak_error: float
    critical: float
    """Height of the Lorentzian, counts / weight."""
    kappa: float
    """Its width, the inverse correlation length, Å⁻¹ without 2π."""
    chi2: float
    """Per degree of freedom."""
    cells: int


@dataclass(frozen=True, slots=True)
class Transition:
    """A power law (1 − T/Tc)^2β fitted to the peaks of a series."""

    at: tuple[float, float, float]
    Tc: float
    Tc_error: float
    beta: float
    beta_error: float
    scale: float
    width: float
    """Standard deviation of the Gaussian, Å⁻¹ without 2π."""
    chi2: float
    """Of the law through the peaks, per degree of freedom."""
    fits: tuple[Fit, ...]
    notes: tuple[str, ...] = ()
    """Where orientations and backgrounds were from, and what to think of."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self)

    def table(self) -> str:
        """Return it as text, one line per temperature."""
        lines = ["      T (K)         peak        ±     critical    κ (Å⁻¹)   χ²"]
        lines += [
            f"{f.temperature:11.2f} {f.peak:12.4g} {f.peak_error:8.2g} {f.critical:12.4g} "
            f"{f.kappa:10.4f} {f.chi2:5.2f}"
            for f in self.fits
        ]
        lines.append(
            f"Tc = {self.Tc:.2f} ± {self.Tc_error:.2f} K, "
            f"β = {self.beta:.3f} ± {self.beta_error:.3f}, χ² = {self.chi2:.2f}"
        )
        return "\n".join(lines)


def fit_series(volumes: dict[float, Volume], at: tuple[float, float, float]) -> Transition:
    """Fit the point in the volume of each temperature, then the power law.

    The width of the Gaussian is that of the instrument: found at the lowest temperature, where the
    peak is strongest, and kept.
    """
    check_number(len(volumes))
    ordered = sorted(volumes.items())
    for kelvin, volume in ordered:
        try:
            box_around(volume, at)
        except ReductionError as error:
            raise ReductionError(f"at {kelvin:g} K: {error}") from error
    shape = peak_shape(ordered[0][1], at)
    fits = [fit_peak(kelvin, volume, at, shape) for kelvin, volume in ordered]
    sample = ordered[0][1].sample
    assert sample is not None
    assert sample.lattice is not None
    return fit_transition(fits, at, shape, sample.lattice)


@dataclass(frozen=True, slots=True)
class PeakShape:
    """The Bragg peak of the ordered crystal, as the instrument sees it."""

    width: float
    """Standard deviation of the Gaussian, Å⁻¹ without 2π."""
    offset: tuple[float, ...]
    """From the point to where it lies, Å⁻¹."""


def peak_shape(volume: Volume, at: tuple[float, float, float]) -> PeakShape:
    """Find the shape of the peak in the volume of the lowest temperature."""
    width, offset = _peak_shape(box_around(volume, at))
    return PeakShape(width, tuple(float(x) for x in offset))


def fit_peak(
    kelvin: float, volume: Volume, at: tuple[float, float, float], shape: PeakShape
) -> Fit:
    """Fit the point in the volume of one temperature, K, without a law."""
    return _fit(kelvin, box_around(volume, at), shape.width, np.array(shape.offset))


def fit_transition(
    fits: Sequence[Fit],
    at: tuple[float, float, float],
    shape: PeakShape,
    lattice: Sequence[float],
) -> Transition:
    """Fit the power law to the peaks of a series.

    Parameters
    ----------
    fits
        One for each temperature, ascending.
    at
        h, k, l of the point.
    shape
        Of the peaks.
    lattice
        a, b, c, Å, and the angles, degree: the point's distance enters the Debye-Waller factor.
    """
    check_number(len(fits))
    T, peak, error = (
        np.array([getattr(f, name) for f in fits]) for name in ("temperature", "peak", "peak_error")
    )
    # Debye and Waller: exp(−B s²/2), of which only the change with temperature matters
    s = np.linalg.inv(direct_basis(lattice)).T @ np.array(at)
    law = fit_law(T, peak, error, falls=0.5 * float(s @ s) * _DISPLACEMENT)
    return Transition(
        at=at, Tc=law.Tc, Tc_error=law.Tc_error, beta=law.beta, beta_error=law.beta_error,
        scale=law.scale, width=shape.width, chi2=law.chi2, fits=tuple(fits),
    )  # fmt: skip


def check_number(temperatures: int) -> None:
    """Refuse fewer temperatures than a transition can be fitted to."""
    if temperatures < 5:
        raise ReductionError(f"a transition needs at least 5 temperatures, not {temperatures}")


@dataclass(frozen=True, slots=True)
class Law:
    """scale · (1 − T/Tc)^2β."""

    Tc: float
    Tc_error: float
    beta: float
    beta_error: float
    scale: float
    chi2: float
    """Per degree of freedom."""


def fit_law(T: Array, peak: Array, error: Array, *, falls: Sequence[float] | Array = (0.0,)) -> Law:
    """Fit a power law to peaks that also fall, by an unknown rate, with temperature.

    Parameters
    ----------
    T
        K, ascending.
    peak, error
        Heights and their standard deviations.
    falls
        Rates f of a factor exp(−f T), K⁻¹, all as probable before the peaks are looked at.
    """
    laws = [_fit_law(T, peak * np.exp(f * T), error * np.exp(f * T)) for f in falls]
    chi2 = np.array([law.chi2 for law in laws])
    free = max(len(T) - 3, 1)
    wide = chi2.min() if gammaincc(0.5 * free, 0.5 * chi2.min() * free) < _CHANCE else 1.0
    likely = np.exp(-0.5 * free * (chi2 - chi2.min()) / wide)
    likely /= likely.sum()
    law: dict[str, float] = {"chi2": float(chi2.min())}
    for name in ("Tc", "beta"):
        values, errors = (
            np.array([getattr(law, key) for law in laws]) for key in (name, f"{name}_error")
        )
        mean = float(likely @ values)
        law[name] = mean
        law[f"{name}_error"] = math.sqrt(float(likely @ (errors**2 + (values - mean) ** 2)))
    shape = np.maximum(1.0 - T / law["Tc"], 0.0) ** (2.0 * law["beta"]) * (law["Tc"] > T)
    scale = float((shape * peak / error**2).sum() / max(float((shape**2 / error**2).sum()), 1e-300))
    return Law(scale=scale, **law)


def _fit_law(T: Array, peak: Array, error: Array) -> Law:
    """Fit a power law to peaks: mean and standard deviation of what they allow.

    Where χ² is larger than chance explains, the errors of the peaks are enlarged by that factor.

    Parameters
    ----------
    T
        K, ascending.
    peak, error
        Heights and their standard deviations.
    """
    weight = 1.0 / error**2
    free = max(len(T) - 3, 1)
    none = float(np.sum(weight * peak**2))  # χ² without any law

    def look(low: Array, high: Array) -> tuple[Array, Array, Array]:
        """Return Tc, β and χ² on a grid, with the best scale for each."""
        Tc, beta = (np.linspace(a, b, n) for a, b, n in zip(low, high, _GRID, strict=True))
        below = np.maximum(1.0 - T / Tc[:, None, None], 0.0)
        shape = below ** (2.0 * beta[:, None]) * (below > 0)
        up, down = (shape * weight * peak).sum(-1), (shape**2 * weight).sum(-1)
        gained = np.divide(np.maximum(up, 0.0) ** 2, down, out=np.zeros_like(up), where=down > 0)
        return Tc, beta, none - gained

    # one temperature below Tc, or none above, tells of nothing; 1.5 is more than any exponent
    low, high = np.array([T[1], 0.01]), np.array([T[-1] + 0.5 * (T[-1] - T[0]), 1.5])
    zoom = 0
    while True:
        Tc, beta, chi2 = look(low, high)
        least = max(float(chi2.min()), 0.0)
        wide = least / free if gammaincc(0.5 * free, 0.5 * least) < _CHANCE else 1.0
        allowed = chi2 - least < 25.0 * wide
        ends: list[tuple[float, float]] = []
        for axis, line in ((Tc, allowed.any(axis=1)), (beta, allowed.any(axis=0))):
            inside, step = axis[line], axis[1] - axis[0]
            ends.append((max(inside[0] - step, axis[0]), min(inside[-1] + step, axis[-1])))
        new_low, new_high = np.array(ends).T
        zoom += 1
        if zoom == 6 or not np.any((new_high - new_low) < 0.7 * (high - low)):
            break
        low, high = new_low, new_high
    likely = np.exp(-0.5 * (chi2 - least) / wide)
    likely /= likely.sum()
    found: list[tuple[float, float]] = []
    for axis, part in ((Tc, likely.sum(axis=1)), (beta, likely.sum(axis=0))):
        mean = float(part @ axis)
        found.append((mean, math.sqrt(float(part @ (axis - mean) ** 2))))
    (Tc_mean, Tc_error), (beta_mean, beta_error) = found
    shape = np.maximum(1.0 - T / Tc_mean, 0.0) ** (2.0 * beta_mean) * (Tc_mean > T)
    scale = float((shape * weight * peak).sum() / max(float((shape**2 * weight).sum()), 1e-300))
    if none - least < 9.0 * wide or scale <= 0:
        raise ReductionError(
            "no power law fits the peaks of this series: none of them vanishes with temperature"
        )
    return Law(Tc_mean, Tc_error, beta_mean, beta_error, scale, least / free)


@dataclass(frozen=True, slots=True)
class _Box:
    """Measured cells of a box: where they are from the point, Å⁻¹, and what is in them."""

    away: Array  # (n, 3)
    parts: Array  # (parts, 3), of a cell from its centre
    above: Array
    weight: Array
    extra: Array  # variance that is not of the counts: the background's


def box_around(volume: Volume, at: tuple[float, float, float]) -> _Box:
    """Return the cells around a point, in Å⁻¹ from it."""
    assert volume.grid is not None
    sample = volume.sample
    if sample is None or sample.lattice is None:
        raise ReductionError("a fit needs the lattice, and the volume does not say it")
    reciprocal = np.linalg.inv(direct_basis(sample.lattice)).T
    labels = np.stack(np.meshgrid(*(volume.grid.axis(i) for i in range(3)), indexing="ij"), -1)
    seen = volume.measured & _once(volume, at)
    if np.count_nonzero(seen) < 60 or not seen[volume.grid.around(at, 0.05)].any():
        raise ReductionError(
            f"around {at} only {np.count_nonzero(seen)} of {seen.size} cells are measured\n"
            "Choose an equivalent point, add sweeps, or sum over equivalents (--symmetry)."
        )
    background = 0.0 if volume.background is None else volume.background[seen]
    extra = np.zeros(np.count_nonzero(seen))
    if volume.background_variance is not None:
        extra = volume.background_variance[seen] + background
    inside = (np.arange(_SUB) + 0.5) / _SUB - 0.5
    parts = np.stack(np.meshgrid(inside, inside, inside, indexing="ij"), -1).reshape(-1, 3)
    parts = parts / np.array(volume.grid.per_unit)
    return _Box(
        (labels[seen] - np.array(at)) @ reciprocal.T, parts @ reciprocal.T,
        volume.counts[seen] - background, volume.weight[seen], extra,
    )  # fmt: skip


def _once(volume: Volume, at: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Of cells that hold the same sums, because they are equivalent, take one.

    Around a special point of a symmetrised volume each measurement is there several times: fitted
    so, it would seem to be known better than it is.
    """
    assert volume.grid is not None
    grid = volume.grid
    kept = np.ones(grid.shape, np.bool_)
    if not volume.symmetry:
        return kept
    first, shape = np.array(grid.first), np.array(grid.shape)
    cells = np.indices(grid.shape).reshape(3, -1).T
    number = np.arange(grid.size)
    for operation in Laue.named(volume.symmetry).operations[1:]:
        W = np.array(operation)
        if np.abs(W @ np.array(at) - np.array(at)).max() > 1e-6:
            continue  # it leads to another box
        image = (cells + first) @ W.T - first
        inside = np.all((image >= 0) & (image < shape), axis=1)
        there = np.ravel_multi_index(tuple(image[inside].T), grid.shape)
        kept.reshape(-1)[inside] &= there >= number[inside]
    return kept


def _columns(box: _Box, squared: Array, width: float, kappa: float) -> Array:
    """Return what the intensity is a sum of: Gaussian, Lorentzian, ten terms of a quadratic."""
    peak = np.exp(squared * (-0.5 / width**2)).mean(axis=0)
    x, y, z = (box.away / np.abs(box.away).max()).T
    smooth = [np.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z]
    return np.stack([peak, _critical(squared, kappa), *smooth], axis=1)


def _critical(squared: Array, kappa: float) -> Array:
    return (kappa**2 / (kappa**2 + squared)).mean(axis=0)


def _squared(box: _Box, offset: Array) -> Array:
    """Return the squared distance of each part of each cell from the peak, shape (parts, n)."""
    return np.sum((box.away - offset + box.parts[:, None, :]) ** 2, axis=2)


def _solve(
    box: _Box, columns: Array, near: Array | None = None
) -> tuple[Array, Array, float, Array]:
    """Solve weighted linear least squares; variances are those of the model: fair to low counts.

    Parameters
    ----------
    box, columns
        Cells, and what their intensity is a sum of.
    near
        The model of nearly the same columns, to begin with.

    Returns
    -------
    factors, covariance, cost, model
        ``cost`` is −2 log likelihood, but for a constant.
    """
    if near is None:
        near = np.full(len(box.above), box.above.sum() / box.weight.sum())
        rounds = 4
    else:
        rounds = 2
    model = np.maximum(near, 1e-12)
    factors, covariance = np.zeros(columns.shape[1]), np.zeros((columns.shape[1],) * 2)
    for _ in range(rounds):
        variance = np.maximum(model * box.weight, 0.05) + box.extra
        root = box.weight / np.sqrt(variance)
        design = columns * root[:, None]
        normal = design.T @ design
        scale = 1.0 / np.sqrt(np.maximum(np.diag(normal), 1e-300))
        try:
            covariance = np.linalg.pinv(normal * np.outer(scale, scale)) * np.outer(scale, scale)
        except np.linalg.LinAlgError:
            raise ReductionError("the peak is not fitted: its equations are not finite") from None
        factors = covariance @ (design.T @ (box.above / np.sqrt(variance)))
        model = np.maximum(columns @ factors, 1e-12)
    variance = np.maximum(model * box.weight, 0.05) + box.extra
    chi2 = float(np.sum((box.above - box.weight * (columns @ factors)) ** 2 / variance))
    # the model's own variance rewards large ones: add what the likelihood has for it
    return factors, covariance, chi2 + float(np.sum(np.log(variance))), model


def _peak_shape(box: _Box) -> tuple[float, Array]:
    """Find width and position of the peak, Å⁻¹, where it is strongest."""
    cell = float(np.max(np.linalg.norm(box.parts, axis=1)))

    def cost(p: Array) -> float:
        try:
            width = math.exp(p[0])
            return _solve(box, _columns(box, _squared(box, p[1:] * width), width, 5.0 * width))[2]
        except (ReductionError, OverflowError):
            return _FAR

    start = np.array([math.log(max(cell * 0.7, 1e-4)), 0.0, 0.0, 0.0])
    found = minimize(cost, start, method="Nelder-Mead", options={"maxiter": 250, "xatol": 1e-3})
    width = math.exp(found.x[0])
    return width, found.x[1:] * width


def _fit(kelvin: float, box: _Box, width: float, offset: Array) -> Fit:
    squared = _squared(box, offset)
    columns = _columns(box, squared, width, width)
    near: Array | None = None

    def solve(log_kappa: float) -> tuple[Array, Array, float]:
        nonlocal near
        columns[:, 1] = _critical(squared, math.exp(log_kappa))
        factors, covariance, cost, near = _solve(box, columns, near)
        return factors, covariance, cost

    # narrower it could not be separated from the peak, wider than the box not from the quadratic
    widest = float(np.abs(box.away).max())
    allowed = np.log(np.geomspace(1.5 * width, max(1.5 * widest, 2.0 * width), 8))
    best = int(np.argmin([solve(x)[2] for x in allowed]))
    around = float(allowed[max(best - 1, 0)]), float(allowed[min(best + 1, len(allowed) - 1)])
    found = minimize_scalar(lambda x: solve(x)[2], bounds=around, method="bounded")
    centre = float(found.x)  # type: ignore[attr-defined]
    # as far as the likelihood reaches, but not out of what is allowed
    reach = [0.5 * (allowed[1] - allowed[0])] * 2
    lowest = solve(centre)[2]
    for side, sign in enumerate((-1.0, 1.0)):
        while solve(centre + sign * reach[side])[2] - lowest > 10.0 and reach[side] > 1e-3:
            reach[side] *= 0.5
        reach[side] *= 2.0
        while solve(centre + sign * reach[side])[2] - lowest < 8.0 and reach[side] < 5.0:
            reach[side] *= 1.5
    ends = np.clip([centre - reach[0], centre + reach[1]], allowed[0], allowed[-1])
    tried = [solve(x) for x in np.linspace(ends[0], ends[1], 15)]
    cost = np.array([each[2] for each in tried])
    likely = np.exp(-0.5 * (cost - cost.min()))
    likely /= likely.sum()
    peaks = np.array([each[0][0] for each in tried])
    variances = np.array([each[1][0, 0] for each in tried])
    peak = float(likely @ peaks)
    spread = float(likely @ (variances + (peaks - peak) ** 2))

    kappa = math.exp(centre)
    factors, _, _ = solve(centre)
    variance = np.maximum(columns @ factors * box.weight, 0.05) + box.extra
    chi2 = float(np.sum((box.above - box.weight * (columns @ factors)) ** 2 / variance))
    chi2 /= len(box.above) - 13
    # a peak that is not Gaussian is less well known than its counts suggest
    error = math.sqrt(spread * max(chi2, 1.0))
    return Fit(kelvin, peak, error, float(factors[1]), kappa, chi2, len(box.above))
