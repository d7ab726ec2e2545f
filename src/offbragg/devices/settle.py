"""When a sample counts as settled: a rule, and the state of one wait for it. No control system."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offbragg.errors import ConfigError


class State(StrEnum):
    """What a sensor's record says about the sample."""

    SILENT = "silent"
    """No reading comes."""
    STUCK = "stuck"
    """Readings come, and never change: no sensor is that quiet."""
    AWAY = "away"
    """Not there yet."""
    OVERSHOOT = "overshoot"
    """Beyond the setpoint, or swinging back from there."""
    NOISE = "noise"
    """About right on average, but the readings scatter too much."""
    DRIFT = "drift"
    """Within the tolerance, but still moving."""
    WINDOW = "window"
    """Nothing wrong, but not for a whole window yet."""
    DWELL = "dwell"
    """Settled; the sample is given time to follow."""
    SETTLED = "settled"


@dataclass(frozen=True, slots=True)
class SettleVerdict:
    """What a window of temperatures says: settled or not, why not, and the statistics."""

    settled: bool
    reason: str
    mean: float = float("nan")
    std: float = float("nan")
    slope: float = float("nan")
    state: State = State.SILENT


@dataclass(frozen=True, slots=True)
class Settle:
    """When a sample counts as settled: all of it over a whole window, then a dwell.

    A controller's own done flag means first crossing only.

    Parameters
    ----------
    tolerance
        Largest distance from the setpoint, K.
    window
        Time for which all conditions must hold, s.
    slope
        Largest drift, K/s.
    deviation
        Largest standard deviation, K; half the tolerance if not given.
    dwell
        Wait after settling, for the sample to follow the gas, s.
    stuck
        Time after which a reading that has not changed comes from a stuck sensor, s; half the
        window if not given. 0 for a sensor whose resolution is coarser than its noise.
    """

    tolerance: float = 0.2
    window: float = 60.0
    slope: float = 0.1 / 60.0
    deviation: float | None = None
    dwell: float = 60.0
    stuck: float | None = None

    def __post_init__(self) -> None:
        for name in ("tolerance", "window", "slope"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"settle.{name} is {getattr(self, name)}: it must be above 0")
        if self.dwell < 0 or (self.deviation is not None and not self.deviation > 0):
            raise ConfigError("settle.dwell must not be below 0, settle.deviation above 0")
        if self.stuck is not None and self.stuck < 0:
            raise ConfigError(f"settle.stuck is {self.stuck}: it must not be below 0")

    @property
    def patience_with_stuck(self) -> float:
        """How long a reading may stay the same, s."""
        return self.window / 2 if self.stuck is None else self.stuck

    def judge(
        self,
        times: ArrayLike,
        temperatures: ArrayLike,
        setpoint: float,
        *,
        heading: int = 0,
        crossed: bool = False,
    ) -> SettleVerdict:
        """Judge the latest window of a record of temperatures.

        Parameters
        ----------
        times
            s, growing, shape (n,).
        temperatures
            K, shape (n,).
        setpoint
            K.
        heading
            +1 on the way up, −1 on the way down, 0 if the setpoint is where it was.
        crossed
            Whether the setpoint has been passed on this way.

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
            return SettleVerdict(False, "no temperatures yet")
        latest = t[-1]
        full = t[0] <= latest - self.window + 1e-9
        inside = t >= latest - self.window - 1e-9
        t, kelvin = t[inside], kelvin[inside]
        if len(t) < 3:
            return SettleVerdict(False, "too few temperatures in the window")
        mean, std = float(kelvin.mean()), float(kelvin.std())
        slope, _ = _line(t, kelvin)
        off = kelvin - setpoint
        worst = int(np.argmax(np.abs(off)))
        allowed = self.deviation if self.deviation is not None else self.tolerance / 2

        recent = t >= latest - self.window / 4
        if np.count_nonzero(recent) < 3:
            recent[-3:] = True
        centre = float(np.median(off[recent]))
        _, scatter = _line(t[recent], off[recent])
        lately = float(np.abs(off[recent]).max())

        far = (
            f"at {kelvin[worst]:.1f} K, {abs(off[worst]):.2f} K from the setpoint: "
            f"more than {self.tolerance:g} K"
        )
        noisy = f"varies by {std:.3f} K (standard deviation): more than {allowed:g}"
        if abs(centre) > self.tolerance:
            beyond = heading != 0 and (crossed or centre * heading > 0)
            state, reason = (State.OVERSHOOT if beyond else State.AWAY), far
        elif scatter > allowed:
            state, reason = State.NOISE, (far if lately > self.tolerance else noisy)
        elif abs(off[worst]) > self.tolerance:
            # a spike among good readings is noise; a tail of the approach only needs its time
            spike = lately > self.tolerance and abs(slope) <= self.slope
            state, reason = (State.NOISE if spike else State.WINDOW), far
        elif not full:
            state, reason = State.WINDOW, f"not yet {self.window:g} s within {self.tolerance:g} K"
        elif abs(slope) > self.slope:
            state = State.DRIFT
            reason = f"drifts by {slope * 60:+.3f} K/min: more than {self.slope * 60:.3g}"
        elif std > allowed:
            state, reason = State.NOISE, noisy
        else:
            state, reason = State.SETTLED, ""
        return SettleVerdict(not reason, reason, mean, std, slope, state)


def _line(t: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Fit a straight line; its slope, and the standard deviation of what is left."""
    t, y = t - t.mean(), y - y.mean()
    slope = float(t @ y) / max(float(t @ t), 1e-30)
    return slope, float(np.sqrt(np.mean((y - slope * t) ** 2)))


class Settling:
    """One wait for a setpoint: takes readings one by one, and says where it stands.

    Parameters
    ----------
    rule
        When it is settled.
    setpoint
        K.
    initial
        Where it began, K; whether the way is up or down follows from it.

    Examples
    --------
    A sensor that reads the setpoint and nothing else is not believed:

    >>> settling = Settling(Settle(window=10.0, dwell=0.0), 100.0, initial=300.0)
    >>> for second in range(30):
    ...     verdict = settling.add(second, 100.0)
    >>> verdict.settled, str(verdict.state)
    (False, 'stuck')
    """

    def __init__(self, rule: Settle, setpoint: float, *, initial: float) -> None:
        self.rule = rule
        self.setpoint = setpoint
        away = setpoint - initial
        self.heading = int(np.sign(away)) if abs(away) > rule.tolerance else 0
        self.crossed = self.heading == 0
        self._record: deque[tuple[float, float]] = deque()
        self._changed: float | None = None
        self._since: float | None = None
        self._inside: float | None = None
        self._verdict = SettleVerdict(False, "no temperatures yet")

    def describe(self) -> str:
        """Return where it stands, for those who wait.

        Examples
        --------
        >>> settling = Settling(Settle(), 90.0, initial=120.0)
        >>> settling.describe()
        'settling at 90 K: no temperatures yet'
        >>> for second in range(42):
        ...     verdict = settling.add(second, 90.08 - 0.001 * (second % 2))
        >>> settling.describe()
        'settling: 0.08 K from 90 K, 41 s of 60 s inside ± 0.2 K'
        """
        rule, verdict = self.rule, self._verdict
        if not self._record or verdict.state in (State.SILENT, State.STUCK):
            return f"settling at {self.setpoint:g} K: {verdict.reason}"
        if verdict.settled or verdict.state is State.DWELL:
            return f"at {self.setpoint:g} K: {verdict.reason or 'settled'}"
        time, kelvin = self._record[-1]
        away = f"settling: {abs(kelvin - self.setpoint):.2f} K from {self.setpoint:g} K"
        if self._inside is None:
            return f"{away}, outside ± {rule.tolerance:g} K"
        inside = f"{away}, {min(time - self._inside, rule.window):.0f} s of {rule.window:g} s"
        moves = verdict.state is State.DRIFT or verdict.reason.startswith("varies")
        why = f"; {verdict.reason}" if moves else ""
        return f"{inside} inside ± {rule.tolerance:g} K{why}"

    def add(self, time: float, kelvin: float | None) -> SettleVerdict:
        """Take a reading at a time (s, growing), or None where there should have been one.

        The verdict is settled only once the dwell is over, and only at a reading that is new.
        """
        self._verdict = self._judge(time, kelvin)
        return self._verdict

    def _judge(self, time: float, kelvin: float | None) -> SettleVerdict:
        if kelvin is None or not np.isfinite(kelvin):
            # what was before says nothing about what is after
            self._record.clear()
            self._since = self._changed = self._inside = None
            return SettleVerdict(False, "the sensor gives no reading", state=State.SILENT)
        new = not self._record or kelvin != self._record[-1][1]
        if new or self._changed is None:
            self._changed = time
        self._record.append((time, float(kelvin)))
        # one reading from before the window says that the window is full
        while len(self._record) > 2 and self._record[1][0] <= time - self.rule.window:
            self._record.popleft()
        if (kelvin - self.setpoint) * self.heading >= 0:
            self.crossed = True
        if abs(kelvin - self.setpoint) > self.rule.tolerance:
            self._inside = None
        elif self._inside is None:
            self._inside = time
        times, temperatures = zip(*self._record, strict=True)
        verdict = self.rule.judge(
            times, temperatures, self.setpoint, heading=self.heading, crossed=self.crossed
        )
        limit = self.rule.patience_with_stuck
        same = time - self._changed
        if limit > 0 and same >= limit:
            self._since = None
            return replace(
                verdict,
                settled=False,
                state=State.STUCK,
                reason=f"the sensor has read {kelvin:g} K for {same:.0f} s without any change",
            )
        if not verdict.settled:
            self._since = None
            return verdict
        if self._since is None:
            self._since = time
        held = time - self._since
        if held < self.rule.dwell or not (new or limit == 0):
            return replace(
                verdict,
                settled=False,
                state=State.DWELL,
                reason=f"settled, dwelling ({held:.0f} of {self.rule.dwell:g} s)",
            )
        return verdict
