"""What a Pilatus needs whether it flies or steps: directories, headers, recovery."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from event_model import compose_stream_resource
from ophyd import Component as Cpt
from ophyd import Device, EpicsSignalRO, Kind, Signal
from ophyd.status import Status

from offbragg.devices.background import check_times, in_background, put
from offbragg.devices.pilatus_cam import HEADER_FIELDS, MIMETYPES, READY, TRIGGERS, PilatusCam
from offbragg.errors import ConfigError, DeviceError
from offbragg.geometry import Geometry

log = logging.getLogger(__name__)

KEV_ANGSTROM = 12.398419843  # h c
HEADER_TEXT = 68  # bytes that camserver takes
ARMING = 10.0  # s; camserver takes 26 ms
ABORTING = 20.0  # s; an abort holds the IOC's port for 2 s


class PilatusFiles(Device):
    """A Pilatus whose frames are files in a directory (see `Pilatus` for the parameters)."""

    cam = Cpt(PilatusCam, "", kind=Kind.normal)
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
        geometry: Geometry | None = None,
        header: dict[str, float | str] | None = None,
        **kwargs: Any,
    ) -> None:
        if format not in MIMETYPES:
            raise ConfigError(f"{name}: format {format!r} is none of {', '.join(MIMETYPES)}")
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
        super().__init__(prefix, name=name, **kwargs)
        self.frames = Path(frames)
        self.write_path = write_path or str(self.frames)
        self.model = model
        self.sensor_material = sensor_material
        self.sensor_thickness = sensor_thickness
        self.format = format
        self.patience = patience
        self.reserve = reserve
        self.geometry = geometry
        self.header = {
            key: value if isinstance(value, int | float) else EpicsSignalRO(value, name=key)
            for key, value in (header or {}).items()
        }
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

    def compose_frames(self, directory: Path, **more: Any) -> Any:
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
        return facts

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

    def said(self) -> str:
        """Say what the IOC says, for an error message."""
        try:
            state, message = self.cam.state.get(), self.cam.message.get()
        except TimeoutError as error:
            return f"the IOC says nothing ({error})"
        return f"{self.cam.state.pvname} is {state} ({message!r})"

    def check_ready(self) -> None:
        """Refuse if the detector is at something else.

        Raises
        ------
        DeviceError
            What the IOC says.
        """
        if str(self.cam.state.get(use_monitor=False)) not in READY:
            raise DeviceError(
                f"{self.name} is busy: {self.said()}\n"
                f"Wait until it is idle, or put 0 to {self.cam.acquire.pvname}."
            )

    def _make_directory(self, stem: str) -> Path:
        """Make a directory of the sweep's own, so that no old file can pass for a new one."""
        for attempt in range(1, 1000):
            directory = self.frames / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                directory.mkdir()
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
        told = ""
        while time.monotonic() < deadline:
            # FilePath_RBV has a trailing slash whatever was put
            told = str(self.cam.file_path.get())
            if told.rstrip("/") == path.rstrip("/") and self.cam.file_path_exists.get():
                return
            time.sleep(0.05)
        raise DeviceError(
            f"{self.name} cannot write to {path}: {self.cam.file_path.pvname} is {told!r}, "
            f"{self.cam.file_path_exists.pvname} is {self.cam.file_path_exists.get()}\n"
            "Set write_path of the detector in beamline.toml: the frames directory "
            f"({self.frames} on this host) as the detector's computer sees it."
        )

    @property
    def _template(self) -> str:
        """FileTemplate: five digits after the last "_" are the number of the first frame."""
        return f"%s%s_%5.5d.{self.format}"

    def _name_files(self, directory: Path) -> None:
        """Tell the IOC where frames go and what they are called."""
        self._stem = directory.name
        cam = self.cam
        put(cam.auto_increment, 0)
        put(cam.file_number, 0)
        put(cam.file_template, self._template)
        put(cam.file_name, self._stem)
        self.use_directory(self._stem)

    def _fill_headers(self) -> None:
        """Tell camserver what goes into each frame's header, as far as it is known."""
        cam = self.cam
        text = f"{self._stem} {self.comment.get()}".strip()
        put(cam.header_text, text.encode("ascii", "replace")[:HEADER_TEXT].decode())
        put(cam.n_oscillations, 1)
        if self.geometry is not None:
            put(cam.wavelength, self.geometry.wavelength)
            electronvolt = 1e3 * KEV_ANGSTROM / self.geometry.wavelength
            put(cam.energy_low, electronvolt)
            put(cam.energy_high, electronvolt)
            for axis in self.geometry.axes:
                if axis.name in ("alpha", "kappa", "phi", "chi", "omega"):
                    put(getattr(cam, axis.name), axis.angle)
            along = abs(float(self.geometry.panel.normal[2]))
            put(cam.det_2theta, math.degrees(math.acos(min(along, 1.0))))
            beam = self.geometry.direct_beam()
            if beam is not None:
                for signal, value in zip((cam.beam_x, cam.beam_y, cam.distance), beam, strict=True):
                    put(signal, value)
        for key, source in list(self.header.items()):
            put(getattr(cam, HEADER_FIELDS[key]), self._header_value(key, source))

    def _header_value(self, key: str, source: Any) -> float:
        if not isinstance(source, EpicsSignalRO):
            return float(source)
        for _ in range(2):
            try:
                return float(np.asarray(source.get(timeout=5.0, connection_timeout=5.0)))
            except TimeoutError:
                # pyepics at times forgets to tell a second user of a channel: ask anew
                source.destroy()
                source = self.header[key] = EpicsSignalRO(source.pvname, name=key)
        raise DeviceError(
            f"{self.name}: header.{key} cannot be filled: {source.pvname} does not answer\n"
            "Correct or remove it in [devices.*] header of beamline.toml."
        )

    def recover(self) -> None:
        """Make a detector ready that was left acquiring, or ended in Error.

        After a missing file the IOC says Error while camserver exposes on. Only an abort sends the
        kill, and only of a series that runs: so one is begun that waits for a pulse, and aborted.

        Raises
        ------
        DeviceError
            If camserver does not take a series at all.
        """
        cam = self.cam
        if cam.acquire.get(use_monitor=False):
            self.abort()
            return
        if str(cam.state.get(use_monitor=False)) != "Error":
            return
        log.warning("%s ended in an error (%s); it is reset", self.name, cam.message.get())
        put(cam.trigger_mode, TRIGGERS["ext_trigger"])
        put(cam.n_frames, 1)
        put(cam.file_timeout, ABORTING)
        put(cam.file_template, self._template)  # the error may be of another one
        put(cam.file_name, "reset")
        ended = threading.Event()
        cam.acquire.put(1, use_complete=True, callback=lambda **_: ended.set())
        deadline = time.monotonic() + ARMING
        while not cam.armed.get(use_monitor=False):
            if ended.is_set() or time.monotonic() > deadline:
                raise DeviceError(
                    f"{self.name} cannot be reset: {self.said()}\n"
                    "Is camserver running? Start it again, then repeat the scan."
                )
            time.sleep(0.01)
        self.abort()

    def prime(self, exposure: float = 0.1) -> Status:
        """Take one frame, so that camserver is known to work and every plugin knows its size."""
        check_times(self.name, exposure=exposure)
        return in_background(self, self._prime, exposure)

    def _prime(self, exposure: float) -> None:
        self.check_disk(1)
        self.recover()
        cam = self.cam
        self._name_files(self._make_directory(f"{self.name}_prime"))
        put(cam.trigger_mode, TRIGGERS["internal"])
        put(cam.n_exposures, 1)
        put(cam.n_frames, 1)
        put(cam.exposure, exposure)
        put(cam.file_timeout, self.patience)
        self.expose_one(exposure)

    def expose_one(self, exposure: float) -> None:
        """Take the one frame that everything is set up for.

        Raises
        ------
        DeviceError
            If it does not come: what the IOC says.
        """
        ended = threading.Event()
        self.cam.acquire.put(1, use_complete=True, callback=lambda **_: ended.set())
        # the IOC itself waits 10 s for camserver's 7 OK, then `patience` for the file
        if not ended.wait(exposure + 10.0 + self.patience + 5.0):
            said = self.said()
            self.cam.acquire.put(0)
            raise DeviceError(f"{self.name} took no frame in {exposure + 15:g} s: {said}")
        if str(self.cam.state.get(use_monitor=False)) in ("Error", "Aborted", "Disconnected"):
            raise DeviceError(f"{self.name} took no frame: {self.said()}")

    def abort(self) -> None:
        """End what is being acquired, if anything is, and wait until the detector is idle.

        Raises
        ------
        DeviceError
            If the IOC does not end it.
        """
        if self.cam.acquire.get(use_monitor=False):
            put(self.cam.acquire, 0, timeout=ABORTING)
        self.await_idle()

    def await_idle(self) -> None:
        """Wait until nothing is being acquired.

        Raises
        ------
        DeviceError
            If it goes on.
        """
        deadline = time.monotonic() + ABORTING
        acquiring = True
        while acquiring:
            with contextlib.suppress(TimeoutError):  # a silent IOC has until then
                acquiring = bool(self.cam.acquire.get(use_monitor=False))
            if acquiring and time.monotonic() > deadline:
                raise DeviceError(
                    f"{self.name} still acquires {ABORTING:g} s after it was stopped: {self.said()}"
                )
            time.sleep(0.02)

    def destroy(self) -> None:
        """Disconnect from every record, those copied into the headers included."""
        for source in self.header.values():
            if isinstance(source, EpicsSignalRO):
                source.destroy()
        super().destroy()
