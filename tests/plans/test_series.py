"""What a series has measured, derived from documents that were made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from offbragg.errors import JournalError, SweepError
from offbragg.plans.series import PastRun, by_sweep, part, remaining
from offbragg.plans.series_parameters import in_order
from offbragg.sweep import Sweep, exposed_while_off

SWEEP = Sweep("phi", start=0.0, step=0.5, n_frames=20, exposure=0.09, period=0.1)
MONITOR = {"monitor": {"key": "monitor_counts", "by": "monitor_frame"}}


def past(
    sweep=SWEEP, *, exit_status="success", reason="", announced=None, there=None, per_frame=None,
    monitor=None, permit=(), alive=False, place=(0, 0), kelvin=100.0, index=0,
):  # fmt: skip
    """A run that began at time 0."""
    per_frame = dict(per_frame or {})
    if permit:
        per_frame["weight"] = {"key": "permit"}
    start = {
        "uid": f"run-{index}",
        "sweep": sweep.to_dict(),
        "motors": ["phi"],
        "temperature": {"setpoint": kelvin},
        "per_frame": per_frame,
        "series": {"uid": "series", "index": index, "sweep_of": list(place)},
    }
    documents = [
        ("start", start),
        ("stream_resource", {"parameters": {"exposure_started": 0.0}}),
        ("stream_datum", {"indices": {
            "start": 0, "stop": sweep.n_frames if announced is None else announced}}),
    ]  # fmt: skip
    if monitor is not None:
        numbers = list(range(monitor))
        documents.append(
            ("event_page", {"data": {"monitor_frame": numbers, "monitor_counts": numbers},
                            "timestamps": {"monitor_frame": numbers,
                                           "monitor_counts": numbers}})
        )  # fmt: skip
    documents += [
        ("event", {"data": {"permit": value}, "timestamps": {"permit": when}})
        for when, value in permit
    ]
    if exit_status:
        documents.append(("stop", {"exit_status": exit_status, "reason": reason}))
    return PastRun(documents, there, alive)


def test_nothing_measured_is_all_of_it():
    assert remaining(SWEEP, []) == [(0, 20)]


def test_a_run_that_succeeded_leaves_nothing():
    assert remaining(SWEEP, [past()]) == []


def test_a_killed_run_counts_as_far_as_it_was_announced_and_has_its_monitor():
    killed = past(exit_status="fail", announced=12, per_frame=MONITOR, monitor=9, there=[True] * 20)

    assert remaining(SWEEP, [killed]) == [(9, 20)]


def test_frames_that_are_not_there_are_measured_again_without_overlap():
    there = [number not in (3, 4, 11) for number in range(20)]
    failed = past(exit_status="fail", announced=12, there=there)

    assert remaining(SWEEP, [failed], overlap=2.0) == [(3, 5), (11, 20)]


def test_dark_frames_and_their_overlap_are_measured_again_exactly():
    dark = past(permit=[(-1.0, 1), (0.75, 0), (1.05, 1)])

    np.testing.assert_array_equal(np.flatnonzero(dark.dark()), [7, 8, 9, 10])
    assert remaining(SWEEP, [dark], overlap=1.0) == [(5, 13)]
    followed = [dark, past(part(SWEEP, 5, 13), index=1)]
    assert remaining(SWEEP, followed, overlap=1.0) == []


def test_a_follow_up_that_loses_its_beam_too_is_followed():
    dark = past(permit=[(-1.0, 1), (0.75, 0), (1.05, 1)])
    again = past(part(SWEEP, 5, 13), permit=[(-1.0, 1), (0.55, 0)], index=1)

    assert remaining(SWEEP, [dark, again], overlap=0.5) == [(9, 12)]


def test_overlap_ends_where_the_sweep_does():
    assert remaining(SWEEP, [past(permit=[(-1.0, 0), (0.15, 1)])], overlap=3.0) == [(0, 8)]


@pytest.mark.parametrize(
    "reason",
    [
        "phi stopped at 3.2 degree, before the end", "phi stood at 3.2 degree when frame 0",
        "phi did not turn evenly: it went from 1 to 2", "phi and pilatus have clocks that differ",
        "phi was at 3.2 degree when pilatus began to expose, not at 0",
    ],
)  # fmt: skip
def test_an_axis_that_failed_makes_all_its_angles_doubtful(reason):
    failed = past(exit_status="fail", reason=reason)

    assert remaining(SWEEP, [failed]) == [(0, 20)]


def test_the_last_moments_before_a_stop_are_not_trusted():
    stopped = past(exit_status="fail", reason="phi was stopped at 6 degree", announced=12)
    aborted = past(exit_status="abort", announced=12)

    assert remaining(SWEEP, [stopped]) == remaining(SWEEP, [aborted]) == [(7, 20)]


def test_backwards_sweeps_have_gaps_too():
    back = Sweep("phi", start=10.0, step=-0.5, n_frames=20, exposure=0.09, period=0.1)

    assert remaining(back, [past(part(back, 0, 8)), past(part(back, 12, 20), index=1)]) == [(8, 12)]


def test_a_series_of_other_sweeps_or_temperatures_is_refused():
    other = Sweep("phi", start=0.1, step=0.5, n_frames=20, exposure=0.09, period=0.1)

    with pytest.raises(SweepError, match="no part of the sweep phi 0 to 10"):
        by_sweep([past(other)], [100.0], [[SWEEP]], "series")
    with pytest.raises(SweepError, match=r"was at 100\.0 K, its temperature number 2"):
        by_sweep([past(place=(1, 0))], [100.0], [[SWEEP]], "series")
    with pytest.raises(SweepError, match="is sweep number 3 of the series; 1 are asked for"):
        by_sweep([past(place=(0, 2))], [100.0], [[SWEEP]], "series")


def test_a_series_that_is_still_measured_is_refused():
    with pytest.raises(JournalError, match="still being measured"):
        by_sweep([past(exit_status="", alive=True)], [100.0], [[SWEEP]], "series")


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("given", [200, 100, 300, 150]),
        ("warming", [100, 200, 300, 150]),
        ("cooling", [300, 200, 100, 150]),
    ],
)
def test_the_reference_temperature_comes_last_whatever_the_order(order, expected):
    assert in_order([200, 100, 300], order, reference=150) == expected


def test_an_unknown_order_and_no_temperatures_are_refused():
    with pytest.raises(SweepError, match="order is 'upwards'"):
        in_order([100], "upwards")
    with pytest.raises(SweepError, match="temperatures is empty"):
        in_order([])


def test_an_exposure_is_dark_if_a_part_of_it_was():
    begin = np.array([0.0, 1.0, 2.0, np.nan])

    off = exposed_while_off([(0.95, 0), (1.05, 1)], begin, begin + 0.9)

    assert list(off) == [False, True, False, False]


def test_a_frame_that_counted_too_little_is_dark_whenever_that_was_noticed():
    column = {"key": "permit", "monitor": "monitor", "fraction": 0.5}
    counted_late = past(per_frame={**MONITOR, "weight": column}, monitor=20)
    counts = [1000.0] * 7 + [300.0] + [5.0] * 12  # most of the sweep is dark
    counted_late.documents[3][1]["data"]["monitor_counts"] = counts

    np.testing.assert_array_equal(np.flatnonzero(counted_late.dark()), np.arange(7, 20))
