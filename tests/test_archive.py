"""Journals of ended runs in an archive: nothing is lost, and everybody reads them as before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from runs import MeasuredRun, wait_until
from typer.testing import CliRunner

from offbragg.callbacks.past_runs import PastRuns
from offbragg.cli.app import app
from offbragg.errors import JournalError
from offbragg.export.gather import find_runs
from offbragg.files import journal_archive
from offbragg.files.abandoned import close_all_abandoned
from offbragg.files.journal_archive import archived_journals, archiving, is_archived, month_of, pack
from offbragg.files.journal_file import is_open, open_journal, read_ended, read_journal, read_start
from offbragg.files.journal_folder import JournalFolder, all_journals, find_run, journals
from offbragg.files.journal_line import encode_line
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from offbragg.recovery.archive import archive
from offbragg.recovery.verify import all_scan_files, scan_file_of_run, verify

transfer = pytest.importorskip("offbragg.transfer.arriving_journal")


def measure(root: Path, *, began: float = 1.7e9, scan_id: int = 1) -> MeasuredRun:
    """Measure and stack one sweep of five frames."""
    run = MeasuredRun(root, n_frames=5, began=began, scan_id=scan_id)
    run.begin()
    run.write(*range(5))
    run.announce(5)
    run.monitor_counted(list(range(5)))
    run.end()
    run.journal.close()
    return run


@pytest.fixture
def runs(tmp_path) -> list[MeasuredRun]:
    """Two sweeps of November 2023, and one of December."""
    measured = [
        measure(tmp_path, began=began, scan_id=n + 1)
        for n, began in enumerate((1.7e9, 1.7e9 + 3600, 1.7e9 + 30 * 86400))
    ]
    failed = follow(tmp_path / "journal", [Stacker(tmp_path / "experiment")], once=True)
    assert failed == {"stack": []}
    return measured


def packed(root: Path, **options: object) -> list[str]:
    done = archive(root / "journal", root / "experiment", **{"older": 0.0, **options})
    assert done.left == {}
    return done.runs


def test_everybody_reads_what_is_in_an_archive(tmp_path, runs):
    journal, experiment = tmp_path / "journal", tmp_path / "experiment"
    paths = [journal / f"{run.uid}.jsonl" for run in runs]
    texts = [path.read_bytes() for path in paths]
    documents = [read_ended(path) for path in paths]

    assert packed(tmp_path) == [run.uid for run in runs]

    assert journals(journal) == []
    assert set(archived_journals(journal)) == set(all_journals(journal)) == set(paths)
    assert sorted(path.name for path in (journal / "archive").glob("*.zip")) == [
        "2023-11.zip", "2023-12.zip",
    ]  # fmt: skip
    with zipfile.ZipFile(journal / "archive" / "2023-11.zip") as other:  # any program reads it
        assert [other.read(paths[n].name) for n in (0, 1)] == texts[:2]
    assert [read_ended(path) for path in paths] == documents
    assert [read_start(path) for path in paths] == [run.start for run in runs]
    assert find_run(journal, "#2") == find_run(journal, "-2") == paths[1]
    assert find_runs(journal, "a-series") == ("a-series", paths)
    assert not is_open(paths[0])
    for run in runs:
        scan = scan_file_of_run(run.uid[:8], journal=journal, experiment=experiment)
        assert verify(scan, journal=journal).problems == []
    assert len(all_scan_files(journal, experiment)) == 3
    past = PastRuns(journal, experiment).runs(series="a-series")
    assert {each["documents"][0][1]["uid"] for each in past} == {run.uid for run in runs}
    with open_journal(paths[0]) as text:
        text.seek(len(texts[0]) - 10)
        assert text.read() == texts[0][-10:]
    assert transfer.ArrivingJournal(journal, runs[0].uid).ended
    assert close_all_abandoned(journal).runs == ()


def test_what_is_archived_is_not_followed_and_is_rebuilt(tmp_path, runs):
    packed(tmp_path)
    shutil.rmtree(tmp_path / "experiment")
    journal, stacker = tmp_path / "journal", [Stacker(tmp_path / "experiment")]

    assert follow(journal, stacker, once=True) == {"stack": []}
    left_alone = list((tmp_path / "experiment").rglob("f*.h5"))
    follow(journal, stacker, once=True, archived=archived_journals(journal))

    assert left_alone == []
    assert len(all_scan_files(journal, tmp_path / "experiment")) == 3


def test_an_archive_grows_by_later_runs(tmp_path, runs):
    done = archive(
        tmp_path / "journal", tmp_path / "experiment", older=0.0,
        unpublished=lambda uids: [runs[2].uid],
    )  # fmt: skip
    first = done.runs
    again = measure(tmp_path, began=1.7e9 + 7200)
    follow(tmp_path / "journal", [Stacker(tmp_path / "experiment")], once=True)
    second = packed(tmp_path)

    assert (first, set(second)) == ([run.uid for run in runs[:2]], {runs[2].uid, again.uid})
    assert len(archived_journals(tmp_path / "journal")) == 4
    for run in (*runs, again):
        assert read_start(tmp_path / "journal" / f"{run.uid}.jsonl") == run.start


@pytest.mark.parametrize(
    "case", ["open", "new", "written", "unpublished", "torn", "scan file", "unstacked"]
)
def test_a_run_that_is_not_done_with_keeps_its_journal(tmp_path, runs, case):
    path = tmp_path / "journal" / f"{runs[0].uid}.jsonl"
    scan = scan_file_of_run(runs[0].uid, journal=path.parent, experiment=tmp_path / "experiment")
    options = {}
    if case == "open":
        held = path.open("rb")
        journal_archive.lock(held)
    elif case == "new":
        options = {"clock": lambda: 1.7e9 + 86400, "older": 86400}
    elif case == "written":  # restored a minute ago
        for each in path.parent.glob("*.jsonl"):
            os.utime(each, (1.7e9, 1.7e9))
        os.utime(path, (1.71e9, 1.71e9))
        options = {"clock": lambda: 1.71e9 + 60, "older": 86400}
    elif case == "unpublished":
        options = {"unpublished": lambda uids: [runs[0].uid]}
    elif case == "torn":
        path.write_bytes(path.read_bytes().replace(b"1004", b"1005"))
    elif case == "scan file":
        text = bytearray(scan.read_bytes())
        text[len(text) // 2] ^= 1
        scan.write_bytes(text)
    else:
        scan.unlink()

    done = archive(path.parent, tmp_path / "experiment", **{"older": 0.0, **options})

    assert path.exists()
    assert runs[0].uid not in done.runs
    reason = {
        "unpublished": "it is not in the catalog", "torn": "its journal is damaged",
        "scan file": "f1.h5: ", "unstacked": "it has no scan file",
    }.get(case)  # fmt: skip
    left = done.left.get(runs[0].uid)
    assert left is None if reason is None else left.startswith(reason)
    if case == "open":
        held.close()


def test_a_run_that_lacks_a_frame_keeps_its_journal(tmp_path):
    run = MeasuredRun(tmp_path, n_frames=5, began=1.7e9).begin()
    run.write(0, 1, 2, 4)
    run.announce(5)
    run.monitor_counted(list(range(5)))
    run.end()
    run.journal.close()
    experiment = tmp_path / "experiment"
    follow(tmp_path / "journal", [Stacker(experiment, late=0.1)], once=True)

    done = archive(tmp_path / "journal", experiment, older=0.0)

    assert done.left == {run.uid: "f1.h5: frames are missing (1): their files may still come"}


def test_a_sweep_that_ended_early_is_archived(tmp_path):
    run = MeasuredRun(tmp_path, n_frames=5, began=1.7e9).begin()
    run.write(0, 1)
    run.announce(2)
    run.monitor_counted([0, 1])
    run.end("abort")
    run.journal.close()
    experiment = tmp_path / "experiment"
    follow(tmp_path / "journal", [Stacker(experiment, late=0.1)], once=True)

    done = archive(tmp_path / "journal", experiment, older=0.0)

    assert (done.runs, done.left) == ([run.uid], {})


def test_a_journal_that_is_in_an_archive_with_other_lines_is_kept(tmp_path, runs):
    path = tmp_path / "journal" / f"{runs[0].uid}.jsonl"
    text = path.read_bytes()
    packed(tmp_path)
    stop = encode_line("stop", {"exit_status": "abort", "time": 1.7e9})
    other = b"".join([*text.splitlines(keepends=True)[:-1], stop])
    path.write_bytes(other)
    new = path.with_name("new.jsonl")
    new.write_bytes(text)
    os.utime(new, (0, 0))  # before ZIP files begin

    with archiving(path.parent):
        _, others = pack(path.parent, month_of(1.7e9), {path: other, new: text})

    assert others == {path}
    assert path.read_bytes() == other
    assert all_journals(path.parent).count(path) == 1
    assert is_archived(new)
    assert not new.exists()


def test_a_damaged_archive_is_not_replaced_by_its_copy(tmp_path):
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    one.write_bytes(os.urandom(1000))
    other.write_bytes(b"a line\n")
    with archiving(tmp_path):
        made, _ = pack(tmp_path, "2026-11", {one: one.read_bytes()})
        text = bytearray(made.read_bytes())
        text[500] ^= 0xFF
        made.write_bytes(text)

        with pytest.raises(JournalError, match=r"2026-11\.zip is damaged, or was not copied right"):
            pack(tmp_path, "2026-11", {other: other.read_bytes()})

    assert made.read_bytes() == text
    assert other.exists()


def test_a_damaged_archive_is_named(tmp_path, runs):
    packed(tmp_path)
    one = min((tmp_path / "journal" / "archive").glob("*.zip"))
    text = bytearray(one.read_bytes())
    text[200] ^= 0xFF  # in the journal that is its first
    one.write_bytes(text)

    with pytest.raises(JournalError, match=r"the archive 2023-11\.zip is damaged"):
        read_journal(tmp_path / "journal" / f"{runs[0].uid}.jsonl")


def test_a_damaged_archive_is_logged_once_and_the_others_are_read(tmp_path, runs, caplog):
    packed(tmp_path)
    journal = tmp_path / "journal"
    (journal / "archive" / "2022-01.zip").write_bytes(b"half-copied")

    all_journals(journal)
    found = all_journals(journal)

    assert {path.stem for path in found} == {run.uid for run in runs}
    assert is_archived(found[0])
    assert caplog.text.count("2022-01.zip is damaged") == 1
    with pytest.raises(JournalError, match=r"cannot tell whether .* is archived: .*2022-01\.zip"):
        is_archived(journal / "new.jsonl")


KILLED = """
import os, sys
from pathlib import Path
from offbragg.files import journal_archive as module
journal, moment = Path(sys.argv[1]), int(sys.argv[2])
left = moment
def step(*_):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
def hooked(event, arguments):
    if event in ("os.rename", "os.remove", "open", "shutil.copyfile"):
        if "archive" in str(arguments[0]) or str(arguments[0]).endswith(".jsonl"):
            step()
sys.addaudithook(hooked)
from offbragg.recovery.archive import archive
archive(journal, journal.parent / "experiment", older=0.0)
print(left)
"""


@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_moment_no_journal_is_lost(tmp_path, runs, step):
    texts = {path.name: path.read_bytes() for path in journals(tmp_path / "journal")}
    first = next(iter(texts))
    ended, moment = False, 0
    while not ended and moment < 400:
        folder = tmp_path / "again" / "journal"
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(tmp_path / "journal", folder)
        with archiving(folder):  # one that is there and grows
            pack(folder, "2023-11", {folder / first: texts[first]})
        shutil.copytree(tmp_path / "experiment", folder.parent / "experiment")

        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(folder), str(moment)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

        ended = done.returncode == 0
        assert ended or done.returncode == -signal.SIGKILL, done.stderr
        found = {path.name: read_all(path) for path in all_journals(folder)}
        assert found == texts, moment
        moment += step
    assert ended
    assert moment > 12


def read_all(path: Path) -> bytes:
    with open_journal(path) as text:
        return text.read()


def test_the_command_packs_and_says_what_stays(tmp_path, runs):
    file = tmp_path / "beamline.toml"
    file.write_text(
        'beamline_id = "test"\n[catalog]\nport = 1\n[paths]\n'
        + "".join(f'{n} = "{n}"\n' for n in ("experiment", "frames", "journal", "catalog", "log"))
    )
    typed = ["archive", "--beamline", str(file), "--json"]

    young = CliRunner().invoke(app, [*typed, "--no-catalog", "--older", "90000"])
    away = CliRunner().invoke(app, typed)
    done = CliRunner().invoke(app, [*typed, "--no-catalog", "--older", "0"])

    assert json.loads(young.stdout)["runs"] == []
    assert "the catalog's key cannot be read" in str(away.exception)
    assert set(json.loads(done.stdout)["runs"]) == {run.uid for run in runs}
    assert done.exit_code == 0


def test_a_folder_of_journals_is_listed_only_if_it_may_have_changed(tmp_path, monkeypatch):
    now, listed = [0.0], []
    folder = JournalFolder(tmp_path, clock=lambda: now[0])
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or scandir(path))

    assert folder.look() == ([], [])
    (tmp_path / "a.jsonl").touch()
    os.utime(tmp_path, ns=(1, 1))
    assert folder.look() == ([tmp_path / "a.jsonl"], [])
    for _ in range(10):
        assert folder.look() == ([], [])
    assert len(listed) == 2
    (tmp_path / "a.jsonl").rename(tmp_path / "b.jsonl")
    os.utime(tmp_path, ns=(1, 1))  # within one tick of the clock
    assert folder.look() == ([], [])
    now[0] = 1.0
    assert folder.look() == ([tmp_path / "b.jsonl"], [tmp_path / "a.jsonl"])


class Done:
    """A follower that has finished every run already."""

    name = "done"

    def __init__(self) -> None:
        self.asked = 0

    def done(self, start: object) -> bool:
        self.asked += 1
        return True


def test_runs_that_are_finished_hold_next_to_nothing(tmp_path, monkeypatch):
    import threading

    from offbragg.followers.followed_run import FollowedRun

    n = 200
    (tmp_path / "journal").mkdir()
    start = MeasuredRun(tmp_path).start
    for number in range(n):
        uid = f"run-{number}"
        lines = (
            encode_line("start", {**start, "uid": uid}),
            encode_line("stop", {"exit_status": "success", "time": 1.7e9}),
        )
        (tmp_path / "journal" / f"{uid}.jsonl").write_bytes(b"".join(lines))
    looks: list[object] = []
    has_more = FollowedRun.has_more
    monkeypatch.setattr(
        FollowedRun, "has_more", lambda run, **o: looks.append(run) or has_more(run, **o)
    )
    follower, stop = Done(), threading.Event()
    thread = threading.Thread(
        target=follow, args=(tmp_path / "journal", [follower]), kwargs={"stop": stop}
    )
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    thread.start()
    wait_until(lambda: follower.asked == n, 60, "all runs are looked at")
    stop.wait(0.5)  # some looks more
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    stop.set()
    thread.join()

    assert held / n < 3000  # bytes; a start document alone takes 12 000
    assert looks == []
