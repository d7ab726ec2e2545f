"""Journal → followers: everything that is derived from a run, restartable at any moment.

``offbragg stack`` runs :func:`follow` in a process of its own. Each follower (the stacker,
the publisher) goes through the journals in a thread of its own, at its own pace: one that is
behind, or whose catalog is away, does not hold up the others. A follower keeps its state in the
files it makes; started again it reads a journal from the first line and goes on from that state.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from offbragg.errors import JournalError, OffbraggError
from offbragg.files.abandoned import close_all_abandoned
from offbragg.files.journal_file import JournalReader, journals, read_start
from offbragg.files.lock import lock
from offbragg.followers.backlog import BACKLOG

log = logging.getLogger(__name__)

_AT_ONCE = 2  # runs with more to do at once that are worked at: each has its threads and buffers
_LOOK = 0.05  # how often journals are looked at for new documents, s
_LOOK_FOR_ABANDONED = 1.0  # how often for journals that lost their RunEngine, s
_BACK_OFF = (0.5, 1.0, 2.0, 5.0, 10.0)  # waits after a failure, s; the last one repeats
_TRIES_ONCE = 3  # how often a failing run is tried when asked to go through it once
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


@runtime_checkable
class _HasBacklog(Protocol):
    def backlog(self) -> dict[str, Any]: ...


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


@dataclass(frozen=True, slots=True)
class JournalLock:
    """The right to follow a journal directory, which one process at a time has."""

    journal: Path


@contextlib.contextmanager
def following(journal: Path) -> Generator[JournalLock]:
    """Hold the lock of a journal directory: no other process follows it meanwhile.

    `follow` takes it itself; a caller that does more, such as to repair first, holds it meanwhile.

    Parameters
    ----------
    journal
        The journal directory; made if need be.

    Raises
    ------
    JournalError
        If another process follows it, or it cannot be made.
    """
    try:
        journal.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JournalError(
            f"the journal directory cannot be made: {error.strerror}\n{journal}"
        ) from error
    with (journal / ".follow.lock").open("w") as held:
        try:
            lock(held)
        except BlockingIOError as error:
            raise JournalError(
                f"another offbragg stack follows this journal already\n"
                f"{journal}\n"
                "One is enough: it stacks every run. To run this one, end the other one first."
            ) from error
        yield JournalLock(journal)


def follow(
    journal: Path,
    followers: Sequence[Follower],
    *,
    once: bool = False,
    stop: threading.Event | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    at_once: int = _AT_ONCE,
    held: JournalLock | None = None,
) -> dict[str, list[str]]:
    """Feed every run of a journal directory to every follower.

    Parameters
    ----------
    journal
        The journal directory; made if need be.
    followers
        Who follows; one may wait for what those before it make.
    once
        Return when every run that is closed is finished for every follower, instead of waiting
        for more; a run that is still open is followed to its end.
    stop
        Set it to end.
    progress
        Called once a second with (frames decided, frames in all) of the runs that are being
        stacked.
    at_once
        Number of runs that are worked at in turns while they keep a follower busy; with 1 they are
        finished in the order in which they were measured.
    held
        The lock of this journal directory, if the caller holds it already (see `following`).

    Returns
    -------
    failed
        For each follower, the runs that it could not finish; under "journal" those whose journals
        do not begin with a start document, if there are any (``once`` only).

    Raises
    ------
    JournalError
        If another process follows the same journal directory: two stackers would both write.
    """
    stop = stop or threading.Event()
    is_held = held is not None and held.journal == journal
    with contextlib.nullcontext() if is_held else following(journal):
        closings = close_all_abandoned(journal)

        def failed_closings(path: Path) -> int:
            return closings.failures.get(path, 0)

        tails: list[_Tail] = []
        for follower in followers:
            tails.append(
                _Tail(
                    journal, follower, once=once, stop=stop, before=_needed(follower, tails),
                    at_once=at_once, failed_closings=failed_closings,
                )
            )  # fmt: skip
        for tail in tails:
            tail.start()
        backlogs: dict[str, Any] = {}
        try:
            while any(tail.is_alive() for tail in tails):
                if stop.wait(_LOOK_FOR_ABANDONED):
                    break
                closings = close_all_abandoned(journal, closings)
                backlogs = _write_backlogs(journal, followers, backlogs)
                for backlog in backlogs.values():
                    if "decided" in backlog:
                        progress(backlog["decided"], backlog["frames"])
        finally:
            stop.set()
            for tail in tails:
                tail.join()
            (journal / BACKLOG).unlink(missing_ok=True)
        for tail in tails:
            if tail.broken is not None:
                raise tail.broken
    failed = {tail.follower.name: tail.failed for tail in tails}
    if once and (damaged := sorted({uid for tail in tails for uid in tail.damaged()})):
        failed["journal"] = damaged
    return failed


def _needed(follower: Follower, tails: Sequence[_Tail]) -> tuple[_Tail, ...]:
    """Return those that a follower waits for, of those before it."""
    after: frozenset[str] | None = getattr(follower, "after", None)
    return tuple(tail for tail in tails if after is None or tail.follower.name in after)


def _write_backlogs(
    journal: Path, followers: Sequence[Follower], before: dict[str, Any]
) -> dict[str, Any]:
    """Write what followers that have a ``backlog`` report, for `read_backlog` elsewhere."""
    backlogs = {f.name: f.backlog() for f in followers if isinstance(f, _HasBacklog)}
    if backlogs != before:
        hidden = journal / f"{BACKLOG}.{os.getpid()}"
        with contextlib.suppress(OSError):  # a full disk is reported by those who must write
            hidden.write_text(json.dumps(backlogs))
            hidden.replace(journal / BACKLOG)
    return backlogs


class _Tail(threading.Thread):
    """One follower going through all journals, in the order of their runs."""

    def __init__(
        self,
        journal: Path,
        follower: Follower,
        *,
        once: bool,
        stop: threading.Event,
        before: tuple[_Tail, ...],
        at_once: int,
        failed_closings: Callable[[Path], int],
    ) -> None:
        super().__init__(name=f"offbragg-{follower.name}", daemon=True)
        self.follower = follower
        self.failed: list[str] = []
        self.broken: Exception | None = None
        self._journal = journal
        self._once = once
        self._stop_asked = stop
        self._at_once = at_once
        self._before = before  # a run that they failed may never be finished by this one
        self._failed_closings = failed_closings  # of a journal: its run never ends
        self._runs: dict[Path, _Run] = {}
        self._blind = False  # whether the journals cannot be looked at just now

    def damaged(self) -> list[str]:
        """List the runs whose journals do not begin with a start document."""
        return [run.path.stem for run in self._runs.values() if not run.start]

    def run(self) -> None:
        """Look, feed, poll, until asked to stop or, once, until nothing is left."""
        try:
            self._follow()
        except Exception as error:  # it must not end unnoticed
            self.broken = error
            self._stop_asked.set()

    def _follow(self) -> None:
        try:
            while not self._stop_asked.is_set():
                # before the look: what they still finish is seen at the next one
                alone = not any(tail.is_alive() for tail in self._before)
                unfinished = self._unfinished()
                busy, looked = 0, time.monotonic()
                for run in unfinished:
                    if self._stop_asked.is_set():
                        break
                    if not self._once and time.monotonic() - looked > _LOOK:
                        # after a start thousands of old runs may be looked at one by one
                        for live in self._unfinished()[-1:]:
                            live.advance()
                        looked = time.monotonic()
                    if run.finished:
                        continue  # by now
                    newest = run is unfinished[-1] and not self._once  # may be measured just now
                    if busy >= self._at_once and not newest:
                        continue  # its turn comes
                    run.advance()
                    busy += run.busy
                    if self._once and not run.finished and self._is_hopeless(run):
                        run.finished, run.given_up = True, True
                        self.failed.append(run.path.stem)
                if self._once and alone and all(run.finished for run in self._runs.values()):
                    return
                if not any(run.busy for run in unfinished):
                    self._stop_asked.wait(_LOOK)
        finally:
            for run in self._runs.values():
                run.close()

    def _finished_before(self, path: Path) -> int:
        """Count how often a run was finished by the followers before this one."""
        runs = (tail._runs.get(path) for tail in self._before)
        return sum(run.finishes for run in runs if run is not None)

    def _is_hopeless(self, run: _Run) -> bool:
        """Return whether a run can be given up, when asked to go through it once."""
        if any(run.path.stem in tail.failed for tail in self._before):
            return True
        if run.is_damaged or self._failed_closings(run.path) >= _TRIES_ONCE:
            return True
        return run.put_off or (run.failures > 0 and run.tries >= _TRIES_ONCE)

    def _unfinished(self) -> list[_Run]:
        """Look for new journals; return the runs with something to do, the newest last."""
        try:
            found = journals(self._journal)
        except JournalError as error:
            if self._once:
                raise
            if not self._blind:
                log.error("%s: %s", self.follower.name, error)
            self._blind, found = True, []
        else:
            self._blind = False
        for path in found:
            if path not in self._runs:
                self._runs[path] = _Run(path, self.follower, self._finished_before)
        for run in self._runs.values():
            if run.finished and run.has_more(once=self._once):
                run.reopen()
        unfinished = [run for run in self._runs.values() if not run.finished]
        return sorted(unfinished, key=lambda run: run.start.get("time", 0.0))


class _Run:
    """One run as one follower sees it, with its own position in the journal."""

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
        self._reader = JournalReader(path)
        self._next_try = 0.0
        self._finished_before = finished_before
        self._seen_before = 0  # how often it was finished by others when it was begun
        self._over: float | None = None  # when the run ended, POSIX s
        self._later: Callable[[], bool] | None = None
        self._next_look = self._finished_at = 0.0
        self.start: dict[str, Any] = {}
        try:
            self.start = read_start(path)
        except JournalError as error:
            log.error("%s", error)
            # without a start document nothing can be made of it; what cannot be read is tried again
            self.finished = not isinstance(error.__cause__, OSError)

    def advance(self) -> None:
        """Feed what is new and let the follower work; a failure is logged and tried again."""
        if time.monotonic() < self._next_try or self._is_still_damaged():
            return
        try:
            if self._run is None:
                self.tries += 1
                self._seen_before = self._finished_before(self.path)
                self.start = self.start or read_start(self.path)
                if self._follower.done(self.start):
                    self.finished = True
                    return
                self._run = self._follower.open(self.start)
            for name, doc in self._reader.read():
                self._feed(self._run, name, doc)
            self.finished = self._run.poll()
            if self.finished:
                self._later = getattr(self._run, "later", None)
                self._finished_at = time.monotonic()
                self._wait_to_look()
                self.close()
                self.finishes += 1
        except Exception as error:  # any follower, any run: the others go on
            self._note(error)
            self.close()
            self._reader = JournalReader(self.path)
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
        self.finished, self._later = False, None
        self._reader = JournalReader(self.path)

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
