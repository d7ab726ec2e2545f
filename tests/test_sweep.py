from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offbragg.errors import SweepError
from offbragg.sweep import Sweep

GOOD = {"axis": "phi", "start": -10.0, "step": 0.1, "n_frames": 20, "exposure": 0.09, "period": 0.1}


def test_angles_of_a_sweep_by_hand():
    sweep = Sweep("phi", start=10.0, step=-0.5, n_frames=3, exposure=0.2, period=0.25)

    np.testing.assert_allclose(sweep.edges, [10.0, 9.5, 9.0, 8.5])
    np.testing.assert_allclose(sweep.starts, [10.0, 9.5, 9.0])
    np.testing.assert_allclose(sweep.midpoints, [9.75, 9.25, 8.75])
    assert sweep.stop == 8.5
    assert sweep.speed == 2.0
    assert sweep.duration == 0.75


def test_stills_are_a_sweep_that_does_not_turn():
    sweep = Sweep("phi", start=10.0, step=0.0, n_frames=3, exposure=0.2, period=0.25)

    np.testing.assert_allclose(sweep.midpoints, [10.0, 10.0, 10.0])
    assert sweep.speed == 0.0


@given(
    start=st.floats(-720, 720),
    step=st.floats(0.001, 5) | st.floats(-5, -0.001),
    n=st.integers(1, 5000),
)
def test_a_frame_lies_half_a_step_past_its_beginning(start: float, step: float, n: int):
    sweep = Sweep("phi", start=start, step=step, n_frames=n, exposure=0.1, period=0.1)

    assert sweep.edges.shape == (n + 1,)
    assert sweep.midpoints.shape == sweep.starts.shape == (n,)
    np.testing.assert_allclose(sweep.midpoints, sweep.starts + step / 2, atol=1e-9)
    assert math.isclose(sweep.edges[-1], sweep.stop, abs_tol=1e-9)


def test_a_sweep_survives_json():
    sweep = Sweep.from_dict(GOOD)

    assert Sweep.from_dict(json.loads(json.dumps(sweep.to_dict()))) == sweep


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("axis", ""),
        ("axis", 3),
        ("start", math.nan),
        ("start", "0"),
        ("step", math.inf),
        ("n_frames", 0),
        ("n_frames", 2.5),
        ("n_frames", True),
        ("exposure", 0.0),
        ("exposure", None),
        ("period", 0.05),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_by_name(key: str, value: object):
    with pytest.raises(SweepError, match=rf"sweep\.{key}"):
        Sweep.from_dict(GOOD | {key: value})


def test_unknown_and_missing_keys_are_named():
    with pytest.raises(SweepError, match=r"sweep\.speed is unknown"):
        Sweep.from_dict(GOOD | {"speed": 1.0})
    with pytest.raises(SweepError, match=r"sweep\.step is missing"):
        Sweep.from_dict({key: value for key, value in GOOD.items() if key != "step"})


def test_numpy_numbers_are_numbers():
    mapping = GOOD | {"start": np.float32(1.5), "n_frames": np.int64(7)}

    assert Sweep.from_dict(mapping).to_dict()["n_frames"] == 7
    json.dumps(Sweep.from_dict(mapping).to_dict())


@pytest.mark.parametrize("wrong", [{"start": "0"}, {"n_frames": 1.5}, {"period": None}])
def test_what_is_no_number_is_refused_by_name(wrong):
    asked = {"axis": "phi", "start": 0, "step": 0.1, "n_frames": 9, "exposure": 0.09, "period": 0.1}

    with pytest.raises(SweepError, match=f"sweep.{next(iter(wrong))} is"):
        Sweep(**{**asked, **wrong})


def test_a_sweep_longer_than_a_life_is_refused():
    with pytest.raises(SweepError, match=r"3 frames every 1e\+300 s lasts 3e\+300 s"):
        Sweep("phi", start=0, step=0.1, n_frames=3, exposure=1e300, period=1e300)


SIX = {"axis": "phi", "start": 0.0, "step": 0.1, "n_frames": 3650, "exposure": 0.09, "period": 0.1}


@pytest.mark.parametrize(
    "asked",
    [
        {"stop": 365.0, "step": 0.1, "period": 0.1},
        {"stop": 365, "n_frames": 3650, "period": 0.1},
        {"step": 0.1, "n_frames": 3650, "speed": 1.0},
        {"stop": 365.0, "step": 0.1, "speed": 1},
        {"stop": 365.0, "step": 0.1, "n_frames": 3650, "speed": 1.0, "period": 0.1},
    ],
)
def test_a_sweep_is_asked_for_by_stop_or_by_speed_or_both(asked):
    asked = {"axis": "phi", "start": 0.0, "exposure": 0.09, **asked}

    for made in (Sweep(**asked), Sweep.of(asked)):
        assert made.to_dict() == pytest.approx(SIX)
        assert made.stop == pytest.approx(365.0)
        assert made.speed == pytest.approx(1.0)
        assert Sweep.from_dict(made.to_dict()) == made
        assert replace(made, start=10.0).n_frames == 3650


def test_a_sweep_by_stop_turns_backwards_too():
    made = Sweep("phi", 10, stop=-10, step=-0.5, exposure=0.1, speed=2.5)

    assert (made.n_frames, made.step, made.period) == (40, -0.5, 0.2)
    assert made.edges[-1] == -10


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"step": 0.4},
            r"stop 15 is 37\.5 steps of 0\.4 degree from 0.*\n.*stop=14\.8 or stop=15\.2",
        ),
        ({"step": -0.5}, r"does not lead from 0 to sweep.stop 15 degree: give step=0\.5"),
        ({"step": 0}, "it never comes to sweep.stop 15"),
        ({"stop": 0.0}, "does not lead from 0 to sweep.stop 0"),
        ({"n_frames": 29}, r"29 in steps of 0\.5 degree end at 14\.5, and sweep.stop is 15"),
        ({"step": None}, "give step or n_frames beside stop"),
        ({"stop": None}, "n_frames is missing: give two of"),
        ({"speed": 0}, "speed is 0 degree/s"),
        ({"speed": -5.0}, "speed is -5 degree/s"),
        ({"speed": math.nan}, "speed is nan: it must be a finite number"),
        ({"stop": "15"}, "stop is '15': it must be a finite number"),
        ({"speed": None}, "period is missing: give period, s, or speed"),
        ({"period": 0.2}, r"are 2\.5 degree/s, and sweep.speed is 5"),
        ({"exposure": None}, "exposure is missing"),
    ],
)
def test_what_contradicts_itself_or_is_too_little_is_refused_with_the_numbers(changed, message):
    asked = {"axis": "phi", "start": 0, "stop": 15, "step": 0.5, "exposure": 0.09, "speed": 5.0}

    with pytest.raises(SweepError, match=message):
        Sweep(**{**asked, **changed})


def test_an_axis_can_be_given_itself():
    phi = SimpleNamespace(name="phi")

    assert Sweep(phi, 0, 0.5, 4, 0.09, 0.1).axis == "phi"
    assert Sweep.of({**SIX, "axis": phi}) == Sweep(**SIX)
    with pytest.raises(SweepError, match=r"sweep.turns is unknown: .* stop, speed"):
        Sweep.of({"axis": "phi", "start": 0, "stop": 5, "turns": 1})
