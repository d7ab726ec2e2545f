"""Runs sent to another folder over the loopback, whole, whatever dies on the way."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from far_host import Far, Puppet
from runs import MIMETYPES, MeasuredRun, wait_until

from offbragg.errors import OffbraggError, TransferError
from offbragg.files.abandoned import close_all_abandoned
from offbragg.files.journal_file import is_open
from offbragg.files.scan_file import ScanFile
from offbragg.files.whole_journal import write_whole_journal
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from offbragg.transfer import WINDOW
from offbragg.transfer.keys import Senders, make_key, read_key
from offbragg.transfer.messages import VERSION, pack


def measured(root: Path, n_frames: int = 6) -> MeasuredRun:
    run = MeasuredRun(root, n_frames=n_frames).begin()
    run.write(*range(n_frames))
    run.announce(n_frames)
    run.end()
    return run


def test_a_run_arrives_whole(far: Far, tmp_path: Path):
    run = measured(tmp_path / "near")

    with far.receiving() as receiver:
        sent = far.sender(tmp_path / "near").run(threading.Event(), once=True)

    far.check(run, *range(6))
    assert (sent.files, sent.runs, sent.refused) == (6, 1, 0)
    assert (receiver.received.files, receiver.received.runs) == (6, 1)
    assert sent.bytes >= sum(run.path(n).stat().st_size for n in range(6))


def test_a_run_that_may_be_in_a_damaged_archive_is_sent_once_that_is_readable(
    far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("offbragg.transfer.send._LOOK_DAMAGED", 0.1)
    run = measured(tmp_path / "near")
    (tmp_path / "near/journal/archive").mkdir()
    (tmp_path / "near/journal/archive/2026-01.zip").write_bytes(b"half-copied")
    damaged = far.folder / "journal/archive/2026-01.zip"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half-copied")

    with far.receiving():
        refused = far.sender(tmp_path / "near").run(threading.Event(), once=True)
        damaged.unlink()
        sent = far.sender(tmp_path / "near").run(threading.Event(), once=True)

    assert (refused.runs, refused.refused) == (0, 1)
    assert (sent.runs, sent.refused) == (1, 0)
    far.check(run, *range(6))


def test_a_run_of_adopted_frames_is_not_sent_and_is_named(far: Far, tmp_path: Path, caplog):
    caplog.set_level("INFO", "offbragg")
    run = measured(tmp_path / "near")
    start = {"uid": "adopted", "time": 1.7e9, "offbragg_adopted": {"folder": "/others"}}
    stop = {"uid": "s", "run_start": "adopted", "time": 1.7e9, "exit_status": "success"}
    write_whole_journal(tmp_path / "near/journal/adopted.jsonl", [("start", start), ("stop", stop)])

    with far.receiving():
        sent = far.sender(tmp_path / "near").run(threading.Event(), once=True)

    assert (sent.runs, sent.refused) == (1, 0)
    assert caplog.text.count("run adopted is not sent") == 1
    far.check(run, *range(6))
    assert not (far.folder / "journal/adopted.jsonl").exists()


def test_a_far_stacker_works_while_a_run_is_measured(far: Far, tmp_path: Path):
    run = MeasuredRun(tmp_path / "near", n_frames=6).begin()
    stop = threading.Event()
    stacker = Stacker(tmp_path / "far/experiment", late=30.0, frames=far.folder / "frames")
    threads = [threading.Thread(target=follow, args=(far.folder / "journal", [stacker]),
                                kwargs={"stop": stop})]  # fmt: skip

    with far.receiving():
        threads.append(threading.Thread(target=far.sender(tmp_path / "near").run, args=(stop,)))
        for thread in threads:
            thread.start()
        try:
            run.write(0, 1, 2)
            run.announce(3)
            scan = wait_until(lambda: list((tmp_path / "far/experiment").rglob("f*.h5")))[0]
            run.write(3, 4, 5)
            run.announce(6)
            run.end()
            wait_until(lambda: _stored(scan) == 6)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    far.check(run, *range(6))


def _stored(scan: Path) -> int:
    try:
        with ScanFile.open(scan) as file:
            return file.ledger.counts()["stored"]
    except (OffbraggError, OSError):  # it is being written
        return 0


def test_lines_wait_for_their_frames_and_not_for_ever(far: Far, tmp_path: Path):
    run = MeasuredRun(tmp_path / "near", n_frames=3).begin()
    run.write(0, 2)
    run.announce(3)
    run.end()

    with far.receiving():
        sent = far.sender(tmp_path / "near").run(threading.Event(), once=True)

    far.check(run, 0, 2)
    assert sent.runs == 1


def test_a_frame_that_is_being_written_waits(far: Far, tmp_path: Path):
    run = MeasuredRun(tmp_path / "near", n_frames=1).begin()
    run.write(0)
    whole = run.path(0).read_bytes()
    run.path(0).write_bytes(whole[:-5000])
    run.announce(1)
    run.end()
    threading.Timer(0.8, run.path(0).write_bytes, [whole]).start()

    with far.receiving():
        far.sender(tmp_path / "near").run(threading.Event(), once=True)

    far.check(run, 0)


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_both_ends_are_killed(far: Far, tmp_path: Path, kills: int):
    runs = [measured(tmp_path / "near", n_frames=10 * kills) for _ in range(2)]
    far.address = "tcp://127.0.0.1:" + str(_free_port())
    chance = random.Random(26)
    program = [sys.executable, "-m", "offbragg"]
    receive = [*program, "receive", str(far.folder), "--listen", far.address, "--key",
               str(far.root / "receiver.key"), "--senders", str(far.root / "senders")]  # fmt: skip
    send = [*program, "send", far.address, "--key", str(far.root / "near.key"), "--receiver",
            far.key.public, "--journal", str(tmp_path / "near/journal"), "--frames",
            str(tmp_path / "near/frames"), "--once", "--json"]  # fmt: skip
    slow = [*send, "--rate", "2"]  # MB/s: killed in the middle of it
    frames = far.folder / "frames"
    receiver = subprocess.Popen(receive, stderr=subprocess.DEVNULL)
    sender = subprocess.Popen(slow, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for kill in range(kills):
            n = sum(1 for _ in frames.rglob("*.cbf"))
            wait_until(lambda n=n: sum(1 for _ in frames.rglob("*.cbf")) > n + 2)
            time.sleep(0.05 * chance.random())
            if kill % 2:
                receiver.kill()
                receiver.wait()
                assert close_all_abandoned(far.folder / "journal").runs == ()
                receiver = subprocess.Popen(receive, stderr=subprocess.DEVNULL)
            else:
                sender.kill()
                sender.wait()
                sender = subprocess.Popen(slow, stdout=subprocess.DEVNULL,
                                          stderr=subprocess.DEVNULL)  # fmt: skip
        sender.kill()
        sender.wait()
        done = subprocess.run(send, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["refused"] == 0
    finally:
        for process in (sender, receiver):
            process.kill()
            process.wait()
    for run in runs:
        far.check(run, *range(10 * kills))


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_a_damaged_piece_is_asked_for_again(far: Far):
    content = os.urandom(5000)
    sha256 = hashlib.sha256(content).hexdigest()
    with far.receiving() as receiver:
        puppet = Puppet(far)
        try:
            want = puppet.ask("offer", name="a/x_1.cbf", size=5000, sha256=sha256)
            assert (want.do, want.fields) == ("want", {"name": "a/x_1.cbf", "start": 0,
                                                       "stop": 5000})  # fmt: skip
            piece = {"name": "a/x_1.cbf", "start": 0, "crc32": zlib.crc32(content)}
            again = puppet.ask("piece", b"\0" + content[1:], **piece)
            assert (again.do, again.fields) == ("want", want.fields)
            assert puppet.ask("piece", content, **piece).do == "have"
            # whole with a piece's checksum that is right, and not what was offered
            puppet.ask("offer", name="a/x_2.cbf", size=5000, sha256=sha256)
            other = content[::-1]
            piece = {"name": "a/x_2.cbf", "start": 0, "crc32": zlib.crc32(other)}
            assert puppet.ask("piece", other, **piece).do == "again"
        finally:
            puppet.close()
    assert receiver.received.damaged == 2
    assert (far.folder / "frames/a/x_1.cbf").read_bytes() == content
    assert not (far.folder / "frames/a/x_2.cbf").exists()


def test_no_more_is_asked_for_than_the_window(far: Far):
    with far.receiving():
        puppet = Puppet(far)
        try:
            for n in range(3):
                sha256 = f"{n:064x}"
                puppet.socket.send_multipart(
                    pack("offer", name=f"a/x_{n}.cbf", size=20 << 20, sha256=sha256)
                )
            wanted = 0
            answer = puppet.ask("ping")
            while answer.do == "want":
                wanted += answer.number("stop") - answer.number("start")
                answer = puppet.answer()
            assert answer.do == "pong"
        finally:
            puppet.close()
    assert wanted == WINDOW


def test_files_come_one_after_the_other(far: Far):
    """Else no frame is whole before all of those that were offered nearly are."""
    content = os.urandom(20 << 20)
    with far.receiving():
        puppet = Puppet(far)
        try:
            for n in range(3):
                sha256 = hashlib.sha256(content).hexdigest()
                puppet.socket.send_multipart(
                    pack("offer", name=f"a/x_{n}.cbf", size=len(content), sha256=sha256)
                )
            answer = puppet.ask("ping")
            first = answer
            while answer.do == "want":
                answer = puppet.answer()
            piece = content[: first.number("stop")]
            want = puppet.ask("piece", piece, name="a/x_0.cbf", start=0, crc32=zlib.crc32(piece))
        finally:
            puppet.close()
    assert (first.do, first.text("name"), first.number("start")) == ("want", "a/x_0.cbf", 0)
    assert (want.do, want.text("name"), want.number("start")) == ("want", "a/x_1.cbf", 12 << 20)


def test_senders_are_asked_in_turns(tmp_path: Path):
    far = Far(tmp_path, "one", "two")
    sha256 = "0" * 64
    with far.receiving() as receiver:
        puppets = [Puppet(far, name=name) for name in far.keys]
        try:
            for n, puppet in enumerate(puppets):
                puppet.socket.send_multipart(
                    pack("offer", name=f"a/{n}.cbf", size=64 << 20, sha256=sha256)
                )
            # the first may take the whole window; what it gives back is shared
            wait_until(lambda: receiver._out >= WINDOW)
            for n in range(8):
                piece = os.urandom(1 << 20)
                puppets[0].socket.send_multipart(pack(
                    "piece", piece, name="a/0.cbf", start=n << 20, crc32=zlib.crc32(piece)
                ))  # fmt: skip
            answer = puppets[1].answer()
        finally:
            for puppet in puppets:
                puppet.close()
    assert (answer.do, answer.text("name")) == ("want", "a/1.cbf")


def test_a_sender_that_sends_nothing_holds_up_no_other(tmp_path: Path, monkeypatch):
    far = Far(tmp_path, "stuck", "near")
    run = measured(tmp_path / "near", n_frames=3)
    with far.receiving() as receiver:
        puppet = Puppet(far, name="stuck")
        try:
            for n in range(40):
                puppet.socket.send_multipart(
                    pack("offer", name=f"a/{n}.cbf", size=2 << 20, sha256="0" * 64)
                )
            wait_until(lambda: receiver._out >= WINDOW)
            sender = far.sender(tmp_path / "near", far.keys["near"])
            sender.run(threading.Event(), once=True)
            was_out = receiver._out
            monkeypatch.setattr("offbragg.transfer.receive._STUCK", 0.5)
            while (answer := puppet.answer()).do == "want":
                pass
        finally:
            puppet.close()
    far.check(run, 0, 1, 2)
    assert was_out >= WINDOW
    assert (answer.do, answer.text("name")) == ("later", "a/0.cbf")


@pytest.mark.parametrize(("pause", "is_kept"), [(0, False), (100, True)])
def test_a_low_rate_is_not_taken_for_a_stuck_sender(far: Far, monkeypatch, pause, is_kept):
    monkeypatch.setattr("offbragg.transfer.receive._STUCK", 0.5)
    with far.receiving() as receiver:
        puppet = Puppet(far)
        try:
            puppet.ask("hello", version=VERSION, source="slow", roots=[], pause=pause)
            puppet.ask("offer", name="a/0.cbf", size=1 << 20, sha256="0" * 64)
            time.sleep(2.5)
            assert (receiver.open_files == 1) is is_kept
        finally:
            puppet.close()


def test_the_rate_is_kept(far: Far, tmp_path: Path):
    run = measured(tmp_path / "near")
    for number in range(6):
        run.path(number).write_bytes(os.urandom(50_000))  # it goes as it is
    began = time.monotonic()
    with far.receiving():
        sent = far.sender(tmp_path / "near", rate=250_000.0).run(threading.Event(), once=True)
    assert (sent.files, sent.link_bytes - sent.bytes < 10_000) == (6, True)
    assert time.monotonic() - began >= 5 / 5.0  # the first one goes at once


def test_names_do_not_lead_out(far: Far, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.cbf").write_bytes(b"abc")
    (far.folder / "frames").mkdir(parents=True)
    (far.folder / "frames/link").symlink_to(outside)
    (far.folder / "frames/x.cbf").symlink_to(outside / "mine.cbf")
    offer = {"size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    names = ["../x.cbf", "a/../../x.cbf", "/tmp/x.cbf", "a//x.cbf", "", ".", "..", "link/new.cbf",
             "link/mine.cbf", "x.cbf", ".hidden", "a\\b.cbf", "a\0b", "x" * 300,
             "/".join("a" * 50)]  # fmt: skip
    with far.receiving() as receiver:
        puppet = Puppet(far)
        try:
            for name in names:
                assert puppet.ask("offer", name=name, **offer).do == "refused", name
            for uid in ("../../x", "/tmp/x", "..", ""):
                assert puppet.ask("run", uid=uid).do == "refused", uid
            assert puppet.ask("offer", name=3, **offer).do == "refused"
            assert puppet.ask("nonsense").do == "refused"
            assert puppet.ask("ping").do == "pong"
        finally:
            puppet.close()
    assert receiver.received.refused == len(names) + 4
    assert sorted(path.name for path in outside.iterdir()) == ["mine.cbf"]
    assert sorted(path.name for path in (far.folder / "frames").iterdir()) == ["link", "x.cbf"]


def test_lines_are_checked(far: Far):
    with far.receiving():
        puppet = Puppet(far)
        try:
            assert puppet.ask("run", uid="abc").fields == {"uid": "abc", "have": 0, "ended": False}
            for lines in (b"nonsense\n", b'["stop",{"exit_status":"success"}]\n',
                          b'["start",{"uid":"other"}]\n', b'["start",{"uid":"abc"}]'):  # fmt: skip
                assert puppet.ask("lines", lines, uid="abc", first=0).do == "refused"
            taken = puppet.ask("lines", b'["start",{"uid":"abc"}]\n', uid="abc", first=0)
            assert taken.fields["have"] == 1
            repeated = puppet.ask("lines", b'["start",{"uid":"abc"}]\n', uid="abc", first=0)
            assert repeated.fields["have"] == 1
        finally:
            puppet.close()
    assert (far.folder / "journal/abc.jsonl").read_text() == '["start",{"uid":"abc"}]\n'
    assert close_all_abandoned(far.folder / "journal").runs == ()  # its RunEngine is elsewhere


def test_a_journal_is_shown_with_its_first_line(far: Far):
    """A follower that finds an empty one holds it damaged, and does not stack the run."""
    journal = far.folder / "journal/abc.jsonl"
    with far.receiving():
        puppet = Puppet(far)
        try:
            assert puppet.ask("run", uid="abc").fields["have"] == 0
            assert not journal.exists()
            puppet.ask("lines", b'["start",{"uid":"abc"}]\n', uid="abc", first=0)
            assert is_open(journal)
        finally:
            puppet.close()
    assert sorted(path.name for path in journal.parent.iterdir()) == [
        "abc.jsonl", "abc.jsonl.arriving"
    ]  # fmt: skip


def test_two_senders_at_a_time(tmp_path: Path):
    far = Far(tmp_path, "one", "two")
    runs = {name: measured(tmp_path / name) for name in far.keys}
    with far.receiving() as receiver:
        threads = [
            threading.Thread(
                target=far.sender(tmp_path / name, far.keys[name]).run,
                args=(threading.Event(),), kwargs={"once": True},
            )
            for name in runs
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert receiver.received.runs == 2
    for run in runs.values():
        far.check(run, *range(6))


def test_senders_with_other_keys_may_have_the_same_source(tmp_path: Path):
    far = Far(tmp_path, "one", "two")
    hello = {"version": VERSION, "source": "beamline:/data/journal", "roots": []}
    with far.receiving():
        one, two, again = (Puppet(far, name=name) for name in ("one", "two", "one"))
        try:
            answers = [puppet.ask("hello", **hello).do for puppet in (one, two)]
            answers.append(one.ask("ping").do)
            answers += [again.ask("hello", **hello).do, one.ask("ping").do, two.ask("ping").do]
        finally:
            for puppet in (one, two, again):
                puppet.close()
    assert answers == ["welcome", "welcome", "pong", "welcome", "restart", "pong"]


def test_frames_that_cannot_be_read_hold_up_no_other_run(
    far: Far, tmp_path: Path, monkeypatch, caplog
):
    monkeypatch.setattr("offbragg.transfer.run_to_send._STALLED", 0.5)
    runs = [measured(tmp_path / "near", n_frames=2) for _ in range(6)]
    kept: dict[Path, bytes] = {}
    for run in runs[:4]:  # as many as are sent at a time
        kept[run.path(1)] = run.path(1).read_bytes()
        run.path(1).unlink()
        run.path(1).mkdir()
    with far.receiving() as receiver:
        sender = far.sender(tmp_path / "near", patience=60.0)
        thread = threading.Thread(
            target=sender.run, args=(threading.Event(),), kwargs={"once": True}, daemon=True
        )
        thread.start()
        wait_until(lambda: receiver.received.runs == 2, 20)
        wait_until(lambda: sender.backlog.state.get("unreadable") == 4, 5)
        for path, content in kept.items():
            path.rmdir()
            path.write_bytes(content)
        thread.join(20)

    assert sum("cannot be read: Is a directory" in message for message in caplog.messages) == 4
    assert (sender.sent.runs, sender.sent.unreadable) == (6, 0)
    for run in runs:
        far.check(run, 0, 1)


def test_another_file_of_the_name_is_kept(far: Far, tmp_path: Path):
    run = measured(tmp_path / "near", n_frames=2)
    there = far.folder / "frames" / run.uid[:8] / run.path(0).name
    there.parent.mkdir(parents=True)
    there.write_bytes(b"mine")

    with far.receiving():
        sent = far.sender(tmp_path / "near").run(threading.Event(), once=True)

    assert (sent.files, sent.refused) == (1, 1)
    assert there.read_bytes() == b"mine"


@pytest.mark.parametrize("wrong", ["sender", "receiver"])
def test_a_wrong_key(far: Far, tmp_path: Path, wrong: str):
    measured(tmp_path / "near")
    other = make_key(tmp_path / "other.key")
    stop = threading.Event()
    threading.Timer(0.8, stop.set).start()
    with far.receiving() as receiver:
        sender = far.sender(tmp_path / "near", other if wrong == "sender" else None)
        if wrong == "receiver":
            sender._receiver = other.public
        sent = sender.run(stop, once=True)
    assert (sent.files, sent.connected, receiver.received.files) == (0, False, 0)
    assert list((far.folder / "journal").iterdir()) == []


def test_keys_are_of_their_owner(tmp_path: Path):
    path = tmp_path / "near.key"
    key = make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key(path) == key
    assert key.secret not in repr(key)
    with pytest.raises(TransferError, match="is not overwritten"):
        make_key(path)
    path.chmod(0o640)
    with pytest.raises(TransferError, match="others than its owner"):
        read_key(path)
    (tmp_path / "senders").write_text("# nobody yet\n")
    with pytest.raises(TransferError, match="lists no sender"):
        Senders(tmp_path / "senders")


class Link:
    """A proxy whose connections can be cut."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._far = host, int(port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(self._far)
                self._ends += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := one.recv(4096):
                time.sleep(0.004)  # so that something is on its way
                other.sendall(content)
        for end in (one, other):
            end.close()

    def cut(self) -> None:
        """Reset all connections."""
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        self._listening.close()
        self.cut()


def test_what_a_connection_that_was_cut_has_lost_is_sent_again(far: Far, tmp_path: Path):
    run = measured(tmp_path / "near", n_frames=8)
    with far.receiving() as receiver:
        link = Link(far.address)
        far.address = link.address
        stop = threading.Event()
        sender = far.sender(tmp_path / "near")
        sending = threading.Thread(target=sender.run, args=(stop,), kwargs={"once": True})
        sending.start()
        try:
            for n_files in (1, 3):
                wait_until(lambda n=n_files: receiver.received.files >= n)
                link.cut()
            sending.join(40)
            assert not sending.is_alive(), f"{receiver.received.files} of 8 files are there"
        finally:
            stop.set()
            sending.join()
            link.close()

    far.check(run, *range(8))


def test_a_disk_that_is_full_loses_no_frame(far: Far, tmp_path: Path, monkeypatch):
    run = measured(tmp_path / "near", n_frames=2)
    full, mkdir = [3], os.mkdir

    def failing(path, *args, **more):
        if full[0] and "dir_fd" in more and path == run.uid[:8]:
            full[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        mkdir(path, *args, **more)

    with far.receiving():
        monkeypatch.setattr(os, "mkdir", failing)
        sent = far.sender(tmp_path / "near").run(threading.Event(), once=True)

    assert (full[0], sent.refused) == (0, 0)
    far.check(run, 0, 1)


def test_a_directory_of_a_frames_name_is_refused_and_leaves_nothing_open(far: Far, tmp_path: Path):
    run = measured(tmp_path / "near", n_frames=2)
    (far.folder / "frames" / run.uid[:8] / run.path(0).name).mkdir(parents=True)

    with far.receiving():
        before = len(list(Path("/proc/self/fd").iterdir()))
        sent = far.sender(tmp_path / "near").run(threading.Event(), once=True)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2

    assert (sent.refused, sent.files) == (1, 1)


def test_a_document_that_names_no_place_ends_neither_side(far: Far, tmp_path: Path):
    run = MeasuredRun(tmp_path / "near", n_frames=1)
    run.begin()
    odd = {"uid": "odd", "run_start": run.uid, "mimetype": MIMETYPES["cbf"], "uri": "file://[x/",
           "data_key": "pilatus_image", "parameters": {}}  # fmt: skip
    run.journal("stream_resource", odd)
    run.end()

    with far.receiving() as receiver:
        sent = far.sender(tmp_path / "near").run(threading.Event(), once=True)
        assert receiver.received.refused == sent.refused

    assert (sent.runs, sent.refused) == (0, 1)


def test_a_journal_that_is_damaged_is_counted(far: Far, tmp_path: Path):
    measured(tmp_path / "near", n_frames=1)
    (tmp_path / "near/journal/x.jsonl").write_text("{}\n")

    with far.receiving():
        sent = far.sender(tmp_path / "near").run(threading.Event(), once=True)

    assert (sent.runs, sent.damaged) == (1, 1)
