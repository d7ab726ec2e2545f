"""What one rotation will measure, decided before anything moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import SweepError

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
        turns backwards.
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
        if self.step == 0.0:
            raise SweepError("sweep.step is 0 degree: a sweep turns; negative turns backwards")
        if self.exposure <= 0.0:
            raise SweepError(f"sweep.exposure is {self.exposure} s: it must be above 0 s")
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
            If a key is unknown or missing, or a value has the wrong type: named.
        """
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
