# [device]
import threading
import time
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, EpicsSignal, EpicsSignalRO
from ophyd.status import Status


class Magnet(Device):
    """A magnet; a `set` is done once the field has stayed where it was asked for.

    Parameters
    ----------
    tolerance
        Largest distance from the field that was asked for, T.
    hold
        How long it must stay there, s.
    timeout
        How long a `set` may take, s.
    """

    field = Cpt(EpicsSignalRO, "FIELD", auto_monitor=True, kind="hinted")
    target = Cpt(EpicsSignal, "TARGET", kind="config")

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str,
        tolerance: float = 0.01,
        hold: float = 10.0,
        timeout: float = 600.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.tolerance = tolerance
        self.hold = hold
        self.timeout = timeout
        self._cancel = threading.Event()

    @property
    def position(self) -> float:
        """Field now, T."""
        return float(self.field.get())

    def set(self, tesla: float) -> Status:
        """Ask for a field; the status is done when it has settled."""
        self._cancel.set()  # of what was asked for before
        cancel = self._cancel = threading.Event()
        status = Status(self)
        self.target.put(tesla)
        threading.Thread(target=self._settle, args=(tesla, status, cancel), daemon=True).start()
        return status

    def _settle(self, tesla: float, status: Status, cancel: threading.Event) -> None:
        began = time.monotonic()
        since: float | None = None  # it is within the tolerance
        while not cancel.wait(0.1):
            now = time.monotonic()
            if abs(self.position - tesla) > self.tolerance:
                since = None
            elif since is None:
                since = now
            elif now - since >= self.hold:
                status.set_finished()
                return
            if now - began > self.timeout:
                status.set_exception(TimeoutError(f"{self.name} is {self.position} T"))
                return
        status.set_exception(InterruptedError(f"{self.name} was set to another field"))

    def stop(self, *, success: bool = False) -> None:
        """Give up waiting."""
        self._cancel.set()


# [use]
from offbragg.plans import rotation_scan  # noqa: E402


def at_field(magnet, tesla, sweep, **scan):
    """Record one sweep once the field has settled."""
    import bluesky.plan_stubs as bps

    yield from bps.mv(magnet, tesla)
    return (yield from rotation_scan(sweep, **scan))
