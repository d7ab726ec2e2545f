"""How much waits to be sent is known with and without a link, and who measures never waits."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from far_host import Ends, Far
from runs import MeasuredRun, wait_until

from offbragg.alarms.board import Thresholds
from offbragg.transfer.backlog import DiskLook, Pace, describe_sending, read_sending


def test_frames_wait_while_the_far_host_stands_still_and_all_arrive(
    far: Far, tmp_path: Path, monkeypatch
):
    """The near disk is the spool: runs are measured to their end, whatever the receiver does."""
    near = tmp_path / "near"
    monkeypatch.setattr("offbragg.transfer.send._SILENT", 4.0)  # s: not 15
    ends = Ends(far, near)
    far.address = ends.address
    run = MeasuredRun(near, n_frames=8).begin()
    receiver, stop = ends.receive(), threading.Event()
    sending = threading.Thread(target=far.sender(near).run, args=(stop,))
    sending.start()
    try:
        run.write(0, 1)
        run.announce(2)
        journal = near / "journal"
        wait_until(lambda: len(list((far.folder / "frames").rglob("*.cbf"))) == 2)
        wait_until(lambda: _of(journal).get("frames") == 0)
        os.kill(receiver.pid, signal.SIGSTOP)
        run.write(2, 3, 4, 5)
        run.announce(6)
        wait_until(lambda: _of(journal)["frames"] == 4)
        run.write(6, 7)
        run.announce(8)
        run.end()
        second = MeasuredRun(near, n_frames=3).begin()
        second.write(0, 1, 2)
        second.announce(3)
        second.end()
        wait_until(lambda: _of(journal)["frames"] == 9 and _of(journal)["runs"] == 2)
        assert "9 frames (" in describe_sending(_of(journal))
        # connects again, in vain, and still counts
        wait_until(lambda: not _of(journal)["connected"], timeout=40)
        third = MeasuredRun(near, n_frames=1).begin()
        third.write(0)
        third.announce(1)
        third.end()
        wait_until(lambda: _of(journal)["frames"] == 10)
        os.kill(receiver.pid, signal.SIGCONT)
        wait_until(lambda: _of(journal)["runs"] == 0, timeout=60)
    finally:
        stop.set()
        sending.join()
        receiver.kill()
        receiver.wait()
    assert read_sending(near / "journal") == []  # nobody stands behind it any more
    far.check(run, *range(8))
    far.check(second, *range(3))
    far.check(third, 0)


def _of(journal: Path) -> dict:
    return next(iter(read_sending(journal)), {"frames": None, "runs": None, "connected": True})


def test_a_disk_that_is_nearly_full_is_an_alarm_of_the_sender(far: Far, tmp_path: Path, caplog):
    run = MeasuredRun(tmp_path / "near", n_frames=1).begin()
    sender = far.sender(tmp_path / "near", thresholds=Thresholds(reserve=1e9))  # GB
    stop = threading.Event()
    with far.receiving():
        sender._address = far.address
        thread = threading.Thread(target=sender.run, args=(stop,))
        thread.start()
        try:
            wait_until(lambda: _of(tmp_path / "near/journal").get("alarms"))
        finally:
            stop.set()
            thread.join()
    run.end()
    assert "GB free" in caplog.text


def test_a_disk_alarm_is_logged_once_and_cleared(tmp_path: Path, caplog):
    look = DiskLook({"frames": tmp_path / "away"})
    for now in (0.0, 1.0, 6.0):
        look.look(now)
    assert [alarm["what"] for alarm in look.alarms] == ["paths.frames"]
    assert len(caplog.records) == 1
    (tmp_path / "away").mkdir()
    look.look(12.0)
    assert look.alarms == []
    assert "cleared: paths.frames" in caplog.text


def test_the_pace_is_that_of_the_last_minute():
    pace = Pace()
    for second in range(100):
        pace.add(float(second), 0 if second < 60 else 10 * (second - 60))
    assert abs(pace.per_second - 390 / 60) < 0.2
