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
_KEYS = ("axis", "start", "step", "n_frames", "exposure", "period")


@dataclass(frozen=True, slots=True)
class Sweep:
    """One continuous rotation, as asked.

    Every angle and time is derived from these six numbers, so that what is commanded, what
    is written and what is reduced cannot drift apart.

    Parameters
    ----------
    axis
        Name of the rotation axis that moves, as in `Geometry.axes`.
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

    Raises
    ------
    SweepError
        If the numbers describe no rotation: the message names the field and its value.

    Examples
    --------
    >>> Sweep("phi", start=0.0, step=0.5, n_frames=4, exposure=0.099, period=0.1).midpoints
    array([0.25, 0.75, 1.25, 1.75])
    """

    axis: str
    start: float
    step: float
    n_frames: int
    exposure: float
    period: float

    def __post_init__(self) -> None:
        if not _is_a(str, self.axis):
            raise SweepError(f"sweep.axis is {_short(self.axis)}: it must be the name of an axis")
        if not self.axis:
            raise SweepError("sweep.axis is empty: name the rotation axis that moves")
        for name in ("start", "step", "exposure", "period"):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
                raise SweepError(f"sweep.{name} is {value!r}: it must be a finite number")
        frames: object = self.n_frames
        if isinstance(frames, bool) or not isinstance(frames, Integral):
            raise SweepError(f"sweep.n_frames is {frames!r}: it must be a whole number")
        if self.n_frames < 1:
            raise SweepError(f"sweep.n_frames is {self.n_frames}: a sweep has at least one frame")
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
        """As plain JSON types, for a start document."""
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
            If it is no mapping, a key is unknown or missing, or a value has the wrong type: named.
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


def _is_a(kind: type, value: object) -> bool:
    """Say whether something is what its type promises: people type at a prompt."""
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
    """Say which exposures fell, in whole or in part, into a time in which something was off.

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
    """Say which frames counted so little that they had no beam.

    Compared is with the median of those that had beam; what that is, the third largest says:
    no loss can be so long that it becomes the rule, and two spikes are none.

    Parameters
    ----------
    counts
        Of the incident monitor, one per frame; NaN where not known (not too little).
    fraction
        Less than this part of the median is no beam.

    Examples
    --------
    >>> counted_too_little(np.array([99.0, 101.0, 30.0, 0.0, 0.0, 0.0, 100.0]), 0.5).tolist()
    [False, False, True, True, True, True, False]
    """
    # nan compares as false
    return (counts < least_count(counts, fraction)) | (counts <= 0)


def least_count(counts: NDArray[np.float64], fraction: float) -> float:
    """Say what a frame with beam counts at least; see `counted_too_little`. NaN of no counts."""
    known = np.sort(counts[np.isfinite(counts)])
    if not known.size:
        return math.nan
    with_beam = known[known >= fraction * known[-min(3, known.size)]]
    return fraction * float(np.median(with_beam))
