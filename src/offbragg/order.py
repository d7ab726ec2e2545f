"""An order parameter over temperature: a superlattice point of a series, fitted at each.

Around the point the intensity is [Gaussian + Lorentzian + quadratic]: the Bragg peak of the ordered
crystal with the width of the instrument, critical scattering A / (κ² + q²) (Ornstein & Zernike,
Proc. Acad. Sci. Amsterdam 17, 793, 1914), and everything else, which is smooth but not flat. Taking
a box minus the shell around it instead gives a wrong transition: thermal diffuse scattering is
concave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import curve_fit, minimize, minimize_scalar

from offbragg.errors import OffbraggError, ReductionError
from offbragg.files.scan_file import ScanFile
from offbragg.geometry import direct_basis
from offbragg.recipe import Choices, reduce_files
from offbragg.volume import Grid, Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_SAME = 0.5  # K: sweeps this close are one temperature
_SUB = 3  # points along each side over which a peak is averaged in a cell


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
    """A power law (1 − T/Tc)^2β through the peaks of a series."""

    at: tuple[float, float, float]
    Tc: float
    Tc_error: float
    beta: float
    beta_error: float
    scale: float
    width: float
    """Standard deviation of the Gaussian, Å⁻¹ without 2π."""
    fits: tuple[Fit, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)

    def table(self) -> str:
        """As text, a line for each temperature."""
        lines = ["      T (K)         peak        ±     critical    κ (Å⁻¹)   χ²"]
        lines += [
            f"{f.temperature:11.2f} {f.peak:12.4g} {f.peak_error:8.2g} {f.critical:12.4g} "
            f"{f.kappa:10.4f} {f.chi2:5.2f}"
            for f in self.fits
        ]
        lines.append(
            f"Tc = {self.Tc:.2f} ± {self.Tc_error:.2f} K, "
            f"β = {self.beta:.3f} ± {self.beta_error:.3f}"
        )
        return "\n".join(lines)


def find_sweeps(where: Sequence[Path | str], series: str | None = None) -> dict[float, list[Path]]:
    """Find the scan files of a series, by temperature.

    Parameters
    ----------
    where
        Scan files, or folders that are searched for them.
    series
        Uid of a series, or its begin, if there are others in the folders.

    Returns
    -------
    sweeps
        Scan files for each temperature, K; one that was settled counts by its mean.

    Raises
    ------
    ReductionError
        If there are none with a temperature.
    """
    found: list[tuple[float, Path]] = []
    for place in map(Path, where):
        given = [place] if place.is_file() else sorted(place.rglob("f*.h5"))
        for path in given:
            try:
                with ScanFile.open(path) as scan:
                    start = scan.start
            except OffbraggError:
                if place.is_file():
                    raise
                continue
            uid = (start.get("series") or {}).get("uid", "")
            if start.get("purpose", "data") != "data" or not uid.startswith(series or ""):
                continue
            temperature = start.get("temperature") or {}
            settled = temperature.get("settled") or {}
            kelvin = settled.get("mean", temperature.get("setpoint"))
            if kelvin is not None:
                found.append((float(kelvin), path))
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
        For the reduction; its grid is not used.
    progress
        Told how many temperatures are done, and of how many.
    """
    box = Grid.box(*[(x - reach, x + reach) for x in at], step=step)
    volumes: dict[float, Volume] = {}
    for n, (kelvin, files) in enumerate(sweeps.items()):
        volumes[kelvin] = reduce_files(files, replace(choices or Choices(), grid=box))
        progress(n + 1, len(sweeps))
    return fit_series(volumes, at)


def fit_series(volumes: dict[float, Volume], at: tuple[float, float, float]) -> Transition:
    """Fit the point in the volume of each temperature, then the power law.

    The width of the Gaussian is that of the instrument: found at the lowest temperature, where the
    peak is strongest, and kept.
    """
    if len(volumes) < 5:
        raise ReductionError(f"a transition needs at least 5 temperatures, not {len(volumes)}")
    ordered = sorted(volumes.items())
    width, offset = _peak_shape(ordered[0][1], at)
    fits = tuple(_fit(kelvin, v, at, width, offset) for kelvin, v in ordered)
    T, peak, error = (
        np.array([getattr(f, name) for f in fits]) for name in ("temperature", "peak", "peak_error")
    )

    def law(t: Array, scale: float, Tc: float, beta: float) -> Array:
        return scale * np.maximum(1.0 - t / Tc, 1e-12) ** (2.0 * beta) * (t < Tc)

    best: tuple[float, Any, Any] | None = None
    for guess in np.linspace(T[1], T[-1], 25):  # the law has a corner: begin at many places
        try:
            p, covariance = curve_fit(
                law, T, peak, (peak[0] / max(1 - T[0] / guess, 0.05) ** 0.7, guess, 0.35),
                sigma=error, absolute_sigma=True,
                bounds=([0, T[0], 0.02], [np.inf, 2 * T[-1], 2.0]),
            )  # fmt: skip
        except (RuntimeError, ValueError):
            continue
        chi2 = float(np.sum(((law(T, *p) - peak) / error) ** 2))
        if best is None or chi2 < best[0]:
            best = chi2, p, covariance
    if best is None:
        raise ReductionError("no power law goes through the peaks of this series")
    chi2, p, covariance = best
    # what the counts do not explain is in the uncertainty, too
    wide = math.sqrt(max(chi2 / max(len(T) - 3, 1), 1.0))
    errors = wide * np.sqrt(np.diag(covariance))
    return Transition(
        at=at, Tc=float(p[1]), Tc_error=float(errors[1]), beta=float(p[2]),
        beta_error=float(errors[2]), scale=float(p[0]), width=width, fits=fits,
    )  # fmt: skip


def draw(transition: Transition, out: Path | str | None = None) -> Figure:
    """Draw peak and critical scattering over temperature, with the power law."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    T = np.array([f.temperature for f in transition.fits])
    axes.errorbar(
        T, [f.peak for f in transition.fits], [f.peak_error for f in transition.fits],
        fmt="o", label="peak",
    )  # fmt: skip
    axes.plot(T, [f.critical for f in transition.fits], "s", mfc="none", label="critical")
    t = np.linspace(T[0], T[-1], 500)
    law = np.maximum(1 - t / transition.Tc, 0.0) ** (2 * transition.beta)
    axes.plot(t, transition.scale * law, "-", color="0.4", zorder=0)
    axes.set_xlabel("T (K)")
    axes.set_ylabel("intensity (counts / weight)")
    axes.set_title(
        f"({', '.join(f'{x:g}' for x in transition.at)}): "
        f"Tc = {transition.Tc:.2f} ± {transition.Tc_error:.2f} K, "
        f"β = {transition.beta:.3f} ± {transition.beta_error:.3f}"
    )
    axes.legend()
    if out is not None:
        figure.savefig(out, dpi=150)
    return figure


# ---- one temperature -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Box:
    """Measured cells of a box: where they are from the point, Å⁻¹, and what is in them."""

    away: Array  # (n, 3)
    parts: Array  # (parts, 3), of a cell from its centre
    above: Array
    weight: Array
    extra: Array  # variance that is not of the counts: the background's


def _box(volume: Volume, at: tuple[float, float, float]) -> _Box:
    assert volume.grid is not None
    sample = volume.sample
    if sample is None or sample.lattice is None:
        raise ReductionError("a fit needs the lattice, and the volume does not say it")
    reciprocal = np.linalg.inv(direct_basis(sample.lattice)).T
    labels = np.stack(np.meshgrid(*(volume.grid.axis(i) for i in range(3)), indexing="ij"), -1)
    seen = volume.measured
    if np.count_nonzero(seen) < 60 or not seen[volume.grid.around(at, 0.05)].any():
        raise ReductionError(
            f"around {at} only {np.count_nonzero(seen)} of {seen.size} cells are measured\n"
            "Choose an equivalent point, or add sweeps."
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


def _columns(box: _Box, width: float, kappa: float, offset: Array) -> Array:
    """Give what the intensity is a sum of: Gaussian, Lorentzian, ten terms of a quadratic."""
    peak, critical = np.zeros(len(box.away)), np.zeros(len(box.away))
    for part in box.parts:
        squared = np.sum((box.away + part - offset) ** 2, axis=1)
        peak += np.exp(-0.5 * squared / width**2)
        critical += kappa**2 / (kappa**2 + squared)
    x, y, z = (box.away / np.abs(box.away).max()).T
    smooth = [np.ones_like(x), x, y, z, x * x, y * y, z * z, x * y, x * z, y * z]
    return np.stack([peak / len(box.parts), critical / len(box.parts), *smooth], axis=1)


def _solve(box: _Box, columns: Array) -> tuple[Array, Array, float]:
    """Weighted linear least squares; variances are those of the model, so low counts are fair.

    Returns the factors, their covariance, and χ².
    """
    model = np.maximum(np.full(len(box.above), box.above.sum() / box.weight.sum()), 1e-12)
    factors = covariance = None
    for _ in range(4):
        variance = np.maximum(model * box.weight, 0.05) + box.extra
        root = box.weight / np.sqrt(variance)
        design = columns * root[:, None]
        normal = design.T @ design
        scale = 1.0 / np.sqrt(np.maximum(np.diag(normal), 1e-300))
        covariance = np.linalg.pinv(normal * np.outer(scale, scale)) * np.outer(scale, scale)
        factors = covariance @ (design.T @ (box.above / np.sqrt(variance)))
        model = np.maximum(columns @ factors, 1e-12)
    assert factors is not None
    assert covariance is not None
    variance = np.maximum(model * box.weight, 0.05) + box.extra
    chi2 = float(np.sum((box.above - box.weight * (columns @ factors)) ** 2 / variance))
    # the model's own variance rewards large ones: add what the likelihood has for it
    return factors, covariance, chi2 + float(np.sum(np.log(variance)))


def _peak_shape(volume: Volume, at: tuple[float, float, float]) -> tuple[float, Array]:
    """Width and place of the peak, Å⁻¹, where it is strongest."""
    box = _box(volume, at)
    cell = float(np.max(np.linalg.norm(box.parts, axis=1)))

    def cost(p: Array) -> float:
        width = math.exp(p[0])
        return _solve(box, _columns(box, width, 5.0 * width, p[1:] * width))[2]

    start = np.array([math.log(max(cell * 0.7, 1e-4)), 0.0, 0.0, 0.0])
    found = minimize(cost, start, method="Nelder-Mead", options={"maxiter": 250, "xatol": 1e-3})
    width = math.exp(found.x[0])
    return width, found.x[1:] * width


def _fit(
    kelvin: float, volume: Volume, at: tuple[float, float, float], width: float, offset: Array
) -> Fit:
    box = _box(volume, at)

    def cost(log_kappa: float) -> float:
        return _solve(box, _columns(box, width, math.exp(log_kappa), offset))[2]

    # narrower it could not be told from the peak, wider than the box not from the quadratic
    widest = float(np.abs(box.away).max())
    allowed = np.geomspace(1.5 * width, max(1.5 * widest, 2.0 * width), 8)
    coarse = [cost(math.log(k)) for k in allowed]
    best = int(np.argmin(coarse))
    low, high = allowed[max(best - 1, 0)], allowed[min(best + 1, len(allowed) - 1)]
    found = minimize_scalar(cost, bounds=(math.log(low), math.log(high)), method="bounded")
    kappa = math.exp(float(found.x))  # type: ignore[attr-defined]
    columns = _columns(box, width, kappa, offset)
    factors, covariance, _ = _solve(box, columns)
    variance = np.maximum(columns @ factors * box.weight, 0.05) + box.extra
    chi2 = float(np.sum((box.above - box.weight * (columns @ factors)) ** 2 / variance))
    return Fit(
        kelvin, float(factors[0]), float(math.sqrt(covariance[0, 0])), float(factors[1]), kappa,
        chi2 / (len(box.above) - 13), len(box.above),
    )  # fmt: skip
