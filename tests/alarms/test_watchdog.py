"""The watchdog beside real directories, and the command that it calls."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from faulty_disks import SmallDisk, needs_mount
from runs import wait_until

from offbragg.alarms.board import Alarm, Thresholds
from offbragg.alarms.board_file import ACQUISITION, DATA, OnceForBoth, read_board
from offbragg.alarms.hook import Hook
from offbragg.alarms.looks import CatalogLook, backlog_look
from offbragg.alarms.watchdog import Watchdog

THRESHOLDS = Thresholds(reserve=0.001)


class Times:
    """Clocks that go when they are set."""

    def __init__(self) -> None:
        self.now, self.wall = 100.0, time.time()

    def go(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds


@pytest.fixture
def times():
    return Times()


@pytest.fixture
def paths(tmp_path) -> dict[str, Path]:
    paths = {name: tmp_path / name for name in ("experiment", "frames", "journal")}
    for path in paths.values():
        path.mkdir()
    return paths


@pytest.fixture
def make(paths, times):
    made = []

    def make(side=ACQUISITION, **more):
        watchdog = Watchdog(
            paths, THRESHOLDS, side=side, journal=paths["journal"],
            monotonic=lambda: times.now, wall=lambda: times.wall, **more,
        )  # fmt: skip
        made.append(watchdog)
        return watchdog

    yield make
    for watchdog in made:
        watchdog.close()


def write(frames, times, number):
    """Make a frame file, by the clock of the test."""
    (frames / f"x_{number:05d}.cbf").touch()
    os.utime(frames, (times.wall, times.wall))


def reported(changes):
    return [(change.alarm.what, change.state) for change in changes]


def begin(watchdog, frames, *, n_frames=10, period=0.1, uid="run", began=None):
    """The documents with which a sweep begins."""
    watchdog("start", {"uid": uid, "sweep": {"n_frames": n_frames, "period": period}})
    watchdog(
        "stream_resource",
        {
            "uid": f"{uid}-frames", "run_start": uid,
            "mimetype": "multipart/related;type=image/x-cbf",
            "uri": f"file://localhost{frames}/",
            "parameters": {"template": "x_{:05d}.cbf", "exposure_started": began},
        },
    )  # fmt: skip


# -- disks -------------------------------------------------------------------------------------


def test_a_directory_that_goes_is_an_alarm_until_it_is_back(make, paths, times):
    watchdog = make()
    assert watchdog.look() == []

    paths["frames"].rename(paths["frames"].with_name("elsewhere"))
    (change,) = watchdog.look()

    assert reported([change]) == [("paths.frames", "raised")]
    assert change.alarm.reason == f"{paths['frames']} is not there"
    paths["frames"].with_name("elsewhere").rename(paths["frames"])
    assert watchdog.look() == []
    times.go(3.0)
    assert reported(watchdog.look()) == [("paths.frames", "cleared")]


@needs_mount
def test_each_disk_is_judged_once_and_keeps_its_name(make, paths, times):
    with SmallDisk(paths["frames"], 4_000_000) as disk:
        watchdog = make()
        assert watchdog.look() == []

        disk.fill(3_500_000)

        (change,) = watchdog.look()
        assert reported([change]) == [("disk.frames", "raised")]
        assert change.alarm.facts["paths"] == ["frames"]
        disk.grow(8_000_000)
        times.go(3.0)
        assert reported(watchdog.look()) == [("disk.frames", "cleared")]
        facts = {tuple(disk["paths"]) for disk in watchdog.disks.facts(0.0)}
        assert facts == {("frames",), ("experiment", "journal")}


@needs_mount
@pytest.mark.parametrize("how", ["read_only", "immutable", "unmounted"])
def test_what_cannot_be_written_is_an_alarm(make, paths, how):
    with SmallDisk(paths["frames"], 4_000_000) as disk:
        watchdog = make()
        assert watchdog.look() == []

        with disk.broken(how):
            changes = watchdog.look()

    (change,) = changes
    assert change.alarm.what == "paths.frames"
    reasons = {"read_only": "is read-only", "immutable": "cannot be written",
            "unmounted": f"is not on its disk: {paths['frames']} is not mounted"}  # fmt: skip
    assert change.alarm.reason == f"{paths['frames']} {reasons[how]}"


# -- frames ------------------------------------------------------------------------------------


def test_a_sweep_whose_files_stop_coming_stalls_until_they_come_again(make, paths, times):
    watchdog = make()
    begin(watchdog, paths["frames"])
    watchdog.look()
    for number in range(3):
        times.go(0.1)
        write(paths["frames"], times, number)
        assert watchdog.look() == []
    times.go(0.45)
    assert watchdog.look() == []

    times.go(0.1)
    (change,) = watchdog.look()

    assert reported([change]) == [("stall", "raised")]
    assert change.alarm.value == pytest.approx(0.55)
    write(paths["frames"], times, 3)
    assert watchdog.look() == []
    changes = []
    for number in range(4, 10):
        times.go(0.4)
        write(paths["frames"], times, number)
        changes += watchdog.look()
    assert reported(changes) == [("stall", "cleared")]
    times.go(60.0)
    assert watchdog.look() == []  # all are there


def test_frames_that_are_not_files_are_watched_by_their_documents(make, paths, times):
    watchdog = make()
    watchdog("start", {"uid": "run", "sweep": {"n_frames": 10, "period": 0.1}})
    resource = {"uid": "h5", "run_start": "run", "mimetype": "application/x-hdf5"}
    watchdog("stream_resource", {**resource, "uri": "file://x/y", "parameters": {}})
    watchdog.look()
    times.go(0.4)
    watchdog("stream_datum", {"stream_resource": "h5", "indices": {"start": 0, "stop": 4}})
    assert watchdog.look() == []

    times.go(0.6)

    assert reported(watchdog.look()) == [("stall", "raised")]


@pytest.mark.parametrize("how", ["paused", "given up"])
@pytest.mark.parametrize("stalled", [False, True])
def test_nothing_waits_for_frames_of_a_sweep_that_is_paused_or_ended(
    make, paths, times, how, stalled
):
    paused = False
    watchdog = make(is_paused=lambda: paused)
    begin(watchdog, paths["frames"])
    watchdog.look()
    times.go(1.0 if stalled else 0.4)
    assert reported(watchdog.look()) == [("stall", "raised")] * stalled

    if how == "paused":
        paused = True
    else:
        watchdog.expect_no_more()
    for _ in range(5):
        times.go(1.0)
        assert watchdog.look() == []  # neither raised nor, as nothing came, cleared

    watchdog("stop", {"run_start": "run"})
    assert reported(watchdog.look()) == [("stall", "cleared")] * stalled


def test_after_a_pause_frames_have_their_time_again(make, paths, times):
    paused = False
    watchdog = make(is_paused=lambda: paused)
    begin(watchdog, paths["frames"])
    watchdog.look()
    paused = True
    times.go(60.0)
    watchdog.look()
    paused = False
    times.go(0.4)

    assert watchdog.look() == []


def test_documents_that_are_none_stop_nothing(make, caplog):
    watchdog = make()

    watchdog("start", {"uid": "run", "sweep": {"n_frames": "many"}})
    watchdog("event", {})

    assert watchdog.look() == []
    assert "does not understand a start document" in caplog.text


# -- clocks ------------------------------------------------------------------------------------


def test_a_jump_of_the_clock_is_reported_and_no_other_clock_is_blamed(make, paths, times):
    watchdog = make()
    begin(watchdog, paths["frames"], began=times.wall - 0.2)
    assert watchdog.look() == []

    times.wall -= 7200.0
    write(paths["frames"], times, 0)

    assert reported(watchdog.look()) == [("clock", "raised")]


@pytest.mark.parametrize(
    ("off", "found"), [(30.0, "ahead"), (-30.0, "behind"), (-0.8, ""), (0.5, "")]
)
def test_the_clock_of_the_detector_is_known_from_when_it_began(make, paths, times, off, found):
    watchdog = make()

    begin(watchdog, paths["frames"], began=times.wall + off)

    changes = watchdog.look()
    assert reported(changes) == ([("clock.detector", "raised")] if found else [])
    assert found in "".join(change.alarm.reason for change in changes)


def test_a_record_that_is_ahead_is_reported(make, times):
    watchdog = make()

    watchdog("event", {"time": times.wall, "timestamps": {"ring_current": times.wall + 40.0}})

    assert reported(watchdog.look()) == [("clock.ring_current", "raised")]


# -- what only the data side looks at ----------------------------------------------------------


def test_a_backlog_is_an_alarm(make, times):
    behind = {"due": 4000, "behind": 400.0}
    watchdog = make(DATA, looks=[backlog_look(lambda: behind, THRESHOLDS)])

    (change,) = watchdog.look()

    assert change.alarm.reason == "4000 frames, 400 s of measuring, wait to be stacked"
    behind.update(due=0, behind=0.0)
    times.go(3.0)
    assert reported(watchdog.look()) == [("backlog", "cleared")]


def test_a_catalog_that_refuses_is_away_at_once(unused_port):
    look = CatalogLook("127.0.0.1", unused_port, interval=0.1)

    alarm = wait_until(look, 1.0)

    assert f"the catalog at 127.0.0.1:{unused_port} is away" in alarm.reason


def test_a_catalog_that_does_not_answer_is_away_after_its_time():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        look = CatalogLook("127.0.0.1", silent.getsockname()[1], patience=0.2, interval=0.1)

        alarm = wait_until(look, 3.0)

    assert "does not answer within 0.2 s" in alarm.reason


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


# -- listeners -----------------------------------------------------------------------------------


def test_what_is_up_can_be_read_while_its_watchdog_lives(make, paths, times):
    watchdog = make()
    watchdog.start()
    try:
        paths["frames"].rmdir()
        board = wait_until(
            lambda: (b := read_board(paths["journal"]).get(ACQUISITION)) and b["alarms"] and b, 5
        )
    finally:
        watchdog.stop()

    (alarm,) = board["alarms"]
    assert (alarm["what"], alarm["since"]) == ("paths.frames", times.wall)
    assert board["disks"][0]["free"] > 0
    assert read_board(paths["journal"]) == {}


def test_a_board_follows_its_directory_when_that_is_made_again(make, paths):
    watchdog = make()
    watchdog.look()
    other = paths["journal"].with_name("old")
    paths["journal"].rename(other)
    watchdog.look()
    paths["journal"].mkdir()

    paths["frames"].rmdir()
    watchdog.look()

    assert [a["what"] for a in read_board(paths["journal"])[ACQUISITION]["alarms"]] == [
        "paths.journal", "paths.frames",
    ]  # fmt: skip


def test_a_listener_that_fails_keeps_no_one_from_hearing_of_it(make, paths, caplog):
    heard = []
    watchdog = make(hook=heard.append)
    watchdog.subscribe(lambda change: 1 / 0)

    paths["frames"].rmdir()
    watchdog.look()

    assert [change["what"] for change in heard] == ["paths.frames"]
    assert "could not be passed on" in caplog.text


def test_two_sides_tell_once(make, paths, times):
    heard = []
    data = make(DATA, hook=lambda change: heard.append(("data", change["state"])))
    once = OnceForBoth(paths["journal"])
    other = make(hook=lambda change: once(change) or heard.append(("acquisition", change["state"])))
    paths["frames"].rmdir()

    for watchdog in (data, other):
        watchdog.look()
    paths["frames"].mkdir()
    times.go(3.0)
    for watchdog in (data, other):
        watchdog.look()

    assert heard == [("data", "raised"), ("data", "cleared")]


def test_the_other_side_is_not_relied_on(make, paths):
    once = OnceForBoth(paths["journal"], patience=0.1)
    change = {"what": "disk.frames", "state": "raised", "severity": "major"}
    assert once(change) is False  # no one is there

    data = make(DATA)
    data.look()

    assert once(change) is False  # it sees nothing
    assert once({**change, "state": "cleared"}) is False


# -- the command -------------------------------------------------------------------------------

CHANGE = {
    "what": "disk.frames", "state": "raised", "severity": "major", "side": "data",
    "beamline": "test", "reason": "0.4 GB free\0", "value": 0.4,
}  # fmt: skip


def script(folder: Path, text: str) -> list[str]:
    path = folder / "hook.py"
    path.write_text(text)
    return [sys.executable, str(path), str(folder / "reported")]


def test_the_command_gets_the_alarm_as_json_and_in_its_environment(tmp_path):
    hook = Hook(
        script(
            tmp_path,
            "import json, os, sys\n"
            "known = {k: v for k, v in os.environ.items() if k.startswith('OFFBRAGG_ALARM_')}\n"
            "open(sys.argv[1], 'a').write(json.dumps([json.load(sys.stdin), known]) + '\\n')\n",
        )
    )

    hook(CHANGE)
    hook({**CHANGE, "state": "cleared"})
    hook.close(10.0)

    lines = [json.loads(line) for line in (tmp_path / "reported").read_text().splitlines()]
    assert [change["state"] for change, _ in lines] == ["raised", "cleared"]
    assert lines[0][0] == CHANGE
    assert lines[0][1]["OFFBRAGG_ALARM_WHAT"] == "disk.frames"
    assert lines[0][1]["OFFBRAGG_ALARM_REASON"] == "0.4 GB free"


def test_a_command_that_hangs_is_ended_with_its_children_and_the_next_change_is_reported(
    tmp_path, caplog
):
    hook = Hook(
        script(
            tmp_path,
            "import json, os, sys, time\n"
            "open(sys.argv[1], 'a').write(f'{os.getpid()}\\n')\n"
            "if json.load(sys.stdin)['state'] == 'raised':\n"
            "    child = os.fork()\n"
            "    open(sys.argv[1], 'a').write(f'{os.getpid()}\\n')\n"
            "    time.sleep(60)\n",
        ),
        timeout=0.7,
    )
    began = time.monotonic()

    hook(CHANGE)
    assert time.monotonic() - began < 0.1, "it must not block"
    hook({**CHANGE, "state": "cleared"})
    hook.close(10.0)

    pids = [int(line) for line in (tmp_path / "reported").read_text().split()]
    assert len(pids) == 4
    assert "took longer than 0.7 s" in caplog.text
    wait_until(lambda: not any(is_alive(pid) for pid in pids), 5)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["/nowhere/alarm"], "cannot be run"),
        (["/proc/self/status"], "cannot be run"),
        (["false"], "ended with 1"),
        (["true"], ""),
        (["sh", "-c", "exec 0<&-; exit 3"], "ended with 3"),
    ],
)
def test_a_command_that_fails_is_logged_and_stops_nothing(command, message, caplog):
    hook = Hook(command)

    for _ in range(3):
        hook({**CHANGE, "reason": "x" * 200_000} if "exec" in command[-1] else CHANGE)
    hook.close(10.0)

    assert caplog.text.count(message) == 3 if message else caplog.text == ""


def test_changes_that_no_command_takes_are_dropped_and_not_kept_for_ever(caplog):
    ended = threading.Event()
    hook = Hook(["sleep", "30"], timeout=30.0, skip=lambda change: not ended.wait(20))

    for _ in range(200):
        hook(CHANGE)

    assert caplog.text.count("the alarm command is behind") >= 99
    hook.command = ["true"]
    ended.set()
    hook.close(10.0)
    assert os.getpid()  # we live


def test_an_alarm_is_plain_json():
    alarm = Alarm("stall", "major", "reason", 1.0, 0.5, "s", {"period": 0.1})

    assert json.loads(json.dumps(alarm.to_dict()))["facts"] == {"period": 0.1}


def test_a_process_that_is_held_up_sees_no_clock_jump(make, times):
    watchdog = make()
    assert watchdog.look() == []
    readings = iter([times.now + 1.0, times.now + 31.0])
    watchdog._monotonic = lambda: next(readings, times.now + 31.0)
    times.wall += 31.0

    assert watchdog.look() == []  # between its first reading and its second it did not run

    watchdog._monotonic = lambda: times.now + 31.2
    times.wall += 0.2
    assert watchdog.look() == []


def test_the_rest_of_a_plan_that_could_not_end_its_run_is_forgotten(make, paths, times):
    watchdog = make()
    begin(watchdog, paths["frames"])
    watchdog.look()
    times.go(60.0)

    watchdog.start()  # the next plan
    watchdog.stop()

    assert watchdog.board.alarms == []


def test_a_look_takes_a_millisecond_and_not_more_with_thousands_of_frames(make, paths, times):
    watchdog = make()
    begin(watchdog, paths["frames"], n_frames=5000)
    for number in range(4000):
        (paths["frames"] / f"x_{number:05d}.cbf").touch()
    began = time.process_time()

    for _ in range(50):
        watchdog.look()

    each = (time.process_time() - began) / 50
    print(f"a look takes {1e3 * each:.2f} ms")
    assert each < 0.01
