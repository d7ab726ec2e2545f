"""When a sample counts as settled."""

from __future__ import annotations

import numpy as np
import pytest

from offbragg.devices.cryostream import Settle
from offbragg.errors import ConfigError

RULE = Settle(tolerance=0.2, window=60.0, slope=0.1 / 60, dwell=60.0)
T = np.arange(0.0, 121.0)


def test_a_quiet_minute_at_the_setpoint_is_settled():
    verdict = RULE.judge(T, 100.0 + 0.05 * np.sin(T), 100.0)

    assert verdict.settled
    assert verdict.mean == pytest.approx(100.0, abs=0.01)
    assert verdict.std == pytest.approx(0.05 / np.sqrt(2), rel=0.1)


def test_a_first_crossing_is_not_settled():
    ramp = 100.0 + (T - T[-1]) * 0.1  # arrives at the setpoint just now

    assert not RULE.judge(T, ramp, 100.0).settled


def test_half_a_window_is_not_settled():
    verdict = RULE.judge(T[:30], np.full(30, 100.0), 100.0)

    assert not verdict.settled
    assert "60 s" in verdict.reason


def test_one_excursion_in_the_window_is_not_settled():
    record = np.full(len(T), 100.0)
    record[-30] = 100.3

    verdict = RULE.judge(T, record, 100.0)

    assert not verdict.settled
    assert "0.30 K from the setpoint" in verdict.reason


def test_an_excursion_before_the_window_is_forgotten():
    record = np.full(len(T), 100.0)
    record[:50] = 110.0

    assert RULE.judge(T, record, 100.0).settled


def test_a_drift_within_tolerance_is_not_settled():
    drift = 100.0 + (T - 90.0) * 0.2 / 60.0  # 0.2 K/min, within ±0.1 K

    verdict = RULE.judge(T, drift, 100.0)

    assert not verdict.settled
    assert "+0.200 K/min" in verdict.reason


def test_a_noisy_temperature_within_tolerance_is_not_settled():
    record = 100.0 + 0.15 * np.where(np.arange(len(T)) % 2, 1, -1)

    verdict = RULE.judge(T, record, 100.0)

    assert not verdict.settled
    assert "standard deviation" in verdict.reason


def test_a_longer_rule_never_settles_earlier():
    rng = np.random.default_rng(1)
    record = 100.0 + 3.0 * np.exp(-T / 10.0) + rng.normal(0, 0.02, len(T))

    def first(rule):
        return next(
            (n for n in range(3, len(T)) if rule.judge(T[:n], record[:n], 100.0).settled), len(T)
        )

    assert first(Settle(window=20.0)) <= first(Settle(window=40.0)) <= first(Settle(window=80.0))


@pytest.mark.parametrize("field", ["tolerance", "window", "slope"])
def test_a_rule_that_means_nothing_is_refused(field):
    with pytest.raises(ConfigError, match=f"settle.{field}"):
        Settle(**{field: 0.0})
