"""Where the axis was when the detector began to expose: measured, by the clocks of both."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from bluesky.protocols import Reading
from event_model import DataKey

from offbragg.errors import DeviceError
from offbragg.read_backs import NOTICED, angles_at, in_order
from offbragg.sweep import Sweep

log = logging.getLogger(__name__)

STREAM = "timing"
LATE = 0.4
"""How far from its angle a frame may be, s of the sweep (or two periods): else the sweep fails."""

_LOOKED_AT = 200  # frames of a long sweep whose angles are compared at its end
_SETTLED = 0.15  # s of read-backs after the first exposure began, before its angle is judged


@dataclass(frozen=True, slots=True)
class Timing:
    """How the clocks of axis and detector stand to each other; a readable, for one event.

    Parameters
    ----------
    clock_difference
        Clock of the axis minus clock of the detector, s.
    time_sigma
        Standard uncertainty of when an exposure began, by the clock of the axis, s.
    """

    clock_difference: float
    time_sigma: float
    name: str = STREAM
    parent: None = None

    def read(self) -> dict[str, Reading[float]]:
        """Return the two values, as a document has them."""
        now = time.time()
        return {
            "clock_difference": Reading(value=self.clock_difference, timestamp=now),
            "time_sigma": Reading(value=self.time_sigma, timestamp=now),
        }

    def describe(self) -> dict[str, DataKey]:
        """Describe the two values."""
        each = DataKey(source="offbragg", dtype="number", shape=[], units="s")
        return {"clock_difference": each, "time_sigma": each.copy()}

    def read_configuration(self) -> dict[str, Any]:
        """Return nothing: there is no configuration."""
        return {}

    def describe_configuration(self) -> dict[str, Any]:
        """Describe nothing: there is no configuration."""
        return {}


def is_read_back(detector: Any, axis: Any) -> bool:
    """Return whether axis and detector can tell where the axis was, and when."""
    return all(hasattr(axis, name) for name in ("read_backs", "clock")) and hasattr(
        detector, "clock"
    )


def is_measured(detector: Any, axis: Any) -> bool:
    """Return whether the angles of a sweep's frames are those that are read back.

    A detector that waits for pulses is told its angles by whoever gives them; the read-backs only
    show whether it was somewhere else altogether.
    """
    return is_read_back(detector, axis) and _starts_itself(detector)


def _starts_itself(detector: Any) -> bool:
    return getattr(detector, "trigger_mode", "internal") == "internal"


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
        How the clocks stand.
    """

    def __init__(self, detector: Any, axis: Any, sweep: Sweep, timing: Timing | None) -> None:
        self._detector, self._axis, self._sweep = detector, axis, sweep
        self._timing = timing
        self._allowed = max(2 * sweep.period, LATE) * sweep.speed
        self._judged = False

    @property
    def _began(self) -> float:
        """When the first exposure began, by the clock of the axis; NaN until that is known."""
        if self._detector.exposure_started is None:
            return math.nan  # it waits for its first pulse
        if self._timing is not None:
            return float(self._detector.exposure_started) + self._timing.clock_difference
        # of a pulse, the first file tells by this host's clock
        return float(self._detector.began_at) + self._axis.clock.offset

    def begin(self) -> None:
        """Judge the begin of the first exposure, as soon as the read-backs reach it.

        Raises
        ------
        DeviceError
            If it is further off than a sweep may be.
        """
        if self._judged:
            return
        read, began = self._axis.read_backs, self._began
        if not read or not read[-1][0] >= began + _SETTLED:
            return
        (angle,) = self._angles(np.array([began]))
        if math.isnan(angle):
            return
        self._judged = True
        sweep = self._sweep
        off = (angle - sweep.start) * (1 if sweep.step > 0 else -1)
        if self._timing is not None:
            self._axis.was_late(off / sweep.speed)
        elif abs(off) > self._allowed:
            raise DeviceError(
                f"{self._axis.name} was at {angle:.3f} degree when the first pulse came, not at "
                f"{sweep.start:g}\n"
                "Does the position compare count the same angle as the motor, of the same axis? "
                "Set its position, and measure the sweep again; its frames are kept."
            )
        if abs(off) > self._allowed:
            raise DeviceError(
                f"{self._axis.name} was at {angle:.3f} degree when {self._detector.name} began to "
                f"expose, not at {sweep.start:g}: {off / sweep.speed:+.2f} s from it\n"
                "Was the detector slow to arm, or this host or an IOC busy? Its frames are kept "
                "with the angles that were measured. Measure the sweep again. With a position "
                'compare (trigger = "ext_trigger") the start is exact.'
            )

    def end(self) -> str:
        """Judge the whole sweep; return what is to be known of its angles, or nothing.

        Raises
        ------
        DeviceError
            If a frame is further off than it may be.
        """
        if self._timing is None:
            return ""  # who gave the pulses tells the angles
        sweep, name = self._sweep, self._axis.name
        numbers = np.unique(np.linspace(0, sweep.n_frames - 1, _LOOKED_AT).round().astype(int))
        moments = self._began + (numbers + 0.5) * sweep.period
        off = self._angles(moments) - sweep.midpoints[numbers]
        known = np.isfinite(off)
        read = self._axis.read_backs
        if read and (beyond := numbers[~known & (moments > read[-1][0])]).size:
            raise DeviceError(
                f"{name} stood at {read[-1][1]:.3f} degree when frame {beyond[0]} of "
                f"{sweep.n_frames} was exposed, not at {sweep.midpoints[beyond[0]]:g}\n"
                "Was the detector slow to arm, or did the axis stop? Measure the sweep again."
            )
        if not known.any():
            text = (
                f"the angles of {name} are as commanded and nothing has checked them: "
                f"{len(self._axis.read_backs)} read-backs came during the sweep"
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
        texts = []
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

    def _angles(self, moments: Any) -> Any:
        stamps, positions = in_order(list(self._axis.read_backs))
        before, after = self._axis.at_speed
        sweep = self._sweep
        angles, _ = angles_at(
            moments, stamps, positions, speed=sweep.speed,
            begin=self._began - before, end=self._began + sweep.duration + after,
        )  # fmt: skip
        return angles
