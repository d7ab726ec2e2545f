"""Send the runs of a journal directory, and the frames that they name, to another host."""

from __future__ import annotations

import logging
import socket as network
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from heapq import nsmallest
from math import ceil
from pathlib import Path
from typing import Any

import zmq

from offbragg.alarms.board import Thresholds
from offbragg.errors import JournalError, TransferError
from offbragg.files.abandoned import Closings, close_all_abandoned
from offbragg.files.journal_archive import archived_journals
from offbragg.files.journal_file import read_start
from offbragg.files.journal_folder import JournalFolder, all_journals
from offbragg.files.scan_layout import ADOPTED
from offbragg.printable import printable
from offbragg.transfer.ahead import Ahead, Look, ahead
from offbragg.transfer.backlog import SendingReport
from offbragg.transfer.connection import connected
from offbragg.transfer.keys import Key
from offbragg.transfer.messages import PIECE, VERSION, Message, pack, unpack
from offbragg.transfer.run_to_send import RunToSend
from offbragg.transfer.sent import Sent

log = logging.getLogger(__name__)

_POLL = 20  # ms
_SOON_READY = 2  # wait for a piece that is being made, ms
_LOOK = 0.5  # how often new journals are looked for, s
_PING = 2.0  # s
_SILENT = 15.0  # time without an answer after which it connects again, s
_AGAIN = 1.0  # wait before a file is looked at or offered again, s
_SOON = 0.1  # wait before a file that is not complete is looked at again, s
_BACK_OFF = 0.5  # wait before it connects again, s
_LOOK_DAMAGED = 10.0  # s
_STEADY = 5.0  # how long a file that is not complete must be unchanged to be sent all the same, s
_RUNS = 4  # that are sent at a time, beside those that are stalled
_MOST_RUNS = 64  # with those
_OFFERS = 64  # that are open at a time
_AHEAD = 4  # pieces that are made ahead of the link


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
        Most bytes of frames on the link per second; None for no limit.
    patience
        How long a line of a journal waits for a frame file that is not there, s.
    thresholds
        From where on a disk of this side is an alarm.
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
        thresholds: Thresholds | None = None,
    ) -> None:
        self._address, self._key, self._receiver = address, key, receiver
        self._journal, self._frames = journal.absolute(), frames.absolute()
        self._rate, self._patience = rate, patience
        self.sent = Sent()
        self._over: set[str] = set()  # runs that are whole on the far disk, or never will be
        self._monitor: Any = None
        self._damaged: dict[str, float] = {}  # run → when to read its journal again
        self._again: dict[str, float] = {}  # run that was refused for now → when to ask again
        self._began: dict[str, float] = {}  # when each run that is not over began
        self._folder = JournalFolder(self._journal)
        self._unread: list[Path] | None = None  # None: neither files nor archives were read
        self._settled: dict[str, int] = {}  # frames of each run that are on the far disk
        self.backlog = SendingReport(self._journal, self._frames, receiver, address, thresholds)
        self._closings: Closings | None = None
        self._next_piece = 0.0
        self._ahead: Ahead | None = None
        self._reported: set[str] = set()
        self._begin_again()

    def _begin_again(self) -> None:
        """Forget what was under way: the far disk says what it has."""
        self._runs: dict[str, RunToSend] = {}
        self._asked: set[str] = set()  # runs whose number of lines was asked for
        self._offered: dict[str, str] = {}  # name → run
        self._later: dict[str, float] = {}  # name → when to look at it again
        self._looks: dict[str, tuple[Look, float]] = {}
        self._wanted: deque[tuple[str, int, int]] = deque()
        self._looking: dict[str, tuple[str, Future[Look]]] = {}  # name → run, what it is like
        self._making: deque[tuple[str, Future[list[bytes] | None]]] = deque()
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
        try:
            return self._run(stop, once, progress)
        finally:
            self.backlog.close()

    def _run(self, stop: threading.Event, once: bool, progress: Callable[[Sent], None]) -> Sent:
        shown = 0.0
        while not stop.is_set():
            self._begin_again()
            with (
                connected(self._address, self._key, self._receiver) as (socket, self._monitor),
                ahead() as self._ahead,
            ):
                self._say(
                    "hello",
                    version=VERSION,
                    source=f"{network.gethostname()}:{self._journal}",
                    roots=[str(self._frames), str(self._frames.resolve())],
                    pause=ceil(PIECE / self._rate) if self._rate else 0,
                )
                while not stop.is_set() and self._step(socket):
                    if time.monotonic() - shown > 1.0:
                        shown = time.monotonic()
                        progress(self._count())
                        self._write_report(shown)
                    if once and self._is_done():
                        return self._count()
            self.sent.connected = False
            stop.wait(_BACK_OFF)
        return self._count()

    def _step(self, socket: Any) -> bool:
        """Do what there is to do; return False if it must connect again."""
        now = time.monotonic()
        if self._welcome and self._monitor.poll(0):
            return False  # ZeroMQ connects again, but what was on its way is lost
        self._push(socket, now)
        if socket.poll(*self._until()) & zmq.POLLIN:
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
                self._look(now)
            self._ask_for_runs(now)
            self._advance(now)
        return True

    def _until(self) -> tuple[int, int]:
        """Return how long to wait, ms, and for what."""
        if self._outbox:
            return _POLL, zmq.POLLIN | zmq.POLLOUT
        return _SOON_READY if self._making and self._rate is None else _POLL, zmq.POLLIN

    def _say(self, do: str, payload: bytes = b"", **fields: Any) -> None:
        self._outbox.append(pack(do, payload, **fields))

    def _push(self, socket: Any, now: float) -> None:
        """Send what there is, as far as the socket and the rate let it."""
        while True:
            self._make_pieces()
            if not self._outbox and not self._next_is_made(now):
                return
            try:
                socket.send_multipart(self._outbox[0], zmq.DONTWAIT)
            except zmq.Again:
                return
            size = len(self._outbox.popleft()[1])
            self.sent.link_bytes += size
            if self._rate is not None and size:
                self._next_piece = max(now, self._next_piece) + size / self._rate
                now = time.monotonic()

    def _make_pieces(self) -> None:
        """Have pieces that are wanted made, a few ahead."""
        while self._wanted and len(self._making) < _AHEAD:
            name, start, stop = self._wanted.popleft()
            run = self._runs.get(self._offered.get(name, ""))
            if run is None or self._ahead is None:
                self._put_off(name)
                self._say("gone", name=name)
                continue
            self._making.append((name, self._ahead.piece(run.path_of(name), name, start, stop)))

    def _next_is_made(self, now: float) -> bool:
        """Put the next piece into the outbox, if it may go now."""
        if not self._making or now < self._next_piece or not self._making[0][1].done():
            return False
        name, made = self._making.popleft()
        message = made.result()
        if message is None:
            self._put_off(name)
            self._say("gone", name=name)
        else:
            self.sent.bytes += unpack(message).number("size")
            self._outbox.append(message)
        return True

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
        uid, name, why = message.fields.get("uid"), message.text("name"), message.text("why")
        if isinstance(uid, str) and message.fields.get("again") is True:
            self.sent.refused += uid not in self._again
            self._report(f"the receiver: {why}")
            self._asked.discard(uid)
            self._again[uid] = time.monotonic() + _LOOK_DAMAGED
            return
        self.sent.refused += 1
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

    def _look(self, now: float) -> None:
        """Look for journals, and close those that were abandoned."""
        self._closings = close_all_abandoned(self._journal, self._closings)
        self._find_runs(now)

    def _ask_for_runs(self, now: float) -> None:
        """Ask what the far disk has of a few runs, oldest first."""
        n_stalled = min(sum(run.is_stalled(now) for run in self._runs.values()), _MOST_RUNS - _RUNS)
        room = _RUNS + n_stalled - len(self._runs) - len(self._asked)
        waiting = self._began.keys() - self._over - self._runs.keys() - self._asked
        if room <= 0 or not waiting:
            return
        later = {**self._damaged, **self._again}
        for uid in nsmallest(room + len(later), waiting, key=self._began.__getitem__):
            if room > 0 and later.get(uid, 0.0) <= now:
                room -= 1
                self._asked.add(uid)
                self._say("run", uid=uid)

    def _find_runs(self, now: float) -> None:
        """Note when the runs began whose journals are new."""
        unread: list[Path] = []
        found = self._folder.look()[0]
        # archives after the files: what is packed meanwhile is in both lists, not in neither
        before = archived_journals(self._journal) if self._unread is None else self._unread
        for path in dict.fromkeys([*before, *found]):
            uid = path.stem
            if uid in self._over:
                continue
            if self._damaged.get(uid, 0.0) > now:
                unread.append(path)
                continue
            try:
                start = read_start(path)
                self._damaged.pop(uid, None)
                if ADOPTED in start:
                    log.info("run %s is not sent: its frames lie in files of others", uid[:8])
                    self._over.add(uid)
                    continue
                self._began[uid] = float(start.get("time", 0.0))
            except JournalError as error:  # perhaps it is being written
                self._report(str(error))
                self._damaged[uid] = now + _LOOK_DAMAGED
                unread.append(path)
        self._unread = unread

    def _advance(self, now: float) -> None:
        self._offer_complete(now)
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
        """Have frame files looked at, to be offered once they are complete."""
        for _ in range(min(len(run.to_offer), _OFFERS)):
            if len(self._offered) + len(self._looking) >= _OFFERS or self._ahead is None:
                return
            name = run.to_offer.popleft()
            if self._later.get(name, 0.0) > now:
                run.to_offer.append(name)
                continue
            self._later.pop(name, None)
            path = run.path_of(name)
            if name not in run.there_before:
                self._looking[name] = run.uid, self._ahead.look(path)
                continue
            try:
                size = path.stat().st_size
            except OSError as error:
                self._look_again(run, name, now, error)
                continue
            self._offered[name] = run.uid
            self._say("offer", name=name, size=size, sha256="")

    def _offer_complete(self, now: float) -> None:
        """Offer the files that were looked at and are complete."""
        for name in [name for name, (_, look) in self._looking.items() if look.done()]:
            uid, looked = self._looking.pop(name)
            if (run := self._runs.get(uid)) is None:
                continue
            try:
                look = looked.result()
            except OSError as error:
                self._look_again(run, name, now, error)
                continue
            run.unreadable.discard(name)
            if not (look.complete or self._is_steady(name, look, now)):
                self._look_again(run, name, now)
                continue
            self._offered[name] = uid
            self._say("offer", name=name, size=look.size, sha256=look.sha256)

    def _look_again(
        self, run: RunToSend, name: str, now: float, error: OSError | None = None
    ) -> None:
        wait = _SOON
        if error is not None and not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            run.cannot_read(name, error)
            wait = _AGAIN
        self._later[name] = now + wait
        run.to_offer.append(name)

    def _is_steady(self, name: str, look: Look, now: float) -> bool:
        """Return whether a file that is not complete has not changed for a while."""
        before, since = self._looks.setdefault(name, (look, now))
        if before != look:
            self._looks[name] = look, now
            return False
        return now - since > _STEADY

    def _is_done(self) -> bool:
        if not self._welcome or self._runs or self._asked:
            return False
        known = {path.stem for path in all_journals(self._journal)}
        return known <= self._over | set(self._damaged) | set(self._again)

    def _count(self) -> Sent:
        self.sent.waiting = sum(len(run.open) for run in self._runs.values())
        self.sent.damaged = len(self._damaged.keys() - self._over)
        self.sent.absent = sum(len(run.absent) for run in self._runs.values())
        self.sent.unreadable = sum(len(run.unreadable) for run in self._runs.values())
        return self.sent

    def _write_report(self, now: float) -> None:
        if not self._welcome:
            self._find_runs(now)
        for run in self._runs.values():
            self._settled[run.uid] = max(self._settled.get(run.uid, 0), run.n_settled)
        waiting = self._began.keys() - self._over
        self._settled = {uid: n for uid, n in self._settled.items() if uid in waiting}
        self.backlog.write(
            now, runs=waiting, settled=self._settled, files=self.sent.files,
            bytes_of_files=self.sent.bytes, connected=self._welcome,
            unreadable=self._count().unreadable,
        )  # fmt: skip

    def _report(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            log.warning("%s", printable(text))
