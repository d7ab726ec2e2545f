"""The journal keeps every document, tells a live RunEngine from a dead one, and closes up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from event_model import DocumentNames, schema_validators
from faulty_disks import SmallDisk, needs_mount

from offbragg.callbacks.journal import (
    Journal,
    close_abandoned,
    close_all_abandoned,
    journals,
    read_journal,
    read_start,
)
from offbragg.errors import JournalError


@bpp.run_decorator(md={"array": np.arange(3)})
def one_run():
    yield from bps.null()


@pytest.fixture
def run_engine():
    return RunEngine({}, context_managers=[])


def test_every_document_is_in_the_journal_in_its_order(tmp_path, run_engine):
    seen = []
    run_engine.subscribe(Journal(tmp_path))
    run_engine.subscribe(lambda name, doc: seen.append((name, doc["uid"])))

    (uid,) = run_engine(one_run())

    documents, _ = read_journal(tmp_path / f"{uid}.jsonl")
    assert [(name, doc["uid"]) for name, doc in documents] == seen
    assert documents[0][1]["array"] == [0, 1, 2]


def test_the_document_is_on_disk_before_anyone_else_sees_it(tmp_path, run_engine):
    run_engine.subscribe(Journal(tmp_path))
    on_disk = []
    run_engine.subscribe(
        lambda name, doc: on_disk.append(
            doc["uid"] in "".join(path.read_text() for path in journals(tmp_path))
        )
    )

    run_engine(one_run())

    assert on_disk == [True, True]


def test_a_run_whose_journal_cannot_be_written_fails(tmp_path, run_engine):
    journal = Journal(tmp_path / "journal")
    run_engine.subscribe(journal)
    (tmp_path / "journal").rmdir()

    with pytest.raises(JournalError, match="the journal cannot be written"):
        run_engine(one_run())


@needs_mount
def test_a_run_is_refused_while_the_disk_of_its_journal_is_not_mounted(tmp_path):
    with SmallDisk(tmp_path, 1_000_000) as disk, closing(Journal(tmp_path / "journal")) as journal:
        journal("start", {"uid": "before", "time": 0.0})
        journal("stop", {"run_start": "before", "exit_status": "success"})
        with disk.broken("unmounted"):
            (tmp_path / "journal").mkdir()  # somebody did, on the disk below

            with pytest.raises(JournalError, match=f"{tmp_path} is not mounted"):
                journal("start", {"uid": "meanwhile", "time": 0.0})

            assert list((tmp_path / "journal").iterdir()) == []
        journal("start", {"uid": "after", "time": 0.0})
        assert {path.stem for path in journals(tmp_path / "journal")} == {"before", "after"}


def test_a_journal_is_never_replaced(tmp_path):
    start = {"uid": "a-run", "time": 0.0}
    with closing(Journal(tmp_path)) as journal:
        journal("start", start)

    with pytest.raises(JournalError, match="File exists"):
        Journal(tmp_path)("start", start)
    assert [path.name for path in tmp_path.iterdir()] == ["a-run.jsonl"]


def test_a_document_of_no_open_run_is_refused(tmp_path):
    journal = Journal(tmp_path)

    with pytest.raises(JournalError, match="names no run"):
        journal("event", {"uid": "e", "descriptor": "nobody", "data": {}})


def test_half_a_line_is_left_for_later(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text('["start",{"uid":"run"}]\n["descr')

    documents, position = read_journal(path)
    path.write_text(path.read_text() + 'iptor",{"uid":"d"}]\n')
    more, _ = read_journal(path, position)

    assert [name for name, _ in documents] == ["start"]
    assert more == [("descriptor", {"uid": "d"})]


def test_an_open_run_is_not_abandoned(tmp_path):
    with closing(Journal(tmp_path)) as journal:
        journal("start", {"uid": "run", "time": 0.0})

        assert close_all_abandoned(tmp_path) == []
        assert read_start(tmp_path / "run.jsonl")["uid"] == "run"


def test_the_run_of_a_killed_run_engine_is_closed_as_failed_once(tmp_path):
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from offbragg.callbacks.journal import Journal
        journal = Journal(Path(sys.argv[1]))
        journal("start", {"uid": "run", "time": time.time()})
        journal("descriptor", {"uid": "d", "run_start": "run", "name": "primary"})
        journal("event", {"uid": "e", "descriptor": "d", "seq_num": 1, "data": {}})
        print("ready", flush=True)
        time.sleep(60)
        """
    )
    run_engine = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
    )
    with run_engine:
        assert run_engine.stdout is not None
        assert run_engine.stdout.readline() == b"ready\n"
        path = tmp_path / "run.jsonl"
        assert not close_abandoned(path)
        os.kill(run_engine.pid, signal.SIGKILL)
        run_engine.wait()
    with path.open("ab") as journal:
        journal.write(b'["event",{"uid":"torn')

    closed = [close_abandoned(path), close_abandoned(path)]

    documents, _ = read_journal(path)
    name, stop = documents[-1]
    assert closed == [True, False]
    assert [name for name, _ in documents] == ["start", "descriptor", "event", "stop"]
    assert name == "stop"
    assert stop["exit_status"] == "fail"
    assert stop["num_events"] == {"primary": 1}
    schema_validators[DocumentNames.stop].validate(stop)


def test_a_failed_write_leaves_no_half_line(tmp_path):
    descriptor = {"uid": "d", "name": "x" * 10_000}

    said = _with_file_size_limit(tmp_path, 100, descriptor)

    assert said == "JournalError"
    assert json.loads((tmp_path / "other.jsonl").read_text())[0] == "start"


def _with_file_size_limit(directory: Path, limit: int, descriptor: dict) -> str:
    program = textwrap.dedent(
        f"""
        import resource, signal, sys
        from pathlib import Path
        from offbragg.callbacks.journal import Journal
        from offbragg.errors import JournalError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        journal = Journal(Path(sys.argv[1]))
        journal("start", {{"uid": "other", "time": 0.0}})
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            journal("descriptor", {descriptor!r} | {{"run_start": "other"}})
        except JournalError:
            print("JournalError")
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
