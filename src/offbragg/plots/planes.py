"""Planes of a volume as pictures, on the axes of the reciprocal lattice."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ReductionError
from offbragg.files.volume_file import VolumeFile
from offbragg.grid import Grid
from offbragg.lattice import direct_basis
from offbragg.sample import Sample
from offbragg.volume import Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from offbragg.plots.figure import new_figure, save_figure

Array = NDArray[np.float64]


Three = tuple[int, int, int]


_BRAGG = 0.15  # r.l.u.: cells so near a point of whole h, k, l are left out of the colours' range


_TOP = 99.0  # percent of the other cells that the colours reach


_SLAB = 16  # layers of cells along h that are read at once for an oblique plane


@dataclass(frozen=True, slots=True)
class Plane:
    """A plane of cells, at + x · across + y · up, with whole numbers across and up.

    Examples
    --------
    >>> Plane.parse("hk0.5")
    Plane(across=(1, 0, 0), up=(0, 1, 0), at=(0.0, 0.0, 0.5), names=('h', 'k'))
    >>> Plane.parse("hhl").across, Plane.parse("-1kl").at
    ((1, 1, 0), (-1.0, 0.0, 0.0))
    >>> Plane.parse("h, k, -h-k+1").up
    (0, 1, -1)
    """

    across: Three
    up: Three
    at: tuple[float, float, float]
    names: tuple[str, str]

    @classmethod
    def parse(cls, text: str) -> Plane:
        """Read a plane as it is written: two letters run, in one or more of three places.

        A place is a number, a letter with a whole factor (``h``, ``-h``, ``2h``) or, between
        commas, a sum of such.
        """
        plain = text.replace(" ", "").replace("−", "-")
        place = r"([+-]?\d*[hkl]|[+-]?\d+(?:\.\d+)?)"
        found = re.fullmatch(place * 3, plain)
        parts = plain.split(",") if "," in plain else [] if found is None else list(found.groups())
        rows: dict[str, list[int]] = {}
        at: list[float] = []
        for i, part in enumerate(parts):
            terms = re.findall(r"[+-]?[^+-]+", part)
            constant = 0.0
            for term in terms:
                letter = re.fullmatch(r"([+-]?\d*)([hkl])", term)
                if letter is not None:
                    factor = letter[1] if letter[1] not in ("", "+", "-") else f"{letter[1]}1"
                    row = rows.setdefault(letter[2], [0, 0, 0])
                    if i < 3:
                        row[i] += int(factor)
                elif re.fullmatch(r"[+-]?\d+(\.\d+)?", term):
                    constant += float(term)
                else:
                    rows.clear()
                    break
            at.append(constant if terms else math.nan)
        names = sorted(rows)
        if len(at) == 3 and not any(map(math.isnan, at)) and len(names) == 2:
            u, v = (tuple(rows[name]) for name in names)
            if np.any(np.cross(u, v)):
                return cls(u, v, (at[0], at[1], at[2]), (names[0], names[1]))  # type: ignore[arg-type]
        raise ReductionError(
            f"{text!r} is not a plane: write hk0, h0.5l, -1kl or hhl, or with commas h,k,-h-k"
        )

    @property
    def fixed(self) -> int | None:
        """Which of h, k, l stands still; None if none does, or the others do not run alone."""
        used = np.count_nonzero([self.across, self.up], axis=1)
        both = np.any([self.across, self.up], axis=0)
        whole = max(map(abs, (*self.across, *self.up))) == 1
        return int(np.argmin(both)) if whole and list(used) == [1, 1] else None

    @property
    def normal(self) -> Three:
        """Whole numbers: the direction across the plane, along which it is thick."""
        u, v = np.array(self.across), np.array(self.up)
        n = np.cross(u, v)
        n = n // math.gcd(*(int(x) for x in n))
        return int(n[0]), int(n[1]), int(n[2])

    def axis_label(self, which: int) -> str:
        """Name the axis across (0) or up (1), as ``h`` or ``(h h 0)``."""
        vector, name = (self.across, self.up)[which], self.names[which]
        if sum(map(abs, vector)) == 1 and vector["hkl".index(name)] == 1:
            return name
        parts = [
            "0" if x == 0 else f"{'−' if x < 0 else ''}{'' if abs(x) == 1 else abs(x)}{name}"
            for x in vector
        ]
        return f"({' '.join(parts)})"


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Where the cells of a plane are in a grid.

    ``labels`` of each axis (r.l.u. along ``across`` and ``up``); ``place`` the cells of the first
    layer, in steps, shape (across, up, 3); ``layers`` what is added for each layer, shape (n, 3).
    """

    labels: tuple[Array, Array]
    step: tuple[float, float]
    place: NDArray[np.int64]
    layers: NDArray[np.int64]


def _cells(grid: Grid, plane: Plane, thickness: float) -> _Cells:
    per_unit = np.array(grid.per_unit)
    u, v, w = (np.array(each) for each in (plane.across, plane.up, plane.normal))

    def finest(vector: NDArray[np.int64]) -> int:
        return math.gcd(*(int(x) for x in vector * per_unit))

    corners = np.array(
        list(itertools.product(*zip(grid.first, np.array(grid.end) - 1, strict=True)))
    )
    reach = np.linalg.lstsq(
        np.column_stack([u, v]).astype(float),
        (corners / per_unit - np.array(plane.at)).T,
        rcond=None,
    )[0]
    numbers: list[NDArray[np.int64]] = []
    for i, vector in enumerate((u, v)):
        m = finest(vector)
        low, high = math.ceil(reach[i].min() * m - 1e-6), math.floor(reach[i].max() * m + 1e-6)
        numbers.append(np.arange(low, high + 1, dtype=np.int64))
    steps = [vector * per_unit // finest(vector) for vector in (u, v)]
    origin = np.rint(np.array(plane.at) * per_unit).astype(np.int64)
    place = origin + numbers[0][:, None, None] * steps[0] + numbers[1][None, :, None] * steps[1]
    fixed = plane.fixed
    if fixed is not None:
        centres = grid.axis(fixed)
        near = np.abs(centres - plane.at[fixed])
        if near.min() > 0.5 / per_unit[fixed] + 1e-9:
            raise ReductionError(
                f"{'hkl'[fixed]} = {plane.at[fixed]:g} is outside the volume: {grid}"
            )
        which = np.flatnonzero(near <= max(0.5 * thickness, near.min()) + 1e-9)
        layers = np.zeros((len(which), 3), np.int64)
        layers[:, fixed] = which + grid.first[fixed] - origin[fixed]
    else:
        m = finest(w)
        half = math.floor(0.5 * thickness * m + 1e-9)
        layers = np.arange(-half, half + 1)[:, None] * (w * per_unit // m)
    labels = tuple(n / finest(vector) for n, vector in zip(numbers, (u, v), strict=True))
    return _Cells(
        (labels[0], labels[1]), (1.0 / finest(u), 1.0 / finest(v)), place, layers
    )  # fmt: skip


def _add(part: Volume, cells: _Cells, total: Array, weight: Array) -> None:
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
    cells = _cells(volume.grid, plane, thickness)
    total, weight = np.zeros(cells.place.shape[:2]), np.zeros(cells.place.shape[:2])
    _add(volume, cells, total, weight)
    return _divided(total, weight)


def top_of(intensity: Array, cells: _Cells, grid: Grid, top: float = _TOP) -> float:
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
        cells = _cells(grid, which, thickness)
        intensity = cut(volume, which, thickness=thickness)
    else:
        grid, sample, cells, intensity = _read_plane(Path(volume), which, thickness)
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


def _read_plane(
    path: Path, plane: Plane, thickness: float
) -> tuple[Grid, Sample | None, _Cells, Array]:
    """Read a plane from a file, in parts: never more than a few layers of it in memory."""
    with VolumeFile(path) as file:
        grid = file.grid
        cells = _cells(grid, plane, thickness)
        total, weight = np.zeros(cells.place.shape[:2]), np.zeros(cells.place.shape[:2])
        every = slice(None)
        fixed = plane.fixed
        if fixed is not None:
            box: list[slice] = [every] * 3
            low = int(cells.place[0, 0, fixed] - grid.first[fixed])
            layers = cells.layers[:, fixed]
            box[fixed] = slice(low + int(layers.min()), low + int(layers.max()) + 1)
            boxes = [(box[0], box[1], box[2])]
        else:
            boxes = [(slice(i, i + _SLAB), every, every) for i in range(0, grid.shape[0], _SLAB)]
        sample: Sample | None = None
        for each in boxes:
            part = file.part(each)
            sample = part.sample
            _add(part, cells, total, weight)
    return grid, sample, cells, _divided(total, weight)


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
