"""The publisher: runs into the catalog, with their frames pointing at the scan file.

It follows the journal like the stacker does. What it writes is a pure function of the journal
and the scan file, so it can always be done again: a run that is in the catalog but not whole
is deleted there (records only, never a file) and published from its first document.

In the catalog, ``primary`` holds the stack (an array that grows) and one row per frame: time,
angle, every per-frame column, status, reason. Both are read from the scan file on
request. The stop document is published last, when the scan file is complete.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx
import pyarrow as pa  # pyright: ignore[reportMissingTypeStubs]
from jsonschema import ValidationError
from tiled.client.container import Container  # pyright: ignore[reportMissingTypeStubs]

from offbragg.errors import CatalogError, PublishError, ScanFileError
from offbragg.files.find import find_scan_file
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.followers.run_writer import LiveRunWriter, RunNormalizer, take_the_place

if TYPE_CHECKING:
    from bluesky_tiled_plugins.clients.catalog_of_bluesky_runs import CatalogOfBlueskyRuns  # pyright: ignore[reportMissingTypeStubs]
from offbragg.followers.run_documents import (
    Document,
    frame_totals,
    frames_datum,
    has_frames,
    image_key,
    is_per_frame_stream,
    provisional_descriptor,
    rewrite_descriptor,
    rewrite_stop,
    rows_resource,
    stack_resource,
    summary_documents,
)

log = logging.getLogger(__name__)


_INTERVAL = 0.1  # at most one look for new frames in this time, s, and twice it if slow


_EVENTS = 1.0  # at most one append to a stream in this time, s


_SLOW = 0.1  # a look that takes longer is slow, s


_TURN = 0.05  # how long one call of `poll` may publish what is not a frame, s


_PATIENCE = 10.0  # how long a scan file that cannot be opened is tried again, s


_REFUSED = frozenset({400, 413, 415, 422})  # answers that are the same however often one asks


_AWAY = 0.4  # a catalog that was away just now is not asked again in this time, s


_TRIES = 3  # the server's own failures of the same run, until they are reported


_FAILING = 60.0  # how long the server is left alone with that run then, s


class Publisher:
    """Follow runs and keep the catalog's copy of each.

    Parameters
    ----------
    client_factory
        Connects to the catalog; it is tried again later, so it need not wait for a server:
        ``lambda: connect(url, key, timeout=0.0)``.
    experiment
        Root of the experiment's directory tree, where the scan files are.
    interval
        Frames go to the catalog together, once in this time, s.
    """

    name = "publish"

    def __init__(
        self,
        client_factory: Callable[[], CatalogOfBlueskyRuns],
        experiment: Path,
        *,
        interval: float = _INTERVAL,
    ) -> None:
        take_the_place()
        self.experiment = Path(experiment)
        self.interval = interval
        self._connect = client_factory
        self._client: CatalogOfBlueskyRuns | None = None
        self._away = 0.0, ""  # until when the catalog is not asked again, and why
        self._waiting: set[str] = set()  # runs that the catalog is not known to have whole
        self._failures: dict[str, tuple[str, int]] = {}  # run → what, how often in succession
        self._refused: dict[str, str] = {}  # run → why it cannot be published

    def done(self, start: Mapping[str, Any]) -> bool:
        """Return whether the run is in the catalog, whole and as its scan file has it."""
        self._waiting.add(start["uid"])
        with self.catalog() as client:
            whole = self._whole(start, find_published(client, start["uid"]))
        if whole:
            self.note_published(start)
        return whole

    def note_published(self, start: Mapping[str, Any]) -> None:
        """Take note that the catalog has a run, whole."""
        self._waiting.discard(start["uid"])
        self._failures.pop(start["uid"], None)
        self._refused.pop(start["uid"], None)

    def note_failure(self, start: Mapping[str, Any], error: Exception) -> None:
        """Take note that a run could not be published; raise if it never will be.

        Raises
        ------
        PublishError
            If the catalog refuses this run, or fails at it again and again.
        """
        uid, what = start["uid"], str(error)
        before, count = self._failures.get(uid, ("", 0))
        count = count + 1 if what == before else 1
        self._failures[uid] = what, count
        status = getattr(error, "status", None)
        failing = status == 500 and count >= _TRIES
        if isinstance(error, CatalogError) and status not in _REFUSED and not failing:
            return
        first = (what.splitlines() or [type(error).__name__])[0]
        reason = f"run {uid[:8]} cannot be published: {first}"
        self._refused[uid] = reason
        raised = PublishError(
            f"{reason}\nIts frames and its journal are safe. offbragg stack tries again later, and "
            f"so does: offbragg rebuild {uid[:8]}"
        )
        if failing:
            raised.retry_after = _FAILING
        raise raised from error

    def backlog(self) -> dict[str, Any]:
        """Return what waits for the catalog; any thread may ask.

        Returns
        -------
        backlog
            ``runs``: how many wait, those that are open too; while the catalog is away, also
            those of which it could not be asked yet. ``refused``: why a run cannot be published,
            by uid.
        """
        return {"runs": len(self._waiting), "refused": dict(self._refused)}

    def open(self, start: Mapping[str, Any]) -> RunPublisher:
        """Begin to publish a run; one that is there but not whole is deleted first."""
        with self.catalog() as client:
            run = find_published(client, start["uid"])
            if self._whole(start, run):
                return RunPublisher(self, start, None)
            if run is not None:
                # the catalog's own tables go too; what is external (every file) stays
                client.delete_contents(start["uid"], recursive=True, external_only=False)
            return RunPublisher(self, start, client)

    def _whole(self, start: Mapping[str, Any], run: Container | None) -> bool:
        stop: Any = None if run is None else run.metadata.get("stop")
        if not stop:
            return False
        path = self.find_scan_file(start)
        if path is None:
            return True
        with ScanFile.open(path) as scan:
            published = stop.get("offbragg", {})
            return (
                scan.complete
                and published.get("frames") == frame_totals(scan.ledger.counts())
                and published.get("scan_file") == str(path)  # it may have been made again elsewhere
            )

    def find_scan_file(self, start: Mapping[str, Any]) -> Path | None:
        """Return the scan file of a run; None if it has none."""
        if "sweep" not in start:
            return None
        return find_scan_file(scan_directory(self.experiment, start), start["uid"])

    def _connected(self) -> CatalogOfBlueskyRuns:
        """Connect; what went wrong goes wrong for a moment, for every run, without a wait."""
        until, reason = self._away
        if time.monotonic() < until:
            raise CatalogError(reason)
        try:
            return self._connect().include_data_sources()
        except CatalogError as error:
            self._away = time.monotonic() + _AWAY, str(error)
            raise

    @contextlib.contextmanager
    def catalog(self) -> Generator[CatalogOfBlueskyRuns]:
        """Yield the client; whatever the catalog does wrong is a `CatalogError`."""
        try:
            if self._client is None:
                self._client = self._connected()
            yield self._client
        except CatalogError:
            self._client = None
            raise
        except httpx.HTTPError as error:
            self._client = None
            refused = CatalogError(f"the catalog refused a request: {error}")
            response = getattr(error, "response", None)
            refused.status = None if response is None else response.status_code
            raise refused from error


class RunPublisher:
    """Publish one run (see `Publisher`).

    A request takes 30 to 100 ms, and a run needs some thirty. So that a frame is seen soon, what
    frames need goes first, and everything else in turns, between which other runs have theirs.
    """

    def __init__(
        self, publisher: Publisher, start: Mapping[str, Any], client: CatalogOfBlueskyRuns | None
    ) -> None:
        self._publisher = publisher
        self._start = start
        self._finished = client is None
        if client is not None:
            self._writer = LiveRunWriter(client)
            self._emit: Any = RunNormalizer()
            self._emit.subscribe(self._writer)
        self.busy = False  # whether there is more to do at once
        self._path: Path | None = None
        self._primary: Document | None = None
        self._provisional = False  # whether `_primary` is not the journal's own yet
        self._dropped: dict[str, str] = {}  # descriptor uid → stream
        self._skipped: set[str] = set()  # resources that the scan file stands for
        self._published: int | None = None  # frames; None before the stack is there
        self._stop: Document | None = None
        self._next_look = 0.0
        self._waiting_since: float | None = None
        self._first: deque[tuple[str, Document]] = deque()  # what frames need
        self._rest: deque[tuple[str, Document]] = deque()
        self._end: deque[tuple[str, Document]] = deque()  # known once the run is whole

    # -- documents -------------------------------------------------------------------------

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take the next document of the run's journal."""
        if self._finished:
            return
        if name == "stop":
            self._stop = dict(doc)
            self._waiting_since = None
            self._next_look = 0.0
            if not has_frames(self._start):
                self._end_as_it_is(self._stop)
        elif name == "start":
            self._first.append((name, dict(doc)))
        elif not self._is_skipped(name, doc):
            waiting = self._rest
            if name == "descriptor" and doc["name"] == "primary":
                doc = dict(doc)
                if has_frames(self._start):
                    doc = rewrite_descriptor(self._start, doc)
                    if self._primary is None or self._provisional:
                        waiting = self._first
                if self._primary is None or self._provisional:
                    self._primary, self._provisional = doc, False
            waiting.append((name, dict(doc)))

    def _end_as_it_is(self, stop: Document) -> None:
        if self._primary is None:  # it failed before it had measured anything
            self._primary = provisional_descriptor(self._start)
            self._end.append(("descriptor", self._primary))
            self._end.append(("no rows", self._primary))
        self._end.append(("stop", stop))

    def _is_skipped(self, name: str, doc: Mapping[str, Any]) -> bool:
        """Return whether the rows and the stack of the scan file stand for this document."""
        if not has_frames(self._start):
            return False
        if name == "descriptor" and is_per_frame_stream(self._start, doc):
            self._dropped[doc["uid"]] = doc["name"]
            return True
        if name == "stream_resource" and doc["data_key"] == image_key(self._start):
            self._skipped.add(doc["uid"])
            return True
        return doc.get("descriptor") in self._dropped or doc.get("stream_resource") in self._skipped

    def _publish(self, name: str, doc: Mapping[str, Any]) -> None:
        with self._publisher.catalog():
            if name == "no rows":
                self._writer.write_no_rows(doc)
            else:
                getattr(self._emit, name)(dict(doc))

    # -- work ------------------------------------------------------------------------------

    def poll(self) -> bool:
        """Publish what has gathered; True once the run is in the catalog, with its stop."""
        if not self._finished:
            try:
                self._work()
            except (CatalogError, *_UNWRITABLE) as error:
                self._publisher.note_failure(self._start, error)
                raise
        if self._finished:
            self._publisher.note_published(self._start)
        return self._finished

    def _work(self) -> None:
        end_of_turn = time.monotonic() + _TURN
        while self._first:
            self._publish(*self._first.popleft())
        if self._primary is None and has_frames(self._start) and self._writer.root_node is not None:
            # a run has its stream and its stack from the start; the journal's descriptor replaces
            # this one when the detector is ready
            self._primary, self._provisional = provisional_descriptor(self._start), True
            self._publish("descriptor", self._primary)
        self._look()
        while more := self._go_on():
            if time.monotonic() > end_of_turn:
                break
        self.busy = more

    def _look(self) -> None:
        """Publish the frames that have come since the last look."""
        began = time.monotonic()
        over = self._end or self._writer.ended
        if over or not has_frames(self._start) or began < self._next_look:
            return
        self._follow_scan_file()
        took = time.monotonic() - began
        self._next_look = began + self._publisher.interval * (2 if took > _SLOW else 1)

    def _go_on(self) -> bool:
        """Publish the next of what is not a frame; return False if there is nothing to do now."""
        # streams are made in the same order each time: primary first
        begun = self._primary is not None or self._stop is not None or not has_frames(self._start)
        if self._rest and begun:
            self._publish(*self._rest.popleft())
            return True
        with self._publisher.catalog():
            if self._writer.flush_one(_EVENTS if self._stop is None else 0.0):
                return True
            if self._end:
                name, doc = self._end.popleft()
                self._publish(name, doc)
                return True
            if not self._writer.ended:
                return False
            self._finished = not self._writer.close_one()
            return not self._finished

    def close(self) -> None:
        """Stop; a later publisher begins this run again."""
        self._finished = True

    def _follow_scan_file(self) -> None:
        self._path = self._path or self._publisher.find_scan_file(self._start)
        if self._path is None:
            self._end_without_scan_file()
            return
        try:
            with ScanFile.open(self._path) as scan:
                settled = min(scan.ledger.settled(), scan.length)
                complete = scan.complete
                counts = scan.ledger.counts()
                values = scan.frame_values() if complete else {}
        except (ScanFileError, OSError):
            if self._waited():
                raise
            return  # it is being made, resumed or finished just now
        self._waiting_since = None
        if self._primary is not None and settled > (
            -1 if self._published is None else self._published
        ):
            self._publish_frames(self._primary, self._path, settled)
        if self._stop is not None and complete:
            dropped = set(self._dropped.values())
            stop = rewrite_stop(self._start, self._stop, counts, self._path, dropped=dropped)
            self._end.extend(summary_documents(self._start, self._stop, counts, values))
            self._end.append(("stop", stop))

    def _publish_frames(self, primary: Document, path: Path, settled: int) -> None:
        stack = stack_resource(self._start, path)
        begun = self._published or 0
        if self._published is None:
            rows = rows_resource(self._start, path)
            self._publish("stream_resource", rows)
            self._publish("stream_datum", frames_datum(rows, primary, 0, settled))
            self._publish("stream_resource", stack)
        self._publish("stream_datum", frames_datum(stack, primary, begun, settled))
        self._published = settled

    def _end_without_scan_file(self) -> None:
        """Publish the end of a run that failed before it had any frame."""
        stop = self._stop
        if stop is None or stop["exit_status"] == "success" or self._skipped:
            return  # its scan file is to come
        if self._waited():
            if self._primary is not None:
                self._end.append(("no rows", self._primary))
            self._end.append(("stop", stop))

    def _waited(self) -> bool:
        now = time.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        return now - self._waiting_since > _PATIENCE


_UNWRITABLE: tuple[type[Exception], ...] = (
    TypeError, ValueError, ArithmeticError, RecursionError, cast(Any, pa).ArrowException,
    ValidationError,
)  # fmt: skip
"""What a document raises that cannot be written as JSON or as rows."""


def find_published(client: CatalogOfBlueskyRuns, uid: str) -> Container | None:
    """Find a run in the catalog by its whole uid; None if it is not there."""
    try:
        # not its search by a part of the uid
        found = cast(Any, Container).__getitem__(client, uid)
    except KeyError:
        return None
    return found
