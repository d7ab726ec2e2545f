"""A damaged or lost scan file comes back with the same content, and nothing is thrown away."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  registers the filter
import numpy as np
import pytest
from runs import MeasuredRun, counts_of

from offbragg.files import ScanFile, find_scan_file
from offbragg.files.digest import digest_path
from offbragg.files.scan_folders import scan_directory
from offbragg.followers.follow import follow, following
from offbragg.followers.stacker import Stacker
from offbragg.recovery.repair import repair
from offbragg.recovery.verify import verify

N = 6


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Let a follower notice soon that nothing is left to do."""
    monkeypatch.setattr("offbragg.followers.follow._LOOK_FOR_ABANDONED", 0.05)


@pytest.fixture
def measured(tmp_path) -> tuple[MeasuredRun, Path]:
    """A finished sweep of six frames, of which frame 4 never came."""
    run = MeasuredRun(tmp_path, n_frames=N)
    run.begin()
    run.write(*(n for n in range(N) if n != 4))
    run.monitor_counted(list(range(N)))
    run.announce(N)
    run.end()
    run.journal.close()
    stack(run)
    path = find_scan_file(scan_directory(run.experiment, run.start), run.uid)
    assert path is not None
    return run, path


def stack(run: MeasuredRun) -> None:
    assert follow(run.journal_directory, [Stacker(run.experiment, late=0.0)], once=True) == {
        "stack": []
    }


def mend(run: MeasuredRun) -> list[Any]:
    """What ``stack --once --repair`` does."""
    followers = [Stacker(run.experiment, late=0.0)]
    with following(run.journal_directory) as lock:
        found = repair(run.journal_directory, run.experiment)
        failed = follow(run.journal_directory, followers, once=True, held=lock)
    assert failed == {"stack": []}
    return found


def content(path: Path) -> dict[str, Any]:
    """Everything in a file: fields, attributes, types."""
    found: dict[str, Any] = {}

    def look(name: str, item: Any) -> None:
        found[name] = {key: np.asarray(value).tolist() for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            found[f"{name}="] = (str(item.dtype), item.shape, item[()].tobytes())

    with h5py.File(path) as file:
        look("/", file)
        file.visititems(look)
    return found


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


def damage(path: Path, place: int, flip: int = 0xFF) -> bytes:
    raw = bytearray(path.read_bytes())
    raw[place] ^= flip
    path.write_bytes(raw)
    return bytes(raw)


def chunk_of(path: Path, number: int) -> int:
    with h5py.File(path) as file:
        return file["entry/data/data"].id.get_chunk_info_by_coord((number, 0, 0)).byte_offset


def column(path: Path, name: str) -> int:
    with h5py.File(path) as file:
        return file[f"entry/frames/{name}"].id.get_offset()


PLACES = {
    "a chunk": lambda path: chunk_of(path, 2) + 500,
    "the superblock": lambda path: 20,
    "a column": lambda path: column(path, "angle") + 3,
    "the ledger": lambda path: column(path, "status") + 8 * 3 + 1,
    "a checksum": lambda path: column(path, "crc64") + 16 * 3 + 1,
    "the root": lambda path: 60,
}


FEW = ("the superblock", "the ledger", "a chunk")  # the others: -m slow


@pytest.mark.parametrize(
    "where",
    [pytest.param(where, marks=() if where in FEW else pytest.mark.slow) for where in PLACES],
)
def test_a_damaged_file_is_rebuilt_with_the_same_content(measured, where):
    run, path = measured
    before = content(path)
    wrong = damage(path, PLACES[where](path))

    (one,) = mend(run)

    assert one.error == ""
    assert_same(content(path), before)
    assert one.lost == []
    assert (path.parent / "f1.h5.damaged-1").read_bytes() == wrong
    assert (path.parent / "f1.h5.damaged-1.digest").exists()
    assert verify(path, journal=run.journal_directory).ok
    assert mend(run) == []
    names = {"f1.h5", "f1.h5.digest", "f1.h5.damaged-1", "f1.h5.damaged-1.digest"}
    assert {p.name for p in path.parent.iterdir()} == names


@pytest.mark.parametrize("where", ["a chunk", "a column", "the ledger", "a checksum"])
def test_without_the_frame_files_every_intact_frame_is_kept(measured, where):
    run, path = measured
    before = content(path)
    shutil.rmtree(run.frames)
    damage(path, PLACES[where](path))

    (one,) = mend(run)

    lost = {"a chunk": [2], "a checksum": [3]}.get(where, [])
    assert one.lost == lost
    assert one.copied == N - 1 - len(lost)
    with ScanFile.open(path) as scan:
        for number in set(range(N)) - {4, *lost}:
            np.testing.assert_array_equal(scan.stack.counts[number], counts_of(number))
        for number in lost:
            assert np.all(scan.stack.counts[number] == -1)
            reason = scan.ledger.reasons[number]
            assert reason == f"was stored, was damaged, and x_{number:05d}.cbf was not there"
    if not lost:
        assert_same(content(path), before)


def test_what_cannot_be_rebuilt_is_left_as_it_is(measured):
    run, path = measured
    shutil.rmtree(run.frames)
    wrong = damage(path, 20)

    (one,) = repair(run.journal_directory, run.experiment)

    assert "none of its frames is intact" in one.error
    assert path.read_bytes() == wrong
    assert {p.name for p in path.parent.iterdir()} == {"f1.h5", "f1.h5.digest"}


def test_a_file_that_is_gone_is_rebuilt_where_it_was(measured, tmp_path):
    run, path = measured
    before = content(path)
    other = MeasuredRun(tmp_path, n_frames=2, temperature=90.0, uid="later", began=run.began + 60)
    again = MeasuredRun(tmp_path, n_frames=2, uid="again", began=run.began + 120)
    for later in (other, again):
        later.begin()
        later.write(0, 1)
        later.announce(2)
        later.end()
        later.journal.close()
        stack(later)
    assert find_scan_file(path.parent.parent / "120K_2", "again")
    path.unlink()
    digest_path(path).unlink()

    assert mend(run) == []

    assert_same(content(path), before)


def test_a_damaged_digest_is_rebuilt_and_kept(measured):
    run, path = measured
    before = path.read_bytes()
    damage(digest_path(path), 20, 1)

    (one,) = mend(run)

    assert path.read_bytes() == before
    assert one.kept == "f1.h5.digest.damaged-1"
    assert verify(path).digest == "agrees"


def test_a_file_that_is_not_known_is_left(measured):
    run, path = measured
    stranger = path.with_name("f2.h5")
    stranger.write_bytes(b"mine")

    (one,) = mend(run)

    assert one.error.startswith("cannot tell which run")
    assert stranger.read_bytes() == b"mine"


KILLED = """
import os, signal, sys
from pathlib import Path
from offbragg.recovery import repair as module
from offbragg.files import digest, scan_writer
left = int(sys.argv[1])
def counted(function):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call
for owner, name in (
    (os, "link"), (os, "fsync"), (Path, "unlink"), (Path, "replace"), (Path, "rename"),
    (scan_writer.ScanWriter, "write_frames"), (scan_writer.ScanWriter, "finish"),
):
    setattr(owner, name, counted(getattr(owner, name)))
module.repair(Path(sys.argv[2]), Path(sys.argv[3]))
print("done", left)
"""


def killed_at(run: MeasuredRun, moment: int) -> bool:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(moment), run.journal_directory, run.experiment],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if done.returncode == -signal.SIGKILL:
        return True
    assert done.returncode == 0, done.stderr
    return False


def kill_everywhere(run: MeasuredRun, path: Path, moments: list[int]) -> int:
    before, keep = content(path), path.parent.with_name("whole")
    shutil.copytree(path.parent, keep)
    place, killed = chunk_of(path, 2) + 500, 0
    for moment in moments:
        shutil.rmtree(path.parent)
        shutil.copytree(keep, path.parent)
        wrong = damage(path, place)
        if not killed_at(run, moment):
            break
        killed += 1
        # one name at least holds the damaged file, and the file's own holds it or the new one
        kept = path.with_name("f1.h5.damaged-1")
        assert wrong in [each.read_bytes() for each in (path, kept) if each.exists()], moment
        assert path.exists(), moment

        mend(run)

        assert_same(content(path), before)
        assert kept.read_bytes() == wrong, moment
        assert verify(path).ok, moment
        assert not [p.name for p in path.parent.iterdir() if "repair" in p.name], moment
        assert not path.with_name("f1.h5.damaged-2").exists(), moment
    return killed


def test_killed_in_the_middle_the_next_one_makes_it_whole(measured):
    run, path = measured

    assert kill_everywhere(run, path, [9, 26]) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_every_step_the_next_one_makes_it_whole(measured):
    run, path = measured

    assert kill_everywhere(run, path, list(range(200))) > 20


def test_a_file_that_another_process_writes_is_left(measured):
    run, path = measured
    wrong = damage(path, chunk_of(path, 2) + 500)
    script = (
        "import sys; from pathlib import Path; from offbragg.files.writer_lock import hold\n"
        "with hold(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        (one,) = repair(run.journal_directory, run.experiment)
        holder.stdin.close()

    assert "is being written by another process" in one.error
    assert path.read_bytes() == wrong


@pytest.mark.parametrize("line", ["descriptor", "stream_resource"])
def test_a_run_whose_journal_has_a_damaged_line_keeps_all_its_frames(tmp_path, line):
    """Nothing but frames needs to be there: they are found in the run's folder."""
    run = MeasuredRun(tmp_path, n_frames=N)
    run.begin()
    run.write(*range(N))
    run.monitor_counted(list(range(N)))
    run.announce(N)
    run.end()
    journal = run.journal_directory / f"{run.uid}.jsonl"
    before = journal.read_bytes()
    place = before.index(f'["{line}"'.encode()) + 20
    journal.write_bytes(before[:place] + b"\0" + before[place + 1 :])
    damaged = journal.read_bytes()
    stacker = Stacker(run.experiment, late=0.0, frames=run.frames.parent)
    failed = follow(run.journal_directory, [stacker], once=True)
    assert failed == {"stack": [run.uid]}
    followers = [Stacker(run.experiment, late=0.0, frames=run.frames.parent)]

    with following(run.journal_directory) as lock:
        found = repair(run.journal_directory, run.experiment)
        failed = follow(run.journal_directory, followers, once=True, held=lock)

    assert failed == {"stack": []}
    (mended,) = found
    assert "rebuilt with" in mended.done
    assert journal.with_name(mended.kept).read_bytes() == damaged
    path = find_scan_file(scan_directory(run.experiment, run.start), run.uid)
    assert path is not None
    verdict = verify(path, journal=run.journal_directory, frames=run.frames.parent)
    assert verdict.problems == []
    assert verdict.frames["stored"] == N


def test_a_damaged_start_document_comes_back_from_the_scan_file(measured):
    run, path = measured
    journal = run.journal_directory / f"{run.uid}.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"LSMO-140", b"LSMO-141", 1))

    (mended,) = mend(run)

    assert mended.found == ["line 1: it does not have the checksum with which it was written"]
    assert verify(path, journal=run.journal_directory).problems == []


def test_a_journal_of_which_nothing_is_left_is_moved(measured):
    run, _ = measured
    (run.journal_directory / "empty.jsonl").write_text("")

    (mended,) = mend(run)

    assert "it has no start document (it is empty) and no scan file: kept as" in mended.error
    assert (run.journal_directory / "empty.jsonl.damaged-1").exists()
    assert mend(run) == []
