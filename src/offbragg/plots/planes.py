"""Planes of a volume as pictures, on the axes of the reciprocal lattice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ReductionError
from offbragg.files.cuts import cut_plane
from offbragg.files.other_volumes import read_other_volume
from offbragg.files.planes import Plane, PlaneCells, cells_on
from offbragg.files.volume_file import VolumeFile
from offbragg.grid import Array, Grid
from offbragg.lattice import direct_basis
from offbragg.plots.figure import new_figure, save_figure
from offbragg.sample import Sample
from offbragg.volume import Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BRAGG = 0.15  # r.l.u.: cells so near a point of whole h, k, l are left out of the colours' range
_TOP = 99.0  # percent of the other cells that the colours reach
_COLOURS = "viridis"  # even steps to the eye, and the colour-blind see them as well
UNMEASURED = "not measured"
"""What the legend says of the hatched cells."""
_PANEL = 5.2  # inches, width of a plane
_GREY, _HATCH, _HATCH_GREY = "0.88", "////", "0.72"
_UNIT = "counts / weight"
_ABSOLUTE = "counts per monitor count and sr"


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


@dataclass(frozen=True, slots=True, eq=False)
class _Shown:
    """A plane of a volume, and what its picture says about it."""

    name: str
    """Of the plane, as it was asked for."""
    plane: Plane
    cells: PlaneCells
    intensity: NDArray[np.floating[Any]]
    grid: Grid
    sample: Sample | None
    symmetry: str
    record: Mapping[str, Any]
    """Of a file; empty for a volume in memory."""

    @classmethod
    def of(cls, volume: Volume | Path | str, plane: str, thickness: float) -> _Shown:
        """Take a plane of a volume, or read it from its file.

        Raises
        ------
        ReductionError
            If the volume has no grid, or nothing above 0 on that plane.
        """
        which = Plane.parse(plane)
        if not isinstance(volume, Volume) and (other := read_other_volume(volume)) is not None:
            volume = other[1]
        if isinstance(volume, Volume):
            if volume.grid is None:
                raise ReductionError("a volume without a grid cannot be drawn")
            grid, sample, symmetry = volume.grid, volume.sample, volume.symmetry
            record: Mapping[str, Any] = {}
            cells = cells_on(grid, which, thickness)
            intensity: Any = cut(volume, which, thickness=thickness).astype(np.float32)
        else:
            with VolumeFile(Path(volume)) as file:  # of which only this plane is read
                grid, sample, symmetry, record = (
                    file.grid, file.sample, file.symmetry, file.record
                )  # fmt: skip
                cells = cells_on(grid, which, thickness)
                intensity = cut_plane(file, which, thickness=thickness).intensity
        if not np.any(intensity > 0):
            if record.get("cells") == 0:
                raise ReductionError(
                    f"the cells on {plane} are not written yet: the volume has just begun to grow"
                )
            raise ReductionError(f"there is nothing on {plane}: no measured cell is above 0")
        return cls(plane, which, cells, intensity, grid, sample, symmetry, record)

    @property
    def positive(self) -> NDArray[np.floating[Any]]:
        """The intensities above 0."""
        return self.intensity[np.isfinite(self.intensity) & (self.intensity > 0)]

    @property
    def where(self) -> str:
        """The crystal, and the plane as it was drawn."""
        name = "" if self.sample is None else f"{self.sample.name} {self.sample.label}, "
        if (fixed := self.plane.fixed) is None:
            return f"{name}{self.name}"
        planes = self.grid.axis(fixed)
        drawn = planes[np.argmin(np.abs(planes - self.plane.at[fixed]))]  # the nearest there is
        return f"{name}{'hkl'[fixed]} = {drawn:g}"

    @property
    def how(self) -> str:
        """Temperature, frames, symmetry, and the part that was measured."""
        kelvin = self.record.get("temperature")
        growing: Mapping[str, Any] = self.record.get("growing", {})
        inputs = [*self.record.get("inputs", ()), *growing.values()]
        frames = sum(int(each.get("frames", 0)) for each in inputs)
        parts = [] if kelvin is None else [f"{kelvin:.1f} K"]
        if frames:
            parts.append(f"{frames} frame{'' if frames == 1 else 's'}{' so far' * bool(growing)}")
        if self.symmetry:
            parts.append(f"symmetry {self.symmetry}")
        parts.append(f"{100 * np.isfinite(self.intensity).mean():.0f} % measured")
        return " · ".join(parts)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height, both in the same unit: Å⁻¹, or r.l.u. without a lattice."""
        across, up = (
            n.size * step for n, step in zip(self.cells.labels, self.cells.step, strict=True)
        )
        (width, _), (shift, height) = _basis(self.sample, self.plane)
        return across * width + up * abs(shift), up * height

    @property
    def unit(self) -> str:
        """Unit of the intensity; that of weights depends on what they include."""
        corrections: Mapping[str, Any] = self.record.get("corrections", {})
        absolute = self.record.get("monitor") and corrections.get("solid_angle", True)
        return _ABSOLUTE if absolute else _UNIT


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

    Cells that were not measured are hatched.

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
    shown = _Shown.of(volume, plane, thickness)
    ends = _ends([shown], low, high, top)
    figure = _figure([shown])
    _draw_all(figure, [shown], ends, [f"{shown.where}\n{shown.how}"])
    if out is not None:
        save_figure(figure, Path(out))
    return figure


def compare(
    volumes: Sequence[Volume | Path | str],
    plane: str = "hk0",
    *,
    out: Path | str | None = None,
    thickness: float = 0.0,
    low: float | None = None,
    high: float | None = None,
    top: float = _TOP,
) -> Figure:
    """Draw the same plane of several volumes side by side, in the same colours.

    Parameters
    ----------
    volumes
        At least one; they are drawn in this order.
    plane, out, thickness, low, high, top
        As for `plot`. Colours begin at the lowest and end at the highest of what it takes for each.

    Returns
    -------
    figure
        Of matplotlib; ``figure.axes[0].collections[0].get_clim()`` are the ends of the colours.
    """
    if not volumes:
        raise ReductionError("no volume is given: at least one is compared")
    shown = [_Shown.of(volume, plane, thickness) for volume in volumes]
    ends = _ends(shown, low, high, top)
    same = len({each.where for each in shown}) == 1
    titles = [each.how if same else f"{each.where}\n{each.how}" for each in shown]
    figure = _figure(shown)
    _draw_all(figure, shown, ends, titles)
    if same:
        figure.suptitle(shown[0].where)
    if out is not None:
        save_figure(figure, Path(out))
    return figure


def _ends(
    shown: Sequence[_Shown], low: float | None, high: float | None, top: float
) -> tuple[float, float]:
    """Return the intensities at the ends of the colours."""
    if not 0.0 < top <= 100.0:
        raise ReductionError(f"top is {top:g}: it is a percentage, above 0 and at most 100")
    for name, end in (("low", low), ("high", high)):
        if end is not None and not (math.isfinite(end) and end > 0):
            raise ReductionError(f"{name} is {end:g}: logarithmic colours need numbers above 0")
    if low is None:
        low = min(float(np.percentile(each.positive, 1.0)) for each in shown)
    if high is None:
        high = max(top_of(each.intensity, each.cells, each.grid, top) for each in shown)
    return low, max(high, low * 1.001)


def _figure(shown: Sequence[_Shown]) -> Figure:
    """Make a figure in which planes of their shapes fill the room between labels and colours."""
    heights = [each.size[1] / each.size[0] for each in shown]
    high = min(max(_PANEL * max(heights), 0.3 * _PANEL), 2.0 * _PANEL)
    return new_figure((_PANEL + 0.5) * len(shown) + 1.2, high + 1.4)


def _draw_all(
    figure: Figure, shown: Sequence[_Shown], ends: tuple[float, float], titles: Sequence[str]
) -> None:
    """Draw planes beside each other, then their colours and what hatched cells mean."""
    from matplotlib.ticker import LogFormatter

    places: list[Any] = list(figure.subplots(1, len(shown), squeeze=False)[0])
    mesh: Any = None
    for axes, each, title in zip(places, shown, titles, strict=True):
        mesh = _draw(axes, each, ends)
        axes.set_title(title, fontsize=11, linespacing=1.4)
    below, above = (
        any(bool(np.any(beyond)) for beyond in each)
        for each in (
            [each.intensity < ends[0] for each in shown],
            [each.intensity > ends[1] for each in shown],
        )
    )
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]
    bar = figure.colorbar(
        mesh, ax=places, label=f"S(Q) ({shown[0].unit})", extend=extend, fraction=0.05, pad=0.02
    )
    if ends[0] >= 1.0 and ends[1] <= 9999.0:  # which it writes as 3, 20, 600
        bar.ax.yaxis.set_major_formatter(LogFormatter())
        bar.ax.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2.0, 0.5)))
    if any(np.isnan(each.intensity).any() for each in shown):
        figure.legend(handles=places[0].patches, loc="outside lower right", frameon=False)


def _draw(axes: Any, shown: _Shown, ends: tuple[float, float]) -> Any:
    """Draw one plane on its axes; return what has the colours."""
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Polygon

    basis = _basis(shown.sample, shown.plane)
    edges = [_edges(*pair) for pair in zip(shown.cells.labels, shown.cells.step, strict=True)]
    names = [f"{shown.plane.axis_label(i)} (r.l.u.)" for i in range(2)]
    a, b = np.meshgrid(*edges, indexing="ij")
    (width, _), (shift, height) = basis
    square = abs(shift) < 1e-6 * height
    x, y = (a, b) if square else (a * width + b * shift, b * height)
    corners = [each[i, j] for i, j in ((0, 0), (-1, 0), (-1, -1), (0, -1)) for each in (x, y)]
    unmeasured = Polygon(
        np.reshape(corners, (4, 2)), facecolor=_GREY, edgecolor=_HATCH_GREY, hatch=_HATCH,
        label=UNMEASURED, zorder=0,
    )  # fmt: skip
    axes.add_patch(unmeasured)
    mesh = axes.pcolormesh(
        x, y, np.ma.masked_invalid(np.maximum(shown.intensity, ends[0])), norm=LogNorm(*ends),
        cmap=_COLOURS, rasterized=True,
    )  # fmt: skip
    if square:
        axes.set_aspect(height / width)
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.tick_params(direction="out", top=False, right=False)
    else:
        axes.set_aspect("equal")
        angle = math.degrees(math.atan2(height, shift))
        _label(axes, edges, basis, f"{names[0]}; axes at {angle:.4g}°", names[1])
    return mesh


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
    """Write h, k, l along the lower and the left edge, which is oblique."""
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
    axes.set_xlabel(across, labelpad=18)
    axes.set_ylabel(up, labelpad=28)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _ticks(low: float, high: float) -> list[float]:
    span = high - low
    step = next(s for s in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 1e9) if span / s <= 12)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
