"""A detector that fails is stopped, armed and tried; then the missing angles are measured."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from offbragg.callbacks.past_runs import PastRuns
from offbragg.errors import DeviceError
from offbragg.plans import temperature_series
from offbragg.plans.series import PastRun
from offbragg.sweep import Sweep

pytestmark = pytest.mark.ioc

SWEEP = Sweep(axis="phi", start=0.0, step=0.2, n_frames=25, exposure=0.09, period=0.1)


@pytest.fixture
def trouble(devices, simulator, monkeypatch):
    """A detector that is given up soon; the faults are over after the test."""
    monkeypatch.setattr(devices["pilatus"], "max_missing", 0)
    monkeypatch.setattr(devices["pilatus"], "patience", 1.0)
    monkeypatch.setattr(devices["pilatus"], "stall", 1.0)
    yield simulator
    for fault in ("drop", "hang"):
        simulator(fault, -1)


def series(devices, **more):
    return temperature_series(
        devices["pilatus"], devices["phi"], devices["cryostream"], [291.0], [SWEEP],
        flyers=[devices["monitor"]], shutter=devices["shutter"],
        **{"on_detector": "retry", **more},
    )  # fmt: skip


def test_after_five_test_frames_the_missing_angles_are_measured(
    RE, config, devices, documents, trouble
):
    trouble("hang", 12)
    shutter_at_test = []

    def look(name, doc):
        if name == "stop" and documents.start()["purpose"] == "dark":
            shutter_at_test.append(devices["shutter"].state.get())

    RE.subscribe(look)
    RE(series(devices))

    failed, test, again = documents.of("start")
    assert [doc["exit_status"] for doc in documents.of("stop")] == ["fail", "success", "success"]
    assert test["purpose"] == "dark"
    assert test["sweep"] == {
        **SWEEP.to_dict(), "start": test["sweep"]["start"], "step": 0.0, "n_frames": 5,
    }  # fmt: skip
    assert shutter_at_test == [0]
    assert "series" not in test
    assert again["series"]["follows"] == failed["uid"]
    past_runs = PastRuns(config.paths.journal, config.paths.experiment)
    measured = [
        run.sweep.midpoints[run.measured()]
        for run in (PastRun(**past_runs.runs(uid=doc["uid"])[0]) for doc in (failed, again))
    ]
    assert 8 <= measured[0].size <= 12
    np.testing.assert_allclose(np.concatenate(measured), SWEEP.midpoints)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        pytest.param(("hang", 2), "stalled: no file came", marks=pytest.mark.slow),
        (("drop", 1), "took 4 of 5 test frames: 1 did not"),
    ],
)
def test_a_detector_whose_test_frames_are_lost_gets_no_sweep(
    RE, devices, documents, trouble, monkeypatch, fault, message
):
    monkeypatch.setattr(devices["pilatus"], "max_missing", 4)  # good enough for a sweep
    trouble("hang", 3)

    def again(name, doc):
        if doc["purpose"] == "dark":
            thread = threading.Thread(target=trouble, args=fault)
            thread.start()
            thread.join()

    RE.subscribe(again, "start")
    with pytest.raises(DeviceError, match=message):
        RE(series(devices, attempts=2))

    assert [doc["purpose"] for doc in documents.of("start")] == ["data", "dark"]
