"""Values that belong to frames, joined to them by number or by time: from documents to columns."""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.ledger import ranges
from offbragg.read_backs import NOTICED, angles_at, in_order, reach_of
from offbragg.sweep import Sweep, counted_too_little, exposed_while_off

log = logging.getLogger(__name__)

WEIGHT = "weight"
"""Per-frame column: 1 with beam, 0 without."""

READ_BACK = ("read-back", "encoder")
"""Sources of an angle that lies between stamped read-backs of the axis."""

_INTERPOLATED = "interpolated"  # what runs say that were measured before there was `READ_BACK`
_QUARTZ = 5e-5  # how wrong the rate of a detector's clock may be
_BESIDE = 10.0  # s of read-backs beside a frame: more than its angle needs
_AT_SPEED = 0.3  # s at constant speed beside the sweep, of runs that do not say it


class FrameValues:
    """Collect the values of every frame of a sweep.

    A value joined by time is the last one at or before the middle of the exposure: a
    Channel Access monitor that posts nothing says that the value is what it was.

    An angle is read back: it is where the read-backs of the axis around the middle of the frame
    say that the axis was (`offbragg.read_backs`). Between the clocks of axis and detector lies the
    difference that the run's ``timing`` event has. An angle without read-backs stays as it was
    commanded, and has no uncertainty.

    The column ``weight`` comes from a permit that is 1 with beam and 0 without: a frame that
    was exposed without beam for all or part of its exposure has the weight 0; so has one whose
    monitor counted too little, if the monitor belongs to the permit.

    Parameters
    ----------
    per_frame
        What the start document says of each column.
    middle
        Middle of each exposure, POSIX s by the detector's clock, NaN where not known yet, shape
        (n_frames,).
    sweep
        As commanded.
    """

    def __init__(
        self,
        per_frame: Mapping[str, Mapping[str, Any]],
        middle: NDArray[np.float64],
        *,
        sweep: Sweep,
    ) -> None:
        self._sweep = sweep
        self._half = sweep.exposure / 2
        self._by_number = {c: v for c, v in per_frame.items() if "by" in v}
        self._by_time = {c: v["key"] for c, v in per_frame.items() if "by" not in v}
        self._middle = middle
        names = [*per_frame, *(["angle_sigma"] if "angle" in per_frame else [])]
        self._columns = {c: np.full(middle.size, np.nan) for c in names}
        self._changed = {c: np.zeros(middle.size, bool) for c in names}
        self._samples: dict[str, list[tuple[float, float]]] = {c: [] for c in self._by_time}
        angle = per_frame.get("angle", {})
        self._source = str(angle.get("how", "")) if "by" not in angle else ""
        self._read_back = self._source in (*READ_BACK, _INTERPOLATED)
        self._before = float(angle.get("before", _AT_SPEED))
        self._after = float(angle.get("after", _AT_SPEED))
        self._sigma = float(angle.get("sigma") or math.nan)  # of a position compare
        self._timing: list[tuple[float, float]] = []  # difference of the clocks, its sigma, s
        self._final = np.zeros(middle.size, bool)  # angles that no later read-back changes
        weight = per_frame.get(WEIGHT, {})
        self._monitor: str | None = weight.get("monitor")
        self._fraction = float(weight.get("fraction", 0.0))

    def exposed(self, number: int, middle: float) -> None:
        """Take note of when the middle of a frame's exposure was, POSIX s."""
        self._middle[number] = middle
        for column, samples in self._samples.items():
            if self._waits(column):
                continue  # see take
            i = bisect_right(samples, (middle, np.inf))
            if i:
                self._set(column, number, samples[i - 1][1])

    def add(self, data: Mapping[str, Any], timestamps: Mapping[str, float], when: float) -> None:
        """Take the data of one event."""
        if "clock_difference" in data:
            self._timing.append((float(data["clock_difference"]), float(data["time_sigma"])))
            self._final[:] = False  # the clocks have drifted since they were first compared
        for column, spec in self._by_number.items():
            if spec["key"] in data:
                number = int(data[spec["by"]])
                self._set(column, number, float(data[spec["key"]]))
                if column == "angle" and math.isfinite(float(data[spec["key"]])):
                    self._set("angle_sigma", number, self._sigma)
        for column, key in self._by_time.items():
            if key in data:
                self._sample(column, timestamps.get(key, when), float(data[key]))

    def add_page(self, doc: Mapping[str, Any]) -> None:
        """Take the data of an event page."""
        for i, when in enumerate(doc["time"]):
            self.add(
                {k: v[i] for k, v in doc["data"].items()},
                {k: v[i] for k, v in doc["timestamps"].items()},
                when,
            )

    def take(self, *, final: bool = False) -> list[tuple[str, NDArray[Any], NDArray[Any]]]:
        """Return what has changed since the last call: ``(column, numbers, values)``.

        Parameters
        ----------
        final
            Whether no more events will come.
        """
        self._weigh()
        if self._read_back:
            self._read_angles(final=final)
        taken: list[tuple[str, NDArray[Any], NDArray[Any]]] = []
        for column, changed in self._changed.items():
            numbers = np.flatnonzero(changed)
            if numbers.size:
                taken.append((column, numbers, self._columns[column][numbers]))
                changed[:] = False
        return taken

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return mean, standard deviation and span of every column that has values.

        ``angles`` has where the angles come from, the difference between measured and commanded
        angle of the first known frame and the largest one, the median uncertainty, degree, and
        the difference of the clocks, s.
        """
        found: dict[str, dict[str, Any]] = {
            column: {
                "mean": float(np.mean(v)),
                "std": float(np.std(v)),
                "span": float(np.ptp(v)),
            }
            for column, values in self._columns.items()
            if column != "angle_sigma" and (v := values[np.isfinite(values)]).size
        }
        known = self._columns.get("angle", np.empty(0))
        off = (known - self._sweep.midpoints)[np.isfinite(known)] if known.size else known
        if off.size:
            sigmas = self._columns["angle_sigma"]
            finite = sigmas[np.isfinite(sigmas)]
            found["angles"] = {
                "source": self._source or "position compare",
                "measured": int(off.size),
                "first_offset": float(off[0]),
                "largest_offset": float(off[np.argmax(np.abs(off))]),
                "sigma": float(np.median(finite)) if finite.size else None,
                "clock_difference": self._timing[0][0] if self._timing else None,
            }
        return found

    def unchecked(self) -> list[int]:
        """Return the frames that were exposed and whose angle is only commanded, of a turn."""
        if not self._sweep.step:
            return []
        exposed = np.isfinite(self._middle)
        known = np.isfinite(self._columns["angle"]) if "angle" in self._columns else ~exposed
        return [int(number) for number in np.flatnonzero(exposed & ~known)]

    def warn_of_angles(self) -> None:
        """Warn of angles that are only commanded, and of pulses that came elsewhere."""
        sweep, angles = self._sweep, self.summary().get("angles")
        if angles and not self._read_back:
            off = angles["largest_offset"]
            if abs(off) > min(NOTICED, 0.5 * abs(sweep.step)):
                log.warning(
                    "%s: the angles are those of the position compare, up to %+.3f degree from "
                    "those that were asked for",
                    sweep.axis, off,
                )  # fmt: skip
        if numbers := self.unchecked():
            log.warning(
                "%s: the angles of frames %s are as commanded, and nothing has checked them",
                self._sweep.axis, ranges(numbers),
            )  # fmt: skip

    # -- columns -------------------------------------------------------------------------------

    def _waits(self, column: str) -> bool:
        """Return whether a column is worked out when it is taken, from all samples."""
        return column == WEIGHT or (column == "angle" and self._read_back)

    def _sample(self, column: str, when: float, value: float) -> None:
        samples = self._samples[column]
        i = bisect_right(samples, (when, np.inf))
        samples.insert(i, (when, value))
        if self._waits(column):
            return  # see take
        until = samples[i + 1][0] if i + 1 < len(samples) else np.inf
        for number in np.flatnonzero((self._middle >= when) & (self._middle < until)):
            self._set(column, int(number), value)

    def _weigh(self) -> None:
        """Weigh all frames again: the weight of one depends on the counts of the others."""
        samples = self._samples.get(WEIGHT)
        if not samples:
            return
        middle = self._middle
        dark = exposed_while_off(samples, middle - self._half, middle + self._half)
        if self._monitor is not None:
            dark |= counted_too_little(self._columns[self._monitor], self._fraction)
        self._set_all(WEIGHT, np.where(np.isfinite(middle), np.where(dark, 0.0, 1.0), np.nan))

    def _read_angles(self, *, final: bool) -> None:
        """Calculate the angles from the read-backs before and after each frame."""
        sweep = self._sweep
        # a frame's angle is half a step past where its exposure began
        exposed = self._middle - self._half + sweep.period / 2
        difference, time_sigma = self._clocks()
        moments = exposed + difference
        open_ones = moments[np.isfinite(moments) & ~self._final]
        if not open_ones.size:
            return
        samples = self._samples["angle"]
        needed = bisect_right(samples, (float(open_ones.min()) - _BESIDE, -np.inf))
        stamps, positions = in_order(samples[needed:])
        if not stamps.size:
            return
        # each frame that is there gives the start of the sweep
        began = float(np.nanmin(moments - sweep.period * (np.arange(moments.size) + 0.5)))
        begin, end = began - self._before, began + sweep.duration + self._after
        ready = np.isfinite(moments) & ~self._final
        if not final:
            ready &= moments + reach_of(moments, stamps, begin=begin, end=end) <= stamps[-1]
        numbers = np.flatnonzero(ready)
        if not numbers.size:
            return
        angles, sigmas = angles_at(
            moments[numbers], stamps, positions, speed=sweep.speed, begin=begin, end=end
        )
        sigmas = np.hypot(sigmas, sweep.speed * time_sigma[numbers])
        for column, values in (("angle", angles), ("angle_sigma", sigmas)):
            every = np.full(self._middle.size, np.nan)
            every[numbers] = values
            self._set_all(column, every)
        self._final[numbers] = True

    def _clocks(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what to add to the detector's time for that of the axis, and its uncertainty, s.

        From the comparison before the sweep to that after it the difference goes linearly. A run
        of an earlier version has none: its clocks are taken for equal, with an unknown uncertainty.
        """
        n = self._sweep.n_frames
        if not self._timing:
            return np.zeros(n), np.full(n, np.nan)
        differences, sigmas = np.array(self._timing).T
        change = float(differences[-1] - differences[0])
        numbers = np.arange(n)
        # frames are timed by the detector's own clock from the first one on
        quartz = numbers * self._sweep.period * _QUARTZ / math.sqrt(3)
        difference = differences[0] + change * (numbers + 0.5) / n
        return difference, np.sqrt(sigmas.max() ** 2 + change**2 / 12 + quartz**2)

    def _set_all(self, column: str, values: NDArray[np.float64]) -> None:
        """Set what is known of a column and has changed."""
        known = self._columns[column]
        changed = np.isfinite(values) & (values != known)
        known[changed] = values[changed]
        self._changed[column] |= changed

    def _set(self, column: str, number: int, value: float) -> None:
        if not 0 <= number < self._middle.size or not math.isfinite(value):
            return
        if self._columns[column][number] != value:
            self._columns[column][number] = value
            self._changed[column][number] = True
