"""What a Pilatus needs whether it flies or steps: directories, headers, one frame."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from event_model import compose_stream_resource
from ophyd import Component as Cpt
from ophyd import EpicsSignalRO, Kind, Signal
from ophyd.status import Status

from offbragg.devices import acquisition as acquiring
from offbragg.devices.acquisition import Acquisition
from offbragg.devices.background import check_times, in_background, put, put_all, verify
from offbragg.devices.claim import DetectorClaim
from offbragg.devices.frame_folder import describe_access, folder_mode, make_folder
from offbragg.devices.pilatus_cam import GAP_FILL, HEADER_FIELDS, MIMETYPES
from offbragg.devices.pilatus_control import PASSING, PilatusControl
from offbragg.errors import ConfigError, DeviceError
from offbragg.geometry import Geometry

log = logging.getLogger(__name__)

KEV_ANGSTROM = 12.398419843  # h c
HEADER_TEXT = 68  # bytes that camserver takes


class PilatusFiles(PilatusControl):
    """A Pilatus whose frames are files in a directory (see `Pilatus` for the parameters)."""

    from_beamline: ClassVar[Mapping[str, str]] = {
        "frames": "paths.frames", "geometry": "geometry", "reserve": "limits.free_disk",
    }  # fmt: skip
    """Parameters that other tables of beamline.toml fill: name → key there."""

    file_stem = Cpt(Signal, value="", kind=Kind.omitted)
    comment = Cpt(Signal, value="", kind=Kind.omitted)
    """What goes into each header after the stem: the session writes run and sample into it."""

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str,
        frames: str,
        model: str,
        sensor_material: str,
        sensor_thickness: float,
        write_path: str | None = None,
        format: str = "cbf",
        patience: float = 5.0,
        reserve: float = 1.0,
        directory_mode: str = "2775",
        geometry: Geometry | None = None,
        header: dict[str, float | str] | None = None,
        **kwargs: object,
    ) -> None:
        if format not in MIMETYPES:
            raise ConfigError(f"{name}: format {format!r} is not one of {', '.join(MIMETYPES)}")
        for key in header or {}:
            if key not in HEADER_FIELDS:
                raise ConfigError(
                    f"{name}: header.{key} is unknown; there are {', '.join(HEADER_FIELDS)}"
                )
        check_times(name, patience=patience)
        if not sensor_thickness > 0:
            raise ConfigError(
                f"{name}: sensor_thickness is {sensor_thickness:g}: it must be above 0 mm"
            )
        if not reserve >= 0:
            raise ConfigError(f"{name}: reserve is {reserve:g}: it must not be below 0 GB")
        super().__init__(
            prefix, name=name, claim=DetectorClaim(Path(frames), prefix), format=format,
            write_path=write_path or str(Path(frames)), **kwargs,
        )  # fmt: skip
        self.frames = Path(frames)
        self.model = model
        self.sensor_material = sensor_material
        self.sensor_thickness = sensor_thickness
        self.patience = patience
        self.reserve = reserve
        self.directory_mode = directory_mode
        self.folder_mode = folder_mode(directory_mode)
        self.geometry = geometry
        self.header = {
            key: value if isinstance(value, int | float) else EpicsSignalRO(value, name=key)
            for key, value in (header or {}).items()
        }
        self.axes_at: dict[str, float] = {}
        """Where the axes of the goniometer stand, degree, for the headers; else as configured."""
        self._stem = ""

    @property
    def image_key(self) -> str:
        """Data key of the frames."""
        return f"{self.name}_image"

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels (slow, fast), as the IOC says."""
        shape = int(self.cam.size_y.get()), int(self.cam.size_x.get())
        if min(shape) < 1:
            raise DeviceError(
                f"{self.name} says its frames have {shape[0]} × {shape[1]} pixels "
                f"({self.cam.size_y.pvname}, {self.cam.size_x.pvname})\n"
                "Is camserver connected?"
            )
        return shape

    def describe_frames(self) -> dict[str, Any]:
        """Describe the frames: an external array of which each has one row."""
        return {
            self.image_key: {
                "source": f"PV:{self.prefix}FullFileName_RBV",
                "dtype": "array",
                "dtype_numpy": "<i4",
                "shape": list(self.shape),
                "external": "STREAM:",
            }
        }

    def compose_frames(self, directory: Path, **more: object) -> Any:
        """Make the documents that say where frames are: event-model's bundle.

        Parameters
        ----------
        directory
            Of the frames, as this host sees it.
        more
            More parameters of the stream resource.
        """
        path = directory.absolute().as_uri().removeprefix("file://")
        return compose_stream_resource(
            mimetype=MIMETYPES[self.format],
            uri=f"file://localhost{path}/",
            data_key=self.image_key,
            parameters={
                "template": f"{self._stem}_{{:05d}}.{self.format}",
                "chunk_shape": [1],
                **more,
            },
        )

    def hardware(self) -> dict[str, Any]:
        """Describe the detector for the start document; what is not known is left out."""
        facts: dict[str, Any] = {
            "name": self.name,
            "model": self.model,
            "serial": str(self.cam.serial.get()),
            "sensor_material": self.sensor_material,
            "sensor_thickness": float(self.sensor_thickness),
            "format": self.format,
            "shape": list(self.shape),
        }
        # the read-backs are 0 until something was sent to camserver (ADPilatus 2.9)
        for key, signal in (
            ("saturation", self.cam.cut_off),
            ("threshold", self.cam.threshold),
            ("energy", self.cam.energy),
        ):
            value = float(signal.get())
            if value > 0:
                facts[key] = value
        facts.update(self._corrections())
        return facts

    def _corrections(self) -> dict[str, Any]:
        """Return what the IOC corrects in what its plugins see, and the template of the headers."""
        cam = self.cam
        found: dict[str, Any] = {}
        if n_bad := int(cam.n_bad_pixels.get()):
            found["bad_pixels"] = {"n": n_bad, "file": str(cam.bad_pixel_file.get())}
        if cam.flat_field_valid.get():
            found["flat_field"] = {"file": str(cam.flat_field_file.get())}
        if template := str(cam.header_template.get()):
            found["header_template"] = template
        return found

    def frame_bytes(self) -> int:
        """Size of one frame file at most, bytes."""
        pixels = self.shape[0] * self.shape[1]
        return pixels * 4 + 4096 if self.format == "tif" else int(pixels * 1.2) + 4096

    def check_disk(self, n_frames: int) -> None:
        """Refuse if the directory cannot be written or has too little space.

        Raises
        ------
        ConfigError
            With the directory and the numbers.
        """
        if not self.frames.is_dir() or not os.access(self.frames, os.W_OK):
            raise ConfigError(
                f"frames directory {self.frames} is not there or cannot be written\n"
                "Make it, or set [paths] frames in beamline.toml."
            )
        needed = self.frame_bytes() * n_frames / 1e9
        free = shutil.disk_usage(self.frames).free / 1e9
        if free < needed + self.reserve:
            raise ConfigError(
                f"too little disk for {n_frames} frames: {free:.2f} GB free in "
                f"{self.frames}, {needed:.2f} GB needed and {self.reserve:g} GB to be left\n"
                "Free some, or set [paths] frames in beamline.toml to a larger disk."
            )

    def _make_directory(self, stem: str) -> Path:
        """Make a directory of the sweep's own, so that no old file can pass for a new one."""
        for attempt in range(1, 1000):
            directory = self.frames / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                make_folder(directory, self.folder_mode)
            except FileExistsError:
                continue
            except OSError as error:
                raise ConfigError(
                    f"directory {directory} for the frames cannot be made: {error.strerror}\n"
                    "Set [paths] frames in beamline.toml to a directory that can be written."
                ) from error
            return directory
        raise ConfigError(f"{self.frames} has 999 directories named {stem} already")

    def use_directory(self, name: str) -> None:
        """Have frames written to a directory below `frames`, which is there.

        Raises
        ------
        DeviceError
            If the detector's computer does not see it.
        """
        path = f"{self.write_path.rstrip('/')}/{name}/"
        put(self.cam.file_path, path)
        deadline = time.monotonic() + 5.0
        read_back = ""
        while time.monotonic() < deadline:
            # FilePath_RBV has a trailing slash whatever was put
            read_back = str(self.cam.file_path.get(use_monitor=False))
            there = self.cam.file_path_exists.get(use_monitor=False)
            if read_back.rstrip("/") == path.rstrip("/") and there:
                return
            time.sleep(0.01)
        raise DeviceError(
            f"{self.name} cannot write to {path}: {self.cam.file_path.pvname} is {read_back!r}, "
            f"{self.cam.file_path_exists.pvname} is {self.cam.file_path_exists.get()}\n"
            "Set write_path of the detector in beamline.toml: the frames directory "
            f"({self.frames} on this host) as the detector's computer sees it."
        )

    def _name_files(self, directory: Path) -> None:
        """Set where frames go and what they are called."""
        self._stem = directory.name
        cam = self.cam
        put_all(
            (cam.auto_increment, 0),
            (cam.file_number, 0),
            (cam.file_template, self._template),
            (cam.file_name, self._stem),
        )
        self.use_directory(self._stem)

    def _headers(self) -> dict[Any, Any]:
        """Return what camserver is to write into each frame's header, as far as it is known."""
        cam = self.cam
        text = f"{self._stem} {self.comment.get()}".strip()
        known: dict[Any, Any] = {
            cam.header_text: text.encode("ascii", "replace")[:HEADER_TEXT].decode(),
            cam.n_oscillations: 1,
        }
        if self.geometry is not None:
            known[cam.wavelength] = self.geometry.wavelength
            electronvolt = 1e3 * KEV_ANGSTROM / self.geometry.wavelength
            known[cam.energy_low] = known[cam.energy_high] = electronvolt
            for axis in self.geometry.axes:
                if axis.name in ("alpha", "kappa", "phi", "chi", "omega"):
                    known[getattr(cam, axis.name)] = self.axes_at.get(axis.name, axis.angle)
            along = abs(float(self.geometry.panel.normal[2]))
            known[cam.det_2theta] = math.degrees(math.acos(min(along, 1.0)))
            beam = self.geometry.direct_beam()
            if beam is not None:
                known |= zip((cam.beam_x, cam.beam_y, cam.distance), beam, strict=True)
        for key, source in list(self.header.items()):
            known[getattr(cam, HEADER_FIELDS[key])] = self._header_value(key, source)
        return known

    def _header_value(self, key: str, source: Any) -> float:
        if not isinstance(source, EpicsSignalRO):
            return float(source)
        for _ in range(2):
            try:
                return float(np.asarray(source.get(timeout=5.0, connection_timeout=5.0)))
            except TimeoutError:
                # pyepics at times does not notify a second user of a channel: ask again
                source.destroy()
                source = self.header[key] = EpicsSignalRO(source.pvname, name=key)
        raise DeviceError(
            f"{self.name}: header.{key} cannot be filled: {source.pvname} does not answer\n"
            "Correct or remove it in [devices.*] header of beamline.toml."
        )

    def use_plain_exposures(self, *, callbacks: bool = True) -> None:
        """Undo what somebody may have set that changes pixels or times.

        One exposure per frame, no delay after a trigger, and no valid count (−1) between modules.

        Parameters
        ----------
        callbacks
            Whether the IOC reads the frames for its plugins.
        """
        cam = self.cam
        delay = float(cam.delay.get_setpoint(use_monitor=False))
        if delay != 0.0:
            log.warning("%s: %s was %g s and is set to 0: it delays each triggered frame",
                        self.name, cam.delay.setpoint_pvname, delay)  # fmt: skip
        if int(cam.gap_fill.get_setpoint(use_monitor=False)) not in (0, GAP_FILL):
            log.warning('%s: %s was "0" and is set to "-1": gaps would have read as 0 counts',
                        self.name, cam.gap_fill.setpoint_pvname)  # fmt: skip
        put_all(
            (cam.n_exposures, 1),
            (cam.delay, 0.0),
            (cam.gap_fill, GAP_FILL),
            (cam.callbacks, int(callbacks)),
        )
        verify(cam.n_exposures, 1)
        verify(cam.delay, 0.0)
        verify(cam.gap_fill, GAP_FILL)
        verify(cam.callbacks, int(callbacks))

    def prime(self, exposure: float = 0.1) -> Status:
        """Take one frame, so that camserver is known to work and every plugin knows its size."""
        check_times(self.name, exposure=exposure)
        return in_background(self, self._prime, exposure, self.new_acquisition())

    def _prime(self, exposure: float, acquisition: Acquisition) -> None:
        self.check_disk(1)
        self.recover()
        cam = self.cam
        directory = self._make_directory(f"{self.name}_prime")
        self.take_internal_trigger()
        try:
            self.use_plain_exposures()
            put(cam.n_frames, 1)
            put(cam.exposure, exposure)
            put(cam.file_timeout, self.patience)
            self._name_files(directory)
            self.expose_one(exposure, acquisition)
        finally:
            self.put_trigger_back()

    def expose_one(self, exposure: float, acquisition: Acquisition) -> None:
        """Take the one frame that everything is set up for.

        Raises
        ------
        DeviceError
            If it does not come: what the IOC says.
        """
        cam = self.cam
        acquisition.start()
        # the IOC itself waits 10 s for camserver's 7 OK, then `patience` for the file
        limit = exposure + 10.0 + self.patience + 5.0
        if not acquisition.await_done(limit):
            problem = self.ioc_state()
            acquisition.end()
            raise DeviceError(f"{self.name} took no frame in {limit:g} s: {problem}")
        acquiring.await_idle(cam, timeout=PASSING)
        if str(cam.state.get(use_monitor=False)) in ("Error", "Aborted", "Disconnected"):
            raise DeviceError(
                f"{self.name} took no frame: {self.ioc_state()}\n"
                f"Is camserver running, and can its user write to {self.write_path}/{self._stem} "
                f"({describe_access(self.frames / self._stem)})?"
            )

    def destroy(self) -> None:
        """Disconnect from every record, those copied into the headers included."""
        for source in self.header.values():
            if isinstance(source, EpicsSignalRO):
                source.destroy()
        super().destroy()
