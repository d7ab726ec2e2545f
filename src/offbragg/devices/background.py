"""Work that a device does behind a status: in a thread of its own, cancelled by an event."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from numbers import Real
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import ophyd
from ophyd.status import Status, StatusBase
from ophyd.utils.errors import DisconnectedError

from offbragg.errors import ConfigError, DeviceError

log = logging.getLogger(__name__)

GIVEN_UP = 65.0  # s; a Channel Access server gives up a put that does not complete after 60 s


_TELLING = 2.0  # s that a pause waits, at most, until its end is known to all who wait for it

_under_way: WeakKeyDictionary[Any, WeakSet[StatusBase]] = WeakKeyDictionary()
_under_way_lock = threading.Lock()


class Watched(Status):
    """A status that says how far it is, to whoever watches (as bluesky's progress bars do)."""

    def __init__(self, device: object) -> None:
        super().__init__(device)
        self._watchers: list[Callable[..., None]] = []

    def watch(self, watcher: Callable[..., None]) -> None:
        """Call ``watcher`` with name, current, initial, target and unit at every report."""
        self._watchers.append(watcher)

    def report(self, **how_far: object) -> None:
        """Call all watchers; one that fails must not fail the device."""
        for watcher in self._watchers:
            try:
                watcher(**how_far)
            except Exception:
                log.exception("a watcher of %s failed", self.obj)


def in_background(
    device: Any, work: Callable[..., None], *args: Any, status: Status | None = None
) -> Status:
    """Run ``work(*args)`` in a thread that may use Channel Access; the status tells its end.

    An exception of the work becomes the exception of the status, so a plan that waits for the
    status sees the device's own words. A record that does not answer becomes a `DeviceError`.
    """
    if status is None:
        status = Status(device)

    def run() -> None:
        try:
            work(*args)
        except (TimeoutError, DisconnectedError) as error:  # ophyd's: it names the record
            fail(
                status,
                DeviceError(f"{device.name}: {error}\nDoes the IOC run, and answer this host?"),
            )
        except Exception as error:
            fail(status, error)
        else:
            finish(status)

    with _under_way_lock:
        _under_way.setdefault(device, WeakSet()).add(status)
    thread = ophyd.get_cl().thread_class(target=run, name=f"{device.name}-{work.__name__}")
    thread.daemon = True
    thread.start()
    return status


def finish(status: StatusBase) -> None:
    """Mark a status finished, unless somebody stopped it first."""
    if not status.done:
        status.set_finished()


def fail(status: StatusBase, error: Exception) -> None:
    """Mark a status failed, unless it is decided already."""
    if not status.done:
        status.set_exception(error)


@contextmanager
def until_delivered(device: Any, *flights: StatusBase | None) -> Generator[None]:
    """Leave only once all who wait for what a device does have heard of its end.

    A RunEngine must know what a pause has ended before it says that it is paused: a failure that it
    hears of later takes the place of an abort that was asked for meanwhile, and the plan goes on
    (bluesky 1.15, ``RunEngine._status_object_completed``).

    Parameters
    ----------
    device
        What it does in the background is waited for, `_TELLING` at most.
    flights
        Other statuses of it.
    """
    with _under_way_lock:
        waited = [*_under_way.get(device, ()), *flights]
    heard: list[threading.Event] = []
    for status in waited:
        if status is not None and not status.done:
            heard.append(event := threading.Event())
            status.add_callback(lambda _, event=event: event.set())  # after those of the others
    yield
    deadline = time.monotonic() + _TELLING
    for event in heard:
        event.wait(max(deadline - time.monotonic(), 0.0))


class _Pending:
    """A put whose completion has not come yet."""

    def __init__(self) -> None:
        self.finished = threading.Event()
        self.since = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether the channel is free: it has completed, or the server has given it up."""
        return self.finished.is_set() or time.monotonic() > self.since + GIVEN_UP


_pending: dict[str, _Pending] = {}
_pending_lock = threading.Lock()


def put(signal: object, value: object, *, timeout: float = 10.0) -> None:
    """Write a record and wait until it has processed (put completion).

    A Channel Access server takes one put with completion per channel. A second one blocks all that
    this process asks of that server, for as long as 60 s: so it waits until the channel is free.

    Raises
    ------
    DeviceError
        If the record has not finished processing after ``timeout`` seconds, or had not finished
        with an earlier value by then.
    """
    deadline = time.monotonic() + timeout
    _await(signal, value, _begin_put(signal, value, deadline, timeout), deadline, timeout)


def put_all(*pairs: tuple[Any, Any], timeout: float = 10.0) -> None:
    """Write some records, one after the other, and wait until all of them have processed.

    Channel Access keeps the order on one server; the round trips overlap.

    Parameters
    ----------
    pairs
        Signals and values; of a signal that comes twice, the last value counts.
    timeout
        For all of them, s.

    Raises
    ------
    DeviceError
        As of `put`.
    """
    deadline = time.monotonic() + timeout
    begun = [
        (signal, value, _begin_put(signal, value, deadline, timeout))
        for signal, value in dict(pairs).items()
    ]
    for signal, value, pending in begun:
        _await(signal, value, pending, deadline, timeout)


def _begin_put(signal: Any, value: Any, deadline: float, timeout: float) -> _Pending:
    mine = _claim_channel(_name_of(signal), value, deadline, timeout)
    try:
        signal.put(value, use_complete=True, callback=lambda **_: mine.finished.set())
    except BaseException:
        mine.finished.set()
        raise
    return mine


def _await(
    signal: object, value: object, pending: _Pending, deadline: float, timeout: float
) -> None:
    if not pending.finished.wait(max(deadline - time.monotonic(), 0.0)):
        raise DeviceError(
            f"{_name_of(signal)} did not take {value!r} in {timeout:g} s\n"
            "The IOC accepted the put and never completed it: is its port locked, "
            "or its hardware disconnected?"
        )


def _name_of(signal: Any) -> str:
    return str(getattr(signal, "setpoint_pvname", None) or signal.name)


def _claim_channel(name: str, value: object, deadline: float, timeout: float) -> _Pending:
    """Wait until no put with completion is pending on a channel, and register one."""
    while True:
        with _pending_lock:
            before = _pending.get(name)
            if before is None or before.over:
                mine = _pending[name] = _Pending()
                return mine
        if time.monotonic() > deadline:
            age = time.monotonic() - before.since
            raise DeviceError(
                f"{name} was not set to {value!r}: a put of {age:.0f} s ago has not completed, "
                f"and did not in {timeout:g} s more\n"
                f"Is the IOC's port locked, or its hardware disconnected? Repeat this in "
                f"{max(GIVEN_UP - age, 1.0):.0f} s."
            )
        before.finished.wait(0.05)


def verify(signal: Any, value: float, *, rel_tol: float = 1e-6, timeout: float = 5.0) -> None:
    """Wait until a record reads back what was put.

    Raises
    ------
    DeviceError
        If it reads something else after ``timeout`` seconds: what, and what was put.
    """
    deadline = time.monotonic() + timeout
    while True:
        read_back: float | None = None
        with suppress(TimeoutError):  # a silent IOC has until then
            read_back = float(signal.get(use_monitor=False))
        if read_back is not None and math.isclose(read_back, value, rel_tol=rel_tol, abs_tol=1e-9):
            return
        if time.monotonic() > deadline:
            found = "does not answer" if read_back is None else f"is {read_back:g}"
            raise DeviceError(f"{signal.pvname} {found} {timeout:g} s after {value:g} was put")
        time.sleep(0.02)


def is_above_zero(value: object) -> bool:
    """Return whether something is a number, finite and above 0."""
    return isinstance(value, Real) and 0 < float(value) < math.inf


def check_times(name: str, **seconds: object) -> None:
    """Refuse times that are none, by the names of their parameters.

    Raises
    ------
    ConfigError
        For the first that is not a number, not finite or not above 0.
    """
    for key, value in seconds.items():
        if not is_above_zero(value):
            raise ConfigError(f"{name}: {key} is {value!r}: it must be above 0 s")
