# [device]
import asyncio
import contextlib
import uuid
from pathlib import Path
from typing import ClassVar

import numpy as np
import tifffile
from ophyd_async.core import (
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    StandardDetector,
    StreamResourceDataProvider,
    StreamResourceInfo,
    soft_signal_r_and_setter,
)

from offbragg.devices.async_detector import AsyncDetector
from offbragg.geometry import Geometry


class Timing(DetectorTriggerLogic):
    """What was asked for: this camera exposes by its own clock."""

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        self.n_frames, self.period = num, livetime + deadtime


class Files(DetectorDataLogic):
    """A TIFF file for each frame, in a folder for each sweep."""

    def __init__(self, root: Path, shape: tuple[int, int]) -> None:
        self.root, self.shape = root, shape
        self.written, self._set_written = soft_signal_r_and_setter(int)

    async def prepare_unbounded(self, datakey_name: str) -> StreamResourceDataProvider:
        self.folder = self.root / uuid.uuid4().hex[:8]
        self.folder.mkdir()
        self._set_written(0)
        frames = StreamResourceInfo(
            data_key=datakey_name,
            shape=self.shape,
            chunk_shape=(1, *self.shape),
            dtype_numpy="<i4",
            parameters={"template": "x_{:05d}.tif"},
        )
        return StreamResourceDataProvider(
            uri=f"file://localhost{self.folder}/",
            resources=[frames],
            mimetype="multipart/related;type=image/tiff",
            collections_written_signal=self.written,
        )

    def write(self, number: int) -> None:
        counts = np.random.poisson(1.0, self.shape).astype(np.int32)
        counts[0, 0] = number
        tifffile.imwrite(self.folder / f"x_{number:05d}.tif", counts)
        self._set_written(number + 1)


class Exposing(DetectorAcquireLogic):
    """Expose until all frames are there, or until it is stopped."""

    def __init__(self, timing: Timing, files: Files) -> None:
        self.timing, self.files = timing, files
        self._task: asyncio.Task[None] | None = None

    async def start_acquiring(self) -> None:
        self._task = asyncio.create_task(self._expose())

    async def _expose(self) -> None:
        for number in range(self.timing.n_frames):
            await asyncio.sleep(self.timing.period)
            self.files.write(number)

    async def wait_for_idle(self) -> None:
        if self._task is not None:
            await self._task

    async def ensure_stopped(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None


class AsyncCamera(AsyncDetector):
    """A detector of ophyd-async, for beamline.toml."""

    from_beamline: ClassVar = {"frames": "paths.frames", "geometry": "geometry"}

    def __init__(self, prefix: str = "", *, name: str, frames: str, geometry: Geometry) -> None:
        camera = StandardDetector(name=name)
        timing, files = Timing(), Files(Path(frames), geometry.panel.shape)
        camera.add_detector_logics(timing, files, Exposing(timing, files))
        super().__init__(
            camera,
            shape=geometry.panel.shape,
            facts={"sensor_material": "Si", "sensor_thickness": 0.45},  # mm
            geometry=geometry,
            readout=0.001,  # s
        )
