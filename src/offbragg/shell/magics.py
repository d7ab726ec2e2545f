"""The text about a pause, the look at the host, and Bluesky's ``%mov %movr %ct %wa``."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.magics import BlueskyMagics, get_labeled_devices
from bluesky.utils import RunEngineInterrupted  # pyright: ignore[reportPrivateImportUsage]
from IPython.core.error import UsageError
from IPython.core.magic import line_magic, magics_class

from offbragg.alarms.board_file import read_board
from offbragg.alarms.host import host_load
from offbragg.errors import DeviceError
from offbragg.followers.backlog import read_backlog
from offbragg.printable import printable
from offbragg.spelling import did_you_mean

log = logging.getLogger(__name__)


PAUSED = """\
a plan is paused. Continue with one of:

RE.resume()        continue; an interrupted sweep starts again, as a new run
RE.abort("why")    clean up and end the run as aborted; its frames are kept
RE.stop()          clean up and end the run as a success
RE.halt()          end it without cleaning up: for emergencies only"""


_LOOK = 5.0  # between two checks of the host, s


_QUIET = 600.0  # between two warnings about it, s


_DEVICE = re.compile(r"[A-Za-z_][\w.]*")


class HostLook:
    """Whether this host is overloaded: then sweeps start late and the stacker lags.

    Parameters
    ----------
    journal
        The journal directory, where watchdogs and followers write their state.
    clock
        Monotonic, s.
    """

    def __init__(self, journal: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._clock = clock
        self._looked = self._warned = -math.inf
        self._busy = ""

    def __call__(self) -> str:
        """Return the overload in words, or an empty text; it is checked every few seconds."""
        if self._clock() - self._looked >= _LOOK:
            self._looked = self._clock()
            stacking = read_backlog(self._journal).get("stack", {})
            self._busy = host_load(read_board(self._journal), stacking)["busy"]
        return self._busy

    def warn(self) -> None:
        """Warn if the host is overloaded, at most every ten minutes."""
        busy = self()
        if busy and self._clock() - self._warned >= _QUIET:
            self._warned = self._clock()
            log.warning(
                "this host is too busy: %s. Sweeps may start late; stop other programs here", busy
            )


@magics_class
class PromptMagics(BlueskyMagics):
    """Bluesky's ``%mov %movr %ct %wa``, with messages about what was typed wrongly.

    They have a RunEngine of their own and record nothing.
    """

    @line_magic
    def mov(self, line: str) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Move to positions: %mov phi 10 omega 0."""
        self._move("mov", line, bps.mv)

    @line_magic
    def movr(self, line: str) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Move by distances: %movr phi 10."""
        self._move("movr", line, bps.mvr)

    def _move(self, magic: str, line: str, plan: Callable[..., Any]) -> None:
        pairs = moves_of(magic, line, self._names)
        with self._interruptible(f"%{magic} was interrupted", [device for device, _ in pairs]):
            self.RE(plan(*(each for pair in pairs for each in pair)))

    @line_magic
    def ct(self, line: str) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Count once with the detectors, or with those named: %ct, %ct ring, %ct motors."""
        labels = self._labels()
        found = [
            _counting(device)
            for word in _words(line) or ["detectors"]
            for _, device in self._named("ct", word, labels)
        ]
        if not found:
            raise UsageError(f"%ct finds no detectors here; name one of: {_listed(labels)}")
        for device in found:
            _check_usable(device.name, device, "read")
        print("This is not recorded as a run.")
        with self._interruptible("%ct was interrupted", []):
            self.RE(_count(found), _print_event)

    @line_magic
    def wa(self, line: str) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Print the positions of all devices, or of those named: %wa, %wa motors, %wa phi."""
        labels = self._labels()
        words = _words(line)
        shown = {word: self._named("wa", word, labels) for word in words} or labels
        for word, devices in shown.items():
            print("\n".join([word, *(f"  {row}" for row in where_all(devices)), ""]))

    @property
    def _names(self) -> dict[str, Any]:
        assert self.shell is not None
        return self.shell.user_ns

    def _labels(self) -> dict[str, list[tuple[str, Any]]]:
        return get_labeled_devices(user_ns=self._names)

    def _named(
        self, magic: str, word: str, labels: Mapping[str, list[tuple[str, Any]]]
    ) -> list[tuple[str, Any]]:
        """Return the devices of a label, or the one of that name."""
        wanted = word.strip("[]")
        if wanted in labels:
            return labels[wanted]
        if of_two_words := [label for label in labels if wanted in label.split()]:
            return labels[of_two_words[0]]
        device = _find(wanted, self._names)
        if device is None:
            raise UsageError(
                f"%{magic}: {wanted} is neither a label nor a device"
                f"{did_you_mean(wanted, [*labels, *_devices(self._names)])}; "
                f"there are {_listed(labels)}"
            )
        return [(wanted, device)]

    @contextlib.contextmanager
    def _interruptible(self, what: str, moved: Sequence[object]) -> Iterator[None]:
        self.RE.waiting_hook = self.pbar_manager  # type: ignore[assignment]
        self.RE.state_hook = getattr(self.pbar_manager, "follow", None)
        try:
            yield
        except RunEngineInterrupted:
            with contextlib.redirect_stdout(io.StringIO()):
                self.RE.abort()
            stand = [
                f"{getattr(device, 'name', device)} is at {position:.6g}"
                for device in moved
                if isinstance(position := getattr(device, "position", None), Real)
            ]
            raise DeviceError(": ".join([what, *([", ".join(stand)] if stand else [])])) from None
        finally:
            self.RE.waiting_hook = None


def _words(line: str) -> list[str]:
    """Split a line at spaces and commas; a word in quotes may contain spaces."""
    return [a or b or c for a, b, c in re.findall(r"'([^']*)'|\"([^\"]*)\"|([^\s,'\"]+)", line)]


def moves_of(magic: str, line: str, names: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Return (device, target) of what was typed after ``%mov``.

    Parameters
    ----------
    magic
        "mov" or "movr".
    line
        What was typed: devices and targets in turn, also as ``phi=10, omega=0``.
    names
        What can be typed at the prompt.

    Raises
    ------
    UsageError
        If a word cannot be understood; it is named.
    """
    words = [word.strip(",") for word in re.sub(r"(?<=\w)\s*=\s*(?=[\w.+-])", " ", line).split()]
    words = [word for word in words if word]
    usage = f"%{magic} takes pairs of a device and a number, as: %{magic} phi 10 omega 0"
    if not words:
        raise UsageError(usage)
    pairs: list[tuple[Any, Any]] = []
    seen: set[str] = set()
    for i in range(0, len(words), 2):
        word = words[i]
        device = _find(word, names)
        if device is None:
            movable = [name for name, each in _devices(names).items() if hasattr(each, "set")]
            raise UsageError(
                f"{word} is not a device{did_you_mean(word, movable)}\n{usage}\n"
                f"These can be moved: {', '.join(sorted(movable))}"
            )
        if not hasattr(device, "set"):
            raise UsageError(f"{word} cannot be moved: it is a {type(device).__name__}\n{usage}")
        if i + 1 == len(words):
            raise UsageError(f"{word} has no target\n{usage}")
        if device.name in seen:
            raise UsageError(f"{word} is named twice\n{usage}")
        seen.add(device.name)
        _check_usable(word, device, "moved")
        if magic == "movr" and not _has_number(device):
            raise UsageError(f"{word} has no position to move from: use %mov")
        pairs.append((device, _target(word, device, words[i + 1], names)))
    return pairs


def _target(word: str, device: object, text: str, names: Mapping[str, Any]) -> Any:
    """Return a number or, for a device that is set to a word (as open), the word."""
    try:
        value = eval(text, {**names})
    except Exception:
        value = None
    if _has_number(device):
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise UsageError(f"{word} moves to a number, and {text} is not one")
        return value
    return value if isinstance(value, (Real, str)) else text


def _has_number(device: object) -> bool:
    return isinstance(getattr(device, "position", None), Real)


def _check_usable(word: str, device: object, what: str) -> None:
    if not getattr(device, "connected", True):
        raise DeviceError(
            f"{word} cannot be {what}: not connected, some of its records do not answer\n"
            "Check that its IOC runs; offbragg doctor names the records."
        )


def _find(word: str, names: Mapping[str, Any]) -> Any:
    """Return the device that a word names, also as ``pilatus.step``; None if there is none."""
    if not _DEVICE.fullmatch(word):
        return None
    first, *rest = word.split(".")
    found = names.get(first)
    for part in rest:
        found = getattr(found, part, None)
    return found if _is_device(found) else None


def _is_device(thing: object) -> bool:
    return (
        not isinstance(thing, type)
        and hasattr(thing, "name")
        and (hasattr(thing, "set") or hasattr(thing, "read"))
    )


def _devices(names: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: each for name, each in names.items() if not name.startswith("_") and _is_device(each)
    }


def _listed(labels: Mapping[str, Sequence[tuple[str, Any]]]) -> str:
    return "; ".join(
        f"{label}: {', '.join(name for name, _ in devices)}" for label, devices in labels.items()
    )


def _counting(device: Any) -> Any:
    """Return the part of a device that takes single readings; the device if it has none."""
    step = getattr(device, "step", None)
    return step if hasattr(step, "trigger") else device


def _count(devices: Sequence[Any]) -> Any:
    from bluesky.plans import count

    return count(list(devices))


def _print_event(name: str, doc: Mapping[str, Any]) -> None:
    if name == "event":
        for key, value in doc["data"].items():
            print(f"{key:<30} {value}")


def where_all(devices: Sequence[tuple[str, Any]]) -> list[str]:
    """Return a table of positions, limits and offsets of devices.

    Parameters
    ----------
    devices
        (name at the prompt, device).
    """
    rows = [_where(name, device) for name, device in devices]
    placed = [row for row in rows if len(row) > 1]
    lines: list[str] = []
    if placed:
        head = ["", "position", "low limit", "high limit", "offset", ""]
        form = "{:<24} {:>12} {:>12} {:>12} {:>12} {}".format
        lines += [form(*row).rstrip() for row in (head, *placed)]
    lines += [row[0] for row in rows if len(row) == 1]
    return lines


def _where(name: str, device: Any) -> list[str]:
    if not getattr(device, "connected", True):
        return [f"{name}: not connected"]
    try:
        position = device.position
    except Exception as error:
        if not hasattr(type(device), "position"):
            return [name]
        return [f"{name}: {printable(str(error).partition(chr(10))[0]) or type(error).__name__}"]
    limits = _asked(lambda: device.limits)
    low, high = limits if isinstance(limits, (tuple, list)) and len(limits) == 2 else (None, None)
    offset = _asked(lambda: device.user_offset.get())
    units = _asked(lambda: device.egu) or ""
    return [name, *map(_number, (position, low, high, offset)), str(units)]


def _asked(question: Callable[[], Any]) -> Any:
    """Return an attribute's value; None for a device without it."""
    try:
        return question()
    except Exception:
        return None


def _number(value: object) -> str:
    if isinstance(value, Real) and not isinstance(value, bool):
        return f"{float(value):.6g}"
    return "–" if value is None else printable(str(value))
