"""The journal keeps every document, tells a live RunEngine from a dead one, and closes up."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky import plan_stubs as bps
from bluesky import preprocessors as bpp
from event_model import DocumentNames, schema_validators
from faulty_disks import SmallDisk, needs_mount

from offbragg.callbacks.journal import Journal
from offbragg.callbacks.past_runs import PastRuns
from offbragg.errors import JournalError
from offbragg.files.abandoned import close_abandoned, close_all_abandoned
from offbragg.files.journal_file import (
    examine_journal,
    read_journal,
    read_start,
)
from offbragg.files.journal_folder import find_run, journals
from offbragg.files.journal_line import LineError, decode_line, encode_line
from offbragg.recovery.journal_mend import mend_journal


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
        journal("event", {"uid": "e", "descriptor": "unknown", "data": {}})


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

        assert not close_all_abandoned(tmp_path).runs
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

    printed = _with_file_size_limit(tmp_path, 100, descriptor)

    assert printed == "JournalError"
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


# ---- the stop document ends a run -------------------------------------------------------------


def begin(journal: Journal, uid: str = "run") -> None:
    journal("start", {"uid": uid, "time": 0.0})
    journal("descriptor", {"uid": f"{uid}-d", "run_start": uid, "name": "primary"})


def event(uid: str = "run", number: int = 1) -> dict:
    return {"uid": f"{uid}-{number}", "descriptor": f"{uid}-d", "seq_num": number, "time": 1.0,
            "data": {"ring": float(number)}, "timestamps": {"ring": 1.0}}  # fmt: skip


def stop(uid: str = "run", exit_status: str = "success") -> dict:
    return {"uid": f"{uid}-stop", "run_start": uid, "time": 2.0, "exit_status": exit_status}


def test_what_comes_after_the_stop_document_is_left_out(tmp_path, caplog):
    journal = Journal(tmp_path)
    begin(journal)
    journal("stop", stop())

    journal("event", event())  # of a monitored signal, from a thread of its own
    journal("stop", stop(exit_status="fail"))  # somebody else failed at the first one

    assert [name for name, _ in read_journal(tmp_path / "run.jsonl")[0]] == [
        "start", "descriptor", "stop",
    ]  # fmt: skip
    assert not close_abandoned(tmp_path / "run.jsonl")
    assert "event document of run run came after its stop document" in caplog.text


def test_events_of_many_threads_beside_the_stop_document_damage_nothing(tmp_path):
    for attempt in range(5):
        uid = f"run-{attempt}"
        journal = Journal(tmp_path)
        begin(journal, uid)

        def post(first: int, journal=journal, uid=uid) -> None:
            for number in range(first, first + 200):
                journal("event", event(uid, number))

        posting = [threading.Thread(target=post, args=(1000 * n,)) for n in range(4)]
        for thread in posting:
            thread.start()
        journal("stop", stop(uid))
        for thread in posting:
            thread.join()

        found = examine_journal(tmp_path / f"{uid}.jsonl")
        assert (found.bad, found.after, found.last) == ([], 0, b"")
        assert found.stop is not None


def test_a_stop_document_anywhere_ends_a_journal(tmp_path):
    """As an older session wrote it: the event of a monitored signal came after the stop."""
    path = tmp_path / "run.jsonl"
    old = [["start", {"uid": "run", "time": 0.0}],
           ["descriptor", {"uid": "run-d", "run_start": "run", "name": "primary"}],
           ["stop", stop()], ["event", event()]]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    before = path.read_bytes()

    assert not close_all_abandoned(tmp_path).runs
    assert path.read_bytes() == before
    documents, _ = read_journal(path)
    assert documents[-1] == ("stop", stop())


# ---- damage -----------------------------------------------------------------------------------


def test_each_changed_byte_of_a_journal_is_seen_and_named(tmp_path):
    journal = Journal(tmp_path)
    begin(journal)
    for number in range(3):
        journal("event", event(number=number))
    journal("stop", stop())
    path = tmp_path / "run.jsonl"
    whole = path.read_bytes()
    changes = random.Random(15)

    for position in range(len(whole)):
        change = changes.choice([byte for byte in range(256) if byte != whole[position]])
        path.write_bytes(whole[:position] + bytes([change]) + whole[position + 1 :])
        found = examine_journal(path)
        with contextlib.suppress(JournalError):
            close_abandoned(path)

        # a space that becomes the end of a line leaves a line of an older kind
        assert found.bad or found.unchecked, position
        assert path.read_bytes() == whole[:position] + bytes([change]) + whole[position + 1 :]


def test_lines_are_json_and_those_of_older_journals_are_read():
    doc = {"uid": "x", "time": 1.5, "array": np.arange(2), "name": "μ"}

    line = encode_line("start", doc).removesuffix(b"\n")

    plain = {**doc, "array": [0, 1]}
    assert json.loads(line) == ["start", plain]
    assert decode_line(line) == decode_line(json.dumps(["start", plain]).encode())


BAD = {
    "empty": b"",
    "start of no run": b'["start",5]\n',
    "an event first": b'["event",7]\n',
    "no descriptor": b'["start",{"uid":"bad","time":1}]\n["event",{"descriptor":"d","data":{}}]\n',
    "deep": b'["start",{"uid":"bad"}]\n' + b"[" * 100_000 + b"\n",
    "deep start": b'["start",' + b'{"a":' * 100_000 + b"\n",
    "words": b'["start",{"uid":"bad","time":"now"}]\n',
    "a copy": b'["start",{"uid":"other","time":1}]\n',
    "no text": b"\xff\xfe\n\x00\n",
    "two starts": b'["start",{"uid":"bad","time":1}]\n' * 2,
    "an unknown kind": b'["start",{"uid":"bad","time":1}]\n["x",{}]\n',
    "half a datum": b'["start",{"uid":"bad","time":1}]\n["stream_datum",{"indices":7}]\n',
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_a_damaged_journal_is_named_and_the_others_go_on(tmp_path, caplog, content):
    (tmp_path / "bad.jsonl").write_bytes(content)
    journal = Journal(tmp_path)
    begin(journal)
    journal.close()

    first = close_all_abandoned(tmp_path)
    second = close_all_abandoned(tmp_path, first)

    assert first.runs == ("run",)
    assert (second.runs, second.ended, second.failures) == ((), first.ended, first.failures)
    assert caplog.text.count("journal bad.jsonl") == 1
    assert list(first.failures) == [tmp_path / "bad.jsonl"]
    assert (tmp_path / "bad.jsonl").read_bytes() == content
    newest = "bad" if content.startswith(b'["start",{"uid":"bad","time":1}') else "run"
    assert find_run(tmp_path).stem == newest
    with pytest.raises(JournalError, match=r"skipped(.|\n)*offbragg stack --once --repair"):
        read_journal(tmp_path / "bad.jsonl")
    assert PastRuns(tmp_path, tmp_path).runs(series="a-series") == []


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_a_damaged_journal_is_rebuilt_or_moved_and_kept(tmp_path, content):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)

    mended = mend_journal(path)

    assert mended.kept == tmp_path / "bad.jsonl.damaged-1"
    assert mended.kept.read_bytes() == content
    if mended.documents:
        documents, _ = read_journal(path)
        assert len(documents) == mended.documents
        assert [documents[0][0], documents[-1][0]] == ["start", "stop"]
        assert documents[-1][1]["exit_status"] == "fail"
    else:
        assert journals(tmp_path) == []
    assert mend_journal(path).kept is None if path.exists() else True


def test_a_start_document_is_taken_from_the_scan_file(tmp_path):
    journal = Journal(tmp_path)
    begin(journal)
    journal("stop", stop())
    path = tmp_path / "run.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"time":0.0', b'"time":9.0', 1))

    mended = mend_journal(path, start={"uid": "run", "time": 0.0}, exit_status="success")

    documents, _ = read_journal(path)
    assert mended.found == ["line 1: it does not have the checksum with which it was written"]
    assert documents[0] == ("start", {"uid": "run", "time": 0.0})
    assert documents[-1] == ("stop", stop())


@pytest.mark.parametrize("cut", [1, 2, 20, 40, 60])
def test_a_line_that_a_kill_tore_is_completed_or_left_out(tmp_path, cut):
    journal = Journal(tmp_path)
    begin(journal)
    journal("event", event())
    journal.close()
    path = tmp_path / "run.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])

    assert close_abandoned(path)

    names = [name for name, _ in read_journal(path)[0]]
    whole = cut <= 33  # its end and its checksum
    assert names == ["start", "descriptor", *(["event"] if whole else []), "stop"]
    assert examine_journal(path).unchecked == 0


def test_a_line_that_is_no_document_says_what_it_is():
    with pytest.raises(LineError, match="its start document is int"):
        decode_line(b'["start",5]')
