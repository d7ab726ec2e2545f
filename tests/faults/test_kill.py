"""The stacker is killed, anywhere; started again, it has everything, and nothing twice."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.judge import stored
from faults.stacking import (
    GROUPS,
    Stackers,
    Sweep,
    WaitingRun,
    kill_after,
    strace,
    survey,
)

WORST = 50.0  # s, ten times what a restart may take


@pytest.fixture(scope="module")
def stackers(tmp_path_factory) -> Iterator[Stackers]:
    made = Stackers(tmp_path_factory.mktemp("stackers"), quick=True)
    yield made
    made.close()


def killed(stackers: Stackers, root: Path, **how) -> float:
    """Kill a stacker, look at what it leaves, start it again; gives the time to recover, s."""
    run = WaitingRun(root, n_frames=20).whole()
    ended = stackers.run(run.arguments, **how)
    if ended.code == -signal.SIGKILL:
        acknowledged = run.seen()
    else:
        assert ended.code == 0, ended.output  # it was quicker than we were
        acknowledged = stored(run.scan_file())
    seconds = run.recovers(stackers, acknowledged)
    assert seconds < WORST
    shutil.rmtree(root)
    return seconds


@strace
@pytest.mark.parametrize(
    "point",
    [
        "mkdir:3", "link:1", "fsync:1", "pwrite64:3", "pwrite64:24", "pwrite64:41",
        "fsync:2", "unlink:3", "unlink:8", "pwrite64:90", "rename:1", "rename:2",
    ],
)  # fmt: skip
def test_killed_at_a_system_call_nothing_is_lost(stackers, tmp_path, point):
    call, _, k = point.partition(":")

    killed(stackers, tmp_path / "run", inject=[f"{call}:signal=KILL:when={k}"])


def killed_over_a_torn_file(stackers: Stackers, root: Path, point: str) -> float:
    """Kill a stacker that finds what an earlier kill tore; gives the time to recover, s."""
    run = WaitingRun(root, n_frames=330).whole().torn()
    stackers.run(run.arguments, inject=[point])
    seconds = run.recovers(stackers, set(range(8)))
    assert not list(run.experiment.rglob("*.repair*"))
    assert len(list(run.experiment.rglob("f1.h5.damaged-*"))) == 1
    shutil.rmtree(root)
    return seconds


@strace
@pytest.mark.parametrize("point", ["rename:1", "unlink:5"])
def test_killed_while_a_torn_file_is_made_anew_nothing_is_lost(stackers, tmp_path, point):
    call, _, k = point.partition(":")

    killed_over_a_torn_file(stackers, tmp_path / "run", f"{call}:signal=KILL:when={k}")


@pytest.mark.parametrize("after", [0.05, 0.1, 0.2])
def test_killed_at_some_moment_nothing_is_lost(stackers, tmp_path, after):
    killed(stackers, tmp_path / "run", meanwhile=kill_after(after))


def test_killed_again_and_again_while_frames_come_nothing_is_lost(stackers, tmp_path):
    run = WaitingRun(tmp_path / "run", n_frames=40).begin()
    acknowledged: set[int] = set()

    def measure() -> None:
        for number in range(run.n_frames):
            run.write(number)
            run.announce(number + 1)
            time.sleep(0.03)

    measuring = threading.Thread(target=measure)
    measuring.start()
    following = [a for a in run.arguments if a != "--once"]
    for after in (0.2, 0.3, 0.25):
        ended = stackers.run(following, meanwhile=kill_after(after))
        assert ended.code == -signal.SIGKILL
        now = run.seen()
        assert acknowledged <= now
        acknowledged = now
    measuring.join()
    run.monitor_counted(list(range(run.n_frames)))
    run.end()

    run.recovers(stackers, acknowledged)


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="hdf5-tools are not installed")
def test_what_was_recovered_opens_in_hdf5_1_10(stackers, tmp_path):
    run = WaitingRun(tmp_path / "run", n_frames=20).whole()
    stackers.run(run.arguments, meanwhile=kill_after(0.2))
    run.recovers(stackers, set())

    done = subprocess.run(
        ["h5dump", "-d", "/entry/frames/status", str(run.scan_file())],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout.count('"stored') == 20
    version = subprocess.run(["h5dump", "--version"], capture_output=True, text=True, check=True)
    if "1.10." not in version.stdout:
        pytest.skip(f"seen with {version.stdout.strip()}, not with 1.10")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_a_hundred_random_moments(tmp_path):
    rng = random.Random(5)
    sweep = Sweep(tmp_path)

    sweep.each(
        [f"after {rng.uniform(0.0, 1.1):.4f} s" for _ in range(100)],
        lambda stackers, root, point: killed(
            stackers, root, meanwhile=kill_after(float(point.split()[1]))
        ),
    )

    sweep.tell("SIGKILL at random moments")


@strace
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("call", GROUPS)
def test_killed_at_every_system_call(tmp_path, call):
    sweep = Sweep(tmp_path)
    counts = survey(tmp_path / "dry")
    points = [f"{c}:signal=KILL:when={k}" for c in GROUPS[call] for k in range(1, counts[c] + 1)]

    sweep.each(points, lambda stackers, root, point: killed(stackers, root, inject=[point]))

    sweep.tell(f"SIGKILL at the k-th {call}")


@strace
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_every_system_call_over_a_torn_file(tmp_path):
    """The first of each kind rebuild the file; then the run is stacked as ever."""
    sweep = Sweep(tmp_path)
    points = [f"{c}:signal=KILL:when={k}" for c in (*GROUPS["others"], "pwrite64")
              for k in range(1, 17)]  # fmt: skip

    sweep.each(points, killed_over_a_torn_file)

    sweep.tell("SIGKILL while a torn file is rebuilt")


@strace
def test_killed_while_it_takes_up_a_finished_file_no_second_one_is_made(stackers, tmp_path):
    """A frame came late; its file says whose it is, although it cannot be read just then."""
    run = WaitingRun(tmp_path / "run", n_frames=20).begin()
    run.write(*range(19))
    run.announce(20)
    run.monitor_counted(list(range(20)))
    run.end()
    assert stackers.run(run.arguments).code == 0
    before = run.seen()
    assert len(before) == 19
    run.write(19)

    for k in (1, 2, 3, 4):
        stackers.run(run.arguments, inject=[f"pwrite64:signal=KILL:when={k}"])

    run.recovers(stackers, before)
