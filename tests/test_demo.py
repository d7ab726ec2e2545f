"""What the README promises: one command, and what it says it made is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import run_demo, wait_until

from offbragg.audit import verify
from offbragg.files.scan_file import ScanFile

pytestmark = [pytest.mark.ioc, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> dict[str, Any]:
    return run_demo(tmp_path_factory.mktemp("demo") / "out")


def test_every_frame_of_every_sweep_is_stored(demo):
    assert len(demo["runs"]) == 6
    assert demo["frames"] == {"stored": 360, "missing": 0, "rejected": 0}
    assert [run["temperature"] for run in demo["runs"]] == [170, 170, 130, 130, 90, 90]
    for run in demo["runs"]:
        assert run["exit_status"] == "success"
        assert verify(Path(run["scan_file"])).ok


def test_a_reader_over_http_saw_sweeps_grow_while_they_were_measured(demo):
    growing = [history for history in demo["seen"].values() if len(history) > 2]

    assert growing
    for history in growing:
        frames = [n for _, n in history]
        assert frames == sorted(frames)
        assert 0 < frames[0] < 60


def test_runs_are_found_by_sample_and_temperature(demo):
    assert demo["found"] == {"sample perovskite": 6, "up to 90 K": 2}


def test_the_superlattice_is_there_below_the_transition_and_gone_above(demo):
    below, above = demo["superlattice"]["below"], demo["superlattice"]["above"]

    assert below["reflections"] == above["reflections"] >= 3
    assert below["counts"] > 50 * below["sigma"]
    assert abs(above["counts"]) < 5 * above["sigma"]


def test_the_pictures_are_png(demo):
    assert len(demo["pictures"]) == 3
    for path in demo["pictures"]:
        assert Path(path).read_bytes().startswith(b"\x89PNG")


def test_values_that_belong_to_frames_are_there(demo):
    with ScanFile.open(demo["runs"][-1]["scan_file"]) as scan:
        values = scan.frame_values()
    assert np.all(values["monitor"] > 0)
    np.testing.assert_allclose(values["temperature"], 90.0, atol=1.0)
    np.testing.assert_allclose(values["angle"], 30.25 + 0.5 * np.arange(60))
    assert np.all(np.diff(values["time"]) > 0)
    assert np.all(np.isfinite(values["ring"]))


def test_nothing_is_left_running(demo):
    def mine() -> list[str]:
        found = []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if demo["out"] in command and int(directory.name) != os.getpid():
                found.append(command)
        return found

    wait_until(lambda: not mine(), 10, "children ended")


def test_a_demo_that_is_killed_leaves_nothing_running(tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "offbragg", "demo", "--out", str(out), "--json"],
        stdout=subprocess.DEVNULL,
    )
    children = []

    def started() -> bool:
        children[:] = [
            int(d.name)
            for d in Path("/proc").glob("[0-9]*")
            if str(out) in _command(d) and int(d.name) != process.pid
        ]
        return len(children) >= 3

    wait_until(started, 60, "instruments, catalog and stacker started")
    process.kill()
    process.wait()

    wait_until(lambda: not any(str(out) in _command(Path(f"/proc/{pid}")) for pid in children), 30)


def _command(directory: Path) -> str:
    try:
        return (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--detector", "5M"], "5M"),
        (["--replay", "{empty}", "--model", "{model}"], "holds no *.cbf frames"),
        (["--replay", "{broken}", "--model", "{model}"], "x_00001.cbf"),
        (["--replay", "{broken}"], "--model"),
        (["--out", "{broken}"], "is not empty"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_starts(tmp_path, options, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x_00001.cbf").write_bytes(b"###CBF: VERSION 1.5\r\nbroken")
    (tmp_path / "model.json").write_text("{}")
    names = {name: tmp_path / name for name in ("empty", "broken")}
    arguments = [option.format(**names, model=tmp_path / "model.json") for option in options]
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "out")]

    done = subprocess.run(
        [sys.executable, "-m", "offbragg", "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode not in (0, 1)
    assert said in done.stderr
    assert "starting" not in done.stderr
    assert "Traceback" not in done.stderr
