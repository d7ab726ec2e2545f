"""What angles between read-backs are worth, against an axis whose motion is known."""

from __future__ import annotations

import numpy as np
import pytest

from offbragg.read_backs import angles_at

SPEED, GAP = 1.0, 0.9  # degree/s, s


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7])
def test_a_stand_that_nobody_saw_is_within_the_uncertainty(part):
    """An axis stands for a part of a gap, at a moment that its read-backs do not show."""
    rng = np.random.default_rng(1)
    still = part * GAP
    beside = 0.1 * np.arange(1, 6)
    stamps = np.concatenate([-beside[::-1], [0.0, GAP], GAP + beside])
    pulls = []
    for _ in range(1000):
        stop = rng.uniform(0.0, GAP - still)
        moment = rng.uniform(0.02, GAP - 0.02, 1)

        def position(time, stop=stop):
            return SPEED * (time - np.clip(time - stop, 0.0, still))

        angle, sigma = angles_at(moment, stamps, position(stamps), speed=SPEED, begin=-9, end=9)
        pulls.append((angle - position(moment)) / sigma)

    assert np.sqrt(np.mean(np.square(pulls))) < 1.0
    assert np.abs(pulls).max() < 3.0
