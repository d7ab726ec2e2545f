"""The door to a catalog from anywhere: ``offbragg.connect(url, key)``."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs

from offbragg.errors import CatalogError, NoSuchEntry
from offbragg.remote.follow import Follower
from offbragg.remote.link import CatalogAway, Link, segment
from offbragg.remote.live_curve import LiveCurve
from offbragg.remote.run import Run
from offbragg.remote.runs import Runs, kelvin
from offbragg.remote.series import Series
from offbragg.remote.tables import html_table
from offbragg.remote.volumes import RemoteVolume, volumes_where

_ADDRESS, _KEY = "OFFBRAGG_CATALOG", "OFFBRAGG_KEY"
_POLL = 0.2  # s between two questions to a server that is starting


def connect(url: str | None = None, key: str | None = None, *, timeout: float = 10.0) -> Connection:
    """Connect to a catalog.

    Parameters
    ----------
    url
        Its address, as ``http://127.0.0.1:8000``; default: the environment variable
        OFFBRAGG_CATALOG.
    key
        A key for reading, as ``offbragg key`` makes it; default: OFFBRAGG_KEY.
    timeout
        Time limit for a server that is starting, s.

    Returns
    -------
    connection
        ``runs``, ``series``, ``latest``, ``follow``.

    Raises
    ------
    CatalogError
        If the address or the key is missing, the server does not answer, or it refuses the key.

    Examples
    --------
    >>> catalog = offbragg.connect()  # doctest: +SKIP
    >>> catalog.latest().frames[-1]  # doctest: +SKIP
    """
    address, _, query = (url or os.environ.get(_ADDRESS, "")).partition("?")
    given = key or parse_qs(query).get("api_key", [""])[0] or os.environ.get(_KEY, "")
    for value, name, what in ((address, _ADDRESS, "address"), (given, _KEY, "key")):
        if not value:
            raise CatalogError(
                f"the catalog's {what} is missing\nSet the environment variable {name}, or write "
                "offbragg.connect(url, key); offbragg key, at the beamline, prints both."
            )
    connection = Connection(Link(address, given.strip()))
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.check()
            return connection
        except CatalogAway:
            if time.monotonic() >= deadline:
                connection.close()
                raise
        except CatalogError:
            connection.close()
            raise
        time.sleep(_POLL)


class Connection:
    """A catalog, over HTTP.

    Parameters
    ----------
    link
        To its server.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self._tiled: Any = None

    @property
    def address(self) -> str:
        """Of the server, without the key."""
        return self.link.address

    @property
    def runs(self) -> Runs:
        """Called, it finds runs: ``runs(sample="LSMO*", temperature=(90, 120))``.

        Indexed, it returns one: ``runs["3f2b8c1e"]``, ``runs[42]`` (scan id), ``runs[-1]``.
        """
        return Runs(self.link)

    def latest(self, **asked: Any) -> Run:
        """Return the newest run, or the newest of those that `runs` would find.

        Raises
        ------
        NoSuchEntry
            If there is none.
        """
        found = self.runs(**asked)
        if not found:
            words = ", ".join(f"{name}={value!r}" for name, value in asked.items())
            raise NoSuchEntry(f"the catalog has no run{' with ' * bool(words)}{words}")
        return found[-1]

    def series(self, uid: str = "latest") -> Series:
        """Return a series; without a uid the newest one.

        Raises
        ------
        NoSuchEntry
            If there is none.
        """
        return Series(self.link, self.link.json(f"/series/{segment(uid)}"))

    def all_series(self) -> list[dict[str, Any]]:
        """Return uid, time, samples, temperatures and state of each series, the newest first."""
        return list(self.link.json("/series")["series"])

    def volumes(
        self,
        *,
        sample: str | None = None,
        temperature: float | Sequence[float | None] | None = None,
        series: str | None = None,
    ) -> list[RemoteVolume]:
        """Find volumes, newest first; temperature in K, one or (lowest, highest)."""
        return volumes_where(
            self.link, sample=sample, temperature=kelvin(temperature), series=series
        )

    def volume(self, key: str) -> RemoteVolume:
        """Return a volume by its key.

        Raises
        ------
        NoSuchEntry
            If there is none.
        """
        found = {each.key: each for each in self.volumes()}
        if key not in found:
            raise NoSuchEntry(
                f"the catalog has no volume {key!r}; it has {', '.join(found) or 'none'}"
            )
        return found[key]

    def now(self) -> dict[str, Any]:
        """Return the state of the beamline now, as the page shows it."""
        return self.link.json("/now")

    def follow(self, what: str = "frames", *, timeout: float | None = None) -> Iterator[Any]:
        """Iterate over what is measured as it comes, until the series that is running ends.

        It begins with the run that is open, at its first frame; if none is, the next run is waited
        for. Each frame comes once, whatever the connection does meanwhile.

        Parameters
        ----------
        what
            ``frames``: each `Frame` when it is stored, missing or rejected; ``sweeps``: each `Run`
            when it begins.
        timeout
            Time after which to end if nothing comes, s; None waits for ever.
        """
        if what not in ("frames", "sweeps"):
            raise CatalogError(f"follow takes 'frames' or 'sweeps', and not {what!r}")
        return self._follow(what, timeout)

    def _follow(self, what: str, timeout: float | None) -> Iterator[Any]:
        with Follower(self.link, timeout=timeout) as follower:
            before = follower.ask(lambda: [run.uid for run in self.runs()[-1:]])
            while (first := follower.ask(lambda: self._first_of_interest(before))) is None:
                if not follower.wait():
                    return
            yield from follower.series(
                lambda: self._since(first), lambda: self._has_ended(first), what
            )

    @property
    def tiled(self) -> Any:
        """The same runs with Tiled's client, for Databroker's words; needs the larger install."""
        if self._tiled is None:
            from offbragg.catalog.client import connect as connect_tiled

            self._tiled = connect_tiled(self.address, self.link.key)
        return self._tiled

    def curve(self, x: str = "", y: str = "") -> LiveCurve:
        """Return a curve that grows where it is shown, with labels of its axes."""
        return LiveCurve(x, y)

    def check(self) -> None:
        """Ask whether the server answers, knows the key and has the routes of this client."""
        try:
            len(self.runs)
        except NoSuchEntry:
            raise CatalogError(
                f"the server at {self.address} has no /runs\nIs it a catalog of offbragg? If it is "
                "of an earlier version, restart offbragg serve."
            ) from None

    def close(self) -> None:
        """Close the connections."""
        self.link.close()

    def __repr__(self) -> str:
        return f"<Connection to the catalog at {self.address}>"

    def _repr_html_(self) -> str:
        facts = {"catalog": self.address, "runs": len(self.runs())}
        return html_table([facts]) + self.runs()._repr_html_()

    def _first_of_interest(self, before: list[str] | None) -> Run | None:
        """Return the newest run if it is open, or has come since."""
        newest = self.runs()[-1:]
        for run in newest:
            if run.state == "running" or (before is not None and run.uid not in before):
                return run
        return None

    def _since(self, first: Run) -> list[Run]:
        series = first.row.get("series")
        if series is None:
            return [first]
        return [run for run in self.runs(series=series) if run.row["time"] >= first.row["time"]]

    def _has_ended(self, first: Run) -> bool:
        series = first.row.get("series")
        return True if series is None else not self.series(series).is_running
