"""The angles in the scan file against where the axis truly was: the simulator knows.

The motors' IOC has a clock of its own, the read-backs come at 10 Hz, and detector, shutter and
driver are as slow as somebody likes.
"""

from __future__ import annotations

import random

import epics
import numpy as np
import pytest

from offbragg.errors import DeviceError
from offbragg.files.journal_file import read_journal
from offbragg.files.scan_file import ScanFile
from offbragg.followers.stacker import Stacker
from offbragg.plans import rotation_scan
from offbragg.recovery.verify import verify
from offbragg.sweep import Sweep

pytestmark = pytest.mark.ioc

DELAYS = ("arming_seconds", "prepare_seconds", "shutter_seconds", "jitter")


def sweep(speed, *, hz=20, n=10, start=0.0):
    return Sweep(
        "phi", start=start, step=speed / hz, n_frames=n, exposure=1 / hz - 0.003, period=1 / hz
    )


def allowed(turn):
    """How far from the truth an angle may be, degree."""
    return 0.01 + 0.005 * turn.speed


@pytest.fixture
def measure(RE, devices, documents, simulator, config, ioc):
    """Do a sweep and stack it; give its run, the scan file's values, and the true angles."""

    def measure(turn, *, encoder=False):
        documents.clear()
        devices["phi"].encoder = encoder
        (uid,) = RE(
            rotation_scan(devices["pilatus"], devices["phi"], turn, shutter=devices["shutter"])
        )[-1:]
        true = epics.caget(
            f"{ioc['prefix']}sim:true_angles", count=turn.n_frames, use_monitor=False
        )
        measure.path, *found = values_of(config, uid)
        return documents.stop(), *found, np.atleast_1d(true)

    measure.verify = lambda: verify(measure.path)
    yield measure
    devices["phi"].encoder = False
    for name in DELAYS:
        simulator(name, 0.0)


def values_of(config, uid):
    read, _ = read_journal(config.paths.journal / f"{uid}.jsonl")
    stacker = Stacker(config.paths.experiment, frames=config.paths.frames).open(read[0][1])
    for name, doc in read:
        stacker(name, doc)
    while not stacker.poll():
        pass
    with ScanFile.open(stacker.path) as scan:
        return stacker.path, scan.frame_values(), scan.summary


@pytest.mark.parametrize(
    ("speed", "encoder"),
    [(0.5, False), (-5.0, True), pytest.param(20.0, False, marks=pytest.mark.slow)],
)
def test_the_angles_are_those_at_which_the_frames_were_exposed(measure, speed, encoder):
    turn = sweep(speed)

    stop, values, summary, true = measure(turn, encoder=encoder)
    verdict = measure.verify()

    assert stop["exit_status"] == "success"
    assert np.abs(values["angle"] - true).max() < allowed(turn)
    assert set(values["angle_source"]) == {"encoder" if encoder else "read-back"}
    assert (values["angle_sigma"] > 0).all()
    assert (values["angle_sigma"] < 2 * allowed(turn)).all()  # of a busy host
    assert verdict.ok
    assert verdict.angles["sources"] == {"encoder" if encoder else "read-back": turn.n_frames}
    assert verdict.angles["sigma"] == pytest.approx(np.median(values["angle_sigma"]))
    assert verdict.notes == []
    assert summary["angles"]["clock_difference"] == pytest.approx(0.7, abs=0.05)


def test_a_slow_shutter_and_a_slow_driver_cost_time_and_no_angle(measure, simulator):
    simulator("shutter_seconds", 1.5)
    simulator("prepare_seconds", 0.2)
    turn = sweep(1.0)

    _, values, _, true = measure(turn)

    assert np.abs(values["angle"] - true).max() < allowed(turn)
    assert np.abs(values["angle"] - turn.midpoints).max() < 0.15


def test_a_detector_that_is_a_little_late_gets_its_true_angles_and_the_run_tells(
    measure, simulator, caplog
):
    simulator("arming_seconds", 0.15)
    turn = sweep(2.0)

    stop, values, _, true = measure(turn)

    assert stop["exit_status"] == "success"
    assert np.abs(values["angle"] - true).max() < allowed(turn)
    assert np.abs(values["angle"] - turn.midpoints).max() > 0.2
    assert "the angles of phi are those that were measured: up to +0." in stop["reason"]
    assert "the angles of phi are those that were measured" in caplog.text


@pytest.mark.parametrize(
    ("seconds", "why"),
    [
        (0.8, r"phi was at .* when pilatus began to expose, not at 0"),
        # more than the driver waits: it is armed without an answer
        (2.5, r"camserver did not answer the exposure command within 2\.\d s"),
    ],
)
def test_a_detector_that_is_late_fails_the_sweep(measure, simulator, documents, seconds, why):
    simulator("arming_seconds", seconds)

    with pytest.raises(DeviceError, match=why):
        measure(sweep(2.0, n=40))

    assert documents.stop()["exit_status"] == "fail"


def test_frames_that_were_exposed_after_the_axis_had_stopped_fail_the_sweep(
    measure, simulator, documents
):
    """A short sweep is over before a late detector begins: no read-back is beside its frames."""
    simulator("arming_seconds", 1.5)

    with pytest.raises(DeviceError, match=r"phi (stood|was) at .* degree when .* expose"):
        measure(sweep(2.0, n=5))

    assert documents.stop()["exit_status"] == "fail"


@pytest.mark.slow  # half an hour
def test_two_hundred_sweeps_have_their_true_angles_or_are_refused(measure, simulator):
    rng = random.Random(14)
    worst, refused, off = 0.0, 0, []
    for i in range(200):
        speed = rng.choice([0.1, 1.0, 3.0, 10.0, 30.0]) * rng.choice([-1, 1])
        hz = rng.choice([10, 20, 50, 100])
        n = 3650 if i % 50 == 49 else rng.choice([1, 5, 40, 100])
        start = -5.0 if n == 3650 else rng.uniform(-5, 5)
        if n == 3650:  # −5 → 365
            speed, hz, n = 10.0, 10, 370
        for name, most in (("arming_seconds", 5.0), ("shutter_seconds", 5.0)):
            simulator(name, rng.choice([0.0, 0.0, 0.01, 0.1, rng.uniform(0.0, most)]))
        simulator("prepare_seconds", rng.choice([0.0, 0.0, 0.05]))
        simulator("jitter", rng.choice([0.0, 0.002]))
        turn = sweep(speed, hz=hz, n=n, start=start)
        try:
            _, values, _, true = measure(turn, encoder=rng.random() < 0.5)
        except DeviceError as error:
            refused += 1
            print(i, turn, "refused:", str(error).partition("\n")[0])
            continue
        error = np.abs(values["angle"] - true)
        worst = max(worst, float(error.max() / allowed(turn)))
        if not error.max() < allowed(turn):
            off.append((i, turn, float(error.max()), allowed(turn)))
        print(i, turn, f"{error.max():.4f} of {allowed(turn):.4f}", flush=True)
    print(f"worst {worst:.2f} of what is allowed, {refused} refused, {len(off)} off")
    assert not off
