"""The transform against what people use for it: the same frames into the same cells, in one run.

``poe peers`` prints the rows of the comparison in docs/reference/performance.md. Each figure is
CPU time of one thread, so that a busy machine changes it little; each peer takes turns with
offbragg, and the best of each counts. What is not installed is named.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # looked at when NumPy is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.measurement import Cells, Measurement, Peer, children
from benchmarks.peers import (
    Cctw,
    Histogramdd,
    Meerkat,
    MeerkatFromFiles,
    Reduce,
    Transform,
    Xrayutilities,
    XrayutilitiesConverting,
)

from offbragg import kernels


@dataclass(frozen=True)
class Comparison:
    """What a frame costs a peer and us in the same minutes, CPU s."""

    peer: Peer
    theirs: float
    ours: float

    @property
    def ratio(self) -> float:
        return self.theirs / self.ours


def compare(peer: Peer, ours: Peer) -> Comparison:
    """Let both work in turn, three to five times within 10 s of CPU; the best of each counts."""
    costs: list[tuple[float, float]] = []
    begun = spent()
    while len(costs) < 3 or (len(costs) < 5 and spent() - begun < 10.0):
        costs.append((peer.per_frame(), ours.per_frame()))
    return Comparison(peer, min(theirs for theirs, _ in costs), min(own for _, own in costs))


def different(theirs: Cells, ours: Cells) -> tuple[int, int]:
    """Count the cells that differ, and those that hold pixels."""
    differ = theirs.pixels != ours.pixels
    if theirs.counts is not None:
        differ |= theirs.counts != ours.counts
    return int(np.count_nonzero(differ)), int(np.count_nonzero(ours.pixels))


Preparation = Callable[[Measurement, Path], Peer]

PEERS: dict[Preparation, int] = {
    Histogramdd: 4,
    Xrayutilities: 4,
    XrayutilitiesConverting: 4,
    Meerkat: 4,
    Cctw: 7,
}
"""Who begins with frames in memory, and how many frames each is given."""

WITH_READING: dict[Preparation, int] = {MeerkatFromFiles: 4, Cctw: 7}
"""Who reads frames out of files."""

HEAD = """
| CPU time of one thread | version | what it includes | Mpixel/s | ms a frame | \
offbragg is faster by | cells that differ |
| --- | --- | --- | --- | --- | --- | --- |"""


def spent() -> float:
    """Return the CPU time of this process and the programs that it ran, s."""
    return time.process_time() + children()


def folder() -> tempfile.TemporaryDirectory[str]:
    """Make a folder, in memory if there is a file system in it: the disk is not measured."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)


def row(peer: Peer, cost: float, pixels: int, *more: str) -> str:
    figures = (f"{pixels / cost / 1e6:.3g}", f"{1e3 * cost:.0f}", *more)
    return f"| {peer.name} | {peer.version} | {peer.includes} | {' | '.join(figures)} |"


def table(peers: dict[Preparation, int], ours: Peer, frames: Measurement) -> Iterator[str]:
    """Compare all with us; yield the rows."""
    few = Measurement.of(2, half=100)
    cells = Transform(few).cells()
    pixels = frames.counts[0].size
    found: list[tuple[Comparison, str]] = []
    for prepare, n in peers.items():
        with folder() as path:
            try:
                comparison = compare(prepare(frames.first(n), Path(path)), ours)
            except ModuleNotFoundError as error:
                yield f"not compared: {error}"
                continue
        with folder() as path:
            differ, of = different(prepare(few, Path(path)).cells(), cells)
        found.append((comparison, f"{differ} of {of}"))
    best = min([ours.per_frame(), *(comparison.ours for comparison, _ in found)])
    for each, differing in found:
        yield row(each.peer, each.theirs, pixels, f"{each.theirs / best:.1f}", differing)
    yield row(ours, best, pixels, "", "")


def main() -> None:
    """Print the rows."""
    frames = Measurement.of(32)
    pixels = frames.counts[0].size / 1e6
    print(
        f"kernels: {kernels.level}; {len(frames.counts)} frames of {pixels:.2f} Mpixel, "
        f"{frames.grid.shape[0]}³ cells; load {os.getloadavg()[0]:.1f}"
    )
    print(HEAD, *table(PEERS, Transform(frames), frames), sep="\n", flush=True)
    with folder() as path:
        print(HEAD, *table(WITH_READING, Reduce(frames, Path(path)), frames), sep="\n")


if __name__ == "__main__":
    main()
