"""A rotation axis that flies (run up, constant speed, run down), and what goes with it."""

from __future__ import annotations

import logging
import math
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ophyd import Component as Cpt
from ophyd import Device, EpicsMotor, EpicsSignal, EpicsSignalRO, Kind
from ophyd.status import Status
from ophyd.utils.errors import WaitTimeoutError

from offbragg.devices.background import fail, finish, in_background, put, verify
from offbragg.errors import DeviceError, SweepError
from offbragg.sweep import Sweep

log = logging.getLogger(__name__)

_DONE_MOVE = 1.0  # s that ophyd has to take note of the end of a move
OUT_OF_REACH = 1e6  # degree, where no axis comes: the position compare gives no pulse


@dataclass(frozen=True, slots=True)
class Flight:
    """A motion that turns through a sweep at constant speed.

    Angles in degree, times in s after the motion begins.
    """

    begin: float
    end: float
    direction: int
    speed: float
    ramp: float
    """Angle that is passed while speeding up (and while slowing down)."""
    start_time: float
    """When the axis passes the sweep's start."""
    duration: float
    """Of the whole motion."""


def plan_flight(
    sweep: Sweep, *, acceleration_time: float, base_speed: float = 0.0, margin: float = 0.5
) -> Flight:
    """Work out where a flight begins and ends.

    Parameters
    ----------
    sweep
        What to turn through.
    acceleration_time
        Seconds from base speed to speed (the motor record's ACCL).
    base_speed
        Speed that the motor starts with, degree/s (VBAS).
    margin
        Time at constant speed before the start and after the end, s.

    Examples
    --------
    One degree per second, half a second to get there and half a second to spare:

    >>> sweep = Sweep(axis="phi", start=10.0, step=0.1, n_frames=100, exposure=0.09, period=0.1)
    >>> flight = plan_flight(sweep, acceleration_time=0.5)
    >>> flight.begin, flight.end, flight.start_time
    (9.25, 20.75, 1.0)
    """
    direction = 1 if sweep.step > 0 else -1
    speed = sweep.speed
    ramp = 0.5 * (base_speed + speed) * acceleration_time
    reach = ramp + margin * speed
    return Flight(
        begin=sweep.start - direction * reach,
        end=sweep.stop + direction * reach,
        direction=direction,
        speed=speed,
        ramp=ramp,
        start_time=acceleration_time + margin,
        duration=2 * (acceleration_time + margin) + sweep.duration,
    )


class RotationAxis(EpicsMotor):
    """A motor that turns a sample through a sweep at constant speed.

    Parameters
    ----------
    prefix
        Of the motor record.
    lead
        Time between the announcement and the first exposure, s: kickoff is announced so much before
        the axis passes the start angle. camserver takes 26 ms to acknowledge, RunEngine and
        Channel Access a few more.
    margin
        Time at constant speed before the start and after the end of a sweep, s.
    encoder
        Whether its read-back comes from an encoder. Then the read-backs are recorded through a
        sweep and the angles of its frames are interpolated between them; otherwise they are those
        that were commanded. A position compare that flies along is better than both. Needs IOCs
        of axis and detector whose clocks agree.
    """

    base_speed = Cpt(EpicsSignalRO, ".VBAS", kind=Kind.omitted)
    max_speed = Cpt(EpicsSignalRO, ".VMAX", kind=Kind.omitted)

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str,
        lead: float = 0.03,
        margin: float = 0.5,
        encoder: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.lead = lead
        self.margin = margin
        self.encoder = encoder
        self._sweep: Sweep | None = None
        self._flight: Flight | None = None
        self._usual_speed: float | None = None
        self._landing: Status | None = None
        self.passes_at: float | None = None
        """When the axis passes the start of its sweep, by this host's monotonic clock, s."""
        self._stopped = threading.Event()
        self._latest_move: Any = None

    @property
    def angle_signal(self) -> Any:
        """What the axis reads back while it turns, if that is an encoder."""
        return self.user_readback if self.encoder else None

    @property
    def _angle(self) -> float:
        """Where the axis is, degree, asked for and not the last that was told."""
        return float(self.user_readback.get(use_monitor=False))

    def move(self, position: Any, wait: bool = True, **kwargs: Any) -> Any:
        """Move, as any EpicsMotor does, and take the completion of the put for the end, too.

        ophyd takes DMOV's change for it and then asks for the limit switches: a question that a
        busy IOC does not answer in time would leave the move without an end.
        """
        self._started_moving = False
        status = super(EpicsMotor, self).move(position, **kwargs)
        self._latest_move = status
        self.user_setpoint.put(
            position,
            wait=False,
            use_complete=True,
            callback=lambda **_: in_background(self, self._end_move, status),
        )
        if wait:
            try:
                status.wait()
            except KeyboardInterrupt:
                self.stop()
                raise
        return status

    def _end_move(self, status: Status) -> None:
        try:
            status.wait(_DONE_MOVE)
        except WaitTimeoutError:
            # ophyd has missed it; a later move, or one that goes on, has its own end
            if status is self._latest_move and self.motor_done_move.get(use_monitor=False):
                self._moving = True
                self._move_changed(timestamp=time.time(), value=1)
        except Exception as error:  # whoever waits for the move is told
            log.debug("%s: %s", self.name, error)

    def plan_flight(self, sweep: Sweep) -> Flight:
        """Work out the flight with this motor's acceleration."""
        return plan_flight(
            sweep,
            acceleration_time=float(self.acceleration.get()),
            base_speed=float(self.base_speed.get()),
            margin=self.margin,
        )

    def check(self, sweep: Sweep) -> None:
        """Refuse a sweep that this axis cannot turn; nothing has moved.

        Raises
        ------
        SweepError
            If the speed or the travel with run-up is outside the motor's limits.
        DeviceError
            If the axis is moving.
        """
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
        self._sweep = sweep
        self._flight = self.plan_flight(sweep)
        return in_background(self, self._set_up, self._flight)

    def _set_up(self, flight: Flight) -> None:
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

    def kickoff(self) -> Status:
        """Start the motion; done when the axis passes the start (``lead`` earlier)."""
        if self._flight is None or self._sweep is None:
            raise DeviceError(f"{self.name} was kicked off without being prepared")
        self._landing = Status(self)
        self.passes_at = None
        return in_background(self, self._fly, self._sweep, self._flight, self._landing)

    def _fly(self, sweep: Sweep, flight: Flight, landing: Status) -> None:
        moving = threading.Event()
        clock = {"began": 0.0, "offset": 0.0}
        predictions: list[float] = []

        def on_done_moving(value: Any = None, timestamp: float = 0.0, **_: Any) -> None:
            if not value and not moving.is_set():
                clock["began"] = now = time.monotonic()
                clock["offset"] = now - timestamp
                moving.set()

        def on_position(value: Any = None, timestamp: float = 0.0, **_: Any) -> None:
            if not moving.is_set():
                return
            run = (float(value) - flight.begin) * flight.direction
            to_go = (sweep.start - float(value)) * flight.direction
            if run > 1.05 * flight.ramp and to_go > 0:  # at constant speed already
                predictions.append(timestamp + clock["offset"] + to_go / flight.speed)

        try:
            self.motor_done_move.subscribe(on_done_moving, run=False)
            self.user_readback.subscribe(on_position, run=False)
            motion = self.move(flight.end, wait=False, timeout=2 * flight.duration + 10.0)
            if not moving.wait(5.0):
                raise DeviceError(
                    f"{self.name} does not start: {self.motor_done_move.pvname} stays 1 for 5 s "
                    f"after {flight.end:.3f} degree was put"
                )
            while True:
                # the motor's own profile first, its read-backs at constant speed when they come
                passes = clock["began"] + flight.start_time
                if predictions:
                    passes = statistics.median(predictions)
                left = passes - self.lead - time.monotonic()
                if left <= 0:
                    self.passes_at = passes
                    break
                if self._stopped.wait(min(left, 0.02)) or motion.done:
                    raise DeviceError(
                        f"{self.name} stopped at {self._angle:.3f} degree before it reached "
                        f"the start of the sweep at {sweep.start:g}"
                    )
        except Exception as error:
            self._restore_speed()
            fail(landing, error)
            raise
        finally:
            self.motor_done_move.clear_sub(on_done_moving)
            self.user_readback.clear_sub(on_position)
        motion.add_callback(lambda motion: self._land(motion, sweep, landing))

    def _land(self, motion: Status, sweep: Sweep, landing: Status) -> None:
        self._restore_speed()
        reached = (self._angle - sweep.stop) * (1 if sweep.step > 0 else -1)
        error = motion.exception(timeout=0)
        if error is None and reached >= 0:
            finish(landing)
        else:
            fail(
                landing,
                DeviceError(
                    f"{self.name} stopped at {self._angle:.3f} degree, before the end of the "
                    f"sweep at {sweep.stop:g}"
                ),
            )

    def complete(self) -> Status:
        """Give the status of the flight: done when the axis has passed the end and stands."""
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
        """Put back the usual speed, if the axis still has the one that a sweep left; say so.

        For a sweep whose RunEngine died: nobody set back the speed.
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
        if self._usual_speed is not None:
            self.velocity.put(self._usual_speed)
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
                fail(
                    self._landing,
                    DeviceError(f"{self.name} was stopped at {self._angle:.3f} degree"),
                )
        super().stop(success=success)
        self._restore_speed()

    def pause(self) -> None:
        """Stop if flying: half a sweep cannot be resumed."""
        if self.flying or self._usual_speed is not None:
            self.stop()

    def unstage(self) -> Status:  # type: ignore[override]  # Bluesky takes both
        """Leave the axis at its usual speed; done when it stands."""
        if self.flying or self._usual_speed is not None:
            self.stop(success=True)
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

    def describe_collect(self) -> dict[str, Any]:
        """Describe nothing: an axis has no pages (see ``angle_signal``)."""
        return {}

    def collect_pages(self) -> Iterator[dict[str, Any]]:
        """Give no event pages."""
        return iter(())


class PositionCompare(Device):
    """A unit that gives pulses where the axis is, and remembers where it gave them.

    It triggers the detector in its modes "ext_trigger" and "mult_trigger", so that a frame begins
    at its angle and not at its time. It flies beside the detector: disarmed when staged, armed at
    kickoff, which has to come before the axis moves. Its event pages have one row per frame:
    ``<name>_frame`` (number, from 0) and ``<name>_angle`` (middle of the frame, degree).

    Parameters
    ----------
    prefix
        Of its records: axis, first position, step, and the waveform of positions.
    patience
        How long to wait for the last positions after the sweep's time is over, s. Frames that
        have none then keep their commanded angle: that is not a reason to fail a sweep.
    """

    axis = Cpt(EpicsSignal, "compare_axis", string=True, kind=Kind.config)
    first = Cpt(EpicsSignal, "compare_start", kind=Kind.config)
    step = Cpt(EpicsSignal, "compare_step", kind=Kind.config)
    angles = Cpt(EpicsSignalRO, "angles", auto_monitor=True, kind=Kind.omitted)

    def __init__(
        self, prefix: str = "", *, name: str, patience: float = 2.0, **kwargs: Any
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.patience = patience
        self._sweep: Sweep | None = None
        self._read: NDArray[np.float64] = np.empty(0)
        self._collected = 0
        self._flight: Status | None = None
        self._done = threading.Event()

    @property
    def per_frame(self) -> dict[str, dict[str, str]]:
        """The per-frame column that this device fills, for the start document."""
        return {
            "angle": {"key": f"{self.name}_angle", "by": f"{self.name}_frame", "units": "degree"}
        }

    def check(self, sweep: Sweep) -> None:
        """Refuse a sweep of an axis that the unit does not look at; nothing is written.

        Raises
        ------
        SweepError
            With the axes that there are.
        """
        labels: Any = self.axis.enum_strs
        axes = [str(label) for label in labels or ()]
        if axes and sweep.axis not in axes:
            raise SweepError(
                f"{self.name} cannot give pulses along {sweep.axis}: {self.axis.pvname} knows "
                f"{', '.join(axes)}"
            )

    def stage(self) -> list[object]:
        """Give no pulses, wherever the axis goes on its way to the start."""
        self._disarm()
        return super().stage()

    def _disarm(self) -> None:
        put(self.first, OUT_OF_REACH)

    def prepare(self, sweep: Sweep) -> Status:
        """Choose the axis."""
        self.check(sweep)
        self._sweep = sweep
        self._collected = 0
        self._flight = None
        return in_background(self, self._set_up, sweep)

    def _set_up(self, sweep: Sweep) -> None:
        self._disarm()
        put(self.axis, sweep.axis)
        put(self.step, sweep.step)
        verify(self.step, sweep.step)

    def kickoff(self) -> Status:
        """Arm: a pulse at the start of the sweep, and one at each step."""
        if self._sweep is None:
            raise DeviceError(f"{self.name} was kicked off without being prepared")
        self._done.clear()
        self._collected = 0
        self._read = np.empty(0)
        self._flight = Status(self)
        # only what comes from now on belongs to this sweep
        self.angles.subscribe(self._on_angles, run=False)
        return in_background(self, self._arm, self._sweep)

    def _arm(self, sweep: Sweep) -> None:
        put(self.first, sweep.start)
        verify(self.first, sweep.start)

    def _on_angles(self, value: Any = None, **_: Any) -> None:
        self._read = np.atleast_1d(np.asarray(value, dtype=float))

    def available(self) -> int:
        """Give the number of frames whose angle has been read."""
        return len(self._read)

    def complete(self) -> Status:
        """Go on; done once every frame has its angle, or the sweep's time is over."""
        if self._flight is None or self._sweep is None:
            raise DeviceError(f"{self.name} was completed without being kicked off")
        in_background(self, self._follow, self._sweep, self._flight)
        return self._flight

    def _follow(self, sweep: Sweep, flight: Status) -> None:
        deadline = time.monotonic() + sweep.duration + self.patience
        while self.available() < sweep.n_frames and not self._done.wait(0.05):
            if time.monotonic() > deadline:
                log.warning("%s read %d of %d angles", self.name, self.available(), sweep.n_frames)
                break
        finish(flight)

    def describe_collect(self) -> dict[str, Any]:
        """Describe the two columns."""
        source = f"PV:{self.angles.pvname}"
        number = {"source": source, "dtype": "integer", "dtype_numpy": "<i8", "shape": []}
        angle = {"source": source, "dtype": "number", "dtype_numpy": "<f8", "shape": []}
        return {
            f"{self.name}_frame": number,
            f"{self.name}_angle": {**angle, "units": "degree"},
        }

    def collect_pages(self) -> Iterator[dict[str, Any]]:
        """Give the frames whose angle was read since the last call, as one event page."""
        sweep, read = self._sweep, self._read
        if sweep is None:
            return
        stop = min(len(read), sweep.n_frames)
        frames = list(range(self._collected, stop))
        if not frames:
            return
        middle = read[self._collected : stop] + 0.5 * sweep.step  # read where it began
        self._collected = stop
        now = time.time()
        data = {f"{self.name}_frame": frames, f"{self.name}_angle": [float(x) for x in middle]}
        yield {
            "data": data,
            "timestamps": {key: [now] * len(frames) for key in data},
            "time": [now] * len(frames),
        }

    def stop(self, *, success: bool = False) -> None:
        """Give no more pulses; what was read stays."""
        self._done.set()
        self.angles.clear_sub(self._on_angles)
        if self._flight is not None and not self._flight.done:
            self.first.put(OUT_OF_REACH)
            finish(self._flight)

    def pause(self) -> None:
        """Stop: half a sweep cannot be resumed."""
        self.stop()

    def unstage(self) -> list[object]:
        """Leave it disarmed."""
        self.stop(success=True)
        self._disarm()
        return super().unstage()


class Translation(EpicsMotor):
    """A motor that moves in mm: detector distance, height, a slit."""

    def check_value(self, pos: float) -> None:
        """Refuse a position outside the limits, and a motor that says it is no length.

        Raises
        ------
        DeviceError
            With the position, the limits and the units.
        """
        units = str(self.motor_egu.get())
        if units not in ("mm", "um", "µm", "m", "cm", ""):
            raise DeviceError(
                f"{self.name} is no translation: {self.prefix}.EGU is {units!r}\n"
                "Use offbragg.devices.goniometer:RotationAxis for it in beamline.toml."
            )
        low, high = (float(x) for x in self.limits)
        if low < high and not low <= pos <= high:
            raise DeviceError(
                f"{self.name} cannot go to {pos:g} {units}: its limits are {low:g} to {high:g}"
            )
        super().check_value(pos)
