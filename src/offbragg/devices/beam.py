"""The beam: storage ring, shutter, and a monitor that counts once per frame."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device, EpicsSignal, EpicsSignalRO, Kind
from ophyd.status import Status

from offbragg.devices.background import fail, finish, in_background, put
from offbragg.errors import DeviceError
from offbragg.sweep import Sweep

log = logging.getLogger(__name__)


class Ring(Device):
    """The storage ring."""

    current = Cpt(EpicsSignalRO, "current", auto_monitor=True, kind=Kind.hinted)
    lifetime = Cpt(EpicsSignalRO, "lifetime", auto_monitor=True, kind=Kind.normal)


class Shutter(Device):
    """A shutter that is set to ``"open"`` or ``"closed"``.

    Parameters
    ----------
    timeout
        How long it may take to open or to close, s.
    """

    command = Cpt(EpicsSignal, "open", kind=Kind.omitted)
    state = Cpt(EpicsSignalRO, "open_RBV", auto_monitor=True, kind=Kind.hinted)

    def __init__(self, prefix: str = "", *, name: str, timeout: float = 5.0, **kwargs: Any) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.timeout = timeout

    def set(self, position: str) -> Status:
        """Open or close; the status is done when the read-back says so."""
        if position not in ("open", "closed"):
            raise ValueError(f"{self.name} can be set to 'open' or 'closed', not {position!r}")
        wanted = int(position == "open")
        self.command.put(wanted)
        return in_background(self, self._wait_for, wanted, position)

    def _wait_for(self, wanted: int, position: str) -> None:
        deadline = time.monotonic() + self.timeout
        while int(self.state.get()) != wanted:
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{self.name} is not {position} {self.timeout:g} s after it was told: "
                    f"{self.state.pvname} is {self.state.get()}"
                )
            time.sleep(0.01)

    def pause(self) -> None:
        """Close: nobody looks at the sample while a plan is paused."""
        self.command.put(0)


class FrameMonitor(Device):
    """A multichannel scaler (SIS38xx) that advances one channel per frame.

    It flies beside the detector and gives event pages with one row per frame: ``<name>_frame``
    (number, from 0) and ``<name>_counts``.

    Parameters
    ----------
    patience
        How long to wait for the last channels after the sweep's time is over, s. Frames that
        have no counts then keep none: that is not a reason to fail a sweep.
    """

    erase_start = Cpt(EpicsSignal, "EraseStart", kind=Kind.omitted)
    stop_all = Cpt(EpicsSignal, "StopAll", kind=Kind.omitted)
    acquiring = Cpt(EpicsSignalRO, "Acquiring", kind=Kind.omitted)
    n_channels = Cpt(EpicsSignal, "NuseAll", kind=Kind.config)
    current_channel = Cpt(EpicsSignalRO, "CurrentChannel", kind=Kind.omitted)
    counts = Cpt(EpicsSignalRO, "mca1", kind=Kind.omitted)

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
    def per_frame(self) -> dict[str, dict[str, str]]:
        """The per-frame column that this device fills, for the start document."""
        return {
            "monitor": {
                "key": f"{self.name}_counts",
                "by": f"{self.name}_frame",
                "units": "counts",
            }
        }

    def prepare(self, sweep: Sweep) -> Status:
        """Set the number of channels to the number of frames."""
        self._sweep = sweep
        self._collected = 0
        return in_background(self, self._set_up, sweep)

    def _set_up(self, sweep: Sweep) -> None:
        put(self.stop_all, 1)
        put(self.n_channels, sweep.n_frames)

    def kickoff(self) -> Status:
        """Erase and start; channels advance with the detector's gate."""
        if self._sweep is None:
            raise DeviceError(f"{self.name} was kicked off without being prepared")
        self._done.clear()
        self._collected = 0
        self._flight = Status(self)
        return in_background(self, self._start, self._flight)

    def _start(self, flight: Status) -> None:
        self.erase_start.put(1)
        deadline = time.monotonic() + 5.0
        while not int(self.acquiring.get()) or self.available() > 0:
            if time.monotonic() > deadline:
                error = DeviceError(
                    f"{self.name} does not start: {self.acquiring.pvname} is "
                    f"{self.acquiring.get()} 5 s after EraseStart"
                )
                fail(flight, error)
                raise error
            time.sleep(0.01)

    def _count(self, sweep: Sweep, flight: Status) -> None:
        deadline = time.monotonic() + sweep.duration + self.patience
        try:
            while self.available() < sweep.n_frames and not self._done.wait(0.05):
                if time.monotonic() > deadline:
                    log.warning(
                        "%s counted %d of %d frames", self.name, self.available(), sweep.n_frames
                    )
                    break
        finally:
            finish(flight)

    def available(self) -> int:
        """Give the number of frames that have been counted."""
        return int(self.current_channel.get())

    def complete(self) -> Status:
        """Count on; done once every frame has its counts, or the sweep's time is over."""
        if self._flight is None or self._sweep is None:
            raise DeviceError(f"{self.name} was completed without being kicked off")
        in_background(self, self._count, self._sweep, self._flight)
        return self._flight

    def describe_collect(self) -> dict[str, Any]:
        """Describe the two columns."""
        source = f"PV:{self.counts.pvname}"
        return {
            f"{self.name}_frame": {
                "source": source,
                "dtype": "integer",
                "dtype_numpy": "<i8",
                "shape": [],
            },
            f"{self.name}_counts": {
                "source": source,
                "dtype": "number",
                "dtype_numpy": "<f8",
                "shape": [],
                "units": "counts",
            },
        }

    def collect_pages(self) -> Iterator[dict[str, Any]]:
        """Give the frames that were counted since the last call, as one event page."""
        if self._sweep is None:
            return
        stop = min(self.available(), self._sweep.n_frames)
        if stop <= self._collected:
            return
        values = np.atleast_1d(np.asarray(self.counts.get(), dtype=float))
        stop = min(stop, len(values))
        frames = list(range(self._collected, stop))
        if not frames:
            return
        now = time.time()
        data = {
            f"{self.name}_frame": frames,
            f"{self.name}_counts": [float(x) for x in values[self._collected : stop]],
        }
        self._collected = stop
        yield {
            "data": data,
            "timestamps": {key: [now] * len(frames) for key in data},
            "time": [now] * len(frames),
        }

    def stop(self, *, success: bool = False) -> None:
        """Stop counting; what was counted stays."""
        self._done.set()
        if self._flight is not None and not self._flight.done:
            self.stop_all.put(1)
            finish(self._flight)

    def pause(self) -> None:
        """Stop: half a sweep cannot be resumed."""
        self.stop()

    def unstage(self) -> list[object]:
        """Leave the scaler standing."""
        self.stop(success=True)
        return super().unstage()
