"""The sums of a record on a Dask cluster: parts of sweeps are tasks, and their sums are merged.

Sums are whole numbers, so it does not matter how sweeps are divided, which worker does what, in
what order the parts come, or how often a part is begun because a worker died: the result is that
of one process, bit for bit. In records of earlier versions a background is followed from frame to
frame, so with one a task is a whole sweep.

Workers need the same version of offbragg, and see the scan files under the same paths.
"""

from __future__ import annotations

import platform
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice, pairwise
from typing import Any

from offbragg.errors import ReductionError
from offbragg.reduction.accumulator import Accumulator
from offbragg.reduction.binning import Binner
from offbragg.reduction.folding import Unfolded
from offbragg.reduction.packed import PackedSums
from offbragg.volume import Volume
from offbragg.workflows.choices import Progress
from offbragg.workflows.record import ReductionRecord
from offbragg.workflows.sums import (
    PreparedSweep,
    empty_sums,
    exponent,
    finished,
    prepared,
    selection,
)

CONNECT = 20.0
"""Time limit for the scheduler to answer and to have a worker, s."""
_TASKS = 4  # of each thread of the cluster: a worker that dies loses no more than one of them
_LEAST = 256  # frames of a task: neighbours meet the same cells, which are sent and merged once
_MOST = 1024  # frames of a task: bounds its memory, whatever the length of a sweep
_AHEAD = 2  # tasks of each thread that are begun or wait to be merged: bounds the memory


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Frames of one sweep that are summed by one task.

    Parameters
    ----------
    record
        The record, with this sweep as its only input.
    begin, end
        Numbers of the first frame, and one past the last.
    """

    record: ReductionRecord
    begin: int
    end: int

    @property
    def frames(self) -> int:
        """Number of frames that add something."""
        chosen = self.record.inputs[0].selection
        assert chosen is not None
        return int((chosen.flux[self.begin : self.end] > 0).sum())


def divide(record: ReductionRecord, threads: int) -> list[Part]:
    """Divide the frames of a record into tasks.

    Parameters
    ----------
    record
        With absolute paths.
    threads
        Of the whole cluster.
    """
    record = replace(record, weight_exponent=exponent(record))
    length = -(-sum(each.frames for each in record.inputs) // (_TASKS * threads))
    length = min(max(_LEAST, length), _MOST)
    parts: list[Part] = []
    for each in record.inputs:
        chosen = each.selection or selection(each, record)
        one = replace(record, inputs=(replace(each, selection=chosen),))
        size = len(chosen.flux)
        if each.background is not None and record.background_exponents is None:
            parts.append(Part(one, 0, size))
            continue
        number = -(-size // length)
        edges = [size * n // number for n in range(number + 1)]
        parts += [Part(one, a, b) for a, b in pairwise(edges)]
    return [part for part in parts if part.frames]


def prepare(part: Part, version_here: str) -> Binner:
    """Compute where the pixels of a sweep look, for all of its parts; a worker does this.

    Parameters
    ----------
    part
        Any of the sweep.
    version_here
        Of offbragg where the parts are merged.

    Raises
    ------
    ReductionError
        As for `sum_part`.
    """
    with _on_worker(part, version_here) as sweep:
        return sweep.setup.binner()


def sum_part(part: Part, binner: Binner | None, version_here: str) -> PackedSums:
    """Sum the frames of a part; a worker does this.

    Parameters
    ----------
    part
        Which frames.
    binner
        Of `prepare`; None: it is prepared here.
    version_here
        Of offbragg where the parts are merged.

    Raises
    ------
    ReductionError
        If this worker has another version of offbragg, or cannot read a file; it names its host.
    """
    with _on_worker(part, version_here) as sweep:
        sums = empty_sums(part.record)
        sweep.add(sums, begin=part.begin, end=part.end, binner=binner)
    return sums.packed()


@contextmanager
def _on_worker(part: Part, version_here: str) -> Generator[PreparedSweep]:
    """Open the sweep of a part on a worker; errors name its host."""
    mine, host = version("offbragg"), platform.node()
    if mine != version_here:
        raise ReductionError(
            f"the Dask worker on {host} has offbragg {mine}, this is {version_here}\n"
            "Start the workers with the same version."
        )
    try:
        with prepared(part.record, part.record.inputs[0], threads=1) as sweep:
            yield sweep
    except ReductionError as error:
        raise ReductionError(f"on the Dask worker on {host}: {error}") from error


def sum_on_cluster(
    record: ReductionRecord,
    scheduler: str,
    *,
    progress: Progress = lambda done, total: None,
) -> Accumulator | Unfolded | Volume:
    """Make the sums that a record describes on a Dask cluster.

    Parameters
    ----------
    record, progress
        As for `offbragg.workflows.sums.sum_record`.
    scheduler
        Address of the cluster's scheduler, ``tcp://host:8786``.

    Raises
    ------
    ReductionError
        If no scheduler answers, it has no worker, workers die again and again, or a worker reports
        an error.
    """
    with _connected(scheduler) as client:
        parts = divide(record, sum(client.nthreads().values()))
        sums = empty_sums(record)
        total, done = sum(part.frames for part in parts), 0
        for frames, of_part in _results(client, parts, scheduler):
            sums.merge(of_part)
            done += frames
            progress(done, total)
    return finished(record, sums)


@contextmanager
def _connected(scheduler: str) -> Generator[Any]:
    """Connect to a scheduler that has a worker."""
    try:
        from distributed import Client
    except ImportError:
        raise ReductionError(
            "--scheduler needs Dask's distributed, which is not installed\n"
            "Install it: pip install 'offbragg[dask]'"
        ) from None
    try:
        # results go from the workers to here, and not through the scheduler's memory
        client: Any = Client(
            scheduler, timeout=CONNECT, direct_to_workers=True, set_as_default=False
        )
    except (OSError, ValueError) as error:  # also of no answer in time
        raise ReductionError(
            f"no Dask scheduler answers at {scheduler} within {CONNECT:g} s: {error}\n"
            "Its address is printed when it is started, as tcp://host:8786."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT)
        except OSError:
            raise ReductionError(
                f"the Dask scheduler at {scheduler} has no worker after {CONNECT:g} s\n"
                f"Start some: dask worker {scheduler} --nthreads 1 --nworkers N"
            ) from None
        yield client


def _submitted(client: Any, parts: list[Part]) -> Iterator[tuple[Any, int]]:
    """Submit a part each time that one is asked for: its future, and its number of frames.

    The cluster computes once for each sweep where its pixels look, and forgets it with the last
    task that needs it. One with a background is a single task, and follows it from frame to frame.
    """
    here, sweep, binner = version("offbragg"), None, None
    for part in parts:
        if part.record is not sweep:
            sweep, alone = part.record, part.record.inputs[0].background is not None
            binner = None if alone else client.submit(prepare, part, here, pure=False)
        # pure: a key of its own each time, so that no earlier result is taken for it
        yield client.submit(sum_part, part, binner, here, pure=False), part.frames


def _results(client: Any, parts: list[Part], scheduler: str) -> Iterator[tuple[int, PackedSums]]:
    """Yield the number of frames and the sums of each part, as they come."""
    from distributed import CancelledError, KilledWorker, as_completed

    waiting = _submitted(client, parts)
    ahead = _AHEAD * max(1, sum(client.nthreads().values()))
    frames = dict(islice(waiting, ahead))
    running: Any = as_completed(list(frames), loop=client.loop)
    try:
        for future in running:
            sums, number = future.result(), frames.pop(future)
            future.release()  # its worker may forget it
            for another, its_frames in islice(waiting, 1):
                frames[another] = its_frames
                running.add(another)
            yield number, sums
    except KilledWorker as error:
        raise ReductionError(
            f"workers of the Dask cluster at {scheduler} died again and again with the same part: "
            f"{error}\nPerhaps their memory is too small: it must hold three times the sums of a "
            "part (docs: reduce on a cluster)."
        ) from error
    except CancelledError as error:
        raise ReductionError(
            f"the Dask scheduler at {scheduler} is gone, or cancelled the work: {error}"
        ) from error
