"""Child processes that live as long as the demo does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offbragg.errors import DeviceError

START_TIMEOUT = 120.0  # for each child to serve, s; a cold catalog takes 10 to 25


@dataclass
class Children:
    """Child processes that are watched while they are needed and ended together."""

    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Children:
        signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave one behind
        self.stop(*self.running)

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start ``python -m`` with these arguments, its output in a log of its name."""
        with (self.logs / f"{name}.log").open("ab") as log_file:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to pass on, in our order
            )

    def check(self) -> None:
        """Raise if a child has ended by itself, with the last it said."""
        for name, child in self.running.items():
            if child.poll() is not None:
                said = (self.logs / f"{name}.log").read_text(errors="replace").strip()
                raise DeviceError(
                    f"the {name} process ended by itself (exit code {child.returncode})\n"
                    + "\n".join(said.splitlines()[-5:])
                )

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

    def stop(self, *names: str) -> None:
        """Ask children to end, the last one first; kill those that do not."""
        ending = [self.running.pop(name) for name in reversed(names)]
        for child in ending:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in ending:
            try:
                child.wait(timeout=15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
