"""Pilatus detector through ADPilatus: it flies, and its frames are files in a directory.

The device follows the *files*, not ``ArrayCounter_RBV``: the IOC stops reading at the first file
that is missing while the detector keeps exposing, so only the directory knows what there is.

It is one job, although it is long: each step of a flight, from `prepare` to `unstage`, depends on
what the others have left, and its parameters alone are a fifth of the module.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from ophyd.status import Status

from offbragg.devices.acquisition import SILENCE, Acquisition
from offbragg.devices.background import (
    Watched,
    check_times,
    fail,
    finish,
    in_background,
    put,
    put_all,
    until_delivered,
    verify,
)
from offbragg.devices.clock import IocClock, measure
from offbragg.devices.connection import wait_until_connected
from offbragg.devices.frame_folder import FrameFolder, decided, describe_access
from offbragg.devices.pilatus_align import Alignment
from offbragg.devices.pilatus_cam import TRIGGERS, PilatusCam, check_period, readout
from offbragg.devices.pilatus_control import START_CAMSERVER
from offbragg.devices.pilatus_files import PilatusFiles
from offbragg.devices.pilatus_step import PilatusStep
from offbragg.errors import ConfigError, DeviceError
from offbragg.geometry import Geometry
from offbragg.ledger import ranges
from offbragg.sweep import Sweep

__all__ = ["Pilatus", "PilatusCam", "PilatusStep", "check_period", "readout"]

log = logging.getLogger(__name__)

ANSWERING = 1.9  # s; ADPilatus waits 2 s for the answer to an exposure command
_TURNED = ("phi", "chi", "omega")  # axes that camserver counts on
_WRITTEN = 1.0  # s after its exposure by which a frame's file is usually there
_ARMED_SIGMA = 0.002  # s, of how long after camserver's "15 OK" the IOC says Armed


@dataclass(slots=True)
class SeriesOfFrames:
    """One series of exposures; a late event of one that was aborted cannot reach the next."""

    sweep: Sweep
    folder: FrameFolder
    status: Watched
    acquisition: Acquisition
    trigger: str = "internal"
    stopped: threading.Event = field(default_factory=threading.Event)
    began: float = 0.0
    """When the first exposure began, POSIX s by the IOC's clock."""
    clock: float = 0.0
    """The same by this host's monotonic clock, s."""
    watched: bool = False
    """Whether its files are being followed."""


class Pilatus(PilatusFiles):
    """A Pilatus that records one sweep per flight, one file per frame.

    With an external trigger it is armed at the end of `prepare`: pulses may come from then on.

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
    trigger
        "internal": the series is started as the axis passes the start. "ext_trigger": one pulse
        starts it. "mult_trigger": a pulse for each frame. "ext_enable": a gate for each frame.
        Stills (a sweep with step 0) keep time by themselves, whatever it is.
    pulsed_elsewhere
        Whether something that offbragg does not know gives the pulses. Without it, a sweep that
        waits for pulses is refused if no flyer gives any.
    max_missing
        Number of frames that may be lost in a sweep before it fails.
    patience
        How late a frame file may come, s.
    stall
        Time limit beyond a period without a new file, with frames outstanding, s: then the sweep
        fails. While files come, however late, they are waited for.
    trigger_timeout
        How long to wait for the first pulse after kickoff, s.
    poll
        Time between two looks at the directory, s.
    reserve
        Space to leave free on the disk of the frames, GB.
    armed_after
        How long after the first exposure began the IOC says that it is armed, s. ADPilatus 2.9
        reads camserver's socket once more after the "15 OK", until a timeout of 10 ms, and then
        sleeps for 10 ms.
    callbacks_up_to
        Up to this rate the IOC reads the frames for its plugins, Hz; 0 for never. During a faster
        sweep its ArrayCallbacks are off: it could not keep up, and while it reads what has piled up
        it takes no abort. Only the plugins miss these frames. A sweep that waits for pulses is read
        at any rate: without reading, the IOC ends it 10 s after its duration, whether the pulses
        have come or not.
    directory_mode
        Of the folders that are made for frames, octal as for ``chmod``. By default they belong to
        the group of the folder that they are in, and the group may write: camserver is often
        another user.
    geometry
        Beam, panel and axes; fills the frame headers and the start document.
    header
        More for the frame headers: name of the record (Chi, FilterTransm, DetVOffset …) and a
        number, or the name of the record to copy, e.g. ``Chi = "SIM:chi.RBV"``.
    """

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
        trigger: str = "internal",
        pulsed_elsewhere: bool = False,
        max_missing: int = 0,
        patience: float = 5.0,
        stall: float = 10.0,
        trigger_timeout: float = 30.0,
        poll: float = 0.05,
        reserve: float = 1.0,
        armed_after: float = 0.021,
        callbacks_up_to: float = 20.0,
        directory_mode: str = "2775",
        geometry: Geometry | None = None,
        header: dict[str, float | str] | None = None,
        **kwargs: object,
    ) -> None:
        super().__init__(
            prefix, name=name, frames=frames, model=model, sensor_material=sensor_material,
            sensor_thickness=sensor_thickness, write_path=write_path, format=format,
            patience=patience, reserve=reserve, directory_mode=directory_mode, geometry=geometry,
            header=header, **kwargs,
        )  # fmt: skip
        check_times(name, stall=stall, trigger_timeout=trigger_timeout, poll=poll)
        if max_missing < 0:
            raise ConfigError(f"{name}: max_missing is {max_missing}: it must not be below 0")
        if not (isinstance(callbacks_up_to, Real) and callbacks_up_to >= 0):
            raise ConfigError(
                f"{name}: callbacks_up_to is {callbacks_up_to!r}: it must not be below 0 Hz"
            )
        self.armed_after = armed_after
        self.callbacks_up_to = callbacks_up_to
        self.trigger_mode = trigger
        self.pulsed_elsewhere = pulsed_elsewhere
        self.max_missing = max_missing
        self.stall = stall
        self.trigger_timeout = trigger_timeout
        self.poll = poll

        self.exposure_started: float | None = None
        """When the first exposure began, POSIX s by the IOC's clock."""
        self.start_sigma = _ARMED_SIGMA
        """Standard uncertainty of that, s."""
        self.clock = IocClock()
        """Of the IOC, measured when a sweep is prepared."""
        self.was_paused = False
        """Whether a pause of the RunEngine ended the flight."""
        self.began_at: float | None = None
        """The same by this host's monotonic clock, s; after a pulse, as well as a file shows it."""
        self._sweep: Sweep | None = None
        self._folder: FrameFolder | None = None
        self._covered = 0
        self._collected = 0
        self._compose_datum: Any = None
        self._flight: SeriesOfFrames | None = None
        self._callbacks_off = False  # by this device, which puts them on again
        self._step: PilatusStep | None = None
        self.alignment = Alignment(self)
        """For looking while centring: endless exposures into one file."""

    @property
    def trigger_mode(self) -> str:
        """What starts the exposures: "internal", "ext_trigger", "mult_trigger", "ext_enable"."""
        return self._trigger_mode

    @trigger_mode.setter
    def trigger_mode(self, mode: str) -> None:
        if mode not in TRIGGERS:
            raise ConfigError(f"{self.name}: trigger {mode!r} is not one of {', '.join(TRIGGERS)}")
        self._trigger_mode = mode

    def trigger_of(self, sweep: Sweep) -> str:
        """Return what starts the exposures of a sweep: nothing passes an angle while all stands."""
        return self.trigger_mode if sweep.step else "internal"

    @property
    def step(self) -> PilatusStep:
        """The step-scan twin on the same records, made when first asked for.

        Raises
        ------
        DeviceError
            If its records do not answer.
        """
        if self._step is None:
            self._step = self._make_step()
        return self._step

    def _make_step(self) -> PilatusStep:
        twin = PilatusStep(
            self.prefix, name=f"{self.name}_step", frames=str(self.frames), model=self.model,
            sensor_material=self.sensor_material, sensor_thickness=self.sensor_thickness,
            write_path=self.write_path, format=self.format, patience=self.patience,
            reserve=self.reserve, directory_mode=self.directory_mode, geometry=self.geometry,
        )  # fmt: skip
        try:
            wait_until_connected(twin, 30.0)
        except TimeoutError:
            twin.destroy()
            raise DeviceError(
                f"{self.name}.step is not connected: records of {self.prefix} do not answer\n"
                "Is the IOC running?"
            ) from None
        twin.header = self.header
        return twin

    def destroy(self) -> None:
        """Disconnect from every record, those of the step-scan twin included."""
        if self._step is not None:
            self._step.destroy()
        super().destroy()

    def trigger(self) -> Status:  # type: ignore[override]
        """Refuse: a plan that counts step by step would record no frame.

        Raises
        ------
        DeviceError
            Naming the twin that does.
        """
        raise DeviceError(
            f"{self.name} records sweeps and takes no single frames\n"
            f"For count, scan and grid_scan use {self.name}.step."
        )

    def hardware(self) -> dict[str, Any]:
        """Describe the detector for the start document; what is not known is left out."""
        return {**super().hardware(), "trigger": self.trigger_mode}

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
        check_period(self.model, sweep, trigger=self.trigger_of(sweep))
        self.check_disk(sweep.n_frames)
        self.check_ready()

    def check_ready(self) -> None:
        """Refuse if the detector is at something else, also if that has only been asked for.

        Raises
        ------
        DeviceError
            What it is.
        """
        if self.alignment.looking:
            raise DeviceError(
                f"{self.name} is busy: {self.alignment.name} is on\nSet that to 0 to end it."
            )
        super().check_ready()

    def prepare(self, sweep: Sweep) -> Status:
        """Set everything up for a sweep; the status is done when the IOC has taken it all."""
        self.check(sweep)
        self._sweep = sweep
        self._covered = self._collected = 0
        self._compose_datum = None
        self.exposure_started = self.began_at = None
        self._flight = None
        self.was_paused = False
        acquisition = self.new_acquisition()
        return in_background(self, self._set_up, sweep, self.trigger_of(sweep), acquisition)

    def _set_up(self, sweep: Sweep, trigger: str, acquisition: Acquisition) -> None:
        self.recover()
        stem = str(self.file_stem.get()) or f"{self.name}_{uuid.uuid4().hex[:8]}"
        directory = self._make_directory(stem)
        cam = self.cam
        self._choose_callbacks(sweep, trigger)
        if sweep.step:
            self._usual_trigger = None
        else:
            self.take_internal_trigger()
        # the IOC counts from Armed; while it waits for a pulse it must not give up
        waiting = 0.0 if trigger == "internal" else 3600.0
        put_all(
            (cam.trigger_mode, TRIGGERS[trigger]),
            (cam.n_frames, sweep.n_frames),
            (cam.exposure, sweep.exposure),
            (cam.period, sweep.period),
            (cam.file_timeout, waiting + sweep.period + self.patience),
        )
        self._name_files(directory)
        self._folder = FrameFolder(directory, self._stem, self.format, sweep.n_frames)
        # camserver counts the angles on, frame by frame
        headers = self._headers() | {
            cam.start_angle: sweep.start,
            cam.angle_increment: sweep.step,
            cam.oscillation_axis: sweep.axis.upper(),
        }
        for name in _TURNED:
            turns = name == sweep.axis
            headers[getattr(cam, f"{name}_increment")] = sweep.step if turns else 0.0
            if turns:
                headers[getattr(cam, name)] = sweep.start
        put_all(*headers.items())
        self.clock = self.measure_clock()
        verify(cam.trigger_mode, TRIGGERS[trigger])
        verify(cam.n_frames, sweep.n_frames)
        verify(cam.exposure, sweep.exposure)
        verify(cam.period, sweep.period)
        if trigger != "internal":
            flight = SeriesOfFrames(sweep, self._folder, Watched(self), acquisition, trigger)
            self._flight = flight
            self._arm(flight)

    def _choose_callbacks(self, sweep: Sweep, trigger: str) -> None:
        read = trigger != "internal" or 1.0 / sweep.period <= self.callbacks_up_to * (1 + 1e-6)
        if not read and self.cam.callbacks.get(use_monitor=False):
            log.info("%s: the plugins of the IOC see no frame of this sweep: its %.3g Hz are more "
                     "than callbacks_up_to, %g Hz",
                     self.name, 1.0 / sweep.period, self.callbacks_up_to)  # fmt: skip
            self._callbacks_off = True
        self.use_plain_exposures(callbacks=read)

    def measure_clock(self) -> IocClock:
        """Measure the clock of the IOC."""
        return measure(self.cam.header_text)

    def kickoff(self) -> Status:
        """Start the series; the status is done when camserver has acknowledged (Armed).

        With an external trigger it is armed already, and the waiting for pulses begins.
        """
        if self._sweep is None or self._folder is None:
            raise DeviceError(f"{self.name} was kicked off without being prepared")
        flight = self._flight
        if flight is None or flight.watched:
            acquisition = self._acquisition
            if acquisition is None or acquisition.started:
                acquisition = self.new_acquisition()
            flight = self._flight = SeriesOfFrames(
                self._sweep, self._folder, Watched(self), acquisition,
                self.trigger_of(self._sweep),
            )  # fmt: skip
        return in_background(self, self._start, flight)

    def _start(self, flight: SeriesOfFrames) -> None:
        flight.watched = True
        acquisition = flight.acquisition
        if flight.trigger == "internal" or not acquisition.armed.is_set():
            self._arm(flight)
        if flight.trigger == "internal":
            flight.began, flight.clock = acquisition.began, acquisition.clock
            self.exposure_started = flight.began - self.armed_after
            self.began_at = flight.clock - self.armed_after
        else:
            flight.clock = time.monotonic()
            if acquisition.done.is_set():
                error = DeviceError(f"{self.name} did not wait for its trigger: {self.ioc_state()}")
                fail(flight.status, error)
                raise error
        in_background(self, self._watch, flight)

    def _arm(self, flight: SeriesOfFrames) -> None:
        try:
            flight.acquisition.start()
            if not flight.acquisition.await_armed():
                raise DeviceError(f"{self.name} did not arm: {self.ioc_state()}\n{START_CAMSERVER}")
            waited = flight.acquisition.arming_time
            if waited is not None and waited > ANSWERING:
                # the IOC says Armed all the same, and the start of the exposure is not known
                raise DeviceError(
                    f"{self.name} did not start in time: camserver did not answer the exposure "
                    f"command within {waited:.1f} s\n"
                    "Is its computer busy, or its disk slow? Repeat the scan."
                )
            if math.isnan(flight.acquisition.began):
                raise DeviceError(
                    f"{self.name} is armed, and the IOC did not report since when\n"
                    f"No event of {self.cam.armed.pvname} came: is the network or this host busy? "
                    "Repeat the scan."
                )
            # the IOC takes no notice, and waits for a file
            if refused := self.refusal():
                raise DeviceError(
                    f"{self.name} did not start: camserver answered {refused!r}\n"
                    "Repeat the scan; if it is refused again, look at camserver's own window, or "
                    "restart it."
                )
        except Exception as error:
            silent = isinstance(error, SILENCE)
            fail(flight.status, DeviceError(f"{self.name}: {error}") if silent else error)
            self._disarm(flight)
            raise

    def _await_first_frame(self, flight: SeriesOfFrames) -> None:
        """Wait for what the first pulse brings, and take the time of the pulse from it."""
        folder, sweep = flight.folder, flight.sweep
        limit = flight.clock + self.trigger_timeout + sweep.period + self.patience
        empty = flight.clock  # when no file was there for the last time
        while not flight.stopped.is_set():
            # before looking: the last file may be the first
            ended = flight.acquisition.done.is_set()
            looked = time.monotonic()
            folder.look()
            numbers = folder.seen()
            if numbers:
                last = max(numbers)
                written = folder.written(last)
                now = time.monotonic()
                # the clocks of this host and of the disk may differ by anything
                behind = min(max(time.time() - written, 0.0), now - empty)
                ran = (last + 1) * sweep.period
                flight.began = written - last * sweep.period - sweep.exposure
                flight.clock = self.began_at = now - behind - ran
                self.exposure_started = flight.began
                return
            empty = looked
            if time.monotonic() > limit or ended:
                raise DeviceError(
                    f"{self.name}: no trigger came within "
                    f"{time.monotonic() - flight.clock:.1f} s: no frame is in {folder.directory} "
                    f"({describe_access(folder.directory)})\n"
                    f"{self.ioc_state()}; trigger {flight.trigger}. Is the position compare armed "
                    f"on {sweep.axis}, and its output connected to the detector?"
                )
            flight.stopped.wait(self.poll)

    def _watch(self, flight: SeriesOfFrames) -> None:
        """Look for files until all frames are there, or their time has passed."""
        sweep, folder = flight.sweep, flight.folder
        try:
            lost: list[int] = []
            overdue: set[int] = set()
            warned = False
            if flight.trigger != "internal":
                self._await_first_frame(flight)
            n_present, progress = 0, time.monotonic()
            while not flight.stopped.is_set():
                now = time.monotonic()
                elapsed = now - flight.clock
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
                overdue.update(lost)
                # files come in order: what is behind the last one may all still come
                passed = [number for number in lost if number < folder.last]
                if len(passed) > self.max_missing:
                    raise self._lost(sweep, folder, passed)
                over = elapsed > sweep.duration + self.patience
                if folder.present.all() or (over and len(lost) <= self.max_missing):
                    break
                if folder.n_present > n_present:
                    n_present, progress = folder.n_present, now
                elif now - progress > sweep.period + self.stall:
                    if over:
                        raise self._lost(sweep, folder, lost)
                    raise DeviceError(
                        f"{self.name} stalled: no file came for {now - progress:.1f} s after "
                        f"frame {folder.last} of {sweep.n_frames}\n"
                        f"{self.ioc_state()}. Does camserver hang, or the disk?"
                    )
                self._check_not_aborted(flight, idle=now - progress)
                if not warned:
                    warned = self._warn_of_early_end(flight)
                flight.stopped.wait(self.poll)
            if flight.stopped.is_set():
                return  # stop() has spoken
            self._covered = sweep.n_frames
            if not flight.acquisition.await_done(self.patience):
                log.warning("%s: the time of the frames is over, and the series has not ended "
                            "(%s): it is stopped", self.name, self.ioc_state())  # fmt: skip
            self._disarm(flight)
            finish(flight.status)
            if late := overdue.difference(lost):
                log.warning("%s: frames %s came late, more than %g s after their exposure",
                            self.name, ranges(sorted(late)), self.patience)  # fmt: skip
            if lost:
                log.warning("%s: frames %s had not come %g s after their exposure; "
                            "they are stored if they still come",
                            self.name, ranges(lost), self.patience)  # fmt: skip
        except Exception as error:
            fail(
                flight.status,
                error
                if isinstance(error, DeviceError)
                else DeviceError(f"{self.name}: frames cannot be followed: {error}"),
            )
            self._disarm(flight)

    def _check_not_aborted(self, flight: SeriesOfFrames, *, idle: float) -> None:
        """Raise if somebody else has aborted the series: no file will come any more.

        Parameters
        ----------
        flight
            Which series.
        idle
            Time since the last new file, s: the last exposure may still be written.
        """
        if idle < flight.sweep.period + _WRITTEN or not flight.acquisition.done.is_set():
            return
        if flight.acquisition.cut_short or not self.cam.state.connected:
            return
        if str(self.cam.state.get()) == "Aborted":
            raise DeviceError(
                f"{self.name} was aborted by somebody else after {flight.folder.n_present} of "
                f"{flight.sweep.n_frames} frames: {self.ioc_state()}\n"
                f"Ask who put 0 to {self.cam.acquire.pvname}; the next scan can follow at once."
            )

    def _warn_of_early_end(self, flight: SeriesOfFrames) -> bool:
        """Warn if the IOC follows the files no longer, which this device does; whether it did."""
        if not self.cam.state.connected:
            log.warning("%s: %s; its files are still followed", self.name, self.ioc_state())
            return True
        if not flight.acquisition.done.is_set():
            return False
        report = self.ioc_state()
        if "Error" in report:
            log.warning("%s: the IOC stopped early (%s); its files are still followed",
                        self.name, report)  # fmt: skip
        return True

    def _lost(self, sweep: Sweep, folder: FrameFolder, lost: list[int]) -> DeviceError:
        what = "frame" if len(lost) == 1 else "frames"
        nothing = ""
        if not folder.seen():
            access = describe_access(folder.directory)
            nothing = f" Can camserver's user write there ({access})?"
        return DeviceError(
            f"{self.name}: {what} {ranges(lost)} of {sweep.n_frames} did not come "
            f"within {self.patience:g} s of their time\n"
            f"{self.max_missing} may be missing (max_missing); {folder.n_present} are "
            f"in {folder.directory}. {self.ioc_state()}.{nothing}"
        )

    def complete(self) -> Status:
        """Return the status of the flight: done when all frames are there or due."""
        if self._flight is None:
            raise DeviceError(f"{self.name} was completed without being kicked off")
        return self._flight.status

    def _disarm(self, flight: SeriesOfFrames) -> None:
        """Ask for the end of a series; an abort blocks the IOC's port for 2 s, so never wait."""
        try:
            flight.acquisition.abort()
        except SILENCE as error:  # `unstage` insists, once the IOC answers
            log.warning("%s cannot be stopped now: %s", self.name, error)

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
            self.stop_own()  # also what is only being prepared: it must not be left armed
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
        self.was_paused = self.was_paused or self.flying  # a second pause finds it standing
        with until_delivered(self, self._flight.status if self._flight else None):
            self.stop()

    def unstage(self) -> Status:  # type: ignore[override]  # Bluesky takes both
        """Leave the detector disarmed, whatever happened; done when it is."""
        self.stop(success=True)
        super().unstage()
        return in_background(self, self._leave_idle, self._flight)

    def _leave_idle(self, flight: SeriesOfFrames | None) -> None:
        self.end_own()
        self._reset_if_given_up(flight)
        self.put_trigger_back()
        if self._callbacks_off:
            put(self.cam.callbacks, 1)
            self._callbacks_off = False

    def _reset_if_given_up(self, flight: SeriesOfFrames | None) -> None:
        if flight is None or not flight.clock:
            return
        rest = flight.clock + flight.sweep.duration + flight.sweep.period - time.monotonic()
        if rest > 0 and str(self.cam.state.get(use_monitor=False)) == "Error":
            # the IOC gave up before the sweep's time had passed: camserver did not
            try:
                self._reset()
            except DeviceError as error:  # the next sweep tries again, and fails if need be
                log.warning("%s", error)

    def describe_collect(self) -> dict[str, Any]:
        """Describe the frames: one external array per frame number."""
        return self.describe_frames()

    def get_index(self) -> int:
        """Return the number of frames, from the first on, that are there or passed by."""
        return self._covered

    def collect_asset_docs(self, index: int | None = None) -> Iterator[tuple[str, Any]]:
        """Return the documents of the frames that came since the last call."""
        if self.exposure_started is None or self._folder is None:
            return
        if self._compose_datum is None:
            bundle = self.compose_frames(
                self._folder.directory, exposure_started=self.exposure_started
            )
            self._compose_datum = bundle.compose_stream_datum
            yield "stream_resource", bundle.stream_resource_doc
        stop = self._covered if index is None else min(index, self._covered)
        if stop > self._collected:
            datum = self._compose_datum({"start": self._collected, "stop": stop})
            self._collected = stop
            yield "stream_datum", datum
