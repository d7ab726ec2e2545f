"""Pilatus detector through ADPilatus: it flies, and its frames are files in a directory.

The device follows the *files*, not ``ArrayCounter_RBV``: the IOC stops reading at the first file
that is missing while the detector keeps exposing, so only the directory knows what there is.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from event_model import compose_stream_resource
from ophyd import Component as Cpt
from ophyd import Device, EpicsSignal, EpicsSignalRO, EpicsSignalWithRBV, Kind, Signal
from ophyd.status import Status

from offbragg.devices.background import Watched, fail, finish, in_background, put, verify
from offbragg.devices.frame_folder import FrameFolder, decided, ranges
from offbragg.errors import ConfigError, DeviceError, SweepError
from offbragg.geometry import Geometry
from offbragg.sweep import Sweep

log = logging.getLogger(__name__)

MIMETYPES = {
    "cbf": "multipart/related;type=image/x-cbf",
    "tif": "multipart/related;type=image/tiff",
}
MAX_FRAMES = 65535  # camserver's NImages (manual)
DEVICE_STATES_READY = ("Idle", "Error", "Aborted")


def readout(model: str) -> tuple[float, float]:
    """Give what a Pilatus needs between exposures.

    Parameters
    ----------
    model
        As Dectris writes it, e.g. "PILATUS 2M" or "PILATUS3 X 2M".

    Returns
    -------
    readout, period
        Shortest dead time after an exposure and shortest period, s.

    Examples
    --------
    >>> readout("PILATUS3 X 2M")
    (0.00095, 0.002)
    >>> readout("PILATUS 2M")
    (0.00228, 0.00228)
    """
    if re.match(r"pilatus\s*3", model, re.IGNORECASE):
        return 0.00095, 0.002
    return 0.00228, 0.00228


def check_period(model: str, sweep: Sweep) -> None:
    """Refuse a sweep that this model cannot expose.

    Raises
    ------
    SweepError
        If the period is shorter than exposure + readout or than the shortest period, or if there
        are more frames than camserver counts.
    """
    dead, shortest = readout(model)
    needed = max(sweep.exposure + dead, shortest)
    if sweep.period < needed * (1 - 1e-9):
        raise SweepError(
            f"period {sweep.period:g} s is shorter than the {model} allows: "
            f"exposure {sweep.exposure:g} s + readout {dead * 1e3:g} ms, "
            f"and at least {shortest * 1e3:g} ms\n"
            f"Set period to at least {needed:.5f} s, "
            f"or exposure to at most {max(sweep.period - dead, 0):.5f} s."
        )
    if sweep.n_frames > MAX_FRAMES:
        raise SweepError(
            f"{sweep.n_frames} frames are more than the {model} takes in one series "
            f"({MAX_FRAMES})\nSplit the sweep."
        )


class PilatusCam(Device):
    """The two dozen of camserver's 248 records that are used."""

    acquire = Cpt(EpicsSignal, "Acquire", kind=Kind.omitted)
    armed = Cpt(EpicsSignalRO, "Armed", auto_monitor=True, kind=Kind.omitted)
    state = Cpt(EpicsSignalRO, "DetectorState_RBV", string=True, kind=Kind.omitted)
    message = Cpt(EpicsSignalRO, "StatusMessage_RBV", string=True, kind=Kind.omitted)

    exposure = Cpt(EpicsSignalWithRBV, "AcquireTime", kind=Kind.config)
    period = Cpt(EpicsSignalWithRBV, "AcquirePeriod", kind=Kind.config)
    n_frames = Cpt(EpicsSignalWithRBV, "NumImages", kind=Kind.config)
    n_exposures = Cpt(EpicsSignalWithRBV, "NumExposures", kind=Kind.config)
    trigger_mode = Cpt(EpicsSignalWithRBV, "TriggerMode", kind=Kind.config)
    threshold = Cpt(EpicsSignalRO, "ThresholdEnergy_RBV", kind=Kind.config)
    energy = Cpt(EpicsSignalRO, "Energy_RBV", kind=Kind.config)
    cut_off = Cpt(EpicsSignalRO, "PixelCutOff_RBV", kind=Kind.config)
    serial = Cpt(EpicsSignalRO, "SerialNumber_RBV", string=True, kind=Kind.config)
    size_x = Cpt(EpicsSignalRO, "MaxSizeX_RBV", kind=Kind.omitted)
    size_y = Cpt(EpicsSignalRO, "MaxSizeY_RBV", kind=Kind.omitted)

    file_path = Cpt(EpicsSignalWithRBV, "FilePath", string=True, kind=Kind.config)
    file_path_exists = Cpt(EpicsSignalRO, "FilePathExists_RBV", kind=Kind.omitted)
    file_name = Cpt(EpicsSignalWithRBV, "FileName", string=True, kind=Kind.config)
    file_template = Cpt(EpicsSignalWithRBV, "FileTemplate", string=True, kind=Kind.omitted)
    file_number = Cpt(EpicsSignalWithRBV, "FileNumber", kind=Kind.omitted)
    auto_increment = Cpt(EpicsSignalWithRBV, "AutoIncrement", kind=Kind.omitted)
    file_timeout = Cpt(EpicsSignal, "ImageFileTmot", kind=Kind.omitted)

    # what camserver writes into each header; no _RBV exists for these
    wavelength = Cpt(EpicsSignal, "Wavelength", kind=Kind.omitted)
    distance = Cpt(EpicsSignal, "DetDist", kind=Kind.omitted)
    beam_x = Cpt(EpicsSignal, "BeamX", kind=Kind.omitted)
    beam_y = Cpt(EpicsSignal, "BeamY", kind=Kind.omitted)
    start_angle = Cpt(EpicsSignal, "StartAngle", kind=Kind.omitted)
    angle_increment = Cpt(EpicsSignal, "AngleIncr", kind=Kind.omitted)
    phi = Cpt(EpicsSignal, "Phi", kind=Kind.omitted)
    phi_increment = Cpt(EpicsSignal, "PhiIncr", kind=Kind.omitted)
    chi = Cpt(EpicsSignal, "Chi", kind=Kind.omitted)
    chi_increment = Cpt(EpicsSignal, "ChiIncr", kind=Kind.omitted)
    omega = Cpt(EpicsSignal, "Omega", kind=Kind.omitted)
    omega_increment = Cpt(EpicsSignal, "OmegaIncr", kind=Kind.omitted)
    oscillation_axis = Cpt(EpicsSignal, "OscillAxis", kind=Kind.omitted)


@dataclass(slots=True)
class Flight:
    """One series of exposures; late news of one that was aborted cannot reach the next."""

    sweep: Sweep
    folder: FrameFolder
    status: Watched
    armed: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)
    camera_done: threading.Event = field(default_factory=threading.Event)
    began: float = 0.0
    """When the first exposure began, POSIX s by the IOC's clock."""
    clock: float = 0.0
    """The same by this host's monotonic clock, s."""
    watch: int = -1

    def on_armed(self, value: Any = None, timestamp: float | None = None, **_: Any) -> None:
        """Take note that camserver has acknowledged the exposure command."""
        if value and not self.armed.is_set():
            self.clock = time.monotonic()
            self.began = float(timestamp) if timestamp else time.time()
            self.armed.set()


class Pilatus(Device):
    """A Pilatus that records one sweep per flight, one file per frame.

    Parameters
    ----------
    prefix
        Of the cam records, e.g. ``"13PIL1:cam1:"``.
    frames
        Directory for frame files as this host sees it.
    write_path
        The same directory as the detector's computer sees it; ``frames`` when not given.
    model
        As Dectris writes it; decides the readout time.
    sensor_material, sensor_thickness
        E.g. "Si" and mm.
    format
        "cbf" or "tif": camserver picks the format by the extension.
    max_missing
        So many frames may be lost in a sweep before it counts as failed.
    patience
        How late a frame file may come, s.
    poll
        Time between two looks at the directory, s.
    reserve
        Space to leave free on the disk of the frames, GB.
    geometry
        Beam, panel and axes; fills the frame headers and the start document.
    """

    cam = Cpt(PilatusCam, "", kind=Kind.normal)
    file_stem = Cpt(Signal, value="", kind=Kind.omitted)

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
        max_missing: int = 0,
        patience: float = 5.0,
        poll: float = 0.05,
        reserve: float = 1.0,
        geometry: Geometry | None = None,
        **kwargs: Any,
    ) -> None:
        if format not in MIMETYPES:
            raise ConfigError(f"{name}: format {format!r} is none of {', '.join(MIMETYPES)}")
        super().__init__(prefix, name=name, **kwargs)
        self.frames = Path(frames)
        self.write_path = write_path or str(self.frames)
        self.model = model
        self.sensor_material = sensor_material
        self.sensor_thickness = sensor_thickness
        self.format = format
        self.max_missing = max_missing
        self.patience = patience
        self.poll = poll
        self.reserve = reserve
        self.geometry = geometry

        self.exposure_started: float | None = None
        self.armed_at: float | None = None
        """When the first exposure began, by this host's monotonic clock, s."""
        self._sweep: Sweep | None = None
        self._folder: FrameFolder | None = None
        self._stem = ""
        self._covered = 0
        self._collected = 0
        self._compose_datum: Any = None
        self._flight: Flight | None = None

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

    def check(self, sweep: Sweep) -> None:
        """Refuse a sweep that cannot be recorded; nothing is written to any record.

        Raises
        ------
        SweepError
            Period or number of frames.
        ConfigError
            The directory for the frames cannot be written, or has too little space.
        DeviceError
            The detector is busy.
        """
        check_period(self.model, sweep)
        if not self.frames.is_dir() or not os.access(self.frames, os.W_OK):
            raise ConfigError(
                f"frames directory {self.frames} is not there or cannot be written\n"
                "Make it, or set [paths] frames in beamline.toml."
            )
        needed = self.frame_bytes() * sweep.n_frames / 1e9
        free = shutil.disk_usage(self.frames).free / 1e9
        if free < needed + self.reserve:
            raise ConfigError(
                f"too little disk for {sweep.n_frames} frames: {free:.2f} GB free in "
                f"{self.frames}, {needed:.2f} GB needed and {self.reserve:g} GB to be left\n"
                "Free some, or set [paths] frames in beamline.toml to a larger disk."
            )
        state = str(self.cam.state.get())
        if state not in DEVICE_STATES_READY:
            raise DeviceError(
                f"{self.name} is busy: {self.cam.state.pvname} is {state} "
                f"({self.cam.message.get()!r})\nStop it, or wait until it is idle."
            )

    def prepare(self, sweep: Sweep) -> Status:
        """Set everything up for a sweep; the status is done when the IOC has taken it all."""
        self.check(sweep)
        self._sweep = sweep
        self._covered = self._collected = 0
        self._compose_datum = None
        self.exposure_started = None
        return in_background(self, self._set_up, sweep)

    def _set_up(self, sweep: Sweep) -> None:
        stem = str(self.file_stem.get()) or f"{self.name}_{uuid.uuid4().hex[:8]}"
        directory = self._make_directory(stem)
        self._stem = directory.name
        self._folder = FrameFolder(directory, self._stem, self.format, sweep.n_frames)

        cam = self.cam
        if cam.acquire.get():  # a camera left in an endless series
            put(cam.acquire, 0)
        put(cam.trigger_mode, 0)
        put(cam.n_exposures, 1)
        put(cam.n_frames, sweep.n_frames)
        put(cam.exposure, sweep.exposure)
        put(cam.period, sweep.period)
        put(cam.file_timeout, sweep.period + self.patience)
        put(cam.auto_increment, 0)
        put(cam.file_number, 0)
        # five digits after the last "_" are the number of the first frame (facts of ADPilatus)
        put(cam.file_template, f"%s%s_%5.5d.{self.format}")
        put(cam.file_name, self._stem)
        self._set_directory(f"{self.write_path.rstrip('/')}/{self._stem}/")
        self._set_headers(sweep)
        verify(cam.n_frames, sweep.n_frames)
        verify(cam.exposure, sweep.exposure)
        verify(cam.period, sweep.period)

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

    def _set_directory(self, path: str) -> None:
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

    def _set_headers(self, sweep: Sweep) -> None:
        """Tell camserver what to write into each frame's header, as far as it is known."""
        cam = self.cam
        put(cam.start_angle, sweep.start)
        put(cam.angle_increment, sweep.step)
        for name in ("phi", "chi", "omega"):
            turns = name == sweep.axis
            put(getattr(cam, f"{name}_increment"), sweep.step if turns else 0.0)
            if turns:
                put(getattr(cam, name), sweep.start)
        put(cam.oscillation_axis, sweep.axis.upper())
        if self.geometry is None:
            return
        put(cam.wavelength, self.geometry.wavelength)
        for axis in self.geometry.axes:
            if axis.name in ("phi", "chi", "omega") and axis.name != sweep.axis:
                put(getattr(cam, axis.name), axis.angle)
        beam = beam_on_panel(self.geometry)
        if beam is not None:
            distance, x, y = beam
            put(cam.distance, distance)
            put(cam.beam_x, x)
            put(cam.beam_y, y)

    def kickoff(self) -> Status:
        """Start the series; the status is done when camserver has acknowledged (Armed)."""
        if self._sweep is None or self._folder is None:
            raise DeviceError(f"{self.name} was kicked off without being prepared")
        flight = self._flight = Flight(self._sweep, self._folder, Watched(self))
        flight.watch = self.cam.armed.subscribe(flight.on_armed, run=False)
        self.cam.acquire.put(1, use_complete=True, callback=lambda **_: flight.camera_done.set())
        return in_background(self, self._fly, flight)

    def _fly(self, flight: Flight) -> None:
        limit = time.monotonic() + 10.0
        try:
            while not flight.armed.wait(0.02):
                if flight.stopped.is_set():
                    raise DeviceError(f"{self.name} was stopped before it was armed")
                gave_up = flight.camera_done.is_set() and not flight.armed.wait(0.5)
                if gave_up or time.monotonic() > limit:
                    raise DeviceError(
                        f"{self.name} did not arm: {self.cam.state.pvname} is "
                        f"{self.cam.state.get()} ({self.cam.message.get()!r})\n"
                        "Is camserver running, and can it make frames at "
                        f"{1 / flight.sweep.period:g} Hz?"
                    )
        except DeviceError as error:
            fail(flight.status, error)
            self._disarm(flight)
            raise
        finally:
            self.cam.armed.unsubscribe(flight.watch)
        self.exposure_started = flight.began
        self.armed_at = flight.clock
        in_background(self, self._watch, flight)

    def _watch(self, flight: Flight) -> None:
        """Look for files until all frames are there, or their time is over."""
        sweep, folder = flight.sweep, flight.folder
        try:
            lost: list[int] = []
            told = False
            while not flight.stopped.is_set():
                elapsed = time.monotonic() - flight.clock
                folder.look()
                self._covered, lost = decided(
                    folder.present, elapsed, period=sweep.period, patience=self.patience
                )
                flight.status.report(
                    name=f"{self.name}: {sweep.axis} {sweep.start:g} → {sweep.stop:g}°",
                    current=self._covered,
                    initial=0,
                    target=sweep.n_frames,
                    unit="frames",
                )
                if len(lost) > self.max_missing:
                    raise self._lost(sweep, folder, lost)
                if folder.present.all() or elapsed > sweep.duration + self.patience:
                    break
                if not told and flight.camera_done.is_set() and self.cam.state.get() == "Error":
                    told = True
                    log.warning(
                        "%s: the IOC stopped early (%s); its files are still followed",
                        self.name,
                        self.cam.message.get(),
                    )
                flight.stopped.wait(self.poll)
            if flight.stopped.is_set():
                return  # stop() has spoken
            self._covered = sweep.n_frames
            if not flight.camera_done.wait(self.patience):
                log.warning("%s: all frames are there and the IOC still acquires", self.name)
            self._disarm(flight)
            finish(flight.status)
            if lost:
                log.warning("%s: frames %s never came", self.name, ranges(lost))
        except Exception as error:
            self._disarm(flight)
            fail(
                flight.status,
                error
                if isinstance(error, DeviceError)
                else DeviceError(f"{self.name}: frames cannot be followed: {error}"),
            )

    def _lost(self, sweep: Sweep, folder: FrameFolder, lost: list[int]) -> DeviceError:
        what = "frame" if len(lost) == 1 else "frames"
        return DeviceError(
            f"{self.name}: {what} {ranges(lost)} of {sweep.n_frames} did not come "
            f"within {self.patience:g} s of their time\n"
            f"{self.max_missing} may be missing (max_missing); {int(folder.present.sum())} are "
            f"in {folder.directory}. The IOC says {self.cam.state.get()}: "
            f"{self.cam.message.get()!r}."
        )

    def complete(self) -> Status:
        """Give the status of the flight: done when all frames are there or their time is over."""
        if self._flight is None:
            raise DeviceError(f"{self.name} was completed without being kicked off")
        return self._flight.status

    def _disarm(self, flight: Flight) -> None:
        """Leave the detector idle; an abort blocks the IOC's port for 2 s, so never wait."""
        if not flight.camera_done.is_set() or self.cam.acquire.get():
            self.cam.acquire.put(0)

    @property
    def flying(self) -> bool:
        """Whether a series is running or its files are still awaited."""
        return self._flight is not None and not self._flight.status.done

    def stop(self, *, success: bool = False) -> None:
        """Stop a series; the frames that are there stay.

        With ``success`` (a plan that tidies up) the flight ends as if this had been wanted.
        """
        flight = self._flight
        if flight is None or not self.flying:
            return
        flight.stopped.set()
        n, expected = int(flight.folder.present.sum()), flight.sweep.n_frames
        if success:
            finish(flight.status)
        else:
            fail(
                flight.status,
                DeviceError(f"{self.name} was stopped after {n} of {expected} frames"),
            )
        self._disarm(flight)

    def pause(self) -> None:
        """Stop: half a sweep cannot be resumed."""
        self.stop()

    def unstage(self) -> Status:  # type: ignore[override]  # Bluesky takes both
        """Leave the detector disarmed, whatever happened; done when it is."""
        self.stop(success=True)
        super().unstage()
        return in_background(self, self._await_idle)

    def _await_idle(self) -> None:
        deadline = time.monotonic() + 15.0  # an abort holds the IOC's port for 2 s
        while self.cam.acquire.get(use_monitor=False):
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{self.name} still acquires 15 s after it was stopped: {self.cam.state.pvname}"
                    f" is {self.cam.state.get()} ({self.cam.message.get()!r})"
                )
            time.sleep(0.02)

    def describe_collect(self) -> dict[str, Any]:
        """Describe the frames: one external array per frame number."""
        return {
            self.image_key: {
                "source": f"PV:{self.prefix}FullFileName_RBV",
                "dtype": "array",
                "dtype_numpy": "<i4",
                "shape": list(self.shape),
                "external": "STREAM:",
            }
        }

    def get_index(self) -> int:
        """Give the number of frames, from the first on, that are there or passed by."""
        return self._covered

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        """Give the documents of the frames that came since the last call."""
        if self.exposure_started is None or self._folder is None:
            return
        if self._compose_datum is None:
            directory = self._folder.directory.absolute().as_uri().removeprefix("file://")
            bundle = compose_stream_resource(
                mimetype=MIMETYPES[self.format],
                uri=f"file://localhost{directory}/",
                data_key=self.image_key,
                parameters={
                    "template": f"{self._stem}_{{:05d}}.{self.format}",
                    "chunk_shape": [1],
                    "exposure_started": self.exposure_started,
                },
            )
            self._compose_datum = bundle.compose_stream_datum
            yield "stream_resource", bundle.stream_resource_doc
        stop = self._covered if index is None else min(index, self._covered)
        if stop > self._collected:
            datum = self._compose_datum({"start": self._collected, "stop": stop})
            self._collected = stop
            yield "stream_datum", datum


def beam_on_panel(geometry: Geometry) -> tuple[float, float, float] | None:
    """Find where the direct beam meets the panel.

    Returns
    -------
    distance, x, y
        From the sample along the beam, mm, and in pixels along fast and slow from the outer corner
        of the panel; None if the beam is parallel to the panel.
    """
    panel = geometry.panel
    fast, slow = np.asarray(panel.fast), np.asarray(panel.slow)
    normal = np.cross(fast, slow)
    origin = np.asarray(panel.origin)
    if abs(normal[2]) < 1e-6:
        return None
    distance = float(origin @ normal / normal[2])
    offset = np.array([0.0, 0.0, distance]) - origin
    return (
        distance,
        float(offset @ fast / panel.pixel_size[0]),
        float(offset @ slow / panel.pixel_size[1]),
    )
