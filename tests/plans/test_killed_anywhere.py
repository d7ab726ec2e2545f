"""The RunEngine is killed, anywhere; the detector goes on, and all that it wrote is stored."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from runs import wait_until

from offbragg.devices.acquisition import is_idle
from offbragg.errors import ScanFileError
from offbragg.files import read_frame
from offbragg.files.scan_file import ScanFile
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from offbragg.recovery.verify import scan_file_of_run, verify

pytestmark = pytest.mark.ioc

SCRIPT = Path(__file__).with_name("measure_killed.py")
TRIGGERS = ("internal", "mult_trigger")
PARTS = 12
KILLS = (("document", ""), ("message", ""), ("message", "+0.3"))
_MORE = 4  # a sweep on a busy host has more messages than the one that was counted


class Sweeps:
    """Measure sweeps in processes that kill themselves (see measure_killed.py)."""

    def __init__(self, config) -> None:
        self._config = config
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, trigger: str, point: str, paths) -> str:
        """Run a sweep; give what its process printed."""
        order = {
            "beamline": str(self._config.file), "trigger": trigger, "point": point,
            "journal": str(paths.journal), "experiment": str(paths.experiment),
        }  # fmt: skip
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        print(json.dumps(order), file=stdin, flush=True)
        done = json.loads(stdout.readline())
        assert done["status"] in (0, -signal.SIGKILL), done["printed"][-2000:]
        return done["printed"]

    def end(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture(scope="module")
def sweeps(config):
    sweeps = Sweeps(config)
    yield sweeps
    sweeps.end()


@pytest.fixture(scope="module")
def points(sweeps, config, tmp_path_factory):
    """List where a sweep can be killed, for each trigger: the same for every part."""

    @cache
    def of(trigger: str) -> dict[str, range]:
        paths = paths_in(config, tmp_path_factory.mktemp("undisturbed"))
        printed = sweeps.measure(trigger, "", paths)
        return {
            kind: range(len(re.findall(f"^{kind} ", printed, re.MULTILINE)) + _MORE)
            for kind in ("document", "message")
        }

    return of


def paths_in(config, folder: Path):
    """Let journal and experiment have a folder of their own: old runs take time at each start."""
    own = {name: folder / name for name in ("journal", "experiment")}
    for path in own.values():
        path.mkdir(parents=True)
    return config.paths.model_copy(update=own)


def stack(paths) -> None:
    # soon: most frames of the first time come after they were given up
    stacker = Stacker(paths.experiment, late=0.2, frames=paths.frames)
    assert follow(paths.journal, [stacker], once=True) == {"stack": []}


def assert_all_stored(paths, uid: str, where: str) -> int:
    """Compare the scan file of a run with its folder; give how many frames it has."""
    written = sorted(paths.frames.glob(f"{uid[:8]}*/*.cbf"))
    path = scan_file_of_run(uid, journal=paths.journal, experiment=paths.experiment)
    verdict = verify(path, journal=paths.journal, frames=paths.frames)
    assert verdict.problems == [], where
    with ScanFile.open(path) as scan:
        assert scan.ledger.counts()["stored"] == len(written), where
        for file in written:
            number = int(file.stem.rpartition("_")[2])
            expected = read_frame(file, number=number).counts
            np.testing.assert_array_equal(scan.stack.counts[number], expected, err_msg=where)
    return len(written)


def kill(sweeps, paths, trigger: str, point: str) -> str | None:
    """Kill a sweep at a point; give the uid of its run if it had begun."""
    printed = sweeps.measure(trigger, point, paths)
    uid = re.search(r"^open (\S+)$", printed, re.MULTILINE)
    return uid[1] if uid is not None else None


def let_end(devices, trigger: str) -> None:
    """Wait until the detector and the axis have ended what a killed process left them at."""
    pilatus, phi = devices["pilatus"], devices["phi"]
    if trigger != "internal":  # no pulse comes any more once the axis stands
        wait_until(lambda: not phi.moving, 60, "the axis to stand")
        pilatus.cam.acquire.put(0)
    wait_until(lambda: is_idle(pilatus.cam) and not phi.moving, 60, "the detector to end")


def check_run(paths, uid: str | None, where: str) -> int:
    """Compare what is stored of a run with what there is; give how many frames it has."""
    if uid is None:
        return 0
    try:
        return assert_all_stored(paths, uid, where)
    except ScanFileError:
        assert not list(paths.frames.glob(f"{uid[:8]}*/*.cbf")), where
        return 0


def is_all_stored(paths, uid: str) -> bool:
    """Whether a run's scan file is finished with as many frames as there are files."""
    written = len(list(paths.frames.glob(f"{uid[:8]}*/*.cbf")))
    try:
        path = scan_file_of_run(uid, journal=paths.journal, experiment=paths.experiment)
        with ScanFile.open(path) as scan:
            return scan.complete and scan.ledger.counts()["stored"] == written
    except ScanFileError:
        return False


def kill_and_stack(sweeps, config, devices, folder: Path, trigger: str, point: str) -> int:
    """Kill a sweep at a point, stack what there is, and again when the detector has ended."""
    paths = paths_in(config, folder)
    uid = kill(sweeps, paths, trigger, point)
    stack(paths)
    let_end(devices, trigger)
    stack(paths)
    return check_run(paths, uid, f"{trigger}, killed at {point}")


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr("offbragg.followers.follow._LOOK_FOR_ABANDONED", 0.05)


@pytest.mark.parametrize(
    ("trigger", "point"),
    [
        ("internal", "message:create"),
        pytest.param("mult_trigger", "message:kickoff pilatus+0.3", marks=pytest.mark.slow),
    ],
)
def test_what_a_detector_wrote_for_a_run_engine_that_died_is_stored(
    sweeps, config, devices, tmp_path, trigger, point
):
    """Nothing but the run's folder says where these frames are."""
    assert kill_and_stack(sweeps, config, devices, tmp_path, trigger, point) >= 5


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_killed_at_every_document_and_message_all_that_exists_is_stored(
    sweeps, points, config, devices, tmp_path, trigger, part
):
    frames = []
    for kind, later in KILLS:
        for number in points(trigger)[kind][part::PARTS]:
            folder, point = tmp_path / str(len(frames)), f"{kind}:{number}{later}"
            frames.append(kill_and_stack(sweeps, config, devices, folder, trigger, point))
            shutil.rmtree(folder)
            shutil.rmtree(config.paths.frames)
            config.paths.frames.mkdir()
    print(f"{trigger}: {len(frames)} kills, {sum(frames)} frames, all stored")


@pytest.fixture
def stacking(config, tmp_path, monkeypatch):
    """Let a stacker run on while sweeps are killed; give the paths that it follows."""
    monkeypatch.setattr("offbragg.followers.followed_run._LOOK_LATER", 0.2)
    paths, stop = paths_in(config, tmp_path), threading.Event()
    stacker = Stacker(paths.experiment, late=0.2, frames=paths.frames)
    thread = threading.Thread(target=follow, args=(paths.journal, [stacker]), kwargs={"stop": stop})
    thread.start()
    yield paths
    stop.set()
    thread.join()


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_killed_anywhere_all_is_stored_by_a_stacker_that_runs_on(
    sweeps, points, devices, stacking, trigger, part
):
    """No one starts it again: what comes after a run was given up is stored all the same."""
    runs: dict[str, str] = {}
    for kind, later in KILLS:
        for number in points(trigger)[kind][part::PARTS]:
            point = f"{kind}:{number}{later}"
            uid = kill(sweeps, stacking, trigger, point)
            let_end(devices, trigger)
            if uid is not None:
                runs[uid] = f"{trigger}, killed at {point}"
    frames = 0
    for uid, where in runs.items():
        wait_until(lambda uid=uid: is_all_stored(stacking, uid), 60, where)
        frames += check_run(stacking, uid, where)
    shutil.rmtree(stacking.frames)
    stacking.frames.mkdir()
    print(f"{trigger}: {len(runs)} runs, {frames} frames, all stored")
