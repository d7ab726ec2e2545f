"""A motor whose move fails when somebody else has stopped it."""

from __future__ import annotations

import logging
from typing import Any

from ophyd import EpicsMotor
from ophyd.status import MoveStatus
from ophyd.utils.errors import DisconnectedError

from offbragg.devices.background import fail, in_background
from offbragg.errors import DeviceError
from offbragg.private_parts import PrivatePart, examine

log = logging.getLogger(__name__)

_PATIENCE = 10.0  # s; longer than a busy host keeps a thread waiting


class StoppedError(DeviceError):
    """A move did not end where it was to, because somebody stopped it."""


class Motor(EpicsMotor):
    """An EpicsMotor whose move is a success only if the record still wants that position.

    ophyd takes any end of a motion for a success. But who presses STOP on a screen, or gives the
    motor another position, changes what the record wants (VAL): then it is not where a plan
    believes it to be.
    """

    _move_status: MoveStatus | None = None

    def move(self, position: float, wait: bool = True, **kwargs: object) -> Any:
        """Move, as any EpicsMotor does; the status fails if somebody stops it."""
        status = self._begin_move(position, **kwargs)
        if wait:
            try:
                status.wait()
            except KeyboardInterrupt:
                self.stop()
                raise
        return status

    def _begin_move(self, position: float, **kwargs: object) -> MoveStatus:
        """Write the position; the status is done when the motor has stopped."""
        status = super().move(position, wait=False, **kwargs)
        self._move_status = status
        return status

    def _done_moving(
        self, success: bool = True, timestamp: object = None, value: object = None, **kwargs: object
    ) -> None:
        kwargs |= {"timestamp": timestamp, "value": value}
        status = self._move_status
        if not success or status is None or status.done:
            super()._done_moving(success=success, **kwargs)
            return
        # a monitor's callback must not wait for a record
        in_background(self, self._judge_end, status, kwargs)

    def _judge_end(self, status: MoveStatus, kwargs: dict[str, Any]) -> None:
        asked = float(status.target)
        try:
            wanted = float(self.user_setpoint.get(use_monitor=False))
        except (TimeoutError, TypeError, DisconnectedError) as error:
            log.warning("%s does not say whether somebody stopped it: %s", self.name, error)
            wanted = asked
        if status is not self._move_status:
            return  # ended by a later move
        if abs(wanted - asked) > 1e-6 * max(abs(asked), 1.0):
            status._call_stop_on_failure = False  # it stands, and `stop` is for us
            fail(status, self._was_stopped_on_the_way(asked, wanted))
            self._reset_sub(self._SUB_REQ_DONE)  # ophyd's own callback would find it done
        else:
            super()._done_moving(success=True, **kwargs)

    def stop(self, *, success: bool = False) -> None:
        """Stop; a move ends as ``success`` says."""
        self._move_status = None  # it is us who stop it
        super().stop(success=success)

    def _was_stopped_on_the_way(self, asked: float, wanted: float) -> DeviceError:
        units = str(self.motor_egu.get() or "")
        return StoppedError(
            f"{self.name} did not reach {asked:g} {units}: somebody else stopped it, or sent it "
            f"elsewhere ({self.user_setpoint.pvname} is {wanted:g})\n"
            "See who did (STOP on a screen, another client), and why, before it is moved again."
        )


def self_test() -> PrivatePart:
    """Return whether a move that somebody else stops fails, with this version of ophyd."""
    return examine("ophyd", "a move that somebody stopped fails", _stop_one, guards=True)


def _stop_one() -> None:
    """Let a motor that is not there be sent elsewhere during a move."""
    from ophyd.sim import make_fake_device

    motor: Any = make_fake_device(Motor)("", name="motor")
    stopped: list[bool] = []
    motor.user_readback.alarm_severity, motor.user_setpoint.pvname = 0, "setpoint"
    motor.stop = lambda **_: stopped.append(True)
    for signal in (motor.low_limit_switch, motor.high_limit_switch, motor.motor_done_move):
        signal.sim_put(0)
    motor.user_setpoint.sim_set_limits((-10.0, 10.0))
    status = motor.move(1.0, wait=False)
    motor._move_changed(value=0)
    motor.user_setpoint.sim_put(0.5)
    motor._move_changed(value=1)
    error = status.exception(timeout=_PATIENCE)
    if not isinstance(error, StoppedError):
        raise ValueError(f"a move that was stopped ends as {error!r}")
    if stopped:
        raise ValueError("a motor that somebody stopped is stopped again")
