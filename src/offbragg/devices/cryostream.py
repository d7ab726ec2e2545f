"""Oxford CryoStream 800: a temperature counts as reached once the sample has settled."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from ophyd import Component as Cpt
from ophyd import Device, EpicsSignal, EpicsSignalRO, Kind
from ophyd.status import Status

from offbragg.devices.background import Watched, fail, in_background, put
from offbragg.errors import ConfigError, DeviceError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a window of temperatures says: settled or not, why not, and the statistics."""

    settled: bool
    reason: str
    mean: float = float("nan")
    std: float = float("nan")
    slope: float = float("nan")


@dataclass(frozen=True, slots=True)
class Settle:
    """When a sample counts as settled: all of it over a whole window, then a dwell.

    A controller's own done flag means first crossing only.

    Parameters
    ----------
    tolerance
        Largest distance from the setpoint, K.
    window
        So long all conditions must hold, s.
    slope
        Largest drift, K/s.
    deviation
        Largest standard deviation, K; half the tolerance if not given.
    dwell
        Wait after settling, for the sample to follow the gas, s.
    """

    tolerance: float = 0.2
    window: float = 60.0
    slope: float = 0.1 / 60.0
    deviation: float | None = None
    dwell: float = 60.0

    def __post_init__(self) -> None:
        for name in ("tolerance", "window", "slope"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"settle.{name} is {getattr(self, name)}: it must be above 0")
        if self.dwell < 0 or (self.deviation is not None and not self.deviation > 0):
            raise ConfigError("settle.dwell must not be below 0, settle.deviation above 0")

    def judge(self, times: ArrayLike, temperatures: ArrayLike, setpoint: float) -> Verdict:
        """Judge the latest window of a record of temperatures.

        Parameters
        ----------
        times
            s, growing, shape (n,).
        temperatures
            K, shape (n,).
        setpoint
            K.

        Examples
        --------
        >>> t = np.arange(0.0, 120.0)
        >>> Settle().judge(t, np.full(120, 100.05), 100.0).settled
        True
        >>> Settle().judge(t, 100.0 + 0.01 * (t - 119), 100.0).reason
        'at 99.4 K, 0.60 K from the setpoint: more than 0.2 K'
        """
        t = np.asarray(times, dtype=float)
        kelvin = np.asarray(temperatures, dtype=float)
        if len(t) < 3:
            return Verdict(False, "no temperatures yet")
        latest = t[-1]
        full = t[0] <= latest - self.window + 1e-9
        inside = t >= latest - self.window - 1e-9
        t, kelvin = t[inside], kelvin[inside]
        mean, std = float(kelvin.mean()), float(kelvin.std())
        slope = float(np.polyfit(t - latest, kelvin, 1)[0]) if len(t) > 2 else float("nan")
        reason = ""
        off = kelvin - setpoint
        worst = int(np.argmax(np.abs(off)))
        allowed = self.deviation if self.deviation is not None else self.tolerance / 2
        if abs(off[worst]) > self.tolerance:
            reason = (
                f"at {kelvin[worst]:.1f} K, {abs(off[worst]):.2f} K from the setpoint: "
                f"more than {self.tolerance:g} K"
            )
        elif not full:
            reason = f"not yet {self.window:g} s within {self.tolerance:g} K"
        elif abs(slope) > self.slope:
            reason = f"drifts by {slope * 60:+.3f} K/min: more than {self.slope * 60:.3g}"
        elif std > allowed:
            reason = f"varies by {std:.3f} K (standard deviation): more than {allowed:g}"
        return Verdict(not reason, reason, mean, std, slope)


class Cryostream(Device):
    """Nitrogen gas cooler at the sample; a `set` is done once the sample has settled.

    Parameters
    ----------
    prefix
        Of the records of ``Oxford_CS800.db``.
    settle
        Parameters of `Settle`, each optional.
    ramp_rate
        K/h; the CryoStream takes at most 360.
    timeout
        How long a `set` may take beyond the ramp itself, s.
    interval
        Between two readings of the temperature while settling, s.
    limits
        Lowest and highest temperature that may be asked for, K.
    """

    temperature = Cpt(EpicsSignalRO, "TEMP", auto_monitor=True, kind=Kind.hinted)
    setpoint = Cpt(EpicsSignalRO, "SETPOINT", auto_monitor=True, kind=Kind.normal)
    target = Cpt(EpicsSignalRO, "TARGETTEMP", kind=Kind.normal)
    phase = Cpt(EpicsSignalRO, "PHASE", string=True, kind=Kind.omitted)
    run_mode = Cpt(EpicsSignalRO, "RUNMODE", string=True, kind=Kind.omitted)
    alarm = Cpt(EpicsSignalRO, "ALARM", string=True, kind=Kind.omitted)
    ramp_target = Cpt(EpicsSignal, "RTEMP", kind=Kind.omitted)
    ramp_speed = Cpt(EpicsSignal, "RRATE", kind=Kind.config)
    ramp = Cpt(EpicsSignal, "RAMP", kind=Kind.omitted)

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str,
        settle: dict[str, float] | None = None,
        ramp_rate: float = 360.0,
        timeout: float = 3600.0,
        interval: float = 1.0,
        limits: tuple[float, float] = (80.0, 500.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        known = [field.name for field in fields(Settle)]
        for key in settle or {}:
            if key not in known:
                raise ConfigError(f"{name}: settle.{key} is unknown; there are {', '.join(known)}")
        if not 0 < ramp_rate <= 360:
            raise ConfigError(f"{name}: ramp_rate {ramp_rate:g} K/h is not within 0 to 360 K/h")
        self.settle = Settle(**(settle or {}))
        self.ramp_rate = ramp_rate
        self.timeout = timeout
        self.interval = interval
        self.limits = (float(limits[0]), float(limits[1]))
        self.settled: dict[str, float] | None = None
        self._asked: float | None = None
        self._status: Status | None = None
        self._cancel = threading.Event()
        self._asking = threading.Lock()

    def check_value(self, value: float, **kwargs: Any) -> None:
        """Refuse a temperature outside the limits; nothing is written to any record.

        Raises
        ------
        ConfigError
            With the temperature and the limits.
        """
        low, high = self.limits
        if not low <= value <= high:
            raise ConfigError(
                f"temperature {value:g} K is outside {low:g} to {high:g} K, "
                f"which {self.name} may be set to\n"
                "The range is [limits] temperature in beamline.toml."
            )

    def set(self, kelvin: float, *, timeout: float | None = None) -> Status:
        """Ask for a temperature; the status is done when `settle` says so, not at first crossing.

        Parameters
        ----------
        kelvin
            Where to go.
        timeout
            Seconds beyond the time that the ramp takes; the device's own if not given.
        """
        self.check_value(kelvin)
        if self._status is not None and not self._status.done:
            if kelvin == self._asked:  # a plan that was paused asks again
                return self._status
            self.cancel("another temperature was asked for")
        self._asked = kelvin
        cancel = self._cancel = threading.Event()
        self.settled = None
        limit = self.timeout if timeout is None else timeout
        status = self._status = Watched(self)
        return in_background(
            self, self._go, float(kelvin), limit, cancel, status.report, status=status
        )

    def _go(
        self,
        kelvin: float,
        timeout: float,
        cancel: threading.Event,
        report: Callable[..., None],
    ) -> None:
        initial = float(self.temperature.get())
        away = abs(kelvin - initial)
        with self._asking:  # one that was overtaken must not ask after the other
            if cancel.is_set():
                return
            put(self.ramp_speed, self.ramp_rate)
            put(self.ramp_target, kelvin)
            put(self.ramp, 1)
        limit = away / self.ramp_rate * 3600.0 + timeout
        began = time.monotonic()
        keep = self.settle.window + 2 * self.interval
        record: deque[tuple[float, float]] = deque()
        settled_at: float | None = None
        while True:
            now = time.monotonic()
            record.append((now, float(self.temperature.get())))
            while record[0][0] < now - keep:
                record.popleft()
            times, temperatures = zip(*record, strict=True)
            verdict = self.settle.judge(times, temperatures, kelvin)
            if not verdict.settled:
                settled_at = None
            elif settled_at is None:
                settled_at = now
            report(
                name=f"{self.name}: {verdict.reason or 'settled, dwelling'}",
                current=temperatures[-1],
                initial=initial,
                target=kelvin,
                unit="K",
            )
            if settled_at is not None and now - settled_at >= self.settle.dwell:
                self.settled = {
                    "mean": verdict.mean,
                    "std": verdict.std,
                    "window": self.settle.window,
                }
                return
            if now - began > limit:
                raise DeviceError(
                    f"{self.name} did not settle at {kelvin:g} K in {limit:.0f} s: "
                    f"{verdict.reason or 'settled, but still in its dwell time'}\n"
                    f"{self.temperature.pvname} is {temperatures[-1]:.2f} K, run mode "
                    f"{self.run_mode.get()}, phase {self.phase.get()}, alarm {self.alarm.get()!r}."
                    " Wider settle values, or a longer timeout, are set in beamline.toml."
                )
            if cancel.wait(self.interval):
                return  # whoever cancelled has failed the status

    def cancel(self, why: str) -> None:
        """Give up waiting; the gas goes on to where it was told to."""
        self._cancel.set()
        if self._status is not None:
            fail(self._status, DeviceError(f"{self.name} did not settle: {why}"))

    @property
    def position(self) -> float:
        """Temperature now, K."""
        return float(self.temperature.get())

    def stop(self, *, success: bool = False) -> None:
        """Give up waiting; the gas goes on to where it was told to, which is the safe thing.

        With ``success`` (a plan that pauses) the waiting goes on.
        """
        if not success:
            self.cancel("it was stopped")
