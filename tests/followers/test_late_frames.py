"""Files that come after their run was finished are stored while the stacker runs on."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from runs import counts_of, wait_until

from offbragg.files.find import find_scan_file
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker


def stored(run) -> int:
    """Count the stored frames of a run that is finished; -1 before."""
    path = find_scan_file(scan_directory(run.experiment, run.start), run.uid)
    if path is None:
        return -1
    with ScanFile.open(path) as scan:
        return scan.ledger.counts()["stored"] if scan.complete else -1


class After:
    """A follower that reads what the stacker finished, as a publisher does."""

    name = "after"

    def __init__(self, run) -> None:
        self._run = run
        self.seen: list[int] = []

    def done(self, start):
        return bool(self.seen) and self.seen[-1] == stored(self._run)

    def open(self, start):
        return self

    def __call__(self, name, doc):
        pass

    def poll(self):
        count = stored(self._run)
        if count >= 0:
            self.seen.append(count)
        return count >= 0

    def close(self):
        pass


@pytest.fixture
def opened(monkeypatch):
    """Note when a run is begun, and let finished ones be looked at often."""
    monkeypatch.setattr("offbragg.followers.followed_run._LOOK_LATER", 0.1)
    monkeypatch.setattr("offbragg.followers.follow._LOOK_FOR_ABANDONED", 0.05)
    begun: list[str] = []
    open_run = Stacker.open

    def noting(self, start):
        begun.append(start["uid"])
        return open_run(self, start)

    monkeypatch.setattr(Stacker, "open", noting)
    return begun


@pytest.fixture
def after(run, opened):
    """Follow the journal with a stacker that runs on, and with one that comes after it."""
    stop = threading.Event()
    after = After(run)
    stacker = Stacker(run.experiment, late=run.late, frames=run.frames.parent)
    thread = threading.Thread(
        target=follow, args=(run.journal_directory, [stacker, after]), kwargs={"stop": stop}
    )
    thread.start()
    yield after
    stop.set()
    thread.join()


def measured_without(run, *lacking: int) -> None:
    run.begin()
    run.write(*(n for n in range(10) if n not in lacking))
    run.announce(10)
    run.end()


def assert_all_is_stored(run) -> None:
    path = find_scan_file(scan_directory(run.experiment, run.start), run.uid)
    assert path is not None
    with ScanFile.open(path) as scan:
        for number in range(10):
            np.testing.assert_array_equal(scan.stack.counts[number], counts_of(number))


def test_a_missing_frame_that_comes_after_its_run_is_stored_without_a_restart(run, after):
    measured_without(run, 4, 7)
    wait_until(lambda: after.seen == [8], 30, "the run to be finished without two frames")

    run.write(7)
    wait_until(lambda: after.seen[-1] == 9, 30, "the first one")
    run.write(4)
    wait_until(lambda: after.seen[-1] == 10, 30, "both, and that the follower after it knows")

    assert_all_is_stored(run)


def test_a_rejected_frame_is_replaced_after_its_run_and_a_bad_one_is_judged_once(
    run, after, opened
):
    measured_without(run, 9)
    wait_until(lambda: after.seen == [9], 30, "the run to be finished")
    run.write(9, damage=lambda content: content[:-6000] + b"\x55" + content[-5999:])
    wait_until(lambda: len(opened) == 2, 30, "a look at the bad one")
    time.sleep(0.4)
    looks = len(opened)
    time.sleep(0.4)
    assert len(opened) == looks, "a bad file that stays as it is opens its run again and again"

    run.write(9)

    wait_until(lambda: stored(run) == 10, 30, "the good one")
    assert_all_is_stored(run)


def test_a_folder_that_comes_after_its_run_is_found(run, after):
    """The RunEngine died before it said where the frames are, and the camserver began late."""
    run.frames.rmdir()
    run.journal("start", run.start)
    run.journal.close()
    wait_until(lambda: after.seen == [0], 30, "the run to be finished without any frame")

    run.frames.mkdir()
    run.write(*range(10))

    wait_until(lambda: stored(run) == 10, 30, "all of them")
    assert_all_is_stored(run)


def test_a_run_that_ended_long_ago_is_left_to_the_next_start(run, after, opened, monkeypatch):
    monkeypatch.setattr("offbragg.followers.followed_run._LATER", -1.0)
    measured_without(run, 4)
    wait_until(lambda: after.seen == [9], 30, "the run to be finished")

    run.write(4)
    time.sleep(0.4)

    assert stored(run) == 9
    assert len(opened) == 1


def test_with_once_a_follower_sees_what_those_before_it_added(run, monkeypatch):
    """It may be done with an old run before the stacker has looked at it again."""
    measured_without(run, 4)
    monkeypatch.setattr("offbragg.followers.follow._LOOK_FOR_ABANDONED", 0.05)
    stacker, after = Stacker(run.experiment, late=run.late), After(run)
    follow(run.journal_directory, [stacker, after], once=True)
    assert after.seen[-1] == 9
    run.write(4)
    done, began = Stacker.done, time.monotonic()

    def slow(self, start):
        time.sleep(max(began + 0.5 - time.monotonic(), 0.0))
        return done(self, start)

    monkeypatch.setattr(Stacker, "done", slow)
    follow(run.journal_directory, [stacker, after], once=True)

    assert after.seen[-1] == 10
