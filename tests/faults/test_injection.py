"""A system call of the stacker, the journal or the scan file's creation fails.

Nothing fails silently, the message names the file, and a new start reaches N of N.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.judge import judge, statuses, stored
from faults.stacking import GROUPS, Ended, Stackers, Sweep, WaitingRun, strace, survey

from offbragg.files.abandoned import close_all_abandoned
from offbragg.files.journal_file import read_journal

pytestmark = strace

ERRORS = {
    "pwrite64": ("EIO", "ENOSPC"),
    "pread64": ("EIO",),
    "readv": ("EIO", "ESTALE"),
    "openat": ("EMFILE", "EACCES"),
    "write": ("ENOSPC",),
    "fsync": ("EIO",),
    "rename": ("ENOSPC", "EACCES"),
    "ftruncate": ("EIO", "ENOSPC"),
    "link": ("EPERM", "ENOSPC"),
    "unlink": ("EACCES",),
    "mkdir": ("ENOSPC", "EACCES"),
}


@pytest.fixture(scope="module")
def stackers(tmp_path_factory) -> Iterator[Stackers]:
    made = Stackers(tmp_path_factory.mktemp("stackers"), quick=True)
    yield made
    made.close()


def failing(stackers: Stackers, root: Path, point: str) -> float:
    """Have a system call fail, once or from the k-th on; gives the time to recover, s."""
    run = WaitingRun(root, n_frames=20).whole()
    ended = stackers.run(run.arguments, inject=[point])
    acknowledged = run.seen()
    if ended.injected:
        _is_reported(run, ended, silent_if_whole=True)
    seconds = run.recovers(stackers, acknowledged, locked=point.startswith("unlink"))
    shutil.rmtree(root)
    return seconds


def _is_reported(run: WaitingRun, ended: Ended, *, silent_if_whole: bool) -> None:
    whole = False
    if files := run.scan_files():
        whole = stored(files[0]) == set(range(run.n_frames)) and not judge(
            files[0], run.sources, values=run.values, over=True
        )
    if whole and ended.code == 0 and silent_if_whole:
        return  # it tried again by itself; not even a warning is owed
    if not ended.output.strip():  # where even stderr cannot be written, the exit code tells
        assert ended.code != 0
        assert "write(2<" in ended.trace or ".out>" in ended.trace
        return
    reported = "WARNING" in ended.output or "ERROR" in ended.output or "offbragg: " in ended.output
    assert reported or "Traceback" in ended.output
    # what cannot be opened may be a module, or the fifo at which our process waits
    ours = ended.code != 0 and ("importlib" in ended.output or ".go'" in ended.output)
    assert ours or str(run.root) in ended.output or ".cbf" in ended.output, ended.output
    if not whole and ended.code == 0:
        words = statuses(run.scan_file())
        assert set(words) <= {"stored", "missing", "rejected"}, words


@pytest.mark.parametrize(
    "point",
    [
        "pwrite64:error=ENOSPC:when=3", "pwrite64:error=EIO:when=24+",
        "fsync:error=EIO:when=2+", "rename:error=EACCES:when=1",
        "link:error=EPERM:when=1+", "openat:error=EMFILE:when=20", "ftruncate:error=EIO:when=1",
        "readv:error=EIO:when=2+", "mkdir:error=ENOSPC:when=2+", "pread64:error=EIO:when=30",
    ],
)  # fmt: skip
def test_a_system_call_fails_and_nothing_is_lost(stackers, tmp_path, point):
    failing(stackers, tmp_path / "run", point)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("call", GROUPS)
def test_each_system_call_fails_once_and_for_good(tmp_path, call):
    sweep = Sweep(tmp_path)
    counts = survey(tmp_path / "dry")
    points = [
        f"{c}:error={error}:when={k}{until}"
        for c in GROUPS[call]
        for k in range(1, counts[c] + 1, max(1, counts[c] // 60))
        for error in ERRORS[c]
        for until in ("", "+")
    ]

    sweep.each(points, failing)

    sweep.tell(f"the k-th {call} fails")


JOURNAL = """
import os, sys
from pathlib import Path
from offbragg.callbacks.journal import Journal
journal = Journal(Path(sys.argv[1]))
documents = [("start", {"uid": "run-0", "time": 1.0})]
documents += [("descriptor", {"uid": "d", "run_start": "run-0", "name": "primary"})]
documents += [("event", {"descriptor": "d", "seq_num": i, "data": {}}) for i in range(3)]
documents += [("stop", {"run_start": "run-0", "exit_status": "success"})]
for name, doc in documents:
    journal(name, doc)
    os.write(1, name.encode() + b"\\n")
"""
JOURNAL_ERRORS = {"write": "ENOSPC", "fsync": "EIO", "link": "EPERM", "openat": "EMFILE",
                  "mkdir": "EACCES", "unlink": "EIO"}  # fmt: skip


def journal_fails(root: Path, point: str) -> subprocess.CompletedProcess[str]:
    """Write a journal while a system call fails; all that was taken must be in it."""
    directory = root / "journal"
    done = subprocess.run(
        ["strace", "-f", "-o", str(root / "strace"), "-s", "0", "-y",
         "-e", f"trace={','.join(JOURNAL_ERRORS)}", *(["-e", f"inject={point}"] if point else []),
         sys.executable, "-B", "-c", JOURNAL, str(directory)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    close_all_abandoned(directory)
    taken = done.stdout.split()
    if taken:
        documents, _ = read_journal(directory / "run-0.jsonl")
        names = [name for name, _ in documents]
        assert names[: len(taken)] == taken
        assert names[-1] == "stop"
    if done.returncode:
        assert "offbragg.errors.JournalError" in done.stderr, done.stderr[-800:]
        assert str(directory) in done.stderr
    else:
        assert taken[-1] == "stop"
    return done


def journal_points(root: Path) -> list[str]:
    """Every system call that the writer of a journal makes in its directory."""
    root.mkdir()
    journal_fails(root, "")
    counts: dict[tuple[str, str], int] = {}  # strace counts for each process
    points = []
    for line in (root / "strace").read_text().splitlines():
        pid, call = line.split("(")[0].split()[0], line.split("(")[0].split()[-1]
        if call not in JOURNAL_ERRORS:
            continue
        counts[pid, call] = counts.get((pid, call), 0) + 1
        if f"{root}/journal" in line or call in ("link", "unlink", "mkdir"):
            points.append(f"{call}:error={JOURNAL_ERRORS[call]}:when={counts[pid, call]}")
    return points


def test_a_journal_that_cannot_be_written_says_so_and_keeps_what_it_took(tmp_path):
    points = journal_points(tmp_path / "dry")
    assert len(points) > 12
    failed = 0
    for n, point in enumerate(points[:: len(points) // 5]):
        (root := tmp_path / f"{n}").mkdir()
        failed += journal_fails(root, point).returncode != 0
    assert failed > 2


@pytest.mark.slow
def test_each_system_call_of_a_journal_fails(tmp_path):
    points = journal_points(tmp_path / "dry")
    failures, refused = [], 0
    for n, point in enumerate(points):
        (root := tmp_path / f"{n}").mkdir()
        try:
            refused += journal_fails(root, point).returncode != 0
        except BaseException as error:
            failures.append(f"{point}: {error!r}"[:1500])
    print(f"\na call of the journal fails: {len(points)} tried, {refused} refused, "
          f"{len(failures)} wrong")  # fmt: skip
    assert failures == []
