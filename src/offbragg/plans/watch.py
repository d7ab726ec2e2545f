"""Record what a watchdog sees as a stream of the run; let a sweep wait for room on the disks."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.preprocessors import plan_mutator
from bluesky.utils import Msg, MsgGenerator

from offbragg.alarms.board import Change
from offbragg.errors import ConfigError
from offbragg.plans.messages import LACKING_ROOM, ask
from offbragg.plans.noting import noting

log = logging.getLogger(__name__)

WATCH = "watch"
"""Name of the stream."""

FULL_POLICIES = ("wait", "ask", "stop")

_COLUMNS = {
    "what": ("string", "which alarm"),
    "state": ("string", "raised or cleared"),
    "severity": ("string", "minor or major"),
    "reason": ("string", "for people"),
    "value": ("number", "what was measured"),
    "limit": ("number", "from where on it is an alarm"),
    "units": ("string", "of the two"),
}


class WatchStream:
    """What a watchdog tells while a run is open: a signal to Bluesky, with one event a change.

    What is up when the run opens comes first. After a pause only what changed meanwhile is.

    Parameters
    ----------
    watchdog
        Anything to which one can ``subscribe(listener, known)`` and ``unsubscribe(listener)``.
    """

    name = WATCH
    parent = None

    def __init__(self, watchdog: Any) -> None:
        self._watchdog = watchdog
        self._known: dict[str, str] = {}
        self._emit: Callable[[dict[str, Any]], None] | None = None

    def describe(self) -> dict[str, Any]:
        """Describe the columns of an event."""
        return {
            f"{WATCH}_{column}": {"source": f"watchdog: {text}", "dtype": dtype, "shape": []}
            for column, (dtype, text) in _COLUMNS.items()
        }

    def read(self) -> dict[str, Any]:
        """Return nothing: events come from `subscribe`."""
        return {}

    def describe_configuration(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def read_configuration(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def subscribe(self, function: Callable[[dict[str, Any]], None], **_: Any) -> None:
        """Call a function with the readings of each change."""
        self._emit = function
        self._watchdog.subscribe(self._take, dict(self._known))

    def clear_sub(self, function: Callable[..., Any]) -> None:
        """Call it no longer."""
        self._watchdog.unsubscribe(self._take)
        self._emit = None

    def _take(self, change: Change) -> None:
        alarm = change.alarm
        if change.state == "cleared":
            self._known.pop(alarm.what, None)
        else:
            self._known[alarm.what] = alarm.severity
        values = {**alarm.to_dict(), "state": change.state}
        readings = {
            f"{WATCH}_{column}": {"value": values[column], "timestamp": change.time}
            for column in _COLUMNS
        }
        if self._emit is not None:
            self._emit(readings)


def watched(watchdog: Any) -> Callable[[MsgGenerator[Any]], MsgGenerator[Any]]:
    """Make a preprocessor that has a watchdog look while a plan runs, and records what it tells.

    When a plan is stopped, or something in it failed, no more frames are expected.

    Parameters
    ----------
    watchdog
        Has ``start``, ``stop`` and ``expect_no_more``, and what `WatchStream` needs.
    """

    def record(msg: Msg) -> tuple[Any, Any]:
        if msg.command == "open_run":
            return None, monitor()
        return None, None

    def monitor() -> MsgGenerator[None]:  # bluesky's own warns if an abort comes before it
        yield Msg("monitor", WatchStream(watchdog), name=WATCH)

    def whole(plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
        watchdog.start()
        try:
            recorded = plan_mutator(plan, record)
            return (yield from noting(recorded, failed=watchdog.expect_no_more))
        finally:
            watchdog.stop()

    return whole


def need_room(
    n_frames: int,
    detector: Mapping[str, Any],
    *,
    on_full: str = "wait",
    timeout: float = 86400.0,
    interval: float = 0.5,
) -> MsgGenerator[None]:
    """Wait until there is room for the frames that are to be measured next.

    A RunEngine that does not know its disks has room for everything.

    Parameters
    ----------
    n_frames
        Number of frames.
    detector
        Its description in the start document, and ``frame_bytes`` if that is known.
    on_full
        "wait" until there is room, "ask" at the prompt, or "stop" with the reason.
    timeout
        Time limit for waiting, s.
    interval
        Time between two looks at the disks, s.

    Raises
    ------
    ConfigError
        With the directory and the numbers.
    """
    deadline = time.monotonic() + timeout
    waits = False
    while lack := (yield from ask(LACKING_ROOM, n_frames=n_frames, detector=dict(detector))):
        if on_full == "stop":
            raise ConfigError(lack)
        if on_full == "ask":
            answer = yield from bps.input_plan(f"{lack}\nretry or stop? ")
            if str(answer or "stop").strip().lower() != "retry":
                raise ConfigError(lack)
            continue
        if not waits:
            waits = True
            log.warning("%s; the next sweep waits", lack.partition("\n")[0])
        if time.monotonic() > deadline:
            raise ConfigError(f"{lack}\nIt was waited for {timeout:g} s.")
        yield from bps.checkpoint()
        yield from bps.sleep(interval)
    if waits:
        log.info("there is room for the next sweep")


def answer_lacking_room(lacks: Callable[..., str]) -> Callable[[Msg], Awaitable[str]]:
    """Make the command of a RunEngine that answers `need_room`.

    Parameters
    ----------
    lacks
        Called with ``n_frames`` and ``detector``; returns what is missing, with the numbers, or an
        empty string.
    """

    async def answer(msg: Msg) -> str:
        try:
            return lacks(**msg.kwargs)
        except OSError as error:  # it goes while it is looked at
            return f"a disk cannot be looked at: {error}"

    return answer
