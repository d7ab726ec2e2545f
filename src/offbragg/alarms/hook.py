"""A command for the beamline's own alarm: it gets every change, and nothing waits for it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

_WAITING = 100  # changes that wait for the command at most; more are dropped, and the log says so
_LONGEST = 4000  # characters in the environment; standard input has all
_IDLE = 5.0  # time without a change after which the thread ends, s
_VARIABLES = ("what", "state", "severity", "reason", "side", "beamline")  # go into the environment


class Hook:
    """Run a command for each alarm that is raised or cleared, one after the other.

    It gets the alarm as JSON on its standard input, and in its environment as
    ``OFFBRAGG_ALARM_WHAT``, ``…_STATE``, ``…_SEVERITY``, ``…_REASON``, ``…_SIDE`` and
    ``…_BEAMLINE``. No shell is involved. Whatever it does (hang, fail, not exist) is logged and
    stops nothing.

    Parameters
    ----------
    command
        Program and arguments.
    timeout
        Time limit for the command, s; then it is killed with all that it started.
    skip
        Returns whether a change is not passed on, because another process reports it; called in
        the hook's own thread.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        timeout: float = 10.0,
        skip: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> None:
        self.command = list(command)
        self.timeout = timeout
        self._skip = skip
        self._queue: queue.Queue[Mapping[str, Any]] = queue.Queue(_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __call__(self, change: Mapping[str, Any]) -> None:
        """Pass a change on; returns at once."""
        with self._lock:
            try:
                self._queue.put_nowait(change)
            except queue.Full:
                log.error("the alarm command is behind; %s is not passed to it", change["what"])
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="alarms", daemon=True)
                self._thread.start()

    def close(self, timeout: float = 2.0) -> None:
        """Wait until all changes are passed on, but not longer than ``timeout`` seconds."""
        thread = self._thread
        deadline = time.monotonic() + timeout
        while thread is not None and self._queue.unfinished_tasks and time.monotonic() < deadline:
            thread.join(0.02)

    def _run(self) -> None:
        while True:
            try:
                change = self._queue.get(timeout=_IDLE)
            except queue.Empty:
                with self._lock:
                    if self._queue.empty():
                        self._thread = None
                        return
                continue
            try:
                if self._skip is None or not self._skip(change):
                    self._run_command(change)
            except Exception:  # whatever the command may be
                log.exception("the alarm command %s", self.command)
            finally:
                self._queue.task_done()

    def _run_command(self, change: Mapping[str, Any]) -> None:
        variables = {
            f"OFFBRAGG_ALARM_{key.upper()}": change[key] for key in _VARIABLES if key in change
        }
        run_command(self.command, change, variables, timeout=self.timeout, name="the alarm command")


def run_command(
    command: Sequence[str],
    document: Mapping[str, Any],
    variables: Mapping[str, Any],
    *,
    timeout: float,
    name: str,
) -> bool:
    """Run a command of the beamline's own, and wait for its end; failures are logged.

    Parameters
    ----------
    command
        Program and arguments; no shell is involved.
    document
        What it finds on its standard input, as one line of JSON.
    variables
        What its environment has, too; the beginning of long texts.
    timeout
        Time limit, s; then it is killed with all that it started.
    name
        What the log calls it.

    Returns
    -------
    done
        Whether it ended with 0.
    """
    environment = {key: str(value).replace("\0", "")[:_LONGEST] for key, value in variables.items()}
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        log.error("%s %s cannot be run: %s", name, command[0], error)
        return False
    try:
        try:
            process.communicate(json.dumps(document).encode() + b"\n", timeout=timeout)
        except OSError as error:  # it read nothing and is gone
            log.debug("%s did not read: %s", name, error)
            process.wait(timeout)
    except subprocess.TimeoutExpired:
        log.error("%s %s took longer than %g s and is ended", name, command[0], timeout)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            process.communicate(timeout=1.0)
        return False
    if process.returncode:
        log.error("%s %s ended with %d", name, command[0], process.returncode)
    return process.returncode == 0
