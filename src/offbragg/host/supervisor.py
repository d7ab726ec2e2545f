"""Keep child processes running: one that crashes is started again, after a while that grows.

Nothing here knows what the children do, and nothing here writes to a terminal: what happens is
handed on as a `ChildState` per change.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from offbragg.errors import ConfigError
from offbragg.host.children import Children

log = logging.getLogger(__name__)

USER_ERRORS = (2, ConfigError.exit_code)
"""Exit codes after which a child is not started again: a user has to change something."""

_LOOK = 0.1  # how often children are looked at, s
_LOOK_AT_LOGS = 60.0  # how often the size of their logs is, s
_LONGEST_LOG = 20_000_000  # bytes


@dataclass(frozen=True, slots=True)
class BackOff:
    """The wait before a child that crashed is started again: doubled from crash to crash.

    Examples
    --------
    >>> [BackOff().wait(crashes) for crashes in (1, 2, 3, 6, 7, 1000)]
    [1.0, 2.0, 4.0, 32.0, 60.0, 60.0]
    """

    first: float = 1.0
    """After the first crash, s."""
    most: float = 60.0
    """The longest wait, s."""
    steady: float = 60.0
    """A child that ran for longer, s, begins with `first` again."""

    def wait(self, crashes: int) -> float:
        """Return the wait after a number of crashes one after the other, s."""
        return min(self.first * 2.0 ** min(crashes - 1, 30), self.most)


class ChildStatus(StrEnum):
    """What a child does."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"  # crashed, and will be started again
    REFUSED = "refused"  # ended with a user's error, and will not
    ENDED = "ended"  # as it was asked to


@dataclass(frozen=True, slots=True)
class ChildState:
    """A child since its last change."""

    name: str
    status: ChildStatus
    time: float = 0.0
    """When it changed, POSIX s."""
    pid: int | None = None
    restarts: int = 0
    exit_code: int | None = None
    """Of the process that ended last; negative: the signal that killed it."""
    reason: str = ""
    """Why that one ended."""
    wait: float | None = None
    """Until it is started again, s."""
    ready: dict[str, Any] = field(default_factory=dict[str, Any])
    """What it says of itself in its ready file."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {**asdict(self), "status": str(self.status)}


@dataclass(frozen=True, slots=True)
class Command:
    """What is run as a child."""

    name: str
    arguments: Sequence[str]
    """Of ``python -m``."""
    ready: Path | None = None
    """The child writes this JSON file, with its ``pid``, once it serves; None: it does at once."""


class Supervisor:
    """Children that run until they are asked to end.

    Parameters
    ----------
    commands
        What to run, in this order; ended in the reverse one.
    logs
        Directory of their logs.
    changed
        Called with each change, in the thread of `run`; it must not block.
    back_off
        How long to wait before one that crashed is started again.
    user_errors
        Exit codes with which a child is not started again.
    """

    def __init__(
        self,
        commands: Sequence[Command],
        logs: Path,
        *,
        changed: Callable[[ChildState], object] = lambda state: None,
        back_off: BackOff = BackOff(),
        user_errors: Collection[int] = USER_ERRORS,
    ) -> None:
        self._children = Children(logs)
        self._watched = [
            _Watched(command, self._children, changed, back_off, user_errors)
            for command in commands
        ]

    def run(self, stop: threading.Event, at_once: threading.Event | None = None) -> int:
        """Run the children until asked to stop, or until none will be started again.

        Parameters
        ----------
        stop
            Set it to end them all in order.
        at_once
            Set it as well to kill those that have not ended yet.

        Returns
        -------
        code
            0, or the exit code of the first child that was refused.
        """
        looked = time.monotonic()
        try:
            while True:
                for watched in self._watched:
                    watched.look()
                if all(watched.state.status is ChildStatus.REFUSED for watched in self._watched):
                    break
                if time.monotonic() - looked > _LOOK_AT_LOGS:
                    self._children.shorten_logs(_LONGEST_LOG)
                    looked = time.monotonic()
                if stop.wait(_LOOK):
                    break
        finally:
            self._children.stop(
                *self._children.running,
                at_once=at_once.is_set if at_once is not None else lambda: False,
            )
            for watched in self._watched:
                watched.end()
        codes = [w.state.exit_code for w in self._watched if w.state.status is ChildStatus.REFUSED]
        return codes[0] or 0 if codes else 0


class _Watched:
    """One child, over all the processes that it is in turn."""

    def __init__(
        self,
        command: Command,
        children: Children,
        changed: Callable[[ChildState], object],
        back_off: BackOff,
        user_errors: Collection[int],
    ) -> None:
        self.state = ChildState(command.name, ChildStatus.WAITING)
        self._command = command
        self._children = children
        self._changed = changed
        self._back_off = back_off
        self._user_errors = user_errors
        self._crashes = 0  # one after the other
        self._started = 0.0  # monotonic, as the next one
        self._next = 0.0

    def look(self) -> None:
        """Start it when it is time, and notice whether it serves or has ended."""
        status = self.state.status
        if status is ChildStatus.WAITING and time.monotonic() >= self._next:
            self._start()
        elif status in (ChildStatus.STARTING, ChildStatus.RUNNING):
            code = self._children.running[self.state.name].poll()
            if code is not None:
                self._has_ended(code)
            elif status is ChildStatus.STARTING:
                self._look_whether_ready()

    def end(self) -> None:
        """Note that it was ended; one that was refused stays so."""
        if self.state.status is not ChildStatus.REFUSED:
            self._change(ChildStatus.ENDED)

    def _start(self) -> None:
        restarts = self.state.restarts + (self.state.exit_code is not None)
        ready = self._command.ready
        try:
            if ready is not None:
                ready.unlink(missing_ok=True)
            child = self._children.start(self._command.name, self._command.arguments)
        except OSError as error:  # no memory or process left just now, or a disk that is away
            self._crash(f"it cannot be started: {error}", code=error.errno or 1)
            return
        self._started = time.monotonic()
        status = ChildStatus.RUNNING if ready is None else ChildStatus.STARTING
        self._change(status, pid=child.pid, restarts=restarts)

    def _look_whether_ready(self) -> None:
        assert self._command.ready is not None
        try:
            ready: object = json.loads(self._command.ready.read_text())
        except (OSError, ValueError):
            return
        facts = cast(dict[str, Any], ready) if isinstance(ready, dict) else {}
        if facts.get("pid") == self.state.pid:
            self._change(ChildStatus.RUNNING, pid=self.state.pid, ready=facts)

    def _has_ended(self, code: int) -> None:
        del self._children.running[self.state.name]
        try:
            words = self._children.last_words(self.state.name)
        except OSError:
            words = ""
        reason = _describe_end(code) + (f": {words}" if words and code >= 0 else "")
        if code in self._user_errors:
            self._change(ChildStatus.REFUSED, exit_code=code, reason=reason)
            return
        if time.monotonic() - self._started > self._back_off.steady:
            self._crashes = 0
        self._crash(reason, code)

    def _crash(self, reason: str, code: int) -> None:
        self._crashes += 1
        wait = self._back_off.wait(self._crashes)
        self._next = time.monotonic() + wait
        self._change(ChildStatus.WAITING, exit_code=code, reason=reason, wait=wait)

    def _change(self, status: ChildStatus, *, restarts: int | None = None, **facts: Any) -> None:
        self.state = ChildState(
            self.state.name,
            status,
            time=time.time(),
            restarts=self.state.restarts if restarts is None else restarts,
            **facts,
        )
        self._changed(self.state)


def _describe_end(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
