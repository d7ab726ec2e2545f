"""What ``offbragg up`` shows: one status line, every change, and the logs with names in front.

It has a thread of its own. A terminal that is held (Ctrl-S), or a pipe that is not read, blocks
this thread only: children are looked after all the same.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue

from rich.console import Console
from rich.live import Live
from rich.text import Text

from offbragg.host.supervisor import ChildState, ChildStatus
from offbragg.printable import printable

_EVERY = 0.2  # between two looks at the logs, s
_PROGRESS_EVERY = 1.0  # between two looks at how far the services are, s
_CHUNK = 1 << 20  # bytes of one log that are shown at once
_COLOURS = ("cyan", "magenta", "green", "yellow", "blue")


class Screen(threading.Thread):
    """Show what happens until closed.

    Parameters
    ----------
    names
        Of the children, in order.
    logs
        Directory of their logs; what they hold already is not shown.
    progress
        Returns a few words about a child that runs.
    as_json
        Write each change to stdout as one line of JSON, in place of the status line.
    more
        Returns a line for people about a change, or an empty string.
    """

    def __init__(
        self,
        names: Sequence[str],
        logs: Path,
        *,
        progress: Callable[[str], str] = lambda name: "",
        as_json: bool = False,
        more: Callable[[ChildState], str] = lambda state: "",
    ) -> None:
        super().__init__(name="offbragg-screen", daemon=True)
        self._tails = {name: _Tail(logs / f"{name}.log") for name in names}
        self._states: dict[str, ChildState] = {}
        self._changes: SimpleQueue[ChildState] = SimpleQueue()
        self._progress = progress
        self._words: dict[str, str] = {}
        self._looked = 0.0
        self._as_json = as_json
        self._more = more
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._closing = threading.Event()

    def __enter__(self) -> Screen:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self.join(2.0)  # not longer: the terminal may be held

    def changed(self, state: ChildState) -> None:
        """Take note of a change; never blocks."""
        self._changes.put(state)

    def run(self) -> None:
        """Show until closed, or until the terminal is gone."""
        in_place = self._console.is_terminal and not self._as_json
        line = Live(console=self._console, auto_refresh=False, redirect_stdout=False,
                    redirect_stderr=False) if in_place else None  # fmt: skip
        with contextlib.suppress(OSError, ValueError), line or contextlib.nullcontext():
            while not self._closing.wait(_EVERY):
                self._show(line)
            self._show(line)

    def _show(self, line: Live | None) -> None:
        changes: list[ChildState] = []
        with contextlib.suppress(Empty):
            while True:
                changes.append(self._changes.get_nowait())
        for name, tail in self._tails.items():
            for text in tail.lines():
                self._print(name, printable(text))
        for state in changes:
            self._states[state.name] = state
            if self._as_json:
                sys.stdout.write(json.dumps(state.to_dict()) + "\n")
                sys.stdout.flush()
            elif line is None or state.status in (ChildStatus.WAITING, ChildStatus.REFUSED):
                self._print(state.name, f"{_clock(state.time)} {describe(state)}", style="bold")
            if more := "" if self._as_json else self._more(state):
                self._print(state.name, printable(more), style="bold")
        if line is not None:
            line.update(self._status_line(), refresh=True)

    def _print(self, name: str, text: str, style: str = "") -> None:
        colour = _COLOURS[list(self._tails).index(name) % len(_COLOURS)]
        width = max(map(len, self._tails))
        self._console.print(Text.assemble((f"{name:{width}} | ", colour), (text, style)))

    def _status_line(self) -> Text:
        if time.monotonic() - self._looked > _PROGRESS_EVERY:
            self._words = {name: self._progress(name) for name in self._states}
            self._looked = time.monotonic()
        return status_line(self._states, self._words)


def status_line(states: Mapping[str, ChildState], words: Mapping[str, str]) -> Text:
    """Return one line about all children; ``words`` are more about those that run."""
    parts: list[tuple[str, str]] = []
    for name, state in states.items():
        more = words.get(name, "") if state.status is ChildStatus.RUNNING else ""
        part = f"{name} {describe(state)}{f', {more}' if more else ''}"
        parts.append((printable(part), _STYLES[state.status]))
    text = Text(" · ", no_wrap=True, overflow="ellipsis").join(Text(*part) for part in parts)
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


_STYLES = {
    ChildStatus.STARTING: "",
    ChildStatus.RUNNING: "green",
    ChildStatus.WAITING: "yellow",
    ChildStatus.REFUSED: "bold red",
    ChildStatus.ENDED: "",
}


def describe(state: ChildState) -> str:
    """Describe what a child does in a few words.

    Examples
    --------
    >>> crashed = ChildState("stack", ChildStatus.WAITING, reason="killed by SIGKILL", wait=2.0)
    >>> print(describe(crashed))
    ended: killed by SIGKILL; starts again in 2 s
    """
    again = f" (restarted {state.restarts} ×)" if state.restarts else ""
    match state.status:
        case ChildStatus.WAITING:
            return f"ended: {state.reason}; starts again in {state.wait:g} s"
        case ChildStatus.REFUSED:
            return f"NOT RESTARTED: {state.reason}"
        case ChildStatus.RUNNING:
            where = f" at {state.ready['url']}" if "url" in state.ready else ""
            return f"running{where}{again}"
        case _:
            return f"{state.status}{again}"


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))


class _Tail:
    """The lines that are appended to a file from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rest = b""
        try:
            self._at = path.stat().st_size
        except OSError:
            self._at = 0

    def lines(self) -> Iterator[str]:
        """Return the whole lines since the last call."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._at:  # it was shortened
                    self._at, self._rest = 0, b""
                file.seek(self._at)
                new = file.read(_CHUNK)
        except OSError:
            return
        self._at += len(new)
        *whole, self._rest = (self._rest + new).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
