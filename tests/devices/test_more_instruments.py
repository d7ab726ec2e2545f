"""LakeShore, attenuator and translations of the simulated beamline over Channel Access."""

from __future__ import annotations

import importlib.util

import pytest

from offbragg.devices.beam import Attenuator
from offbragg.devices.goniometer import Translation
from offbragg.devices.lakeshore import LakeShore336
from offbragg.devices.settle import State
from offbragg.errors import DeviceError

pytestmark = [
    pytest.mark.ioc,
    pytest.mark.skipif(
        importlib.util.find_spec("sim_iocs.lakeshore") is None,
        reason="this simulator serves no LakeShore, attenuator and translations",
    ),
]

RULE = {"tolerance": 0.5, "window": 1.0, "slope": 0.05, "deviation": 0.2, "dwell": 0.2}


@pytest.fixture(scope="module")
def lakeshore(ioc):
    device = LakeShore336(
        f"{ioc['prefix']}ls:", name="lakeshore", settle=RULE, interval=0.1, limits=(80.0, 400.0)
    )
    device.wait_for_connection(all_signals=True, timeout=10)
    return device


def test_a_lakeshore_settles_by_the_same_rule(lakeshore):
    lakeshore.set(296.0).wait(60)

    assert lakeshore.position == pytest.approx(296.0, abs=0.5)
    assert lakeshore.settled["mean"] == pytest.approx(296.0, abs=0.3)
    assert lakeshore.state is State.SETTLED


def test_a_stuck_sensor_is_named_and_fails_the_set(lakeshore, simulator, monkeypatch):
    monkeypatch.setattr(lakeshore, "stuck_timeout", 2.0)
    simulator("stuck", 30.0)
    try:
        with pytest.raises(DeviceError, match=r"did not settle at 291 K .*: stuck: the sensor has"):
            lakeshore.set(291.0).wait(60)
    finally:
        simulator("stuck", 0.0)


def test_an_overshoot_is_named_and_waited_for(lakeshore, simulator):
    simulator("overshoot", 4.0)
    states = set()
    status = lakeshore.set(297.0)
    status.watch(lambda **_: states.add(lakeshore.state))
    try:
        status.wait(90)
    finally:
        simulator("overshoot", 0.0)

    assert State.OVERSHOOT in states
    assert lakeshore.settled["mean"] == pytest.approx(297.0, abs=0.3)


def test_filters_move(ioc):
    attenuator = Attenuator(f"{ioc['prefix']}atten:", name="attenuator")
    attenuator.wait_for_connection(all_signals=True, timeout=10)
    try:
        attenuator.set(0.01).wait(20)

        assert attenuator.position == pytest.approx(0.01, rel=0.3)
        assert attenuator.attenuation == pytest.approx(100.0, rel=0.5)
    finally:
        attenuator.set(1.0).wait(20)


def test_the_detector_moves_in_mm(ioc):
    detx = Translation(f"{ioc['prefix']}detx", name="detx")
    detx.wait_for_connection(all_signals=True, timeout=10)
    before = detx.position

    detx.set(before + 1.0).wait(30)

    assert detx.position == pytest.approx(before + 1.0, abs=1e-3)
    detx.set(before).wait(30)
    _, high = detx.limits
    with pytest.raises(DeviceError, match="its limits are"):
        detx.check_value(high + 1.0)
