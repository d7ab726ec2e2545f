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
from offbragg.reduction.accumulator import Accumulator, PackedSums
from offbragg.reduction.folding import Unfolded
from offbragg.volume import Volume
from offbragg.workflows.choices import Progress
from offbragg.workflows.record import ReductionRecord
from offbragg.workflows.sums import empty_sums, exponent, finished, prepared, selection

CONNECT = 20.0
"""Time limit for the scheduler to answer and to have a worker, s."""
_TASKS = 4  # of each thread of the cluster: a worker that dies loses no more than one of them
_LEAST = 256  # frames of a task: neighbours meet the same bricks, which are sent and merged once
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
    length = max(_LEAST, -(-sum(each.frames for each in record.inputs) // (_TASKS * threads)))
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


def sum_part(part: Part, version_here: str) -> PackedSums:
    """Sum the frames of a part; a worker does this.

    Parameters
    ----------
    part
        Which frames.
    version_here
        Of offbragg where the parts are merged.

    Raises
    ------
    ReductionError
        If this worker has another version of offbragg, or cannot read a file; it names its host.
    """
    mine, host = version("offbragg"), platform.node()
    if mine != version_here:
        raise ReductionError(
            f"the Dask worker on {host} has offbragg {mine}, this is {version_here}\n"
            "Start the workers with the same version."
        )
    sums = empty_sums(part.record)
    try:
        with prepared(part.record, part.record.inputs[0], threads=1) as sweep:
            sweep.add(sums, begin=part.begin, end=part.end)
    except ReductionError as error:
        raise ReductionError(f"on the Dask worker on {host}: {error}") from error
    return sums.packed()


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


def _results(client: Any, parts: list[Part], scheduler: str) -> Iterator[tuple[int, PackedSums]]:
    """Yield the number of frames and the sums of each part, as they come."""
    from distributed import CancelledError, KilledWorker, as_completed

    waiting, here = iter(parts), version("offbragg")

    def submit(part: Part) -> Any:
        # pure: a key of its own each time, so that no earlier result is taken for it
        future = client.submit(sum_part, part, here, pure=False)
        frames[future.key] = part.frames
        return future

    frames: dict[str, int] = {}
    ahead = _AHEAD * max(1, sum(client.nthreads().values()))
    running: Any = as_completed([submit(part) for part in islice(waiting, ahead)], loop=client.loop)
    try:
        for future in running:
            sums = future.result()
            number = frames.pop(future.key)
            future.release()  # its worker may forget it
            for part in islice(waiting, 1):
                running.add(submit(part))
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
