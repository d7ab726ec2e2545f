"""One run as one follower sees it: fed with its documents, tried again, and finished."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from offbragg.errors import JournalError, OffbraggError
from offbragg.files.journal_file import JournalReader, read_start

log = logging.getLogger(__name__)

_BACK_OFF = (0.5, 1.0, 2.0, 5.0, 10.0)  # waits after a failure, s; the last one repeats
_TRIES_DAMAGED = 3  # how often a damaged journal is read before its run waits for a change
_LOOK_DAMAGED = 10.0  # how often a damaged journal is looked at for a change, s
_LATER = 86400.0  # how long after its end a finished run may still get more, s
_LOOK_LATER = 5.0  # how often that is looked at, s, and
_LESS_OFTEN = 20  # the older the run the less often: once in a 20th part of its age


class RunFollower(Protocol):
    """What a follower makes of one run."""

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take the next document of the run's journal, beginning with the first."""

    def poll(self) -> bool:
        """Do what there is to do; return True once the run is finished for this follower.

        A follower that lacks something then may have an attribute ``later``: a function that
        returns, cheaply, whether it has come. It is asked for a day after the run's end, and the
        run is opened again once it returns True.
        """
        ...

    def close(self) -> None:
        """Release the run; its files say how far it came."""


class Follower(Protocol):
    """Something that is derived from runs.

    It waits for what those before it make, and gives up what they gave up. One that needs only
    some of them has their names in an attribute ``after``.
    """

    name: str

    def done(self, start: Mapping[str, Any]) -> bool:
        """Return whether the run of this start document is finished already."""
        ...

    def open(self, start: Mapping[str, Any]) -> RunFollower:
        """Open a run, to begin it or to go on with it."""
        ...


class FollowedRun:
    """One run as one follower sees it, with its own position in the journal.

    There may be very many that are finished: those hold no document.
    """

    __slots__ = (
        "_finished_at", "_finished_before", "_follower", "_later", "_logged", "_looked",
        "_next_look", "_next_try", "_over", "_reader", "_run", "_seen_before", "began",
        "failures", "finished", "finishes", "given_up", "has_start", "is_damaged", "path",
        "put_off", "tries",
    )  # fmt: skip

    def __init__(
        self, path: Path, follower: Follower, finished_before: Callable[[Path], int]
    ) -> None:
        self.path = path
        self.finished = False
        self.finishes = 0  # how often the follower had something to do, and finished it
        self.given_up = False
        self.tries = 0  # how often it was begun
        self.failures = 0  # one after the other
        self.is_damaged = False
        """Whether its journal is damaged; it is looked at again once that has changed."""
        self._looked: tuple[int, int] | None = None  # size and time of the damaged journal
        self.put_off = False  # whether trying again soon is useless
        self._logged = ""  # the last failure
        self._follower = follower
        self._run: RunFollower | None = None
        self._reader: JournalReader | None = None
        self._next_try = 0.0
        self._finished_before = finished_before
        self._seen_before = 0  # how often it was finished by others when it was begun
        self._over: float | None = None  # when the run ended, POSIX s
        self._later: Callable[[], bool] | None = None
        self._next_look = self._finished_at = 0.0
        self.began = 0.0
        self.has_start = False
        """Whether its journal begins with a start document."""
        looked = self._look()
        try:
            self._read_start()
        except JournalError as error:
            log.error("%s", error)
            # without a start document nothing can be made of it until it changes, as a file does
            # that was just created; what cannot be read is tried again
            if not isinstance(error.__cause__, OSError):
                self.is_damaged, self._looked = True, looked

    def _read_start(self) -> dict[str, Any]:
        start = read_start(self.path)
        self.began, self.has_start = start.get("time", 0.0), True
        return start

    @property
    def may_get_more(self) -> bool:
        """Whether it is finished, and what it lacks may come."""
        return self.finished and self._later is not None

    def advance(self) -> None:
        """Feed what is new and let the follower work; a failure is logged and tried again."""
        if time.monotonic() < self._next_try or self._is_still_damaged():
            return
        try:
            if self._run is None:
                self.tries += 1
                self._seen_before = self._finished_before(self.path)
                start = self._read_start()
                if self._follower.done(start):
                    self.finished = True
                    return
                self._run = self._follower.open(start)
            if self._reader is None:
                self._reader = JournalReader(self.path)
            for name, doc in self._reader.read():
                self._feed(self._run, name, doc)
            self.finished = self._run.poll()
            if self.finished:
                self._reader = None
                self._later = getattr(self._run, "later", None)
                self._finished_at = time.monotonic()
                self._wait_to_look()
                self.close()
                self.finishes += 1
        except Exception as error:  # any follower, any run: the others go on
            self._note(error)
            self.close()
            self._reader = None
        else:
            self.failures, self.put_off, self._logged = 0, False, ""

    def has_more(self, *, once: bool) -> bool:
        """Return whether a finished run has something to do again.

        Because a follower before this one had, or what this one lacked has come.
        """
        if self.given_up:
            return False
        if self._finished_before(self.path) != self._seen_before:
            return True
        if once or self._later is None or time.monotonic() < self._next_look:
            return False
        self._wait_to_look()
        try:
            return self._later is not None and self._later()
        except Exception as error:  # any follower, any run: the others go on
            log.warning("%s, run %s: %s", self._follower.name, self.path.stem[:8], error)
            self._later = None
            return False

    def _wait_to_look(self) -> None:
        """Set when to look for what is lacking; no more if the run ended long ago."""
        if self._later is None:
            return
        # a clock may have been set back since
        age = max(time.time() - (self._over or 0.0), time.monotonic() - self._finished_at)
        if age > _LATER:
            self._later = None
        self._next_look = time.monotonic() + max(_LOOK_LATER, age / _LESS_OFTEN)

    def reopen(self) -> None:
        """Begin again with a run that was finished."""
        self.finished, self._later, self._reader = False, None, None

    def _feed(self, run: RunFollower, name: str, doc: Mapping[str, Any]) -> None:
        if name == "stop":
            self._over = doc.get("time")
        try:
            run(name, doc)
        except OffbraggError:
            raise
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise JournalError(
                f"journal {self.path.name} has a {name} document that {self._follower.name} cannot "
                f"use: {error!r}\n{self.path}: uid {doc.get('uid')!r}"
            ) from error

    def _note(self, error: Exception) -> None:
        """Log a failure and set when to try again; a damaged journal must change first."""
        wait = _BACK_OFF[min(self.failures, len(_BACK_OFF) - 1)]
        wait = getattr(error, "retry_after", wait)
        self.put_off = hasattr(error, "retry_after")
        self.failures += 1
        run = self.path.stem[:8]
        before, self._logged = self._logged, f"{type(error).__name__}: {error}"
        damaged = isinstance(error, JournalError) and not isinstance(error.__cause__, OSError)
        if damaged and self.failures >= _TRIES_DAMAGED:
            self.is_damaged, self._looked, wait = True, self._look(), _LOOK_DAMAGED
            log.error("%s, run %s is skipped: %s", self._follower.name, run, error)
        elif damaged:  # a network disk may show half of a line for a moment
            log.info("%s, run %s: %s", self._follower.name, run, error)
        elif self._logged == before:
            pass  # once is enough, it is tried again for hours
        elif isinstance(error, OffbraggError | OSError):
            log.warning("%s, run %s: %s", self._follower.name, run, error)
        else:
            log.exception("%s, run %s: unexpected", self._follower.name, run)
        self._next_try = time.monotonic() + wait

    def _is_still_damaged(self) -> bool:
        """Return whether a damaged journal is as it was when it was found to be damaged."""
        if not self.is_damaged:
            return False
        if self._look() == self._looked:
            self._next_try = time.monotonic() + _LOOK_DAMAGED
            return True
        self.is_damaged, self.failures = False, 0
        return False

    def _look(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    @property
    def busy(self) -> bool:
        """Whether the follower has more to do at once; it says so by an attribute ``busy``."""
        return bool(getattr(self._run, "busy", False))

    def close(self) -> None:
        """Release the run."""
        run, self._run = self._run, None
        if run is not None:
            try:
                run.close()
            except Exception as error:  # it is released all the same
                log.warning("%s, run %s: %s", self._follower.name, self.path.stem[:8], error)
