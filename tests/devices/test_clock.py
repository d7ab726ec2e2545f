"""The clock of an IOC, from records that are stamped when they are written."""

from __future__ import annotations

import math
import time

import pytest

from offbragg.devices import clock
from offbragg.devices.clock import measure


class Record:
    """A record of an IOC whose clock is ahead and goes in ticks."""

    def __init__(self, *, ahead=1e9, tick=0.0, stamps=True):
        self.name = "X"
        self.timestamp = ahead
        self._ahead, self._tick, self._stamps = ahead, tick, stamps

    def put(self, value, *, use_complete, callback):
        now = time.monotonic() + self._ahead
        if self._stamps:
            self.timestamp = now if not self._tick else math.floor(now / self._tick) * self._tick
        callback()

    def get(self, **_):
        return 1


@pytest.fixture(autouse=True)
def _fresh():
    from offbragg.devices import background

    background._pending.clear()


def test_a_clock_is_known_to_a_round_trip():
    found = measure(Record(ahead=1000.0))

    assert found.offset == pytest.approx(1000.0, abs=0.05)
    assert abs(found.offset - 1000.0) <= found.half_width + 1e-6


@pytest.mark.parametrize("tick", [1 / 60, 0.0156, 0.1])
def test_a_coarse_clock_is_known_to_its_tick(tick):
    for _ in range(5):
        found = measure(Record(ahead=1000.0, tick=tick))

        assert found.known
        # a stamp is up to a tick before the moment
        assert abs(found.offset - (1000.0 - tick / 2)) < 0.6 * tick + 0.05


def test_a_record_that_does_not_stamp_what_is_written_tells_nothing(monkeypatch):
    monkeypatch.setattr(clock, "_TICK", 0.1)

    assert not measure(Record(stamps=False)).known
