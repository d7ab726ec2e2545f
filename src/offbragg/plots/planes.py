"""Planes of a volume as pictures, on the axes of the reciprocal lattice."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ReductionError
from offbragg.files.cuts import cut_plane
from offbragg.files.planes import Plane, PlaneCells, cells_on
from offbragg.files.volume_file import VolumeFile
from offbragg.grid import Array, Grid
from offbragg.lattice import direct_basis
from offbragg.sample import Sample
from offbragg.volume import Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from offbragg.plots.figure import new_figure, save_figure

_BRAGG = 0.15  # r.l.u.: cells so near a point of whole h, k, l are left out of the colours' range


_TOP = 99.0  # percent of the other cells that the colours reach


def _add(part: Volume, cells: PlaneCells, total: Array, weight: Array) -> None:
    """Add what a volume, or a part of it, holds of a plane."""
    assert part.grid is not None
    first, end = np.array(part.grid.first), np.array(part.grid.end)
    above = part.counts if part.background is None else part.counts - part.background
    for layer in cells.layers:
        where = cells.place + layer
        inside = np.all((where >= first) & (where < end), axis=-1)
        i, j, k = (where[inside] - first).T
        total[inside] += above[i, j, k]
        weight[inside] += part.weight[i, j, k]


def _divided(total: Array, weight: Array) -> Array:
    out = np.full(total.shape, np.nan)
    np.divide(total, weight, out=out, where=weight > 0)
    return out


def cut(volume: Volume, plane: Plane, *, thickness: float = 0.0) -> Array:
    """Take the intensity on a plane, summed over cells at most half ``thickness`` away.

    Returns
    -------
    intensity
        NaN where nothing was measured, shape (across, up).
    """
    assert volume.grid is not None
    cells = cells_on(volume.grid, plane, thickness)
    total, weight = np.zeros(cells.place.shape[:2]), np.zeros(cells.place.shape[:2])
    _add(volume, cells, total, weight)
    return _divided(total, weight)


def top_of(
    intensity: NDArray[np.floating[Any]], cells: PlaneCells, grid: Grid, top: float = _TOP
) -> float:
    """Return the intensity that the colours reach: a percentile of the cells off Bragg points.

    Bragg peaks are thousands of times stronger than what lies between, and take a few percent of
    the cells: a percentile of all cells is one of theirs.

    Parameters
    ----------
    intensity
        NaN where nothing was measured.
    cells, grid
        Where its cells are.
    top
        Percent of the cells at more than 0.15 r.l.u. from every point of whole h, k, l.
    """
    away = np.ones(intensity.shape, np.bool_)
    for layer in cells.layers:
        hkl = (cells.place + layer) / np.array(grid.per_unit)
        away &= np.any(np.abs(hkl - np.rint(hkl)) > _BRAGG, axis=-1)
    shown = np.isfinite(intensity) & (intensity > 0)
    chosen = intensity[shown & away]
    if chosen.size < 10:
        chosen = intensity[shown]
    return float(np.percentile(chosen, top))


def plot(
    volume: Volume | Path | str,
    plane: str = "hk0",
    *,
    out: Path | str | None = None,
    thickness: float = 0.0,
    low: float | None = None,
    high: float | None = None,
    top: float = _TOP,
) -> Figure:
    """Draw a plane: logarithmic colours, true lengths and angles of the reciprocal lattice.

    Parameters
    ----------
    volume
        A volume, or its file, of which only this plane is read.
    plane
        As ``hk0``, ``h0.5l``, ``-1kl``, ``hhl``; with commas any, as ``h,k,-h-k``.
    out
        The picture to write (PNG, or what matplotlib knows by the suffix).
    thickness
        Thickness over which the plane is averaged, r.l.u.; of an oblique one along `Plane.normal`.
    low, high
        Ends of the colours; from the data if None: the first percentile of the cells, and ``top``.
    top
        Percentile of the cells away from Bragg points (by 0.15 r.l.u.) at which the colours end,
        so that the diffuse scattering sets them.

    Returns
    -------
    figure
        Of matplotlib.
    """
    from matplotlib.colors import LogNorm

    which = Plane.parse(plane)
    if not 0.0 < top <= 100.0:
        raise ReductionError(f"top is {top:g}: it is a percentage, above 0 and at most 100")
    if isinstance(volume, Volume):
        if volume.grid is None:
            raise ReductionError("a volume without a grid cannot be drawn")
        grid, sample = volume.grid, volume.sample
        cells = cells_on(grid, which, thickness)
        intensity = cut(volume, which, thickness=thickness).astype(np.float32)
    else:
        with VolumeFile(Path(volume)) as file:  # of which only this plane is read
            grid, sample = file.grid, file.sample
            cells = cells_on(grid, which, thickness)
            intensity = cut_plane(file, which, thickness=thickness).intensity
    shown = intensity[np.isfinite(intensity) & (intensity > 0)]
    if not shown.size:
        raise ReductionError(f"there is nothing on {plane}: no measured cell is above 0")
    for name, end in (("low", low), ("high", high)):
        if end is not None and not (math.isfinite(end) and end > 0):
            raise ReductionError(f"{name} is {end:g}: logarithmic colours need numbers above 0")
    low = float(np.percentile(shown, 1.0)) if low is None else low
    high = top_of(intensity, cells, grid, top) if high is None else high
    basis = _basis(sample, which)
    edges = [_edges(*pair) for pair in zip(cells.labels, cells.step, strict=True)]
    a, b = np.meshgrid(*edges, indexing="ij")
    x, y = a * basis[0, 0] + b * basis[1, 0], a * basis[0, 1] + b * basis[1, 1]

    figure = new_figure(7.0, 6.0)
    axes: Any = figure.add_subplot()
    axes.set_facecolor("0.8")  # what was not measured
    floor = np.where(np.isfinite(intensity), np.maximum(intensity, low), np.nan)
    mesh = axes.pcolormesh(
        x, y, np.ma.masked_invalid(floor), norm=LogNorm(low, max(high, low * 1.001)),
        cmap="viridis", rasterized=True,
    )  # fmt: skip
    axes.set_aspect("equal")
    _label(axes, edges, basis, which.axis_label(0), which.axis_label(1))
    title = "" if sample is None else f"{sample.name} {sample.label}, "
    if which.fixed is None:
        axes.set_title(f"{title}{plane}")
    else:
        planes = grid.axis(which.fixed)
        drawn = planes[np.argmin(np.abs(planes - which.at[which.fixed]))]  # the nearest there is
        axes.set_title(f"{title}{'hkl'[which.fixed]} = {drawn:g}")
    above = bool(np.any(shown > high))
    figure.colorbar(
        mesh, ax=axes, label="intensity (counts / weight)", extend="max" if above else "neither"
    )
    if out is not None:
        save_figure(figure, Path(out))
    return figure


def _basis(sample: Sample | None, plane: Plane) -> Array:
    """Return the vectors across and up in the plane's own coordinates, rows, Å⁻¹ with 2π."""
    if sample is None or sample.lattice is None:
        return np.eye(2)
    reciprocal = 2 * math.pi * np.linalg.inv(direct_basis(sample.lattice)).T
    a, b = reciprocal @ np.array(plane.across), reciprocal @ np.array(plane.up)
    along = a / np.linalg.norm(a)
    first = float(b @ along)
    second = math.sqrt(max(float(b @ b) - first**2, 0.0))
    return np.array([[float(np.linalg.norm(a)), 0.0], [first, second]])


def _edges(centres: Array, step: float) -> Array:
    return np.append(centres, centres[-1] + step) - 0.5 * step


def _label(axes: Any, edges: list[Array], basis: Array, across: str, up: str) -> None:
    """Write h, k, l along the lower and the left edge, which may be oblique."""
    low = [float(e[0]) for e in edges]
    for i in range(2):
        ticks = _ticks(float(edges[i][0]), float(edges[i][-1]))
        other = low[1 - i]
        pairs = [(t, other) if i == 0 else (other, t) for t in ticks]
        places = [
            (a * basis[0, 0] + b * basis[1, 0], a * basis[0, 1] + b * basis[1, 1]) for a, b in pairs
        ]
        shift = (0, -4) if i == 0 else (-4, 0)
        ha, va = ("center", "top") if i == 0 else ("right", "center")
        for tick, place in zip(ticks, places, strict=True):
            axes.annotate(
                f"{tick:g}", place, xytext=shift, textcoords="offset points", ha=ha, va=va,
                annotation_clip=False, fontsize=9,
            )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"{across} (r.l.u.)", labelpad=18)
    axes.set_ylabel(f"{up} (r.l.u.)", labelpad=28)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _ticks(low: float, high: float) -> list[float]:
    span = high - low
    step = next(s for s in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 1e9) if span / s <= 12)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
