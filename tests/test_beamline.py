"""The configuration: what it refuses, and what it means."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace
from typing import ClassVar

import pytest
from test_metadata import GOOD

import offbragg
from offbragg.beamline import config as beamline
from offbragg.beamline.build import build_devices
from offbragg.beamline.limits import check_start, make_paths
from offbragg.beamline.run_engine import make_run_engine, sample, scan_ids
from offbragg.errors import ConfigError, MetadataError
from offbragg.plans.preprocessors import captioner

PATHS = """
[paths]
experiment = "experiment"
frames = "frames"
journal = "journal"
catalog = "catalog"
log = "log"
"""
MINIMAL = 'beamline_id = "test"\n' + PATHS


@pytest.fixture
def written(tmp_path):
    def write(text: str = "", base: str = MINIMAL):
        file = tmp_path / "beamline.toml"
        file.write_text(base + textwrap.dedent(text))
        return file

    return write


def test_the_simulated_beamline_comes_along_and_is_valid():
    config = beamline.load(beamline.profile_directory() / "beamline.toml")

    assert config.beamline_id == "simulated"
    assert config.make_geometry().scan_axis == "phi"
    assert config.make_geometry().panel.shape == (195, 487)


def test_paths_are_relative_to_the_file_that_says_so(written, monkeypatch):
    file = written()
    monkeypatch.chdir("/")

    assert beamline.load(file).paths.frames == file.parent / "frames"
    assert beamline.load(file).key_file == file.parent / "catalog" / "key"


def test_the_environment_names_the_file(written, monkeypatch):
    monkeypatch.setenv(beamline.VARIABLE, str(written()))

    assert beamline.load().beamline_id == "test"


def test_without_a_file_the_variable_is_named(monkeypatch):
    monkeypatch.delenv(beamline.VARIABLE, raising=False)

    with pytest.raises(ConfigError, match=beamline.VARIABLE):
        beamline.load()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        beamline.load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[limit]\nfree_disk = 1.0", ["limit is unknown", "beamline_id", "limits"]),
        ("[limits]\nfree_disc = 1.0", ["limits.free_disc is unknown", "free_disk, temperature"]),
        ("[limits]\nfree_disk = 'much'", ["limits.free_disk is 'much'"]),
        ("[limits]\nfree_disk = -1.0", ["limits.free_disk is -1.0"]),
        ("[limits]\ntemperature = [80.0]", ["limits.temperature"]),
        ("[catalog]\nport = '8000'", ["catalog.port is '8000'", "integer"]),
        ("[catalog]\nport = 70000", ["catalog.port is 70000"]),
        ("[catalog]\nhots = 'x'", ["catalog.hots is unknown", "host, port"]),
        ("[catalog]\nallow_origins = ['*']", ["catalog.allow_origins", "is '*'"]),
        ("[catalog]\nallow_origins = ['http://a.b/c']", ["is 'http://a.b/c'"]),
        ("[channel_access]\nserver = 5064", ["channel_access.server is unknown", "server_port"]),
        ("[devices.pilatus]\nprefix = 'X:'", ["devices.pilatus.class is missing"]),
        ("[devices.pilatus]\nclass = 'Pilatus'", ["devices.pilatus.class is 'Pilatus'"]),
        ("[per_frame.ring]\nunits = 'mA'", ["per_frame.ring.signal is missing"]),
        ("[alarms]\ncommand = 'ring'", ["alarms.command is 'ring'"]),
        ("[alarms]\ncommand = ['ring', '']", ["alarms.command.1 is ''"]),
        ("[alarms]\nstall = 0.5", ["alarms.stall is 0.5"]),
        ("[alarms]\nfull = -1.0", ["alarms.full is -1.0"]),
        ("[alarms]\nstal = 5.0", ["alarms.stal is unknown", "command, timeout, stall, full"]),
        ("file = 'x'", ["file"]),
    ],
)
def test_a_wrong_key_is_named_with_the_file_and_what_is_allowed(written, text, named):
    file = written(text)

    with pytest.raises(ConfigError) as caught:
        beamline.load(file)

    for part in [*named, str(file)]:
        assert part in str(caught.value)


def test_alarms_have_defaults_and_the_reserve_of_the_limits(written):
    config = beamline.load(written("[limits]\nfree_disk = 3.0\n[alarms]\nstall = 7"))

    assert config.alarms.command == []
    assert (config.thresholds.reserve, config.thresholds.periods) == (3.0, 7.0)
    assert (config.thresholds.hours, config.thresholds.backlog) == (2.0, 30.0)


def test_a_missing_path_is_named(written):
    with pytest.raises(ConfigError, match=r"paths\.journal is missing in .*beamline\.toml"):
        beamline.load(written(base=MINIMAL.replace('journal = "journal"\n', "")))


def test_broken_toml_says_where(written):
    with pytest.raises(ConfigError, match=r"beamline\.toml is not valid TOML: .*line"):
        beamline.load(written("[catalog\n"))


def test_a_geometry_without_wavelength_is_refused(written):
    with pytest.raises(ConfigError, match=r"geometry\.wavelength is missing"):
        beamline.load(written("[geometry]\naxes = []"))


def test_a_range_of_temperatures_the_wrong_way_round_is_refused(written):
    with pytest.raises(ConfigError, match=r"limits\.temperature is .*lowest and then the highest"):
        beamline.load(written("[limits]\ntemperature = [400.0, 80.0]"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('class = "offbragg.devices.pilatus:Pilatos"', "devices.d.class"),
        ('class = "offbragg.devices.nowhere:Pilatus"', "devices.d.class"),
        ('class = "offbragg.devices.beam:Shutter"\ntimeoot = 3.0', "devices.d.timeoot is unknown"),
        (
            'class = "offbragg.devices.beam:Ring"\nrecords = { currant = "I" }',
            "devices.d.records.currant is unknown",
        ),
        (
            'class = "offbragg.devices.beam:Ring"\nrecords = { current = ["a", "b", "c"] }',
            "devices.d.records.current is ['a', 'b', 'c']",
        ),
        ('class = "offbragg.devices.beam:Shutter"\ntimeout = "3"', "devices.d.timeout is '3'"),
        ('class = "offbragg.devices.pilatus:Pilatus"', "devices.d.model is missing"),
    ],
)
def test_a_device_with_wrong_parameters_is_refused_by_name(written, text, named):
    config = beamline.load(written(f"[devices.d]\n{text}"))

    with pytest.raises(ConfigError) as caught:
        build_devices(config)

    assert named in str(caught.value)
    assert str(config.file) in str(caught.value)


def test_channel_access_settings_are_environment_variables(written):
    config = beamline.load(
        written('[channel_access]\naddress_list = "10.0.0.1"\nauto_address_list = false')
    )

    assert config.channel_access.environment() == {
        "EPICS_CA_ADDR_LIST": "10.0.0.1",
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
    }


def test_reading_a_configuration_starts_no_control_system():
    code = (
        "import sys; from offbragg.beamline import config as beamline; "
        "beamline.load(beamline.profile_directory() / 'beamline.toml'); "
        "print([m for m in ('bluesky', 'ophyd', 'epics') if m in sys.modules])"
    )

    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout

    assert printed.strip() == "[]"


@pytest.fixture
def config(written):
    config = beamline.load(written("[limits]\nfree_disk = 0.001\ntemperature = [80.0, 400.0]"))
    make_paths(config)
    return config


def test_a_good_run_may_open(config):
    check_start(config, GOOD)


def test_a_temperature_out_of_range_is_refused(config):
    doc = {**GOOD, "temperature": {"setpoint": 500.0}}

    with pytest.raises(ConfigError, match=r"temperature\.setpoint 500 K is outside 80 to 400 K"):
        check_start(config, doc)


def test_too_little_disk_is_refused_with_the_numbers(config):
    doc = {**GOOD, "sweep": {**GOOD["sweep"], "n_frames": 9 * 10**8}}

    with pytest.raises(ConfigError, match=r"too little disk.* GB free in .*experiment"):
        check_start(config, doc)


def test_a_path_that_cannot_be_written_is_refused(config):
    config.paths.experiment.rmdir()

    with pytest.raises(ConfigError, match=r"paths\.experiment .* cannot be written"):
        check_start(config, GOOD)


def test_a_path_that_cannot_be_made_is_refused(written):
    config = beamline.load(written())
    config.paths.experiment.write_text("a file")

    with pytest.raises(ConfigError, match=r"paths\.experiment .* cannot be made"):
        make_paths(config)


def test_a_run_says_the_version_that_measured_it(written):
    RE = make_run_engine(beamline.load(written()), {})

    assert RE.md["versions"]["offbragg"] == importlib.metadata.version("offbragg")
    assert offbragg.__version__ == importlib.metadata.version("offbragg")


def test_scan_numbers_go_on_after_a_restart(tmp_path):
    first = scan_ids(tmp_path / "journal")
    assert [first({}), first({})] == [1, 2]

    again = scan_ids(tmp_path / "journal")

    assert again({}) == 3


def test_a_damaged_scan_number_is_not_guessed(tmp_path):
    (tmp_path / "scan_id").write_text("seven")

    with pytest.raises(ConfigError, match="scan_id holds 'seven'"):
        scan_ids(tmp_path)({})


def test_a_sample_is_checked_when_it_is_mounted():
    RE = SimpleNamespace(md={})
    sample(RE, name="LSMO-140", label="crystal1", space_group="P m -3 m")

    with pytest.raises(MetadataError, match=r"sample\.colour"):
        sample(RE, name="LSMO-141", label="crystal1", colour="black")

    assert RE.md["sample"]["name"] == "LSMO-140"


def test_nothing_is_written_to_the_environment_by_reading(written):
    before = dict(os.environ)

    beamline.load(written('[channel_access]\naddress_list = "10.0.0.1"'))

    assert dict(os.environ) == before


class Made:
    """A device without records that looks after another one."""

    def __init__(self, other=None, *, name: str, share: float = 0.5) -> None:
        self.name, self.other, self.share = name, other, share

    def wait_for_connection(self, **_) -> None: ...


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setitem(sys.modules, "made", SimpleNamespace(Made=Made))


def test_a_device_can_be_given_to_another_one(written, made):
    file = written("""
        [devices.first]
        class = "made:Made"

        [devices.second]
        class = "made:Made"
        other = { device = "first" }
        share = 0.25
        """)

    devices = build_devices(beamline.load(file))

    assert devices["second"].other is devices["first"]
    assert devices["second"].share == 0.25


LOW_TO_HIGH = "[limits]\ntemperature = [90.0, 300.0]\n[devices.first]\nclass = 'made:Made'\n"


def test_a_class_says_what_other_tables_fill(written, monkeypatch, caplog):
    class Heated(Made):
        from_beamline: ClassVar = {"share": "limits.temperature", "gone": "geometry"}

    monkeypatch.setitem(sys.modules, "made", SimpleNamespace(Made=Heated))

    devices = build_devices(beamline.load(written(LOW_TO_HIGH)))

    assert devices["first"].share == (90.0, 300.0)
    assert not caplog.records


def test_a_class_that_does_not_say_it_gets_it_by_name_and_a_hint(written, monkeypatch, caplog):
    class Heated(Made):
        def __init__(self, *, name: str, limits: tuple[float, float]) -> None:
            super().__init__(name=name)
            self.limits = limits

    monkeypatch.setitem(sys.modules, "made", SimpleNamespace(Made=Heated))

    devices = build_devices(beamline.load(written(LOW_TO_HIGH)))

    assert devices["first"].limits == (90.0, 300.0)
    assert "from_beamline = {'limits': 'limits.temperature'}" in caplog.text


def test_a_device_that_is_not_there_yet_is_named(written, made):
    file = written("""
        [devices.first]
        class = "made:Made"
        other = { device = "second" }
        """)

    with pytest.raises(ConfigError, match=r"devices\.first\.other is the device 'second'"):
        build_devices(beamline.load(file))


@pytest.mark.parametrize(
    ("md", "of_plan", "comment"),
    [
        ({"sample": {"name": "LSMO-140", "label": "c2"}}, {}, "#7 LSMO-140 c2"),
        ({"sample": "a text"}, {}, "#7 a text"),
        ({"sample": "a text"}, {"sample": {"name": "CeO2", "label": ""}}, "#7 CeO2"),
        ({}, {}, "#7"),
    ],
)
def test_a_detector_knows_whose_frames_it_takes(md, of_plan, comment):
    from bluesky import RunEngine
    from bluesky import plan_stubs as bps
    from ophyd import Component, Device, Signal

    class Detector(Device):
        comment = Component(Signal, value="")

    def plan():
        yield from bps.stage(detector, wait=True)
        words.append(detector.comment.get())
        yield from bps.unstage(detector, wait=True)
        yield from bps.open_run(of_plan)
        yield from bps.stage(detector, wait=True)
        words.append(detector.comment.get())
        yield from bps.unstage(detector, wait=True)
        yield from bps.close_run()

    words = []
    detector = Detector(name="detector")
    RE = RunEngine({**md, "scan_id": 6}, context_managers=[])
    RE.preprocessors.append(captioner(RE))

    RE(plan())

    before = RE.md.get("sample", "")
    assert words == [before if isinstance(before, str) else "LSMO-140 c2", comment]
