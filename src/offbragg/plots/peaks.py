"""A picture of indexed peaks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from offbragg.errors import OrientationError
from offbragg.files.draft import draft
from offbragg.files.orientation import keep_earlier
from offbragg.reduction.indexed import Indexed


def draw(indexed: Indexed, path: Path) -> Path:
    """Draw peaks and residuals; red is what the lattice does not explain."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    refined = indexed.refined
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(2, 2)
    x = np.concatenate([view.peaks.x for view in refined.views])
    y = np.concatenate([view.peaks.y for view in refined.views])
    turned = np.concatenate(
        [view.sweep.start + view.sweep.step * view.peaks.z for view in refined.views]
    )
    good = refined.indexed
    ax = places[0, 0]
    ax.plot(x[good], y[good], ".", ms=3, label=f"{int(good.sum())} indexed")
    ax.plot(x[~good], y[~good], "r.", ms=3, label=f"{int((~good).sum())} not")
    rows, columns = refined.views[0].geometry.panel.shape
    ax.set(xlabel="column", ylabel="row", xlim=(0, columns), ylim=(rows, 0), aspect="equal")
    ax.legend(loc="upper right", fontsize=8)
    ax = places[0, 1]
    shown = good & refined.spots.clean
    ax.plot(refined.off[shown, 0], refined.off[shown, 1], ".", ms=2)
    reach = max(0.5, float(6 * refined.sigma[:2].max()))
    ax.set(
        xlabel="observed − calculated column, pixel", ylabel="row, pixel",
        xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal",
    )  # fmt: skip
    ax = places[1, 0]
    ax.plot(turned[shown], refined.off[shown, 2], ".", ms=2)
    reach = max(0.02, float(8 * refined.sigma[2]))
    ax.set(
        xlabel=f"{refined.views[0].sweep.axis}, degree",
        ylabel="observed − calculated angle, degree", ylim=(-reach, reach),
    )  # fmt: skip
    ax = places[1, 1]
    h = refined.spots.q @ np.linalg.inv(refined.UB).T
    for i, name in enumerate("hkl"):
        ax.hist((h - np.rint(h))[:, i], bins=81, range=(-0.5, 0.5), histtype="step", label=name)
    ax.set(xlabel="distance from whole hkl, of all peaks", ylabel="peaks", yscale="log")
    ax.legend()
    cell = ", ".join(f"{v:.3f}" for v in indexed.lattice)
    figure.suptitle(f"{indexed.name}  {cell}   {indexed.fraction:.0%} of {len(good)} peaks")
    try:
        with draft(path) as made:
            drawn = io.BytesIO()
            figure.savefig(drawn, dpi=110, format="png")
            made.write(drawn.getvalue())
            if path.exists():
                keep_earlier(path)
            made.place(replace=True)
    except OSError as error:
        raise OrientationError(f"{path} cannot be written: {error.strerror}") from error
    return path
