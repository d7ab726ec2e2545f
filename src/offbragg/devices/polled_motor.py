"""A motor that is asked whether its move has ended, and whose IOC may go away meanwhile."""

from __future__ import annotations

import logging
import time

from ophyd import Component as Cpt
from ophyd import EpicsMotor, EpicsSignalRO, Kind
from ophyd.status import MoveStatus
from ophyd.utils.errors import WaitTimeoutError

from offbragg.devices.background import fail, in_background
from offbragg.devices.motor import Motor
from offbragg.errors import DeviceError

log = logging.getLogger(__name__)

_DONE_MOVE = 1.0  # s that ophyd has to take note of the end of a move
_ASK_AGAIN = 0.2  # s between two questions whether a move has ended, besides the monitor
_AWAY = 15.0  # s that an IOC may be away during a move before the move is given up


class PolledMotor(Motor):
    """A motor whose move ends although the event of its end is lost, or its IOC restarts.

    It does not move while somebody has stopped it (SPMG).
    """

    mode = Cpt(EpicsSignalRO, ".SPMG", string=True, kind=Kind.omitted)

    _latest_move: MoveStatus | None = None
    _was_away = False  # its IOC, during the latest move

    @property
    def _angle(self) -> float:
        """Where the axis is, degree, read from the record and not from the last event."""
        return float(self.user_readback.get(use_monitor=False))

    def _begin_move(self, position: float, **kwargs: object) -> MoveStatus:
        """Write the position, and ask the record now and then whether the move has ended.

        ophyd takes a change of DMOV for the end and then asks for the limit switches: a question
        that a busy IOC does not answer in time would leave the move without an end. A put-callback
        would report it, but a second one on the same record, after one that never ended, blocks all
        that this host asks of the IOC.

        Raises
        ------
        DeviceError
            If the record does not move now (SPMG); nothing is written.
        """
        self._check_mode()
        self._started_moving = False
        status = super(EpicsMotor, self).move(position, **kwargs)
        self._latest_move = self._move_status = status
        self._was_away = False
        self.user_setpoint.put(position, wait=False)
        in_background(self, self._end_move, status)
        return status

    def _check_mode(self) -> None:
        """Refuse to write a position that the record would keep for later."""
        mode = str(self.mode.get(use_monitor=False))
        if mode != "Go":
            raise DeviceError(
                f"{self.name} does not move: {self.mode.pvname} is {mode}\n"
                "Somebody has stopped this axis. A position that is written now would move it as "
                f"soon as that is Go. See why, then put Go to {self.mode.pvname}."
            )

    def _end_move(self, status: MoveStatus) -> None:
        """Ask whether a move has ended, in case that ophyd misses it, and see its IOC go away."""
        away_since: float | None = None
        while True:
            try:
                status.wait(_ASK_AGAIN)
            except WaitTimeoutError:
                pass
            except Exception as error:  # whoever waits for the move gets the error
                log.debug("%s: %s", self.name, error)
                return
            else:
                return
            if status is not self._latest_move:
                return  # a later move has its own end
            try:
                done = self.connected and bool(self.motor_done_move.get(use_monitor=False))
            except TimeoutError:  # ophyd's: silent, which is less than away
                continue
            if not self.connected:
                away_since = away_since or time.monotonic()
                self._was_away = True
                if time.monotonic() - away_since > _AWAY:
                    fail(status, DeviceError(
                        f"{self.name}: its IOC ({self.prefix}) went away during a move, "
                        f"{_AWAY:g} s ago\nStart the IOC again, and see where the axis stands."
                    ))  # fmt: skip
                    return
                continue
            away_since = None
            if not done:
                continue
            if self._was_away and abs(self._angle - float(self.user_setpoint.get())) > 1e-3:
                fail(status, self._lost_its_ioc())
                return
            try:
                status.wait(_DONE_MOVE)
            except WaitTimeoutError:
                if status is self._latest_move:
                    self._moving = True
                    self._move_changed(timestamp=time.time(), value=1)
            except Exception as error:
                log.debug("%s: %s", self.name, error)
            return

    def _was_stopped_on_the_way(self, asked: float, wanted: float) -> DeviceError:
        if self._was_away:  # a record that starts wants what it was saved with
            return self._lost_its_ioc()
        return super()._was_stopped_on_the_way(asked, wanted)

    def _lost_its_ioc(self) -> DeviceError:
        return DeviceError(
            f"{self.name}: its IOC ({self.prefix}) went away during a move; it is back, "
            f"and the axis stands at {self._angle:.3f}\n"
            "Was the IOC restarted? Then its speed may be another, too."
        )
