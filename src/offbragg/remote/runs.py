"""The runs of a catalog: a lazy sequence, and a look-up by uid."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, overload

from offbragg.errors import CatalogError, NoSuchEntry
from offbragg.remote.link import Link, segment
from offbragg.remote.run import Run
from offbragg.remote.tables import as_table, clock, html_table

_PAGE = 500  # rows that one question returns
_SHOWN = 10
_JUST_OPENED, _POLL = 2.0, 0.25  # s

Time = float | str | datetime


class RunList(Sequence[Run]):
    """Runs that were found, the oldest first: ``found[-1]`` is the newest.

    Rows are asked for when they are needed, from the newest back. The list is as it was at the
    first question; ask again for runs that have come since.

    Parameters
    ----------
    link
        To the server.
    asked
        Parameters of ``/runs``.
    """

    def __init__(self, link: Link, asked: Mapping[str, Any]) -> None:
        self._link = link
        self._asked = dict(asked)
        self._rows: list[dict[str, Any]] = []  # newest first
        self._total: int | None = None

    def __len__(self) -> int:
        self._fetch(0)
        return self._total or 0

    @overload
    def __getitem__(self, which: int) -> Run: ...
    @overload
    def __getitem__(self, which: slice) -> list[Run]: ...
    def __getitem__(self, which: int | slice) -> Run | list[Run]:
        """Return the run at a place, or a list of runs for a slice."""
        if isinstance(which, slice):
            return [self[place] for place in range(len(self))[which]]
        if not isinstance(which, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a list of runs is indexed by a number, and not {which!r}")
        count = len(self)
        if not -count <= which < count:
            raise IndexError(f"run {which} is outside: {count} are found")
        back = count - 1 - which % count
        self._fetch(back + 1)
        if back >= len(self._rows):  # some were deleted meanwhile
            raise IndexError(f"run {which} is gone: ask for the runs again")
        return Run(self._link, self._rows[back])

    def __iter__(self) -> Iterator[Run]:
        for place in range(len(self)):
            yield self[place]

    def __contains__(self, run: object) -> bool:
        uid = run.uid if isinstance(run, Run) else run
        self._fetch(len(self))
        return any(row["uid"] == uid for row in self._rows)

    def table(self) -> Any:
        """Return the rows as a `pandas.DataFrame`, or arrays by name without pandas."""
        self._fetch(len(self))
        rows = [_flat(row) for row in reversed(self._rows)]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return as_table({name: [row.get(name) for row in rows] for name in names}, "uid")

    def __repr__(self) -> str:
        asked = ", ".join(f"{name}={value!r}" for name, value in self._asked.items())
        return f"<{len(self)} run{'' if len(self) == 1 else 's'}{' with ' * bool(asked)}{asked}>"

    def _repr_html_(self) -> str:
        self._fetch(_SHOWN)
        rows = [shown(row) for row in self._rows[:_SHOWN]]
        return html_table(rows, more=len(self) - len(rows))

    def _fetch(self, count: int) -> None:
        """Ask for rows until there are ``count``, from the newest back."""
        while self._total is None or len(self._rows) < min(count, self._total):
            before = self._rows[-1]["uid"] if self._rows else None
            limit = min(max(count - len(self._rows), _SHOWN), _PAGE)
            answer = self._link.json("/runs", **self._asked, limit=limit, before=before)
            if self._total is None:
                self._total = int(answer["total"])
            self._rows += answer["runs"]
            if not answer["more"]:
                self._total = len(self._rows)


class Runs:
    """All runs of a catalog: called, it finds some of them; indexed, it returns one.

    ``runs["3f2b8c1e"]`` takes a uid or its first characters (five at least), ``runs[42]`` a scan
    id, as in Databroker, and ``runs[-1]`` is the newest.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    def __call__(
        self,
        *,
        sample: str | None = None,
        temperature: float | Sequence[float | None] | None = None,
        since: Time | None = None,
        until: Time | None = None,
        purpose: str | None = None,
        text: str | None = None,
        **more: Any,
    ) -> RunList:
        """Find runs.

        Parameters
        ----------
        sample
            Its name; ``*`` stands for anything.
        temperature
            K; or the lowest and the highest, as ``(90, 120)``, None for open.
        since, until
            POSIX s, a `datetime`, or text as ``2026-11-29`` or ``2026-11-29T03:00``.
        purpose
            As ``data``.
        text
            Words that are anywhere in the start document.
        more
            ``scan_id``, ``series``, ``plan``, ``status``, ``proposal``.
        """
        if wrong := more.keys() & {
            "limit",
            "before",
        }:  # words of the route, which we send ourselves
            raise CatalogError(
                f"{', '.join(wrong)} is not asked for: the newest ten are runs()[-10:]"
            )
        asked = {
            "sample": sample, "temperature": kelvin(temperature), "since": _time(since),
            "until": _time(until), "purpose": purpose, "text": text, **more,
        }  # fmt: skip
        return RunList(self._link, {k: v for k, v in asked.items() if v is not None})

    def __getitem__(self, which: str | int | slice) -> Any:
        """Return a run; one that was just opened is waited for.

        Raises
        ------
        NoSuchEntry
            If there is none, with the newest ones.
        """
        if isinstance(which, slice) or (isinstance(which, int) and which < 0):
            found = self()
            if isinstance(which, int) and not found:
                raise NoSuchEntry("the catalog has no run yet")
            return found[which]
        name = str(which).strip()
        if not name:
            raise NoSuchEntry("a run is named by its uid, the first 5 characters of it, or scan id")
        deadline = time.monotonic() + _JUST_OPENED
        while True:
            try:
                return Run.read(self._link, self._link.json(f"/runs/{segment(name)}"))
            except NoSuchEntry:
                if time.monotonic() >= deadline:
                    raise self._unknown(name) from None
            except CatalogError as error:
                if error.status != 400:
                    raise
                raise NoSuchEntry(str(error)) from None
            time.sleep(_POLL)

    def __len__(self) -> int:
        return len(self())

    def __iter__(self) -> Iterator[Run]:
        return iter(self())

    def __repr__(self) -> str:
        return f"{self()!r}".replace(">", f" of {self._link.address}>")

    def _repr_html_(self) -> str:
        return self()._repr_html_()

    def _unknown(self, name: str) -> NoSuchEntry:
        def newest() -> str:
            runs = self()[-3:]
            listed = ", ".join(f"#{run.scan_id} {run.uid[:8]}" for run in reversed(runs))
            return f"; the newest are {listed}" if runs else ": it has no runs"

        return NoSuchEntry(f"the catalog has no run {name!r}", newest)


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a row that people look at."""
    frames = row.get("frames") or {}
    return {
        "scan": row.get("scan_id"), "uid": str(row.get("uid"))[:8], "time": clock(row.get("time")),
        "sample": row.get("sample"), "temperature (K)": row.get("temperature"),
        "purpose": row.get("purpose"), "state": row.get("exit_status"),
        "stored": frames.get("stored"), "frames": row.get("n_frames"),
        "missing": frames.get("missing"), "rejected": frames.get("rejected"),
    }  # fmt: skip


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**{k: v for k, v in row.items() if k != "frames"}, **(row.get("frames") or {})}


def kelvin(given: float | Sequence[float | None] | None) -> str | None:
    """Write a temperature, or the lowest and the highest, as an address has it."""
    if given is None:
        return None
    if isinstance(given, int | float):
        return f"{given:g}"
    if len(given) != 2 or isinstance(given, str):
        raise CatalogError(f"temperature is {given!r}: it is a number, or (lowest, highest), in K")
    low, high = given
    if low is not None and high is not None and low > high:
        raise CatalogError(f"temperature is {given!r}: the lowest comes first, as ({high}, {low})")
    return ":".join("" if end is None else f"{float(end)!r}" for end in given)


def _time(when: Time | None) -> str | None:
    if when is None:
        return None
    return repr(when.timestamp()) if isinstance(when, datetime) else str(when)
