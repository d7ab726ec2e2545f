"""A picture of an order parameter against temperature."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offbragg.plots.figure import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
from offbragg.reduction.order_parameter import Transition

_BLUE, _ORANGE = "#0072b2", "#d55e00"  # which the colour-blind can tell apart


def draw(transition: Transition, out: Path | str | None = None) -> Figure:
    """Draw peak and critical scattering over temperature, with the power law and its Tc."""
    figure = new_figure(6.5, 4.5)
    axes: Any = figure.add_subplot()
    T = np.array([f.temperature for f in transition.fits])
    margin = 0.05 * (T[-1] - T[0])
    t = np.sort(np.append(np.linspace(T[0] - margin, T[-1] + margin, 500), transition.Tc))
    law = np.maximum(1 - t / transition.Tc, 0.0) ** (2 * transition.beta)
    axes.axhline(0.0, color="0.8", lw=0.8, zorder=0)
    axes.plot(
        t, transition.scale * law, "-", color=_BLUE, label="scale · (1 − T/Tc)$^{2β}$", zorder=1
    )
    axes.errorbar(
        T, [f.peak for f in transition.fits], [f.peak_error for f in transition.fits],
        fmt="o", color=_BLUE, capsize=3, label="superlattice peak, ± 1σ", zorder=3,
    )  # fmt: skip
    axes.plot(
        T, [f.critical for f in transition.fits], "s", mfc="none", color=_ORANGE,
        label="critical scattering", zorder=2,
    )  # fmt: skip
    found = f"{transition.Tc:.2f} ± {transition.Tc_error:.2f} K"
    axes.axvline(transition.Tc, color="0.3", ls="--", lw=1.0, label=f"Tc = {found}", zorder=1)
    axes.axvspan(
        transition.Tc - transition.Tc_error, transition.Tc + transition.Tc_error,
        color="0.85", lw=0, zorder=0,
    )  # fmt: skip
    axes.set_xlim(t[0], t[-1])
    axes.set_xlabel("T (K)")
    axes.set_ylabel("height at the point (counts / weight)")
    axes.set_title(
        f"({', '.join(f'{x:g}' for x in transition.at)}): Tc = {found}, "
        f"β = {transition.beta:.3f} ± {transition.beta_error:.3f}"
    )
    axes.legend(frameon=False)
    if out is not None:
        save_figure(figure, Path(out))
    return figure
