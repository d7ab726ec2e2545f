"""A series: temperatures, their runs and volumes, and what changes with temperature."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import NoSuchEntry
from offbragg.remote.follow import Follower
from offbragg.remote.link import Link, segment
from offbragg.remote.runs import RunList
from offbragg.remote.tables import as_table, clock, describe, html_table
from offbragg.remote.volumes import RemoteVolume, volumes_where


class Series:
    """The runs of one series, ended or running; as it was when it was asked for.

    Parameters
    ----------
    link
        To the server.
    content
        The answer of ``/series/UID``.
    """

    def __init__(self, link: Link, content: Mapping[str, Any]) -> None:
        self._link = link
        self.content = dict(content)

    @property
    def uid(self) -> str:
        """Of the series."""
        return str(self.content["uid"])

    @property
    def is_running(self) -> bool:
        """Whether runs may still be added, when it was asked for."""
        return self.content.get("state") == "running"

    @property
    def cells(self) -> list[dict[str, Any]]:
        """One for each sample and temperature: ``state``, ``runs``, ``frames``, ``volume`` …."""
        return list(self.content.get("cells") or ())

    @property
    def runs(self) -> RunList:
        """Its runs, the first one first."""
        return RunList(self._link, {"series": self.uid})

    def refresh(self) -> Series:
        """Ask again for what it holds; returns itself."""
        self.content = self._link.json(f"/series/{segment(self.uid)}")
        return self

    def table(self) -> Any:
        """Return one row for each sample and temperature.

        Returns
        -------
        table
            A `pandas.DataFrame`, or arrays by name where pandas is not installed. A lattice
            parameter and its error are the columns ``a`` and ``a_error``.
        """
        rows = [_row(cell) for cell in self.refresh().cells]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return as_table({name: [row.get(name) for row in rows] for name in names}, "")

    def volume(self, temperature: float, sample: str | None = None) -> RemoteVolume:
        """Return the volume at the measured temperature that is nearest, K.

        Raises
        ------
        NoSuchEntry
            If there is none.
        """
        found = [
            each
            for each in volumes_where(self._link, series=self.uid, sample=sample)
            if each.temperature is not None
        ]
        if not found:
            raise NoSuchEntry(f"series {self.uid[:8]} has no volume in the catalog yet")
        return min(found, key=lambda each: abs((each.temperature or 0.0) - temperature))

    def order_parameter(self, at: Sequence[float] = (0.5, 0.5, 0.5)) -> OrderParameter:
        """Return the superlattice intensity at a point against temperature.

        Parameters
        ----------
        at
            h, k, l, r.l.u.
        """
        point = ",".join(f"{float(x):g}" for x in at)
        answer = self._link.json(f"/series/{segment(self.uid)}/order", at=point, timeout=120.0)
        return OrderParameter.read(answer, self.uid)

    def follow(self, what: str = "frames", *, timeout: float | None = None) -> Iterator[Any]:
        """Iterate over its frames or sweeps as they come, from the first one on.

        Parameters
        ----------
        what
            ``frames``: each `Frame` when it is stored, missing or rejected; ``sweeps``: each `Run`
            when it begins.
        timeout
            Time after which to end if nothing comes, s; None waits until the series has ended.
        """
        with Follower(self._link, timeout=timeout) as follower:
            yield from follower.series(lambda: self.runs, self._has_ended, what)

    def _has_ended(self) -> bool:
        return not self.refresh().is_running

    def __repr__(self) -> str:
        done = sum(cell.get("state") == "measured" for cell in self.cells)
        samples = ", ".join(self.content.get("samples") or ()) or None
        what = describe(samples, f"{done} of {len(self.cells)} temperatures measured",
                        self.content.get("state"))  # fmt: skip
        return f"<Series {self.uid[:8]}: {what}>"

    def _repr_html_(self) -> str:
        title = html.escape(repr(self)[1:-1])
        rows = [
            {
                "sample": cell.get("sample"), "temperature (K)": cell.get("temperature"),
                "state": cell.get("state"), "completeness": cell.get("completeness"),
                "runs": ", ".join(str(uid)[:8] for uid in cell.get("runs") or ()),
                "volume": cell.get("volume"), "alarms": "; ".join(cell.get("alarms") or ()),
            }
            for cell in self.cells
        ]  # fmt: skip
        return f"<b>{title}</b> {clock(self.content.get('time'))}{html_table(rows)}"

    def _repr_png_(self) -> bytes | None:
        """Return completeness against temperature; None where matplotlib is not installed."""
        try:
            from offbragg.plots.figure import new_figure

            figure = new_figure(6.5, 2.5)
        except ImportError:
            return None
        panel: Any = figure.add_subplot()
        for sample in self.content.get("samples") or ():
            cells = [cell for cell in self.cells if cell.get("sample") == sample]
            kelvin = [cell.get("temperature") for cell in cells]
            panel.plot(kelvin, [cell.get("completeness") or 0 for cell in cells], "o", label=sample)
        panel.set(xlabel="temperature (K)", ylabel="frames stored / expected", ylim=(-0.05, 1.05))
        if self.content.get("samples"):
            panel.legend(frameon=False)
        return figure._repr_png_()  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True, eq=False)
class OrderParameter:
    """Superlattice intensity against temperature; one entry of each array for a volume.

    Parameters
    ----------
    at
        h, k, l, r.l.u.
    temperature
        K.
    intensity, sigma
        Height of the peak above its surroundings, and its standard deviation, counts / weight.
    volumes
        Key of the volume of each.
    growing
        Whether the volume is still growing.
    law
        ``Tc``, ``Tc_error`` (K), ``beta``, ``beta_error``; None if none can be fitted, with the
        reason in ``why``.
    """

    at: tuple[float, ...]
    temperature: NDArray[np.float64]
    intensity: NDArray[np.float64]
    sigma: NDArray[np.float64]
    volumes: tuple[str, ...]
    growing: tuple[bool, ...]
    law: dict[str, float] | None = None
    why: str = ""
    series: str = ""

    @classmethod
    def read(cls, answer: Mapping[str, Any], series: str) -> OrderParameter:
        """Read the answer of ``/series/UID/order``."""
        points = answer["points"]
        kelvin, intensity, sigma = (
            np.array([np.nan if p.get(name) is None else p[name] for p in points], np.float64)
            for name in ("temperature", "intensity", "sigma")
        )
        return cls(
            tuple(answer["at"]), kelvin, intensity, sigma,
            tuple(str(p.get("volume")) for p in points),
            tuple(bool(p.get("growing")) for p in points), answer.get("law"),
            str(answer.get("why") or ""), series,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.temperature)

    def __repr__(self) -> str:
        at = ", ".join(f"{x:g}" for x in self.at)
        return f"<OrderParameter at ({at}): {len(self)} temperatures; {self._law()}>"

    def _law(self) -> str:
        if self.law is None:
            return self.why or "no law"
        Tc, error, beta, beta_error = (
            self.law[name] for name in ("Tc", "Tc_error", "beta", "beta_error")
        )
        return f"Tc = {Tc:.2f} ± {error:.2f} K, β = {beta:.3f} ± {beta_error:.3f}"

    def plot(self) -> Any:
        """Draw it, as a figure of matplotlib; what still grows is drawn hollow."""
        from offbragg.plots.figure import new_figure

        figure = new_figure(6.5, 4.0)
        panel: Any = figure.add_subplot()
        growing = np.array(self.growing, np.bool_)
        for which, fill in ((~growing, None), (growing, "none")):
            panel.errorbar(
                self.temperature[which], self.intensity[which], self.sigma[which], fmt="o",
                mfc=fill, color="#0072b2", capsize=3,
            )  # fmt: skip
        if self.law is not None:
            panel.axvline(self.law["Tc"], color="0.4", ls="--", lw=1.0)
        panel.axhline(0.0, color="0.8", lw=0.8, zorder=0)
        at = ", ".join(f"{x:g}" for x in self.at)
        panel.set(xlabel="temperature (K)", ylabel="intensity (counts / weight)")
        panel.set_title(f"({at}): {self._law()}", fontsize=10)
        return figure

    def _repr_png_(self) -> bytes | None:
        """Return the curve; None where matplotlib is not installed."""
        try:
            return self.plot()._repr_png_()
        except ImportError:
            return None


def _row(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell of the board as one row."""
    row = {
        name: cell.get(name)
        for name in ("sample", "temperature", "state", "completeness", "expected", "volume",
                     "volume_state")
    }  # fmt: skip
    row |= dict(cell.get("frames") or {})
    for name, value in (cell.get("lattice") or {}).items():
        row[name], row[f"{name}_error"] = value if value is not None else (None, None)
    row["runs"] = list(cell.get("runs") or ())
    row["alarms"] = "; ".join(cell.get("alarms") or ())
    return row
