"""The settled rule on injected sensors: it names what is wrong, and never starts early."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest

from offbragg.devices.settle import Settle, Settling, State

SENSORS = pytest.mark.parametrize("n", [40, pytest.param(1000, marks=pytest.mark.slow)])
RULE = Settle(tolerance=0.2, window=60.0, slope=0.1 / 60, dwell=60.0)


@dataclass
class Sensor:
    """A gas that ramps, overshoots and rings; a sample behind it; and what the sensor reads."""

    rng: np.random.Generator
    initial: float
    setpoint: float
    noise: float = 0.02
    resolution: float = 0.01
    damping: float = 0.75
    period: float = 40.0
    lag: float = 8.0
    stuck: tuple[tuple[float, float], ...] = ()
    silent: tuple[tuple[float, float], ...] = ()
    spikes: float = 0.0  # per reading
    kick: tuple[float, float] = (0.0, 0.0)  # at a time (s), by K
    drift: float = 0.0  # K/s, after the ramp
    gas: list[float] = field(default_factory=list)
    sample: list[float] = field(default_factory=list)
    read: list[float | None] = field(default_factory=list)

    def run(self, seconds: int) -> None:
        gas = sample = demand = self.initial
        speed, omega = 0.0, 2 * np.pi / self.period
        for t in range(seconds):
            for _ in range(2):
                gap = self.setpoint - demand
                demand += np.sign(gap) * min(abs(gap), 0.1 * 0.5)
                speed += 0.5 * (omega**2 * (demand - gas) - 2 * self.damping * omega * speed)
                gas += 0.5 * speed
                sample += (gas - sample) * (1 - np.exp(-0.5 / self.lag))
            if self.drift and demand == self.setpoint:
                gas += self.drift
            if t == int(self.kick[0]):
                gas += self.kick[1]
            self.gas.append(gas)
            self.sample.append(sample)
            reading: float | None = gas + self.rng.normal(0.0, self.noise)
            if self.rng.random() < self.spikes:
                reading += self.rng.choice([-5.0, 5.0])
            reading = round(reading / self.resolution) * self.resolution
            if any(a <= t < b for a, b in self.stuck) and self.read:
                reading = self.read[-1]
            if any(a <= t < b for a, b in self.silent):
                reading = None
            self.read.append(reading)


def settle(sensor, rule=RULE):
    """When the rule says settled (None: never), and which states it went through."""
    settling = Settling(rule, sensor.setpoint, initial=sensor.initial)
    states: Counter[State] = Counter()
    for t, reading in enumerate(sensor.read):
        verdict = settling.add(float(t), reading)
        states[verdict.state] += 1
        if verdict.settled:
            return t, states
    return None, states


def truly_settled(sensor, t, rule=RULE):
    """Gas and sample where they should be, by the truth that the rule never sees."""
    window = np.array(sensor.gas[t - int(rule.window) : t + 1])
    return (
        abs(window.mean() - sensor.setpoint) <= rule.tolerance
        and abs(sensor.gas[t] - sensor.setpoint) <= rule.tolerance
        and abs(sensor.sample[t] - sensor.setpoint) <= rule.tolerance
        and np.abs(window - sensor.setpoint).max() <= rule.tolerance + 4 * sensor.noise
    )


def make(seed, **changed):
    rng = np.random.default_rng(seed)
    initial = rng.uniform(90.0, 300.0)
    step = rng.choice([-1.0, 1.0]) * rng.uniform(1.0, 15.0)
    known = {
        "noise": rng.uniform(0.005, 0.04),
        "damping": rng.uniform(0.15, 0.9),
        "period": rng.uniform(20.0, 60.0),
        "lag": rng.uniform(2.0, 15.0),
    }
    return Sensor(rng, initial, initial + step, **{**known, **changed}), abs(step) / 0.1


def faulty(seed):
    """A sensor with faults of all kinds, at moments that hurt."""
    rng = np.random.default_rng([seed, 1])
    sensor, ramp = make(seed)

    def times(n):
        starts = rng.uniform(0.0, ramp + 400.0, n)
        return tuple((a, a + rng.uniform(5.0, 400.0)) for a in starts)

    sensor.stuck = times(rng.integers(0, 4))
    sensor.silent = times(rng.integers(0, 3))
    sensor.spikes = rng.choice([0.0, 0.005])
    sensor.kick = (rng.uniform(0.0, ramp + 600.0), rng.choice([0.0, -3.0, 3.0]))
    sensor.drift = rng.choice([0.0, 0.0, 0.005, -0.01])
    if seed % 2:  # sticks just as it passes the setpoint, with the gas still swinging
        sensor.damping, sensor.drift = 0.15, 0.0
        still, _ = make(seed, damping=0.15, noise=sensor.noise)
        still.run(int(ramp) + 200)
        heading = np.sign(sensor.setpoint - sensor.initial)
        beyond = (np.array(still.gas) - sensor.setpoint) * heading > 0
        passes = int(np.argmax(beyond))
        sensor.stuck += ((passes, passes + rng.uniform(90.0, 250.0)),)
    sensor.run(int(ramp) + 700)
    return sensor


@SENSORS
def test_it_never_starts_early_whatever_the_sensor_does(n):
    began = {}
    for seed in range(n):
        sensor = faulty(seed)
        t, _ = settle(sensor)
        if t is not None:
            began[seed] = truly_settled(sensor, t)

    assert [seed for seed, rightly in began.items() if not rightly] == []
    assert len(began) > 0.3 * n  # those whose faults pass by


@SENSORS
def test_a_good_sensor_practically_never_times_out(n):
    late = []
    for seed in range(n):
        sensor, ramp = make(seed)
        sensor.run(int(ramp) + 700)
        t, states = settle(sensor)
        if t is None:
            late.append((seed, states))

    assert len(late) < 0.01 * n, late


def test_a_sensor_that_sticks_at_the_setpoint_is_named_and_not_believed():
    sensor, ramp = make(3, stuck=((0.0, 1e9),))
    sensor.run(int(ramp) + 600)
    sensor.read = [sensor.setpoint] * len(sensor.read)

    t, states = settle(sensor)

    assert t is None
    assert states.most_common(1)[0][0] is State.STUCK


def test_a_sensor_that_sticks_as_it_passes_the_setpoint_is_not_believed():
    sensor, ramp = make(5, damping=0.15, period=60.0)
    sensor.run(int(ramp) + 100)
    passes = next(
        t for t, kelvin in enumerate(sensor.gas)
        if (kelvin - sensor.setpoint) * (sensor.setpoint - sensor.initial) > 0
    )  # fmt: skip
    again, _ = make(5, damping=0.15, period=60.0, stuck=((passes, passes + 300.0),))
    again.run(int(ramp) + 1500)

    t, states = settle(again)

    assert states[State.STUCK] > 200
    assert t is not None
    assert t > passes + 300
    assert truly_settled(again, t)


def test_an_overshoot_is_named():
    sensor, ramp = make(7, damping=0.15, period=60.0)
    sensor.run(int(ramp) + 1500)

    t, states = settle(sensor)

    assert states[State.OVERSHOOT] > 10
    assert states[State.OVERSHOOT] > 10 * (states[State.NOISE] + states[State.STUCK])
    assert t is not None
    assert truly_settled(sensor, t)


def test_noise_is_named_and_neither_overshoot_nor_drift():
    sensor, ramp = make(9, noise=0.15, damping=0.9, period=20.0)
    sensor.run(int(ramp) + 700)

    t, states = settle(sensor)

    assert t is None
    assert states[State.NOISE] > 500
    assert states[State.NOISE] > 20 * (states[State.OVERSHOOT] + states[State.DRIFT])


def test_a_creeping_temperature_is_a_drift():
    settling = Settling(RULE, 100.0, initial=101.0)
    rng = np.random.default_rng(2)
    states = Counter(
        settling.add(t, 100.19 - 0.003 * t + rng.normal(0, 0.01)).state for t in range(100)
    )

    assert states[State.DRIFT] > 20
    assert states[State.SETTLED] == states[State.DWELL] == 0


def test_silence_is_named_and_forgets_what_was_before():
    settling = Settling(RULE, 100.0, initial=100.0)
    rng = np.random.default_rng(4)
    for t in range(110):
        settling.add(t, 100.0 + rng.normal(0, 0.02))

    assert settling.add(110, None).state is State.SILENT
    verdict = settling.add(111, 100.0)

    assert not verdict.settled
    for t in range(112, 112 + 100):
        assert not settling.add(t, 100.0 + rng.normal(0, 0.02)).settled


def test_a_coarse_sensor_can_be_allowed_to_stand_still():
    rule = Settle(stuck=0.0, window=20.0, dwell=10.0)
    settling = Settling(rule, 100.0, initial=100.0)

    assert any(settling.add(t, 100.0).settled for t in range(60))
