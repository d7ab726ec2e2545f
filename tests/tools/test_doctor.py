"""What doctor and status find, on a beamline that is right and on ones that are not."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runs import MeasuredRun
from simulated import TOML

from offbragg import kernels
from offbragg.beamline import config as beamline
from offbragg.beamline.config import Beamline, load
from offbragg.beamline.limits import make_paths
from offbragg.doctor.devices import _ownership, _ready_to_move, _records
from offbragg.doctor.examine import _pace, examine
from offbragg.doctor.findings import Finding, judge_clock
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from offbragg.status import _alarms_of, describe, status

LABEL = '[devices.label]\nclass = "tools.labelled:Label"\nprefix = "SIM:ring:"\n\n[devices.ring]'


def by_check(config: Beamline, **options: Any) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(config, timeout=1.0, **options)}


def variant(config: Beamline, folder: Path, *changes: tuple[str, str]) -> Beamline:
    text = config.file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "beamline.toml").write_text(text)
    other = load(folder / "beamline.toml")
    make_paths(other)
    return other


@pytest.fixture
def here(tmp_path) -> Beamline:
    """The simulated beamline's file, without its instruments."""
    (tmp_path / "beamline.toml").write_text(TOML.read_text())
    config = load(tmp_path / "beamline.toml")
    make_paths(config)
    return config


def test_kernels_that_were_not_compiled_are_reported_with_what_to_do(here, monkeypatch):
    assert by_check(here, devices=False)["kernels"].level == (
        "ok" if kernels.compiled else "warning"
    )
    monkeypatch.setattr(kernels, "compiled", False)

    found = by_check(here, devices=False)["kernels"]

    assert found.level == "warning"
    assert "C compiler" in found.advice


@pytest.mark.ioc
def test_a_beamline_that_is_right_is_ready_and_left_as_it_was(config):
    before = {path for path in config.paths.frames.rglob("*") if path.suffix != ".claim"}

    findings = by_check(config)

    assert [f for f in findings.values() if f.level == "failure"] == []
    assert "its MD5 is right" in findings["frame of pilatus"].what
    assert findings["clock of pilatus"].level == "ok"
    assert findings["per_frame.temperature"].what.endswith(" K")
    assert findings["devices.pilatus"].facts["records"]["SIM:cam1:FilePath"] == "char"
    assert findings["devices.pilatus"].what.startswith("a Detector; ")
    assert "MeasuresStart" in findings["devices.pilatus"].facts["agreements"]["Detector"]
    assert findings["devices.cryostream"].what.startswith("a SampleEnvironment; ")
    assert "lasts" in findings["disk of experiment, frames, journal, catalog, log"].what or (
        "room for" in findings["disk of experiment, frames, journal, catalog, log"].what
    )
    after = {path for path in config.paths.frames.rglob("*") if path.suffix != ".claim"}
    assert after == before


@pytest.mark.ioc
def test_records_that_do_not_answer_are_named_and_the_others_looked_at(config, tmp_path):
    other = variant(config, tmp_path, ('"SIM:shutter:"', '"SIM:nowhere:"'))

    findings = by_check(other, expose=False)

    assert findings["devices.shutter"].level == "failure"
    assert "SIM:nowhere:open" in findings["devices.shutter"].what
    assert "prefix" in findings["devices.shutter"].advice
    assert findings["devices.monitor"].level == "ok"


@pytest.mark.ioc
def test_a_record_of_another_type_is_named(config, tmp_path):
    other = variant(config, tmp_path, ("[devices.ring]", LABEL))

    found = by_check(other, expose=False)["devices.label"]

    assert found.level == "failure"
    assert "SIM:ring:current is double, not text" in found.what


@pytest.mark.ioc
def test_a_panel_of_another_size_than_the_frames_is_found(config, tmp_path):
    other = variant(config, tmp_path, ("shape = [195, 487]", "shape = [195, 486]"))

    findings = by_check(other)

    assert findings["geometry"].level == "failure"
    assert "486 × 195" in findings["geometry"].what
    assert "487 × 195" in findings["geometry"].what


@pytest.mark.ioc
def test_a_detector_that_writes_elsewhere_is_found(config, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = variant(
        config,
        tmp_path,
        ('format = "cbf"', f'format = "cbf"\nwrite_path = "{elsewhere}"\npatience = 1.0'),
    )

    found = by_check(other)["frame of pilatus"]

    assert found.level == "failure"
    assert "write_path of [devices.pilatus]" in found.advice


@pytest.mark.ioc
def test_only_records_that_are_written_have_to_be_writable(devices, config, monkeypatch):
    def refuse(signal: Any) -> None:
        monkeypatch.setitem(signal._write_pv._args, "write_access", False)

    phi, pilatus = devices["phi"], devices["pilatus"]
    for name in ("user_offset", "home_forward", "motor_egu"):  # as a motor record may
        refuse(getattr(phi, name))

    assert _records(config, "phi", phi).level == "ok"
    refuse(phi.velocity)
    refuse(pilatus.cam.exposure)
    for name, pv in (("phi", "SIM:phi.VELO"), ("pilatus", "SIM:cam1:AcquireTime")):
        found = _records(config, name, devices[name])
        assert found.level == "failure"
        assert f"{pv} may not be written" in found.what


@pytest.mark.ioc
def test_an_axis_that_somebody_stopped_by_hand_is_named_with_where_it_would_go(devices):
    from epics import caput

    chi = devices["chi"]
    assert list(_ready_to_move("chi", chi)) == []
    there = chi.position
    try:
        caput("SIM:chi.SPMG", "Pause", wait=True)
        caput("SIM:chi.VAL", there + 5.0)

        (found,) = _ready_to_move("chi", chi)

        assert found.level == "failure"
        assert "SIM:chi.SPMG is Pause, not Go" in found.what
        assert f"It then moves to {there + 5.0:g}" in found.advice
    finally:
        caput("SIM:chi.VAL", there)
        caput("SIM:chi.SPMG", "Go", wait=True)
        chi.set(there).wait(30)


@pytest.mark.ioc
def test_servers_and_owners_are_named(config):
    findings = by_check(config)

    servers = findings["channel access"]
    assert servers.level == "ok"
    assert servers.what.startswith("2 servers: 127.0.0.1:")
    assert "records answer, from " in findings["devices.phi"].what
    assert "camserver writes as the same user" in findings["folders of pilatus"].what


def test_an_owner_of_another_name_is_reported_with_its_umask(tmp_path):
    def made(uid: int, mode: int) -> os.stat_result:
        fields = list(tmp_path.stat())
        fields[0], fields[4] = mode, uid
        return os.stat_result(fields)

    detector = SimpleNamespace(directory_mode="2775")
    folder, frame = made(os.getuid(), 0o042775), made(54321, 0o100644)

    found = _ownership("pilatus", detector, tmp_path, folder, frame)

    assert found.level == "ok"
    assert "camserver writes as 54321:" in found.what
    assert "(umask 022)" in found.what
    kept = _ownership("pilatus", detector, tmp_path, made(os.getuid(), 0o040755), frame)
    assert kept.level == "warning"
    assert "mode 755" in kept.what
    assert "directory_mode says 2775" in kept.what


def test_missing_directories_are_made_when_asked_for_those_of_frames_for_the_group(here):
    here.paths.experiment.rmdir()
    here.paths.frames.rmdir()
    assert "--make-directories" in by_check(here, devices=False)["paths.frames"].advice

    findings = by_check(here, devices=False, make_directories=True)

    assert findings["directories"].what.startswith(f"made: {here.paths.experiment}")
    assert findings["paths.frames"].level == "ok"
    assert here.paths.frames.stat().st_mode & 0o7777 == 0o2775
    assert "directories" not in by_check(here, devices=False, make_directories=True)


def test_keys_that_are_still_to_be_filled_in_are_named_with_their_lines(here, tmp_path):
    other = variant(here, tmp_path, ("[limits]", "# TODO wavelength = # Å\n[limits]"))

    found = by_check(other, devices=False)["configuration"]

    assert found.level == "failure"
    assert found.advice.startswith("wavelength (line ")


@pytest.mark.parametrize(
    ("ages", "known"),
    [([60.0], False), ([7200.0], False), ([300.0, 200.0, 100.0], False), ([7200.0, 60, 30], True)],
)
def test_the_pace_of_one_sweep_or_of_minutes_is_no_forecast(here, ages, known):
    for number, age in enumerate(ages):
        start = {"uid": f"u{number}", "time": time.time() - age, "scan_id": 1,
                 "detector": {"shape": [1000, 1000]}, "sweep": {"n_frames": 100}}  # fmt: skip
        (here.paths.journal / f"u{number}.jsonl").write_text(json.dumps(["start", start]) + "\n")

    pace = _pace(here.paths.journal)

    assert pace.sweeps == len(ages)
    assert pace.is_known is known
    (found,) = [f for f in examine(here, devices=False) if f.check.startswith("disk of")]
    assert ("it lasts" in found.what) is known
    if known:
        assert "at the rate of the last 2 h, 3 sweeps it lasts" in found.what


def test_a_path_that_is_not_there_is_named_with_its_key(here):
    here.paths.experiment.rmdir()

    found = by_check(here, devices=False)["paths.experiment"]

    assert found.level == "failure"
    assert str(here.paths.experiment) in found.what
    assert str(here.file) in found.advice


def test_a_path_that_cannot_be_written_is_found(here, tmp_path):
    nowhere = '"/proc/self"'  # not even root makes files there
    other = variant(here, tmp_path, ('"offbragg-data/experiment"', nowhere))

    found = by_check(other, devices=False)["paths.experiment"]

    assert found.level == "failure"
    assert "/proc/self" in found.what


def test_too_little_disk_is_a_failure_with_the_numbers(here):
    wanting = here.model_copy(update={"limits": beamline.Limits(free_disk=1e9)})

    (found,) = [f for f in examine(wanting, devices=False) if f.check.startswith("disk of")]

    assert found.level == "failure"
    assert "less than the limit of 1e+09 GB" in found.what


def test_a_run_that_lost_its_run_engine_is_found(here):
    run = MeasuredRun(here.file.parent / "made")
    run.begin()
    (journal,) = run.journal_directory.glob("*.jsonl")
    copy = here.paths.journal / journal.name
    copy.write_bytes(journal.read_bytes())
    run.journal.close()

    found = by_check(here, devices=False)["journal"]

    assert found.level == "warning"
    assert found.facts["abandoned"] == [run.uid]
    assert "offbragg stack" in found.advice


def test_a_damaged_journal_and_scan_number_are_failures(here):
    (here.paths.journal / "x.jsonl").write_text('["start", {"uid": \n')
    (here.paths.journal / "scan_id").write_text("seven")

    findings = by_check(here, devices=False)

    assert findings["journal"].level == "failure"
    assert "x.jsonl" in findings["journal"].what
    assert "'seven'" in findings["scan number"].what


def test_the_status_names_a_damaged_journal_and_goes_on(here):
    (here.paths.journal / "bad.jsonl").write_text('["start",5]\n')
    (here.paths.journal / "torn.jsonl").write_text(
        '["start",{"uid":"torn","time":1}]\n["event",7]\n'
    )

    found = {alarm["what"]: alarm["reason"] for alarm in status(here, devices=False)["alarms"]}

    assert "its start document is int, not a mapping" in found["journal bad.jsonl"]
    assert "line 2: its event document is int" in found["journal torn.jsonl"]


def test_without_stacker_and_catalog_one_can_measure_with_a_warning(here):
    findings = by_check(here, devices=False)

    assert findings["stacker"].level == "warning"
    assert f"offbragg stack --beamline {here.file}" in findings["stacker"].advice
    assert findings["catalog"].level == "warning"
    assert "offbragg serve" in findings["catalog"].advice


@pytest.mark.parametrize(
    ("skew", "level"), [(0.0, "ok"), (-0.09, "ok"), (0.5, "warning"), (-30.0, "failure")]
)
def test_clocks_that_differ_are_reported_with_the_side(skew, level):
    found = judge_clock("clock", "exposures are stamped by the IOC", skew)

    assert found.level == level
    assert ("behind" in found.what) == (skew < -0.1)


def offbragg(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "offbragg", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_says_it_as_json_with_an_exit_code(here):
    here.paths.experiment.rmdir()

    done = offbragg("doctor", "--no-devices", "--beamline", here.file, "--json")

    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["ok"] is False
    assert [f["check"] for f in document["findings"] if f["level"] == "failure"] == [
        "paths.experiment"
    ]


def test_a_wrong_configuration_is_a_finding_too(here):
    here.file.write_text("beamline_id = 3\n")

    done = offbragg("doctor", "--beamline", here.file, "--json")

    assert done.returncode == 1
    (finding,) = json.loads(done.stdout)["findings"]
    assert "beamline_id is 3" in finding["what"]


@pytest.mark.parametrize(
    ("command", "level"),
    [("/proc/self/status", "warning"), ("/nowhere", "warning"), ("true", "ok")],
)
def test_an_alarm_command_that_cannot_be_run_is_found(here, tmp_path, command, level):
    other = variant(here, tmp_path, ("[limits]", f'[alarms]\ncommand = ["{command}"]\n[limits]'))

    found = by_check(other, devices=False)["alarm command"]

    assert found.level == level
    assert command in found.what


# -- status ------------------------------------------------------------------------------------


def of_run(run: MeasuredRun) -> Beamline:
    (run.root / "beamline.toml").write_text(
        'beamline_id = "test"\n[paths]\n'
        + "".join(f'{n} = "{n}"\n' for n in ("experiment", "frames", "journal", "catalog", "log"))
    )
    config = load(run.root / "beamline.toml")
    make_paths(config)
    return config


def test_a_run_that_goes_on_is_running_and_its_frames_are_the_backlog(run: MeasuredRun):
    run.begin()
    run.announce(4)

    state = status(of_run(run))

    assert state["stacker"] is False
    assert state["running"][0]["uid"] == run.uid
    assert state["backlog"] == {"runs": 0, "frames": 4}
    assert state["last"] is None
    text = describe(state)
    assert "not running; start it: offbragg stack" in text
    assert "backlog   4 frames" in text
    json.dumps(state)


def test_the_last_run_says_what_became_of_its_frames(run: MeasuredRun):
    run.begin()
    run.write(*(n for n in range(run.n_frames) if n != 3))
    run.announce(run.n_frames)
    run.end()
    config = of_run(run)
    assert status(config)["backlog"] == {"runs": 1, "frames": 10}

    follow(run.journal_directory, [Stacker(run.experiment, late=run.late)], once=True)

    state = status(config)
    assert state["backlog"] == {"runs": 0, "frames": 0}
    assert state["running"] == []
    assert "9 stored, 1 missing" in describe(state)


def test_a_disk_that_fills_and_a_path_that_went_are_alarms(run: MeasuredRun):
    config = of_run(run).model_copy(update={"limits": beamline.Limits(free_disk=1e9)})
    config.paths.catalog.rmdir()

    alarms = {alarm["what"]: alarm["reason"] for alarm in status(config)["alarms"]}

    assert "is not there" in alarms["paths.catalog"]
    assert "GB free" in alarms["disk.experiment"]


def test_alarms_that_a_watchdog_raised_are_shown_with_the_time(run: MeasuredRun):
    config = of_run(run)
    since = 1_700_000_000.0
    up = [
        {"what": "stall", "severity": "major", "reason": "no new frame file", "since": since},
        {"what": "catalog", "severity": "minor", "reason": "it is away", "since": since + 5},
    ]
    disk = {"paths": ["experiment", "frames", "journal", "catalog", "log"], "free": 9e12,
            "rate": 1e6, "full": 0.0}  # fmt: skip
    path = config.paths.journal / ".watch.data.json"
    with path.open("w") as board:
        json.dump({"alarms": up, "disks": [disk]}, board)
        board.write("\nrest of a longer line")
        board.flush()
        fcntl.flock(board, fcntl.LOCK_EX)
        state = status(config)
        text = describe(state)

    alarms = {alarm["what"]: alarm["since"] for alarm in state["alarms"]}
    assert alarms["stall"] == since
    assert f"{datetime.fromtimestamp(since):%H:%M:%S})" in text
    assert "9000.00 GB free, 60.0 MB/min written, full in 104 days: experiment" in text
    assert status(config)["alarms"] == []  # whoever wrote it is gone
    json.dumps(state)


def test_a_record_in_alarm_is_shown_with_its_severity():
    signals = {
        "current": SimpleNamespace(get=lambda: 3.0, alarm_severity=2, pvname="S:current"),
        "lifetime": SimpleNamespace(get=lambda: 9.0, alarm_severity=0, pvname="S:lifetime"),
        "name_only": SimpleNamespace(get=lambda: 9.0),
    }
    ring = SimpleNamespace(
        name="ring",
        read_attrs=["current", "lifetime"],
        configuration_attrs=["name_only"],
        **signals,
    )

    assert list(_alarms_of(ring)) == [
        {"what": "ring.current", "severity": "major", "reason": "S:current is 3.0", "since": None}
    ]


@pytest.mark.ioc
def test_a_device_that_is_away_is_an_alarm(config, tmp_path):
    other = variant(config, tmp_path, ('"SIM:shutter:"', '"SIM:nowhere:"'))

    state = status(other, timeout=1.0)

    (alarm,) = [alarm for alarm in state["alarms"] if alarm["what"] == "shutter"]
    assert alarm["severity"] == "invalid"
    assert "is not connected" in alarm["reason"]
    assert [a for a in state["alarms"] if a["what"] in ("permit", "ring", "monitor")] == []


@pytest.mark.ioc
def test_a_device_made_of_others_is_no_alarm(config):
    alarms = status(config, timeout=3.0)["alarms"]

    assert [alarm for alarm in alarms if alarm["what"] == "permit"] == []


def test_the_status_command_prints_json(run: MeasuredRun):
    run.begin()
    config = of_run(run)

    done = offbragg("status", "--beamline", config.file, "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["running"][0]["scan_id"] == 1
