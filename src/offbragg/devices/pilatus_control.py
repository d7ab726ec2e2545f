"""Claim, end and recover a Pilatus: what a dead process left behind, nothing of others.

Everything here asks the IOC; files are not looked at.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import numpy as np
from ophyd import Component as Cpt
from ophyd import Device, Kind

from offbragg.devices import acquisition as acquiring
from offbragg.devices.acquisition import ABORTING, READY, SILENCE, Acquisition
from offbragg.devices.background import put
from offbragg.devices.claim import DetectorClaim
from offbragg.devices.pilatus_cam import TRIGGERS, PilatusCam
from offbragg.errors import DeviceError

log = logging.getLogger(__name__)

SETTING = 150.0  # s; camserver allows 110 s for a threshold
START_CAMSERVER = (
    "Is camserver running? Start it again, wait 20 s until the IOC is connected, repeat the scan."
)
AWAY = 5.0  # s for an IOC that is away when the detector is to be ended
PASSING = 1.0  # s; the states between acquiring and idle


class PilatusControl(Device):
    """A Pilatus that is claimed, ended and recovered.

    Parameters
    ----------
    prefix
        Of the cam records.
    claim
        Tells other processes that this one acquires.
    write_path
        Directory of the frames as the detector's computer sees it.
    format
        "cbf" or "tif".
    """

    cam = Cpt(PilatusCam, "", kind=Kind.normal)

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str,
        claim: DetectorClaim,
        write_path: str,
        format: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        self.write_path = write_path
        self.format = format
        self._claim = claim
        self._acquisition: Acquisition | None = None
        self._exposing_until = 0.0  # monotonic, s
        self._usual_trigger: int | None = None  # while something takes the internal one

    def new_acquisition(self) -> Acquisition:
        """Make the next acquisition; until it is started, an abort of it keeps it from starting."""
        self._acquisition = Acquisition(self.cam, name=self.name, claim=self._claim)
        return self._acquisition

    @property
    def _template(self) -> str:
        """FileTemplate: five digits after the last "_" are the number of the first frame."""
        return f"%s%s_%5.5d.{self.format}"

    def ioc_state(self) -> str:
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
                    f"{self.name} is busy: {self.ioc_state()}\n"
                    f"Wait until it is Idle; if it stays so, put 0 to {cam.acquire.pvname}, or "
                    "restart camserver and the IOC."
                )
            time.sleep(0.05)

    def _since(self) -> float:
        """Return when the driver began to acquire, POSIX s by the IOC's clock."""
        return float(self.cam.acquiring.timestamp or 0.0)

    def _left_behind(self) -> bool:
        """Return whether what is acquired was begun by a process of ours that is dead."""
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
                    self.name, self.ioc_state(), SETTING)  # fmt: skip
        if not acquiring.await_idle(cam, timeout=SETTING):
            raise DeviceError(
                f"{self.name} was not ready within {SETTING:g} s: {self.ioc_state()}\n"
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
            problem = self.ioc_state()
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
            f"{self.name} still acquires {ABORTING:g} s after it was stopped: {self.ioc_state()}\n"
            f"Put 0 to {self.cam.acquire.pvname}; if that does not help, restart camserver and "
            "the IOC."
        )
