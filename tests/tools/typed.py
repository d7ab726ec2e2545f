"""A terminal with ``offbragg shell`` in it, that a test types into."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from types import TracebackType

import pexpect

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")
PROMPT = re.compile(r"\[([^\[\]]*)\] In \[(\d+)\]: ")


class Terminal:
    """``offbragg shell``, typed into by lines; what it shows has no colours here."""

    def __init__(
        self, beamline: Path | str, *, timeout: float = 120.0, cwd: Path | None = None
    ) -> None:
        self.timeout = timeout
        self.place = ""
        self._child = pexpect.spawn(
            sys.executable,
            # simple prompt: what is typed is not drawn again at each key
            ["-m", "offbragg", "shell", "--beamline", str(beamline), "--simple-prompt"],
            env={**os.environ, "TERM": "dumb", "COLUMNS": "200", "MPLBACKEND": "agg"},
            encoding="utf-8",
            timeout=timeout,
            echo=False,
            dimensions=(60, 200),
            cwd=cwd,
        )

    def __enter__(self) -> Terminal:
        self.greeting = self.wait_for_prompt()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if kind is None:
            self._child.sendline("exit")
            self._child.expect(pexpect.EOF)
        self._child.close(force=True)

    def wait_for_prompt(self) -> str:
        """Wait until it asks for the next line; give what it has shown before."""
        self._child.expect(PROMPT)
        assert self._child.match is not None
        self.place = self._child.match.group(1)
        return _COLOURS.sub("", self._child.before or "")

    def type(self, line: str) -> str:
        """Type a line; give what it shows."""
        self._child.sendline(line)
        return self.wait_for_prompt()

    def send(self, line: str) -> None:
        """Type a line without waiting."""
        self._child.sendline(line)

    def interrupt_twice(self) -> str:
        """Press Ctrl-C twice, as one does to stop a plan at once."""
        self._child.sendintr()
        self._child.expect("hit Ctrl")
        time.sleep(0.3)  # two within 0.1 s are one key that bounced, to Bluesky
        self._child.sendintr()
        return self.wait_for_prompt()
