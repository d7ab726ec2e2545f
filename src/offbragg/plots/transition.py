"""A picture of an order parameter against temperature."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offbragg.plots.figure import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from offbragg.reduction.order_parameter import Transition


def draw(transition: Transition, out: Path | str | None = None) -> Figure:
    """Draw peak and critical scattering over temperature, with the power law."""
    figure = new_figure(6.5, 4.5)
    axes: Any = figure.add_subplot()
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
        save_figure(figure, Path(out))
    return figure
