"""A motion that turns through a sweep at constant speed: where it begins, where it ends."""

from __future__ import annotations

from dataclasses import dataclass

from offbragg.sweep import Sweep


@dataclass(frozen=True, slots=True)
class AxisFlight:
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

    def left_by(self, moment: float, position: float) -> float:
        """Return when the axis had left ``begin`` at the latest, s, if it was read back elsewhere.

        Parameters
        ----------
        moment, position
            Of the read-back, s and degree.

        Examples
        --------
        >>> flight = AxisFlight(0.0, 9.0, 1, speed=2.0, ramp=0.5, start_time=1.0, duration=5.0)
        >>> flight.left_by(100.0, 1.0)
        99.5
        """
        return moment - (position - self.begin) * self.direction / self.speed


def plan_flight(
    sweep: Sweep,
    *,
    acceleration_time: float,
    base_speed: float = 0.0,
    margin: float = 0.5,
    run_out: float | None = None,
) -> AxisFlight:
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
        Time at constant speed before the start, s.
    run_out
        Time at constant speed after the end, s; ``margin`` if None.

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
    after = margin if run_out is None else run_out
    return AxisFlight(
        begin=sweep.start - direction * (ramp + margin * speed),
        end=sweep.stop + direction * (ramp + after * speed),
        direction=direction,
        speed=speed,
        ramp=ramp,
        start_time=acceleration_time + margin,
        duration=2 * acceleration_time + margin + after + sweep.duration,
    )
