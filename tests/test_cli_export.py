"""``offbragg export``: a run's documents in other programs' files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest
from runs import MeasuredRun

from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker

BEAMLINE = """
beamline_id = "test"
[paths]
experiment = "experiment"
frames = "frames"
journal = "journal"
catalog = "catalog"
log = "log"
"""


def offbragg(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "offbragg", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def stacked(run: MeasuredRun) -> MeasuredRun:
    run.begin()
    run.write(*range(run.n_frames))
    run.announce(run.n_frames)
    run.end()
    follow(run.journal_directory, [Stacker(run.experiment, late=run.late)], once=True)
    (run.root / "beamline.toml").write_text(BEAMLINE)
    return run


def test_a_run_is_exported_by_the_begin_of_its_uid(stacked: MeasuredRun):
    file, out = stacked.root / "beamline.toml", stacked.root / "out"

    done = offbragg(
        "export", stacked.uid[:8], "--out", out, "--prefix", "{scan_id}-", "--beamline", file,
        "--json",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    assert document == {"run": stacked.uid, "files": [str(out / "1-.h5")]}
    with h5py.File(out / "1-.h5") as made:
        assert made["bluesky/events/primary/data/pilatus_image"].shape == (10, 195, 487)


def test_tables_are_written_for_the_last_run(stacked: MeasuredRun):
    file, out = stacked.root / "beamline.toml", stacked.root / "out"

    done = offbragg("export", "-1", "--format", "csv", "--out", out, "--beamline", file)

    assert done.returncode == 0, done.stderr
    assert str(out / f"{stacked.uid}-primary.csv") in done.stdout.splitlines()


def test_what_cannot_be_exported_is_one_message(stacked: MeasuredRun):
    file = stacked.root / "beamline.toml"

    refused = offbragg("export", "zzz", "--beamline", file)
    unknown = offbragg("export", "-1", "--format", "xls", "--beamline", file)

    assert refused.returncode == 7
    assert "no run has a uid that begins with 'zzz'" in refused.stderr
    assert unknown.returncode == 2
    assert "Traceback" not in refused.stderr + unknown.stderr


def test_a_run_that_has_not_ended_is_refused(run: MeasuredRun):
    run.begin()
    (run.root / "beamline.toml").write_text(BEAMLINE)

    done = offbragg("export", run.uid, "--beamline", run.root / "beamline.toml")

    assert done.returncode == 7
    assert "has not ended" in done.stderr
