"""Send the runs of a journal directory, and the frames that they name, to another host."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket as network
import threading
import time
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from offbragg.errors import FrameError, IncompleteFrame, JournalError, TransferError
from offbragg.files import read_frame
from offbragg.files.abandoned import Closings, close_all_abandoned
from offbragg.files.journal_archive import archived_journals
from offbragg.files.journal_file import read_start
from offbragg.files.journal_folder import JournalFolder, all_journals
from offbragg.printable import printable
from offbragg.transfer.keys import Key, encoded
from offbragg.transfer.messages import LARGEST, PIECE, VERSION, Message, pack, unpack
from offbragg.transfer.run_to_send import RunToSend

log = logging.getLogger(__name__)

_POLL = 20  # ms
_LOOK = 0.2  # how often journals are looked at, s
_LOOK_FOR_ABANDONED = 1.0  # how often for those that lost their RunEngine, s
_PING = 2.0  # s
_SILENT = 15.0  # time without an answer after which it connects again, s
_AGAIN = 1.0  # wait before a file is looked at or offered again, s
_SOON = 0.1  # wait before a file that is not complete is looked at again, s
_BACK_OFF = 0.5  # wait before it connects again, s
_LOOK_DAMAGED = 10.0  # s
_STEADY = 5.0  # how long a file that is not complete must be unchanged to be sent all the same, s
_RUNS = 4  # that are sent at a time
_OFFERS = 64  # that are open at a time


@dataclass(slots=True)
class Sent:
    """What a sender has sent since it was started."""

    files: int = 0
    """That are on the far disk."""
    bytes: int = 0
    runs: int = 0
    """That are whole there, with those that were there before."""
    waiting: int = 0
    """Frames that are known and not there."""
    absent: int = 0
    """Of them, those whose files are not here either."""
    refused: int = 0
    damaged: int = 0
    """Runs whose journals cannot be read: they are not sent."""
    connected: bool = False


class Sender:
    """Send runs while they are measured.

    Parameters
    ----------
    address
        Of the receiver, as ``tcp://far.example.org:5599``.
    key
        The sender's.
    receiver
        The receiver's public key: nothing is sent to another one.
    journal, frames
        The directories; frames elsewhere are not sent.
    rate
        Most bytes of frames per second; None for no limit.
    patience
        How long a line of a journal waits for a frame file that is not there, s.
    """

    def __init__(
        self,
        address: str,
        key: Key,
        receiver: str,
        *,
        journal: Path,
        frames: Path,
        rate: float | None = None,
        patience: float = 10.0,
    ) -> None:
        self._address, self._key, self._receiver = address, key, receiver
        self._journal, self._frames = journal.absolute(), frames.absolute()
        self._rate, self._patience = rate, patience
        self.sent = Sent()
        self._over: set[str] = set()  # runs that are whole on the far disk, or refused
        self._monitor: Any = None
        self._damaged: dict[str, float] = {}  # run → when to read its journal again
        self._began: dict[str, float] = {}  # when each run that is not over began
        self._folder = JournalFolder(self._journal)
        self._unread = archived_journals(self._journal)
        self._next_closing = 0.0
        self._closings: Closings | None = None
        self._next_piece = 0.0
        self._reported: set[str] = set()
        self._begin_again()

    def _begin_again(self) -> None:
        """Forget what was under way: the far disk says what it has."""
        self._runs: dict[str, RunToSend] = {}
        self._asked: set[str] = set()  # runs whose number of lines was asked for
        self._offered: dict[str, str] = {}  # name → run
        self._later: dict[str, float] = {}  # name → when to look at it again
        self._looks: dict[str, tuple[tuple[int, int], float]] = {}
        self._wanted: deque[tuple[str, int, int]] = deque()
        self._outbox: deque[list[bytes]] = deque()
        self._welcome = False
        self._heard = self._pinged = time.monotonic()
        self._looked = 0.0

    def run(
        self,
        stop: threading.Event,
        *,
        once: bool = False,
        progress: Callable[[Sent], None] = lambda sent: None,
    ) -> Sent:
        """Send until asked to stop or, once, until every run that is in the journal is there.

        Raises
        ------
        TransferError
            If the receiver speaks another version.
        """
        shown = 0.0
        while not stop.is_set():
            self._begin_again()
            with self._connected() as socket:
                self._say(
                    "hello",
                    version=VERSION,
                    source=f"{network.gethostname()}:{self._journal}",
                    roots=[str(self._frames), str(self._frames.resolve())],
                )
                while not stop.is_set() and self._step(socket):
                    if time.monotonic() - shown > 1.0:
                        shown = time.monotonic()
                        progress(self._count())
                    if once and self._is_done():
                        return self._count()
            self.sent.connected = False
            stop.wait(_BACK_OFF)
        return self._count()

    @contextlib.contextmanager
    def _connected(self) -> Generator[Any]:
        context = zmq.Context()
        socket: Any = context.socket(zmq.DEALER)
        monitor: Any = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._monitor = monitor
        try:
            socket.curve_serverkey = encoded(self._receiver)
            socket.curve_publickey = encoded(self._key.public)
            socket.curve_secretkey = encoded(self._key.secret)
            socket.routing_id = uuid.uuid4().bytes
            socket.maxmsgsize, socket.linger = LARGEST, 0
            socket.sndhwm, socket.rcvhwm = 8, 1000
            socket.heartbeat_ivl, socket.heartbeat_timeout = 2000, 10_000
            try:
                socket.connect(self._address)
            except zmq.ZMQError as error:
                raise TransferError(
                    f"{self._address!r} is not an address: {error.strerror}\n"
                    "Give the receiver's host and port, as far.example.org:5599."
                ) from error
            yield socket
        finally:
            socket.disable_monitor()
            monitor.close(0)
            socket.close()
            context.term()

    def _step(self, socket: Any) -> bool:
        """Do what there is to do; return False if it must connect again."""
        now = time.monotonic()
        if self._welcome and self._monitor.poll(0):
            return False  # ZeroMQ connects again, but what was on its way is lost
        self._push(socket, now)
        if socket.poll(_POLL):
            for _ in range(100):
                try:
                    parts = socket.recv_multipart(zmq.DONTWAIT)
                except zmq.Again:
                    break
                self._heard = time.monotonic()
                if not self._take(unpack(parts)):
                    return False
        if now - self._heard > _SILENT:
            self._report(
                f"{self._address} does not answer: is offbragg receive running there, is this "
                "sender's public key in its list, and is --receiver its public key? It is tried "
                "again."
            )
            return False
        if self._welcome:
            if now - self._pinged > _PING:
                self._pinged = now
                self._say("ping")
            if now - self._looked > _LOOK:
                self._looked = now
                self._look()
            self._advance(now)
        return True

    def _say(self, do: str, payload: bytes = b"", **fields: Any) -> None:
        self._outbox.append(pack(do, payload, **fields))

    def _push(self, socket: Any, now: float) -> None:
        """Send what there is, as far as the socket and the rate let it."""
        while self._outbox or (self._wanted and now >= self._next_piece):
            if not self._outbox:
                self._outbox.append(self._piece(*self._wanted.popleft()))
            try:
                socket.send_multipart(self._outbox[0], zmq.DONTWAIT)
            except zmq.Again:
                return
            size = len(self._outbox.popleft()[1])
            self.sent.bytes += size
            if self._rate is not None and size:
                self._next_piece = max(now, self._next_piece) + size / self._rate
                now = time.monotonic()

    def _piece(self, name: str, start: int, stop: int) -> list[bytes]:
        run = self._runs.get(self._offered.get(name, ""))
        content = b""
        if run is not None:
            with contextlib.suppress(OSError), run.path_of(name).open("rb") as file:
                file.seek(start)
                content = file.read(min(stop - start, PIECE))
        if run is None or len(content) != stop - start:
            self._put_off(name)
            return pack("gone", name=name)
        return pack("piece", content, name=name, start=start, crc32=zlib.crc32(content))

    def _take(self, message: Message) -> bool:
        if message.do == "welcome":
            self._welcome = self.sent.connected = True
        elif message.do == "restart":
            if why := message.text("why"):
                self._report(f"the receiver: {why}")
            return False
        elif message.do == "lines":
            return self._take_lines(message)
        elif message.do == "want":
            name, start, stop = (
                message.text("name"),
                message.number("start"),
                message.number("stop"),
            )
            if name in self._offered and len(self._wanted) < 10_000:
                self._wanted.append((name, start, stop))
        elif message.do in ("later", "again"):
            self._put_off(message.text("name"))
        elif message.do == "unknown":
            name = message.text("name")
            if (run := self._runs.get(self._offered.pop(name, ""))) is not None:
                run.there_before.discard(name)
                run.to_offer.appendleft(name)
        elif message.do == "have":
            self.sent.files += self._settle(message.text("name"))
            self._reported.clear()  # it works again: the next trouble is a new one
        elif message.do == "refused":
            self._refused(message)
        return True

    def _take_lines(self, message: Message) -> bool:
        uid, have = message.text("uid"), message.number("have")
        self._asked.discard(uid)
        if message.fields.get("ended") is True:
            self._runs.pop(uid, None)
            self._has_ended(uid)
            self.sent.runs += 1
        elif uid in self._runs:
            if not self._runs[uid].acknowledged(have):
                self._report(f"run {uid[:8]}: its journal on the far disk has other lines")
                return False
        else:
            self._runs[uid] = RunToSend(
                self._journal / f"{uid}.jsonl", self._frames, have, patience=self._patience,
                report=self._report,
            )  # fmt: skip
        return True

    def _has_ended(self, uid: str) -> None:
        self._over.add(uid)
        self._began.pop(uid, None)

    def _refused(self, message: Message) -> None:
        self.sent.refused += 1
        uid, name, why = message.fields.get("uid"), message.text("name"), message.text("why")
        log.error("the receiver refused: %s", printable(why))
        if name:
            self._settle(name)
        elif isinstance(uid, str):
            self._asked.discard(uid)
            self._runs.pop(uid, None)
            self._has_ended(uid)
        else:
            raise TransferError(f"the receiver refused: {why}")

    def _settle(self, name: str) -> bool:
        run = self._runs.get(self._offered.pop(name, ""))
        self._looks.pop(name, None)
        if run is not None:
            run.settled(name)
        return run is not None

    def _put_off(self, name: str) -> None:
        """Look at a file again a little later."""
        run = self._runs.get(self._offered.pop(name, ""))
        # what was wanted of it is of an offer that is over
        self._wanted = deque(each for each in self._wanted if each[0] != name)
        if run is not None:
            self._later[name] = time.monotonic() + _AGAIN
            run.to_offer.append(name)

    def _look(self) -> None:
        """Look for journals, oldest runs first, and ask what the far disk has of a few."""
        now = time.monotonic()
        if now >= self._next_closing:
            self._closings = close_all_abandoned(self._journal, self._closings)
            self._next_closing = now + _LOOK_FOR_ABANDONED
        if len(self._runs) + len(self._asked) >= _RUNS:
            return
        self._read_starts(now)
        known = self._over | self._runs.keys() | self._asked
        for uid in sorted(self._began.keys() - known, key=self._began.__getitem__):
            if self._damaged.get(uid, 0.0) > now:
                continue
            if len(self._runs) + len(self._asked) >= _RUNS:
                return
            self._asked.add(uid)
            self._say("run", uid=uid)

    def _read_starts(self, now: float) -> None:
        """Note when the runs began whose journals are new."""
        unread: list[Path] = []
        for path in [*self._unread, *self._folder.look()[0]]:
            uid = path.stem
            if uid in self._over:
                continue
            if self._damaged.get(uid, 0.0) > now:
                unread.append(path)
                continue
            try:
                self._began[uid] = float(read_start(path).get("time", 0.0))
                self._damaged.pop(uid, None)
            except JournalError as error:  # perhaps it is being written
                self._report(str(error))
                self._damaged[uid] = now + _LOOK_DAMAGED
                unread.append(path)
        self._unread = unread

    def _advance(self, now: float) -> None:
        for run in list(self._runs.values()):
            try:
                run.read()
            except JournalError as error:
                self._report(str(error))
                self._damaged[run.uid] = now + _LOOK_DAMAGED
                for name in [name for name, uid in self._offered.items() if uid == run.uid]:
                    self._say("gone", name=name)
                    del self._offered[name]
                del self._runs[run.uid]
                continue
            self._offer(run, now)
            if not run.in_flight:
                first, lines = run.next_lines()
                if lines:
                    run.in_flight = True
                    self._say("lines", lines, uid=run.uid, first=first)

    def _offer(self, run: RunToSend, now: float) -> None:
        """Offer frames whose files are complete."""
        for _ in range(min(len(run.to_offer), _OFFERS)):
            if len(self._offered) >= _OFFERS or time.monotonic() - now > _PING:
                return  # a slow disk: the receiver has to hear of us meanwhile
            name = run.to_offer.popleft()
            if self._later.get(name, 0.0) > now:
                run.to_offer.append(name)
                continue
            self._later.pop(name, None)
            path = run.path_of(name)
            try:
                if name in run.there_before:
                    size, sha256 = path.stat().st_size, ""
                elif not self._is_complete(name, path, now):
                    raise IncompleteFrame(name)
                else:
                    with path.open("rb") as file:
                        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                        size = file.tell()
            except (OSError, IncompleteFrame):
                self._later[name] = now + _SOON
                run.to_offer.append(name)
                continue
            self._offered[name] = run.uid
            self._say("offer", name=name, size=size, sha256=sha256)

    def _is_complete(self, name: str, path: Path, now: float) -> bool:
        """Return whether a frame file is complete, or has not changed for a while."""
        status = path.stat()
        look = status.st_size, status.st_mtime_ns
        try:
            read_frame(path, number=0)
        except IncompleteFrame:
            before, since = self._looks.setdefault(name, (look, now))
            if before != look:
                self._looks[name] = look, now
                return False
            return now - since > _STEADY
        except FrameError:
            pass  # the far stacker says so as the one here does
        return True

    def _is_done(self) -> bool:
        if not self._welcome or self._runs or self._asked:
            return False
        known = {path.stem for path in all_journals(self._journal)}
        return known <= self._over | set(self._damaged)

    def _count(self) -> Sent:
        self.sent.waiting = sum(len(run.open) for run in self._runs.values())
        self.sent.damaged = len(self._damaged.keys() - self._over)
        self.sent.absent = sum(len(run.absent) for run in self._runs.values())
        return self.sent

    def _report(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            log.warning("%s", printable(text))
