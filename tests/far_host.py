"""A receiver in a thread, or in a process, and what its senders need to know."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmq
from lossy_link import FAR, LossyLink
from runs import MeasuredRun

from offbragg.files.journal_file import read_journal
from offbragg.transfer.keys import Key, Senders, encoded, make_key
from offbragg.transfer.messages import VERSION, Message, pack, unpack
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


class Ends:
    """Both ends as commands, each in a network of its own if there is a link."""

    def __init__(self, far: Far, near: Path, link: LossyLink | None = None) -> None:
        self._far, self._near, self._link = far, near, link
        host = FAR if link else "127.0.0.1"
        self.address = f"tcp://{host}:{5599 if link else free_port()}"

    def receive(self, **more: Any) -> subprocess.Popen[str]:
        """Start a receiver."""
        far = self._far
        return self._start(
            "far", "receive", str(far.folder), "--listen", self.address, "--key",
            str(far.root / "receiver.key"), "--senders", str(far.root / "senders"), **more,
        )  # fmt: skip

    def send(self, *options: str, near: Path | None = None, **more: Any) -> subprocess.Popen[str]:
        """Start a sender."""
        near = near or self._near
        name = near.name if near.name in self._far.keys else next(iter(self._far.keys))
        return self._start(
            "near", "send", self.address, "--key", str(self._far.root / f"{name}.key"),
            "--receiver", self._far.key.public, "--journal", str(near / "journal"), "--frames",
            str(near / "frames"), "--json", *options, **more,
        )  # fmt: skip

    def _start(self, end: str, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "offbragg", *arguments]
        if self._link:
            command = self._link.command(getattr(self._link, end), *command)
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, text=True, **{**silent, **more})


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Puppet:
    """A sender that says what a test wants it to say."""

    def __init__(self, far: Far, roots: tuple[str, ...] = (), name: str = "") -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        key = far.keys[name or next(iter(far.keys))]
        self.socket.curve_serverkey = encoded(far.key.public)
        self.socket.curve_publickey = encoded(key.public)
        self.socket.curve_secretkey = encoded(key.secret)
        self.socket.linger, self.socket.rcvtimeo = 0, 10_000
        self.socket.connect(far.address)
        answer = self.ask("hello", version=VERSION, source=f"puppet {name}", roots=roots)
        assert answer.do == "welcome"

    def ask(self, do: str, payload: bytes = b"", **fields) -> Message:
        self.socket.send_multipart(pack(do, payload, **fields))
        return self.answer()

    def answer(self) -> Message:
        return unpack(self.socket.recv_multipart())

    def close(self) -> None:
        self.socket.close()
        self.context.term()
