"""A rotation axis that flies (run up, constant speed, run down), and what goes with it."""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO, Kind
from ophyd.status import Status
from ophyd.utils.errors import DisconnectedError

from offbragg.devices.axis_flight import AxisFlight, plan_flight
from offbragg.devices.background import (
    fail,
    finish,
    in_background,
    put,
    until_delivered,
    verify,
)
from offbragg.devices.clock import IocClock, measure
from offbragg.devices.motor import Motor, StoppedError
from offbragg.devices.polled_motor import PolledMotor
from offbragg.devices.position_compare import PositionCompare
from offbragg.errors import DeviceError, SweepError
from offbragg.sweep import Sweep

__all__ = ["AxisFlight", "PositionCompare", "RotationAxis", "Translation", "plan_flight"]

log = logging.getLogger(__name__)

_LEARNED = 5  # sweeps of which the median says how much earlier than asked a detector is started
_BELIEVED = 0.2  # s: a detector that was later than this was not late as usual


class RotationAxis(PolledMotor):
    """A motor that turns a sample through a sweep at constant speed.

    The angles of its frames are measured: its read-backs are recorded through a sweep, each with
    the time stamp of the IOC, and a frame's angle is where they say the axis was in the middle of
    its exposure. Where a position compare gives the pulses, its positions count instead.

    Parameters
    ----------
    prefix
        Of the motor record.
    lead
        How much before the axis passes the start angle its kickoff is done, s, so that whoever
        starts the detector then is in time. After each sweep it is corrected by what the detector
        really took.
    margin
        Time at constant speed before the start of a sweep, s: for at least two read-backs.
    run_out
        Time at constant speed after its end, s: more than a detector may begin late, so that the
        last frames of a late one are not exposed while the axis slows down.
    encoder
        Whether the read-back comes from an encoder; the file says so. Otherwise it is what the
        controller counts, which knows nothing of lost steps.
    """

    base_speed = Cpt(EpicsSignalRO, ".VBAS", kind=Kind.omitted)
    max_speed = Cpt(EpicsSignalRO, ".VMAX", kind=Kind.omitted)
    process = Cpt(EpicsSignal, ".PROC", kind=Kind.omitted)
    # the record refuses writes to it, whatever ophyd declares
    direction_of_travel = Cpt(EpicsSignalRO, ".TDIR", auto_monitor=True, kind=Kind.omitted)

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str,
        lead: float = 0.015,
        margin: float = 0.25,
        run_out: float = 0.45,
        encoder: bool = False,
        **kwargs: object,
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.lead = lead
        self.margin = margin
        self.run_out = run_out
        self.encoder = encoder
        self._sweep: Sweep | None = None
        self._flight: AxisFlight | None = None
        self._usual_speed: float | None = None
        self._landing: Status | None = None
        self.clock = IocClock()
        """Of its IOC, measured when a sweep is prepared."""
        self._collected = 0
        self.read_backs: list[tuple[float, float]] = []
        """Of the flight: time stamp of the IOC, POSIX s, and position, degree."""
        self.was_paused = False
        """Whether a pause of the RunEngine ended the flight."""
        self._needed: deque[float] = deque(maxlen=_LEARNED)
        self._led = 0.0
        self._stopped = threading.Event()

    @property
    def angle_source(self) -> str:
        """Where its read-backs come from, as the scan file says it."""
        return "encoder" if self.encoder else "read-back"

    @property
    def at_speed(self) -> tuple[float, float]:
        """Times before and after a sweep in which the axis has its speed for certain, s."""
        return 0.9 * self.margin, 0.9 * self.run_out

    def plan_flight(self, sweep: Sweep) -> AxisFlight:
        """Work out the flight with this motor's acceleration."""
        return plan_flight(
            sweep,
            acceleration_time=float(self.acceleration.get()),
            base_speed=float(self.base_speed.get()),
            margin=self.margin,
            run_out=self.run_out,
        )

    def run_up(self, sweep: Sweep) -> float:
        """Return where the run-up of a sweep begins, degree: it can be gone to beforehand."""
        return self.plan_flight(sweep).begin

    def check(self, sweep: Sweep) -> None:
        """Refuse a sweep that this axis cannot turn; nothing has moved.

        Raises
        ------
        SweepError
            If the speed or the travel with run-up is outside the motor's limits.
        DeviceError
            If the axis is moving, or does not move now.
        """
        self._check_mode()
        slowest, fastest = float(self.base_speed.get()), float(self.max_speed.get())
        if sweep.speed < slowest or (fastest > 0 and sweep.speed > fastest):
            upper = f"{fastest:g}" if fastest > 0 else "any speed"
            raise SweepError(
                f"{self.name} cannot turn at {sweep.speed:g} degree/s: its record allows "
                f"{slowest:g} to {upper} degree/s (VBAS, VMAX)\n"
                "Change step or period of the sweep."
            )
        flight = self.plan_flight(sweep)
        low, high = (float(x) for x in self.limits)
        if (
            low < high
            and not low <= min(flight.begin, flight.end) <= max(flight.begin, flight.end) <= high
        ):
            raise SweepError(
                f"{self.name} cannot turn from {flight.begin:.3f} to {flight.end:.3f} degree: "
                f"its limits are {low:g} to {high:g}\n"
                f"The sweep {sweep.start:g} to {sweep.stop:g} needs "
                f"{abs(flight.begin - sweep.start):.3f} degree to speed up and to slow down."
            )
        if self.moving:
            raise DeviceError(f"{self.name} is moving; stop it or wait until it is done")

    def prepare(self, sweep: Sweep) -> Status:
        """Go where the run-up begins and set the speed of the sweep."""
        self.check(sweep)
        self._stopped.clear()
        self.was_paused = False
        self._sweep = sweep
        self._flight = self.plan_flight(sweep)
        self.read_backs, self._collected = [], 0
        return in_background(self, self._set_up, self._flight)

    def _set_up(self, flight: AxisFlight) -> None:
        usual = float(self.velocity.get())
        if self._usual_speed is None:
            self._usual_speed = usual
        time_needed = abs(flight.begin - self._angle) / usual + 10.0
        self.move(flight.begin, wait=True, timeout=2 * time_needed)
        if self._stopped.is_set():
            raise DeviceError(f"{self.name} was stopped on the way to {flight.begin:.3f} degree")
        put(self.velocity, flight.speed)
        # frames would not have the asked angles at another speed
        verify(self.velocity, flight.speed, rel_tol=1e-3)
        self.clock = self.measure_clock()

    def kickoff(self) -> Status:
        """Start the motion; done when the axis passes the start (``lead`` earlier)."""
        if self._flight is None or self._sweep is None:
            raise DeviceError(f"{self.name} was kicked off without being prepared")
        self._landing = Status(self)
        needed = statistics.median(self._needed) if self._needed else self.lead
        self._led = min(max(needed, 0.0), max(self.margin - 0.1, 0.0))
        return in_background(self, self._fly, self._sweep, self._flight, self._landing)

    def measure_clock(self) -> IocClock:
        """Measure the clock of the IOC."""
        return measure(self.process, 1)

    def was_late(self, seconds: float) -> None:
        """Take note of how much later than the start the first exposure began, s.

        The next kickoff is done as much earlier as was needed in the last sweeps.
        """
        if abs(seconds) < _BELIEVED:
            self._needed.append(self._led + seconds)

    def _fly(self, sweep: Sweep, flight: AxisFlight, landing: Status) -> None:
        moving = threading.Event()
        began = 0.0
        predictions: list[float] = []
        read_backs = self.read_backs

        def note(position: float, moment: float) -> None:
            if self.clock.known:
                read_backs.append((moment + self.clock.offset, position))

        def on_done_moving(value: object = None, **_: object) -> None:
            # its stamp is of the record's previous processing: minutes old, maybe
            nonlocal began
            if not value and not moving.is_set():
                began = time.monotonic()
                note(flight.begin, began)  # until now it stood there
                moving.set()

        def on_position(value: Any = None, timestamp: float = 0.0, **_: Any) -> None:
            if not moving.is_set():
                return
            if read_backs and read_backs[0][1] == flight.begin:
                # on a busy host the event of its start comes late, and only this has a stamp
                left = flight.left_by(timestamp, float(value))
                read_backs[0] = min(read_backs[0], (left, flight.begin))
            read_backs.append((timestamp, float(value)))
            run = (float(value) - flight.begin) * flight.direction
            to_go = (sweep.start - float(value)) * flight.direction
            if run > 1.05 * flight.ramp and to_go > 0 and self.clock.known:  # at constant speed
                predictions.append(timestamp - self.clock.offset + to_go / flight.speed)

        subscribed = [(self.motor_done_move, on_done_moving), (self.user_readback, on_position)]

        def forget(*_: object) -> None:
            for signal, callback in subscribed:
                signal.clear_sub(callback)

        try:
            for signal, callback in subscribed:
                signal.subscribe(callback, run=False)
            motion = self.move(flight.end, wait=False, timeout=2 * flight.duration + 10.0)
            motion.add_callback(forget)
            if not moving.wait(5.0):
                raise DeviceError(
                    f"{self.name} does not start: {self.motor_done_move.pvname} stays 1 for 5 s "
                    f"after {flight.end:.3f} degree was put"
                )
            while True:
                # the motor's own profile first, its read-backs at constant speed when they come
                passes = began + flight.start_time
                if predictions:
                    passes = statistics.median(predictions)
                left = passes - self._led - time.monotonic()
                if left <= 0:
                    break
                if self._stopped.wait(min(left, 0.02)) or motion.done:
                    raise self._cut_short(motion, "before it reached the start of the sweep at "
                                          f"{sweep.start:g}")  # fmt: skip
        except Exception as error:
            forget()
            # an IOC that is only slow would turn the axis after everything is over
            with contextlib.suppress(TimeoutError, DisconnectedError):
                self.motor_stop.put(1, wait=False)
            self._restore_speed()
            fail(landing, error)
            raise
        motion.add_callback(lambda motion: self._land(motion, sweep, landing))

    def _cut_short(self, motion: Status, where: str) -> DeviceError:
        """Return what ended a motion too early, in the words of who knows."""
        error = motion.exception(timeout=0) if motion.done else None
        if isinstance(error, DeviceError) and not isinstance(error, StoppedError):
            return error
        if self._was_away:  # its first event after a restart is DMOV = 1: the end of any move
            return self._lost_its_ioc()
        mode = str(self.mode.get(use_monitor=False))
        why = (
            "Did somebody stop it, or did it run into a limit switch? See where it stands."
            if mode == "Go"
            else f"{self.mode.pvname} is {mode}: somebody has stopped this axis. See why, then put "
            f"Go to {self.mode.pvname}."
        )
        return DeviceError(f"{self.name} stopped at {self._angle:.3f} degree, {where}\n{why}")

    def _land(self, motion: Status, sweep: Sweep, landing: Status) -> None:
        self._restore_speed()
        error = motion.exception(timeout=0)
        if isinstance(error, DeviceError) and not isinstance(error, StoppedError):
            fail(landing, error)
            return
        try:
            angle = self._angle
            if self.clock.known:  # from now on it stands there
                self.read_backs.append((time.monotonic() + self.clock.offset, angle))
            passed = (angle - sweep.stop) * (1 if sweep.step > 0 else -1) >= 0
            if passed and (error is None or isinstance(error, StoppedError)):
                finish(landing)
                return
            why = self._cut_short(motion, f"before the end of the sweep at {sweep.stop:g}")
        except (TimeoutError, DisconnectedError) as silent:
            why = DeviceError(f"{self.name}: its IOC does not say where the axis stands: {silent}")
        fail(landing, why)

    def complete(self) -> Status:
        """Return the status of the flight: done when the axis has passed the end and stands."""
        if self._landing is None:
            raise DeviceError(f"{self.name} was completed without being kicked off")
        return self._landing

    @property
    def usual_speed(self) -> float:
        """Speed beside sweeps, degree/s."""
        if self._usual_speed is not None:
            return self._usual_speed
        return float(self.velocity.get(use_monitor=False))

    def mend_speed(self, usual: float, *, left: float) -> bool:
        """Restore the usual speed if the axis has the one that a sweep left; return whether it had.

        For a sweep whose RunEngine died before the speed was restored.
        """
        now = float(self.velocity.get(use_monitor=False))
        if self._usual_speed is not None or not math.isclose(now, left, rel_tol=1e-3):
            return False
        if math.isclose(now, usual, rel_tol=1e-3):
            return False
        log.warning(
            "%s had the speed of a sweep that was cut off, %g degree/s; it is %g again",
            self.name, now, usual,
        )  # fmt: skip
        self.velocity.put(usual)
        return True

    def _restore_speed(self) -> None:
        """Put back the usual speed; if its IOC is away, when the axis is next at rest."""
        if self._usual_speed is not None:
            try:
                self.velocity.put(self._usual_speed)
            except (TimeoutError, DisconnectedError) as error:
                log.warning("%s keeps the speed of its sweep for now: %s", self.name, error)
                return
            self._usual_speed = None

    @property
    def flying(self) -> bool:
        """Whether the axis is on a flight."""
        return self._landing is not None and not self._landing.done

    def stop(self, *, success: bool = False) -> None:
        """Stop and set back the usual speed.

        With ``success`` (a plan that tidies up) the flight ends as if this had been wanted.
        """
        self._stopped.set()
        if self.flying:
            assert self._landing is not None
            if success:
                finish(self._landing)
            else:
                fail(self._landing, self._was_stopped())
        try:
            super().stop(success=success)
        finally:  # also when its IOC is away
            self._restore_speed()

    def _was_stopped(self) -> DeviceError:
        try:
            return DeviceError(f"{self.name} was stopped at {self._angle:.3f} degree")
        except (TimeoutError, DisconnectedError):
            return DeviceError(
                f"{self.name}: its IOC ({self.prefix}) went away during a move\n"
                "Start the IOC again, and see where the axis stands."
            )

    def pause(self) -> None:
        """Stop if flying: half a sweep cannot be resumed."""
        if self.flying or self._usual_speed is not None:
            self.was_paused = True
            with until_delivered(self, self._landing):
                self.stop()

    def unstage(self) -> Status:  # type: ignore[override]  # Bluesky takes both
        """Leave the axis at its usual speed; done when it stands."""
        if self.flying or self._usual_speed is not None:
            try:
                self.stop(success=True)
            except (TimeoutError, DisconnectedError) as error:
                # it must not stay staged: every later scan would be refused
                log.warning("%s cannot be stopped now: %s", self.name, error)
        super().unstage()
        return in_background(self, self._await_rest)

    def _await_rest(self) -> None:
        deadline = time.monotonic() + 15.0
        while self.moving:
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{self.name} still moves 15 s after it was stopped: "
                    f"{self.motor_is_moving.pvname} is 1 at {self._angle:.3f} degree"
                )
            time.sleep(0.02)

    @property
    def angle_key(self) -> str:
        """Data key of the read-backs of a flight."""
        return f"{self.name}_read_back"

    def describe_collect(self) -> dict[str, Any]:
        """Describe the read-backs of a flight."""
        return {
            self.angle_key: {
                "source": f"PV:{self.user_readback.pvname}", "dtype": "number",
                "dtype_numpy": "<f8", "shape": [], "units": str(self.motor_egu.get()),
            }
        }  # fmt: skip

    def collect_pages(self) -> Iterator[dict[str, Any]]:
        """Return the read-backs that came since the last call, as one event page.

        Each has the time stamp that came with it. (A monitor of Bluesky reads the signal once more
        at every event: on a busy host it joins a value to the stamp of the one before.)
        """
        new = self.read_backs[self._collected :]
        if not new:
            return
        self._collected += len(new)
        stamps, positions = (list(each) for each in zip(*new, strict=True))
        yield {
            "data": {self.angle_key: positions},
            "timestamps": {self.angle_key: stamps},
            "time": stamps,
        }


class Translation(Motor):
    """A motor that moves in mm: detector distance, height, a slit."""

    def check_value(self, pos: float) -> None:
        """Refuse a position outside the limits, and a motor whose unit is not a length.

        Raises
        ------
        DeviceError
            With the position, the limits and the units.
        """
        units = str(self.motor_egu.get())
        if units not in ("mm", "um", "µm", "m", "cm", ""):
            raise DeviceError(
                f"{self.name} is not a translation: {self.prefix}.EGU is {units!r}\n"
                "Use offbragg.devices.goniometer:RotationAxis for it in beamline.toml."
            )
        low, high = (float(x) for x in self.limits)
        if low < high and not low <= pos <= high:
            raise DeviceError(
                f"{self.name} cannot go to {pos:g} {units}: its limits are {low:g} to {high:g}"
            )
        super().check_value(pos)
