"""The RunEngine is killed, anywhere; the detector goes on, and all that it wrote is stored."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import wait_until

from offbragg.audit import scan_file_of_run, verify
from offbragg.callbacks.stacker import Stacker
from offbragg.devices.acquisition import is_idle
from offbragg.errors import ScanFileError
from offbragg.files import read_frame
from offbragg.files.scan_file import ScanFile
from offbragg.follow import follow

pytestmark = pytest.mark.ioc

SCRIPT = Path(__file__).with_name("measure_killed.py")
TRIGGERS = ("internal", "mult_trigger")
PARTS = 12


def measure(config, trigger: str, *point: str) -> str:
    """Run a sweep in a process that kills itself; give what it printed."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(config.file), trigger, *point],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode in (0, -9), done.stderr[-2000:]
    return done.stdout


def stack(config) -> None:
    stacker = Stacker(config.paths.experiment, late=1.0, frames=config.paths.frames)
    assert follow(config.paths.journal, [stacker], once=True) == {"stack": []}


def assert_all_stored(config, uid: str, where: str) -> int:
    """Compare the scan file of a run with its folder; give how many frames it has."""
    written = sorted(config.paths.frames.glob(f"{uid[:8]}*/*.cbf"))
    path = scan_file_of_run(uid, journal=config.paths.journal, experiment=config.paths.experiment)
    verdict = verify(path, journal=config.paths.journal, frames=config.paths.frames)
    assert verdict.problems == [], where
    with ScanFile.open(path) as scan:
        assert scan.ledger.counts()["stored"] == len(written), where
        for file in written:
            number = int(file.stem.rpartition("_")[2])
            expected = read_frame(file, number=number).counts
            np.testing.assert_array_equal(scan.stack.counts[number], expected, err_msg=where)
    return len(written)


def kill_and_stack(config, devices, trigger: str, point: str) -> int:
    """Kill a sweep at a point, stack what there is, and again when the detector has ended."""
    printed = measure(config, trigger, point)
    stack(config)
    pilatus, phi = devices["pilatus"], devices["phi"]
    if trigger != "internal":  # no pulse comes any more once the axis stands
        wait_until(lambda: not phi.moving, 60, "the axis to stand")
        pilatus.cam.acquire.put(0)
    wait_until(lambda: is_idle(pilatus.cam) and not phi.moving, 60, "the detector to end")
    stack(config)
    uid = re.search(r"^open (\S+)$", printed, re.MULTILINE)
    if uid is None:
        return 0
    try:
        return assert_all_stored(config, uid[1], f"{trigger}, killed at {point}")
    except ScanFileError:
        assert not list(config.paths.frames.glob(f"{uid[1][:8]}*/*.cbf")), point
        return 0


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr("offbragg.follow._LOOK_FOR_ABANDONED", 0.05)


@pytest.mark.parametrize(
    ("trigger", "point"),
    [
        ("internal", "message:create"),
        pytest.param("mult_trigger", "message:kickoff pilatus+0.3", marks=pytest.mark.slow),
    ],
)
def test_what_a_detector_wrote_for_a_run_engine_that_died_is_stored(
    config, devices, trigger, point
):
    """Nothing but the run's folder says where these frames are."""
    assert kill_and_stack(config, devices, trigger, point) >= 5


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_killed_at_every_document_and_message_all_that_exists_is_stored(
    config, devices, trigger, part
):
    undisturbed = measure(config, trigger)
    points = [
        f"{kind}:{number}{later}"
        for kind, later in (("document", ""), ("message", ""), ("message", "+0.3"))
        for number in range(len(re.findall(f"^{kind} ", undisturbed, re.MULTILINE)))
    ]
    mine = points[part::PARTS]
    frames = [kill_and_stack(config, devices, trigger, point) for point in mine]
    print(f"{trigger}: {len(mine)} of {len(points)} kills, {sum(frames)} frames, all stored")
