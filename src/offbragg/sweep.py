"""What one rotation will measure, decided before anything moves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import SweepError

_LONGEST = 1e8  # s, three years: more is a slip
_WHOLE = 1e-6  # of a frame: decimal steps are not exact in binary
_KEYS = ("axis", "start", "step", "n_frames", "exposure", "period")
_MORE_KEYS = ("stop", "speed")  # from which the others can be worked out


@dataclass(frozen=True, slots=True, init=False)
class Sweep:
    """One continuous rotation, as asked.

    Every angle and time is derived from six numbers, so that what is commanded, what is written
    and what is reduced cannot drift apart. It is asked for by whatever is known: two of ``step``,
    ``n_frames`` and ``stop``, and ``period`` or ``speed``. More than is needed must agree.

    Parameters
    ----------
    axis
        Name of the rotation axis that moves, as in `Geometry.axes`; or the axis itself.
    start
        Angle at which the first exposure begins, degree.
    step
        Turned from the beginning of one frame to the beginning of the next, degree; negative
        turns backwards, 0 stands still.
    n_frames
        How many frames.
    exposure
        Time that a frame counts, s.
    period
        Time from the beginning of one frame to the beginning of the next, s.
    stop
        Angle at which the last frame ends, degree.
    speed
        How fast the axis turns, degree/s, above 0 whichever way it turns.

    Raises
    ------
    SweepError
        If the numbers describe no rotation, are too few, or contradict each other: the message
        names the field and its value.

    Examples
    --------
    >>> Sweep("phi", start=0.0, step=0.5, n_frames=4, exposure=0.099, period=0.1).midpoints
    array([0.25, 0.75, 1.25, 1.75])

    A whole turn at one degree per second:

    >>> turn = Sweep("phi", start=0, stop=360, step=0.1, exposure=0.097, speed=1.0)
    >>> turn.n_frames, turn.period
    (3600, 0.1)
    """

    axis: str
    start: float
    step: float
    n_frames: int
    exposure: float
    period: float

    def __init__(
        self,
        axis: str | Any,
        start: float,
        step: float | None = None,
        n_frames: int | None = None,
        exposure: float | None = None,
        period: float | None = None,
        *,
        stop: float | None = None,
        speed: float | None = None,
    ) -> None:
        name = axis if _is_a(str, axis) else getattr(axis, "name", None)
        if not isinstance(name, str):
            raise SweepError(f"sweep.axis is {_short(axis)}: it must be the name of an axis")
        if not name:
            raise SweepError("sweep.axis is empty: name the rotation axis that moves")
        for key, value in (
            ("start", start), ("step", step), ("exposure", exposure), ("period", period),
            ("stop", stop), ("speed", speed),
        ):  # fmt: skip
            if value is not None or key == "start":
                _check_number(key, value)
        if n_frames is not None:
            _check_frames(n_frames)
        step, n_frames = _turn(start, step, n_frames, stop)
        if exposure is None:
            raise SweepError("sweep.exposure is missing: the time that a frame counts, s")
        period = _pace(step, period, speed)
        for key, value in (
            ("axis", name), ("start", start), ("step", step), ("n_frames", n_frames),
            ("exposure", exposure), ("period", period),
        ):  # fmt: skip
            object.__setattr__(self, key, value)
        if self.exposure <= 0.0:
            raise SweepError(f"sweep.exposure is {self.exposure} s: it must be above 0 s")
        if self.duration > _LONGEST:
            raise SweepError(
                f"sweep of {self.n_frames} frames every {self.period:g} s lasts "
                f"{self.duration:.3g} s: at most {_LONGEST:g} s are believed"
            )
        if self.period < self.exposure:
            raise SweepError(
                f"sweep.period {self.period} s is shorter than sweep.exposure {self.exposure} s: "
                "ask for a longer period or a shorter exposure"
            )

    @property
    def edges(self) -> NDArray[np.float64]:
        """Angles between frames, with the first and last end, degree, shape (n_frames + 1,)."""
        return self.start + self.step * np.arange(self.n_frames + 1, dtype=np.float64)

    @property
    def starts(self) -> NDArray[np.float64]:
        """Angle at which each frame begins, degree, shape (n_frames,)."""
        return self.edges[:-1]

    @property
    def midpoints(self) -> NDArray[np.float64]:
        """Angle of each frame: half a step past its beginning, degree, shape (n_frames,)."""
        return self.start + self.step * (np.arange(self.n_frames, dtype=np.float64) + 0.5)

    @property
    def stop(self) -> float:
        """Angle at which the last frame ends, degree."""
        return self.start + self.step * self.n_frames

    @property
    def speed(self) -> float:
        """How fast the axis turns, degree/s, always positive."""
        return abs(self.step) / self.period

    @property
    def duration(self) -> float:
        """Time from the first frame's beginning to the last frame's end, s."""
        return self.n_frames * self.period

    def backwards(self) -> Sweep:
        """Return the same rotation from its end to its start: the same edges between frames.

        Examples
        --------
        >>> Sweep("phi", start=0.0, step=0.5, n_frames=4, exposure=0.099, period=0.1).backwards()
        Sweep(axis='phi', start=2.0, step=-0.5, n_frames=4, exposure=0.099, period=0.1)
        """
        return replace(self, start=self.stop, step=-self.step)

    def to_dict(self) -> dict[str, Any]:
        """Return as plain JSON types, for a start document."""
        return {
            "axis": self.axis,
            "start": self.start,
            "step": self.step,
            "n_frames": self.n_frames,
            "exposure": self.exposure,
            "period": self.period,
        }

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Sweep:
        """Read what `to_dict` wrote.

        Raises
        ------
        SweepError
            If it is not a mapping, a key is unknown or missing, or a value has the wrong type.
        """
        if not _is_a(Mapping, mapping):
            raise SweepError(
                f"a sweep is {_short(mapping)}: it must be a Sweep, or a mapping with "
                f"{', '.join(_KEYS)}"
            )
        for key in mapping:
            if key not in _KEYS:
                raise SweepError(f"sweep.{key} is unknown: a sweep has {', '.join(_KEYS)}")
        for key in _KEYS:
            if key not in mapping:
                raise SweepError(f"sweep.{key} is missing: a sweep has {', '.join(_KEYS)}")
        axis, n_frames = mapping["axis"], mapping["n_frames"]
        if not isinstance(axis, str):
            raise SweepError(f"sweep.axis is {axis!r}: it must be the name of an axis")
        if isinstance(n_frames, bool) or not isinstance(n_frames, Integral):
            raise SweepError(f"sweep.n_frames is {n_frames!r}: it must be a whole number")
        numbers: dict[str, float] = {}
        for key in ("start", "step", "exposure", "period"):
            value: object = mapping[key]
            if isinstance(value, bool) or not isinstance(value, Real):
                raise SweepError(f"sweep.{key} is {value!r}: it must be a number")
            numbers[key] = float(value)
        return cls(axis=axis, n_frames=int(n_frames), **numbers)

    @classmethod
    def of(cls, given: Sweep | Mapping[str, Any]) -> Sweep:
        """Return a sweep as it is, or make the one that a mapping asks for, as one types it.

        Parameters
        ----------
        given
            A sweep, or a mapping with its parameters: ``stop`` and ``speed``, too.

        Raises
        ------
        SweepError
            As of `from_dict`.

        Examples
        --------
        >>> Sweep.of({"axis": "phi", "start": 0, "stop": 2, "step": 0.5,
        ...           "exposure": 0.1, "period": 0.2}).n_frames
        4
        """
        if isinstance(given, Sweep):
            return given
        if _is_a(Mapping, given) and given.keys() & _MORE_KEYS:
            for key in given:
                if key not in (*_KEYS, *_MORE_KEYS):
                    raise SweepError(
                        f"sweep.{key} is unknown: a sweep has {', '.join((*_KEYS, *_MORE_KEYS))}"
                    )
            for key in ("axis", "start"):
                if key not in given:
                    raise SweepError(f"sweep.{key} is missing")
            return cls(**given)
        if _is_a(Mapping, given) and isinstance(name := getattr(given.get("axis"), "name", 0), str):
            given = {**given, "axis": name}  # a queue makes devices of names
        return cls.from_dict(given)


def _check_number(key: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise SweepError(f"sweep.{key} is {value!r}: it must be a finite number")


def _check_frames(n_frames: object) -> None:
    if isinstance(n_frames, bool) or not isinstance(n_frames, Integral):
        raise SweepError(f"sweep.n_frames is {n_frames!r}: it must be a whole number")
    if int(n_frames) < 1:
        raise SweepError(f"sweep.n_frames is {n_frames}: a sweep has at least one frame")


def _turn(
    start: float, step: float | None, n_frames: int | None, stop: float | None
) -> tuple[float, int]:
    """Work out step and number of frames from what is given of step, number and stop."""
    if stop is None:
        if step is None or n_frames is None:
            missing = "step" if step is None else "n_frames"
            raise SweepError(f"sweep.{missing} is missing: give two of step, n_frames and stop")
        return step, n_frames
    way = stop - start
    if step is None:
        if n_frames is None:
            raise SweepError("sweep.step is missing: give step or n_frames beside stop")
        return way / n_frames, n_frames
    if step == 0:
        raise SweepError(f"sweep.step is 0 degree: it never comes to sweep.stop {stop:g}")
    wanted = way / step
    if wanted <= 0:
        raise SweepError(
            f"sweep.step {step:g} does not lead from {start:g} to sweep.stop {stop:g} degree"
            + (f": give step={-step:g}" if way else "")
        )
    frames = max(round(wanted), 1)
    if n_frames is not None and abs(wanted - n_frames) > _WHOLE:
        raise SweepError(
            f"sweep.n_frames {n_frames} in steps of {step:g} degree end at "
            f"{start + n_frames * step:g}, and sweep.stop is {stop:g}: leave one of the three out"
        )
    if abs(wanted - frames) > _WHOLE:
        fewer = max(math.floor(wanted), 1)
        raise SweepError(
            f"sweep.stop {stop:g} is {wanted:.6g} steps of {step:g} degree from {start:g}: frames "
            f"come whole\nGive stop={start + fewer * step:.10g} or "
            f"stop={start + (fewer + 1) * step:.10g}, or n_frames instead of step."
        )
    return step, frames


def _pace(step: float, period: float | None, speed: float | None) -> float:
    """Work out the period from what is given of period and speed, s."""
    if speed is None:
        if period is None:
            raise SweepError("sweep.period is missing: give period, s, or speed, degree/s")
        return period
    if speed <= 0:
        raise SweepError(
            f"sweep.speed is {speed:g} degree/s: it must be above 0; step has the sign"
        )
    if step == 0:
        raise SweepError(f"sweep.step is 0 degree: it does not turn at {speed:g} degree/s")
    needed = abs(step) / speed
    if period is not None and not math.isclose(period, needed, rel_tol=1e-6):
        raise SweepError(
            f"sweep.period {period:g} s and steps of {step:g} degree are "
            f"{abs(step) / period if period else math.inf:g} degree/s, and sweep.speed is "
            f"{speed:g}: leave one of the two out"
        )
    return needed if period is None else period


def _is_a(kind: type, value: object) -> bool:
    """Return whether a value has the type that is promised: people type at a prompt."""
    return isinstance(value, kind)


def _short(value: object) -> str:
    """Show something in a message, whatever it is."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"


def exposed_while_off(
    samples: Sequence[tuple[float, float]],
    begin: NDArray[np.float64],
    end: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return which exposures fell, in whole or in part, into a time in which something was off.

    Parameters
    ----------
    samples
        ``(time, value)`` whenever the value changed, in any order; 0 is off. What was before the
        first is not known and counts as on.
    begin, end
        Of the exposures, on the same clock, s; NaN where not known (not off).

    Examples
    --------
    >>> begin = np.arange(5.0)
    >>> exposed_while_off([(0.0, 1), (1.5, 0), (3.0, 1)], begin, begin + 0.9)
    array([False,  True,  True, False, False])
    """
    off = np.zeros(len(begin), np.bool_)
    ordered = sorted(samples)
    for i, (since, value) in enumerate(ordered):
        if value == 0:
            until = ordered[i + 1][0] if i + 1 < len(ordered) else math.inf
            off |= (begin < until) & (end > since)
    return off


def counted_too_little(counts: NDArray[np.float64], fraction: float) -> NDArray[np.bool_]:
    """Return which frames counted so little that they had no beam.

    Compared is with the median of those that had beam; what that is, the third largest says:
    no loss can last until it is the rule, and two spikes are none.

    Parameters
    ----------
    counts
        Of the incident monitor, one per frame; NaN where not known (not too little).
    fraction
        A frame with less than this part of the median had no beam.

    Examples
    --------
    >>> counted_too_little(np.array([99.0, 101.0, 30.0, 0.0, 0.0, 0.0, 100.0]), 0.5).tolist()
    [False, False, True, True, True, True, False]
    """
    # nan compares as false
    return (counts < least_count(counts, fraction)) | (counts <= 0)


def least_count(counts: NDArray[np.float64], fraction: float) -> float:
    """Return the lowest counts of a frame with beam (see `counted_too_little`), or NaN."""
    known = np.sort(counts[np.isfinite(counts)])
    if not known.size:
        return math.nan
    with_beam = known[known >= fraction * known[-min(3, known.size)]]
    return fraction * float(np.median(with_beam))
