"""Followers go at their own pace, are tried again, and do not hold up each other."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from runs import MeasuredRun

from offbragg.errors import CatalogError, JournalError
from offbragg.followers.backlog import read_backlog
from offbragg.followers.follow import follow


class Noting:
    """A follower that notes what it gets, and fails a given number of times."""

    def __init__(self, name: str, *, failures: int = 0) -> None:
        self.name = name
        self.failures = failures
        self.got: list[str] = []
        self.ended = False

    def done(self, start):
        return False

    def open(self, start):
        self.got.clear()
        self.ended = False
        return self

    def __call__(self, name, doc):
        self.got.append(name)
        if self.failures:
            self.failures -= 1
            raise CatalogError("away")
        self.ended = name == "stop"

    def poll(self):
        return self.ended

    def close(self):
        pass


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Let a follower notice soon that nothing is left to do."""
    monkeypatch.setattr("offbragg.followers.follow._LOOK_FOR_ABANDONED", 0.05)


@pytest.fixture
def journal(run):
    run.begin()
    run.announce(3)
    run.end()
    return run.journal_directory


NAMES = ["start", "descriptor", "descriptor", "descriptor", "stream_resource", "event"]


def test_every_follower_gets_every_document_in_order(journal):
    followers = [Noting("one"), Noting("two")]

    follow(journal, followers, once=True)

    for follower in followers:
        assert follower.got == [*NAMES, "stream_datum", "stop"]


def test_a_failing_follower_is_tried_again_from_the_first_document(journal):
    shaky = Noting("shaky", failures=1)

    failed = follow(journal, [shaky], once=True)

    assert failed == {"shaky": []}
    assert shaky.got == [*NAMES, "stream_datum", "stop"]


def test_a_follower_that_always_fails_holds_up_no_other(journal, run):
    hopeless, fine = Noting("hopeless", failures=10**6), Noting("fine")

    failed = follow(journal, [hopeless, fine], once=True)

    assert failed == {"hopeless": [run.uid], "fine": []}
    assert fine.ended


def test_a_second_one_on_the_same_journal_is_refused(journal):
    stop = threading.Event()
    opened = threading.Event()

    class Waiting(Noting):
        def open(self, start):
            opened.set()
            return super().open(start)

        def poll(self):
            return False

    first = threading.Thread(
        target=follow, args=(journal, [Waiting("waits")]), kwargs={"stop": stop}
    )
    first.start()
    try:
        assert opened.wait(10)
        with pytest.raises(JournalError, match="another offbragg stack"):
            follow(journal, [Noting("second")], once=True)
    finally:
        stop.set()
        first.join()


def test_a_journal_that_is_none_stops_no_other(journal, caplog):
    (journal / "torn.jsonl").write_text('["start",{"uid":"torn"}]\nnot a document\n["x",{}]\n')
    (journal / "number.jsonl").write_text("7\n")
    (journal / "folder.jsonl").mkdir()
    fine = Noting("fine")

    failed = follow(journal, [fine], once=True)

    assert failed["fine"] == ["torn"]
    assert "torn.jsonl has a line that is not a document" in caplog.text


@pytest.mark.parametrize(
    "content",
    ["", '["start",5]\n', '["event",7]\n', "[" * 100_000 + "\n", '["start",{"uid":"another"}]\n'],
    ids=["empty", "start of no run", "no start", "deep", "a copy"],
)
def test_a_journal_without_a_start_is_named_and_the_others_are_finished(journal, caplog, content):
    (journal / "bad.jsonl").write_text(content)
    fine = Noting("fine")

    failed = follow(journal, [fine], once=True)

    assert failed == {"fine": [], "journal": ["bad"]}
    assert fine.ended
    assert "journal bad.jsonl does not begin with a start document" in caplog.text


def test_a_journal_that_is_empty_at_first_is_followed_once_it_is_not(journal, run, monkeypatch):
    monkeypatch.setattr("offbragg.followers.followed_run._LOOK_DAMAGED", 0.05)
    path = journal / f"{run.uid}.jsonl"
    whole = path.read_bytes()
    path.write_bytes(b"")
    stop = threading.Event()

    class Done(Noting):
        def poll(self):
            if self.ended:
                stop.set()
            return self.ended

    for seconds, act in ((1.0, lambda: path.write_bytes(whole)), (8.0, stop.set)):
        timer = threading.Timer(seconds, act)
        timer.daemon = True
        timer.start()
    fine = Done("fine")

    follow(journal, [fine], stop=stop)

    assert fine.ended


@pytest.mark.parametrize("place", [b'"cryostream_temperature":120.0', b"\n"])
def test_a_run_with_a_damaged_line_is_skipped_and_the_others_are_finished(
    journal, run, place, caplog
):
    """Also if the damage leaves it without an end, which is not waited for."""
    path = journal / f"{run.uid}.jsonl"
    head, found, tail = path.read_bytes().rpartition(place)
    assert found
    path.write_bytes(head + found[:-1] + b"7" + tail)
    other = MeasuredRun(run.root)
    other.begin()
    other.end()
    fine = Noting("fine")

    failed = follow(journal, [fine], once=True)

    assert failed == {"fine": [run.uid]}
    assert "it does not have the checksum with which it was written" in caplog.text or (
        "it is not JSON: Extra data" in caplog.text
    )


def test_a_damaged_journal_is_read_again_once_it_has_changed(journal, run, caplog, monkeypatch):
    monkeypatch.setattr("offbragg.followers.followed_run._BACK_OFF", (0.0,))
    monkeypatch.setattr("offbragg.followers.followed_run._LOOK_DAMAGED", 0.05)
    path = journal / f"{run.uid}.jsonl"
    whole = path.read_bytes()
    path.write_bytes(
        whole.replace(b'"cryostream_temperature":120.0', b'"cryostream_temperature":120.1')
    )
    stop = threading.Event()

    class Done(Noting):
        def poll(self):
            if self.ended:
                stop.set()
            return self.ended

    mending = threading.Timer(1.0, path.write_bytes, [whole])
    mending.start()

    follow(journal, [Done("fine")], stop=stop)

    mending.join()
    assert caplog.text.count(" is skipped: ") == 1  # logged once


def test_a_run_that_one_gave_up_is_not_waited_for_by_those_after_it(journal, run):
    class Waiting(Noting):
        def poll(self):
            return False

    failed = follow(journal, [Noting("first", failures=10**6), Waiting("waits")], once=True)

    assert failed == {"first": [run.uid], "waits": [run.uid]}


def test_a_journal_directory_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(JournalError, match="cannot be made"):
        follow(tmp_path / "file" / "journal", [], once=True)


def test_a_backlog_is_shown_to_other_processes_while_one_follows(journal):
    """Also what the bar of a catch-up is drawn from."""

    class Behind(Noting):
        def backlog(self):
            return {"frames": 10, "decided": 4, "due": 3, "in_work": 2, "batches": 1}

        def poll(self):
            return self.ended and bool(reports)

    reports: list[tuple[int, int]] = []
    seen: list[dict] = []

    def progress(done: int, total: int) -> None:
        seen.append(read_backlog(journal))
        reports.append((done, total))

    assert read_backlog(journal) == {}
    follow(journal, [Behind("stack"), Noting("publish")], once=True, progress=progress)

    assert reports[0] == (4, 10)
    assert seen[0]["stack"]["in_work"] == 2
    assert list(seen[0]) == ["stack"]
    assert read_backlog(journal) == {}


@pytest.mark.parametrize(("at_once", "turns"), [(1, "aaabbbccc"), (3, "abcabcabc")])
def test_runs_are_finished_one_after_the_other_or_in_turns(tmp_path, at_once, turns):
    for age, uid in enumerate("cba"):  # journals are listed by name or age: the run's time counts
        run = MeasuredRun(tmp_path, uid=uid * 8, began=2e9 - age)
        run.begin()
        run.end()
    polled: list[str] = []

    class Busy:
        busy = True

        def __init__(self, uid):
            self.uid, self.left = uid, 3

        def __call__(self, name, doc):
            pass

        def poll(self):
            polled.append(self.uid[0])
            self.left -= 1
            return self.left == 0

        def close(self):
            pass

    class Follower(Noting):
        def open(self, start):
            return Busy(start["uid"])

    follow(run.journal_directory, [Follower("busy")], once=True, at_once=at_once)

    assert "".join(polled) == turns


def test_a_new_run_does_not_wait_until_all_old_ones_were_looked_at(tmp_path):
    old = [MeasuredRun(tmp_path, uid=f"{n:08d}", began=1e9 + n) for n in range(60)]
    for run in old:
        run.begin()
        run.end()
    looked: list[str] = []
    stop = threading.Event()

    class Slow(Noting):
        def done(self, start):
            looked.append(start["uid"])
            if len(looked) == 10:
                new = MeasuredRun(tmp_path, uid="new-run", began=2e9)
                new.begin()
                new.end()
            stop.wait(0.02)  # what a catalog takes
            if len(looked) == 61:
                stop.set()
            return True

    follow(run.journal_directory, [Slow("slow")], stop=stop)

    assert 10 <= looked.index("new-run") < 30
    assert len(looked) == len(set(looked)) == 61


@pytest.mark.parametrize("once", [True, False])
def test_a_journal_directory_that_cannot_be_looked_at_is_reported(
    journal, monkeypatch, caplog, once
):
    """Also when nothing else would be: an empty list of journals is not a success."""
    fine, scandir, refused = Noting("fine"), os.scandir, []
    stop = threading.Event()

    class Reporting(Noting):
        def poll(self):
            if self.ended:
                stop.set()
            return self.ended

    def refuse(path):
        if threading.current_thread().name.startswith("offbragg-") and len(refused) < 2:
            refused.append(path)
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("offbragg.callbacks.journal.os.scandir", refuse)
    if once:
        with pytest.raises(JournalError, match="cannot be looked at: Permission denied"):
            follow(journal, [fine], once=True)
    else:
        fine = Reporting("fine")
        follow(journal, [fine], stop=stop)
        assert fine.ended
        assert caplog.text.count("cannot be looked at") == 1


def test_a_journal_that_cannot_be_read_just_now_is_read_later(journal, monkeypatch, caplog):
    fine, read, refused = Noting("fine"), Path.open, []

    def refuse(self, *args, **kwargs):
        if threading.current_thread().name.startswith("offbragg-") and not refused:
            refused.append(self)
            raise OSError(errno.EMFILE, "Too many open files")
        return read(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)

    failed = follow(journal, [fine], once=True)

    assert refused
    assert "cannot be read: Too many open files" in caplog.text
    assert failed == {"fine": []}
    assert fine.ended
