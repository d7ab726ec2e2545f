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
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from offbragg.errors import JournalError
from offbragg.files.abandoned import close_all_abandoned
from offbragg.files.journal_folder import JournalFolder
from offbragg.files.lock import lock
from offbragg.followers.backlog import BACKLOG
from offbragg.followers.followed_run import FollowedRun, Follower

log = logging.getLogger(__name__)

_AT_ONCE = 2  # runs with more to do at once that are worked at: each has its threads and buffers
_LOOK = 0.05  # how often journals are looked at for new documents, s
_LOOK_FOR_ABANDONED = 1.0  # how often for journals that lost their RunEngine, s
_TRIES_ONCE = 3  # how often a failing run is tried when asked to go through it once


@runtime_checkable
class _HasBacklog(Protocol):
    def backlog(self) -> dict[str, Any]: ...


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
    archived: Sequence[Path] = (),
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
    archived
        Journals in an archive that are followed, too: what is there has been followed to its end.

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
                    at_once=at_once, failed_closings=failed_closings, archived=archived,
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
        archived: Sequence[Path],
    ) -> None:
        super().__init__(name=f"offbragg-{follower.name}", daemon=True)
        self.follower = follower
        self.failed: list[str] = []
        self.broken: Exception | None = None
        self.finishes = 0
        """How often any run was finished."""
        self._folder = JournalFolder(journal)
        self._new = list(archived)
        self._once = once
        self._stop_asked = stop
        self._at_once = at_once
        self._before = before  # a run that they failed may never be finished by this one
        self._failed_closings = failed_closings  # of a journal: its run never ends
        self._runs: dict[Path, FollowedRun] = {}
        self._open: dict[Path, FollowedRun] = {}  # of them, those that are not finished
        self._lacking: list[FollowedRun] = []  # finished ones that may get more
        self._looked_back = 0  # how often those before had finished a run at the last look
        self._blind = False  # whether the journals cannot be looked at just now

    def damaged(self) -> list[str]:
        """List the runs whose journals do not begin with a start document."""
        return [run.path.stem for run in self._runs.values() if not run.has_start]

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
                            self._advance(live)
                        looked = time.monotonic()
                    if run.finished:
                        continue  # by now
                    newest = run is unfinished[-1] and not self._once  # may be measured just now
                    if busy >= self._at_once and not newest:
                        continue  # its turn comes
                    self._advance(run)
                    busy += run.busy
                    if self._once and not run.finished and self._is_hopeless(run):
                        run.finished, run.given_up = True, True
                        if run.has_start or not run.is_damaged:  # else `damaged` lists it
                            self.failed.append(run.path.stem)
                if self._once and alone and all(run.finished for run in self._open.values()):
                    return
                if not any(run.busy for run in unfinished):
                    self._stop_asked.wait(_LOOK)
        finally:
            for run in self._open.values():
                run.close()

    def _advance(self, run: FollowedRun) -> None:
        before = run.finishes
        run.advance()
        self.finishes += run.finishes - before  # after its own: who sees this sees that
        if run.may_get_more:
            self._lacking.append(run)

    def _finished_before(self, path: Path) -> int:
        """Count how often a run was finished by the followers before this one."""
        runs = (tail._runs.get(path) for tail in self._before)
        return sum(run.finishes for run in runs if run is not None)

    def _is_hopeless(self, run: FollowedRun) -> bool:
        """Return whether a run can be given up, when asked to go through it once."""
        if any(run.path.stem in tail.failed for tail in self._before):
            return True
        if run.is_damaged or self._failed_closings(run.path) >= _TRIES_ONCE:
            return True
        return run.put_off or (run.failures > 0 and run.tries >= _TRIES_ONCE)

    def _unfinished(self) -> list[FollowedRun]:
        """Look for new journals; return the runs with something to do, the newest last."""
        try:
            new, gone = self._folder.look()
        except JournalError as error:
            if self._once:
                raise
            if not self._blind:
                log.error("%s: %s", self.follower.name, error)
            self._blind, new, gone = True, [], []
        else:
            self._blind = False
        for path in gone:
            if path in self._runs and path not in self._open:
                del self._runs[path]  # it is in an archive, or was moved away
        for path in [*self._new, *new]:
            if path not in self._runs:
                self._runs[path] = self._open[path] = FollowedRun(
                    path, self.follower, self._finished_before
                )
        self._new = []
        for run in self._finished_to_look_at():
            if run.finished and run.has_more(once=self._once):
                run.reopen()
                self._open[run.path] = run
        self._open = {path: run for path, run in self._open.items() if not run.finished}
        return sorted(self._open.values(), key=lambda run: run.began)

    def _finished_to_look_at(self) -> list[FollowedRun]:
        """Return the finished runs that may have something to do again; mostly there are few."""
        before = sum(tail.finishes for tail in self._before)
        if before != self._looked_back:
            self._looked_back = before
            return list(self._runs.values())
        self._lacking = [run for run in self._lacking if run.may_get_more]
        return self._lacking
