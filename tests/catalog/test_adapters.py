"""Rows are made from the columns of a scan file and nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from offbragg.catalog.adapters import frame_rows, times_when_due
from offbragg.catalog.consolidators import frames_structure


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_times_that_are_due_are_those_of_a_steady_sweep(known):
    began = 100.0 + 0.5 * np.arange(len(known))
    times = np.where(known, began, np.nan)

    due = times_when_due(times, started=100.0, period=0.5)

    np.testing.assert_allclose(due, began)


def test_a_time_that_is_known_is_never_changed():
    times = np.array([5.0, np.nan, 2.0, 9.0])

    due = times_when_due(times, started=0.0, period=1.0)

    assert due.tolist() == [5.0, 6.0, 2.0, 9.0]


def test_only_decided_frames_have_rows_and_the_structure_is_theirs():
    columns = ["angle", "monitor", "status", "reason"]
    values = {
        "time": np.array([1.0, np.nan, np.nan]),
        "angle": np.array([0.5, 1.5, 2.5]),
        "monitor": np.array([7.0, np.nan, np.nan]),
        "status": np.array([b"stored", b"missing", b"pending"]),
        "reason": np.array([b"", "gone é".encode(), b""]),
    }

    rows = frame_rows(values, columns, count=2, started=0.0, period=0.1)

    assert list(rows) == frames_structure(columns).columns
    assert rows["seq_num"].tolist() == [1, 2]
    assert rows["status"].tolist() == ["stored", "missing"]
    assert rows["reason"].tolist() == ["", "gone é"]
    assert rows["ts_monitor"].tolist() == rows["time"].tolist() == [1.0, 1.1]
