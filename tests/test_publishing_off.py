"""What publishes is broken or absent: every frame is stacked all the same, and the log says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from runs import MeasuredRun, wait_until

from offbragg.errors import CatalogError
from offbragg.files import ScanFile, find_scan_file
from offbragg.files.scan_folders import scan_directory
from offbragg.followers import run_writer
from offbragg.followers.backlog import read_backlog
from offbragg.followers.publishing import make_publisher
from offbragg.status import describe

PROFILE = Path(__file__).parents[1] / "profiles" / "profile_offbragg" / "beamline.toml"
N = 4

BROKEN = {"bluesky_tiled_plugins/__init__.py": 'raise ImportError("built for another Tiled")'}
ABSENT = {
    "sitecustomize.py": """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tiled":
            raise ModuleNotFoundError("No module named 'tiled'", name=name)

sys.meta_path.insert(0, Absent())
"""
}


@pytest.fixture
def measured(tmp_path):
    run = MeasuredRun(tmp_path, n_frames=N).begin()
    run.write(0, 1, 3)
    run.monitor_counted(list(range(N)))
    run.announce(N)
    run.end()
    run.journal.close()
    return run


def start(run: MeasuredRun, packages: dict[str, str], *options: str) -> subprocess.Popen[str]:
    for name, text in packages.items():
        path = run.root / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    beamline = run.root / "beamline.toml"
    beamline.write_text(PROFILE.read_text().replace("offbragg-data/", ""))
    return subprocess.Popen(
        [sys.executable, "-m", "offbragg", "stack", "--late", "0", "--beamline", beamline,
         *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(run.root / "packages")},
    )  # fmt: skip


def ledger(run: MeasuredRun) -> dict[str, int]:
    path = find_scan_file(scan_directory(run.experiment, run.start), run.uid)
    if path is None:
        return {}
    with ScanFile.open(path) as scan:
        return scan.ledger.counts() if scan.complete else {}


def test_broken_plugins_do_not_keep_a_frame_from_being_stacked(measured):
    process = start(measured, BROKEN)
    try:
        wait_until(lambda: process.poll() is not None or ledger(measured), 60.0)
        backlog = wait_until(lambda: read_backlog(measured.journal_directory).get("publish"))
    finally:
        process.send_signal(signal.SIGTERM)
        stderr = process.communicate(timeout=60)[1]

    assert ledger(measured) == {"stored": 3, "missing": 1, "rejected": 0, "pending": 0}
    why = "publishing is off: ImportError: built for another Tiled"
    assert any(why in line for line in stderr.splitlines())  # an alarm may come before
    assert backlog["off"] == why
    assert process.returncode == CatalogError.exit_code
    assert "Traceback" not in stderr


def test_without_tiled_damaged_files_are_rebuilt_and_everything_is_stacked(measured):
    process = start(measured, ABSENT, "--once", "--repair", "--json")
    stdout, stderr = process.communicate(timeout=120)

    assert ledger(measured) == {"stored": 3, "missing": 1, "rejected": 0, "pending": 0}
    assert json.loads(stdout)["failed"] == {"stack": [], "publish": []}
    assert "No module named 'tiled'" in json.loads(stdout)["publishing"]
    assert process.returncode == CatalogError.exit_code, stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize("broken", ["_write_external_data", "_write_internal_data", "descriptor"])
def test_plugins_that_write_otherwise_publish_nothing(monkeypatch, tmp_path, broken):
    monkeypatch.setattr(run_writer.LiveRunWriter.__mro__[1], broken, lambda *_, **__: None)

    publisher, off = make_publisher(lambda: None, tmp_path)

    assert str(off).startswith("publishing is off: bluesky-tiled-plugins ")
    assert publisher.done({"uid": "a"})
    assert publisher.backlog()["runs"] == 1
    with pytest.raises(CatalogError, match="publishing is off"):
        publisher.open({"uid": "a"})


def test_numbers_that_become_others_are_noticed(monkeypatch):
    assert run_writer.self_test().active
    monkeypatch.setattr(run_writer, "storable", lambda value: json.loads(
        json.dumps(value).replace(str(2**60), "9007199254740991")
    ))  # fmt: skip

    part = run_writer.self_test()

    assert not part.active
    assert "start document" in part.why


def test_the_status_says_that_publishing_is_off():
    state = {
        "stacker": True, "catalog": {"up": True, "runs": 1, "reason": "publishing is off: why"},
        "running": [], "last": None, "backlog": {"frames": 0, "runs": 0}, "disks": [],
        "alarms": [],
    }  # fmt: skip

    assert "1 run\n          publishing is off: why" in describe(state)
