"""What is to be sent of one run: the lines of its journal, each after the frames that it names."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from offbragg.errors import JournalError, RejectedFrame
from offbragg.files.frame_files import FRAME_SEQUENCES, FrameFiles, find_run_folder, frame_files
from offbragg.files.journal_file import open_journal
from offbragg.files.journal_line import LineError, decode_line
from offbragg.transfer.messages import LARGEST

_STALLED = 10.0  # time without progress after which a run takes no turn of another, s
_EVERY = 0.1  # how often a journal that was read to its end is looked at, s
_READ = 1 << 20  # bytes of a journal that are read at a time
_MOST_LINES = 2000  # that wait to be sent
_LONGEST = LARGEST - 4096  # bytes of a line: a message has its fields, too
_BATCH = 256 << 10  # bytes of lines in one message, but for a line that is longer


@dataclass(slots=True)
class _Line:
    number: int
    text: bytes
    frames: list[str]
    """Names of frames that must be on the far disk before."""
    is_stop: bool = False
    since: float | None = None
    """When it became the next one to be sent, monotonic s."""


@dataclass(slots=True)
class _Sequence:
    files: FrameFiles
    named: set[int] = field(default_factory=set[int])


class RunToSend:
    """One run, as its journal grows.

    Parameters
    ----------
    path
        Its journal.
    frames
        The sender's frames directory: frames elsewhere are not sent.
    have
        Complete lines that the far disk has.
    patience
        How long a line waits for a frame whose file is not there, s.
    report
        Called with what a person should know.
    """

    def __init__(
        self,
        path: Path,
        frames: Path,
        have: int,
        *,
        patience: float,
        report: Callable[[str], None],
    ) -> None:
        self.path, self.uid = path, path.stem
        self.have = have
        self.in_flight = False
        """Whether lines were sent that are not acknowledged."""
        self.to_offer: deque[str] = deque()
        """Names of frames in the order in which they go."""
        self.there_before: set[str] = set()
        """Of them, those that lines name which the far disk has: they are asked for by size."""
        self.open: set[str] = set()
        """Names of frames that are not on the far disk."""
        self.absent: set[str] = set()
        """Of them, those for which no line waits any longer."""
        self.unreadable: set[str] = set()
        """Names of frames whose files are there and cannot be read."""
        self._moved = time.monotonic()
        self.n_settled = 0
        """Number of frames that are on the far disk, or never will be."""
        self._root, self._patience, self._report = frames, patience, report
        self._position = self._number = 0
        self._start: dict[str, Any] = {}
        self._descriptors: list[dict[str, Any]] = []
        self._sequences: dict[str, _Sequence] = {}
        self._lines: deque[_Line] = deque()
        self._ended = False
        self._next_read = 0.0

    def read(self) -> None:
        """Read what is new in the journal, as far as there is room.

        Raises
        ------
        JournalError
            If it cannot be read, or a line of it is damaged.
        """
        now = time.monotonic()
        if self._ended or len(self._lines) >= _MOST_LINES or now < self._next_read:
            return
        try:
            is_longer = self.path.stat().st_size != self._position
        except OSError:  # in an archive, perhaps: reading it says what is wrong
            is_longer = True
        if not is_longer:
            self._next_read = now + _EVERY
            return
        with open_journal(self.path) as journal:
            journal.seek(self._position)
            text = journal.read(_READ)
            if b"\n" not in text:
                text += journal.readline()  # a line that is longer
        if len(text) < _READ:
            self._next_read = now + _EVERY
        for line in text[: text.rfind(b"\n") + 1].splitlines(keepends=True):
            if len(line) > _LONGEST:
                raise JournalError(
                    f"line {self._number + 1} of journal {self.path.name} cannot be sent: it has "
                    f"{len(line)} bytes, and a message holds {_LONGEST}\n{self.path}"
                )
            try:
                name, document = decode_line(line[:-1])
            except LineError as error:
                raise JournalError(
                    f"line {self._number + 1} of journal {self.path.name} cannot be sent: {error}\n"
                    f"{self.path}\noffbragg stack --once --repair keeps the damaged journal and "
                    "continues with its intact lines."
                ) from error
            names = self._frames_of(name, document)
            number, self._number = self._number, self._number + 1
            self._position += len(line)
            self._moved = now
            fresh = [each for each in names if each not in self.open]
            self.open.update(fresh)
            self.to_offer.extend(fresh)
            if number < self.have:
                self.there_before.update(fresh)
            else:
                self._lines.append(_Line(number, line, names, name == "stop"))
            if name == "stop":
                self._ended = True
                break

    def next_lines(self) -> tuple[int, bytes]:
        """Return the number of the first line that may go now, and the lines; they stay."""
        now = time.monotonic()
        texts: list[bytes] = []
        size = 0
        for line in self._lines:
            if not self._may_go(line, now, is_next=not texts):
                break
            if texts and size + len(line.text) > _BATCH:
                break
            texts.append(line.text)
            size += len(line.text)
        return self.have, b"".join(texts)

    def acknowledged(self, have: int) -> bool:
        """Note how many lines the far disk has; return False if it has others than were sent."""
        self.in_flight = False
        if have < self.have or have > self._number:
            return False
        if have > self.have:
            self._moved = time.monotonic()
        self.have = have
        while self._lines and self._lines[0].number < have:
            self._lines.popleft()
        return True

    def path_of(self, name: str) -> Path:
        """Return where the file of a name is."""
        return self._root.joinpath(*PurePosixPath(name).parts)

    def settled(self, name: str) -> None:
        """Note that a frame is on the far disk, or never will be."""
        self._moved = time.monotonic()
        self.n_settled += name in self.open
        self.unreadable.discard(name)
        self.open.discard(name)
        self.absent.discard(name)
        self.there_before.discard(name)

    def cannot_read(self, name: str, error: OSError) -> None:
        """Note that a frame file is there and cannot be read; report the first of the run."""
        if not self.unreadable:
            self._report(
                f"run {self.uid[:8]}: {self.path_of(name)} cannot be read: {error.strerror}: the "
                "run waits for it on this side, and it is tried again every second"
            )
        self.unreadable.add(name)

    def is_stalled(self, now: float) -> bool:
        """Return whether files that cannot be read have held it up for a while."""
        return bool(self.unreadable) and now - self._moved > _STALLED

    def _may_go(self, line: _Line, now: float, *, is_next: bool) -> bool:
        waiting = [name for name in line.frames if name in self.open]
        if line.is_stop:
            waiting = list(self.open)
        waiting = [name for name in waiting if name not in self.absent]
        if not waiting:
            return True
        if not is_next:
            return False
        line.since = line.since or now
        if now - line.since < self._patience:
            return False
        gone = [name for name in waiting if not _exists(self.path_of(name))]
        if len(gone) < len(waiting):
            return False
        self.absent.update(gone)
        self._report(
            f"run {self.uid[:8]}: {len(gone)} frame files are not there after "
            f"{self._patience:g} s, from {gone[0]} on: its journal goes on without them"
        )
        return True

    def _frames_of(self, name: str, document: dict[str, Any]) -> list[str]:
        """Take a document; return the names of the frames that go before its line."""
        try:
            if name == "start":
                self._start = document
            elif name == "descriptor":
                self._descriptors.append(document)
            elif name == "stream_resource" and document["mimetype"] in FRAME_SEQUENCES:
                files = FrameFiles(document, self._root)
                self._sequences[document["uid"]] = _Sequence(files)
            elif name == "stream_datum":
                sequence = self._sequences.get(document["stream_resource"])
                if sequence is not None:
                    first, stop = document["indices"]["start"], document["indices"]["stop"]
                    return self._name(sequence, range(first, stop))
            elif name == "stop":
                return self._rest()
        except (RejectedFrame, KeyError, TypeError, ValueError, AttributeError) as error:
            why = str(error) if isinstance(error, RejectedFrame) else repr(error)
            self._report(f"run {self.uid[:8]}: {name}: {why}: its frames are not sent")
        return []

    def _rest(self) -> list[str]:
        """Return frames that are there and that no document announced."""
        if not self._sequences:
            files = frame_files(self._start, []) if "files" in self._start else None
            found = files or find_run_folder(self._start, self._descriptors, self._root, self._root)
            if found is not None:
                self._sequences[""] = _Sequence(found)
        sweep: Any = self._start.get("sweep") or {}
        n_frames = sweep.get("n_frames", 0)
        names: list[str] = []
        for sequence in self._sequences.values():
            rest = (n for n in range(n_frames) if n not in sequence.named)
            names += self._name(sequence, [n for n in rest if _exists(sequence.files.path(n))])
        return names

    def _name(self, sequence: _Sequence, numbers: range | list[int]) -> list[str]:
        sequence.named.update(numbers)
        directory = sequence.files.directory
        root = self._root if directory.is_relative_to(self._root) else self._root.resolve()
        try:
            return [sequence.files.path(n).relative_to(root).as_posix() for n in numbers]
        except ValueError:
            raise RejectedFrame(f"frames in {str(directory)!r} are not below {root}") from None


def _exists(path: Path) -> bool:
    """Return whether a file is there, or may be: its folder may be closed to this process."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
