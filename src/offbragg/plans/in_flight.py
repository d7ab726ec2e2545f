"""What a plan has asked for and what it waits for, in words, for those who look on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from bluesky.utils import Msg, MsgGenerator

from offbragg.plans.messages import ANNOUNCED_RUN, LACKING_ROOM
from offbragg.plans.noting import noting
from offbragg.protocols import DescribesWait, Positioned, meets

log = logging.getLogger(__name__)

_SHORT = 1.0  # s; what takes less is not worth a word


class InFlight:
    """Follows plans; asked from another thread, it returns what they wait for.

    Parameters
    ----------
    clock
        s.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sets: tuple[tuple[Any, Any, Any, float], ...] = ()
        """Status, device, value, since when; replaced as a whole."""
        self._room = ""
        self.announced: Mapping[str, Any] = {}
        """Start document of a run to come, as far as the plan knows it; empty if none is."""

    def preprocessor(self, plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
        """Follow a plan. For ``RE.preprocessors``, as the last one."""
        self._forget()
        try:
            return (yield from noting(plan, answered=self._note))
        finally:
            self._forget()

    def _forget(self) -> None:
        self._sets, self._room, self.announced = (), "", {}

    def _note(self, msg: Msg, answer: Any) -> None:
        try:
            if msg.command == "set":
                left = tuple(each for each in self._sets if not each[0].done)
                if answer is not None and not answer.done:
                    left = (*left, (answer, msg.obj, msg.args[0], self._clock()))
                self._sets = left
            elif msg.command == LACKING_ROOM:
                self._room = str(answer or "").partition("\n")[0]
            elif msg.command == ANNOUNCED_RUN:
                self.announced = msg.kwargs["start"]
        except Exception:  # whatever a device answers: the plan goes on
            log.debug("a message is not understood: %s", msg, exc_info=True)

    def waits(self) -> list[str]:
        """Return what is waited for."""
        now = self._clock()
        found = [
            text
            for status, device, value, since in self._sets
            if not status.done and (text := _describe(device, value, now - since))
        ]
        return [*found, *([f"no room: {self._room}"] if self._room else ())]


def _describe(device: Any, value: Any, seconds: float) -> str:
    """Return what a device has still to do; nothing while it may be done at once.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> _describe(SimpleNamespace(name="phi", position=3.5), 60.0, seconds=2.0)
    'moving phi: at 3.5, to 60'
    """
    if meets(device, DescribesWait) and (text := device.waits_for):
        return text
    if seconds < _SHORT:
        return ""
    where = f"at {_short(device.position)}, " if meets(device, Positioned) else ""
    return f"moving {device.name}: {where}to {_short(value)}"


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)[:60]
