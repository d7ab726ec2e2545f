"""Runs sent to another folder over the loopback, whole, whatever dies on the way."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("zmq")

from runs import MeasuredRun

from offbragg.files.journal_file import read_journal
from offbragg.transfer.keys import Key, Senders, make_key
from offbragg.transfer.receive import Receiver
from offbragg.transfer.send import Sender


class Far:
    """A receiver in a thread, and what its senders need to know."""

    def __init__(self, root: Path, *names: str) -> None:
        self.root = root
        self.key = make_key(root / "receiver.key")
        self.keys = {name: make_key(root / f"{name}.key") for name in names or ("near",)}
        listed = root / "senders"
        listed.write_text("".join(f"{key.public} {name}\n" for name, key in self.keys.items()))
        self.senders = Senders(listed)
        self.folder = root / "far"
        self.address = ""

    @contextlib.contextmanager
    def receiving(self, address: str = "tcp://127.0.0.1:*") -> Iterator[Receiver]:
        receiver = Receiver(self.folder, address, self.key, self.senders)
        stop, ready = threading.Event(), threading.Event()
        thread = threading.Thread(
            target=receiver.run, args=(stop,), kwargs={"ready": lambda _: ready.set()}
        )
        thread.start()
        try:
            assert ready.wait(10)
            self.address = receiver.address
            yield receiver
        finally:
            stop.set()
            thread.join()

    def sender(self, near: Path, key: Key | None = None, **options) -> Sender:
        key = key or next(iter(self.keys.values()))
        return Sender(self.address, key, self.key.public, journal=near / "journal",
                      frames=near / "frames", **{"patience": 0.5, **options})  # fmt: skip

    def check(self, run: MeasuredRun, *numbers: int) -> None:
        """Check that a run is here, as it was measured, with frames that are here, too."""
        ours = [name for name, _ in read_journal(run.journal_directory / f"{run.uid}.jsonl")[0]]
        documents, _ = read_journal(self.folder / "journal" / f"{run.uid}.jsonl")
        assert [name for name, _ in documents] == ours
        (resource,) = [doc for name, doc in documents if name == "stream_resource"]
        frames = self.folder / "frames" / run.uid[:8]
        assert resource["uri"] == f"file://localhost{frames}/"
        assert sorted(frames.iterdir()) == [frames / run.path(n).name for n in numbers]
        for number in numbers:
            assert (frames / run.path(number).name).read_bytes() == run.path(number).read_bytes()
        assert [path.suffix for path in (self.folder / "journal").iterdir()].count(".arriving") == 0


@pytest.fixture
def far(tmp_path: Path) -> Far:
    return Far(tmp_path)


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
