"""Frames that everybody brings into the same cells, and what their work costs: CPU time."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from offbragg.files.scan_writer import ScanWriter
from offbragg.frame import Frame
from offbragg.geometry import Geometry
from offbragg.grid import Grid
from offbragg.instrument import Axis, Panel
from offbragg.lattice import q_to_hkl
from offbragg.reduction import Corrections
from offbragg.stack import Stack
from offbragg.sweep import Sweep

SHAPE = (1679, 1475)  # of a Pilatus 2M
PIXEL = 0.172  # mm
BEAM = (127.0, 144.0)  # mm from the corner, along fast and slow
DISTANCE = 250.0  # mm
WAVELENGTH = 0.7  # Å
CELL = 5.5  # Å, cubic
REACH = 5  # r.l.u.: no pixel is outside
UB = np.eye(3) / CELL
PLAIN = Corrections(solid_angle=False, polarization=None, efficiency=False, air=False)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """Frames of a crystal that turns about the vertical axis, and the cells they belong to.

    Parameters
    ----------
    counts
        int32, shape (frame, slow, fast); -1 in the gaps between modules.
    half
        Cells from the centre of the grid to its edge: it has 2 × half + 1 along h, k and l.
    coarser
        Side of a pixel, in those of a Pilatus.
    """

    counts: NDArray[np.int32]
    half: int
    coarser: int = 1

    @classmethod
    def of(cls, n_frames: int, half: int = 300, coarser: int = 1) -> Measurement:
        """Make frames with Poisson counts."""
        rows, columns = (n // coarser for n in SHAPE)
        counts = np.random.default_rng(1).poisson(3.0, (n_frames, rows, columns)).astype(np.int32)
        for module in range(1, 8):
            counts[:, (module * 212 - 17) // coarser : module * 212 // coarser] = -1
        for module in range(1, 3):
            counts[:, :, (module * 494 - 7) // coarser : module * 494 // coarser] = -1
        return cls(counts, half, coarser)

    def first(self, n_frames: int) -> Measurement:
        """Return the same with the first frames alone."""
        return Measurement(self.counts[:n_frames], self.half, self.coarser)

    @property
    def pixel(self) -> float:
        """Side of a pixel, mm."""
        return PIXEL * self.coarser

    @property
    def sweep(self) -> Sweep:
        return Sweep("phi", 0.0, 0.1, len(self.counts), 0.1, 0.1)

    @property
    def stack(self) -> Stack:
        return Stack(self.counts, self.sweep)

    @property
    def grid(self) -> Grid:
        return Grid((-self.half,) * 3, (2 * self.half + 1,) * 3, (self.half // REACH,) * 3)

    @property
    def geometry(self) -> Geometry:
        panel = Panel(
            (*BEAM, DISTANCE), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (self.pixel,) * 2,
            self.counts.shape[1:],
        )  # fmt: skip
        return Geometry(WAVELENGTH, panel, (Axis("phi", (0.0, 1.0, 0.0)),), "phi")

    @cached_property
    def good(self) -> NDArray[np.bool_]:
        """Which pixels count, shape (slow, fast)."""
        return self.counts[0] >= 0

    def hkl(self, number: int) -> Array:
        """Return where the pixels that count look in a frame, r.l.u., shape (pixel, 3)."""
        rows, columns = self.counts.shape[1:]
        x, y = np.arange(columns) + 0.5, (np.arange(rows) + 0.5)[:, None]
        return q_to_hkl(self.geometry.q(x, y, self.sweep.midpoints[number]), UB)[self.good]


@dataclass(frozen=True)
class Cells:
    """Sums over all frames: counts (None: not plain counts) and number of pixels, [h, k, l]."""

    counts: NDArray[np.generic] | None
    pixels: NDArray[np.generic]


class Peer(Protocol):
    """Somebody who brings frames into cells."""

    name: str
    version: str
    includes: str

    def per_frame(self) -> float:
        """Do it once; return CPU seconds of one frame."""
        ...

    def cells(self) -> Cells:
        """Do it for all frames of the measurement."""
        ...


@contextlib.contextmanager
def cpu() -> Iterator[Callable[[], float]]:
    """Measure the CPU time of this process, s; it is known at the end."""
    begun = time.process_time()
    found: list[float] = []
    yield lambda: found[0]
    found.append(time.process_time() - begun)


def children() -> float:
    """Return the CPU time of the programs that were run, s."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def scan_file(
    measurement: Measurement, folder: Path, frames: Iterable[NDArray[np.int32]] | None = None
) -> Path:
    """Write the frames, or others in their place, into a scan file; return its path."""
    lattice = [CELL] * 3 + [90.0] * 3
    start = {
        "uid": "peers", "time": 1.7e9, "sweep": measurement.sweep.to_dict(),
        "sample": {"name": "x", "label": "x", "lattice": lattice, "UB": UB.tolist()},
        "geometry": measurement.geometry.to_dict(),
    }  # fmt: skip
    with ScanWriter.create(folder, start=start) as scan:
        for number, counts in enumerate(measurement.counts if frames is None else frames):
            scan.write_frame(Frame(number, counts), source="x", time=1.7e9)
        return scan.path
