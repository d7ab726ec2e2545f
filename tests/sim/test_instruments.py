"""The instruments' physics, with a clock that the test turns."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from sim_iocs.beam import MONITOR_RATE, Counter, Ring, Shutter
from sim_iocs.cryostream import Cryostream
from sim_iocs.file_names import c_format, frame_names
from sim_iocs.ioc import Beamline, Options
from sim_iocs.lakeshore import LakeShore
from sim_iocs.motor import Move
from sim_iocs.records import make_record
from sim_iocs.thermal import Thermal


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


# -- motor


def test_a_move_is_a_trapezoid():
    move = Move(began=0.0, start=10.0, end=40.0, speed=5.0, base=0.0, acceleration=0.5)

    assert move.duration == pytest.approx(6.0 + 0.5)  # cruise 27.5/5, two ramps of 0.5 s
    assert move.position(0.25) == pytest.approx(10.0 + 0.5 * 10.0 * 0.25**2)
    assert move.position(0.5) == pytest.approx(11.25)
    assert move.position(3.5) == pytest.approx(11.25 + 3.0 * 5.0)
    assert move.position(6.5) == 40.0
    assert move.velocity(3.0) == 5.0
    assert move.position(6.25) == pytest.approx(40.0 - 0.5 * 10.0 * 0.25**2)


def test_a_short_move_never_reaches_full_speed():
    move = Move(began=0.0, start=0.0, end=-1.0, speed=5.0, base=0.0, acceleration=0.5)

    # slope 10 degree/s2: half the way takes sqrt(2 * 0.5 / 10) s
    half = math.sqrt(0.1)
    assert move.duration == pytest.approx(2 * half)
    assert move.position(half) == pytest.approx(-0.5)
    assert move.velocity(half - 1e-9) == pytest.approx(-10.0 * half)


def test_when_is_the_inverse_of_position():
    move = Move(began=7.0, start=5.0, end=-30.0, speed=3.0, base=0.5, acceleration=0.7)

    for angle in (4.99, 4.0, -10.0, -29.9):
        assert move.position(move.when(angle)) == pytest.approx(angle, abs=1e-9)
    assert move.when(5.1) is None


# -- cryostream


@pytest.fixture
def refusals() -> list[str]:
    return []


@pytest.fixture
def cold(clock, refusals) -> Cryostream:
    async def report(message: str) -> None:
        refusals.append(message)

    thermal = Thermal(temperature=170.0, acceleration=100.0, clock=clock)
    return Cryostream(thermal, report=report)


def ramp(cryostream: Cryostream, to: float, rate: float = 360.0) -> None:
    async def put() -> None:
        await cryostream.records["RRATE"].write(rate)
        await cryostream.records["RTEMP"].write(to)
        await cryostream.records["RAMP"].write(1)

    asyncio.run(put())


def later(cryostream: Cryostream, clock: Clock, seconds: float) -> None:
    for _ in range(round(seconds / 0.1)):
        clock.now += 0.1
        asyncio.run(cryostream.update())


def test_a_ramp_goes_at_its_rate_and_the_sample_settles_in_8_s_at_100_fold(cold, clock):
    ramp(cold, 130.0)
    later(cold, clock, 2.0)
    half_way = cold.records.value("SETPOINT")
    lag = cold.thermal.sample - half_way
    later(cold, clock, 6.0)

    assert half_way == pytest.approx(170.0 - 2.0 * 100.0 * 0.1, abs=0.5)
    assert 0.3 < lag < 3.0
    assert cold.thermal.sample == pytest.approx(130.0, abs=0.05)
    assert cold.records.value("TEMP") == pytest.approx(130.0, abs=0.15)
    assert cold.records.value("PHASE") == "Hold"


def test_the_end_of_a_ramp_overshoots_a_little(cold, clock):
    ramp(cold, 130.0)
    coldest = 170.0
    for _ in range(80):
        later(cold, clock, 0.1)
        coldest = min(coldest, cold.records.value("TEMP"))

    assert 129.5 < coldest < 129.9


@pytest.mark.parametrize(("name", "value"), [("RTEMP", 79.0), ("CTEMP", 401.0), ("RRATE", 500.0)])
def test_what_is_out_of_range_is_not_taken(cold, refusals, name, value):
    before = cold.records.value(name)

    asyncio.run(cold.records[name].write(value))

    assert cold.records.value(name) == before
    assert name in refusals[0]
    assert f"{value:g}" in refusals[0]


def test_hold_stays_where_the_ramp_is(cold, clock):
    ramp(cold, 130.0)
    later(cold, clock, 1.0)
    asyncio.run(cold.records["HOLD"].write(1))
    later(cold, clock, 5.0)

    assert cold.records.value("SETPOINT") == pytest.approx(160.0, abs=0.5)
    assert cold.thermal.sample == pytest.approx(cold.records.value("SETPOINT"), abs=0.05)


def test_an_injected_overshoot_hits_the_next_ramp_only(cold, clock):
    cold.thermal.overshoot = 3.0
    ramp(cold, 130.0)
    coldest = 170.0
    for _ in range(80):
        later(cold, clock, 0.1)
        coldest = min(coldest, cold.thermal.gas)
    assert 127.0 < coldest < 128.5
    later(cold, clock, 8.0)
    assert cold.thermal.gas == pytest.approx(130.0, abs=0.05)

    ramp(cold, 120.0)
    coldest = 130.0
    for _ in range(80):
        later(cold, clock, 0.1)
        coldest = min(coldest, cold.thermal.gas)

    assert coldest > 119.5


def test_a_stuck_sensor_repeats_itself_while_the_sample_goes_on(cold, clock):
    cold.thermal.stick(2.0)
    ramp(cold, 130.0)
    readings = set()
    for _ in range(19):
        later(cold, clock, 0.1)
        readings.add(cold.records.value("TEMP"))
    assert len(readings) == 1
    later(cold, clock, 1.0)

    assert cold.records.value("TEMP") < 165.0


def test_the_controller_that_was_set_last_drives(cold, clock):
    async def report(message: str) -> None:
        raise AssertionError(message)

    lakeshore = LakeShore(cold.thermal, report=report)
    ramp(cold, 130.0)
    asyncio.run(lakeshore.records["OUT1:SP"].write(160.0))
    later(cold, clock, 5.0)
    asyncio.run(lakeshore.update())

    assert cold.thermal.sample == pytest.approx(160.0, abs=0.1)
    assert lakeshore.records.value("OUT1:SP_RBV") == 160.0
    assert cold.records.value("TARGETTEMP") == 160.0


# -- beam


def test_the_stored_beam_decays_with_its_lifetime_and_is_topped_up(clock):
    ring = Ring(clock)
    lifetime = 8.0 * 3600.0

    assert ring.current(clock() + 60.0) == pytest.approx(102.0 * math.exp(-60.0 / lifetime))
    assert all(101.49 < ring.current(clock() + 97.0 * i) <= 102.0 for i in range(200))
    asyncio.run(ring.records["dump"].write(1))
    assert ring.current(clock() + 1.0) == 0.0


async def moved(shutter: Shutter, label: str) -> None:
    """Put, and wait until the shutter has moved."""
    await shutter.records["open"].write(label)
    await shutter.records["open"].until_free()


def test_the_shutter_remembers_when_it_moved(clock):
    shutter = Shutter(clock)
    clock.now = 10.0
    asyncio.run(moved(shutter, "Open"))
    clock.now = 12.0
    asyncio.run(moved(shutter, "Closed"))

    assert shutter.fraction(9.0, 10.0) == 0.0
    assert shutter.fraction(9.0, 11.0) == 0.5
    assert shutter.fraction(10.5, 11.5) == 1.0
    assert shutter.fraction(11.75, 12.75) == 0.25


def test_the_counter_takes_one_channel_per_gate_until_it_is_full(clock):
    counter = Counter(seed=1, clock=clock)

    async def measure() -> None:
        await counter.count(0.1)  # not started
        await counter.records["NuseAll"].write(3)
        await counter.records["EraseStart"].write(1)
        for _ in range(4):
            await counter.count(0.1)

    asyncio.run(measure())

    counts = counter.records.value("mca1")
    assert len(counts) == 3
    assert counts == pytest.approx([MONITOR_RATE * 0.1] * 3, rel=0.02)
    assert counter.records.value("Acquiring") == "Done"


# -- names of files (the table of the measured ADPilatus)


@pytest.mark.parametrize(
    ("template", "many", "one"),
    [
        ("%s%s_%3.3d.cbf", ["_007", "_008"], "_007"),
        ("%s%s_%3.3d_.cbf", ["_007_00000", "_007_00001"], "_007_"),
        ("%s%s_%3.3d_00000.cbf", ["_007_00000", "_007_00001"], "_007_00000"),
        ("%s%s%d.cbf", ["7_00000", "7_00001"], "7"),
        ("%s%s_%2.2d.cbf", ["_07_00000", "_07_00001"], "_07"),
        ("%s%s_%4.4d.cbf", ["_0007", "_0008"], "_0007"),
    ],
)
def test_files_are_named_as_camserver_names_them(template, many, one):
    base = c_format(template, "/ramdisk/", "run", 7)

    assert frame_names(base, 2) == [f"/ramdisk/run{name}.cbf" for name in many]
    assert frame_names(base, 1) == [f"/ramdisk/run{one}.cbf"]


def test_a_long_series_widens_a_narrow_number():
    assert frame_names("/d/run_001.cbf", 1200)[0] == "/d/run_00001.cbf"
    assert frame_names("/d/run_0001.cbf", 1200)[0] == "/d/run_0001.cbf"
    assert frame_names("/d/run_0001.cbf", 12000)[-1] == "/d/run_12000.cbf"


def test_a_put_before_the_driver_began_with_the_one_before_is_processed_too():
    record = make_record({"type": "double"})
    record.asynchronous, done = True, []

    async def drive(value: float) -> None:
        await record.post(value)
        done.append(value)

    async def put_both() -> None:
        record.on_put = drive
        await record.write(0.25)
        await record.write(0.5)
        assert record.value == 0.5
        await record.until_free()

    asyncio.run(put_both())

    assert done == [0.25, 0.5]
    assert record.value == 0.5


def test_a_position_compare_that_was_not_armed_gives_no_pulse():
    async def pulses():
        beamline = Beamline(Options())
        try:
            began = time.monotonic()
            await beamline.motors["phi"].move_to(5.0)  # along compare_start, 0 from the start on
            unarmed = beamline.trigger(0, since=began)
            await beamline.own["compare_start"].on_put(4.5)
            await beamline.motors["phi"].move_to(4.0)
            return unarmed, beamline.trigger(0, since=began)
        finally:
            await beamline.motors["phi"].stop()

    unarmed, armed = asyncio.run(pulses())

    assert unarmed is None
    assert armed is not None
