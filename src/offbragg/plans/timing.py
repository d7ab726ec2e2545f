"""Where the axis was when the detector began to expose: measured, by the clocks of both."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from bluesky.protocols import Reading
from event_model import DataKey

from offbragg.errors import DeviceError
from offbragg.plans.triggers import waits_for_pulses
from offbragg.protocols import MeasuresStart, ReadsBack, meets
from offbragg.read_backs import NOTICED, angles_at, in_order, tolerance, unknown_between
from offbragg.sweep import Sweep

log = logging.getLogger(__name__)

STREAM = "timing"
LATE = 0.4
"""How far from its angle a frame may be, s of the sweep (or two periods): else the sweep fails."""

_LOOKED_AT = 200  # frames of a long sweep whose angles are compared at its end
_DRIFT = 0.05  # s, more than two clocks drift apart during a sweep
_PULSE_SEEN = 3.0  # s that the file of the first pulse may be seen late
_LOST = 1.5  # times the usual time between two read-backs: one that should have come did not
_SETTLED = 0.15  # s of read-backs after the first exposure began, before its angle is judged


@dataclass(frozen=True, slots=True)
class Timing:
    """How the clocks of axis and detector stand to each other.

    Parameters
    ----------
    clock_difference
        Clock of the axis minus clock of the detector, s.
    time_sigma
        Standard uncertainty of when an exposure began, by the clock of the axis, s.
    """

    clock_difference: float
    time_sigma: float


class TimingReadable:
    """What a run's events in the stream `STREAM` are read from (Bluesky wants one object)."""

    name = STREAM
    parent = None

    def __init__(self) -> None:
        self.timing = Timing(math.nan, math.nan)

    def read(self) -> dict[str, Reading[float]]:
        """Return the two values, as a document has them."""
        return {
            key: Reading(value=float(value), timestamp=time.time())
            for key, value in asdict(self.timing).items()
        }

    def describe(self) -> dict[str, DataKey]:
        """Describe the two values."""
        return {
            key: DataKey(source="offbragg", dtype="number", shape=[], units="s")
            for key in asdict(self.timing)
        }


def is_read_back(detector: object, axis: object) -> bool:
    """Return whether axis and detector can say where the axis was, and when."""
    return meets(axis, ReadsBack) and meets(detector, MeasuresStart)


def is_measured(detector: object, axis: object) -> bool:
    """Return whether the angles of a sweep's frames are those that are read back.

    A detector that waits for pulses gets its angles from whoever gives the pulses; the read-backs
    only show whether the axis was somewhere else altogether.
    """
    return is_read_back(detector, axis) and not waits_for_pulses(detector)


def timing_of(detector: Any, axis: Any) -> Timing:
    """Return how the clocks stand, once the detector is armed.

    Raises
    ------
    DeviceError
        If one of the clocks could not be measured.
    """
    for device in (axis, detector):
        if not device.clock.known:
            raise DeviceError(
                f"{device.name}: the clock of its IOC is not known, so no angle can be measured\n"
                "Its records do not stamp what is written to them: does the IOC answer this host?"
            )
    widths = axis.clock.half_width, detector.clock.half_width
    # each offset lies anywhere between its bounds: a uniform distribution
    clocks = math.hypot(*widths) / math.sqrt(3)
    return Timing(
        clock_difference=axis.clock.offset - detector.clock.offset,
        time_sigma=math.hypot(clocks, detector.start_sigma),
    )


class AngleCheck:
    """Compare where the axis was with where it should have been, during a sweep and at its end.

    Parameters
    ----------
    detector, axis, sweep
        As in `rotation_scan`.
    timing
        How the clocks stand; None for a detector that waits for pulses.
    """

    def __init__(self, detector: Any, axis: Any, sweep: Sweep, timing: Timing | None) -> None:
        self._detector, self._axis, self._sweep = detector, axis, sweep
        self._timing = timing
        self._allowed = max(2 * sweep.period, LATE) * sweep.speed
        self._judged = False
        self._late = 0.0  # how late the first exposure began, s; the run-out is that much shorter

    @property
    def _began(self) -> float:
        """When the first exposure began, by the clock of the axis; NaN until that is known."""
        if self._detector.exposure_started is None:
            return math.nan  # it waits for its first pulse
        if self._timing is not None:
            return float(self._detector.exposure_started) + self._timing.clock_difference
        # after a pulse, the first file gives it by this host's clock
        return float(self._detector.began_at) + self._axis.clock.offset

    def begin(self) -> None:
        """Judge the begin of the first exposure, as soon as the read-backs reach it.

        Raises
        ------
        DeviceError
            If it is further off than a sweep may be.
        """
        read = self._axis.read_backs
        if not self._judged and read and read[-1][0] >= self._began + _SETTLED:
            self._judge_begin()

    def _judge_begin(self) -> None:
        sweep, name = self._sweep, self._axis.name
        read, began = self._axis.read_backs, self._began
        (angle,) = self._angles(np.array([began]))
        if math.isnan(angle):
            if read and not read[0][0] <= began <= read[-1][0]:
                raise self._stood(0, read[0] if began < read[0][0] else read[-1])
            return  # no read-back beside it: see end
        self._judged = True
        late = (angle - sweep.start) * (1 if sweep.step > 0 else -1) / sweep.speed
        if self._timing is None:
            if abs(late) > LATE + _PULSE_SEEN:
                raise DeviceError(
                    f"{name} was at {angle:.3f} degree when the first pulse came, not at "
                    f"{sweep.start:g}\n"
                    "Does the position compare count the same angle as the motor, of the same "
                    "axis? Set its position, and measure the sweep again; its frames are kept."
                )
            return
        self._late = late
        self._axis.was_late(late)
        if abs(late) * sweep.speed > self._allowed:
            raise DeviceError(
                f"{name} was at {angle:.3f} degree when {self._detector.name} began to "
                f"expose, not at {sweep.start:g}: {late:+.2f} s from it\n"
                "Was the detector slow to arm, or this host or an IOC busy? Its frames are kept "
                "with the angles that were measured. Measure the sweep again. With a position "
                'compare (trigger = "ext_trigger") the start is exact.'
            )

    def _stood(self, number: int, where: tuple[float, float]) -> DeviceError:
        sweep = self._sweep
        return DeviceError(
            f"{self._axis.name} stood at {where[1]:.3f} degree when frame {number} of "
            f"{sweep.n_frames} was exposed, not at {sweep.midpoints[number]:g}\n"
            "Was the detector slow to arm or the axis slow to start, did the axis stop, or did a "
            "pulse come that was none? Measure the sweep again."
        )

    def compare_clocks(self) -> Timing | None:
        """Measure both clocks again, after the sweep; None if that cannot be, or needs not.

        Raises
        ------
        DeviceError
            If one of them was set meanwhile, at an unknown time.
        """
        if self._timing is None:
            return None
        first, axis, detector = self._timing, self._axis, self._detector
        try:
            axis.clock, detector.clock = axis.measure_clock(), detector.measure_clock()
            now = timing_of(detector, axis)
        except Exception as error:  # an IOC that is away just now must not cost a sweep
            log.warning("the clocks were not compared after the sweep: %s", error)
            return None
        change = now.clock_difference - first.clock_difference
        widths = 3 * math.hypot(first.time_sigma, now.time_sigma)
        if abs(change) > widths + _DRIFT:
            raise DeviceError(
                f"{axis.name} and {detector.name} have clocks that differ by {change:+.3f} s more "
                "than before the sweep: one of them was set\n"
                "Its angles cannot be trusted. Let both IOCs use the same time server (NTP), and "
                "measure the sweep again."
            )
        return now

    def end(self) -> str:
        """Judge the whole sweep; return what is to be known of its angles, or nothing.

        Raises
        ------
        DeviceError
            If a frame is further off than it may be, or its angle cannot be known well enough.
        """
        sweep, name = self._sweep, self._axis.name
        stamps, positions = in_order(list(self._axis.read_backs))
        if not self._judged and len(stamps) and math.isfinite(self._began):
            self._judge_begin()
        if self._timing is None:
            return ""  # whoever gave the pulses has the angles
        numbers = np.unique(np.linspace(0, sweep.n_frames - 1, _LOOKED_AT).round().astype(int))
        moments = self._began + (numbers + 0.5) * sweep.period
        off = self._angles(moments) - sweep.midpoints[numbers]
        known = np.isfinite(off)
        if len(stamps):
            read = self._axis.read_backs
            for outside, where in (
                (moments < stamps[0], read[0]),
                (moments > stamps[-1], read[-1]),
            ):
                if (those := numbers[~known & outside]).size:
                    raise self._stood(int(those[0]), where)
        if not known.any():
            text = (
                f"the angles of {name} are as commanded and nothing has checked them: "
                f"{len(stamps)} read-backs came during the sweep"
            )
            log.warning("%s", text)
            return text
        worst = int(np.nanargmax(np.abs(off)))
        if abs(off[worst]) > self._allowed:
            raise DeviceError(
                f"{name} was {off[worst]:+.3f} degree from where it should have been at frame "
                f"{numbers[worst]} of {sweep.n_frames}\n"
                "Did it turn at another speed, or stop on its way? The frames are kept with the "
                "angles that were measured. Measure the sweep again."
            )
        texts = self._check_evenness(stamps, positions)
        if abs(off[worst]) > min(NOTICED, 0.5 * abs(sweep.step)):
            texts.append(
                f"the angles of {name} are those that were measured: up to {off[worst]:+.3f} "
                f"degree from those that were asked for (frame {numbers[worst]})"
            )
        if not known.all():
            texts.append(
                f"{np.count_nonzero(~known)} of {len(known)} angles of {name} that were looked at "
                "are as commanded: no read-back came beside them"
            )
        for text in texts:
            log.warning("%s", text)
        return "; ".join(texts)

    def _check_evenness(self, stamps: Any, positions: Any) -> list[str]:
        """Refuse a sweep in which the axis stood or hurried between two read-backs.

        Return what a busy host did not see: it is only known less well.
        """
        sweep, name, (_, after) = self._sweep, self._axis.name, self._axis.at_speed
        unknown = unknown_between(stamps, positions, speed=sweep.speed)
        first, last = self._began + 0.5 * sweep.period, self._began + sweep.duration
        during = (stamps[1:] > first) & (stamps[:-1] < last - 0.5 * sweep.period)
        doubtful = during & (unknown > 2 * tolerance(sweep.speed))
        unseen = doubtful & self._is_unseen(stamps, positions)
        refused = doubtful & (~unseen | (unknown > self._allowed))
        if refused.any():
            i = int(np.where(refused, unknown, 0.0).argmax())
            if self._late > after and stamps[i + 1] > last - self._late + after:
                raise DeviceError(
                    f"{name} slowed down while the last frames were exposed: "
                    f"{self._detector.name} began {self._late:.2f} s late, and {name} keeps its "
                    f"speed for {after:.2f} s after the sweep\n"
                    "Was the detector slow to arm, or this host or an IOC too busy? Its frames are "
                    "kept with the angles that were measured. Measure the sweep again. A longer "
                    "run_out of the axis leaves more room."
                )
            raise DeviceError(
                f"{name} did not turn evenly: it went from {positions[i]:.3f} to "
                f"{positions[i + 1]:.3f} degree in {stamps[i + 1] - stamps[i]:.2f} s, at "
                f"{sweep.speed:g} degree/s asked for, while frames were exposed\n"
                f"Their angles are known to {unknown[i]:.3f} degree only. Does the drive stick, "
                "did the detector begin in the run-up, or does the record read back too rarely? A "
                "longer margin of the axis gives it more time at its speed. Measure the sweep "
                "again."
            )
        middles = self._began + (np.arange(sweep.n_frames) + 0.5) * sweep.period
        texts: list[str] = []
        for i in np.flatnonzero(unseen):
            hit = np.flatnonzero((middles > stamps[i]) & (middles < stamps[i + 1]))
            texts.append(
                f"no read-back of {name} came for {stamps[i + 1] - stamps[i]:.2f} s, at frames "
                f"{hit[0]} to {hit[-1]}: this host or an IOC was too busy. Their angles are known "
                f"to {unknown[i]:.3f} degree only"
            )
        return texts

    def _is_unseen(self, stamps: Any, positions: Any) -> Any:
        """Return between which read-backs others were lost while the axis started or stopped.

        Both stamps are of the IOC, so an axis that had to have its speed throughout is judged by
        them, however late they came. One that also sped up or slowed down there travels less than
        its speed gives: it is as planned if it went at its speed as far as it had to.
        """
        gaps, gone = np.diff(stamps), np.abs(np.diff(positions))
        before, after = self._axis.at_speed
        passed = self._began - self._late  # when the axis passed the start
        begin, end = passed - before, passed + self._sweep.duration + after
        inside = (stamps[:-1] > begin) & (stamps[1:] < end)
        if not inside.any():
            return inside  # nothing says how often the record reads back
        at_speed = np.minimum(stamps[1:], end) - np.maximum(stamps[:-1], begin)
        speed, slack = self._sweep.speed, tolerance(self._sweep.speed)
        as_planned = (gone > speed * at_speed - slack) & (gone < speed * gaps + slack)
        return ~inside & as_planned & (gaps > _LOST * np.median(gaps[inside]))

    def _angles(self, moments: Any) -> Any:
        stamps, positions = in_order(list(self._axis.read_backs))
        before, after = self._axis.at_speed
        sweep = self._sweep
        angles, _ = angles_at(
            moments, stamps, positions, speed=sweep.speed,
            begin=self._began - before, end=self._began + sweep.duration + after,
        )  # fmt: skip
        return angles
