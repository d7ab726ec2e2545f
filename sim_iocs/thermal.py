"""What a cooler does to the gas at the sample, and the gas to the sample.

One model behind two controllers, the Cryostream and the LakeShore: the one that was set last drives
it. A ramp ends in a small overshoot, the sample lags, the sensor has noise. ``overshoot``,
``stuck`` and ``noise`` are its faults.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

STEP = 0.25  # s of the cooler's own time
GAS_FREQUENCY = 2.0 * math.pi / 40.0  # 1/s, of the controlled gas
GAS_DAMPING = 0.75  # a small overshoot at the end of a ramp
SAMPLE_LAG = 8.0  # s, the sample behind the gas
NOISE = 0.02  # K, of the sensor
RELAXATION = 60.0  # s, an injected overshoot lasts this long


class Thermal:
    """Gas temperature after a ramped setpoint, and a sample that lags behind it.

    Parameters
    ----------
    temperature
        Of everything at the start, K.
    acceleration
        How much faster than real its clock runs.
    seed
        Of the noise.
    clock
        Monotonic seconds.
    """

    def __init__(
        self,
        *,
        temperature: float,
        acceleration: float = 1.0,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.acceleration = acceleration
        self.noise = NOISE
        self.overshoot = 0.0
        self.gas = self.sample = self.setpoint = self.target = temperature
        self.rate = 0.0  # K/s
        self.paused = False
        self._drift = self._excess = 0.0
        self._clock = clock
        self._rng = np.random.default_rng([seed, 23])
        self._seen = clock()
        self._remainder = 0.0
        self._stuck_until = -math.inf
        self._stuck_at = temperature

    def go(self, target: float, rate: float) -> None:
        """Ramp to ``target`` (K) at ``rate`` (K/h)."""
        self.advance()
        self.target, self.rate, self.paused = target, rate / 3600.0, False

    def stick(self, seconds: float) -> None:
        """Freeze the sensor's reading for this many (real) seconds."""
        self._stuck_at = self.reading()
        self._stuck_until = self._clock() + seconds

    def reading(self) -> float:
        """Read the sensor in the gas, K."""
        if self._clock() < self._stuck_until:
            return self._stuck_at
        return self.gas + float(self._rng.normal(0.0, self.noise))

    def advance(self) -> None:
        """Bring the temperatures up to now."""
        now = self._clock()
        elapsed = self._remainder + (now - self._seen) * self.acceleration
        self._seen = now
        steps = int(elapsed / STEP)
        self._remainder = elapsed - steps * STEP
        for _ in range(min(steps, 20000)):
            self._step()

    def _step(self) -> None:
        gap = self.target - self.setpoint
        if gap and not self.paused:
            self.setpoint += math.copysign(min(abs(gap), self.rate * STEP), gap)
            if self.setpoint == self.target and self.overshoot:
                self._excess, self.overshoot = math.copysign(self.overshoot, gap), 0.0
        gap = self.target - self.setpoint
        follows = math.copysign(self.rate, gap) if gap and not self.paused else 0.0
        self._excess *= math.exp(-STEP / RELAXATION)
        pull = GAS_FREQUENCY**2 * (self.setpoint + self._excess - self.gas)
        drag = 2.0 * GAS_DAMPING * GAS_FREQUENCY * (follows - self._drift)
        self._drift += (pull + drag) * STEP
        self.gas += self._drift * STEP
        self.sample += (self.gas - self.sample) * (1.0 - math.exp(-STEP / SAMPLE_LAG))
