"""What people see while they wait: a bar for each thing that takes time, a row for each sweep."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from offbragg.printable import printable

if TYPE_CHECKING:  # its import takes a tenth of a second, and who describes a run needs none of it
    from rich.console import Console
    from rich.progress import TaskID


class Bars:
    """Show the status objects that a plan waits for; the RunEngine's ``waiting_hook``.

    A status that can be watched (``watch``) has a bar with the time left from its first report
    until it is done, however often the plan stops waiting to do something else. What is done
    before it reports anything has none. When the plan pauses or ends, all bars go: set `follow` as
    the RunEngine's ``state_hook``, because a plan that is paused in a wait does not end it.

    Parameters
    ----------
    console
        Where to draw; nothing is drawn if it is not a terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = console or _stderr()
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[reading]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._lock = threading.RLock()
        self._tasks: dict[Any, TaskID | None] = {}  # of what is waited for; None: no report yet

    def __call__(self, statuses: Iterable[Any] | None) -> None:
        """Watch what is new, and drop what is done."""
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            return
        new = []
        with self._lock:
            for status in statuses or ():
                if hasattr(status, "watch") and status not in self._tasks and not status.done:
                    self._tasks[status] = None
                    new.append(status)
            for status in [status for status in self._tasks if status.done]:
                self._drop(status)
        for status in new:  # reports at once, perhaps
            status.watch(self._update_of(status))
            status.add_callback(self._drop)

    def follow(self, state: str, before: str) -> None:
        """Take a new state of the RunEngine: nothing is drawn over a prompt."""
        if state in ("idle", "paused", "panicked"):
            with self._lock:
                for status in list(self._tasks):
                    self._drop(status)

    def _drop(self, status: object) -> None:
        with self._lock:
            task = self._tasks.pop(status, None)
            if task is not None:
                self._bars.remove_task(task)
            if not any(task is not None for task in self._tasks.values()):
                self._bars.stop()

    def _update_of(self, status: Any) -> Callable[..., None]:
        def update(
            *,
            name: str | None = None,
            current: float | None = None,
            initial: float | None = None,
            target: float | None = None,
            unit: str | None = None,
            fraction: float | None = None,
            **_: object,
        ) -> None:
            """Take bluesky's report; its ``fraction`` is what is *left* of the way."""
            done = 1.0 - fraction if fraction is not None else None
            if done is None and None not in (current, initial, target) and target != initial:
                done = abs(current - initial) / abs(target - initial)  # type: ignore[operator]
            reading = "" if current is None else f"{current:.4g} {unit or ''}"
            if target is not None:
                reading += f" → {target:.4g}"
            with self._lock:
                if status not in self._tasks or status.done:
                    return
                task = self._tasks[status]
                if task is None:
                    task = self._tasks[status] = self._bars.add_task("", total=1.0, reading="")
                self._bars.update(
                    task,
                    description=printable(name or ""),
                    completed=done,
                    reading=printable(reading),
                )
                self._bars.start()

        return update


class Rows:
    """Print one row for each run, when it ends.

    Parameters
    ----------
    console
        Where to print.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or _stderr()
        self._starts: dict[str, Mapping[str, Any]] = {}

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take a document; whatever it holds, a row must not fail a run."""
        if name == "start":
            self._starts[doc["uid"]] = doc
        elif name == "stop":
            start = self._starts.pop(doc["run_start"], {})
            try:
                row = describe_run(start, doc)
            except (KeyError, TypeError, ValueError) as error:
                row = f"run {doc['run_start'][:8]} · {doc['exit_status']} ({error!r})"
            self._console.print(row, highlight=False, markup=False)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def describe_run(start: Mapping[str, Any], stop: Mapping[str, Any]) -> str:
    """Return in one line what a run measured.

    Examples
    --------
    >>> start = {"uid": "0123456789", "time": 100.0, "scan_id": 7, "purpose": "data",
    ...          "sample": {"name": "LSMO-140"}, "temperature": {"setpoint": 120.0},
    ...          "sweep": {"axis": "phi", "start": 0.0, "step": 0.5, "n_frames": 60}}
    >>> describe_run(start, {"exit_status": "success", "time": 112.5})
    '#7 01234567 · LSMO-140 · 120 K · phi 0 → 30° · 60 frames · 12.5 s · success'
    """
    parts = [f"#{start.get('scan_id', '?')} {start.get('uid', '')[:8]}"]
    sample = start.get("sample")
    if sample:
        parts.append(sample["name"] if isinstance(sample, Mapping) else str(sample))
    if "temperature" in start:
        parts.append(f"{start['temperature']['setpoint']:g} K")
    if sweep := start.get("sweep"):
        end = sweep["start"] + sweep["step"] * sweep["n_frames"]
        parts.append(f"{sweep['axis']} {sweep['start']:g} → {end:g}°")
        parts.append(f"{sweep['n_frames']} frames")
    parts.append(f"{stop['time'] - start.get('time', stop['time']):.1f} s")
    parts.append(stop["exit_status"])
    if stop["exit_status"] == "success" and stop.get("reason"):  # else it has just been an error
        parts.append(str(stop["reason"]).partition("\n")[0])
    return printable(" · ".join(parts))
