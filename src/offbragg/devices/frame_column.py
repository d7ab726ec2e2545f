"""A device that flies beside the detector and has one value for each frame."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import Any, ClassVar

from ophyd import Device, EpicsSignalRO
from ophyd.status import Status

from offbragg.devices.background import finish, in_background
from offbragg.errors import DeviceError
from offbragg.sweep import Sweep

log = logging.getLogger(__name__)


class FrameColumn(Device):
    """What flies beside the detector and fills a per-frame column.

    Its event pages have one row per frame: ``<name>_frame`` (number, from 0) and
    ``<name>_<column>``. A subclass prepares, starts and stops the hardware, counts what has come
    (`available`) and reads it.

    Parameters
    ----------
    patience
        How long to wait for the last values after the sweep's time is over, s. Frames that have
        none then keep none: that is not a reason to fail a sweep.
    """

    column: ClassVar[str]
    """What the values are: the end of their key."""
    units: ClassVar[str]
    done: ClassVar[str]
    things: ClassVar[str]
    """Log line at the end of a sweep that lacks values: the device, how many came, of how many."""

    def __init__(
        self, prefix: str = "", *, name: str, patience: float = 2.0, **kwargs: Any
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.patience = patience
        self._sweep: Sweep | None = None
        self._collected = 0
        self._flight: Status | None = None
        self._done = threading.Event()

    @property
    def values(self) -> EpicsSignalRO:
        """The record that the values come from."""
        raise NotImplementedError

    def available(self) -> int:
        """Return the number of frames whose value has come."""
        raise NotImplementedError

    def stop(self, *, success: bool = False) -> None:
        """Stop; what has come stays."""
        raise NotImplementedError

    def pause(self) -> None:
        """Stop: half a sweep cannot be resumed."""
        self.stop()

    def _begin(self) -> tuple[Sweep, Status]:
        """Begin a flight that has no values yet.

        Raises
        ------
        DeviceError
            If it was not prepared.
        """
        if self._sweep is None:
            raise DeviceError(f"{self.name} was kicked off without being prepared")
        self._done.clear()
        self._collected = 0
        self._flight = Status(self)
        return self._sweep, self._flight

    def complete(self) -> Status:
        """Go on; done once every frame has its value, or the sweep's time is over."""
        if self._flight is None or self._sweep is None:
            raise DeviceError(f"{self.name} was completed without being kicked off")
        in_background(self, self._follow, self._sweep, self._flight)
        return self._flight

    def _follow(self, sweep: Sweep, flight: Status) -> None:
        deadline = time.monotonic() + sweep.duration + self.patience
        try:
            while self.available() < sweep.n_frames and not self._done.wait(0.05):
                if time.monotonic() > deadline:
                    log.warning(
                        "%s %s %d of %d %s", self.name, self.done, self.available(),
                        sweep.n_frames, self.things,
                    )  # fmt: skip
                    break
        finally:
            finish(flight)

    def describe_collect(self) -> dict[str, Any]:
        """Describe the two columns."""
        source = f"PV:{self.values.pvname}"
        number = {"source": source, "dtype": "integer", "dtype_numpy": "<i8", "shape": []}
        value = {"source": source, "dtype": "number", "dtype_numpy": "<f8", "shape": []}
        return {
            f"{self.name}_frame": number,
            f"{self.name}_{self.column}": {**value, "units": self.units},
        }

    def _page(self, values: Iterable[float]) -> dict[str, Any]:
        """Make an event page of the values of the next frames, at least one."""
        column = [float(value) for value in values]
        first, self._collected = self._collected, self._collected + len(column)
        data = {
            f"{self.name}_frame": list(range(first, self._collected)),
            f"{self.name}_{self.column}": column,
        }
        now = time.time()
        return {
            "data": data,
            "timestamps": {key: [now] * len(column) for key in data},
            "time": [now] * len(column),
        }
