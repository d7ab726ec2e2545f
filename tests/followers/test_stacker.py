"""Frames are stored by their number, judged one by one, and nothing shifts."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
from files.torn import tear
from runs import counts_of, wait_until

from offbragg import kernels
from offbragg.files import read_frame
from offbragg.files.find import find_scan_file
from offbragg.files.frame_pool import Judged
from offbragg.files.journal_file import read_journal
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.files.scan_writer import ScanWriter
from offbragg.followers.file_look import FileLook
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from offbragg.frame import PackedFrame
from sim_iocs.tiff import encode_tiff


@pytest.fixture(params=["pool", "library"])
def each_route(request, monkeypatch):
    """Stack with the compiled kernels, and as it is done where there was no compiler."""
    if request.param == "library":
        monkeypatch.setattr("offbragg.kernels.compiled", False)
    elif not kernels.compiled:
        pytest.skip("the kernels are not compiled")


@pytest.fixture
def stacked(run):
    """Follow the journal once and open the scan file of the run."""

    def stack() -> ScanFile:
        failed = follow(run.journal_directory, [Stacker(run.experiment, late=run.late)], once=True)
        assert failed == {"stack": []}
        path = find_scan_file(scan_directory(run.experiment, run.start), run.uid)
        assert path is not None
        return ScanFile.open(path)

    return stack


@pytest.mark.usefixtures("each_route")
def test_every_frame_is_stored_at_its_number(run, stacked):
    run.begin()
    run.write(*range(10))
    run.announce(10)
    run.end()

    with stacked() as scan:
        assert scan.complete
        assert scan.ledger.counts()["stored"] == 10
        for number in range(10):
            np.testing.assert_array_equal(scan.stack.counts[number], counts_of(number))


@pytest.mark.usefixtures("each_route")
def test_a_dropped_frame_is_listed_and_shifts_nothing(run, stacked):
    run.begin()
    run.write(*(n for n in range(10) if n != 4))
    run.announce(10)
    run.end()

    with stacked() as scan:
        ((number, status, reason),) = scan.ledger.problems()
        assert (number, status) == (4, "missing")
        assert "x_00004.cbf was not there" in reason
        assert np.all(np.asarray(scan.stack.counts[4]) == -1)
        np.testing.assert_array_equal(scan.stack.counts[5], counts_of(5))


@pytest.mark.usefixtures("each_route")
def test_a_flipped_bit_is_rejected_and_shifts_nothing(run, stacked):
    def flip(content: bytes) -> bytes:
        return content[:-6000] + bytes([content[-6000] ^ 16]) + content[-5999:]

    run.begin()
    run.write(*(n for n in range(10) if n != 4))
    run.write(4, damage=flip)
    run.announce(10)
    run.end()

    with stacked() as scan:
        ((number, status, reason),) = scan.ledger.problems()
        assert (number, status) == (4, "rejected")
        assert "MD5" in reason
        assert np.all(np.asarray(scan.stack.counts[4]) == -1)
        np.testing.assert_array_equal(scan.stack.counts[9], counts_of(9))


@pytest.mark.usefixtures("each_route")
def test_a_frame_that_was_cut_short_is_missing_with_the_reason(run, stacked):
    run.begin()
    run.write(*range(9))
    run.write(9, damage=lambda content: content[:20_000])
    run.announce(10)
    run.end()

    with stacked() as scan:
        ((number, status, reason),) = scan.ledger.problems()
        assert (number, status) == (9, "missing")
        assert "was not complete" in reason


def test_a_frame_that_comes_after_the_end_fills_its_row(run, stacked):
    run.begin()
    run.write(*(n for n in range(10) if n != 4))
    run.announce(10)
    run.end()
    stacked().close()

    run.write(4)

    with stacked() as scan:
        assert scan.ledger.counts()["stored"] == 10
        np.testing.assert_array_equal(scan.stack.counts[4], counts_of(4))


def test_frames_of_a_dead_run_engine_are_kept_although_they_were_not_announced(run, stacked):
    run.begin()
    run.write(*range(10))
    run.announce(3)
    run.journal.close()  # as the end of its process does

    with stacked() as scan:
        assert scan.ledger.counts()["stored"] == 10
        assert scan.complete


def test_an_aborted_sweep_lists_what_was_not_exposed(run, stacked):
    run.begin()
    run.write(*range(6))
    run.announce(6)
    run.end("abort")

    with stacked() as scan:
        assert scan.ledger.counts() == {"pending": 0, "stored": 6, "missing": 4, "rejected": 0}
        assert "the run had ended (abort)" in scan.ledger.reasons[7]
        assert scan.stack.counts.shape[0] == 10


def test_values_are_joined_by_frame_number_and_by_time(run, stacked):
    run.begin()
    run.write(*range(10))
    run.announce(10)
    run.monitor_counted([3, 4, 5])
    run.temperature_is(121.0, at=run.began + 0.5, seq_num=2)
    run.end()

    with stacked() as scan:
        values = scan.frame_values()
        np.testing.assert_array_equal(values["monitor"][3:6], [1003.0, 1004.0, 1005.0])
        assert np.isnan(values["monitor"][6])
        np.testing.assert_array_equal(values["temperature"], [120.0] * 5 + [121.0] * 5)
        np.testing.assert_allclose(values["time"], run.began + 0.1 * np.arange(10))
        np.testing.assert_allclose(values["angle"], 0.25 + 0.5 * np.arange(10))


def test_a_stacker_that_starts_again_goes_on_where_it_was(run, stacked):
    run.begin()
    run.write(*range(4))
    run.announce(4)
    run.monitor_counted(list(range(4)))
    stop = threading.Event()
    first = threading.Thread(
        target=follow,
        args=(run.journal_directory, [Stacker(run.experiment, late=run.late)]),
        kwargs={"stop": stop},
    )
    first.start()
    deadline = time.monotonic() + 20
    directory = scan_directory(run.experiment, run.start)
    while not ((path := find_scan_file(directory, run.uid)) and _stored(path) == 4):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stop.set()
    first.join()

    run.temperature_is(121.0, at=run.began + 0.2, seq_num=2)  # came late: it is about frame 2 on
    run.write(*range(4, 10))
    run.announce(10)
    run.end()

    with stacked() as scan:
        assert scan.ledger.counts()["stored"] == 10
        np.testing.assert_array_equal(scan.frame_values()["temperature"], [120.0] * 2 + [121.0] * 8)


def test_a_stacker_goes_on_with_a_file_that_a_kill_tore(run, stacked, caplog):
    run.n_frames = 400  # their index is longer than a page
    run.begin()
    run.write(*range(10))

    def store(*numbers: int) -> None:
        for number in numbers:
            frame = read_frame(run.path(number), number=number)
            scan.write_frame(frame, source=run.path(number).name, time=run.began)

    with ScanWriter.create(scan_directory(run.experiment, run.start), start=run.start) as scan:
        store(*range(4))
        tear(scan.path, lambda: store(4, 5))
        left = scan.path.read_bytes()
    scan.path.write_bytes(left)  # as if it had not been closed
    for number in range(4):
        run.path(number).unlink()  # they are only in the scan file
    run.announce(10)
    run.end("abort")

    with stacked() as scan:
        assert scan.ledger.counts() == {"stored": 10, "missing": 390, "rejected": 0, "pending": 0}
        for number in range(10):
            np.testing.assert_array_equal(scan.stack.counts[number], counts_of(number))
    assert "rebuilt with 4 of its 4 frames" in caplog.text
    assert scan.path.with_name("f1.h5.damaged-1").read_bytes() == left


def _stored(path) -> int:
    with ScanFile.open(path) as scan:
        return scan.ledger.counts()["stored"]


@pytest.mark.usefixtures("each_route")
def test_a_file_that_is_first_seen_half_written_is_judged_by_what_it_becomes(run, stacked):
    def hole(content: bytes) -> bytes:
        """What a network file system may show before the blocks have come."""
        return content[:-9000] + bytes(2000) + content[-7000:]

    run.begin()
    run.write(*range(9))
    run.write(9, damage=hole)
    run.announce(10)
    run.end()
    later = threading.Timer(0.2, run.write, [9])
    later.start()

    with stacked() as scan:
        later.join()
        assert scan.ledger.counts()["stored"] == 10


def test_a_rejected_frame_is_stored_when_its_good_file_comes_later(run, stacked):
    run.begin()
    run.write(*range(9))
    run.write(9, damage=lambda content: content[:-6000] + b"\x55" + content[-5999:])
    run.announce(10)
    run.end()
    with stacked() as scan:
        assert scan.ledger.counts()["rejected"] == 1

    run.write(9)

    with stacked() as scan:
        assert scan.ledger.counts()["stored"] == 10
        np.testing.assert_array_equal(scan.stack.counts[9], counts_of(9))


def test_a_slow_camserver_that_outlived_its_run_engine_is_waited_for(run, stacked):
    run.period = 0.5  # longer than frames may be late
    run.begin()
    run.write(0, 1)
    run.announce(2)
    run.journal.close()
    writing = [threading.Timer(0.45 * (n - 1), run.write, [n]) for n in range(2, 10)]
    for timer in writing:
        timer.start()

    with stacked() as scan:
        for timer in writing:
            timer.join()
        assert scan.ledger.counts()["stored"] == 10


@pytest.mark.usefixtures("each_route")
def test_a_tiff_is_believed_once_it_has_stopped_changing(run, stacked):
    content = [
        encode_tiff(counts_of(n), model="test", header=["test"], taken=0.0) for n in range(10)
    ]
    run.suffix = "tif"
    run.begin()
    for number in range(10):
        run.path(number).write_bytes(content[number])
    half = len(content[3]) // 2
    run.path(3).write_bytes(content[3][:half] + bytes(len(content[3]) - half))
    run.announce(10)
    run.end()
    later = threading.Timer(0.3, run.path(3).write_bytes, [content[3]])
    later.start()

    with stacked() as scan:
        later.join()
        assert scan.ledger.counts()["stored"] == 10
        np.testing.assert_array_equal(scan.stack.counts[3], counts_of(3))


def turning(run, *, late: float = 0.03, clock: float = 0.0, silent: float = np.inf) -> None:
    """Measure all frames with an axis that passed the start ``late`` s before the exposure."""
    run.per_frame["angle"] = {"key": "phi", "how": "interpolated", "units": "degree"}
    run.begin()
    run.journal(
        "descriptor",
        {
            "uid": f"{run.uid}-phi", "run_start": run.uid, "time": run.began, "name": "phi",
            "data_keys": {"phi": {"source": "test", "dtype": "number", "shape": []}},
            "object_keys": {"phi": ["phi"]}, "configuration": {}, "hints": {},
        },
    )  # fmt: skip
    for i in range(-10, 25):
        at = run.began + 0.1 * i + 0.037
        if 0.0 < at - run.began - silent < 1.5:
            continue
        run.journal(
            "event",
            {
                "uid": f"{run.uid}-{i}", "descriptor": f"{run.uid}-phi", "time": at,
                "seq_num": i + 11, "data": {"phi": 5.0 * (at - run.began + late)},
                "timestamps": {"phi": at + clock},
            },
        )  # fmt: skip
    run.write(*range(10))
    run.announce(10)
    run.end()


def test_angles_are_interpolated_between_read_backs_and_the_file_says_so(run, stacked):
    turning(run, late=0.03)

    with stacked() as scan:
        values = scan.frame_values()
        # 30 ms at 5 degree/s beyond half a step past where the exposure began
        np.testing.assert_allclose(values["angle"], scan.sweep.midpoints + 0.15, atol=1e-6)
        assert {str(source) for source in values["angle_source"]} == {"interpolated"}


@pytest.mark.parametrize("clock", [-3.0, 3600.0])
def test_clocks_that_differ_without_a_word_leave_angles_unchecked(run, stacked, clock, caplog):
    turning(run, clock=clock)

    with stacked() as scan:
        values = scan.frame_values()
        np.testing.assert_allclose(values["angle"], scan.sweep.midpoints)
        assert {str(source) for source in values["angle_source"]} == {"commanded"}
        assert np.isnan(values["angle_sigma"]).all()
    assert "the angles of frames 0–9 are as commanded, and nothing has checked them" in caplog.text


def test_where_the_axis_was_silent_and_turned_on_the_angles_are_known(run, stacked):
    turning(run, silent=0.5)

    with stacked() as scan:
        values = scan.frame_values()
        sources = [str(source) for source in values["angle_source"]]
        assert sources == ["interpolated"] * 10


def test_a_frame_whose_monitor_counted_too_little_weighs_nothing(run, stacked):
    run.per_frame["weight"] = {"key": "permit_beam", "monitor": "monitor", "fraction": 0.5}
    run.begin()
    run.journal(
        "descriptor",
        {
            "uid": f"{run.uid}-permit", "run_start": run.uid, "time": run.began, "name": "permit",
            "data_keys": {"permit_beam": {"source": "test", "dtype": "integer", "shape": []}},
            "object_keys": {"permit": ["permit_beam"]}, "configuration": {}, "hints": {},
        },
    )  # fmt: skip
    for value, at in ((1, -5.0), (0, 0.501)):  # the loss is noticed when frame 4 is over
        run.journal(
            "event",
            {
                "uid": f"{run.uid}-{at}", "descriptor": f"{run.uid}-permit", "time": run.began + at,
                "seq_num": 2 - value, "data": {"permit_beam": value},
                "timestamps": {"permit_beam": run.began + at},
            },
        )  # fmt: skip
    run.write(*range(10))
    run.announce(10)
    counts = [1000.0] * 4 + [20.0] * 6
    when = [run.began + 0.1 * (n + 1) for n in range(10)]
    run.journal(
        "event_page",
        {
            "uid": [f"{run.uid}-m{n}" for n in range(10)], "descriptor": f"{run.uid}-monitor",
            "time": when, "seq_num": list(range(1, 11)),
            "data": {"monitor_frame": list(range(10)), "monitor_counts": counts},
            "timestamps": {"monitor_frame": when, "monitor_counts": when},
        },
    )  # fmt: skip
    run.end()

    with stacked() as scan:
        np.testing.assert_array_equal(scan.frame_values()["weight"], [1.0] * 4 + [0.0] * 6)


def test_a_stacker_says_how_far_behind_it_is(run):
    run.begin()
    run.write(*range(4))
    run.announce(6)
    stacker = Stacker(run.experiment, late=60.0)
    sweep = stacker.open(run.start)
    for name, doc in read_journal(run.journal_directory / f"{run.uid}.jsonl")[0]:
        sweep(name, doc)
    assert stacker.backlog()["due"] == 6

    while sweep.decided < 4:
        sweep.poll()

    assert stacker.backlog() == {
        "frames": 10, "decided": 4, "due": 2, "durable": 0, "in_work": 0, "batches": 0,
        "behind": 0.2,
    }  # fmt: skip
    sweep.close()
    assert set(stacker.backlog().values()) == {0}


@pytest.mark.usefixtures("each_route")
def test_values_of_a_frame_that_comes_with_the_last_document_are_kept(run):
    run.begin()
    run.write(0, 1, 2, *range(4, 10))
    run.announce(10)
    stacker = Stacker(run.experiment, late=0.0).open(run.start)
    journal = run.journal_directory / f"{run.uid}.jsonl"
    documents, position = read_journal(journal, 0)
    for name, doc in documents:
        stacker(name, doc)
    wait_until(lambda: stacker.poll() or stacker.decided == 10, 20, "frame 3 to be given up")
    run.write(3)
    run.end()
    for name, doc in read_journal(journal, position)[0]:
        stacker(name, doc)
    stacker._next_look = 0.0

    wait_until(stacker.poll, 20, "end of the sweep")

    with ScanFile.open(stacker.path) as scan:
        assert scan.ledger.counts()["stored"] == 10
        np.testing.assert_array_equal(scan.frame_values()["temperature"], run.temperature)


@pytest.mark.usefixtures("each_route")
def test_what_cannot_be_read_is_missing_with_the_reason_and_the_others_are_stored(run, stacked):
    run.begin()
    run.write(0, *range(2, 10))
    os.mkfifo(run.path(1))
    run.announce(10)
    run.end()

    with stacked() as scan:
        assert scan.ledger.counts() == {"stored": 9, "missing": 1, "rejected": 0, "pending": 0}
        assert "could not be read (it is not a file)" in scan.ledger.reasons[1]


def test_a_tiff_that_changed_while_it_waited_is_not_believed(run):
    run.begin()
    run.announce(1)
    stacker = Stacker(run.experiment).open(run.start)
    look = stacker._looked[0] = FileLook((10, 1), 0.0, steady=True)
    frame = PackedFrame(0, stacker._shape, np.zeros(1, np.uint8), "x_0.tif")

    changed = stacker._believe(Judged(0, run.path(0), frame, signature=(10, 2)))
    same = stacker._believe(Judged(0, run.path(0), frame, signature=(10, 1)))

    assert changed is None
    assert look.unverified
    assert same is not None
    stacker.close()


def test_a_follower_that_cannot_go_on_ends_all_and_says_why(run, monkeypatch):
    run.begin()

    def gone(_):
        raise OSError("the journal is gone")

    monkeypatch.setattr("offbragg.followers.follow.JournalFolder.look", gone)

    with pytest.raises(OSError, match="the journal is gone"):
        follow(run.journal_directory, [Stacker(run.experiment)])
