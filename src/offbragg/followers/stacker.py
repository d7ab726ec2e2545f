"""The stacker: a follower that translates the documents of runs for one `SweepStacker` each.

A ``stream_datum`` says that a frame is expected by now; values come in events. All state is in the
scan file: killed at any moment and started again, the stacker reads the journal from the first
line and goes on with the frames that are still pending.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from offbragg.errors import ScanFileError
from offbragg.files.digest import has_digest
from offbragg.files.find import find_scan_file
from offbragg.files.frame_files import FRAME_SEQUENCES
from offbragg.files.left_behind import release_if_left
from offbragg.files.nxrefine import has_wrapper, remove_left_locks
from offbragg.files.root import Root
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.files.scan_layout import ADOPTED
from offbragg.followers.frame_source import RunSource
from offbragg.followers.sweep_stacker import Ending, SweepStacker
from offbragg.ledger import FrameStatus

_SHOWN = 20  # runs whose contradictions are shown at the prompt


class Stacker:
    """Follow runs and keep one scan file for each sweep.

    Parameters
    ----------
    experiment
        Root of the experiment's directory tree (``<sample>/<label>/<scan>/fN.h5`` below it).
    late
        How long a frame that should be there may take before it is listed as missing, s.
        A frame that turns up later still fills its own row.
    frames
        Root of the frame files: nothing outside is read, whatever a document says. Without it,
        documents are believed.
    """

    name = "stack"

    def __init__(self, experiment: Path, *, late: float = 5.0, frames: Path | None = None) -> None:
        self.experiment = Path(experiment)
        self.late = late
        self.frames = frames
        self._root = Root(self.experiment)
        self._open: dict[str, RunStacker] = {}
        self._contradicted: dict[str, str] = {}

    def done(self, start: Mapping[str, Any]) -> bool:
        """Return whether the scan file of a run needs nothing more."""
        if "sweep" not in start:
            return True
        path = self._find(start)
        if ADOPTED in start:
            if path is None:
                raise ScanFileError(
                    f"the scan file of run {start['uid'][:8]}, which adopted frames of others, is "
                    f"not below {self.experiment}\nAdopt them again: offbragg adopt."
                )
            return True
        if path is None:
            return False
        release_if_left(path)
        with ScanFile.open(path) as scan:
            whole = scan.complete and scan.ledger.counts()[FrameStatus.STORED] == scan.n_frames
        if not (whole and has_wrapper(path) and has_digest(path)):
            return False
        remove_left_locks(path)
        return True

    def open(self, start: Mapping[str, Any]) -> RunStacker:
        """Make or find the scan file of a run."""
        self._root.check()
        stacker = RunStacker(
            start,
            self._find(start),
            experiment=self.experiment,
            late=self.late,
            frames=self.frames,
        )
        # closed ones go; replaced, not changed: another thread may be in `backlog`
        self._contradicted = self._contradictions()
        still = {uid: run for uid, run in self._open.items() if not run.closed}
        self._open = {**still, start["uid"]: stacker}
        return stacker

    def backlog(self) -> dict[str, Any]:
        """Return how far the runs are that are being stacked; any thread may ask.

        Returns
        -------
        backlog
            ``frames`` of their sweeps, ``decided`` ones, ``due`` ones that are not decided,
            ``durable`` ones that a power cut cannot take, ``in_work`` (with a thread, or done and
            not yet written), and of these the ``batches`` that wait for the writer, two at most
            for each run; ``behind``, the time in which the due ones were measured, s.
            ``contradicted``, if there are any: how headers contradict their runs, by uid; only
            the newest.
        """
        runs = [run.backlog() for run in list(self._open.values()) if not run.closed]
        keys = ("frames", "decided", "due", "durable", "in_work", "batches", "behind")
        contradicted = dict(list(self._contradictions().items())[-_SHOWN:])
        sums = {key: sum(run[key] for run in runs) for key in keys}
        return {**sums, **({"contradicted": contradicted} if contradicted else {})}

    def _contradictions(self) -> dict[str, str]:
        """Return what headers said that contradicts their runs, by uid, the oldest first."""
        found = dict(self._contradicted)
        for uid, run in self._open.items():
            if run.contradiction:
                found.setdefault(uid, run.contradiction)
        return found

    def _find(self, start: Mapping[str, Any]) -> Path | None:
        return find_scan_file(scan_directory(self.experiment, start), start["uid"])


class RunStacker(SweepStacker):
    """Stack the frames of one run, as its documents announce them (see :class:`Stacker`).

    Parameters
    ----------
    start
        The run's start document.
    path
        Its scan file; made below ``experiment`` if None.
    experiment, late
        As in `SweepStacker`.
    frames
        As in `Stacker`.
    search
        Where the run's folder is looked for if no document says where its frames are;
        ``frames`` if not given.
    """

    def __init__(
        self,
        start: Mapping[str, Any],
        path: Path | None,
        *,
        experiment: Path | None,
        late: float,
        frames: Path | None = None,
        search: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = RunSource(start, root=frames, search=search or frames, clock=clock)
        self._resource = ""
        super().__init__(
            start,
            path,
            self._run,
            experiment=experiment,
            late=late,
            clock=clock,
        )

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take note of one document of the run."""
        if name == "stream_resource" and doc["mimetype"] in FRAME_SEQUENCES:
            self._resource = doc["uid"]
            self._run.add_resource(doc)
        elif name == "descriptor":
            self._run.add_descriptor(doc)
            self._headers.configure(doc)
        elif name == "stream_datum" and doc["stream_resource"] == self._resource:
            self.expect(range(doc["indices"]["start"], doc["indices"]["stop"]))
        elif name == "event":
            self.values.add(doc["data"], doc["timestamps"], doc["time"])
        elif name == "event_page":
            self.values.add_page(doc)
        elif name == "stop":
            self._run.end()
            self.end(Ending(doc["time"], doc["exit_status"], doc.get("reason", "")))
