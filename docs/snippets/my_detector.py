# [device]
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fabio.cbfimage
import numpy as np
from event_model import compose_stream_resource
from ophyd import Device
from ophyd.status import Status

from offbragg.errors import SweepError
from offbragg.geometry import Geometry
from offbragg.sweep import Sweep


class Camera(Device):
    """A camera that exposes one sweep per flight and writes one CBF file per frame.

    Parameters
    ----------
    frames
        Directory for frame files as this host sees it; `build_devices` gives it.
    geometry
        Where its panel stands; `build_devices` gives it.
    """

    from_beamline: ClassVar = {"frames": "paths.frames", "geometry": "geometry"}

    def __init__(
        self, prefix: str = "", *, name: str, frames: str, geometry: Geometry, **kwargs: Any
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.geometry = geometry
        self._frames = Path(frames)
        self._stop = threading.Event()

    # [facts]
    def hardware(self) -> dict[str, Any]:
        """Return what the start document says of the detector."""
        return {
            "name": self.name,
            "model": "Camera",
            "format": "cbf",
            "shape": list(self.geometry.panel.shape),
            "sensor_material": "Si",
            "sensor_thickness": 0.45,  # mm
        }

    def check(self, sweep: Sweep) -> None:
        """Refuse what it cannot do, before anything moves."""
        if sweep.period < 0.01:
            raise SweepError(f"period {sweep.period} s is too short for {self.name}: 0.01 s")

    # [flight]
    def prepare(self, sweep: Sweep) -> Status:
        """Set everything up; done when it is."""
        self.check(sweep)
        self._sweep, self._covered, self._collected = sweep, 0, 0
        self._directory = self._frames / f"{self.name}_{uuid.uuid4().hex[:8]}"
        self._directory.mkdir(parents=True)
        self._compose_datum = None
        return _done(self)

    def kickoff(self) -> Status:
        """Begin; done when the first exposure may begin."""
        self._stop.clear()
        self._flight = Status(self)
        threading.Thread(target=self._expose, daemon=True).start()
        return _done(self)

    def complete(self) -> Status:
        """Return the status that is done when the sweep has ended and the camera is idle."""
        return self._flight

    def _expose(self) -> None:
        for number in range(self._sweep.n_frames):
            if self._stop.wait(self._sweep.period):
                break
            counts = np.random.poisson(1.0, self.geometry.panel.shape).astype(np.int32)
            counts[0, 0] = number
            image = fabio.cbfimage.CbfImage(data=counts)
            image.write(str(self._directory / f"x_{number:05d}.cbf"))
            self._covered = number + 1  # also if the file were missing: never shift the others
        self._flight.set_finished()

    def stop(self, *, success: bool = False) -> None:
        """Stop exposing."""
        self._stop.set()

    # [documents]
    def describe_collect(self) -> dict[str, Any]:
        """Describe one frame."""
        return {
            f"{self.name}_image": {
                "source": "camera",
                "dtype": "array",
                "dtype_numpy": "<i4",
                "shape": list(self.geometry.panel.shape),
                "external": "STREAM:",
            }
        }

    def get_index(self) -> int:
        """Return the number of frames, from the first on, that are there or passed by."""
        return self._covered

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        """Yield where the frames are, once; then which of them came since the last call."""
        if self._compose_datum is None:
            bundle = compose_stream_resource(
                mimetype="multipart/related;type=image/x-cbf",
                uri=f"file://localhost{self._directory}/",
                data_key=f"{self.name}_image",
                parameters={"template": "x_{:05d}.cbf", "chunk_shape": [1]},
            )
            self._compose_datum = bundle.compose_stream_datum
            yield "stream_resource", bundle.stream_resource_doc
        stop = self._covered if index is None else min(index, self._covered)
        if stop > self._collected:
            datum = self._compose_datum({"start": self._collected, "stop": stop})
            self._collected = stop
            yield "stream_datum", datum


def _done(device: Device) -> Status:
    status = Status(device)
    status.set_finished()
    return status
