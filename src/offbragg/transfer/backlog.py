"""How much waits to be sent: counted from the journals, whether there is a link or not."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offbragg.alarms.board import Thresholds
from offbragg.alarms.disk import describe_bytes
from offbragg.alarms.looks import Disks
from offbragg.files.held_file import HeldFile, read_held
from offbragg.files.journal_line import LineError, decode_line
from offbragg.printable import printable

log = logging.getLogger(__name__)

_DATUM = b'["stream_datum"'
_READ = 4 << 20  # bytes of journals that are read at a time
_WINDOW = 60.0  # s over which the pace is taken
_LOOK = 5.0  # how often disks are looked at, s


class Announced:
    """Frames that journals announce, run by run."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._read: dict[str, tuple[int, int]] = {}  # run → bytes that were read, frames

    def count(self, runs: set[str]) -> dict[str, int]:
        """Return the number of frames of each run, after reading on in their journals."""
        self._read = {uid: self._read.get(uid, (0, 0)) for uid in runs}
        left = _READ
        for uid in sorted(runs):
            if left <= 0:
                break
            left -= self._read_on(uid, left)
        return {uid: frames for uid, (_, frames) in self._read.items()}

    def _read_on(self, uid: str, most: int) -> int:
        position, frames = self._read[uid]
        path = self._journal / f"{uid}.jsonl"
        try:
            if path.stat().st_size == position:
                return 0
            with path.open("rb") as journal:
                journal.seek(position)
                text = journal.read(most)
        except OSError:  # the sender reports it
            return 0
        whole = text.rfind(b"\n") + 1
        for line in text[:whole].splitlines():
            if line.startswith(_DATUM):
                try:
                    indices: Any = decode_line(line)[1]["indices"]
                    frames += max(0, int(indices["stop"]) - int(indices["start"]))
                except (LineError, KeyError, TypeError, ValueError):
                    continue
        self._read[uid] = position + whole, frames
        return len(text)


class Pace:
    """How fast something grows."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now: float, count: int) -> None:
        """Note how much there is at a time, monotonic s."""
        self._samples.append((now, count))
        while self._samples[0][0] < now - _WINDOW:
            self._samples.popleft()

    @property
    def per_second(self) -> float:
        """Growth per second in the last minute."""
        (began, first), (ended, last) = self._samples[0], self._samples[-1]
        return (last - first) / (ended - began) if ended > began else 0.0


class DiskLook:
    """Look at the disks of one end now and then, and log what people should know."""

    def __init__(self, paths: Mapping[str, Path], thresholds: Thresholds | None = None) -> None:
        self._disks = Disks(paths, thresholds or Thresholds())
        self._next = 0.0
        self.alarms: list[dict[str, Any]] = []
        """As `offbragg.alarms.board.Alarm.to_dict`, with ``since``, POSIX s."""

    def look(self, now: float) -> None:
        """Look, if it is time; ``now`` is monotonic, s."""
        if now < self._next:
            return
        self._next = now + _LOOK
        before = {alarm["what"]: alarm for alarm in self.alarms}
        self.alarms = []
        for alarm in self._disks.look(now, time.time()):
            known = before.pop(alarm.what, None)
            if known is None or known["severity"] != alarm.severity:
                log.warning("%s: %s", alarm.severity, printable(alarm.reason))
            since = time.time() if known is None else known["since"]
            self.alarms.append({**alarm.to_dict(), "since": since})
        for what in before:
            log.warning("cleared: %s", what)


class SendingReport:
    """What a sender says of itself, for `offbragg status`: ``.send.KEY.json`` by the journals.

    Parameters
    ----------
    journal, frames
        The sender's directories.
    receiver
        The receiver's public key: several senders may send the same runs to several hosts.
    address
        Of the receiver.
    thresholds
        From where on a disk is an alarm.
    """

    def __init__(
        self, journal: Path, frames: Path, receiver: str, address: str,
        thresholds: Thresholds | None = None,
    ) -> None:  # fmt: skip
        self._file = HeldFile(journal / f".send.{receiver[:8]}.json")
        self._address = address.removeprefix("tcp://")
        self._announced, self._pace = Announced(journal), Pace()
        self._disks = DiskLook({"frames": frames, "journal": journal}, thresholds)
        self.state: dict[str, Any] = {}

    def write(
        self, now: float, *, runs: set[str], settled: Mapping[str, int], files: int,
        bytes_of_files: int, connected: bool, unreadable: int = 0,
    ) -> None:  # fmt: skip
        """Count what waits and write it.

        Parameters
        ----------
        now
            Monotonic, s.
        runs
            Those that are not whole on the far disk.
        settled
            Frames of each that are.
        files, bytes_of_files
            What was sent since the start.
        connected
            Whether the receiver answers.
        unreadable
            Frames whose files are here and cannot be read.
        """
        announced = self._announced.count(runs)
        frames = sum(max(0, n - settled.get(uid, 0)) for uid, n in announced.items())
        self._pace.add(now, files)
        self._disks.look(now)
        rate = self._pace.per_second
        self.state = {
            "receiver": self._address,
            "connected": connected,
            "runs": len(runs),
            "frames": frames,
            "unreadable": unreadable,
            "bytes": frames * bytes_of_files // files if files else None,
            "rate": rate,
            "clear": frames / rate if rate > 0 and frames else None,
            "alarms": self._disks.alarms,
        }
        self._file.write(self.state)

    def close(self) -> None:
        """Release the file: nobody sends any more."""
        self._file.close()


def read_sending(journal: Path) -> list[dict[str, Any]]:
    """Read what the senders of a journal directory that run say of themselves.

    Returns
    -------
    senders
        ``receiver`` (address), ``connected``, ``runs`` (not whole there), ``frames`` (announced
        and not there), ``unreadable`` (of them, those whose files cannot be read), ``bytes``
        (about; None before the first was sent), ``rate`` (frames/s in the last minute), ``clear``
        (s until all are there at this rate; None if it cannot be said)
        and ``alarms``.
    """
    try:
        return [
            state for path in sorted(journal.glob(".send.*.json")) if (state := read_held(path))
        ]
    except OSError:
        return []


def describe_sending(state: Mapping[str, Any]) -> str:
    """Describe what waits to be sent.

    Examples
    --------
    >>> describe_sending({"receiver": "far:5599", "connected": True, "runs": 2, "frames": 1200,
    ...                   "bytes": 3_000_000_000, "rate": 12.1, "clear": 99.2})
    'to far:5599: 1200 frames (3.00 GB) of 2 runs wait; 12.1 frames/s, all there in 99 s'
    >>> describe_sending({"receiver": "far:5599", "connected": False, "runs": 1, "frames": 7,
    ...                   "bytes": None, "rate": 0.0, "clear": None})
    'to far:5599: 7 frames of 1 run wait; the receiver does not answer'
    >>> describe_sending({"receiver": "far:5599", "connected": True, "runs": 0, "frames": 0,
    ...                   "bytes": 0, "rate": 0.0, "clear": None})
    'to far:5599: all is there'
    """
    if not state["runs"]:
        text = "all is there"
    else:
        size = f" ({describe_bytes(state['bytes'])})" if state["bytes"] else ""
        frames = f"{state['frames']} frame{'' if state['frames'] == 1 else 's'}{size}"
        runs = f"{state['runs']} run{'' if state['runs'] == 1 else 's'}"
        text = f"{frames} of {runs} wait"
    if n_unreadable := state.get("unreadable"):
        text += f", {n_unreadable} cannot be read"
    if not state["connected"]:
        text += "; the receiver does not answer"
    elif state["clear"] is not None:
        text += f"; {state['rate']:.1f} frames/s, all there in {_duration(state['clear'])}"
    return printable(f"to {state['receiver']}: {text}")


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
