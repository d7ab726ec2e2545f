"""Planes of a volume as pictures, on the axes of the reciprocal lattice."""

from __future__ import annotations

import io
import math
import os
import re
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ReductionError
from offbragg.files.draft import draft
from offbragg.files.volume_file import VolumeFile
from offbragg.geometry import direct_basis
from offbragg.volume import Grid, Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Plane:
    """A plane of cells: two axes run, one stands.

    Examples
    --------
    >>> Plane.parse("hk0.5")
    Plane(across=0, up=1, fixed=2, at=0.5)
    >>> Plane.parse("h0l").across, Plane.parse("-1kl").at
    (0, -1.0)
    """

    across: int
    up: int
    fixed: int
    at: float

    @classmethod
    def parse(cls, text: str) -> Plane:
        """Read a plane as it is written: two of h, k, l, and a number in place of the third."""
        number = r"([+-]?\d+(?:\.\d+)?)"
        found = re.fullmatch(rf"(h|{number})(k|{number})(l|{number})", text.replace(" ", ""))
        if found is not None:
            parts = [found[1], found[3], found[5]]
            fixed = [i for i, part in enumerate(parts) if part not in "hkl"]
            if len(fixed) == 1:
                across, up = (i for i in range(3) if i != fixed[0])
                return cls(across, up, fixed[0], float(parts[fixed[0]]))
        raise ReductionError(f"{text!r} is no plane: write hk0, h0.5l or -1kl")


def cut(volume: Volume, plane: Plane, *, thickness: float = 0.0) -> Array:
    """Take the intensity on a plane, summed over cells at most half ``thickness`` away.

    Returns
    -------
    intensity
        NaN where nothing was measured, shape (across, up).
    """
    assert volume.grid is not None
    centre = volume.grid.axis(plane.fixed)
    near = np.abs(centre - plane.at)
    which = np.flatnonzero(near <= max(0.5 * thickness, near.min()) + 1e-9)
    if near.min() > 0.5 / volume.grid.per_unit[plane.fixed] + 1e-9:
        raise ReductionError(
            f"{'hkl'[plane.fixed]} = {plane.at:g} is outside the volume: {volume.grid}"
        )
    box: list[slice] = [slice(None)] * 3
    box[plane.fixed] = slice(int(which[0]), int(which[-1]) + 1)
    part = volume[box[0], box[1], box[2]]
    above = part.counts if part.background is None else part.counts - part.background
    total, weight = above.sum(axis=plane.fixed), part.weight.sum(axis=plane.fixed)
    out = np.full(total.shape, np.nan)
    np.divide(total, weight, out=out, where=weight > 0)
    return out


def plot(
    volume: Volume | Path | str,
    plane: str = "hk0",
    *,
    out: Path | str | None = None,
    thickness: float = 0.0,
    low: float | None = None,
    high: float | None = None,
) -> Figure:
    """Draw a plane: logarithmic colours, true lengths and angles of the reciprocal lattice.

    Parameters
    ----------
    volume
        A volume, or its file, of which only this plane is read.
    plane
        As ``hk0``, ``h0.5l``, ``-1kl``.
    out
        The picture to write (PNG, or what matplotlib knows by the suffix).
    thickness
        Sum over so much across the plane, r.l.u.
    low, high
        Ends of the colours; from the data if None.

    Returns
    -------
    figure
        Of matplotlib.
    """
    from matplotlib.colors import LogNorm

    which = Plane.parse(plane)
    if not isinstance(volume, Volume):
        volume = _read_plane(Path(volume), which, thickness)
    if volume.grid is None:
        raise ReductionError("a volume without a grid cannot be drawn")
    intensity = cut(volume, which, thickness=thickness)
    shown = intensity[np.isfinite(intensity) & (intensity > 0)]
    if not shown.size:
        raise ReductionError(f"there is nothing on {plane}: no measured cell is above 0")
    for name, end in (("low", low), ("high", high)):
        if end is not None and not (math.isfinite(end) and end > 0):
            raise ReductionError(f"{name} is {end:g}: logarithmic colours need numbers above 0")
    low = float(np.percentile(shown, 1.0)) if low is None else low
    high = float(np.percentile(shown, 99.8)) if high is None else high
    basis = _basis(volume, which)
    edges = [_edges(volume.grid, i) for i in (which.across, which.up)]
    a, b = np.meshgrid(*edges, indexing="ij")
    x, y = a * basis[0, 0] + b * basis[1, 0], a * basis[0, 1] + b * basis[1, 1]

    figure = new_figure(7.0, 6.0)
    axes = figure.add_subplot()
    axes.set_facecolor("0.8")  # what was not measured
    floor = np.where(np.isfinite(intensity), np.maximum(intensity, low), np.nan)
    mesh = axes.pcolormesh(
        x, y, np.ma.masked_invalid(floor), norm=LogNorm(low, max(high, low * 1.001)),
        cmap="viridis", rasterized=True,
    )  # fmt: skip
    axes.set_aspect("equal")
    names = "hkl"
    _label(axes, edges, basis, names[which.across], names[which.up])
    sample = volume.sample
    title = "" if sample is None else f"{sample.name} {sample.label}, "
    planes = volume.grid.axis(which.fixed)
    drawn = planes[np.argmin(np.abs(planes - which.at))]  # the nearest there is
    axes.set_title(f"{title}{names[which.fixed]} = {drawn:g}")
    figure.colorbar(mesh, ax=axes, label="intensity (counts / weight)")
    if out is not None:
        save_figure(figure, Path(out))
    return figure


def check_picture(path: Path) -> None:
    """Refuse a picture that could not be written, before the work that it would show.

    Raises
    ------
    ReductionError
        If its suffix is none of a picture, or its folder is not there or cannot be written.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    if path.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise ReductionError(f"{path} is no picture: its name may end with .png, .pdf or .svg")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
            raise ReductionError(f"{path} cannot be written: it is a folder, or protected")
    except OSError as error:
        raise ReductionError(f"{path} cannot be written: {error.strerror}") from error


def save_figure(figure: Figure, path: Path, *, dpi: int = 150) -> None:
    """Write a picture, whole or not at all, in the format that its suffix names.

    Raises
    ------
    ReductionError
        As `check_picture` does.
    """
    check_picture(path)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, format=path.suffix[1:].lower())
    try:
        with draft(path) as made:
            made.write(drawn.getvalue())
            made.place(replace=True)
    except OSError as error:
        raise ReductionError(f"{path} cannot be written: {error.strerror}") from error


def new_figure(width: float, height: float) -> Figure:
    """Make a figure that needs no window, and that a notebook shows; inches."""
    return _notebook_figure()(figsize=(width, height), layout="constrained")


@cache
def _notebook_figure() -> type[Figure]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """A figure that shows itself, whether pyplot was imported or not."""

        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            FigureCanvasAgg(self)

        def _repr_png_(self) -> bytes:
            out = io.BytesIO()
            self.savefig(out, format="png", dpi=100)
            return out.getvalue()

    return NotebookFigure


def _read_plane(path: Path, plane: Plane, thickness: float) -> Volume:
    with VolumeFile(path) as file:
        centres = file.grid.axis(plane.fixed)
        reach = 0.5 * thickness + 0.5 / file.grid.per_unit[plane.fixed]
        near = np.flatnonzero(np.abs(centres - plane.at) <= reach + 1e-9)
        if not near.size:
            raise ReductionError(
                f"{'hkl'[plane.fixed]} = {plane.at:g} is outside the volume: {file.grid}"
            )
        box: list[slice] = [slice(None)] * 3
        box[plane.fixed] = slice(int(near[0]), int(near[-1]) + 1)
        return file.part((box[0], box[1], box[2]))


def _basis(volume: Volume, plane: Plane) -> Array:
    """Reciprocal basis vectors of the plane in its own coordinates, rows, Å⁻¹ with 2π."""
    sample = volume.sample
    if sample is None or sample.lattice is None:
        return np.eye(2)
    reciprocal = 2 * math.pi * np.linalg.inv(direct_basis(sample.lattice)).T
    a, b = reciprocal[:, plane.across], reciprocal[:, plane.up]
    along = a / np.linalg.norm(a)
    first = float(b @ along)
    second = math.sqrt(max(float(b @ b) - first**2, 0.0))
    return np.array([[float(np.linalg.norm(a)), 0.0], [first, second]])


def _edges(grid: Grid, axis: int) -> Array:
    centres, step = grid.axis(axis), 1.0 / grid.per_unit[axis]
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
