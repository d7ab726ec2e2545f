"""What people are shown never fails a run."""

from __future__ import annotations

import io

from rich.console import Console

from offbragg.callbacks.progress import Rows


def rows_of(start: dict) -> str:
    said = io.StringIO()
    rows = Rows(Console(file=said, width=200))
    rows("start", {"uid": "0123456789", "time": 1.0, **start})
    rows("stop", {"run_start": "0123456789", "time": 3.0, "exit_status": "success"})
    return said.getvalue()


def test_a_run_has_one_row():
    said = rows_of({"scan_id": 3, "sample": {"name": "LSMO-140"}})

    assert said == "#3 01234567 · LSMO-140 · 2.0 s · success\n"


def test_a_sample_may_be_a_word():
    assert "Si" in rows_of({"sample": "Si"})


def test_metadata_that_nobody_expected_is_no_error():
    assert "success" in rows_of({"sweep": "all of it", "temperature": None, "sample": 3})
