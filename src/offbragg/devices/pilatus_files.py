"""What a Pilatus needs whether it flies or steps: directories, headers, recovery."""

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
from ophyd import Device, EpicsSignalRO, Kind, Signal
from ophyd.status import Status

from offbragg.devices import acquisition as acquiring
from offbragg.devices.acquisition import ABORTING, READY, SILENCE, Acquisition
from offbragg.devices.background import check_times, in_background, put, put_all, verify
from offbragg.devices.claim import DetectorClaim
from offbragg.devices.frame_folder import describe_access, folder_mode, make_folder
from offbragg.devices.pilatus_cam import (
    GAP_FILL,
    HEADER_FIELDS,
    MIMETYPES,
    TRIGGERS,
    PilatusCam,
)
from offbragg.errors import ConfigError, DeviceError
from offbragg.geometry import Geometry

log = logging.getLogger(__name__)

KEV_ANGSTROM = 12.398419843  # h c
HEADER_TEXT = 68  # bytes that camserver takes
SETTING = 150.0  # s; camserver allows 110 s for a threshold
START_CAMSERVER = (
    "Is camserver running? Start it again, wait 20 s until the IOC is connected, repeat the scan."
)
AWAY = 5.0  # s for an IOC that is away when the detector is to be ended
PASSING = 1.0  # s; the states between acquiring and idle


class PilatusFiles(Device):
    """A Pilatus whose frames are files in a directory (see `Pilatus` for the parameters)."""

    from_beamline: ClassVar[Mapping[str, str]] = {
        "frames": "paths.frames", "geometry": "geometry", "reserve": "limits.free_disk",
    }  # fmt: skip
    """Parameters that other tables of beamline.toml fill: name → key there."""

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
        directory_mode: str = "2775",
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
        self._claim = DetectorClaim(self.frames, prefix)
        self._acquisition: Acquisition | None = None
        self._exposing_until = 0.0  # monotonic, s
        self._usual_trigger: int | None = None  # while something takes the internal one

    def new_acquisition(self) -> Acquisition:
        """Make the next acquisition; until it is started, an abort of it keeps it from starting."""
        self._acquisition = Acquisition(self.cam, name=self.name, claim=self._claim)
        return self._acquisition

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

    def ioc_report(self) -> str:
        """Return what the IOC says, and camserver where it refused, for an error message."""
        cam = self.cam
        if not cam.state.connected:
            return f"{cam.state.pvname} is disconnected: its IOC has ended or is out of reach"
        try:
            state, message = cam.state.get(), cam.message.get()
        except SILENCE as error:
            return f"the IOC says nothing ({error})"
        refused = f", camserver answered {reply!r}" if (reply := self.refusal()) else ""
        return f"{cam.state.pvname} is {state} ({message!r}){refused}"

    def refusal(self) -> str:
        """Return camserver's last answer if it is an error; it is reported nowhere else."""
        try:
            reply = str(self.cam.reply.get(use_monitor=False))
        except SILENCE:
            return ""
        return reply if " ERR" in reply else ""

    def check_ready(self) -> None:
        """Refuse if the detector acquires for somebody else, or cannot acquire.

        A threshold that is being set, and a series that a dead process of ours left behind, are no
        reason: `recover` deals with them.

        Raises
        ------
        DeviceError
            For whom it acquires, into which file and since when; or what the IOC says.
        """
        self._check_available()

    def _check_available(self) -> None:
        cam = self.cam
        deadline = time.monotonic() + PASSING
        while True:
            state = str(cam.state.get(use_monitor=False))
            if acquiring.is_acquiring(cam):
                if self._left_behind():
                    return
                raise DeviceError(
                    f"{self.name} is busy: it acquires for {self._for_whom()}\n"
                    f"Wait until it is idle, or put 0 to {cam.acquire.pvname}."
                )
            if state in (*READY, "Waiting"):
                return
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{self.name} is busy: {self.ioc_report()}\n"
                    f"Wait until it is Idle; if it stays so, put 0 to {cam.acquire.pvname}, or "
                    "restart camserver and the IOC."
                )
            time.sleep(0.05)

    def _since(self) -> float:
        """Return when the driver began to acquire, POSIX s by the IOC's clock."""
        return float(self.cam.acquiring.timestamp or 0.0)

    def _left_behind(self) -> bool:
        """Whether what is acquired was begun by a process of ours that is dead."""
        path = str(self.cam.file_path.get())
        if not f"{path.rstrip('/')}/".startswith(f"{self.write_path.rstrip('/')}/"):
            return False
        holder = self._claim.holder()
        return holder is not None and holder.left_behind(self._since())

    def _for_whom(self) -> str:
        """Return for whom the detector acquires, where to and since when."""
        holder = self._claim.holder()
        if holder is None or not holder.alive:
            whom = "somebody else"
        else:
            whom = "this session" if holder.process == os.getpid() else str(holder)
        since = time.strftime("%H:%M:%S", time.localtime(self._since()))
        return f"{whom} since {since}, into {self.cam.frame_file.get() or self.cam.file_path.get()}"

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

    @property
    def _template(self) -> str:
        """FileTemplate: five digits after the last "_" are the number of the first frame."""
        return f"%s%s_%5.5d.{self.format}"

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

    def recover(self) -> None:
        """Make a detector ready that was left acquiring, ended in Error or is being set.

        Raises
        ------
        DeviceError
            If it acquires for somebody else, or camserver does not take a series at all.
        """
        cam = self.cam
        self._check_available()
        if acquiring.is_acquiring(cam):
            log.warning("%s still acquires for %s, which has ended: it is aborted",
                        self.name, self._claim.holder() or "a process")  # fmt: skip
            self.abort()
        self._await_setting()
        if str(cam.state.get(use_monitor=False)) == "Error":
            self._reset()
        self._await_camserver()

    def _await_camserver(self) -> None:
        """Wait until camserver has ended the exposure that it was in at the last abort.

        The IOC is idle before, and camserver would refuse a series: "Exposure in progress".
        """
        rest = self._exposing_until - time.monotonic()
        if rest > 0:
            log.info("%s ends an exposure that was aborted: %.1f s more", self.name, rest)
            time.sleep(rest)

    def _await_setting(self) -> None:
        """Wait while a threshold is set: camserver does nothing else meanwhile."""
        cam = self.cam
        if str(cam.state.get(use_monitor=False)) != "Waiting":
            return
        log.warning("%s is not ready: %s. Waiting for at most %g s",
                    self.name, self.ioc_report(), SETTING)  # fmt: skip
        if not acquiring.await_idle(cam, timeout=SETTING):
            raise DeviceError(
                f"{self.name} was not ready within {SETTING:g} s: {self.ioc_report()}\n"
                "Does camserver answer? Restart it, set the threshold again, repeat the scan."
            )

    def _reset(self) -> None:
        """End what camserver still exposes after the IOC gave up.

        After a missing file the IOC says Error while camserver exposes on. Only an abort sends the
        kill, and only of a series that runs: so one is begun that waits for a pulse, and aborted.
        """
        cam = self.cam
        log.warning("%s ended in an error (%s); it is reset", self.name, cam.message.get())
        usual = int(cam.trigger_mode.get(use_monitor=False))
        put(cam.trigger_mode, TRIGGERS["ext_trigger"])
        put(cam.n_frames, 1)
        put(cam.file_timeout, ABORTING)
        put(cam.file_template, self._template)  # the error may be of another one
        put(cam.file_name, "reset")
        exposure = float(cam.exposure.get(use_monitor=False))
        series = Acquisition(cam, name=self.name, claim=self._claim)
        series.start()
        if not series.await_armed():
            problem = self.ioc_report()
            series.end()
            raise DeviceError(f"{self.name} cannot be reset: {problem}\n{START_CAMSERVER}")
        if not series.end():
            raise self._goes_on()
        put(cam.trigger_mode, usual)
        self._exposing_until = time.monotonic() + exposure

    def take_internal_trigger(self) -> None:
        """Let the next series keep its own time, whatever sweeps wait for."""
        mode = int(self.cam.trigger_mode.get(use_monitor=False))
        if mode in TRIGGERS.values() and mode != TRIGGERS["internal"]:
            self._usual_trigger = mode
        put(self.cam.trigger_mode, TRIGGERS["internal"])

    def put_trigger_back(self) -> None:
        """Put back the mode that `take_internal_trigger` found; the detector has to be idle."""
        usual, self._usual_trigger = self._usual_trigger, None
        if usual is None:
            return
        try:
            put(self.cam.trigger_mode, usual)
        except (*SILENCE, DeviceError) as error:  # no reason to fail: each sweep sets its own
            log.warning("%s keeps the internal trigger for now: %s", self.name, error)

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
            problem = self.ioc_report()
            acquisition.end()
            raise DeviceError(f"{self.name} took no frame in {limit:g} s: {problem}")
        acquiring.await_idle(cam, timeout=PASSING)
        if str(cam.state.get(use_monitor=False)) in ("Error", "Aborted", "Disconnected"):
            raise DeviceError(
                f"{self.name} took no frame: {self.ioc_report()}\n"
                f"Is camserver running, and can its user write to {self.write_path}/{self._stem} "
                f"({describe_access(self.frames / self._stem)})?"
            )

    def abort(self) -> None:
        """End what is being acquired, if anything is, and wait until the detector is idle.

        Raises
        ------
        DeviceError
            If the IOC does not end it.
        """
        exposure = float(self.cam.exposure.get(use_monitor=False))
        if not acquiring.end(self.cam):
            raise self._goes_on()
        self._exposing_until = time.monotonic() + exposure

    def stop_own(self) -> None:
        """Ask for the end of what this device began, and do not wait; nothing of others."""
        if self._acquisition is None:
            return
        try:
            self._acquisition.abort()
        except SILENCE as error:  # `end_own` insists, once the IOC answers
            log.warning("%s cannot be stopped now: %s", self.name, error)

    def end_own(self) -> None:
        """End what this device began, and wait until the detector is idle; nothing of others.

        Raises
        ------
        DeviceError
            If the IOC does not end it.
        """
        acquisition = self._acquisition
        if acquisition is None:
            return
        if not acquisition.end(timeout=ABORTING if self.cam.state.connected else AWAY):
            raise self._goes_on()
        if acquisition.cut_short:
            self._exposing_until = time.monotonic() + float(
                np.asarray(self.cam.exposure.get(use_monitor=False))
            )

    def _goes_on(self) -> DeviceError:
        if not self.cam.state.connected:
            return DeviceError(
                f"{self.name} cannot be ended: its IOC ({self.prefix}) is away\n"
                "Start the IOC again, wait until it is connected to camserver, repeat the scan."
            )
        return DeviceError(
            f"{self.name} still acquires {ABORTING:g} s after it was stopped: {self.ioc_report()}\n"
            f"Put 0 to {self.cam.acquire.pvname}; if that does not help, restart camserver and "
            "the IOC."
        )

    def destroy(self) -> None:
        """Disconnect from every record, those copied into the headers included."""
        for source in self.header.values():
            if isinstance(source, EpicsSignalRO):
                source.destroy()
        super().destroy()
