from __future__ import annotations

import pytest

from offbragg.errors import ScanFileError
from offbragg.ledger import Ledger, Status


def test_a_late_frame_holds_back_what_is_settled():
    ledger = Ledger.of(["stored", "pending", "stored", "rejected"], ["", "", "", "wrong MD5"])

    assert ledger.settled() == 1
    assert ledger.counts() == {"pending": 1, "stored": 2, "missing": 0, "rejected": 1}
    assert ledger.problems() == [(3, Status.REJECTED, "wrong MD5")]


def test_missing_frames_are_settled_too():
    assert Ledger.of(["missing", "stored"]).settled() == 2


def test_words_that_are_no_status_are_refused():
    with pytest.raises(ScanFileError, match="'dropped' is no frame status"):
        Ledger.of(["stored", "dropped"])


def test_as_many_reasons_as_statuses():
    with pytest.raises(ScanFileError, match="2 statuses has 1"):
        Ledger.of(["stored", "stored"], [""])
