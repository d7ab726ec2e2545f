"""Looking at the detector while centring: endless exposures into one file, no run and no frames."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ophyd.status import Status

from offbragg.devices.acquisition import SILENCE
from offbragg.devices.background import Watched, check_times, in_background, put
from offbragg.devices.frame_folder import describe_access, make_folder
from offbragg.devices.pilatus_cam import TRIGGERS
from offbragg.devices.pilatus_files import PilatusFiles
from offbragg.errors import ConfigError, DeviceError

log = logging.getLogger(__name__)

INSISTENCE = 30.0  # s for an IOC that is silent when the detector is to be put back
ALIGNMENT = 4  # in TriggerMode
FILE = "alignment.tif"  # the IOC's own name for it


def _insist(step: Callable[..., None], *args: object) -> None:
    """Take a step that leaves the detector as it was, again while the IOC is silent."""
    deadline = time.monotonic() + INSISTENCE
    while True:
        try:
            step(*args)
            return
        except (*SILENCE, DeviceError) as error:
            if time.monotonic() > deadline:
                raise
            log.warning("while an alignment is ended: %s", error)
            time.sleep(0.2)


class Alignment:
    """The detector's mode Alignment, for a number of seconds: ``RE(mv(pilatus.alignment, 60))``.

    Every exposure overwrites `file` and goes to the plugins. The detector is left idle and in the
    trigger mode that it was in, whatever happens.

    Parameters
    ----------
    detector
        Whose.
    """

    parent = None

    def __init__(self, detector: PilatusFiles) -> None:
        self.detector = detector
        self.name = f"{detector.name}_alignment"
        self._status: Status | None = None
        self._ended = threading.Event()

    @property
    def file(self) -> Path:
        """Where the newest exposure is, as this host sees it."""
        return self.detector.frames / self.name / FILE

    @property
    def looking(self) -> bool:
        """Whether it is on."""
        return self._status is not None and not self._status.done

    def check(self, seconds: float, *, exposure: float = 0.5) -> None:
        """Refuse what cannot be done; nothing is written to any record.

        Raises
        ------
        ConfigError
            A time that is none, or a directory for the file that cannot be written.
        DeviceError
            The detector is busy.
        """
        check_times(self.name, seconds=seconds, exposure=exposure)
        self.detector.check_disk(1)
        self.detector.check_ready()

    def set(self, seconds: float, *, exposure: float = 0.5) -> Status:
        """Look for a number of seconds; done when they have passed and the detector is idle again.

        Parameters
        ----------
        seconds
            How long; 0 ends it now.
        exposure
            Of each frame, s.
        """
        if seconds == 0:
            self.stop()
            return in_background(self, self._await_end, self._status)
        self.check(seconds, exposure=exposure)
        ended = self._ended = threading.Event()
        status = self._status = Watched(self)
        return in_background(
            self, self._look, float(seconds), float(exposure), ended, status.report, status=status
        )

    def stop(self, *, success: bool = False) -> None:
        """Look no longer; the status is done once the detector is idle."""
        self._ended.set()

    def _await_end(self, status: Status | None) -> None:
        if status is not None:
            over = threading.Event()
            status.add_callback(lambda _: over.set())
            if not over.wait(60.0):
                raise DeviceError(f"{self.name} does not end: {self.detector.ioc_state()}")

    def _look(
        self,
        seconds: float,
        exposure: float,
        ended: threading.Event,
        report: Callable[..., None],
    ) -> None:
        detector, cam = self.detector, self.detector.cam
        mode = int(cam.trigger_mode.get(use_monitor=False))
        usual = TRIGGERS["internal"] if mode == ALIGNMENT else mode
        n_frames = int(cam.n_frames.get_setpoint(use_monitor=False))
        detector.recover()
        series = detector.new_acquisition()
        try:
            detector.use_plain_exposures()
            put(cam.exposure, exposure)
            put(cam.file_timeout, detector.patience)
            detector.use_directory(self._directory())
            put(cam.trigger_mode, ALIGNMENT)
            series.start()
            began = time.monotonic()
            while (elapsed := time.monotonic() - began) < seconds and not ended.wait(0.1):
                if series.done.is_set():
                    raise DeviceError(
                        f"{self.name} ended on its own after {elapsed:.1f} s: "
                        f"{detector.ioc_state()}\n"
                        f"Is camserver running, and can it write {self.file} "
                        f"({describe_access(self.file.parent)})?"
                    )
                report(name=self.name, current=elapsed, initial=0, target=seconds, unit="s")
        finally:
            # in this order: while an abort holds its port, the IOC takes no other put
            _insist(detector.end_own)
            _insist(put, cam.trigger_mode, usual)
            _insist(put, cam.n_frames, n_frames)  # the mode has forced it to 1

    def _directory(self) -> str:
        """Make the directory of the file and return its name; it may be there already."""
        try:
            make_folder(self.file.parent, self.detector.folder_mode, exist_ok=True)
            self.file.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{self.file} cannot be made: {error.strerror}\n"
                "Set [paths] frames in beamline.toml to a directory that can be written."
            ) from error
        return self.name
