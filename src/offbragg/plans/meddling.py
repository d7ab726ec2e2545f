"""Set points that somebody else changes while a run is open: its stop document has them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bluesky.preprocessors import msg_mutator
from bluesky.utils import Msg, MsgGenerator

log = logging.getLogger(__name__)

_MOVES = frozenset({"set", "prepare", "kickoff"})
_OFTEN = 0.5  # s, between two looks at motors
_SAME = 0.05  # K


def noting_others(
    devices: Mapping[str, Any], *, clock: Callable[[], float] = time.monotonic
) -> Callable[[MsgGenerator[Any]], MsgGenerator[Any]]:
    """Make a preprocessor that adds to a stop document's reason which set points others changed.

    A motor's is compared throughout the run with what it was when the run was opened, unless the
    plan itself moves that motor: then the move says it. A temperature's is compared with what was
    asked for, or, if this session asked for none, with what it was.

    Parameters
    ----------
    devices
        Those of the beamline: what has a ``user_setpoint`` or knows ``changed_by_others``.
    clock
        Monotonic, s.
    """
    open_runs: dict[Any, _SetPoints] = {}

    def look(msg: Msg) -> Msg:
        if msg.command == "open_run":
            open_runs[msg.run] = _SetPoints(devices, clock)
        elif msg.command in _MOVES and msg.obj is not None:
            for run in open_runs.values():
                run.moved(msg.obj)
        elif msg.command == "collect" and msg.run in open_runs:
            open_runs[msg.run].look_sometimes()
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
        open_runs.clear()  # the RunEngine closes on its own what a plan left open
        return (yield from msg_mutator(plan, look))

    return preprocess


class _SetPoints:
    """The set points as they were when a run was opened."""

    def __init__(self, devices: Mapping[str, Any], clock: Callable[[], float]) -> None:
        self._clock = clock
        self._looked = clock()
        self._motors = {id(motor): motor for motor in _motors(devices)}
        self._before = {key: _set_point(motor) for key, motor in self._motors.items()}
        self._changed: dict[int, str] = {}
        self._heaters = [d for d in devices.values() if hasattr(d, "changed_by_others")]
        self._kelvin = {id(heater): _asked(heater) for heater in self._heaters}  # K

    def moved(self, device: object) -> None:
        """Take note of what the plan itself moves."""
        root = getattr(device, "root", device)
        for key, motor in list(self._motors.items()):
            if motor is device or getattr(motor, "root", motor) is root:
                del self._motors[key]
        self._heaters = [heater for heater in self._heaters if heater is not device]

    def look_sometimes(self) -> None:
        """Compare the motors: a set point that is put back later was another all the same."""
        if self._clock() - self._looked >= _OFTEN:
            self._look()

    def changes(self) -> list[str]:
        """Return what others have changed, with both numbers."""
        self._look()
        texts = [_changed(heater, self._kelvin[id(heater)]) for heater in self._heaters]
        return [text for text in (*self._changed.values(), *texts) if text]

    def _look(self) -> None:
        self._looked = self._clock()
        for key, motor in self._motors.items():
            before, now = self._before[key], _set_point(motor)
            if key in self._changed or before is None or now is None:
                continue
            if abs(now - before) > 1e-6 * max(abs(before), 1.0):
                self._changed[key] = (
                    f"{motor.name}: its set point was {before:g} when the run began, and {now:g} "
                    "later: somebody else has moved it"
                )


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


def _asked(heater: Any) -> float | None:
    """Return which temperature is to be held if this session has asked for none, K."""
    try:
        heater.changed_by_others()  # from now on a change is one
        return None if getattr(heater, "asked", None) is not None else heater.read_asked()
    except Exception as error:
        log.debug("%s: %s", heater.name, error)
        return None


def _changed(heater: Any, before: float | None) -> str:
    try:
        if text := str(heater.changed_by_others()):
            return text
        now = None if before is None else heater.read_asked()
    except Exception as error:
        log.debug("%s: %s", heater.name, error)
        return ""
    if before is None or now is None or abs(now - before) <= _SAME:
        return ""
    return (
        f"{heater.name}: its set point was {before:g} K when the run began, and is {now:g} K at "
        "its end: somebody else has changed it"
    )
