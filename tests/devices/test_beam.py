"""Attenuator and permit: on records of our own, and the ring of the simulated beamline."""

from __future__ import annotations

import time

import numpy as np
import pytest
from ophyd.sim import make_fake_device

from offbragg.devices.beam import Attenuator, BeamPermit, FrameMonitor, Ring, Shutter
from offbragg.devices.goniometer import Translation
from offbragg.devices.lakeshore import LakeShore336
from offbragg.errors import ConfigError, DeviceError
from offbragg.sweep import counted_too_little, exposed_while_off


def fake(cls, **more):
    return make_fake_device(cls)("X:", name=cls.__name__.lower(), **more)


@pytest.fixture
def ring():
    ring = fake(Ring)
    ring.current.sim_put(102.0)
    return ring


@pytest.fixture
def shutter():
    shutter = fake(Shutter)
    shutter.state.sim_put(1)
    return shutter


@pytest.fixture
def monitor():
    monitor = fake(FrameMonitor)
    monitor.counts.sim_put(np.array([1000.0, 990.0, 1010.0]))
    return monitor


def test_with_beam_it_permits(ring, shutter, monitor):
    permit = BeamPermit(ring, shutter, monitor, ring_threshold=50.0, fraction=0.5)

    assert permit.ok()
    assert permit.beam.get() == 1
    assert permit.reasons(flying=True) == []


@pytest.mark.parametrize(
    ("lose", "named"),
    [
        (lambda r, s, m: r.current.sim_put(3.0), "3.0 mA, less than 50 mA"),
        (lambda r, s, m: s.state.sim_put(0), "shutter is closed"),
        (
            lambda r, s, m: m.counts.sim_put(np.array([1000.0, 990.0, 20.0])),
            "counted 20 in its last",
        ),
    ],
)
def test_a_loss_is_seen_at_once_and_named(ring, shutter, monitor, lose, named):
    permit = BeamPermit(ring, shutter, monitor, ring_threshold=50.0, fraction=0.5)
    values = []
    permit.beam.subscribe(lambda value, **_: values.append(value), run=False)

    lose(ring, shutter, monitor)

    assert values == [0]
    assert named in permit.reasons(flying=True)[0]


def test_a_top_up_changes_nothing(ring, shutter):
    permit = BeamPermit(ring, shutter, ring_threshold=50.0)
    values = []
    permit.beam.subscribe(lambda value, **_: values.append(value), run=False)

    for current in (101.6, 101.5, 102.0, 101.9):
        ring.current.sim_put(current)

    assert values == []


def test_a_closed_shutter_does_not_keep_a_sweep_from_beginning(ring, shutter):
    shutter.state.sim_put(0)
    permit = BeamPermit(ring, shutter, ring_threshold=50.0)

    assert permit.ok()  # the plan opens it
    assert permit.beam.get() == 0


def test_a_fraction_must_be_one(ring):
    with pytest.raises(ConfigError, match=r"fraction 2 is not within 0 to 1"):
        BeamPermit(ring, ring_threshold=50.0, fraction=2.0)


@pytest.mark.ioc
def test_a_dumped_beam_is_seen(devices, ioc):
    from epics import caput

    permit = BeamPermit(devices["ring"], ring_threshold=50.0)
    assert permit.ok()
    try:
        caput(f"{ioc['prefix']}ring:dump", 1, wait=True)
        deadline = time.monotonic() + 10
        while permit.beam.get():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not permit.ok()
    finally:
        caput(f"{ioc['prefix']}ring:dump", 0, wait=True)
    deadline = time.monotonic() + 10
    while not permit.beam.get():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5, 1e-6, float("nan")])
def test_what_is_no_transmission_is_refused(value):
    attenuator = fake(Attenuator)

    with pytest.raises(ConfigError, match=r"can be set from 0\.0001 to 1"):
        attenuator.set(value)


def test_a_filter_that_sticks_is_reported():
    attenuator = fake(Attenuator, timeout=0.2)
    attenuator.transmission.sim_put(1.0)
    attenuator.transmission.pvname = "X:transmission_RBV"
    attenuator.transmission.put = lambda value, callback=None, **_: callback()

    with pytest.raises(DeviceError, match=r"transmission of 1 0\.2 s after 0\.01 was asked"):
        attenuator.set(0.01).wait(5)


@pytest.mark.parametrize(
    ("more", "named"),
    [({"loop": 3}, "loop 3"), ({"channel": 0}, "channel 0"), ({"heater": "HOT"}, "heater 'HOT'"),
     ({"settle": {"tolerence": 1.0}}, "settle.tolerence is unknown"),
     ({"ramp_rate": 0.0}, "ramp_rate 0")],
)  # fmt: skip
def test_a_lakeshore_is_checked_for_what_it_has(more, named):
    with pytest.raises(ConfigError, match=named):
        fake(LakeShore336, **more)


def test_a_rotation_is_no_translation():
    detx = fake(Translation)
    detx.motor_egu.sim_put("degrees")

    with pytest.raises(DeviceError, match="is not a translation"):
        detx.check_value(1.0)


def test_a_monitor_tells_of_a_loss_since_the_frame_before(ring, monitor):
    permit = BeamPermit(ring, None, monitor, ring_threshold=50.0, fraction=0.5)
    changes = []
    permit.beam.subscribe(lambda value, timestamp, **_: changes.append((timestamp, value)))
    began = time.time() + 10.0

    counts = [1000.0, 990.0, 1010.0, 995.0, 2.0, 1.0, 3.0, 2.0, 1.0, 2.0, 990.0]
    for number in range(1, len(counts) + 1):  # each comes 2 ms after the frame's end
        over = began + 0.1 * (number - 1) + 0.099
        monitor.counts.sim_put(np.array(counts[:number]), timestamp=over + 0.002)

    begin = began + 0.1 * np.arange(11)
    dark = exposed_while_off(changes, begin, begin + 0.099)
    # 10 was exposed with beam: noticed late, it is measured again all the same
    np.testing.assert_array_equal(np.flatnonzero(dark), np.arange(4, 11))


@pytest.mark.parametrize("dark", [1, 5, 35, 36])
def test_a_loss_never_becomes_the_rule(dark):
    counts = np.full(40, 1000.0)
    counts[:dark] = 40.0
    counts[-1] = 5000.0  # a spike

    np.testing.assert_array_equal(np.flatnonzero(counted_too_little(counts, 0.5)), np.arange(dark))


def test_counts_that_are_not_known_are_not_too_little():
    assert not counted_too_little(np.full(3, np.nan), 0.5).any()
    assert list(counted_too_little(np.array([np.nan, 10.0, 0.0]), 0.5)) == [False, False, True]


def test_a_permit_is_made_before_anything_is_connected():
    ring, shutter = Ring("NOWHERE:ring:", name="ring"), Shutter("NOWHERE:shutter:", name="shutter")
    began = time.monotonic()

    permit = BeamPermit(ring, shutter, ring_threshold=50.0)

    assert time.monotonic() - began < 0.5
    assert permit.beam.get() == 1  # no one has said otherwise
    for device in (permit, ring, shutter):
        device.destroy()
