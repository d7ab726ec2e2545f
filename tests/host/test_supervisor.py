"""Children that crash come back, those that cannot do not, and none is left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from runs import wait_until

from offbragg.host.children import Children
from offbragg.host.screen import Screen, status_line
from offbragg.host.supervisor import BackOff, ChildState, ChildStatus, Command, Supervisor

CHILD = """
import json, os, signal, sys, time
kind, mark = sys.argv[1], sys.argv[2]
if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if kind == "serves":
    signal.signal(signal.SIGTERM, lambda *_: (open(mark + ".ended", "w").close(), sys.exit(0)))
    with open(mark + ".part", "w") as ready:
        json.dump({"pid": os.getpid(), "url": "http://here"}, ready)
    os.replace(mark + ".part", mark)
else:
    open(mark, "a").close()
if kind == "mistyped":
    print("usage", "╭─ Error ─╮", "│ No such option │", "╰─────────╯", sep="\\n", flush=True)
    sys.exit(2)
if kind.isdigit():
    print("busy", "offbragg: the disk is away \\x1b[2J", "Mount it.", sep="\\n", flush=True)
    sys.exit(int(kind))
time.sleep(300)
"""


class Supervised:
    """A supervisor in a thread, with children that do nothing but end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.changes: list[ChildState] = []
        self.stop, self.at_once = threading.Event(), threading.Event()
        self.code: int | None = None

    def start(self, back_off: BackOff, **kinds: str) -> None:
        commands = [
            Command(
                name,
                ["child", kind, str(self.root / name)],
                self.root / name if kind == "serves" else None,
            )
            for name, kind in kinds.items()
        ]
        supervisor = Supervisor(commands, self.root, changed=self.changes.append, back_off=back_off)

        def run() -> None:
            self.code = supervisor.run(self.stop, self.at_once)

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def of(self, name: str, *statuses: ChildStatus) -> list[ChildState]:
        return [
            change
            for change in list(self.changes)
            if change.name == name and (not statuses or change.status in statuses)
        ]

    def end(self) -> int | None:
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.code


@pytest.fixture
def supervised(tmp_path, monkeypatch):
    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = Supervised(tmp_path)
    yield made
    made.at_once.set()
    made.end()


def is_running(pid: int | None) -> bool:
    return pid is not None and Path(f"/proc/{pid}").exists()


QUICK = BackOff(first=0.01, most=0.04)


def test_a_child_that_crashes_is_started_again_after_waits_that_grow(supervised):
    supervised.start(QUICK, disk="7", other="serves")

    wait_until(lambda: len(supervised.of("disk", ChildStatus.WAITING)) >= 4, 60, "4 crashes")
    wait_until(lambda: supervised.of("other", ChildStatus.RUNNING), 60, "the other one serves")

    crashes = supervised.of("disk", ChildStatus.WAITING)[:4]
    assert [crash.wait for crash in crashes] == [0.01, 0.02, 0.04, 0.04]
    assert [crash.restarts for crash in crashes] == [0, 1, 2, 3]
    assert crashes[0].reason == r"exit code 7: the disk is away \x1b[2J"
    assert len(supervised.of("other", ChildStatus.STARTING)) == 1
    assert supervised.of("other", ChildStatus.RUNNING)[0].ready["url"] == "http://here"
    assert supervised.end() == 0


def test_one_that_ran_for_long_begins_with_the_shortest_wait_again(supervised):
    supervised.start(BackOff(first=0.01, steady=0.0), disk="7")

    wait_until(lambda: len(supervised.of("disk", ChildStatus.WAITING)) >= 3, 60, "3 crashes")

    assert {crash.wait for crash in supervised.of("disk", ChildStatus.WAITING)} == {0.01}


def test_a_child_that_somebody_kills_comes_back(supervised):
    supervised.start(QUICK, one="serves")
    first = wait_until(lambda: supervised.of("one", ChildStatus.RUNNING), 60)[0].pid

    os.kill(first, signal.SIGKILL)

    second = wait_until(lambda: supervised.of("one", ChildStatus.RUNNING)[1:], 60, "it is back")[0]
    assert supervised.of("one", ChildStatus.WAITING)[0].reason == "killed by SIGKILL"
    assert second.pid != first
    assert second.restarts == 1
    assert supervised.end() == 0
    assert not is_running(second.pid)
    assert (supervised.root / "one.ended").exists()  # it was asked to


@pytest.mark.parametrize("code", ["2", "3"])
def test_a_users_error_is_named_and_not_tried_again(supervised, code):
    supervised.start(QUICK, wrong=code, other="serves")

    wait_until(lambda: supervised.of("wrong", ChildStatus.REFUSED), 60, "it is given up")
    wait_until(lambda: supervised.of("other", ChildStatus.RUNNING), 60, "the other one serves")

    (refused,) = supervised.of("wrong", ChildStatus.REFUSED)
    assert refused.reason.startswith(f"exit code {code}: the disk is away")
    assert supervised.end() == int(code)
    assert not supervised.of("wrong", ChildStatus.ENDED, ChildStatus.WAITING)


def test_what_stands_in_a_box_is_the_reason(supervised):
    supervised.start(QUICK, one="mistyped")

    supervised.thread.join(60)

    assert supervised.of("one")[-1].reason == "exit code 2: No such option"


def test_it_ends_by_itself_when_nothing_is_left_to_run(supervised):
    supervised.start(QUICK, wrong="3")

    supervised.thread.join(60)

    assert supervised.code == 3


def test_who_does_not_want_to_wait_kills_what_does_not_end(supervised):
    supervised.start(QUICK, one="stubborn")
    wait_until(lambda: (supervised.root / "one").exists(), 60, "it ignores SIGTERM")
    pid = supervised.changes[-1].pid

    supervised.stop.set()
    time.sleep(0.3)
    assert is_running(pid)
    supervised.at_once.set()

    assert supervised.end() == 0
    assert not is_running(pid)


def test_a_log_that_is_long_is_moved_while_the_child_appends(tmp_path, monkeypatch):
    (tmp_path / "talk.py").write_text(
        "import time\nwhile True: print('x' * 99, flush=True); time.sleep(0.01)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    children = Children(tmp_path)
    children.start("talk", ["talk"])
    try:
        wait_until(lambda: children.log("talk").stat().st_size > 1000, 60, "1000 bytes")
        children.shorten_logs(1_000_000)
        assert not (tmp_path / "talk.log.1").exists()

        children.shorten_logs(500)

        assert (tmp_path / "talk.log.1").stat().st_size > 500
        wait_until(lambda: children.log("talk").stat().st_size > 100, 60, "it goes on")
        assert children.log("talk").read_bytes().startswith(b"xxx")  # no hole
    finally:
        children.stop("talk")


def test_logs_have_names_in_front_and_are_not_obeyed(tmp_path, capfd):
    (tmp_path / "stack.log").write_text("of an earlier start\n")
    with Screen(["stack", "live"], tmp_path) as screen:
        with (tmp_path / "stack.log").open("a") as log:
            log.write("one\nwith \x1b[2J escape\nhalf of a li")
        (tmp_path / "live.log").write_text("two\n")
        screen.changed(ChildState("live", ChildStatus.WAITING, reason="killed by SIGKILL", wait=4))

    shown = capfd.readouterr().err.splitlines()
    assert "stack | one" in shown
    assert r"stack | with \x1b[2J escape" in shown
    assert "live  | two" in shown
    assert shown[-1].endswith("ended: killed by SIGKILL; starts again in 4 s")
    assert not any("earlier" in line or "half" in line for line in shown)


def test_the_status_line_is_one_line_about_all():
    states = {
        "stack": ChildState("stack", ChildStatus.RUNNING, restarts=2),
        "serve": ChildState("serve", ChildStatus.REFUSED, reason="exit code 3: port\n is wrong"),
    }

    line = status_line(states, {"stack": "3 of 60 frames", "serve": "not shown"}).plain

    assert line == (
        r"stack running (restarted 2 ×), 3 of 60 frames · "
        r"serve NOT RESTARTED: exit code 3: port\n is wrong"
    )
