"""Cuts of volumes as the server sends them: the question, and the answer.

Nothing but NumPy is needed, so that the light client and that of Tiled share it.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER = "x-offbragg-cut"
"""Header of an answer: JSON with axes, level and, of a picture, the ends of its colours."""

Point = Sequence[float]


@dataclass(frozen=True, slots=True, eq=False)
class SentCut:
    """A cut that the server made.

    Parameters
    ----------
    intensity
        float32, one dimension for each of ``axes``; NaN where nothing was measured.
    axes
        Positions along each of ``directions``, r.l.u.
    directions
        Whole numbers: (1, 1, 0) runs along h and k.
    at
        h, k, l where all axes are 0.
    level
        Cells of the volume along each edge of one cell of the cut.
    sigma
        Standard deviation of the intensity, where it was asked for.
    title
        What it is, for people.
    lattice
        a, b, c (Å), α, β, γ (degree) of the crystal, where they are known.
    picture
        Asks the server for the same as PNG; for where matplotlib is not installed.
    """

    intensity: NDArray[np.float32]
    axes: tuple[NDArray[np.float64], ...]
    directions: tuple[tuple[int, ...], ...]
    at: tuple[float, ...]
    level: int
    sigma: NDArray[np.float32] | None = None
    title: str = ""
    lattice: tuple[float, ...] | None = None
    picture: Callable[[], bytes] | None = None

    @classmethod
    def read(cls, content: bytes, described: str, **more: Any) -> SentCut:
        """Read an answer.

        Parameters
        ----------
        content
            The body, as ``format=npy`` has it; with the standard deviation if it has one dimension
            more than there are axes.
        described
            The header `HEADER`.
        more
            ``title``, ``lattice``, ``picture``.
        """
        values = np.load(io.BytesIO(content), allow_pickle=False)
        header = json.loads(described)
        axes = header["axes"]
        both = values.ndim > len(axes)
        return cls(
            values[0] if both else values,
            tuple(_positions(axis) for axis in axes),
            tuple(tuple(axis["direction"]) for axis in axes),
            tuple(header["at"]),
            header["level"],
            values[1] if both else None,
            **more,
        )

    def __repr__(self) -> str:
        size = " × ".join(map(str, self.intensity.shape))
        measured = np.isfinite(self.intensity).mean() if self.intensity.size else 0.0
        return (
            f"<{self.title or 'cut'}: {size} cells, {100 * measured:.0f} % measured, "
            f"level {self.level}>"
        )

    def plot(self) -> Any:
        """Draw it, as a figure of matplotlib: a plane in logarithmic colours, a line as a curve."""
        from offbragg.plots.cuts import draw_cut

        return draw_cut(
            self.intensity, self.axes, self.directions, self.at,
            sigma=self.sigma, title=self.title, lattice=self.lattice,
        )  # fmt: skip

    def _repr_html_(self) -> str:
        """Return picture and size for a notebook."""
        png = self._repr_png_()
        shown = "" if png is None else base64.b64encode(png).decode()
        picture = f'<img src="data:image/png;base64,{shown}"><br>' if shown else ""
        return f"{picture}{html.escape(repr(self)[1:-1])}"

    def _repr_png_(self) -> bytes | None:
        """Return the picture for a notebook; that of the server where there is no matplotlib."""
        try:
            return self.plot()._repr_png_()
        except ImportError:
            return None if self.picture is None else self.picture()


def plane_query(
    plane: str,
    points: Sequence[Point] | None = None,
    value: float | None = None,
    thickness: float = 0.0,
) -> dict[str, Any]:
    """Return the parameters that ask for a plane."""
    asked: dict[str, Any] = {"plane": plane} if points is None else {"points": written(points)}
    asked["thickness"] = thickness
    if value is not None:
        asked["value"] = value
    return asked


def written(points: Sequence[Point]) -> str:
    """Write points as an address has them.

    Examples
    --------
    >>> written([(0, 0, 0.5), (1, 1, 0.5)])
    '0.0,0.0,0.5;1.0,1.0,0.5'
    """
    return ";".join(",".join(repr(float(x)) for x in each) for each in points)


def as_array(asked: Mapping[str, Any], level: int, sigma: bool) -> dict[str, Any]:
    """Add to the parameters of a cut that it shall come as an array."""
    return {**asked, "level": level, "format": "npy", "sigma": int(sigma)}


def _positions(axis: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return equally spaced positions; a last cell that holds fewer is nearer."""
    positions = axis["first"] + axis["step"] * np.arange(axis["count"])
    positions[-1] = axis["last"]
    return positions
