"""A run: its frames, table, ledger, volume and files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from offbragg.errors import CatalogError, NoSuchEntry
from offbragg.ledger import FrameStatus
from offbragg.remote.downloads import Progress, download, show_progress
from offbragg.remote.follow import Follower
from offbragg.remote.frames import Frame, Frames, FramesTogether, NoFrameYet
from offbragg.remote.link import Link, segment
from offbragg.remote.sent_ledger import SentLedger
from offbragg.remote.tables import as_table, clock, describe, html_picture, html_table
from offbragg.remote.volumes import RemoteVolume, best_of, volumes_where

_HOLDS = 0.3  # s for which a ledger that still changes is not asked for again
_RUNNING = "running"
_PICTURE = 480  # pixels, the longest edge of the frame that is shown with a run


class Run:
    """One run of a catalog, ended or running.

    Parameters
    ----------
    link
        To the server.
    row
        As of ``/runs``.
    content
        The answer of ``/runs/UID``, where it is known.
    """

    def __init__(
        self, link: Link, row: Mapping[str, Any], content: Mapping[str, Any] | None = None
    ) -> None:
        self._link = link
        self.row = dict(row)
        self._content = content
        self._frames: Frames | None = None
        self._ledger: tuple[float, SentLedger] | None = None

    @classmethod
    def read(cls, link: Link, content: Mapping[str, Any]) -> Run:
        """Read the answer of ``/runs/UID``."""
        return cls(link, content["row"], content)

    # -- what it is ----------------------------------------------------------------------------

    @property
    def uid(self) -> str:
        """Of the run."""
        return str(self.row["uid"])

    @property
    def scan_id(self) -> int | None:
        """Number of the scan."""
        return self.row.get("scan_id")

    @property
    def sample(self) -> str | None:
        """Name of the sample."""
        return self.row.get("sample")

    @property
    def temperature(self) -> float | None:
        """The set point, K."""
        return self.row.get("temperature")

    @property
    def state(self) -> str:
        """``running``, or the exit status, when it was asked for: `refresh` asks again."""
        return str(self.row.get("exit_status"))

    @property
    def start(self) -> dict[str, Any]:
        """The start document."""
        return dict(self._known()["start"])

    @property
    def stop(self) -> dict[str, Any] | None:
        """The stop document; None while the run is open."""
        if self._known().get("stop") is None:
            self.refresh()
        return self._known().get("stop")

    def refresh(self) -> Run:
        """Ask again for what is known of the run; returns itself."""
        self._content = self._link.json(f"/runs/{segment(self.uid)}")
        self.row = dict(self._content["row"])
        return self

    # -- what was measured ---------------------------------------------------------------------

    @property
    def frames(self) -> Frames:
        """Its frames, as ``run.frames[-1]`` or ``run.frames[0:500, 90:110, 200:220]``."""
        if self._frames is None:
            self._frames = Frames(self._link, self.uid, self._known_ledger)
        return self._frames

    @property
    def ledger(self) -> SentLedger:
        """What became of every expected frame, as it is now."""
        answer = self._link.json(f"/runs/{segment(self.uid)}/ledger")
        if not answer.get("panel"):
            answer["panel"] = self._panel()
        ledger = SentLedger.read(answer, self.uid)
        self._ledger = time.monotonic(), ledger
        return ledger

    def table(self, stream: str = "primary") -> Any:
        """Return the rows of a stream.

        Parameters
        ----------
        stream
            ``primary``: one row a frame, with angle, time, monitor, temperature and status.

        Returns
        -------
        table
            A `pandas.DataFrame` with the index ``seq_num``, or arrays by name where pandas is not
            installed.

        Raises
        ------
        NoFrameYet
            If no frame has a row yet.
        NoSuchEntry
            If the run has no such stream.
        """
        path = f"/api/v1/table/full/raw/{segment(self.uid)}/{segment(stream)}/internal"
        try:
            answer = self._link.json(path, format="application/json", timeout=120.0)
        except NoSuchEntry:
            streams = self.refresh()._known().get("streams") or ()
            if stream == "primary" and "sweep" in self.start:
                raise NoFrameYet(
                    f"run {self.uid[:8]} has no row yet: its first frame is to come"
                ) from None
            raise NoSuchEntry(
                f"run {self.uid[:8]} has no table {stream!r}; its streams are "
                f"{', '.join(map(str, streams)) or 'none yet'}"
            ) from None
        rows = {name: values for name, values in answer.items() if not name.startswith("ts_")}
        return as_table(rows, "seq_num")

    @property
    def volume(self) -> RemoteVolume:
        """The volume of this run, growing or finished.

        If there are several, it is that of the fewest runs, and of these the newest.
        """
        return best_of(self.volumes, f"run {self.uid[:8]}")

    @property
    def volumes(self) -> list[RemoteVolume]:
        """All volumes that were reduced from this run, alone or with others."""
        return volumes_where(self._link, run=self.uid)

    @property
    def notes(self) -> list[dict[str, Any]]:
        """What people wrote about this run, oldest first: ``time`` (POSIX s), ``by``, ``text``."""
        return self._link.json(f"/runs/{segment(self.uid)}/notes")["notes"]

    def annotate(self, text: str) -> dict[str, Any]:
        """Add a note, which stays as it is.

        Returns
        -------
        note
            ``time``, ``by`` and ``text``.

        Raises
        ------
        CatalogError
            If who asks may not write about this run, or not now.
        """
        return self._link.post(f"/runs/{segment(self.uid)}/notes", {"text": text})

    def download(
        self, directory: str | Path = ".", *, progress: Progress | None = show_progress
    ) -> list[Path]:
        """Fetch the files of the run: scan file, digests, volumes beside it.

        What broke off is resumed by calling it again, and each file is compared with the SHA-256
        that the server has of it.

        Parameters
        ----------
        directory
            Where to; it is made if it does not exist.
        progress
            Called with name, bytes here, bytes of the file; None for nothing.

        Returns
        -------
        paths
            Of the files that are here now.
        """
        return download(self._link, self.uid, Path(directory), progress)

    def follow(self, *, timeout: float | None = None) -> Iterator[Frame]:
        """Iterate over its frames as they come, from the first one on, each one once.

        A frame comes when it is decided: its `status` is ``stored``, ``missing`` or ``rejected``.
        One that was missing and is stored late comes once more. It ends with the run, and waits
        while the catalog is away.

        Parameters
        ----------
        timeout
            Time after which to end if nothing comes, s; None waits until the run has ended.
        """
        with Follower(self._link, timeout=timeout) as follower:
            yield from follower.frames(self)

    def is_open(self) -> bool:
        """Ask whether the run has not ended yet."""
        return self.refresh().state == _RUNNING

    def decided(self, given: dict[int, FrameStatus]) -> tuple[list[Frame], bool]:
        """Ask which frames were decided, besides those that are ``given`` with their status.

        Returns
        -------
        frames, complete
            The frames, by their index, and whether all are decided.
        """
        if self.row.get("n_frames") is None and "sweep" not in self.start:
            return [], True  # such as an alignment: it has no frames
        ledger = self.ledger
        new = [
            index
            for index, status in enumerate(ledger.statuses)
            if status != FrameStatus.PENDING
            and (index not in given or FrameStatus.STORED == status != given[index])
        ]
        together = FramesTogether(self.frames, max(new, default=-1) + 1)
        frames = [replace(self.frames.frame(i, ledger), _frames=together, run=self) for i in new]
        return frames, ledger.complete

    # -- how it is shown -----------------------------------------------------------------------

    def __repr__(self) -> str:
        what = describe(self.sample, self.temperature, self.row.get("purpose"), self.state)
        frames = self.row.get("frames") or {}
        stored = f"; {frames.get('stored')} of {self.row.get('n_frames')} frames" if frames else ""
        return f"<Run {self.scan_id} {self.uid[:8]}: {what}{stored}>"

    def _repr_html_(self) -> str:
        row = self.row
        frames = row.get("frames") or {}
        facts = {
            "scan": self.scan_id, "uid": self.uid, "begun": clock(row.get("time")),
            "sample": self.sample, "temperature (K)": self.temperature,
            "purpose": row.get("purpose"), "plan": row.get("plan"), "state": self.state,
            "frames": row.get("n_frames"), **frames,
        }  # fmt: skip
        rows = [{"": name, " ": value} for name, value in facts.items()]
        return html_table(rows) + html_picture(self._repr_png_())

    def _repr_png_(self) -> bytes | None:
        """Return the newest frame as a picture; None if there is none."""
        try:
            return self.frames.last.picture(size=_PICTURE)
        except CatalogError:
            return None

    # ------------------------------------------------------------------------------------------

    def _known(self) -> Mapping[str, Any]:
        if self._content is None:
            self.refresh()
        assert self._content is not None
        return self._content

    def _known_ledger(self) -> SentLedger:
        """Return the ledger, which is asked for again unless it cannot have changed."""
        if self._ledger is not None:
            asked, ledger = self._ledger
            if ledger.complete or time.monotonic() - asked < _HOLDS:
                return ledger
        return self.ledger

    def _panel(self) -> tuple[int, int]:
        """Return the shape of a frame, from the start document."""
        start = self.start
        for holder in (start.get("detector"), (start.get("geometry") or {}).get("panel")):
            if holder and holder.get("shape"):
                slow, fast = holder["shape"]
                return int(slow), int(fast)
        return 0, 0
