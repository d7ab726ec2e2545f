"""The step-scan twin of a Pilatus: one frame per point, for `count`, `scan` and `grid_scan`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Kind, Signal
from ophyd.status import Status

from offbragg.devices.acquisition import Acquisition
from offbragg.devices.background import check_times, in_background, put, put_all, verify
from offbragg.devices.pilatus_files import PilatusFiles
from offbragg.errors import DeviceError, FrameError
from offbragg.files import read_frame


class PilatusStep(PilatusFiles):
    """A Pilatus that takes one frame when triggered; parameters as for `Pilatus`.

    Each staging has a directory of its own. The frames are in the documents as an external stream
    (``<name>_image``), and as numbers to plot: ``<name>_sum`` and ``<name>_max`` of the counts of
    the valid pixels.
    """

    exposure = Cpt(Signal, value=1.0, kind=Kind.config)
    """Exposure time, s."""
    sum = Cpt(Signal, value=0, kind=Kind.hinted)
    max = Cpt(Signal, value=0, kind=Kind.normal)

    _directory: Path | None = None
    _taken = False
    _collected = 0
    _compose_datum: Any = None

    def stage(self) -> Status:  # type: ignore[override]  # Bluesky takes both
        """Make a directory for the frames and set the IOC up; done when it has taken it all."""
        self.check_disk(1)
        super().stage()
        self._taken = False
        self._collected = 0
        self._compose_datum = None
        return in_background(self, self._set_up)

    def _set_up(self) -> None:
        self.recover()
        stem = str(self.file_stem.get()) or f"{self.name}_{uuid.uuid4().hex[:8]}"
        self._directory = self._make_directory(stem)
        cam = self.cam
        self.take_internal_trigger()
        self.use_plain_exposures()
        put(cam.n_frames, 1)
        put(cam.file_timeout, self.patience)
        self._name_files(self._directory)
        put_all(*self._headers().items())
        verify(cam.n_frames, 1)

    def trigger(self) -> Status:  # type: ignore[override]
        """Take one frame; done when its file is there and whole."""
        if self._directory is None:
            raise DeviceError(
                f"{self.name} was triggered without being staged\n"
                "Bluesky's plans stage what they read; in a plan of your own use stage_decorator."
            )
        exposure = float(np.asarray(self.exposure.get()))
        check_times(self.name, exposure=exposure)
        return in_background(self, self._take, self._directory, exposure, self.new_acquisition())

    def _take(self, directory: Path, exposure: float, acquisition: Acquisition) -> None:
        put(self.cam.exposure, exposure)
        verify(self.cam.exposure, exposure)
        put(self.cam.file_number, self._collected)
        self.expose_one(exposure, acquisition)
        path = directory / f"{self._stem}_{self._collected:05d}.{self.format}"
        counts = self._read(path)
        valid = counts[counts >= 0]
        self.sum.put(int(valid.sum()))
        self.max.put(int(valid.max(initial=0)))
        self._taken = True

    def _read(self, path: Path) -> Any:
        """Read the frame as soon as this host sees all of it."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return read_frame(path, number=self._collected, shape=self.shape).counts
            except (FileNotFoundError, FrameError) as error:
                if time.monotonic() > deadline:
                    raise DeviceError(
                        f"{self.name}: frame {path} cannot be read {self.patience:g} s after it "
                        f"was taken: {error}\nDoes this host see what the detector writes?"
                    ) from error
            time.sleep(0.02)

    def describe(self) -> Any:
        """Describe the frame (external) and its sum and maximum."""
        return {**self.describe_frames(), **super().describe()}

    def get_index(self) -> int:
        """Return the number of frames that have been taken."""
        return self._collected + self._taken

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        """Return the documents of the frame that was taken since the last call."""
        if not self._taken or self._directory is None:
            return
        if self._compose_datum is None:
            bundle = self.compose_frames(self._directory)
            self._compose_datum = bundle.compose_stream_datum
            yield "stream_resource", bundle.stream_resource_doc
        datum = self._compose_datum({"start": self._collected, "stop": self._collected + 1})
        self._collected += 1
        self._taken = False
        yield "stream_datum", datum

    def stop(self, *, success: bool = False) -> None:
        """End an exposure in progress."""
        self.stop_own()

    def unstage(self) -> Status:  # type: ignore[override]  # Bluesky takes both
        """Leave the detector idle; done when it is."""
        self.stop()
        super().unstage()
        self._directory = None
        return in_background(self, self._leave_idle)

    def _leave_idle(self) -> None:
        self.end_own()
        self.put_trigger_back()
