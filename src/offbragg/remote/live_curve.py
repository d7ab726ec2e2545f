"""A curve that grows where it is shown, in a notebook."""

from __future__ import annotations

import time
from typing import Any

from offbragg.errors import OffbraggError

_EVERY = 0.5  # s between two drawings


class LiveCurve:
    """Points that are added one by one; drawn with matplotlib, at most twice a second.

    Parameters
    ----------
    x, y
        Labels of the axes, with units.
    """

    def __init__(self, x: str = "", y: str = "") -> None:
        self.x, self.y = x, y
        self.points: dict[str, tuple[list[float], list[float]]] = {}
        self._shown: Any = None
        self._drawn = 0.0
        self._is_behind = False

    def add(self, x: float, y: float, label: object = "") -> None:
        """Add a point to the curve of a label; it is drawn within half a second."""
        name = f"{label:g}" if isinstance(label, float) else str(label)
        xs, ys = self.points.setdefault(name, ([], []))
        xs.append(float(x))
        ys.append(float(y))
        self._is_behind = True
        if time.monotonic() - self._drawn >= _EVERY:
            self.show()

    def plot(self) -> Any:
        """Draw it as it is now, as a figure of matplotlib."""
        try:
            from offbragg.plots.figure import new_figure

            figure = new_figure(6.5, 3.5)
        except ImportError as error:
            raise OffbraggError(
                f"a curve is drawn by matplotlib: pip install matplotlib ({error})"
            ) from None
        panel: Any = figure.add_subplot()
        for label, (xs, ys) in self.points.items():
            panel.plot(xs, ys, ".-", lw=0.8, ms=4, label=label)
        panel.set(xlabel=self.x, ylabel=self.y)
        if any(self.points):
            panel.legend(frameon=False, fontsize=8)
        return figure

    def show(self) -> None:
        """Draw it now, in place of the drawing before; outside a notebook nothing is drawn."""
        self._drawn, self._is_behind = time.monotonic(), False
        try:
            from IPython.core.getipython import get_ipython
            from IPython.display import display
        except ImportError:
            return
        shell: Any = get_ipython()
        if shell is None:
            return
        if self._shown is None:
            self._shown = display(self, display_id=True)
            shell.events.register("post_run_cell", self._finish)
        else:
            self._shown.update(self)

    def _finish(self, *_: object) -> None:
        """Draw the last points, which came soon after the drawing before."""
        if self._is_behind:
            self.show()

    def __repr__(self) -> str:
        return f"<LiveCurve with {sum(len(xs) for xs, _ in self.points.values())} points>"

    def _repr_png_(self) -> bytes:
        return self.plot()._repr_png_()
