"""The beam: ring, shutter, attenuator, a monitor that counts per frame, and a permit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ophyd import Component as Cpt
from ophyd import Device, EpicsSignal, EpicsSignalRO, Kind, Signal
from ophyd.status import Status

from offbragg.devices.background import fail, finish, in_background, is_above_zero, put
from offbragg.devices.frame_column import FrameColumn
from offbragg.errors import ConfigError, DeviceError
from offbragg.sweep import Sweep, least_count

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
        """Open or close; the status is done when the read-back says so.

        Raises
        ------
        ConfigError
            For any other word.
        """
        if position not in ("open", "closed"):
            raise ConfigError(f"{self.name} can be set to 'open' or 'closed', not {position!r}")
        wanted = int(position == "open")
        self.command.put(wanted)
        return in_background(self, self._wait_for, wanted, position)

    def _wait_for(self, wanted: int, position: str) -> None:
        deadline = time.monotonic() + self.timeout
        while int(self.state.get()) != wanted:
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{self.name} is not {position} {self.timeout:g} s after it was set: "
                    f"{self.state.pvname} is {self.state.get()}"
                )
            time.sleep(0.01)

    @property
    def is_open(self) -> bool:
        """Whether it was open when it last spoke."""
        return bool(int(self.state.get() or 0))

    def pause(self) -> None:
        """Close: no one looks at the sample while a plan is paused."""
        self.command.put(0)


class FrameMonitor(FrameColumn):
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

    column, units = "counts", "counts"
    done, things = "counted", "frames"

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
        _, flight = self._begin()
        return in_background(self, self._start, flight)

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

    @property
    def values(self) -> EpicsSignalRO:
        """The record of the counts."""
        return self.counts

    def available(self) -> int:
        """Return the number of frames that have been counted."""
        return int(self.current_channel.get())

    def collect_pages(self) -> Iterator[dict[str, Any]]:
        """Return the frames that were counted since the last call, as one event page."""
        if self._sweep is None:
            return
        try:
            stop = min(self.available(), self._sweep.n_frames)
            if stop <= self._collected:
                return
            values = np.atleast_1d(np.asarray(self.counts.get(), dtype=float))
        except TimeoutError as error:  # the next call asks again; counts are no reason to fail
            log.warning("%s: %s", self.name, error)
            return
        counted = values[self._collected : stop]
        if counted.size:
            yield self._page(counted)

    def stop(self, *, success: bool = False) -> None:
        """Stop counting; what was counted stays."""
        self._done.set()
        if self._flight is not None and not self._flight.done:
            self.stop_all.put(1)
            finish(self._flight)

    def unstage(self) -> list[object]:
        """Leave the scaler standing."""
        self.stop(success=True)
        return super().unstage()


class Attenuator(Device):
    """A filter box that is set to a transmission, 1 for the whole beam.

    Parameters
    ----------
    least
        Smallest transmission that it can make.
    tolerance
        Relative tolerance of the transmission: filters come in steps.
    timeout
        How long filters may take to move, s.
    """

    transmission = Cpt(EpicsSignal, "transmission_RBV", write_pv="transmission",
                       auto_monitor=True, kind=Kind.hinted)  # fmt: skip

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str,
        least: float = 1e-4,
        tolerance: float = 0.3,
        timeout: float = 20.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.least = least
        self.tolerance = tolerance
        self.timeout = timeout

    @property
    def position(self) -> float:
        """Transmission now."""
        return float(self.transmission.get(use_monitor=False))

    @property
    def attenuation(self) -> float:
        """Factor by which the beam is weakened, for the start document."""
        return 1.0 / max(self.position, 1e-30)

    def check_value(self, value: float, **kwargs: object) -> None:
        """Refuse what is not a transmission; nothing is written.

        Raises
        ------
        ConfigError
            With the value and the range.
        """
        if not is_above_zero(value) or not self.least <= value <= 1.0:
            raise ConfigError(
                f"{self.name} can be set from {self.least:g} to 1, not {value!r}\n"
                "It is a transmission: 0.1 lets a tenth of the beam through."
            )

    def set(self, transmission: float) -> Status:
        """Move the filters; done when the read-back is there."""
        self.check_value(transmission)
        return in_background(self, self._go, float(transmission))

    def _go(self, wanted: float) -> None:
        put(self.transmission, wanted, timeout=self.timeout)
        deadline = time.monotonic() + self.timeout
        while abs(self.position - wanted) > self.tolerance * wanted:
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{self.name} has a transmission of {self.position:g} {self.timeout:g} s "
                    f"after {wanted:g} was asked for ({self.transmission.pvname})\n"
                    "Does a filter stick, or has the box no such step (tolerance)?"
                )
            time.sleep(0.02)


class BeamPermit(Device):
    """Whether there is beam on the sample: enough current, shutter open, monitor counting.

    A plan asks `ok` before it begins and records `beam` (1 or 0) through a sweep, so that frames
    without beam are known. Top-up changes the current by far less than a threshold: it never
    matters.

    Parameters
    ----------
    ring, shutter, monitor
        `Ring`, `Shutter` and `FrameMonitor`; None for what is not there.
    ring_threshold
        Least current, mA.
    fraction
        A frame whose monitor has less than this fraction of the median had no beam, be it for a
        part of it. Where the monitor flies along, each frame is judged by its own counts, whenever
        their events came: times of ring and detector are known to some ten milliseconds only.
    """

    beam = Cpt(Signal, value=1, kind=Kind.hinted)

    def __init__(
        self,
        ring: Any,
        shutter: Any = None,
        monitor: Any = None,
        *,
        ring_threshold: float,
        fraction: float = 0.8,
        name: str = "permit",
        **kwargs: Any,
    ) -> None:
        if not 0.0 <= fraction < 1.0:
            raise ConfigError(f"{name}: fraction {fraction:g} is not within 0 to 1")
        super().__init__("", name=name, **kwargs)
        self.ring, self.shutter, self.monitor = ring, shutter, monitor
        self.ring_threshold = ring_threshold
        self.fraction = fraction
        self._lock = threading.Lock()
        self._counted_at = 0.0
        self._counts: NDArray[np.float64] = np.empty(0)
        self._least, self._least_of = 0.0, 0  # counts with beam, and of how many frames
        # callbacks judge by the value of their event and never wait for a record; nor does this:
        # when a beamline is made, nothing is connected yet
        self._current: Any = None
        self._is_open = shutter is None
        self._has_current = False
        self.ring.current.subscribe(self._on_current, run=True)
        if shutter is not None:
            shutter.state.subscribe(self._on_shutter, run=True)
        if monitor is not None:
            monitor.counts.subscribe(self._on_counts, run=False)

    def _on_counts(self, value: object = None, timestamp: float | None = None, **_: object) -> None:
        self._counts = np.atleast_1d(np.asarray(value, dtype=float))
        # a frame is counted when it is over: there was no beam since the one before was
        now = timestamp or time.time()
        before, self._counted_at = self._counted_at, now
        changed = float(self.beam.timestamp)
        self._update(max(before, changed + 1e-6) if self.beam.get() and before else now)

    def _on_current(
        self, value: object = None, timestamp: float | None = None, **_: object
    ) -> None:
        self._current, self._has_current = value, True
        self._update(timestamp)

    def _on_shutter(self, value: Any = None, timestamp: float | None = None, **_: Any) -> None:
        self._is_open = bool(int(value or 0))
        self._update(timestamp)

    def _update(self, timestamp: float | None) -> None:
        with self._lock:
            if self._destroyed or not self._has_current:  # the records are gone, or not there yet
                return
            now = int(not self.reasons(flying=True))
            if now != self.beam.get():
                # when the beam changed by the IOC's clock, not when we heard of it
                self.beam.put(now, timestamp=timestamp or time.time())

    def reasons(self, *, flying: bool = False) -> list[str]:
        """Return why there is no beam, one line each; an empty list if there is.

        Parameters
        ----------
        flying
            Whether a sweep is on: only then must the shutter be open and the monitor count.
        """
        why: list[str] = []
        current = self._current if self._has_current else self.ring.current.get()
        if current is None or not float(current) >= self.ring_threshold:
            why.append(
                f"{self.ring.current.name} is {current} mA, less than {self.ring_threshold:g} mA"
            )
        if flying and not self._is_open:
            why.append(f"{self.shutter.name}: the shutter is closed")
        if flying and self.monitor is not None:
            counts = self._counts
            if len(counts) >= 3 and self._is_too_little(counts):
                why.append(
                    f"{self.monitor.counts.name} counted {counts[-1]:g} in its last frame, "
                    f"less than {self.fraction:g} of the median of those with beam"
                )
        return why

    def _is_too_little(self, counts: NDArray[np.float64]) -> bool:
        # at 100 Hz each frame tells the counts of thousands: the median is of the first 15/16
        if not self._least_of <= len(counts) <= self._least_of + self._least_of // 16:
            self._least, self._least_of = least_count(counts, self.fraction), len(counts)
        return bool(counts[-1] < self._least or counts[-1] <= 0)

    def ok(self) -> bool:
        """Return whether a sweep may begin: the plan itself opens the shutter."""
        return not self.reasons()

    @property
    def signals(self) -> list[Any]:
        """What it looks at."""
        seen = [self.ring.current]
        if self.shutter is not None:
            seen.append(self.shutter.state)
        if self.monitor is not None:
            seen.append(self.monitor.counts)
        return seen

    def destroy(self) -> None:
        """Look no longer; what it looked at lives on."""
        with self._lock:
            super().destroy()
