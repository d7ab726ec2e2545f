"""The power goes: what was reported durable is there afterwards.

Reported durable is what the stacker says in its backlog (``offbragg status``), and every frame of
a sweep once it says that it is stacked; of a journal, its start once the run is open and its stop
once that has been taken.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.conftest import stack_once
from faults.judge import judge, stored
from faults.power import TRACE, Disk, calls
from faults.stacking import Stackers, WaitingRun, strace

from offbragg.files.abandoned import close_all_abandoned
from offbragg.files.journal_file import read_journal

pytestmark = strace

QUICK = {
    "offbragg.files.durable._SYNC_FRAMES": 5,
    "offbragg.files.durable._SYNC_EVERY": 0.2,
    "offbragg.followers.follow._LOOK_FOR_ABANDONED": 0.05,
}


@pytest.fixture(scope="module")
def stackers(tmp_path_factory) -> Iterator[Stackers]:
    made = Stackers(tmp_path_factory.mktemp("stackers"), quick=True)
    yield made
    made.close()


@pytest.fixture(scope="module")
def traced(stackers, tmp_path_factory) -> tuple[WaitingRun, list[tuple[str, str, int]]]:
    """A sweep whose frames come while it is stacked, and all that was done to the disk."""
    run = WaitingRun(tmp_path_factory.mktemp("power") / "run", n_frames=40).begin()

    def measure(_: int) -> None:
        for number in range(run.n_frames):
            run.write(number)
            run.announce(number + 1)
            time.sleep(0.04)
        run.end()

    ended = stackers.run(run.arguments, trace=TRACE, patch=QUICK, meanwhile=measure)
    assert ended.code == 0, ended.output
    assert stored(run.scan_file()) == set(range(run.n_frames))
    return run, calls(ended.trace)


def reported(call: str, arguments: str, before: int, n_frames: int) -> int:
    """How many frames are reported durable, once this has been written."""
    if call == "write" and ".follow.json" in arguments:
        found = re.search(r'\\"durable\\": (\d+)', arguments)
        return max(before, int(found[1])) if found else before
    if call == "write" and "INFO stacked" in arguments:
        return n_frames
    return before


def survives(run: WaitingRun, trace: list, cut: int, rng: random.Random | None) -> int:
    """Cut the power after a number of calls; start again without the frames that were durable."""
    disk, durable = Disk(run.root), 0
    for call, arguments, answer in trace[:cut]:
        durable = reported(call, arguments, durable, run.n_frames)
        disk.do(call, arguments, answer)
    disk.cut(run.experiment, rng)
    before = run.seen()
    assert len(before) >= durable, f"{durable} were durable, {len(before)} are there"
    hidden = run.root / "hidden"
    hidden.mkdir(exist_ok=True)
    sources = run.sources
    for number in before:  # they must come from the scan file now
        shutil.move(run.path(number), hidden)
    try:
        path = stack_once(run, late=0.0)
        assert stored(path) == set(range(run.n_frames))
    finally:
        for file in hidden.iterdir():
            shutil.move(file, run.frames)
    assert judge(path, sources, acknowledged=before, over=True) == []
    return durable


def test_frames_are_reported_durable_while_the_sweep_goes_on(traced):
    run, trace = traced
    amounts, durable = set(), 0
    for call, arguments, _ in trace:
        durable = reported(call, arguments, durable, run.n_frames)
        amounts.add(durable)

    assert len(amounts) > 4
    assert max(amounts) == run.n_frames


@pytest.mark.parametrize("part", [0.3, 0.6, 0.9, 1.0])
def test_a_power_cut_takes_nothing_that_was_durable(traced, part):
    run, trace = traced

    survives(run, trace, int(part * len(trace)), None)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
def test_sixty_power_cuts(traced, seed):
    run, trace = traced
    rng, most, failures = random.Random(seed), 0, []
    for n in range(60):
        cut = rng.randrange(len(trace) + 1)
        try:
            most = max(most, survives(run, trace, cut, rng if n % 3 else None))
        except BaseException as error:
            failures.append(f"after {cut} of {len(trace)}: {error!r}")

    print(f"\n60 power cuts, {60 - len(failures)} survived; at most {most} durable")
    assert failures == []


@pytest.mark.parametrize(
    "when", ["after", *(pytest.param(w, marks=pytest.mark.slow) for w in ("before", "at the end"))]
)
def test_a_file_that_is_made_anew_takes_nothing_that_was_durable(stackers, tmp_path, when):
    run = WaitingRun(tmp_path / "run", n_frames=330).whole().torn()
    disk, sources = Disk(run.root), run.sources
    disk.begin_with(run.experiment)
    ended = stackers.run(run.arguments, trace=TRACE)
    assert ended.code == 0, ended.output
    trace = calls(ended.trace)
    (renamed,) = (n for n, call in enumerate(trace) if call[0] == "rename" and ".repair" in call[1])

    named = next(n for n, call in enumerate(trace) if n > renamed and call[0] == "fsync")

    for call in trace[: {"before": renamed, "after": named + 1}.get(when)]:
        disk.do(*call)
    disk.cut(run.experiment)
    hidden = run.root / "hidden"
    hidden.mkdir()
    for number in range(8):  # they must come from the scan file
        shutil.move(run.path(number), hidden)
    path = stack_once(run, late=0.0)

    assert judge(path, {**sources, **{n: hidden / sources[n].name for n in range(8)}},
                 acknowledged=set(range(8)), over=True) == []  # fmt: skip
    assert stored(path) == set(range(run.n_frames))


def traced_program(text: str, log: Path, *arguments: str) -> list[tuple[str, str, int]]:
    """Run a program, and return all that it did to the disk."""
    subprocess.run(
        ["strace", "-f", "-y", "-o", str(log), *TRACE.split(), sys.executable, "-c", text,
         *arguments],
        check=True, stdout=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    return calls(log.read_text(errors="replace"))


DRAFTS = """
import os, sys
from pathlib import Path
from offbragg.files.draft import draft
from offbragg.files.durable import make_directory
make_directory(Path(sys.argv[1]))
for n in range(4):
    with draft(Path(sys.argv[1]) / f"file-{n // 2}") as made:
        made.write(b"content of %d" % n)
        made.place(replace=n % 2 == 1)
    os.write(1, b"placed %d;" % n)
"""


def test_a_file_that_was_placed_is_there_and_whole(tmp_path):
    directory = tmp_path / "files"
    trace = traced_program(DRAFTS, tmp_path / "strace", str(directory))
    first = next(i for i, (call, arguments, _) in enumerate(trace)
                 if call == "mkdir" and str(directory) in arguments)  # fmt: skip
    rng = random.Random(3)

    for cut in range(first, len(trace) + 1):
        for how in (None, *[rng] * 5):
            disk, placed = Disk(tmp_path), []
            for call, arguments, answer in trace[:cut]:
                placed += map(int, re.findall(r'"placed (\d)', arguments))
                disk.do(call, arguments, answer)
            disk.cut(directory, how)
            for name in range(2):
                path, ours = directory / f"file-{name}", [2 * name, 2 * name + 1]
                there = int(path.read_bytes().removeprefix(b"content of ")) if path.exists() else -1
                assert there in (-1, *ours)
                assert there >= max((n for n in placed if n in ours), default=-1)


JOURNAL = """
import json, os, sys
from pathlib import Path
from offbragg.callbacks.journal import Journal
journal = Journal(Path(sys.argv[1]))
for n in range(int(sys.argv[2])):
    uid = f"run-{n}"
    documents = [("start", {"uid": uid, "time": 1.0})]
    documents += [("descriptor", {"uid": f"d-{n}", "run_start": uid, "name": "primary"})]
    documents += [("event", {"descriptor": f"d-{n}", "seq_num": i, "data": {}}) for i in range(5)]
    documents += [("stop", {"run_start": uid, "exit_status": "success"})]
    for name, doc in documents:
        journal(name, doc)
        os.write(1, f"took {name} of {uid};".encode())
"""


def test_of_a_journal_every_start_and_stop_that_was_taken_is_there(tmp_path):
    directory = tmp_path / "beamline" / "journal"
    directory.parent.mkdir()
    trace = traced_program(JOURNAL, tmp_path / "strace", str(directory), "3")
    first = next(i for i, (call, arguments, _) in enumerate(trace)
                 if call == "mkdir" and str(directory) in arguments)  # fmt: skip
    rng = random.Random(3)

    for cut in range(first, len(trace) + 1):
        for how in (None, rng):
            disk, taken = Disk(tmp_path), []
            for call, arguments, answer in trace[:cut]:
                taken += re.findall(r'"took (start|stop) of (run-\d)', arguments)
                disk.do(call, arguments, answer)
            disk.cut(directory, how)
            close_all_abandoned(directory)
            for name, uid in taken:
                documents, _ = read_journal(directory / f"{uid}.jsonl")
                assert documents[0][1]["uid"] == uid
                assert documents[-1][0] == "stop"
                if name == "stop":
                    assert documents[-1][1]["exit_status"] == "success"
