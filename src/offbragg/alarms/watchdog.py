"""The watchdog: looks at disks, frames and clocks several times a second, and reports changes.

It runs on both sides and blocks nothing: it looks in a thread of its own. In the
RunEngine's process it takes the documents as a subscriber, and its changes become the stream
``watch`` of the run; beside the stacker it follows the journal.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from offbragg.alarms.board import Alarm, Board, Change, Thresholds, judge_stall
from offbragg.alarms.board_file import ACQUISITION, DATA, board_path
from offbragg.alarms.clock import Clock, Skew
from offbragg.alarms.host import Lateness
from offbragg.alarms.looks import Disks, ExpectedFrames
from offbragg.files.frame_files import FRAME_SEQUENCES, FrameFiles
from offbragg.files.held_file import HeldFile
from offbragg.files.run_progress import RunProgress

log = logging.getLogger(__name__)


LOOK = 0.1
"""Time between two looks, s."""


_WRITE_DISKS = 5.0  # how often what is known of the disks is written for `read_board`, s


_PATIENCE = 3.0  # s; the data side does not know of a pause, and waits a little longer


class Watchdog:
    """Look at disks, frames and clocks, and report what changes.

    Parameters
    ----------
    paths
        Directories that the data cross, by their name in ``beamline.toml``.
    thresholds
        Limits beyond which something is an alarm.
    side
        "acquisition" or "data": who looks.
    journal
        Where what is up is written, for `read_board` in other processes.
    beamline
        Its id, for the hook.
    hook
        Called with every change as plain JSON types; it must not block.
    looks
        More to look at: each returns an alarm, or None.
    is_paused
        Returns whether measuring is paused: then no frames are expected.
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
        is_paused: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.thresholds = thresholds
        self.side = side
        self.beamline = beamline
        self.disks = Disks(paths, thresholds)
        self.board = Board()
        self._looks = tuple(looks)
        self._hook = hook
        self._is_paused = is_paused
        self._monotonic, self._wall = monotonic, wall
        self._clock = Clock(thresholds.clock)
        self._skew = Skew(thresholds.clock)
        self._lateness = Lateness()
        self._runs: dict[str, ExpectedFrames] = {}
        self._run_of: dict[str, str] = {}  # stream resource → run
        self._lock = threading.RLock()
        self._listeners: list[Callable[[Change], None]] = []
        self._file = HeldFile(board_path(journal, side)) if journal is not None else None
        self._next_write = 0.0
        self._users = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    # -- listeners -------------------------------------------------------------------------

    def subscribe(
        self, listener: Callable[[Change], None], known: Mapping[str, str] | None = None
    ) -> None:
        """Call a listener with every change from now on, and at once with what it does not know.

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
        """Stop calling a listener; when this returns no call of it is under way either."""
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
                self._runs[doc["uid"]] = ExpectedFrames(
                    progress=RunProgress(int(doc["sweep"]["n_frames"])),
                    period=float(doc["sweep"]["period"]),
                    since=self._monotonic(),
                )
            case "stream_resource":
                self._expect(doc)
            case "stream_datum":
                run = self._runs.get(self._run_of.get(doc["stream_resource"], ""))
                if run is not None:
                    run.progress.add(name, doc)
            case "event":
                for key, stamp in doc["timestamps"].items():
                    ahead = stamp - doc["time"] > self.thresholds.clock
                    if ahead or key in self._skew:
                        self._skew.add(key, stamp, doc["time"])
            case "stop":
                self._runs.pop(doc["run_start"], None)
                self._run_of = {k: run for k, run in self._run_of.items() if run in self._runs}
            case _:
                pass

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
        """Expect no more frames of the runs that are open: they are being ended."""
        with self._lock:
            for run in self._runs.values():
                run.given_up = True

    # -- looking ---------------------------------------------------------------------------

    def look(self) -> list[Change]:
        """Look once at everything, and report what has changed."""
        now, wall, after = self._monotonic(), self._wall(), self._monotonic()
        found = self.disks.look(now, wall)
        found += [alarm for look in self._looks if (alarm := look()) is not None]
        with self._lock:
            expected = [run for run in self._runs.values() if run.expected and not run.given_up]
        looked = [(run, *run.look()) for run in expected]  # without the lock: a disk may be slow
        paused = self._is_paused()
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
                self._report(change)
        if self._file is not None and (changes or now >= self._next_write):
            self._next_write = now + _WRITE_DISKS
            self._file.write(
                {
                    "alarms": self.board.alarms,
                    "disks": self.disks.facts(wall),
                    "late": self._lateness.worst,
                }
            )
        return changes

    def _judge(self, run: ExpectedFrames, seen: object, over: bool, now: float) -> Alarm | None:
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
        return judge_stall(
            silent, run.period, thresholds=self.thresholds, n_frames=run.progress.n_frames
        )

    def _report(self, change: Change) -> None:
        alarm = change.alarm
        level = logging.INFO if change.state == "cleared" else logging.WARNING
        log.log(level, "alarm %s (%s, %s): %s", change.state, alarm.what, alarm.severity,
                alarm.reason)  # fmt: skip
        for listener in list(self._listeners):
            try:
                listener(change)
            except Exception as error:  # any listener: the others are called
                log.warning("alarm %s could not be passed on: %s", alarm.what, error)
        # a stall is reported by the other side, which knows of a pause
        if self._hook is not None and (self.side, alarm.what) != (DATA, "stall"):
            self._hook({**change.to_dict(), "side": self.side, "beamline": self.beamline})

    # -- the thread ------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to look, until `stop` has been called as often."""
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
        """Stop looking; alarms of a run that has ended are cleared."""
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
        """Release the file that other processes read."""
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
        except Exception:  # it must not end unnoticed
            log.exception("the watchdog could not look; it tries again")
