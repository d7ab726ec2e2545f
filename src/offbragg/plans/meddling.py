"""Set points that somebody else changes while a run is open: its stop document has them."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bluesky.preprocessors import msg_mutator
from bluesky.utils import Msg, MsgGenerator

log = logging.getLogger(__name__)

_MOVES = frozenset({"set", "prepare", "kickoff"})
_SAME = 0.05  # K


def noting_others(
    devices: Mapping[str, Any],
) -> Callable[[MsgGenerator[Any]], MsgGenerator[Any]]:
    """Make a preprocessor that adds to a stop document's reason which set points others changed.

    It is compared throughout the run, by its own monitor, with what it was when the run was opened:
    one that is put back was another all the same. Not compared is what the plan itself moves, since
    the move notices, and a temperature that its controller has not shown yet as asked for.

    Parameters
    ----------
    devices
        Those of the beamline: what has a ``user_setpoint`` or knows ``changed_by_others``; the
        latter may have its set point as ``asked_signal``.
    """
    open_runs: dict[Any, _SetPoints] = {}

    def look(msg: Msg) -> Msg:
        if msg.command == "open_run":
            open_runs[msg.run] = _SetPoints(devices)
        elif msg.command in _MOVES and msg.obj is not None:
            for run in open_runs.values():
                run.moved(msg.obj)
        elif msg.command == "close_run" and msg.run in open_runs:
            return with_changes(msg, open_runs.pop(msg.run).changes())
        return msg

    def with_changes(msg: Msg, changes: list[str]) -> Msg:
        if not changes:
            return msg
        for text in changes:
            log.warning("%s", text)
        first, newline, rest = str(msg.kwargs.get("reason") or "").partition("\n")
        reason = "; ".join([*([first] if first else []), *changes]) + newline + rest
        return msg._replace(kwargs={**msg.kwargs, "reason": reason})

    def preprocess(plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
        while open_runs:  # the RunEngine closes on its own what a plan left open
            open_runs.popitem()[1].forget()
        return (yield from msg_mutator(plan, look))

    return preprocess


class _SetPoints:
    """The set points as they were when a run was opened, and which others they had since."""

    def __init__(self, devices: Mapping[str, Any]) -> None:
        self._motors: list[tuple[Any, _Watch]] = []
        for motor in _motors(devices):
            if (before := _set_point(motor)) is not None:
                self._motors.append((motor, _Watch(motor.user_setpoint, before)))
        self._heaters = [
            (device, _Watch(getattr(device, "asked_signal", None), _held(device), _SAME))
            for device in devices.values()
            if hasattr(device, "changed_by_others")
        ]

    def moved(self, device: object) -> None:
        """Take note of what the plan itself moves."""
        root = getattr(device, "root", device)
        for watched in (self._motors, self._heaters):
            for entry in list(watched):
                own, watch = entry
                if own is device or getattr(own, "root", own) is root:
                    watch.forget()
                    watched.remove(entry)

    def forget(self) -> None:
        """End the monitors."""
        for _, watch in (*self._motors, *self._heaters):
            watch.forget()

    def changes(self) -> list[str]:
        """Return what others have changed, with both numbers, and end the monitors."""
        self.forget()
        motors = [_moved(motor, watch) for motor, watch in self._motors]
        heaters = [_changed(heater, watch) for heater, watch in self._heaters]
        return [text for text in (*motors, *heaters) if text]


class _Watch:
    """One set point, and the first value other than at the beginning that its monitor had.

    Parameters
    ----------
    signal
        The set point, as ophyd has it; None: it has no monitor.
    before
        Its value when the run was opened; None: it is not known, and nothing is watched.
    same
        By how much a value differs that is the same; None: a millionth.
    """

    def __init__(self, signal: Any, before: float | None, same: float | None = None) -> None:
        self.before = before
        self.other: float | None = None
        self._same = same
        self._forget: Callable[[], None] | None = None
        if signal is not None and before is not None:
            try:
                token = signal.subscribe(self._take, run=False)
            except Exception as error:
                log.debug("%s has no monitor: %s", getattr(signal, "name", signal), error)
            else:
                self._forget = lambda: signal.unsubscribe(token)

    def differs(self, value: float | None) -> bool:
        """Return whether a value is another than at the beginning."""
        if value is None or self.before is None:
            return False
        limit = 1e-6 * max(abs(self.before), 1.0) if self._same is None else self._same
        return abs(value - self.before) > limit

    def forget(self) -> None:
        """End the monitor."""
        forget, self._forget = self._forget, None
        if forget is not None:
            with contextlib.suppress(Exception):
                forget()

    def _take(self, value: Any = None, **_: Any) -> None:
        with contextlib.suppress(TypeError, ValueError):
            number = float(value)
            if self.other is None and math.isfinite(number) and self.differs(number):
                self.other = number


def _motors(devices: Mapping[str, Any]) -> Iterator[Any]:
    for device in devices.values():
        walk = getattr(device, "walk_subdevices", None)
        for each in (device, *((part for _, part in walk()) if walk is not None else ())):
            if hasattr(each, "user_setpoint"):
                yield each


def _set_point(motor: Any) -> float | None:
    """Return where a motor is to be, as its monitor has it; None while its record is away."""
    try:
        return float(motor.user_setpoint.get())
    except Exception as error:
        log.debug("%s: %s", motor.name, error)
        return None


def _moved(motor: Any, watch: _Watch) -> str:
    other = _set_point(motor) if watch.other is None else watch.other
    if other is None or not watch.differs(other):
        return ""
    return (
        f"{motor.name}: its set point was {watch.before:g} when the run began, and {other:g} "
        "later: somebody else has moved it"
    )


def _held(heater: Any) -> float | None:
    """Return which temperature is held and must stay, K; None: none, or it is not there yet."""
    try:
        changed = heater.changed_by_others()  # from now on a change is one
        held = heater.read_asked()
    except Exception as error:
        log.debug("%s: %s", heater.name, error)
        return None
    asked = getattr(heater, "asked", None)
    is_shown = asked is None or (held is not None and abs(held - asked) <= _SAME)
    return held if is_shown and not changed else None


def _changed(heater: Any, watch: _Watch) -> str:
    try:
        if text := str(heater.changed_by_others()):
            return text
        now = None if watch.before is None else heater.read_asked()
    except Exception as error:
        log.debug("%s: %s", heater.name, error)
        now = None
    if watch.before is None:
        return ""
    began = f"{heater.name}: its set point was {watch.before:g} K when the run began"
    if watch.differs(now):
        return f"{began}, and is {now:g} K at its end: somebody else has changed it"
    if watch.other is not None:
        put_back = "" if now is None else " and put it back"
        return f"{began}, and {watch.other:g} K later: somebody else has changed it{put_back}"
    return ""
