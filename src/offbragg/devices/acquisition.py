"""One acquisition of an areaDetector camera: how it is started, watched and ended.

``Acquire`` is always written *without* put completion. A put that waits for the end of a series
occupies the channel until then, and a second one on it (an abort) blocks everything that this
process asks of that IOC, for as long as 60 s. The end is known from monitors instead, and from
looking now and then, because a monitor may be lost while the connection is.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from typing import Any, Protocol

from offbragg.errors import DeviceError

log = logging.getLogger(__name__)

READY = ("Idle", "Error", "Aborted")
"""States in which the IOC acts on Acquire."""

ARMING = 10.0  # s; camserver takes 26 ms
ABORTING = 20.0  # s; an abort holds the IOC's port for 2 s
LAG = 5.0  # s that a driver may need to take a put
PATIENCE = 2.0  # s that the event of a monitor may be late
LOOK = 0.5  # s between two looks, should a monitor be lost
SILENCE = (TimeoutError, UserWarning)  # pyepics warns first; who makes warnings errors has those
INSIST = 3.0  # s until an abort that changed nothing is repeated


class Camera(Protocol):
    """The records that an acquisition needs."""

    acquire: Any
    acquiring: Any
    armed: Any
    state: Any


class Claim(Protocol):
    """A sign for other processes that this one acquires."""

    def take(self) -> None:
        """Take the claim."""
        ...

    def release(self) -> None:
        """Release the claim."""
        ...


def is_acquiring(cam: Camera) -> bool:
    """Return whether the driver acquires or is armed, asked of the IOC.

    ``Acquire`` itself is not asked: it reads 0 as soon as 0 was put, before the driver took it.
    """
    return bool(cam.acquiring.get(use_monitor=False) or cam.armed.get(use_monitor=False))


def is_idle(cam: Camera) -> bool:
    """Return whether nothing is acquired and the driver would start something, asked of the IOC."""
    return str(cam.state.get(use_monitor=False)) in READY and not is_acquiring(cam)


def end(cam: Camera, *, timeout: float = ABORTING) -> bool:
    """Abort whatever is acquired and wait until the detector is idle; whether it became idle.

    An IOC that is silent, or away for a moment, has until ``timeout`` (s).
    """
    deadline = time.monotonic() + timeout
    insist = 0.0
    while True:
        with contextlib.suppress(*SILENCE):
            if is_idle(cam):
                return True
            if time.monotonic() >= insist:
                cam.acquire.put(0)
                insist = time.monotonic() + INSIST
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


def await_idle(cam: Camera, *, timeout: float = ABORTING) -> bool:
    """Wait until the detector is idle, without ending anything; whether it became idle."""
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(*SILENCE):  # a silent IOC has until then
            if is_idle(cam):
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)


class Acquisition:
    """One acquisition, which can be aborted at any moment, also before it was started.

    Parameters
    ----------
    cam
        Its records.
    name
        Of the detector, for errors.
    claim
        Taken from the start to the end.
    """

    def __init__(self, cam: Camera, *, name: str, claim: Claim) -> None:
        self.cam = cam
        self.name = name
        self.armed = threading.Event()
        """Camserver has acknowledged the exposure command."""
        self.done = threading.Event()
        """The driver has ended it, well or not."""
        self.began = 0.0
        """When it was armed by the IOC's clock, POSIX s; NaN if that is not known."""
        self.clock = 0.0
        """The same by this host's monotonic clock, s."""
        self.arming_time: float | None = None
        """From the put of Acquire to the arrival of Armed, s."""
        self._claim = claim
        self._lock = threading.RLock()
        self._aborted = self._cut_short = False
        self._put_at: float | None = None
        self._taken = threading.Event()  # the driver has begun
        self._seen_armed: float | None = None
        self._watches: list[tuple[Any, int]] = []

    @property
    def started(self) -> bool:
        """Whether Acquire was put."""
        return self._put_at is not None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.started and not self.done.is_set()

    @property
    def cut_short(self) -> bool:
        """Whether it was aborted while it ran."""
        return self._cut_short

    def start(self) -> None:
        """Put 1 to Acquire.

        Raises
        ------
        DeviceError
            If it was aborted before.
        """
        with self._lock:
            if self._aborted:
                raise DeviceError(f"{self.name} was stopped before it was armed")
            for signal, callback in (
                (self.cam.acquiring, self._on_acquiring),
                (self.cam.armed, self._on_armed),
            ):
                self._watches.append((signal, signal.subscribe(callback, run=False)))
            self._claim.take()
            self._put_at = time.monotonic()
            try:
                self.cam.acquire.put(1)
            except Exception:
                self._finish()
                raise

    def await_armed(self, timeout: float = ARMING) -> bool:
        """Wait until camserver has acknowledged the exposure command; whether it has.

        Raises
        ------
        DeviceError
            If it was aborted meanwhile.
        """
        deadline = time.monotonic() + timeout
        look = time.monotonic() + LOOK
        while not self.armed.wait(0.02):
            if self._aborted:
                raise DeviceError(f"{self.name} was stopped before it was armed")
            if self.done.is_set():
                return self.armed.wait(LOOK)  # the events of both come on ways of their own
            if time.monotonic() > deadline:
                return False
            if time.monotonic() > look:
                self._look()
                look = time.monotonic() + LOOK
        return True

    def await_done(self, timeout: float) -> bool:
        """Wait until the driver has ended it; whether it has."""
        deadline = time.monotonic() + timeout
        while not self.done.wait(max(min(LOOK, deadline - time.monotonic()), 0.0)):
            self._look()
            if time.monotonic() > deadline:
                return self.done.is_set()
        return True

    def abort(self) -> None:
        """Ask for its end, if it has not ended, and do not wait.

        Nothing that has not been started can be started afterwards.
        """
        with self._lock:
            self._aborted = True
            if self.running:
                self._cut_short = True
                self.cam.acquire.put(0)

    def end(self, timeout: float = ABORTING) -> bool:
        """Abort it and wait until the detector is idle; whether it became idle."""
        deadline = time.monotonic() + timeout
        with contextlib.suppress(*SILENCE):  # `end` below insists
            self.abort()
        if not self.started:
            return True
        # a driver that lags has not begun yet: idle means nothing before it did
        while not self.done.is_set() and time.monotonic() < deadline:
            self._look()
            if self._taken.is_set() and not self.done.is_set():
                break
            self.done.wait(0.02)
        if self.done.is_set():  # what runs later is somebody else's
            await_idle(self.cam, timeout=LAG)
            return True
        idle = end(self.cam, timeout=max(deadline - time.monotonic(), 0.0))
        if idle:
            self._finish()
        return idle

    def _look(self) -> None:
        """Ask the IOC, in case a monitor was lost."""
        with contextlib.suppress(*SILENCE):
            if self.cam.acquiring.get(use_monitor=False):
                self._taken.set()
                if not self.armed.is_set() and self.cam.armed.get(use_monitor=False):
                    # the monitor's event has the time stamp, and may be on its way
                    self._seen_armed = self._seen_armed or time.monotonic()
                    if time.monotonic() > self._seen_armed + PATIENCE:
                        self._on_armed(1, math.nan)
            elif self._taken.is_set():
                self._finish()
            elif time.monotonic() > (self._put_at or 0.0) + LAG and is_idle(self.cam):
                self._finish()  # it has been and gone, or was not taken at all

    def _on_acquiring(self, value: object = None, **_: object) -> None:
        if value:
            self._taken.set()
        elif self._taken.is_set():
            self._finish()

    def _on_armed(self, value: object = None, timestamp: float | None = None, **_: object) -> None:
        if value and not self.armed.is_set():
            self.clock = time.monotonic()
            self.began = math.nan if timestamp is None else float(timestamp)
            if self._put_at is not None:
                self.arming_time = self.clock - self._put_at
            self._taken.set()
            self.armed.set()

    def _finish(self) -> None:
        self.done.set()
        self._claim.release()
        watches, self._watches = self._watches, []
        for signal, watch in watches:
            signal.unsubscribe(watch)
