"""What each device refuses, and in which words: no record is written."""

from __future__ import annotations

import math

import pytest
from ophyd.sim import make_fake_device

from offbragg.devices.background import Watched, in_background, verify
from offbragg.devices.beam import Attenuator, FrameMonitor, Shutter
from offbragg.devices.cryostream import Cryostream
from offbragg.devices.frame_folder import FrameFolder
from offbragg.devices.goniometer import PositionCompare, RotationAxis
from offbragg.devices.lakeshore import LakeShore336
from offbragg.devices.pilatus import Pilatus, PilatusStep, SeriesOfFrames, readout
from offbragg.errors import ConfigError, DeviceError
from offbragg.sweep import Sweep

NEEDED = {
    Pilatus: {"model": "PILATUS 2M", "sensor_material": "Si", "sensor_thickness": 0.45},
    PilatusStep: {"model": "PILATUS 2M", "sensor_material": "Si", "sensor_thickness": 0.45},
}


@pytest.fixture
def make(tmp_path):
    """Make a device on records that are not there."""

    def make(cls, **more):
        needed = {**NEEDED[cls], "frames": str(tmp_path)} if cls in NEEDED else {}
        return make_fake_device(cls)("X:", name="it", **{**needed, **more})

    return make


@pytest.mark.parametrize(
    ("cls", "wrong", "message"),
    [
        (Pilatus, {"format": "edf"}, "format 'edf' is not one of cbf, tif"),
        (Pilatus, {"trigger": "alignment"}, "trigger 'alignment' is not one of internal"),
        (Pilatus, {"header": {"Gamma": 1.0}}, r"header\.Gamma is unknown; there are EnergyLow"),
        (Pilatus, {"sensor_thickness": 0.0}, "sensor_thickness is 0: it must be above 0 mm"),
        (Pilatus, {"max_missing": -1}, "max_missing is -1: it must not be below 0"),
        (Pilatus, {"patience": 0.0}, r"patience is 0\.0: it must be above 0 s"),
        (Pilatus, {"stall": -1.0}, r"stall is -1\.0"),
        (Pilatus, {"trigger_timeout": math.nan}, "trigger_timeout is nan"),
        (Pilatus, {"poll": math.inf}, "poll is inf"),
        (Pilatus, {"callbacks_up_to": -1.0}, r"callbacks_up_to is -1\.0: it must not"),
        (Pilatus, {"reserve": -2.0}, "reserve is -2: it must not be below 0 GB"),
        (Cryostream, {"ramp_rate": 361.0}, "ramp_rate 361 K/h is not within 0 to 360"),
        (Cryostream, {"interval": 0.0}, r"interval is 0\.0"),
        (Cryostream, {"timeout": -1.0}, r"timeout is -1\.0"),
        (Cryostream, {"stuck_timeout": math.nan}, "stuck_timeout is nan"),
        (Cryostream, {"limits": (300.0, 100.0)}, "limits are 300 to 100 K"),
        (Cryostream, {"settle": {"window": 0.0}}, r"settle\.window is 0\.0"),
        (Cryostream, {"settle": {"slop": 1.0}}, r"settle\.slop is unknown; there are tolerance"),
        (LakeShore336, {"limits": (5.0, 5.0)}, "limits are 5 to 5 K"),
        (LakeShore336, {"ramp_rate": 1.0}, r"ramp_rate 1 K/h is less than 6 K/h: .* 0\.1 K/min"),
        (LakeShore336, {"interval": -1.0}, r"interval is -1\.0"),
    ],
)  # fmt: skip
def test_a_device_is_not_made_of_values_that_mean_nothing(make, cls, wrong, message):
    with pytest.raises(ConfigError, match=message):
        make(cls, **wrong)


@pytest.mark.parametrize(
    ("cls", "do", "message"),
    [
        (Pilatus, lambda d: d.prime(-1.0), r"exposure is -1\.0"),
        (Pilatus, lambda d: d.alignment.set(-1.0), r"it_alignment: seconds is -1\.0"),
        (Pilatus, lambda d: d.alignment.set(1.0, exposure=0.0), r"exposure is 0\.0"),
        (Pilatus, lambda d: d.cam.threshold.set(0.0), r"threshold cannot be 0\.0: .* keV"),
        (Pilatus, lambda d: d.cam.energy.set(math.nan), "energy cannot be nan"),
        (Pilatus, lambda d: setattr(d, "trigger_mode", "gate"), "trigger 'gate' is not one of"),
        (Cryostream, lambda d: d.set(math.nan), "cannot be set to nan: it must be above 0 K"),
        (Cryostream, lambda d: d.set("warm"), "cannot be set to 'warm'"),
        (Cryostream, lambda d: d.set(79.0), "79 K is outside 80 to 500 K"),
        (LakeShore336, lambda d: d.set(-1.0), r"cannot be set to -1\.0"),
        (Attenuator, lambda d: d.set(0.0), "can be set from 0.0001 to 1"),
        (Shutter, lambda d: d.set("ajar"), "'open' or 'closed', not 'ajar'"),
    ],
)
def test_what_means_nothing_is_refused(make, cls, do, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        do(make(cls))


@pytest.mark.parametrize("model", ["EIGER 4M", "2M", ""])
def test_the_readout_of_another_detector_is_not_guessed(model):
    with pytest.raises(ConfigError, match=f"model '{model}' is not a Pilatus"):
        readout(model)


def test_a_detector_of_sweeps_names_its_twin_for_steps(make):
    with pytest.raises(DeviceError, match=r"use it\.step"):
        make(Pilatus).trigger()


@pytest.mark.parametrize("cls", [Pilatus, RotationAxis, PositionCompare, FrameMonitor])
@pytest.mark.parametrize(
    ("verb", "message"),
    [("kickoff", "without being prepared"), ("complete", "without being kicked")],
)
def test_a_flyer_says_which_step_was_left_out(make, cls, verb, message):
    with pytest.raises(DeviceError, match=f"it was .*{message}"):
        getattr(make(cls), verb)()


def test_a_step_scan_says_which_step_was_left_out(make):
    with pytest.raises(DeviceError, match="triggered without being staged"):
        make(PilatusStep).trigger()


# -- records that do not answer ----------------------------------------------------------------


class Silent:
    """A record of an IOC that has gone silent."""

    name = pvname = "X:Acquire"

    def get(self, *_, **__):
        raise TimeoutError("Failed to read X:Acquire within 2.00 sec")


def test_a_record_that_does_not_answer_is_an_error_of_its_device(make):
    status = in_background(make(Shutter), Silent().get)

    with pytest.raises(DeviceError, match=r"it: Failed to read X:Acquire .*\nDoes the IOC run"):
        status.wait(5)


def test_a_read_back_that_never_comes_is_reported_in_time():
    with pytest.raises(DeviceError, match=r"X:Acquire does not answer 0\.1 s after 5 was put"):
        verify(Silent(), 5.0, timeout=0.1)


def test_an_error_message_survives_an_ioc_that_is_silent(make, monkeypatch):
    pilatus = make(Pilatus)
    monkeypatch.setattr(pilatus.cam.state, "get", Silent().get)

    assert pilatus.ioc_state() == "the IOC says nothing (Failed to read X:Acquire within 2.00 sec)"


def test_a_detector_is_awaited_while_its_ioc_is_silent(make, monkeypatch):
    pilatus = make(Pilatus)
    answers = iter([TimeoutError("silent"), TimeoutError("silent"), 1, 0])

    def get(**_):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    pilatus.cam.state.sim_put("Aborted")
    monkeypatch.setattr(pilatus.cam.acquiring, "get", get)

    pilatus.abort()

    assert list(answers) == []


def test_counts_that_cannot_be_read_now_are_asked_for_again(make, monkeypatch):
    monitor = make(FrameMonitor)
    monitor._sweep = Sweep(axis="phi", start=0, step=0.1, n_frames=2, exposure=0.09, period=0.1)
    monitor.counts.sim_put([5.0, 6.0])
    monitor.current_channel.sim_put(2)
    with monkeypatch.context() as silent:
        silent.setattr(monitor.counts, "get", Silent().get)
        assert list(monitor.collect_pages()) == []

    (page,) = monitor.collect_pages()

    assert page["data"]["it_counts"] == [5.0, 6.0]


def test_a_flight_that_fails_is_decided_even_if_it_cannot_be_disarmed(make, monkeypatch):
    pilatus = make(Pilatus)
    sweep = Sweep(axis="phi", start=0, step=0.1, n_frames=2, exposure=0.09, period=0.1)
    folder = FrameFolder(pilatus.frames / "nowhere", "x", "cbf", 2)
    flight = SeriesOfFrames(sweep, folder, Watched(pilatus), pilatus.new_acquisition())
    monkeypatch.setattr(pilatus.cam.acquire, "put", Silent().get)

    in_background(pilatus, pilatus._watch, flight)

    with pytest.raises(DeviceError, match=r"frames cannot be followed: .*nowhere"):
        flight.status.wait(5)
