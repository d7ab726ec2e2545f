"""Those who bring frames into cells: offbragg, and what people use for it.

xrayutilities and meerkat come with ``pip install 'offbragg[bench]'``; CCTW is there if a program
``cctw`` is found in PATH. A peer that is not there raises ModuleNotFoundError.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import fabio
import h5py
import numpy as np
from benchmarks.measurement import (
    BEAM,
    CELL,
    DISTANCE,
    PLAIN,
    REACH,
    UB,
    WAVELENGTH,
    Array,
    Cells,
    Measurement,
    children,
    cpu,
    scan_file,
)
from numpy.typing import NDArray

from offbragg.files.scan_file import ScanFile
from offbragg.kernels.transform import Exposures, transform
from offbragg.reduction import ReductionSetup, reduce
from offbragg.reduction.binning import FrameToAdd
from offbragg.reduction.reduce import add_frames
from sim_iocs.cbf import encode_cbf


class Transform:
    """Ours: the kernel on frames in memory."""

    name, version = "offbragg: transform", version("offbragg")
    includes = "q → hkl; counts and weight, exact sums; mask, weight of each pixel"

    def __init__(self, measurement: Measurement, threads: int = 1) -> None:
        self.measurement = measurement
        self.setup = ReductionSetup(
            measurement.geometry, UB, measurement.grid, PLAIN, threads=threads
        )
        self.sums = self.setup.accumulator(self.setup.exponent(1.0))
        binner, sweep = self.setup.binner(), measurement.sweep
        frames = [
            FrameToAdd(lambda out: None, begin, end, 1.0)
            for begin, end in zip(sweep.edges[:-1], sweep.edges[1:], strict=True)
        ]
        self.exposures: list[Exposures] = binner.exposures(
            np.stack([binner.turns(frame) for frame in frames]),
            binner.flux(frames, self.sums.exponent), measurement.counts,
        )  # fmt: skip

    def per_frame(self) -> float:
        rows, columns = self.measurement.counts.shape[1:]
        with cpu() as spent:
            for exposures in self.exposures:
                transform(exposures, self.sums.sums, (0, rows, 0, columns))
        return spent() / len(self.measurement.counts)

    def cells(self) -> Cells:
        stack = self.measurement.stack
        volume = reduce(stack, self.setup, np.ones(len(stack)))
        return Cells(volume.counts, volume.weight)


class Reduce(Transform):
    """Ours: frames out of a scan file."""

    name = "offbragg: reduce"
    includes = "scan file read, checksums compared, decoded; " + Transform.includes

    def __init__(self, measurement: Measurement, folder: Path) -> None:
        super().__init__(measurement)
        self.path = scan_file(measurement, folder)
        self.binner = self.setup.binner()

    def per_frame(self) -> float:
        n = len(self.measurement.counts)
        with ScanFile.open(self.path) as scan, cpu() as spent:
            add_frames(scan.stack, self.setup, np.ones(n), self.sums, binner=self.binner)
        return spent() / n


class Histogramdd:
    """NumPy: one call for the counts of all frames, one for the pixels."""

    name, version = "`np.histogramdd`", f"NumPy {np.__version__}"
    includes = "gridding alone; counts and number of pixels, float64"

    def __init__(self, measurement: Measurement, folder: Path) -> None:
        self.grid = grid = measurement.grid
        self.n = len(measurement.counts)
        self.hkl = np.concatenate([measurement.hkl(number) for number in range(self.n)])
        self.counts = measurement.counts[:, measurement.good].reshape(-1)
        self.edges = [
            (np.arange(a, a + n + 1) - 0.5) / m
            for a, n, m in zip(grid.first, grid.shape, grid.per_unit, strict=True)
        ]

    def per_frame(self) -> float:
        with cpu() as spent:
            self.cells()
        return spent() / self.n

    def cells(self) -> Cells:
        counts = np.histogramdd(self.hkl, self.edges, weights=self.counts)[0]
        return Cells(counts, np.histogramdd(self.hkl, self.edges)[0])


class Xrayutilities:
    """Gridder3D, as its documentation has it, on positions that are there."""

    name = "xrayutilities: Gridder3D"
    includes = "gridding alone; counts and number of pixels, float64"

    def __init__(self, measurement: Measurement, folder: Path) -> None:
        import xrayutilities

        self.version = version("xrayutilities")
        self.measurement, self.reach = measurement, float(REACH)
        xrayutilities.config.NTHREADS = 1
        self.new: Callable[..., object] = xrayutilities.Gridder3D
        rows, columns = measurement.counts.shape[1:]
        pixel = measurement.pixel
        self.convert = xrayutilities.QConversion(["y+"], [], [0, 0, 1], wl=WAVELENGTH)
        self.convert.init_area(
            "y-", "x-", BEAM[1] / pixel - 0.5, BEAM[0] / pixel - 0.5, rows, columns,
            distance=DISTANCE, pwidth1=pixel, pwidth2=pixel,
        )  # fmt: skip
        self.frames = [self.prepared(n) for n in range(len(measurement.counts))]
        self.gridder = self.empty()

    def empty(self):
        gridder = self.new(*self.measurement.grid.shape)
        gridder.KeepData(True)
        gridder.dataRange(*(-self.reach, self.reach) * 3, fixed=True)
        return gridder

    def prepared(self, number: int) -> tuple[Array, ...]:
        """Return h, k, l and counts of the pixels that count, by its own conversion."""
        angle, good = self.measurement.sweep.midpoints[number], self.measurement.good
        hkl = self.convert.area(np.array([angle]), UB=2 * np.pi * UB, wl=WAVELENGTH)
        counts = self.measurement.counts[number][good].astype(np.float64)
        return (*(axis.reshape(good.shape)[good] for axis in hkl), counts)

    def per_frame(self) -> float:
        with cpu() as spent:
            for frame in self.frames:
                self.gridder(*frame)
        return spent() / len(self.frames)

    def cells(self) -> Cells:
        gridder = self.empty()
        for frame in self.frames:
            gridder(*frame)
        return Cells(gridder._gdata, gridder._gnorm)


class XrayutilitiesConverting(Xrayutilities):
    """The same with its own conversion of each frame."""

    name = "xrayutilities: QConversion, Gridder3D"
    includes = "q → hkl, mask; counts and number of pixels, float64"

    def per_frame(self) -> float:
        n = len(self.measurement.counts)
        with cpu() as spent:
            for number in range(n):
                self.gridder(*self.prepared(number))
        return spent() / n


class Meerkat:
    """``reconstruct_data``, everything in memory: what a frame costs once it is prepared."""

    name = "meerkat: reconstruct_data"
    includes = "q → hkl, mask, polarization, air; intensity float32, number of pixels int64"

    def __init__(self, measurement: Measurement, folder: Path) -> None:
        import meerkat.meerkat

        self.version = version("meerkat")
        self.module, self.measurement, self.folder = meerkat.meerkat, measurement, folder
        (folder / "XPARM.XDS").write_text(xparm(measurement))

    template = "%d"

    def open(self, name: str) -> SimpleNamespace:
        """Hand it a frame that is in memory, instead of `fabio.open`."""
        return SimpleNamespace(data=self.measurement.counts[int(name) - 1])

    def run(self, n: int) -> tuple[NDArray[np.generic], Array]:
        """Return the number of pixels of each cell, and CPU seconds of each frame but the last."""
        opened: list[float] = []

        def note_and_open(name: str) -> object:
            opened.append(time.process_time())
            return self.open(name)

        with (
            mock.patch.object(self.module, "fabio", SimpleNamespace(open=note_and_open)),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            found = self.module.reconstruct_data(
                self.template, 1, n, [REACH] * 3, list(self.measurement.grid.shape),
                path_to_XPARM=str(self.folder), output_filename=None, all_in_memory=True,
                keep_number_of_pixels=True,
            )  # fmt: skip
        # it opens the first frame once more before, for its mask
        return found["number_of_pixels_rebinned"], np.diff(opened[1:])

    def per_frame(self) -> float:
        return float(self.run(len(self.measurement.counts))[1].min())

    def cells(self) -> Cells:
        return Cells(None, self.run(len(self.measurement.counts))[0])


class MeerkatFromFiles(Meerkat):
    """The same, frames out of CBF files."""

    name = "meerkat: reconstruct_data from CBF"
    includes = "CBF read by fabio; " + Meerkat.includes

    def __init__(self, measurement: Measurement, folder: Path) -> None:
        super().__init__(measurement, folder)
        self.template = f"{folder}/x_%05d.cbf"
        for number, counts in enumerate(measurement.counts, 1):
            content = encode_cbf(counts, name="x", header=["Exposure_time 0.1 s"])
            Path(self.template % number).write_bytes(content)

    def open(self, name: str) -> object:
        return fabio.open(name)


class Cctw:
    """What each further frame costs ``cctw transform``, file to file, with one thread."""

    name, version = "CCTW: transform", "0.2.3"
    includes = "HDF5 read, uncompressed; q → hkl, mask; counts and weight, float32"

    def __init__(self, measurement: Measurement, folder: Path) -> None:
        program = shutil.which("cctw")
        if program is None:
            raise ModuleNotFoundError("no program cctw in PATH")
        self.program, self.measurement, self.folder = program, measurement, folder
        (folder / "cctw.pars").write_text(cctw_parameters(measurement))
        with h5py.File(folder / "mask.h5", "w", libver=("earliest", "v108")) as file:
            file["mask"] = (~measurement.good).astype(np.int32)

    def run(self, n: int) -> Path:
        source, out = self.folder / f"frames_{n}.h5", self.folder / "transform.h5"
        if not source.exists():
            counts = self.measurement.counts[:n]
            with h5py.File(source, "w", libver=("earliest", "v108")) as file:
                file.create_dataset("entry/v", data=counts, chunks=(1, *counts.shape[1:]))
        out.unlink(missing_ok=True)
        subprocess.run(
            [
                self.program, "--nogui", "--threads", "1", "--script", self.folder / "cctw.pars",
                "--mask", f"{self.folder}/mask.h5#/mask", "--normalization", "0",
                "--compression", "0", "--output", f"{out}#/entry", "transform",
                f"{source}#/entry/v",
            ],
            check=True, capture_output=True, env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
        )  # fmt: skip
        return out

    def per_frame(self) -> float:
        """Return what n frames cost less one alone: the start, and writing the cells, are not."""
        n = len(self.measurement.counts)
        begun = children()
        self.run(1)
        alone = children() - begun
        self.run(n)
        return (children() - begun - 2 * alone) / (n - 1)

    def cells(self) -> Cells:
        with h5py.File(self.run(len(self.measurement.counts))) as file:
            return Cells(file["entry/v"][()].T, file["entry/n"][()].T)


def xparm(measurement: Measurement) -> str:
    """Return the geometry as XDS writes it, in our frame, with all digits: meerkat reads it."""
    rows, columns = measurement.counts.shape[1:]
    pixel, sweep = measurement.pixel, measurement.sweep
    numbers = [
        (1, sweep.midpoints[0], sweep.step, 0, 1, 0),  # the angle of the middle of frame 1
        (WAVELENGTH, 0, 0, 1 / WAVELENGTH),
        (1, CELL, CELL, CELL, 90, 90, 90),
        *(CELL * np.eye(3)),
        (1, columns, rows, pixel, pixel),
        (BEAM[0] / pixel + 0.5, BEAM[1] / pixel + 0.5, DISTANCE),  # the first pixel is 1
        (-1, 0, 0), (0, -1, 0), (0, 0, 1),
        (1, 1, columns, 1, rows), (0,) * 9,
    ]  # fmt: skip
    lines = [" ".join(f"{value:.15f}" for value in line) for line in numbers]
    return "\n".join(["XPARM.XDS", *lines, ""])


def cctw_parameters(measurement: Measurement) -> str:
    """Return the geometry in CCTW's frame: its x is our z, its y our x, its z our y."""
    turned = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    panel = np.array([[0.0, -1, 0], [0, 0, -1], [-1, 0, 0]])
    rows, columns = measurement.counts.shape[1:]
    pixel, sweep, cells = measurement.pixel, measurement.sweep, measurement.grid.shape[0]
    values = {
        "parameters.pixelSize": pixel,
        "parameters.wavelength": WAVELENGTH,
        "parameters.distance": DISTANCE,
        "parameters.unitCell": [CELL] * 3 + [math.pi / 2] * 3,
        "parameters.ubMat": (turned @ UB).tolist(),
        "parameters.oMat": panel.tolist(),
        "parameters.det0x": BEAM[0] / pixel,
        "parameters.det0y": BEAM[1] / pixel,
        "parameters.omegaNom": math.radians(sweep.midpoints[0]),
        "parameters.omegaStep": math.radians(sweep.step),
        "parameters.gridOrigin": [-REACH] * 3,
        "parameters.gridBasis": np.eye(3).tolist(),
        "parameters.gridDim": [measurement.half // REACH] * 3,
        "parameters.gridOffset": [0.5] * 3,  # it cuts off: so it rounds
        "parameters.extraFlip": "false",
        "inputData.chunkSize": [columns, rows, 1],
        "outputData.dimensions": [cells] * 3,
        "outputData.chunkSize": [32] * 3,
        "outputData.hdfChunkSize": [32] * 3,
        "transformer.oversampleX": 1,
        "transformer.oversampleY": 1,
        "transformer.oversampleZ": 1,
    }
    for name in ("oVec", "xTrans"):
        values[f"parameters.{name}"] = [0, 0, 0]
    for name in ("DetPitch", "DetRoll", "DetYaw", "GonPitch"):
        values[f"parameters.orientError{name}"] = 0
    return "".join(f"{name} = {value};\n" for name, value in values.items())
