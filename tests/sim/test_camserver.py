"""What the camserver of each generation of the detector takes, refuses and drops."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from sim_iocs.camserver import Camserver, Series, Settings


class Nothing:
    """A beamline on which nothing happens."""

    def exposure(self, began: float, ended: float) -> dict:
        return {"seconds": ended - began}

    async def gate(self, number: int, began: float, ended: float, period: float) -> None:
        pass

    def trigger(self, number: float, since: float) -> float | None:
        return None

    async def series_began(self) -> None:
        pass


class Recorded(Camserver):
    """A camserver whose writer only notes its commands."""

    def __init__(self, generation: str) -> None:
        super().__init__(Nothing(), {"generation": generation, "model": generation})
        self.tasks: list[dict] = []

    async def _send(self, message) -> None:
        self.tasks.append(dict(message))
        self._pending.pop(message["path"], None)


GOOD = Settings(n_images=10, exposure=0.1, period=0.2)


@pytest.mark.parametrize(
    ("generation", "change", "refused"),
    [
        ("PILATUS2", {"period": 0.1 + 0.00228}, False),
        ("PILATUS2", {"period": 0.1 + 0.00227}, True),
        ("PILATUS3", {"period": 0.1 + 0.00095}, False),
        ("PILATUS3", {"period": 0.1 + 0.00094}, True),
        ("PILATUS2", {"exposure": 1e-6, "period": 0.0023}, False),
        ("PILATUS3", {"exposure": 1e-6, "period": 0.002}, False),
        ("PILATUS3", {"exposure": 1e-6, "period": 0.0019}, True),
        ("PILATUS3", {"n_images": 65535}, False),
        ("PILATUS3", {"n_images": 65536}, True),
        ("PILATUS3", {"delay": 0.2}, False),
        ("PILATUS3", {"delay": 0.21}, True),
        ("PILATUS3", {"exposure": 60.0, "period": 70.0, "delay": 63.9}, False),
        ("PILATUS3", {"exposure": 60.0, "period": 70.0, "delay": 64.0}, True),
        # one exposure has no gap to the next, so a fresh IOC's period of 0 does not matter
        ("PILATUS3", {"n_images": 1, "period": 0.0}, False),
        ("PILATUS3", {"n_images": 1, "period": 0.1, "n_exposures": 2}, True),
        ("PILATUS3", {"n_images": 1, "period": 0.2, "n_exposures": 2}, False),
    ],
)
def test_camserver_refuses_what_its_detector_cannot_follow(generation, change, refused):
    camserver = Recorded(generation)

    reply = camserver.refusal(replace(GOOD, **change))

    assert (reply is not None) is refused
    assert reply is None or reply.startswith("15 ERR ")


def series() -> Series:
    return Series(name="/d/x_000.cbf", mode="Internal", header=lambda *_: [])


@pytest.mark.parametrize(("generation", "n_frames"), [("PILATUS2", 1), ("PILATUS3", 0)])
def test_a_kill_lets_a_pilatus2_finish_its_exposure(generation, n_frames):
    camserver = Recorded(generation)

    async def abort() -> None:
        camserver.configure(n_images=5, exposure=0.15, period=0.2)
        assert " OK " in camserver.expose(series())
        await asyncio.sleep(0.05)
        camserver.kill()
        await asyncio.sleep(0.3)

    asyncio.run(abort())

    assert len(camserver.tasks) == n_frames


def test_a_frame_of_several_exposures_takes_all_periods_but_the_last_readout():
    camserver = Recorded("PILATUS3")
    expected = 0.05 * (3 - 1) + 0.04  # Period * (N - 1) + Time

    async def expose() -> float:
        camserver.configure(n_images=2, exposure=0.04, period=0.05, n_exposures=3)
        asked = series()
        began = time.monotonic()
        camserver.expose(asked)
        await asked.finished.wait()
        return time.monotonic() - began

    seconds = asyncio.run(expose())

    assert [task["exposure"]["seconds"] for task in camserver.tasks] == pytest.approx(
        [expected] * 2
    )
    assert seconds >= 3 * 0.05 + expected


def test_a_restarted_camserver_has_forgotten_all_settings():
    camserver = Recorded("PILATUS2")
    camserver.configure(n_images=7, gap_fill=0)
    camserver.describe(Wavelength=0.7)

    camserver.leave()
    camserver.configure(n_images=9)  # no one hears it
    camserver.describe(Chi=1.0)
    camserver.come_back()

    assert camserver.settings == Settings()
    assert camserver.header == {}


def test_an_abort_that_comes_as_camserver_finishes_is_not_forgotten():
    async def driver() -> str:
        series = Series(name="s", mode="Internal", header=lambda *_: [])

        async def waits() -> None:
            while await series.finishes_within(10.0):  # as an alignment does, until aborted
                series.finished.clear()

        driving = asyncio.create_task(waits())
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # it waits now
        series.finished.set()
        await asyncio.sleep(0)
        driving.cancel()
        _, forgotten = await asyncio.wait([driving], timeout=1.0)
        if forgotten:
            driving.cancel()
        return "forgotten" if forgotten else "aborted"

    assert asyncio.run(driver()) == "aborted"
