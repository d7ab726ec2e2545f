"""Volumes of S(Q) in a catalog: what the server cuts out of them is all that is sent."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from offbragg.catalog.sent_cuts import HEADER, Point, SentCut, as_array, plane_query, written
from offbragg.errors import CatalogError, NoSuchEntry
from offbragg.remote.link import Link, segment
from offbragg.remote.tables import describe, html_picture, html_table

_LONG = 120.0  # s; the server needs up to 60 s for a cell
_MOST = 500  # volumes that one question returns
Range = tuple[float, float]


class RemoteVolume:
    """A volume, growing or finished.

    Parameters
    ----------
    link
        To the server.
    row
        As of ``/volumes``: ``key``, ``sample``, ``temperature``, ``state``, ``completeness``, …
    """

    def __init__(self, link: Link, row: Mapping[str, Any]) -> None:
        self._link = link
        self.row = dict(row)

    @property
    def key(self) -> str:
        """Its name in the catalog."""
        return str(self.row["key"])

    @property
    def temperature(self) -> float | None:
        """Of the sweeps, K."""
        return self.row.get("temperature")

    @property
    def state(self) -> str:
        """``growing``, ``finished``, ``missing`` or ``damaged``, when it was asked for."""
        return str(self.row.get("state"))

    def plane(
        self,
        plane: str = "hk0",
        *,
        points: Sequence[Point] | None = None,
        value: float | None = None,
        thickness: float = 0.0,
        level: int = 1,
        sigma: bool = False,
        symmetry: str = "",
    ) -> SentCut:
        """Return a plane.

        Parameters
        ----------
        plane
            As ``hk0.5``, ``h0l``, ``hhl``; with commas any, as ``h,k,-h-k``.
        points
            Three points, r.l.u., that the plane goes through, instead of ``plane``.
        value
            Of the index that stands still, instead of the one in ``plane``.
        thickness
            Over which it is averaged, r.l.u.
        level
            1; or 2, 4, 8 for coarser cells, which are sent sooner.
        sigma
            Whether the standard deviation is wanted, too.
        symmetry
            Laue class over whose equivalent cells it is averaged, as ``m-3m``; ``sample``: that
            of the sample's space group.
        """
        what = plane if value is None else f"{plane}, {value:g}"
        if points is not None:
            what = f"plane through {written(points)}"
        asked = plane_query(plane, points, value, thickness) | _over(symmetry)
        return self._cut("plane", asked, what, level, sigma)

    def cut(
        self, start: Point, end: Point, *, level: int = 1, sigma: bool = True, symmetry: str = ""
    ) -> SentCut:
        """Return the cells on the line from one point to another, h, k, l in r.l.u.

        Nothing is interpolated: the direction has whole numbers up to 12, as from (0, 0, 0.5) to
        (2, 2, 0.5). Positions are from the first point on, in units of the direction. ``symmetry``
        as for `plane`.
        """
        asked = {"points": written([start, end])} | _over(symmetry)
        names = (", ".join(f"{x:g}" for x in point) for point in (start, end))
        return self._cut("line", asked, "({}) to ({})".format(*names), level, sigma)

    def line(
        self, line: str, *, thickness: float = 0.0, level: int = 1, sigma: bool = True
    ) -> SentCut:
        """Return a whole line along h, k or l, as ``h,0.5,0``; averaged over ``thickness``."""
        asked = {"line": line, "thickness": thickness}
        return self._cut("line", asked, line, level, sigma)

    def box(
        self,
        h: Range | str,
        k: Range | None = None,
        l: Range | None = None,  # noqa: E741
        *,
        level: int = 1,
        sigma: bool = False,
    ) -> SentCut:
        """Return a box: three pairs of limits, r.l.u., or all as ``-1:1,-1:1,0:0.5``."""
        if isinstance(h, str):
            text = h
        elif k is None or l is None:
            raise CatalogError(
                "a box has limits along h, k and l: volume.box((0, 1), (0, 1), (0, 0))"
            )
        else:
            text = ",".join(f"{float(low)!r}:{float(high)!r}" for low, high in (h, k, l))
        return self._cut("box", {"box": text}, f"box {text}", level, sigma)

    def why(self, h: float, k: float, l: float) -> dict[str, Any]:  # noqa: E741
        """Return which frames and pixels made the cell at h, k, l, and which do not count."""
        return self._ask("why", timeout=_LONG, hkl=written([(h, k, l)])).json()

    def picture(self, plane: str = "hk0", **parameters: Any) -> bytes:
        """Return a plane as PNG; ``value``, ``thickness``, ``level``, ``low``, ``high``."""
        return self._ask("plane", plane=plane, format="png", **parameters).content

    def __repr__(self) -> str:
        return f"<RemoteVolume {self.key}: {self._what()}>"

    def _what(self) -> str:
        row = self.row
        part = row.get("completeness")
        return describe(
            row.get("sample"), row.get("temperature"), row.get("state"),
            None if part is None else f"{100 * part:.0f} % of the cells measured",
        )  # fmt: skip

    def _repr_html_(self) -> str:
        grid = self.row.get("grid") or {}
        facts = {
            "sample": self.row.get("sample"), "temperature (K)": self.temperature,
            "state": self.state, "completeness": self.row.get("completeness"),
            "cells": " × ".join(map(str, grid.get("shape", ()))), "levels": self.row.get("levels"),
            "runs": ", ".join(str(uid)[:8] for uid in self.row.get("runs") or ()),
        }  # fmt: skip
        table = html_table([facts])
        return f"<b>{html.escape(self.key)}</b>{table}{html_picture(self._repr_png_())}"

    def _repr_png_(self) -> bytes | None:
        """Return the plane hk0 as the server draws it, coarser if the volume is large."""
        levels = self.row.get("levels") or [1]
        size = max((self.row.get("grid") or {}).get("shape", (0,)))
        fitting = [level for level in sorted(levels) if size / level <= 400]
        try:
            return self.picture("hk0", level=fitting[0] if fitting else max(levels))
        except CatalogError:  # a plane without measured cells, or outside
            return None

    def _cut(
        self, kind: str, asked: Mapping[str, Any], what: str, level: int, sigma: bool
    ) -> SentCut:
        answer = self._ask(kind, **as_array(asked, level, sigma))
        title = describe(self.row.get("sample"), self.temperature, what)

        def picture() -> bytes:
            drawn = {name: value for name, value in asked.items() if name != "sigma"}
            return self._ask("plane", **drawn, level=level, format="png").content

        lattice = self.row.get("lattice")
        cell = tuple(lattice) if isinstance(lattice, list) and len(lattice) == 6 else None
        return SentCut.read(
            answer.content, answer.headers[HEADER], title=title, lattice=cell,
            picture=picture if kind == "plane" else None,
        )  # fmt: skip

    def _ask(self, kind: str, *, timeout: float | None = None, **asked: Any) -> httpx.Response:
        return self._link.get(f"/volumes/{segment(self.key)}/{kind}", timeout=timeout, **asked)


def _over(symmetry: str) -> dict[str, str]:
    return {"symmetry": symmetry} if symmetry else {}


def volumes_where(link: Link, **asked: Any) -> list[RemoteVolume]:
    """Find volumes, newest first, by ``sample``, ``temperature``, ``series`` or ``run``."""
    rows = link.json("/volumes", limit=_MOST, **asked)["volumes"]
    return [RemoteVolume(link, row) for row in rows]


def best_of(found: Sequence[RemoteVolume], where: str) -> RemoteVolume:
    """Return the volume of the fewest runs, and of these the newest.

    Raises
    ------
    NoSuchEntry
        If there is none.
    """
    readable = [each for each in found if each.state not in ("missing", "damaged")]
    if not readable:
        raise NoSuchEntry(
            f"{where} has no volume in the catalog yet\noffbragg live makes one while it is "
            "measured, offbragg reduce afterwards; offbragg publish shows it."
        )
    return min(
        readable,
        key=lambda each: (len(each.row.get("runs") or ()), -(each.row.get("written") or 0)),
    )
