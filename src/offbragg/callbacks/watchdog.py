"""The watchdog: looks at disks, frames and clocks several times a second, and tells.

It runs on both sides and is in nobody's way: a thread of its own looks, others are told. In the
RunEngine's process it takes the documents as a subscriber, and its changes become the stream
``watch`` of the run; beside the stacker it follows the journal.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from offbragg.callbacks.frame_files import FRAME_SEQUENCES, FrameFiles
from offbragg.callbacks.journal import is_open
from offbragg.files.root import Root
from offbragg.watch import (
    Alarm,
    Board,
    Change,
    Clock,
    Lateness,
    Rate,
    Skew,
    Thresholds,
    disk_facts,
    judge_backlog,
    judge_disk,
    judge_path,
    judge_stall,
)

log = logging.getLogger(__name__)

LOOK = 0.1
"""Time between two looks, s."""

ACQUISITION, DATA = "acquisition", "data"
"""The two sides."""

_TELL_DISKS = 5.0  # how often what is known of the disks is written for `read_board`, s
_PATIENCE = 3.0  # s; the data side is not told of a pause, and waits a little longer


class Watchdog:
    """Look at disks, frames and clocks, and tell what changes.

    Parameters
    ----------
    paths
        Directories that the data cross, by their name in ``beamline.toml``.
    thresholds
        From where on something is an alarm.
    side
        "acquisition" or "data": who looks.
    journal
        Where what is up is written, for `read_board` in other processes.
    beamline
        Its id, for those who are told.
    hook
        Called with every change as plain JSON types; it must not block.
    looks
        More to look at: each gives an alarm, or None.
    monotonic, wall
        The clocks.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        thresholds: Thresholds,
        *,
        side: str,
        journal: Path | None = None,
        beamline: str = "",
        hook: Callable[[Mapping[str, Any]], None] | None = None,
        looks: Sequence[Callable[[], Alarm | None]] = (),
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.thresholds = thresholds
        self.side = side
        self.beamline = beamline
        self.is_paused: Callable[[], bool] = lambda: False
        """Whether nobody measures for now: then no frames are expected."""
        self.disks = Disks(paths, thresholds)
        self.board = Board()
        self._looks = tuple(looks)
        self._hook = hook
        self._monotonic, self._wall = monotonic, wall
        self._clock = Clock(thresholds.clock)
        self._skew = Skew(thresholds.clock)
        self._lateness = Lateness()
        self._runs: dict[str, _Frames] = {}
        self._run_of: dict[str, str] = {}  # stream resource → run
        self._lock = threading.RLock()
        self._listeners: list[Callable[[Change], None]] = []
        self._file = _BoardFile(journal / f".watch.{side}.json") if journal is not None else None
        self._next_telling = 0.0
        self._users = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    # -- who is told -----------------------------------------------------------------------

    def subscribe(
        self, listener: Callable[[Change], None], known: Mapping[str, str] | None = None
    ) -> None:
        """Tell a listener of every change from now on, and at once of what it does not know.

        Parameters
        ----------
        listener
            Called in whatever thread; it must not take long.
        known
            Alarms that it knows: what → severity.
        """
        with self._lock:
            for change in self.board.since(known or {}, self._wall()):
                listener(change)
            self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[Change], None]) -> None:
        """Tell a listener no longer; when this returns it is not being told either."""
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    # -- documents -------------------------------------------------------------------------

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take note of a document: which frames are expected, and what time others have."""
        try:
            with self._lock:
                self._note(name, doc)
        except Exception:  # a subscriber that raises would end the run
            log.exception("the watchdog does not understand a %s document", name)

    def _note(self, name: str, doc: Mapping[str, Any]) -> None:
        match name:
            case "start" if "sweep" in doc:
                self._runs[doc["uid"]] = _Frames(
                    n_frames=int(doc["sweep"]["n_frames"]),
                    period=float(doc["sweep"]["period"]),
                    since=self._monotonic(),
                )
            case "stream_resource":
                self._expect(doc)
            case "stream_datum":
                run = self._runs.get(self._run_of.get(doc["stream_resource"], ""))
                if run is not None:
                    run.announced = max(run.announced, doc["indices"]["stop"])
            case "event":
                for key, stamp in doc["timestamps"].items():
                    ahead = stamp - doc["time"] > self.thresholds.clock
                    if ahead or key in self._skew:
                        self._skew.add(key, stamp, doc["time"])
            case "stop":
                self._runs.pop(doc["run_start"], None)
                self._run_of = {k: run for k, run in self._run_of.items() if run in self._runs}

    def _expect(self, doc: Mapping[str, Any]) -> None:
        run = self._runs.get(doc.get("run_start", ""))
        if run is None:
            return
        self._run_of[doc["uid"]] = doc["run_start"]
        if run.expected:
            return  # another detector of the run
        run.expected, run.since = True, self._monotonic()
        if doc["mimetype"] in FRAME_SEQUENCES:
            run.files = FrameFiles(doc)
        began = doc["parameters"].get("exposure_started")
        if began is not None and self.side == ACQUISITION:  # the other side may read it later
            late = 1.0 + 2 * run.period
            self._skew.add("detector", float(began), self._wall(), late=late)

    def expect_no_more(self) -> None:
        """Expect no more frames of the runs that are open: somebody ends them."""
        with self._lock:
            for run in self._runs.values():
                run.given_up = True

    # -- looking ---------------------------------------------------------------------------

    def look(self) -> list[Change]:
        """Look once at everything, and tell what has changed."""
        now, wall, after = self._monotonic(), self._wall(), self._monotonic()
        found = self.disks.look(now, wall)
        found += [alarm for look in self._looks if (alarm := look()) is not None]
        with self._lock:
            expected = [run for run in self._runs.values() if run.expected and not run.given_up]
        looked = [(run, *run.look()) for run in expected]  # nobody waits for a slow disk
        paused = self.is_paused()
        with self._lock:
            # a process that is held up between two readings sees no jump
            jumped = self._clock.judge(wall, now) if after - now < LOOK else self._clock.alarm(now)
            if jumped is not None:
                found.append(jumped)
                self._skew.forget()
            stalls = [self._judge(run, seen, over or paused, now) for run, seen, over in looked]
            stalls = [stall for stall in stalls if stall is not None]
            if not stalls and any(paused or run.given_up for run in self._runs.values()):
                stalls = self.board.up("stall")  # nothing new is expected, and nothing came
            found += stalls[:1]
            found += self._skew.judge()
            at_once = () if self._runs else ("stall",)
            changes = self.board.judge(found, now=now, time=wall, at_once=at_once)
            for change in changes:
                self._tell(change)
        if self._file is not None and (changes or now >= self._next_telling):
            self._next_telling = now + _TELL_DISKS
            self._file.write(
                {
                    "alarms": self.board.alarms,
                    "disks": self.disks.facts(wall),
                    "late": self._lateness.worst,
                }
            )
        return changes

    def _judge(self, run: _Frames, seen: object, over: bool, now: float) -> Alarm | None:
        if seen != run.seen:
            if run.files is not None and run.seen is not None and isinstance(seen, int):
                written = seen / 1e9
                self._skew.add("frames", written, self._wall(), late=2 * LOOK, of=5)
            run.seen, run.since = seen, now
        if over or run.given_up:
            run.since = now
            return None
        silent = now - run.since
        if self.side == DATA and silent < _PATIENCE:
            return None
        return judge_stall(silent, run.period, thresholds=self.thresholds, n_frames=run.n_frames)

    def _tell(self, change: Change) -> None:
        alarm = change.alarm
        level = logging.INFO if change.state == "cleared" else logging.WARNING
        log.log(level, "alarm %s (%s, %s): %s", change.state, alarm.what, alarm.severity,
                alarm.reason)  # fmt: skip
        for listener in list(self._listeners):
            try:
                listener(change)
            except Exception as error:  # whoever listens, the others are told
                log.warning("alarm %s could not be passed on: %s", alarm.what, error)
        # who is told of a pause is on the other side, and tells of a stall
        if self._hook is not None and (self.side, alarm.what) != (DATA, "stall"):
            self._hook({**change.to_dict(), "side": self.side, "beamline": self.beamline})

    # -- the thread ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look, until `stop` was called as often."""
        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            self._runs.clear()  # of a plan that could not even end its run
            self._ended = threading.Event()
            self._thread = threading.Thread(
                target=self._watch, args=(self._ended,), name="watchdog", daemon=True
            )
        self._thread.start()

    def stop(self) -> None:
        """Look no longer; what concerns a run that is over is cleared."""
        with self._lock:
            self._users = max(self._users - 1, 0)
            if self._users or self._thread is None:
                return
            thread, self._thread = self._thread, None
            self._ended.set()
        thread.join(2.0)  # a disk that does not answer keeps it
        if not thread.is_alive():
            self._look_safely()
            self.close()

    def close(self) -> None:
        """Let go of what other processes read."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Watchdog:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        close = getattr(self._hook, "close", None)
        if close is not None:
            close()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self._look_safely()
            began = self._monotonic()
            ended.wait(LOOK)
            woken = self._monotonic()
            self._lateness.add(woken, max(woken - began - LOOK, 0.0))

    def _look_safely(self) -> None:
        try:
            self.look()
        except Exception:  # nobody may think that it still looks
            log.exception("the watchdog could not look; it tries again")


@dataclass(slots=True)
class _Frames:
    """The frame files of a run, as far as the watchdog cares."""

    n_frames: int
    period: float
    since: float  # of the last progress, monotonic
    files: FrameFiles | None = None
    announced: int = 0
    expected: bool = False
    given_up: bool = False
    seen: object = None

    def look(self) -> tuple[object, bool]:
        """Give something that changes with every new file, and whether no more is to come."""
        over = self.announced >= self.n_frames
        if self.files is None:
            return self.announced, over
        try:
            # a file that is made changes the time of its directory; thousands need not be listed
            seen = self.files.directory.stat().st_mtime_ns
            return seen, over or self.files.path(self.n_frames - 1).exists()
        except OSError:
            return self.seen, over


class Disks:
    """The file systems that the data cross: are they there, can they be written, how full."""

    def __init__(self, paths: Mapping[str, Path], thresholds: Thresholds) -> None:
        self.paths = dict(paths)
        self.thresholds = thresholds
        self._device: dict[str, int] = {}  # as it was when it was there
        self._roots = {name: Root(path) for name, path in self.paths.items()}
        self._rates: dict[int, Rate] = {}
        self._free: dict[int, int] = {}

    def look(self, now: float, wall: float) -> list[Alarm]:
        """Look at every path and every disk; ``now`` is monotonic, s."""
        alarms: list[Alarm] = []
        self._free = {}
        for name, path in self.paths.items():
            trouble = self._roots[name].trouble()
            if not trouble:
                try:
                    device = path.stat().st_dev
                    space = os.statvfs(path)
                    self._device[name] = device
                    self._free[device] = space.f_bavail * space.f_frsize
                    if not os.access(path, os.W_OK | os.X_OK):
                        read_only = space.f_flag & os.ST_RDONLY
                        trouble = "is read-only" if read_only else "cannot be written"
                except OSError as error:
                    trouble = f"cannot be used: {error.strerror}"
            if trouble:
                alarms.append(judge_path(name, path, trouble))
        for device, free in self._free.items():
            rate = self._rates.setdefault(device, Rate())
            rate.add(now, free)
            alarm = judge_disk(
                self._names(device), free, rate.per_second, thresholds=self.thresholds, time=wall,
                span=rate.span,
            )  # fmt: skip
            if alarm is not None:
                alarms.append(alarm)
        return alarms

    def _names(self, device: int) -> list[str]:
        return [name for name in self.paths if self._device.get(name) == device]

    def facts(self, wall: float) -> list[dict[str, Any]]:
        """Give what is known of each disk, plain JSON types."""
        return [
            {
                "paths": self._names(device),
                **disk_facts(
                    free, self._rates[device].per_second, wall, span=self._rates[device].span
                ),
            }
            for device, free in self._free.items()
        ]


# -- what only the data side looks at ----------------------------------------------------------


class JournalWatch:
    """Give a watchdog the documents of the runs that are open, from the journal: a follower."""

    name = "watch"

    def __init__(self, watchdog: Watchdog, journal: Path) -> None:
        self._watchdog = watchdog
        self._journal = journal

    def done(self, start: Mapping[str, Any]) -> bool:
        """Whether the run is over: then there is nothing to watch."""
        return not is_open(self._journal / f"{start['uid']}.jsonl")

    def open(self, start: Mapping[str, Any]) -> _Documents:
        """Begin with a run."""
        return _Documents(self._watchdog)


class _Documents:
    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self._over = False

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        self._watchdog(name, doc)
        self._over = name == "stop"

    def poll(self) -> bool:
        return self._over

    def close(self) -> None:
        pass


def backlog_look(
    backlog: Callable[[], Mapping[str, float]], thresholds: Thresholds
) -> Callable[[], Alarm | None]:
    """Make a look at how far the stacker is behind."""

    def look() -> Alarm | None:
        told = backlog()
        return judge_backlog(int(told["due"]), told["behind"], thresholds=thresholds)

    return look


class CatalogLook:
    """Ask the catalog whether it is there, in a thread of its own: it may take its time.

    Parameters
    ----------
    host, port
        Where it listens.
    patience
        How long an answer may take, s. One that refuses is away at once.
    interval
        Between two questions, s.
    """

    def __init__(
        self, host: str, port: int, *, patience: float = 3.0, interval: float = 0.5
    ) -> None:
        self.host, self.port = host, port
        self.patience, self.interval = patience, interval
        self._alarm: Alarm | None = None
        self._thread: threading.Thread | None = None

    def __call__(self) -> Alarm | None:
        """Give what the last answer was; the first call begins to ask."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._ask_on, name="catalog-look", daemon=True)
            self._thread.start()
        return self._alarm

    def _ask_on(self) -> None:
        while True:
            self._alarm = self._ask()
            time.sleep(self.interval)

    def _ask(self) -> Alarm | None:
        began = time.monotonic()
        asked = http.client.HTTPConnection(self.host, self.port, timeout=self.patience)
        try:
            asked.request("GET", "/healthz")
            answer = asked.getresponse().status
            trouble = f"answers {answer}" if answer >= 500 else ""
        except (OSError, http.client.HTTPException) as error:
            silent = isinstance(error, TimeoutError)
            trouble = f"does not answer within {self.patience:g} s" if silent else f"({error})"
        finally:
            asked.close()
        if not trouble:
            return None
        reason = f"the catalog at {self.host}:{self.port} is away {trouble}: runs are published "
        waited = time.monotonic() - began
        return Alarm("catalog", "minor", f"{reason}when it is back", waited, self.patience, "s")


# -- for other processes -----------------------------------------------------------------------


class _BoardFile:
    """What is up, in a file that is locked while its writer lives.

    It helps who asks for the status; trouble with it is no trouble of the watchdog's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def write(self, content: Mapping[str, Any]) -> None:
        """Write it, if the file can be had."""
        try:
            file = self._opened()
            if file is not None:
                line = json.dumps(content).encode() + b"\n"
                os.pwrite(file.fileno(), line, 0)
                file.truncate(len(line))
        except OSError as error:
            log.debug("what is in alarm cannot be written: %s", error)

    def _opened(self) -> IO[bytes] | None:
        if self._file is not None:
            try:
                if os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                    return self._file
            except FileNotFoundError:
                if not self._path.parent.is_dir():
                    return self._file  # its directory may come back
            self.close()  # another directory has come in its place
        made = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        file = os.fdopen(made, "r+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()  # another process tells
            return None
        self._file = file
        return file

    def close(self) -> None:
        """Let go: what it says holds no longer."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def read_board(journal: Path) -> dict[str, dict[str, Any]]:
    """Read what the watchdogs of a beamline say, by side; nothing of those that do not run.

    Returns
    -------
    board
        Side → ``alarms`` (with ``since``, POSIX s), ``disks`` and ``late`` (by how much its looks
        came too late in the last minute, s).
    """
    board: dict[str, dict[str, Any]] = {}
    for side in (ACQUISITION, DATA):
        with contextlib.suppress(OSError, ValueError):
            path = journal / f".watch.{side}.json"
            if is_open(path):  # as of a journal: its writer holds a lock
                board[side] = json.loads(path.read_bytes().partition(b"\n")[0])
    return board


class OnceForBoth:
    """Say whether the other side has told of an alarm already: then it is not told twice.

    Both sides look at the same disks. The one in the RunEngine's process waits a moment for the
    other one, which runs for longer, to tell. One that does not tell, perhaps because it runs on
    another host and sees another disk, is not relied on.

    Parameters
    ----------
    journal
        Where the other side's board is.
    patience
        How long to wait for it, s.
    """

    def __init__(self, journal: Path, *, patience: float = 0.4) -> None:
        self._journal = journal
        self._patience = patience
        self._left: set[str] = set()

    def __call__(self, change: Mapping[str, Any]) -> bool:
        """Whether this change is told by the other side; may take ``patience`` seconds."""
        what = change["what"]
        if change["state"] == "cleared":
            left = what in self._left
            self._left.discard(what)
            return left
        deadline = time.monotonic() + self._patience
        while DATA in (board := read_board(self._journal)):
            told = {a["what"]: a["severity"] for a in board[DATA].get("alarms", ())}
            if told.get(what) == change["severity"]:
                self._left.add(what)
                return True
            if what == "stall" or time.monotonic() > deadline:
                break  # of a stall only this side tells
            time.sleep(0.05)
        self._left.discard(what)
        return False
