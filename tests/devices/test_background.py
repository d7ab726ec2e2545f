"""What a device does behind a status."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from bluesky import RunEngine, plan_stubs
from bluesky.utils import RequestAbort
from ophyd.status import Status
from runs import wait_until

from offbragg.devices.background import fail, in_background, until_delivered


class Slow:
    """A device whose work a pause ends, and that tells of it late, as on a busy host."""

    name, parent = "slow", None

    def __init__(self) -> None:
        self.flight, self.stopped = Status(self), threading.Event()

    def prepare(self, which: str) -> Status:
        return self.flight if which == "flight" else in_background(self, self._work)

    def pause(self) -> None:
        with until_delivered(self, self.flight):
            self.stopped.set()
            threading.Thread(target=self._end_flight).start()

    def resume(self) -> None:
        pass

    def _work(self) -> None:
        self.stopped.wait(10)
        time.sleep(0.5)
        raise RuntimeError("the work was stopped")

    def _end_flight(self) -> None:
        time.sleep(0.5)
        fail(self.flight, RuntimeError("the flight was stopped"))


@pytest.mark.parametrize("which", ["flight", "work"])
def test_an_abort_right_after_a_pause_is_not_forgotten(which):
    """bluesky puts a failure that it hears of later in the place of the abort."""
    RE, device, met = RunEngine(), Slow(), list[BaseException]()

    def plan():
        yield from plan_stubs.checkpoint()
        for step in (plan_stubs.prepare(device, which, wait=True), plan_stubs.sleep(1.0)):
            try:
                yield from step
            except BaseException as error:
                met.append(error)
        raise met[0]

    def pause():
        time.sleep(0.3)
        RE.request_pause()

    thread = threading.Thread(target=pause)
    thread.start()
    with contextlib.suppress(Exception):
        RE(plan())
    thread.join()
    assert RE.state == "paused"
    with contextlib.suppress(Exception):
        RE.abort()

    wait_until(lambda: RE.state == "idle", 10, "it has ended")
    assert [type(error) for error in met] == [RequestAbort]
