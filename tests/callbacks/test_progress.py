"""What people are shown never fails a run."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from offbragg.callbacks.progress import Bars, Rows


def rows_of(start: dict) -> str:
    output = io.StringIO()
    rows = Rows(Console(file=output, width=200))
    rows("start", {"uid": "0123456789", "time": 1.0, **start})
    rows("stop", {"run_start": "0123456789", "time": 3.0, "exit_status": "success"})
    return output.getvalue()


def test_a_run_has_one_row():
    row = rows_of({"scan_id": 3, "sample": {"name": "LSMO-140"}})

    assert row == "#3 01234567 · LSMO-140 · 2.0 s · success\n"


def test_a_sample_may_be_a_word():
    assert "Si" in rows_of({"sample": "Si"})


def test_metadata_that_was_not_expected_is_not_an_error():
    assert "success" in rows_of({"sweep": "all of it", "temperature": None, "sample": 3})


class Waited:
    """A status that reports when it is asked to."""

    def __init__(self) -> None:
        self.done = False
        self._watchers: list = []
        self._callbacks: list = []

    def watch(self, watcher) -> None:
        self._watchers.append(watcher)

    def add_callback(self, callback) -> None:
        self._callbacks.append(callback)

    def report(self, **what) -> None:
        for watcher in self._watchers:
            watcher(**what)

    def finish(self) -> None:
        self.done = True
        for callback in self._callbacks:
            callback(self)


@pytest.fixture
def drawn() -> Iterator[tuple[Bars, io.StringIO]]:
    file = io.StringIO()
    bars = Bars(Console(file=file, force_terminal=True, width=120, legacy_windows=False))
    yield bars, file
    bars.follow("idle", "running")


def is_drawing(bars: Bars) -> bool:
    return bars._bars.live.is_started


@pytest.mark.parametrize("state", ["paused", "idle", "panicked"])
def test_nothing_is_drawn_over_the_prompt_of_a_plan_that_paused_or_ended(drawn, state):
    bars, file = drawn
    status = Waited()
    bars([status])
    status.report(name="pilatus", current=3, initial=0, target=10)
    assert is_drawing(bars)
    assert "pilatus" in file.getvalue()

    bars.follow(state, "running")
    status.report(name="pilatus", current=4, initial=0, target=10)  # it does not know

    assert not is_drawing(bars)
    length = len(file.getvalue())
    time.sleep(0.3)  # three frames of a bar that is still drawn
    assert len(file.getvalue()) == length


def test_a_bar_goes_when_its_status_is_done_and_nothing_asks(drawn):
    bars, _ = drawn
    status, other = Waited(), Waited()
    bars([status, other])
    status.report(name="phi", current=1, initial=0, target=2)

    status.finish()

    assert not is_drawing(bars)


def test_what_reports_nothing_has_no_bar(drawn):
    bars, file = drawn
    bars([Waited()])

    assert not is_drawing(bars)
    assert file.getvalue() == ""


def test_after_a_pause_there_are_bars_again(drawn):
    bars, _ = drawn
    before, after = Waited(), Waited()
    bars([before])
    before.report(name="phi", current=1, initial=0, target=2)
    bars.follow("paused", "pausing")

    bars.follow("running", "paused")
    bars([after])
    after.report(name="phi", current=1, initial=0, target=2)

    assert is_drawing(bars)
