"""What is wrong with a device is named when it is built: device, protocol, nearest right name."""

from __future__ import annotations

import logging
import runpy
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from offbragg.beamline import config as beamline
from offbragg.beamline.agreements import agreements_of, check_device
from offbragg.beamline.build import build_devices, destroy_devices
from offbragg.errors import DeviceError
from offbragg.protocols import (
    Attenuator,
    Axis,
    Detector,
    Flyer,
    HasGeometry,
    NamesFrames,
    Permit,
    SampleEnvironment,
    Shutter,
    Sweep,
    meets,
)

ROOT = Path(__file__).parents[1]
PROFILE = ROOT / "profiles" / "profile_offbragg" / "beamline.toml"


def run(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "snippets" / f"{name}.py"))


class Good:
    """Meets Detector, with much of what a detector may have."""

    name = "camera"
    geometry = None
    clock = exposure_started = None
    start_sigma, began_at = 0.01, 0.0

    def stage(self): ...
    def unstage(self): ...
    def prepare(self, sweep: Sweep): ...
    def kickoff(self): ...
    def complete(self): ...
    def describe_collect(self): ...
    def get_index(self): ...
    def collect_asset_docs(self, index=None): ...
    def check(self, sweep): ...
    def measure_clock(self): ...
    def hardware(self): ...


def but(**changes: Any) -> Any:
    """Make a detector that differs: old="new" renames a member, old=None drops it, or replaces."""
    members = {name: value for name, value in vars(Good).items() if name[:2] != "__"}
    for name, change in changes.items():
        if isinstance(change, str):
            members[change] = members.pop(name)
        elif change is None:
            del members[name]
        else:
            members[name] = change
    return type("Camera", (), members)()


def test_a_detector_that_meets_the_agreement_is_taken():
    found = check_device(Good(), {"[defaults] detector": Detector})

    assert found.problems == found.doubts == ()
    assert found.roles["Detector"] == (
        "ChecksSweep", "DescribesHardware", "HasGeometry", "MeasuresStart",
    )  # fmt: skip
    assert str(found) == "a Detector"


class Async(Good):
    async def check(self, sweep): ...


class OfOphydAsync(Good):
    def prepare(self, value: Path): ...  # as a TriggerInfo


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (but(check="chekc"), "camera has 'chekc', which no plan asks for: is 'check' meant (Check"),
        (but(check="checks"), "camera has 'checks', which no plan asks for: is 'check' meant"),
        (but(check="Check"), "camera has 'Check', which no plan asks for: is 'check' meant"),
        (but(hardware="hardwre"), "camera has 'hardwre', which no plan asks for: is 'hardware'"),
        (but(geometry="geometri"), "has 'geometri', which no plan asks for: is 'geometry' meant"),
        (but(stage=None), "camera is not a Detector: it has no 'stage'"),
        (but(unstage="unstagee"), "it has no 'unstage'; it has 'unstagee': rename it to 'unstage'"),
        (but(kickoff="kick_off"), "it has no 'kickoff'; it has 'kick_off': rename it"),
        (but(prepare="prepair"), "it has no 'prepare'; it has 'prepair': rename it"),
        (but(complete=None), "camera is not a Detector: it has no 'complete'"),
        (but(get_index="getindex"), "it has no 'get_index'; it has 'getindex'"),
        (but(collect_asset_docs="collect_assets_docs"), "it has no 'collect_asset_docs'; it has"),
        (but(prepare=lambda self: None), "it has prepare(), and plans call prepare(sweep)"),
        (
            but(check=lambda self, sweep, axis: None),
            "camera does not meet ChecksSweep: it has check(sweep, axis), and plans call check(s",
        ),
        (
            but(collect_asset_docs=lambda self: None),
            "it has collect_asset_docs(), and plans call collect_asset_docs(index)",
        ),
        (but(check=3.0), "'check' is a float, and plans call it as check(sweep)"),
        (but(name=lambda self: "c"), "'name' is a method, and plans read it as an attribute"),
        (Async(), "'check' is a coroutine, which no one awaits"),
        (
            but(start_sigma=None),
            "has 'exposure_started', 'began_at' of MeasuresStart but no 'start_sigma'",
        ),
        (but(start_sigma="start_sigm"), "it has 'start_sigm': rename it to 'start_sigma'"),
    ],
)
def test_a_broken_detector_is_named_with_what_is_wrong(device, message):
    with pytest.raises(DeviceError) as error:
        check_device(device)

    first, *_, advice = str(error.value).splitlines()
    assert message in first
    assert first.isprintable()
    assert "explanations/plug-points" in advice


def test_what_prepares_for_something_else_is_only_refused_where_it_is_to_be_flown():
    check_device(OfOphydAsync())

    with pytest.raises(DeviceError, match="'prepare' takes a Path, and plans give it a Sweep"):
        check_device(OfOphydAsync(), {"[defaults] detector": Detector})


class Stage:
    name = "phi"
    position = 0.0

    def set(self, value): ...


@pytest.mark.parametrize(
    ("device", "role", "message"),
    [
        (Stage(), Axis, "phi is not an Axis (here): it has no 'stage'"),
        (Stage(), Flyer, "phi is not a Flyer (here): it has no"),
        (Stage(), Permit, "phi is not a Permit (here): it has no 'beam'"),
        (Good(), SampleEnvironment, "camera is not a SampleEnvironment (here): it has no 'set'"),
        (Good(), Shutter, "camera is not a Shutter (here): it has no 'set'"),
        (Good(), Attenuator, "camera is not an Attenuator (here): it has no 'set'"),
    ],
)
def test_a_device_in_a_role_that_is_not_its_own_is_refused(device, role, message):
    assert agreements_of(device, {"here": role}).problems[0].startswith(message)


def test_a_sample_environment_that_cannot_be_set_as_plans_do_is_refused():
    class Magnet:
        name = "magnet"

        def set(self, tesla, *, rate): ...

    assert agreements_of(Magnet()).problems == (
        "magnet is not a SampleEnvironment: it has set(tesla, *, rate), and plans call set(value)",
    )


def test_a_permit_whose_answer_is_a_property_is_refused():
    class Beam:
        name, beam = "permit", None
        ok = property(lambda self: True)

    (problem,) = agreements_of(Beam(), {"[defaults] permit": Permit}).problems
    assert problem == (
        "permit is not a Permit ([defaults] permit): 'ok' is a property, and plans call it as ok()"
    )


def test_a_word_that_may_be_meant_is_only_a_doubt():
    class Magnet:
        name, settle = "magnet", 3.0

        def set(self, tesla): ...

    found = agreements_of(Magnet())

    assert found.problems == ()
    assert found.doubts == (
        "magnet has 'settle', which no plan asks for: is 'settled' meant (Settles)?",
    )


def test_a_property_is_not_read():
    class Camera(Good):
        @property
        def geometry(self):
            raise RuntimeError("not connected")

    assert meets(Camera(), HasGeometry)
    assert agreements_of(Camera()).problems == ()


def test_a_signal_that_a_beamline_leaves_out_is_absent():
    class Bare(Good):
        file_stem: Any = object()

    class Without(Bare):
        file_stem = None

    assert meets(Bare(), NamesFrames)
    assert not meets(Without(), NamesFrames)


@pytest.fixture
def module(monkeypatch):
    made = types.ModuleType("my_camera")
    monkeypatch.setitem(sys.modules, "my_camera", made)
    return made


def with_camera(tmp_path: Path, text: str = "") -> beamline.Beamline:
    head = PROFILE.read_text()
    head = head[: head.index("[devices.pilatus]")]
    file = tmp_path / "beamline.toml"
    file.write_text(f'{head}[devices.camera]\nclass = "my_camera:Camera"\n{text}')
    return beamline.load(file)


def test_it_is_checked_when_devices_are_built(module, tmp_path):
    class Camera(Good):
        def __init__(self, prefix="", *, name): ...

        check = None
        chekc = Good.check

    module.Camera = Camera
    with pytest.raises(DeviceError, match=r"camera has 'chekc'.*is 'check' meant"):
        build_devices(with_camera(tmp_path))


def test_a_device_of_no_library_is_built_and_a_doubt_is_logged(module, tmp_path, caplog):
    class Camera(Good):
        def __init__(self, prefix="", *, name): ...

        comments = "about it"

    module.Camera = Camera
    config = with_camera(tmp_path, '[defaults]\ndetector = "camera"\n')
    with caplog.at_level(logging.WARNING):
        devices = build_devices(config)
    destroy_devices(devices)

    assert meets(devices["camera"], Detector)
    assert "camera has 'comments'" in caplog.text


def test_a_device_of_the_wrong_kind_in_the_defaults_is_named_with_its_place(module, tmp_path):
    class Camera(Stage):
        def __init__(self, prefix="", *, name): ...

    module.Camera = Camera
    config = with_camera(tmp_path, '[defaults]\npermit = "camera"\n')
    with pytest.raises(DeviceError, match=r"phi is not a Permit \(\[defaults\] permit\)"):
        build_devices(config)


def test_the_devices_of_the_guides_meet_the_agreements(tmp_path):
    config = beamline.load(PROFILE)
    camera = run("my_detector")["Camera"](
        name="camera", frames=str(tmp_path), geometry=config.make_geometry()
    )
    magnet = run("my_magnet")["Magnet"]("", name="magnet")

    assert str(check_device(camera, {"a": Detector})) == "a Detector"
    assert str(check_device(magnet, {"a": SampleEnvironment})) == "a SampleEnvironment"


def test_the_page_of_the_plug_points_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    import plug_points

    assert plug_points.PAGE.read_text() == plug_points.page(), "run: poe plug-points"
