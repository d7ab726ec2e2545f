"""Child processes with a log file each, which are ended together."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offbragg.errors import DeviceError
from offbragg.printable import printable

START_TIMEOUT = 120.0  # for each child to serve, s; a cold catalog takes 10 to 25
STOP_TIMEOUT = 15.0  # for all children to end when they are asked to, s
_ASK_AGAIN = 5.0  # a child that is just starting may miss the first signal, s
_LAST = 4096  # bytes at the end of a log in which the reason of an end stands


@dataclass
class Children:
    """Child processes that are watched while they are needed and ended together.

    They write into files and not into pipes: a reader that hangs, as a terminal that is held by
    Ctrl-S, would block the writer of a pipe, and with it the frames.
    """

    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(
        default_factory=dict[str, subprocess.Popen[bytes]]
    )
    # the log's size when a child was started
    _began: dict[str, int] = field(default_factory=dict[str, int])

    def __enter__(self) -> Children:
        signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave one behind
        self.stop(*self.running)

    def start(self, name: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start ``python -m`` with these arguments, its output appended to a log of its name."""
        with self.log(name).open("ab") as log_file:
            self._began[name] = log_file.tell()
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to pass on, in our order
            )
        return self.running[name]

    def log(self, name: str) -> Path:
        """Return where a child's output goes."""
        return self.logs / f"{name}.log"

    def check(self) -> None:
        """Raise if a child has ended on its own, with the last lines of its log."""
        for name, child in list(self.running.items()):  # another thread may start one
            if child.poll() is not None:
                output = self.log(name).read_text(errors="replace").strip()
                raise DeviceError(
                    f"the {name} process ended on its own (exit code {child.returncode})\n"
                    + "\n".join(output.splitlines()[-5:])
                )

    def last_words(self, name: str) -> str:
        """Return the first line of the error with which a child ended, or its last line."""
        with self.log(name).open("rb") as log_file:
            size = log_file.seek(0, os.SEEK_END)
            log_file.seek(max(min(self._began.get(name, 0), size), size - _LAST))
            lines = log_file.read().decode(errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("offbragg: ")]
        words = [line for line in lines if any(map(str.isalnum, line))]  # not the edge of a box
        return printable((errors or words or [""])[-1].removeprefix("offbragg: ").strip(" │"))

    def shorten_logs(self, limit: int) -> None:
        """Move what a log holds to ``<name>.log.1`` once it has more bytes than ``limit``.

        The child goes on appending to the file that it has open.
        """
        for name in self.running:
            path = self.log(name)
            with contextlib.suppress(OSError):  # a full disk, or a log that was removed
                if path.stat().st_size > limit:
                    shutil.copyfile(path, path.with_suffix(".log.1"))
                    os.truncate(path, 0)

    def wait_for(
        self,
        ready: Path,
        *,
        timeout: float = START_TIMEOUT,
        give_up: threading.Event | None = None,
    ) -> dict[str, Any]:
        """Wait until a child has written its ready file; return what it says."""
        deadline = time.monotonic() + timeout
        while not ready.exists():
            self.check()
            if time.monotonic() > deadline or (give_up and give_up.is_set()):
                raise DeviceError(
                    f"{ready.name} was not there after {timeout:g} s\nSee {self.logs}"
                )
            time.sleep(0.05)
        return json.loads(ready.read_text())

    def stop(self, *names: str, at_once: Callable[[], bool] = lambda: False) -> None:
        """Ask children to end, the last one first; kill those that do not.

        Parameters
        ----------
        names
            Which ones, in the order in which they were started.
        at_once
            Returns whether to kill them now instead of waiting.
        """
        ending = [self.running.pop(name) for name in reversed(names)]
        deadline = time.monotonic() + STOP_TIMEOUT
        asked = -_ASK_AGAIN
        while left := [child for child in ending if child.poll() is None]:
            now = time.monotonic()
            if now > deadline or at_once():
                _kill(left)
                return
            if now - asked > _ASK_AGAIN:
                for child in left:
                    child.send_signal(signal.SIGTERM)
                asked = now
            time.sleep(0.02)


def _kill(children: Sequence[subprocess.Popen[bytes]]) -> None:
    for child in children:
        child.kill()
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel
            child.wait(timeout=STOP_TIMEOUT)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
