"""What a scientist types: the beamline's defaults, what overrides them, and who gives pulses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from simulated import Documents

from offbragg.errors import ConfigError, SweepError
from offbragg.plans import (
    align,
    dark,
    expose,
    orient_scan,
    rotation_scan,
    temperature_series,
)
from offbragg.plans.defaults import Defaults, bind, name_of
from offbragg.sweep import Sweep

ioc_test = pytest.mark.ioc
SWEEP = Sweep("phi", start=0.0, stop=1.0, step=0.2, exposure=0.09, period=0.1)
EXTERNAL, INTERNAL = 2, 0  # in TriggerMode


@pytest.fixture
def prompt(RE_with_defaults):
    """Run a plan as at the prompt; gives the documents."""

    def run(plan):
        documents = Documents()
        token = RE_with_defaults.subscribe(lambda name, doc: documents(name, doc))
        try:
            RE_with_defaults(plan)
        finally:
            RE_with_defaults.unsubscribe(token)
        return documents

    return run


@pytest.fixture
def pulsed(devices):
    """A detector that waits for a pulse at the start, as that of the demo."""
    devices["pilatus"].trigger_mode = "ext_trigger"
    yield devices["pilatus"]
    devices["pilatus"].trigger_mode = "internal"


def flown(documents):
    return {doc["name"] for doc in documents.of("descriptor")} & {"monitor", "compare", "permit"}


@ioc_test
def test_a_sweep_is_enough(prompt, devices):
    documents = prompt(rotation_scan(SWEEP))

    start = documents.start()
    assert documents.stop()["exit_status"] == "success"
    assert (start["detectors"], start["motors"]) == (["pilatus"], ["phi"])
    assert {"monitor", "weight", "angle"} <= start["per_frame"].keys()
    assert flown(documents) == {"monitor", "permit"}  # no pulses are needed
    assert devices["shutter"].state.get(use_monitor=False) == 0
    assert min(documents.rows("monitor_counts")) > 0  # the shutter was open


@ioc_test
def test_what_is_given_overrides_and_nothing_is_nothing(prompt):
    documents = prompt(rotation_scan(SWEEP, flyers=[], shutter=None, permit=None))

    assert flown(documents) == set()
    assert documents.stop()["exit_status"] == "success"


@ioc_test
def test_a_detector_that_waits_for_pulses_gets_them_by_default(prompt, pulsed, devices):
    documents = prompt(rotation_scan(SWEEP))
    in_full = prompt(rotation_scan(pulsed, devices["phi"], SWEEP, shutter=devices["shutter"]))

    for each in (documents, in_full):
        assert flown(each) == {"monitor", "compare", "permit"}
        assert each.stop()["exit_status"] == "success"
        assert each.rows("compare_angle") == pytest.approx(SWEEP.midpoints, abs=0.003)


@ioc_test
@pytest.mark.parametrize(
    "plan",
    [
        lambda with_: rotation_scan(SWEEP, **with_),
        lambda with_: temperature_series([250.0], SWEEP, **with_),
        lambda with_: orient_scan(SWEEP, transmission=0.01, **with_),
    ],
)
@pytest.mark.parametrize("mode", ["ext_trigger", "mult_trigger"])
def test_a_sweep_that_nothing_would_trigger_is_refused_before_anything_moves(
    prompt, pulsed, devices, plan, mode, RE_with_defaults
):
    pulsed.trigger_mode = mode
    started = []
    RE_with_defaults.subscribe(lambda name, doc: started.append(doc), "start")
    where = (devices["phi"].position, devices["attenuator"].position)
    target = devices["cryostream"].target.get(use_monitor=False)

    with pytest.raises(
        SweepError, match=rf"pilatus waits for pulses \(trigger '{mode}'\) .* monitor flies along"
    ):
        prompt(plan({"flyers": [devices["monitor"]]}))

    assert not started
    assert (devices["phi"].position, devices["attenuator"].position) == where
    assert devices["cryostream"].target.get(use_monitor=False) == target


@ioc_test
@pytest.mark.parametrize("plan", [expose, dark])
def test_stills_take_the_internal_trigger_and_put_the_mode_back(prompt, pulsed, plan):
    pulsed.cam.trigger_mode.set(EXTERNAL).wait(10)

    documents = prompt(plan(2, 0.05))

    assert documents.stop()["exit_status"] == "success"
    assert documents.start()["detector"]["trigger"] == "internal"
    assert documents.stop()["num_events"]["primary"] == 2
    assert pulsed.trigger_mode == "ext_trigger"
    assert pulsed.cam.trigger_mode.get(use_monitor=False) == EXTERNAL


@ioc_test
def test_so_does_what_takes_single_frames(pulsed):
    pulsed.cam.trigger_mode.set(EXTERNAL).wait(10)

    pulsed.prime(0.05).wait(30)
    assert pulsed.cam.trigger_mode.get(use_monitor=False) == EXTERNAL
    step = pulsed.step
    step.exposure.put(0.05)
    step.stage().wait(30)
    assert pulsed.cam.trigger_mode.get(use_monitor=False) == INTERNAL
    step.trigger().wait(30)
    step.unstage().wait(30)

    assert pulsed.cam.trigger_mode.get(use_monitor=False) == EXTERNAL


@ioc_test
def test_a_sweep_that_something_unknown_triggers_can_be_measured(pulsed, devices, RE, monkeypatch):
    monkeypatch.setattr(pulsed, "pulsed_elsewhere", True)
    compare = devices["compare"]  # armed by somebody else
    devices["phi"].set(5.0).wait(30)  # on its way to the start it passes the first position
    for signal, value in ((compare.axis, "phi"), (compare.step, 0.2), (compare.first, 0.0)):
        signal.set(value).wait(10)
    try:
        RE(rotation_scan(pulsed, devices["phi"], SWEEP, flyers=[]))
    finally:
        compare.first.set(1e6).wait(10)


# -- without a beamline ------------------------------------------------------------------------


def device(name, **more):
    return SimpleNamespace(name=name, **more)


PILATUS, PHI, CRYO = device("pilatus"), device("phi"), device("cryostream")


@pytest.mark.parametrize(
    ("plan", "args", "kwargs", "given"),
    [
        (rotation_scan, (SWEEP,), {}, {"sweep": SWEEP}),
        (rotation_scan, (PILATUS, SWEEP), {}, {"detector": PILATUS, "sweep": SWEEP}),
        (rotation_scan, (SWEEP,), {"axis": PHI}, {"sweep": SWEEP, "axis": PHI}),
        (rotation_scan, (), {"sweep": SWEEP}, {"sweep": SWEEP}),
        (
            rotation_scan, (PILATUS, PHI, SWEEP), {"shutter": None},
            {"detector": PILATUS, "axis": PHI, "sweep": SWEEP, "shutter": None},
        ),
        (temperature_series, ([300], SWEEP), {}, {"temperatures": [300], "sweeps": SWEEP}),
        (
            temperature_series, (PILATUS, PHI, CRYO, [300], [SWEEP]), {},
            {"detector": PILATUS, "axis": PHI, "cryostream": CRYO, "temperatures": [300],
             "sweeps": [SWEEP]},
        ),
        (temperature_series, (), {"resume": "3f2b"}, {"resume": "3f2b"}),
        (expose, (4, 0.1), {}, {"n_frames": 4, "exposure": 0.1}),
        (expose, (PILATUS, 4), {}, {"detector": PILATUS, "n_frames": 4}),
        (align, (), {}, {}),
    ],
)  # fmt: skip
def test_devices_that_come_first_may_be_left_out(plan, args, kwargs, given):
    assert bind(plan, args, kwargs) == given


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (
            (SWEEP,),
            {"flyer": []},
            r"no parameter 'flyer' \(did you mean 'flyers'\?\): it has detector, axis, sweep, md",
        ),
        (
            (SWEEP, SWEEP),
            {},
            r"2 things in a row\nIt is called as rotation_scan\(sweep\) or rotation_scan",
        ),
        ((PILATUS, PHI, SWEEP), {"axis": PHI}, "'axis' twice"),
        ((), {}, r"was given no sweep, and there is no default"),
    ],
)
def test_what_a_plan_cannot_take_is_refused_by_name(args, kwargs, message):
    plan = rotation_scan(*args, **kwargs)
    if not args:
        plan = rotation_scan(PILATUS, axis=PHI)

    with pytest.raises(SweepError, match=message):
        list(plan)


def test_without_a_default_it_is_said_what_is_missing_and_where():
    with pytest.raises(SweepError, match=r"no detector.*\nGive .* or set \[defaults\] detector in"):
        list(rotation_scan(SWEEP))
    with pytest.raises(SweepError, match=r"no cryostream.*\n.*\[defaults\] temperature in"):
        list(temperature_series(PILATUS, PHI, temperatures=[300], sweeps=SWEEP))


def test_flyers_belong_to_the_detector_that_they_count_for():
    monitor, compare = device("monitor"), device("compare", per_frame={"angle": {}})
    known = Defaults(
        {"phi": PHI, "chi": device("chi")}, detector=PILATUS, axis=PHI, flyers=(monitor, compare)
    )
    names = ("detector", "axis", "sweep", "flyers")

    assert known.fill(names, {"sweep": SWEEP})["flyers"] == [monitor]
    assert "flyers" not in known.fill(names, {"detector": device("camera"), "sweep": SWEEP})
    assert known.fill(names, {"sweep": {"axis": "chi"}})["axis"].name == "chi"
    PILATUS.trigger_mode = "mult_trigger"
    try:
        assert known.fill(names, {"sweep": SWEEP})["flyers"] == [monitor, compare]
        assert known.fill(names, {}, still=True)["flyers"] == [monitor]
    finally:
        del PILATUS.trigger_mode


def test_a_device_is_found_again_by_its_name_and_one_that_is_gone_is_named():
    current = device("ring_current", root=device("ring"), dotted_name="current")
    known = Defaults({"ring": device("ring", current=current)})

    assert known.find(name_of(current)) is current
    assert name_of(PHI) == "phi"
    assert name_of(object()) == "object"  # not None: that would be given as nothing
    with pytest.raises(ConfigError, match=r"compare is not a device or signal .* there are ring"):
        known.find("compare")


def test_a_name_in_defaults_that_is_no_device_is_refused(tmp_path):
    from offbragg.beamline import config as beamline
    from offbragg.beamline.run_engine import plan_defaults

    text = (beamline.profile_directory() / "beamline.toml").read_text()
    (tmp_path / "beamline.toml").write_text(text.replace('axis = "phi" #', 'axis = "fi" #'))
    config = beamline.load(tmp_path / "beamline.toml")

    with pytest.raises(ConfigError, match=r"defaults\.axis is 'fi' in .*: it must be one of"):
        plan_defaults(config, dict.fromkeys(config.devices))
