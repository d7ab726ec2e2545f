"""Pictures of cuts: a line as a curve, a plane in logarithmic colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offbragg.lattice import direct_basis
from offbragg.plots.figure import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from offbragg.instrument import Array

_UNIT = "intensity (counts / weight)"
_COLOURS, _UNMEASURED = "viridis", "0.88"
_ENDS = (1.0, 99.5)  # percentiles of the measured cells: a Bragg peak must not set the scale


def draw_cut(
    intensity: NDArray[np.floating[Any]],
    axes: Sequence[Array],
    directions: Sequence[Sequence[int]],
    at: Sequence[float],
    *,
    sigma: NDArray[np.floating[Any]] | None = None,
    title: str = "",
    lattice: Sequence[float] | None = None,
) -> Figure:
    """Draw a line, a plane, or the middle layer of a box.

    Parameters
    ----------
    intensity, axes, directions, at, sigma
        As of `offbragg.files.cuts.Cut`.
    title
        What it is.
    lattice
        a, b, c (Å), α, β, γ (degree): then lengths along the two axes of a plane are true.
    """
    if intensity.ndim == 3:  # the axis with the fewest layers is left out
        flat = int(np.argmin(intensity.shape))
        middle = intensity.shape[flat] // 2
        title = f"{title}, {'hkl'[flat]} = {axes[flat][middle]:g}"
        intensity = np.take(intensity, middle, axis=flat)
        axes = [axis for i, axis in enumerate(axes) if i != flat]
        directions = [each for i, each in enumerate(directions) if i != flat]
    figure = new_figure(6.5, 4.5)
    panel: Any = figure.add_subplot()
    if intensity.ndim == 1:
        panel.errorbar(
            axes[0], intensity, sigma, fmt=".-", ms=4, lw=0.9, elinewidth=0.7, ecolor="0.6"
        )  # fmt: skip
        start = ", ".join(f"{x:g}" for x in at)
        panel.set(xlabel=f"({start}) + x · {_name(directions[0])} (r.l.u.)", ylabel=_UNIT)
    else:
        _draw_plane(panel, intensity, axes, directions, lattice)
    panel.set_title(title, fontsize=11)
    return figure


def _draw_plane(
    panel: Any,
    intensity: NDArray[np.floating[Any]],
    axes: Sequence[Array],
    directions: Sequence[Sequence[int]],
    lattice: Sequence[float] | None,
) -> None:
    from matplotlib.colors import LogNorm

    positive = intensity[np.isfinite(intensity) & (intensity > 0)]
    low, high = np.percentile(positive, _ENDS) if positive.size else (1.0, 10.0)
    edges = [_edges(axis) for axis in axes]
    panel.set_facecolor(_UNMEASURED)
    shown = panel.imshow(
        np.ma.masked_invalid(np.maximum(intensity, low)).T, origin="lower",
        extent=(edges[0][0], edges[0][1], edges[1][0], edges[1][1]),
        norm=LogNorm(low, max(high, low * 1.001)), cmap=_COLOURS, interpolation="nearest",
    )  # fmt: skip
    panel.set_aspect(_aspect(directions, lattice))
    panel.set(xlabel=f"{_name(directions[0])} (r.l.u.)", ylabel=f"{_name(directions[1])} (r.l.u.)")
    panel.figure.colorbar(shown, ax=panel, label=_UNIT, extend="both")


def _edges(axis: Array) -> tuple[float, float]:
    step = float(axis[1] - axis[0]) if len(axis) > 1 else 1.0
    return float(axis[0]) - step / 2, float(axis[-1]) + step / 2


def _aspect(directions: Sequence[Sequence[int]], lattice: Sequence[float] | None) -> float:
    """Return the length of one unit up the plane, over that of one across."""
    if lattice is None:
        return 1.0
    reciprocal = np.linalg.inv(direct_basis(lattice)).T
    across, up = (np.linalg.norm(reciprocal @ np.array(each)) for each in directions)
    return float(up / across)


def _name(direction: Sequence[int]) -> str:
    names = {(1, 0, 0): "h", (0, 1, 0): "k", (0, 0, 1): "l"}
    known = names.get((direction[0], direction[1], direction[2]))
    return known or "(" + " ".join(f"{x}" for x in direction).replace("-", "−") + ")"
