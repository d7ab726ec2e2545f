"""What is an alarm, and what of it is worth telling: numbers in, words out."""

from __future__ import annotations

import pytest

from offbragg.alarms.board import QUIET, Alarm, Board, Thresholds, judge_backlog, judge_stall
from offbragg.alarms.clock import Clock, Skew
from offbragg.alarms.disk import (
    Rate,
    describe_hour,
    describe_space,
    disk_facts,
    judge_disk,
    writing_rate,
)
from offbragg.alarms.host import Lateness

GB = 1e9
MIDNIGHT = 1_800_000_000.0 - 1_800_000_000.0 % 86400


def alarm(what="stall", severity="major"):
    return Alarm(what, severity, "reason", 1.0, 0.5, "s")


def reported(changes):
    return [(change.alarm.what, change.state, change.alarm.severity) for change in changes]


def judged(board, alarms, now, **more):
    return reported(board.judge(alarms, now=now, time=1000.0 + now, **more))


# -- changes ------------------------------------------------------------------------------------


def test_an_alarm_is_reported_once_when_raised_and_once_when_cleared():
    board = Board()

    assert judged(board, [alarm()], 0.0) == [("stall", "raised", "major")]
    assert judged(board, [alarm()], 0.2) == []
    assert judged(board, [], 0.4) == []
    assert judged(board, [], 0.2 + QUIET) == [("stall", "cleared", "major")]
    assert judged(board, [], 9.0) == []


def test_what_is_on_the_edge_rings_once_however_often_it_crosses_it():
    board = Board()

    changes = [
        change
        for look in range(1000)
        for change in judged(board, [alarm()] if look % 2 else [], 0.1 * look)
    ]

    assert changes == [("stall", "raised", "major")]


def test_worse_is_reported_at_once_and_better_only_when_it_stays_so():
    board = Board()
    judged(board, [alarm(severity="minor")], 0.0)

    assert judged(board, [alarm(severity="major")], 0.1) == [("stall", "raised", "major")]
    assert judged(board, [alarm(severity="minor")], 0.2) == []
    assert judged(board, [alarm(severity="minor")], 0.1 + QUIET) == [("stall", "raised", "minor")]
    assert board.alarms[0]["since"] == 1000.0


def test_what_is_no_longer_looked_at_is_cleared_at_once():
    board = Board()
    judged(board, [alarm(), alarm("disk.frames")], 0.0)

    assert judged(board, [], 0.1, at_once=("stall",)) == [("stall", "cleared", "major")]


def test_who_listens_later_is_reported_what_changed_for_it():
    board = Board()
    judged(board, [alarm("disk.frames")], 0.0)

    changes = board.since({"stall": "major"}, 7.0)

    assert reported(changes) == [("disk.frames", "raised", "major"), ("stall", "cleared", "major")]
    assert board.since({"disk.frames": "major"}, 7.0) == []


# -- disks -------------------------------------------------------------------------------------


def test_less_than_is_to_be_left_is_a_major_alarm():
    found = judge_disk(["frames"], 0.4 * GB, 0.0, thresholds=Thresholds(), time=0.0)

    assert (found.what, found.severity, found.value, found.limit) == (
        "disk.frames", "major", pytest.approx(0.4), 1.0,
    )  # fmt: skip
    assert found.reason == "400.0 MB free on the disk of frames; 1 GB are to be left"


def test_a_disk_that_fills_within_hours_says_the_hour():
    """36 GB raw a sweep, 60 MB/s: 216 GB an hour."""
    minute = 60e6 * 60
    found = judge_disk(["frames"], 60 * minute, 60e6, thresholds=Thresholds(), time=MIDNIGHT)

    assert found.severity == "minor"
    assert found.value == pytest.approx(1.0)  # hours
    assert found.facts["full"] == MIDNIGHT + 3600
    assert "216.00 GB free, 3.60 GB/min written, full " in found.reason
    assert describe_hour(3600, MIDNIGHT) in found.reason


def test_a_disk_that_lasts_is_no_alarm():
    assert judge_disk(["frames"], 5e12, 60e6, thresholds=Thresholds(), time=0.0) is None
    assert judge_disk(["frames"], 5e9, 0.0, thresholds=Thresholds(), time=0.0) is None


def test_one_sweep_is_no_forecast_for_the_hours_after_it():
    """29 MB/s while a sweep of 6 minutes is recorded, on a disk with 81 GB."""
    rate = Rate()
    for second in range(0, 361, 10):
        rate.add(float(second), 81e9 - 29e6 * second)
    free = 81e9 - 29e6 * 360

    found = judge_disk(["frames"], free, rate.per_second, thresholds=Thresholds(), time=MIDNIGHT,
                       span=rate.span)  # fmt: skip

    assert rate.span == 360.0
    assert found is None
    text = describe_space(free, rate.per_second, MIDNIGHT, span=rate.span)
    assert text == "70.56 GB free, 1.74 GB/min written in the last 6 min"
    assert disk_facts(free, rate.per_second, MIDNIGHT, span=rate.span)["full"] is None
    # half an hour at that rate is one for two hours
    found = judge_disk(["frames"], free, 29e6, thresholds=Thresholds(), time=MIDNIGHT, span=1800.0)
    assert "in the last 30 min, full " in found.reason


def test_the_hour_says_the_day_if_it_is_another_one(monkeypatch):
    noon = MIDNIGHT + 43200

    assert describe_hour(60, noon).startswith("at ")
    assert describe_hour(2 * 86400, noon).startswith("on ")
    assert describe_hour(365 * 86400, noon) == "in 365 days"


def test_the_rate_counts_pauses_and_no_tidying_up():
    assert writing_rate([]) == writing_rate([(0.0, 5.0), (5.0, 1.0)]) == 0.0
    rate = Rate()
    for second in range(0, 3000):  # a sweep of 100 s in every 200 s, at 1 a second
        written = second // 200 * 100 + min(second % 200, 100)
        rate.add(float(second), 1e6 - written + (5000 if second > 1500 else 0))

    assert rate.per_second == pytest.approx(0.5, rel=0.06)


# -- frames and backlog ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "silent", "stalls"),
    [(0.1, 0.45, False), (0.1, 0.55, True), (0.01, 0.45, False), (0.01, 0.55, True),
     (10.0, 49.0, False), (10.0, 51.0, True)],
)  # fmt: skip
def test_a_stall_is_so_many_periods_but_half_a_second_at_least(period, silent, stalls):
    found = judge_stall(silent, period, thresholds=Thresholds(), n_frames=100)

    assert (found is not None) == stalls


def test_a_backlog_is_reported_in_time_of_measuring():
    assert judge_backlog(299, 29.9, thresholds=Thresholds()) is None

    found = judge_backlog(400, 40.0, thresholds=Thresholds())

    assert found.reason == "400 frames, 40 s of measuring, wait to be stacked"


# -- clocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("jump", "way"), [(3600.0, "forward by 3600.0 s"), (-1.5, "back by 1.5")])
def test_a_clock_that_jumps_is_an_alarm_at_the_next_look(jump, way):
    clock = Clock(1.0)
    assert clock.judge(1000.0, 0.0) is None
    assert clock.judge(1000.1, 0.1) is None

    found = clock.judge(1000.2 + jump, 0.2)

    assert way in found.reason
    assert clock.judge(1030.0 + jump, 30.0) is not None
    assert clock.judge(1061.0 + jump, 61.0) is None


def test_a_clock_that_is_slewed_is_followed():
    clock = Clock(1.0)

    assert all(clock.judge(1000.0 + 0.1005 * n, 0.1 * n) is None for n in range(10_000))


def test_a_stamp_of_the_future_tells_of_a_clock_that_is_ahead_and_an_old_one_of_nothing():
    skew = Skew(1.0)
    skew.add("ring_current", 500.0, 1000.0)
    assert skew.judge() == []

    skew.add("ring_current", 1030.0, 1000.0)

    (found,) = skew.judge()
    assert found.reason == "the time stamps of ring_current are 30.0 s ahead of this host's clock"
    skew.add("ring_current", 1000.9, 1001.0)
    assert skew.judge() == []


def test_a_clock_is_behind_when_every_fresh_stamp_is_too_old():
    skew = Skew(1.0)
    for n in range(4):
        skew.add("files", 990.0 + n, 1000.0 + n, late=0.2, of=5)
    assert skew.judge() == []

    skew.add("files", 994.0, 1004.0, late=0.2, of=5)

    (found,) = skew.judge()
    assert "9.8 s behind" in found.reason
    skew.add("files", 1005.0, 1005.1, late=0.2, of=5)  # it was the network
    assert skew.judge() == []


def test_the_worst_delay_of_the_last_minute_is_known_and_forgotten():
    late = Lateness(window=60.0)
    assert late.worst == 0.0

    for now, seconds in ((0.0, 0.1), (10.0, 2.0), (20.0, 0.5), (30.0, 0.7)):
        late.add(now, seconds)

    assert late.worst == 2.0
    late.add(71.0, 0.0)
    assert late.worst == 0.7
    late.add(200.0, 0.2)
    assert late.worst == 0.2
