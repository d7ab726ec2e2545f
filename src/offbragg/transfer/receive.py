"""Receive runs of other hosts into a folder."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import zmq
from zmq.auth.thread import ThreadAuthenticator

from offbragg.errors import JournalError, TransferError
from offbragg.files.durable import make_directory
from offbragg.files.lock import lock
from offbragg.printable import printable
from offbragg.transfer import WINDOW
from offbragg.transfer.arriving_file import ArrivingFile, Tree
from offbragg.transfer.arriving_journal import ArrivingJournal
from offbragg.transfer.backlog import DiskLook
from offbragg.transfer.keys import Key, Senders, encoded
from offbragg.transfer.messages import LARGEST, PIECE, VERSION, Message, pack, unpack
from offbragg.transfer.packing import Unpacker

log = logging.getLogger(__name__)

_POLL = 100  # ms
_SILENT = 20.0  # time after which a sender that sends nothing is forgotten, s
_STUCK = 60.0  # time without a piece after which what a sender offered is dropped, s
_AT_ONCE = 32  # files that are synced before they are acknowledged together
_MOST_OFFERS = 256  # of one sender that are open at a time
_MOST_OPEN = 32  # drafts that are being written at a time


@dataclass(slots=True)
class _Offer:
    size: int
    sha256: str
    file: ArrivingFile | None = None
    asked: int = 0  # up to where it was asked for
    pieces: deque[tuple[int, int]] = field(default_factory=deque[tuple[int, int]])
    """Ranges that were asked for and have not come."""


@dataclass(slots=True)
class _Peer:
    key: str
    """The public key that it proved to have."""
    source: str
    roots: list[str]
    heard: float
    offers: dict[str, _Offer] = field(default_factory=dict[str, _Offer])
    queue: deque[str] = field(default_factory=deque[str])
    """Names of files of which more is to be asked for, in order."""
    pause: float = 0.0
    """Longest time between two pieces at its own rate, s."""
    out: int = 0
    """Bytes that were asked for and have not come."""
    moved: float = 0.0
    """When a piece that was asked for came, or the first was asked for, monotonic s."""

    @property
    def n_open(self) -> int:
        """Number of its drafts that are being written."""
        return sum(offer.file is not None for offer in self.offers.values())


@dataclass(slots=True)
class Received:
    """What a receiver has taken since it was started."""

    files: int = 0
    bytes: int = 0
    """Of frame files."""
    link_bytes: int = 0
    """What they took of the link."""
    lines: int = 0
    runs: int = 0
    """Whose stop document is here."""
    damaged: int = 0
    """Pieces and files whose checksum was wrong: they were asked for again."""
    refused: int = 0


class Receiver:
    """Take what listed senders send.

    Parameters
    ----------
    folder
        ``frames/`` and ``journal/`` are in it, and are made if need be.
    address
        Where to listen, as ``tcp://127.0.0.1:5599``; with ``*`` as the port one is chosen.
    key
        The receiver's.
    senders
        Who may send.
    window
        Bytes that are asked for at a time.

    Raises
    ------
    TransferError
        If another receiver has this folder or this address.
    """

    def __init__(
        self, folder: Path, address: str, key: Key, senders: Senders, *, window: int = WINDOW
    ) -> None:
        self.folder, self._window = folder.absolute(), window
        self._frames = Tree(self.folder / "frames")
        self._journal = self.folder.resolve() / "journal"
        make_directory(self._journal)
        self.received = Received()
        self._key, self._senders, self._asked_address = key, senders, address
        self.address = ""
        """Where it listens, once it runs."""
        self._peers: dict[bytes, _Peer] = {}
        self._share_open = _MOST_OPEN
        self._journals: dict[str, ArrivingJournal] = {}
        self._names: dict[str, bytes] = {}  # who is sending a file
        self._whole: list[tuple[bytes, str]] = []
        self._socket: Any = None
        self._unpacker = Unpacker()
        self._disk = DiskLook({"frames": self.folder / "frames", "journal": self._journal})

    def run(
        self,
        stop: threading.Event,
        *,
        ready: Callable[[str], None] = lambda address: None,
        progress: Callable[[Received], None] = lambda received: None,
    ) -> Received:
        """Receive until asked to stop.

        Parameters
        ----------
        stop
            Set it to end.
        ready
            Called with the address once it listens.
        progress
            Called about once a second.
        """
        with self._held(), self._listening() as self._socket:
            ready(self.address)
            shown = 0.0
            try:
                while not stop.is_set():
                    self._step()
                    if time.monotonic() - shown > 1.0:
                        shown = time.monotonic()
                        progress(self.received)
                        self._disk.look(shown)
                        self._forget_silent(shown)
                        self._drop_stuck(shown)
                self._commit()
            finally:
                for who in list(self._peers):
                    self._forget(who)
                for journal in self._journals.values():
                    journal.close()
        return self.received

    @property
    def open_files(self) -> int:
        """Number of files that were offered and are not here."""
        return len(self._names)

    @property
    def _out(self) -> int:
        """Bytes that were asked for and have not come."""
        return sum(peer.out for peer in self._peers.values())

    @contextlib.contextmanager
    def _held(self) -> Generator[None]:
        with (self.folder / ".receive.lock").open("w") as held:
            try:
                lock(held)
            except BlockingIOError:
                raise TransferError(
                    f"another offbragg receive writes into this folder\n{self.folder}"
                ) from None
            yield

    @contextlib.contextmanager
    def _listening(self) -> Generator[Any]:
        context = zmq.Context()
        keeper = ThreadAuthenticator(context)
        keeper.start()
        socket: Any = context.socket(zmq.ROUTER)
        try:
            keeper.configure_curve_callback(domain="*", credentials_provider=self._senders)
            socket.curve_server = True
            socket.curve_publickey = encoded(self._key.public)
            socket.curve_secretkey = encoded(self._key.secret)
            socket.maxmsgsize = LARGEST
            socket.linger = 500
            socket.rcvhwm, socket.sndhwm = 64, 10_000  # what it sends is short
            socket.heartbeat_ivl, socket.heartbeat_timeout = 2000, 10_000
            try:
                socket.bind(self._asked_address)
            except zmq.ZMQError as error:
                raise TransferError(
                    f"cannot listen at {self._asked_address}: {error.strerror}"
                ) from error
            self.address = socket.last_endpoint.decode().rstrip("\0")
            yield socket
        finally:
            socket.close()
            keeper.stop()
            context.term()

    def _step(self) -> None:
        if not self._socket.poll(0 if self._whole else _POLL):
            self._commit()
            return
        frames = self._socket.recv_multipart(copy=False)
        who, *parts = (frame.bytes for frame in frames)
        try:
            self._take(who, frames[-1].get("User-Id"), unpack(parts))
        except TransferError as error:  # a message that cannot be used
            log.warning("%s", printable(str(error)))
            self._answer(who, "refused", name="", why=str(error))
        except OSError as error:
            self._restart(who, f"it cannot be written: {error.strerror} ({error.filename or ''})")
        if len(self._whole) >= _AT_ONCE:
            self._commit()
        self._ask()

    def _take(self, who: bytes, key: str, message: Message) -> None:
        if message.do == "hello":
            self._hello(who, key, message)
            return
        peer = self._peers.get(who)
        if peer is None:
            self._answer(who, "restart", why="")
            return
        peer.heard = time.monotonic()
        if message.do == "ping":
            self._answer(who, "pong")
        elif message.do == "run":
            self._lines(who, message.text("uid"), lambda journal: None)
        elif message.do == "lines":
            first = message.number("first")

            def add(journal: ArrivingJournal) -> None:
                if journal.lines == first:  # else it has others by now, and says which
                    journal.add(message.payload, peer.roots, self._frames.root)

            self._lines(who, message.text("uid"), add)
        elif message.do == "offer":
            self._offer(who, peer, message)
        elif message.do == "piece":
            self._piece(who, peer, message)
        elif message.do == "gone":
            self._drop(peer, message.text("name"))
        else:
            raise TransferError(f"a message {message.do[:20]!r} came, which is not known")

    def _hello(self, who: bytes, key: str, message: Message) -> None:
        if message.number("version") != VERSION:
            why = f"it speaks version {message.number('version')} and the receiver {VERSION}"
            self._answer(who, "refused", name="", why=why)
            return
        given: Any = message.fields.get("roots")
        roots = [str(root) for root in cast(list[Any], given)] if isinstance(given, list) else []
        source = message.text("source")
        for other, peer in list(self._peers.items()):
            if (peer.key, peer.source) == (key, source):
                self._forget(other)  # it was started again, or connected again
        pause = message.number("pause") if "pause" in message.fields else 0
        self._peers[who] = _Peer(key, source, roots, time.monotonic(), pause=pause)
        self._answer(who, "welcome", version=VERSION)

    def _lines(self, who: bytes, uid: str, change: Callable[[ArrivingJournal], None]) -> None:
        try:
            journal = self._journals.get(uid) or ArrivingJournal(self._journal, uid)
            if not journal.ended:
                self._journals[uid] = journal
            before = journal.lines
            change(journal)
        except TransferError as error:
            self.received.refused += 1
            log.warning("%s", printable(str(error)))
            self._answer(who, "refused", uid=uid, name="", why=str(error))
            return
        except JournalError as error:  # it may be in an archive that is damaged, which was logged
            self._answer(who, "refused", uid=uid, name="", why=str(error), again=True)
            return
        self.received.lines += journal.lines - before
        if journal.ended and self._journals.pop(uid, None) is not None:
            self.received.runs += 1
        self._answer(who, "lines", uid=uid, have=journal.lines, ended=journal.ended)

    def _offer(self, who: bytes, peer: _Peer, message: Message) -> None:
        name, size, sha256 = message.text("name"), message.number("size"), message.text("sha256")
        try:
            if self._frames.has(name, size, sha256):
                self._answer(who, "have", name=name)
            elif not sha256:
                self._answer(who, "unknown", name=name)
            elif name in self._names or len(peer.offers) >= _MOST_OFFERS:
                self._answer(who, "later", name=name)
            else:
                peer.offers[name] = _Offer(size, sha256)
                self._names[name] = who
                peer.queue.append(name)
        except TransferError as error:
            self._refuse(who, name, error)

    def _refuse(self, who: bytes, name: str, error: TransferError) -> None:
        self.received.refused += 1
        log.warning("%s", printable(str(error)))
        self._answer(who, "refused", name=name, why=str(error))

    def _ask(self) -> None:
        """Ask for pieces, of all senders in turns, of each in the order of its offers.

        Each has its share of the window and of the open files, and always one piece of one file:
        one that is slow or stuck holds up no other.
        """
        waiting = deque(who for who, peer in self._peers.items() if peer.queue)
        n_sharing = max(1, sum(bool(peer.offers) for peer in self._peers.values()))
        share, self._share_open = self._window // n_sharing, _MOST_OPEN // n_sharing
        while waiting:
            who = waiting.popleft()
            out = self._peers[who].out
            has_room = out == 0 or (out < share and self._out < self._window)
            if has_room and self._ask_one(who):
                waiting.append(who)
                self._peers[who] = self._peers.pop(who)  # the others come first next time

    def _ask_one(self, who: bytes) -> bool:
        """Ask a sender for one piece; return whether there may be more."""
        peer = self._peers.get(who)
        if peer is None or not peer.queue:
            return False
        name = peer.queue[0]
        offer = peer.offers.get(name)
        if offer is None:
            peer.queue.popleft()
            return True
        if offer.file is None:
            is_full = sum(each.n_open for each in self._peers.values()) >= _MOST_OPEN
            if (n_open := peer.n_open) and (is_full or n_open >= self._share_open):
                return False
            try:
                offer.file = ArrivingFile(self._frames, name, offer.size, offer.sha256)
            except TransferError as error:
                self._drop(peer, name)
                self._refuse(who, name, error)
                return True
            except OSError as error:
                self._restart(who, f"it cannot be written: {error.strerror}")
                return False
            offer.asked = offer.file.position
        if offer.asked < offer.size:
            stop = min(offer.asked + PIECE, offer.size)
            self._answer(who, "want", name=name, start=offer.asked, stop=stop)
            offer.pieces.append((offer.asked, stop))
            peer.moved = peer.moved if peer.out else time.monotonic()
            peer.out += stop - offer.asked
            offer.asked = stop
        if offer.asked >= offer.size:
            peer.queue.popleft()
            if offer.file.is_whole:
                self._check(who, peer, name, offer)
        return True

    def _piece(self, who: bytes, peer: _Peer, message: Message) -> None:
        name = message.text("name")
        offer = peer.offers.get(name)
        if offer is None or offer.file is None or not offer.pieces:
            return  # it was dropped meanwhile
        if all(message.number("start") != first for first, _ in offer.pieces):
            return  # of an offer that is over
        start, stop = offer.pieces.popleft()
        peer.out -= stop - start
        peer.moved = time.monotonic()
        if start != offer.file.position:
            return  # it follows one that was damaged, and is asked for again
        content = self._content(message, stop - start)
        right = message.number("start") == start and len(content) == stop - start
        if not right or zlib.crc32(content) != message.number("crc32"):
            self.received.damaged += 1
            log.warning("a piece of %s came damaged: it is sent again", printable(name))
            if offer.asked >= offer.size:
                peer.queue.appendleft(name)
            offer.asked = start
            return
        offer.file.add(content)
        self.received.bytes += len(content)
        if offer.file.is_whole:
            self._check(who, peer, name, offer)

    def _content(self, message: Message, size: int) -> bytes:
        self.received.link_bytes += len(message.payload)
        if message.fields.get("packed") is not True:
            return message.payload
        try:
            return self._unpacker.unpack(message.payload, size)
        except TransferError as error:  # as any other damage: it is asked for again
            log.warning("%s", printable(str(error)))
            return b""

    def _check(self, who: bytes, peer: _Peer, name: str, offer: _Offer) -> None:
        assert offer.file is not None
        if offer.file.is_right:
            self._whole.append((who, name))
            return
        self.received.damaged += 1
        log.warning("%s came with another SHA-256: it is sent again", printable(name))
        offer.file.restart()
        self._drop(peer, name)
        self._answer(who, "again", name=name)

    def _commit(self) -> None:
        """Put whole files on the disk under their names, and acknowledge them."""
        placed: list[tuple[bytes, str, ArrivingFile]] = []
        whole, self._whole = self._whole, []
        for who, name in whole:
            peer = self._peers.get(who)
            offer = peer.offers.get(name) if peer is not None else None
            if peer is None or offer is None or offer.file is None:
                continue
            try:
                offer.file.place()
                placed.append((who, name, offer.file))
            except TransferError as error:
                self._drop(peer, name)
                self._refuse(who, name, error)
            except OSError as error:
                self._restart(who, f"it cannot be written: {error.strerror}")
        synced: set[str] = set()
        for who, name, file in placed:
            peer = self._peers.get(who)
            if peer is None:
                continue  # it asks again
            try:
                if (directory := name.rpartition("/")[0]) not in synced:
                    file.sync_name()
                    synced.add(directory)
            except OSError as error:
                self._restart(who, f"it cannot be written: {error.strerror}")
                continue
            self._drop(peer, name)
            self.received.files += 1
            self._answer(who, "have", name=name)

    def _drop(self, peer: _Peer, name: str) -> None:
        offer = peer.offers.pop(name, None)
        if offer is None:
            return
        self._names.pop(name, None)
        peer.out -= sum(stop - start for start, stop in offer.pieces)
        if offer.file is not None:
            offer.file.close()

    def _forget(self, who: bytes) -> None:
        peer = self._peers.pop(who, None)
        for name in list(peer.offers) if peer is not None else ():
            assert peer is not None
            self._drop(peer, name)

    def _forget_silent(self, now: float) -> None:
        for who in [who for who, peer in self._peers.items() if now - peer.heard > _SILENT]:
            self._forget(who)

    def _drop_stuck(self, now: float) -> None:
        """Drop the offers of senders that answer and send no piece; they offer them again."""
        for who, peer in self._peers.items():
            limit = _STUCK + peer.pause
            if peer.out and now - peer.moved > limit:
                log.warning(
                    "%s sent no piece in %.0f s: %d files that it offered are dropped, and taken "
                    "once it offers them again", printable(peer.source), limit, len(peer.offers),
                )  # fmt: skip
                for name in list(peer.offers):
                    self._drop(peer, name)
                    self._answer(who, "later", name=name)

    def _restart(self, who: bytes, why: str) -> None:
        log.error("%s\n%s", why, self.folder)
        self._forget(who)
        for journal in self._journals.values():
            journal.close()
        self._journals.clear()  # what is on the disk is looked at again
        self._answer(who, "restart", why=why)

    def _answer(self, who: bytes, do: str, **fields: Any) -> None:
        with contextlib.suppress(zmq.ZMQError):  # it has gone: it asks again when it comes back
            self._socket.send_multipart([who, *pack(do, **fields)], zmq.DONTWAIT)
