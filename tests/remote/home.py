"""A small catalog as somebody at home sees it: a series that still runs, volumes, faults."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from web.beamline import ShownBeamline, ShownRun, series_of

from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.sample import Sample
from offbragg.volume import Volume

SAMPLE = "KMnF3"
TEMPERATURES = (90.0, 120.0, 150.0, 170.0, 185.0)
TC, BETA = 178.0, 0.3
N = 8  # frames of a sweep
MISSING, REJECTED = 3, 5  # of the run at 120 K
GRID = Grid((-10, -10, -10), (41, 41, 41), (20, 20, 20))
LATTICE = (4.186, 4.186, 4.186, 90.0, 90.0, 90.0)


def ordered(kelvin: float) -> Volume:
    """A volume whose superlattice peak at (½ ½ ½) follows a power law."""
    hkl = np.meshgrid(GRID.h, GRID.k, GRID.l, indexing="ij")
    squared = sum((x - 0.5) ** 2 for x in hkl)
    peak = 4000.0 * max(1 - kelvin / TC, 0.0) ** (2 * BETA) * np.exp(-squared / (2 * 0.04**2))
    weight = np.full(GRID.shape, 2.0)
    weight[:4, :4] = 0.0  # was not measured
    counts = np.random.default_rng(int(kelvin)).poisson(weight * (20.0 + peak)).astype(float)
    return Volume(counts, weight, GRID, sample=Sample(SAMPLE, "c1", lattice=LATTICE))


@dataclass
class Home:
    """The catalog, and who measures beside it."""

    beamline: ShownBeamline
    series: str

    @classmethod
    def create(cls, root: Path) -> Home:
        """Measure all temperatures but the last one."""
        beamline = ShownBeamline.create(root)
        beamline.begin()
        home = cls(beamline, str(uuid.uuid4()))
        volumes = []
        for i in range(len(TEMPERATURES) - 1):
            run = home.open(i, began=time.time() - 3600.0 + 600.0 * i)
            faulty = {MISSING, REJECTED} if i == 1 else set()
            run.store(*(n for n in range(N) if n not in faulty))
            if faulty:
                assert run.scan is not None
                run.scan.mark(MISSING, "missing", "x_00003.cbf was not there 5 s after it was due")
                run.scan.mark(REJECTED, "rejected", "x_00005.cbf does not have its own checksum")
            run.monitor_counted(list(range(N)))
            run.announce(N)
            run.finish()
            volumes.append(home.volume(run))
        beamline.wait()
        beamline.publish(beamline.runs)
        beamline.volumes = [beamline.publish_volume(path) for path in volumes]
        return home

    @property
    def runs(self) -> list[ShownRun]:
        return self.beamline.runs

    def open(self, i: int, **more: Any) -> ShownRun:
        """Open the run of the i-th temperature of the series."""
        series = series_of(self.series, i, (i, 0), SAMPLE)
        series["parameters"]["temperatures"] = list(TEMPERATURES)
        return self.beamline.run(
            sample=SAMPLE, temperature=TEMPERATURES[i], series=series, sweep_of=(i, 0), **more
        )

    def volume(self, run: ShownRun) -> Path:
        assert run.scan is not None
        record = {
            "temperature": run.temperature,
            "inputs": [{"run": run.uid, "file": run.scan.path.name, "frames": N}],
        }
        path = run.scan.path.with_name("volume-f1.h5")
        return write_volume(path, ordered(run.temperature), record)
