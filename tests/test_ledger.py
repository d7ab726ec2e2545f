from __future__ import annotations

import pytest

from offbragg.errors import ScanFileError
from offbragg.ledger import FrameStatus, Ledger, describe_problems


def test_a_late_frame_holds_back_what_is_settled():
    ledger = Ledger.of(["stored", "pending", "stored", "rejected"], ["", "", "", "wrong MD5"])

    assert ledger.settled() == 1
    assert ledger.counts() == {"pending": 1, "stored": 2, "missing": 0, "rejected": 1}
    assert ledger.problems() == [(3, FrameStatus.REJECTED, "wrong MD5")]


def test_missing_frames_are_settled_too():
    assert Ledger.of(["missing", "stored"]).settled() == 2


def test_words_that_are_no_status_are_refused():
    with pytest.raises(ScanFileError, match="'dropped' is not a frame status"):
        Ledger.of(["stored", "dropped"])


def test_as_many_reasons_as_statuses():
    with pytest.raises(ScanFileError, match="2 statuses has 1"):
        Ledger.of(["stored", "stored"], [""])


def test_frames_with_one_reason_are_one_line_and_others_have_their_own():
    problems = [
        *((n, FrameStatus.MISSING, f"x_{n:05d}.cbf was not there 5.0 s after frame {n + 1}")
          for n in (*range(20, 25), 30)),
        (26, FrameStatus.REJECTED, "wrong MD5"),
        *((n, FrameStatus.MISSING, "the run ended") for n in range(41, 100, 2)),
    ]  # fmt: skip

    lines = describe_problems(problems)

    assert lines[:2] == [
        "6 frames missing, 20–24, 30: x_00020.cbf was not there 5.0 s after frame 21",
        "frame 26 rejected: wrong MD5",
    ]
    assert lines[2].startswith("30 frames missing, 41, 43, 45,")
    assert lines[2].endswith(", 59, …: the run ended")
