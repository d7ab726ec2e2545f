"""Sweeps of the simulated crystal, and what is true of them by the simulator's own geometry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from offbragg.files.scan_writer import ScanWriter
from offbragg.frame import Frame
from offbragg.geometry import Geometry
from offbragg.grid import Grid
from offbragg.reduction import Corrections, ReductionSetup
from offbragg.stack import Stack
from offbragg.sweep import Sweep
from sim_iocs import crystal

AS_SIMULATED = Corrections(efficiency=False, air=False, polarization=crystal.POLARIZATION)
"""The simulated sensor absorbs everything, and the simulated air absorbs nothing."""

MONITOR = 1000.0  # counts for a beam of 1 and a second


@dataclass
class Measured:
    """One sweep about phi of the simulated crystal."""

    n_frames: int = 60
    step: float = 1.0
    first: float = 0.0
    detector: str = "100K"
    temperature: float = 300.0
    chi: float = 0.0
    omega: float = 0.0
    series: int = 0
    seconds: float = 0.1
    shift: tuple[float, float] = (0.0, 0.0)
    beam: Sequence[float] | None = None
    crystal_in: bool = True
    start_more: dict[str, Any] = field(default_factory=dict)

    @property
    def sweep(self) -> Sweep:
        return Sweep("phi", self.first, self.step, self.n_frames, self.seconds, self.seconds)

    @cached_property
    def crystal(self) -> crystal.Crystal:
        seen = crystal.Crystal(self.detector)
        seen.shift(*self.shift)
        return seen

    @property
    def geometry(self) -> Geometry:
        truth = crystal.truth(self.detector)
        panel = truth["panel"]
        origin = np.add(panel["origin_mm"], [*self.shift, 0.0])
        angles = {"phi": 0.0, "chi": self.chi, "omega": self.omega}
        return Geometry.from_dict(
            {
                "wavelength": truth["wavelength"],
                "panel": {
                    "origin": origin.tolist(),
                    "fast": panel["fast"],
                    "slow": panel["slow"],
                    "pixel_size": [panel["pixel_mm"]] * 2,
                    "shape": panel["shape"],
                },
                "axes": [{**axis, "angle": angles[axis["name"]]} for axis in truth["axes"]],
                "scan_axis": "phi",
            }
        )

    @property
    def UB(self) -> np.ndarray:
        return np.array(crystal.truth(self.detector)["sample"]["UB"])

    @property
    def shadow(self) -> np.ndarray:
        """Of the beamstop, which a user masks."""
        return self.crystal.correction == 0

    def mask_file(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        np.save(directory / "beamstop.npy", self.shadow)
        return directory / "beamstop.npy"

    @property
    def beams(self) -> np.ndarray:
        return np.ones(self.n_frames) if self.beam is None else np.array(self.beam, float)

    @property
    def flux(self) -> np.ndarray:
        return MONITOR * self.beams * self.seconds

    def exposure(self, n: int) -> crystal.Exposure:
        begin, end = self.sweep.edges[n], self.sweep.edges[n + 1]
        return crystal.Exposure(
            number=n,
            angles=((begin, self.chi, self.omega), (end, self.chi, self.omega)),
            seconds=self.seconds,
            temperature=self.temperature,
            beam=float(self.beams[n]),
            series=self.series,
            shift=self.shift,
        )

    def count(self, n: int) -> np.ndarray:
        if self.crystal_in:
            return self.crystal.count(self.exposure(n))
        rng = np.random.default_rng([n, self.series, 77])
        counts = rng.poisson(self.crystal.air * self.beams[n] * self.seconds).astype(np.int32)
        counts[self.crystal.gaps], counts[self.crystal.bad] = crystal.GAP, crystal.BAD
        return counts

    @cached_property
    def counts(self) -> np.ndarray:
        return np.stack([self.count(n) for n in range(self.n_frames)])

    @property
    def stack(self) -> Stack:
        return Stack(self.counts, self.sweep, self.flux)

    def stack_of(self, counts: np.ndarray) -> Stack:
        return Stack(counts, self.sweep, self.flux)

    def scene(self, grid: Grid, **more: Any) -> ReductionSetup:
        facts = {"saturation": crystal.CUTOFF}
        return ReductionSetup(
            self.geometry, self.UB, grid, AS_SIMULATED, facts, self.shadow, **more
        )  # fmt: skip

    @property
    def start(self) -> dict[str, Any]:
        """Its start document."""
        truth = crystal.truth(self.detector)["sample"]
        return {
            "uid": f"measured-{id(self)}-{self.series}",
            "time": 1.77e9 + self.series,
            "plan_name": "rotation_scan",
            "purpose": "data" if self.crystal_in else "background",
            "beamline_id": "simulated",
            "wavelength": crystal.WAVELENGTH,
            "sample": {
                "name": truth["name"],
                "label": "c1",
                "formula": truth["formula"],
                "lattice": truth["lattice"],
                "space_group": truth["space_group"],
                "UB": truth["UB"],
            },
            "temperature": {"setpoint": self.temperature},
            "sweep": self.sweep.to_dict(),
            "geometry": self.geometry.to_dict(),
            "detector": {
                "name": "pilatus",
                "model": f"PILATUS3 {self.detector}",
                "format": "cbf",
                "shape": list(crystal.KINDS[self.detector].shape),
                "sensor_material": "Si",
                "sensor_thickness": 0.45,
                "saturation": crystal.CUTOFF,
            },
            "per_frame": {
                "monitor": {"key": "monitor_counts", "by": "monitor_frame", "units": "counts"},
                "weight": {"key": "permit"},
            },
            **self.start_more,
        }

    def write(
        self,
        directory: Path,
        *,
        order: Sequence[int] | None = None,
        without: Sequence[int] = (),
        repeated: Mapping[int, int] | None = None,
        monitor: bool = True,
        name: str | None = None,
    ) -> Path:
        """Write its scan file, as a stacker would, frames in some order.

        ``repeated`` are numbers whose files hold the pixels of another frame.
        """
        again = repeated or {}
        scan = ScanWriter.create(directory, start=self.start, name=name)
        for n in range(self.n_frames) if order is None else order:
            if n not in without:
                frame = Frame(n, self.counts[again.get(n, n)])
                scan.write_frame(frame, source=f"x_{n:05d}.cbf", time=1.77e9 + n * self.seconds)
        for n in without:
            scan.mark(n, "missing", "was not there")
        if monitor:
            scan.set_values("monitor", np.arange(self.n_frames), self.flux)
        scan.finish(time=1.77e9 + 100, exit_status="success", reason="", summary={})
        return scan.path


@dataclass
class Truth:
    """Expected counts and exposure of every cell, by the simulator's model and geometry."""

    grid: Grid

    def __post_init__(self) -> None:
        self.expected = np.zeros(self.grid.size)
        self.air = np.zeros(self.grid.size)
        self.weight = np.zeros(self.grid.size)
        self.per_sr = 0.0  # of a pixel where the beam meets the panel: one for all sweeps

    def add(self, sweep: Measured, without: Sequence[int] = ()) -> Truth:
        seen = sweep.crystal
        seen.shift(*sweep.shift)
        self.per_sr = seen.pixel**2 / crystal.DISTANCE**2
        good = ~(seen.gaps | seen.bad) & (seen.correction > 0)
        down, across = np.nonzero(good)
        ray = (
            seen.origin
            + (across[:, None] + 0.5) * seen.pixel * np.array(crystal.FAST)
            + (down[:, None] + 0.5) * seen.pixel * np.array(crystal.SLOW)
        )
        ray /= np.linalg.norm(ray, axis=1, keepdims=True)
        q = (ray - [0.0, 0.0, 1.0]) / crystal.WAVELENGTH
        correction = seen.correction[good].astype(float)
        for n in range(sweep.n_frames):
            if n in without or sweep.beams[n] <= 0:
                continue
            exposure = sweep.exposure(n)
            middle = [0.5 * (a + b) for a, b in zip(*exposure.angles, strict=True)]
            hkl = np.linalg.solve(seen.UB, crystal.goniometer(*middle).T @ q.T)
            cell = np.floor(hkl * np.array(self.grid.per_unit)[:, None] + 0.5).astype(int)
            cell -= np.array(self.grid.first)[:, None]
            inside = np.all((cell >= 0) & (cell < np.array(self.grid.shape)[:, None]), axis=0)
            flat = np.ravel_multi_index(tuple(cell[:, inside]), self.grid.shape)
            scale = exposure.beam * exposure.seconds
            for total, value in (
                (self.expected, seen.expected(exposure)[good]),
                (self.air, seen.air[good] * scale),
                (self.weight, correction * scale),
            ):
                np.add.at(total, flat, value[inside].astype(float))
        return self

    def pulls(self, volume: Any, *, unit: float = MONITOR) -> np.ndarray:
        """(v/n − truth) / σ of every measured cell; σ is that of the truth.

        The truth is the mean over the cell, weighted as the cell was looked at. ``unit`` is what a
        second of a beam of 1 weighs in the volume.
        """
        seen = (self.weight > 0) & (volume.weight.reshape(-1) > 0)
        expected = self.expected[seen]
        # from the simulator's solid angle and beam to steradian and monitor counts
        unit = unit * self.per_sr
        mean, weight = expected / (self.weight[seen] * unit), volume.weight.reshape(-1)[seen]
        variance = expected / weight**2
        if volume.background is not None:
            mean = mean - self.air[seen] / (self.weight[seen] * unit)
            variance = variance + volume.background_variance.reshape(-1)[seen] / weight**2
        return (volume.intensity.reshape(-1)[seen] - mean) / np.sqrt(variance)
