"""One beamline of real processes; one after the other is killed, and no frame is lost.

The catalog is not there while all of it is measured: it comes up at the end and has to have
everything once.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky_tiled_plugins.writing.validator import validate
from runs import wait_until

from offbragg.beamline.config import Beamline, load
from offbragg.beamline.limits import make_paths
from offbragg.demo import configure
from offbragg.demo.scene import simulated_scene
from offbragg.files import read_frame
from offbragg.files.journal_file import read_journal
from offbragg.files.scan_file import ScanFile
from offbragg.host.children import Children
from offbragg.recovery.verify import scan_file_of_run, verify

pytestmark = pytest.mark.ioc

MEASURE = str(Path(__file__).with_name("measure.py"))
FRAMES = 40


class SimulatedBeamline:
    """Instruments and stacker as child processes, and sweeps that are measured by others."""

    def __init__(self, root: Path, *, ioc: tuple[str, ...] = (), file_format: str = "cbf") -> None:
        (root / "log").mkdir(parents=True)
        self.children = Children(root / "log")
        ready = root / "log" / "ioc.json"
        self.children.start(
            "ioc", ["sim_iocs", "--port", "0", "--ready", str(ready), "--acceleration", "60", *ioc]
        )
        served = self.children.wait_for(ready)
        scene = simulated_scene(served["truth"])
        self.config: Beamline = load(configure(root, served, scene, file_format=file_format))
        make_paths(self.config)

    def end(self) -> None:
        self.children.stop(*self.children.running)

    def stack(self) -> subprocess.Popen[bytes]:
        """Start a stacker without a catalog to publish to."""
        self.children.start(
            "stack", ["offbragg", "stack", "--beamline", str(self.config.file), "--no-catalog"]
        )
        return self.children.running["stack"]

    def measure(self, frames: int = FRAMES) -> subprocess.Popen[str]:
        """Start one sweep in a process of its own."""
        return subprocess.Popen(
            [sys.executable, MEASURE, str(self.config.file), str(frames)],
            stdout=subprocess.PIPE,
            text=True,
        )

    def scan_file(self, uid: str) -> Path:
        return scan_file_of_run(
            uid, journal=self.config.paths.journal, experiment=self.config.paths.experiment
        )

    def stored(self, uid: str) -> int:
        try:
            with ScanFile.open(self.scan_file(uid)) as scan:
                return scan.ledger.counts()["stored"]
        except Exception:  # not there yet
            return 0

    def wait_for_complete(self, uid: str) -> Path:
        def complete() -> Path | None:
            try:
                path = self.scan_file(uid)
                with ScanFile.open(path) as scan:
                    return path if scan.complete else None
            except Exception:
                return None

        return wait_until(complete, 40, f"scan file of {uid} complete")


def uid_of(measuring: subprocess.Popen[str], word: str = "open") -> str:
    """Wait until a sweep has begun (or is done); return its uid."""
    assert measuring.stdout is not None
    for line in measuring.stdout:
        state, _, uid = line.strip().partition(" ")
        if state == word:
            return uid
    raise AssertionError(f"the sweep ended without {word!r}")


def finish(measuring: subprocess.Popen[str]) -> None:
    with measuring:
        assert measuring.wait(60) == 0


def assert_as_written(config: Beamline, path: Path, but: frozenset[int] = frozenset()) -> None:
    """Compare every stored frame with the file that the camserver wrote, read by itself."""
    with ScanFile.open(path) as scan:
        sources = scan.frame_values()["source"]
        for number in set(range(scan.n_frames)) - but:
            (source,) = config.paths.frames.rglob(_text(sources[number]))
            expected = read_frame(source, number=number).counts
            np.testing.assert_array_equal(scan.stack.counts[number], expected)
            assert int(source.stem.rpartition("_")[2]) == number


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@pytest.fixture(scope="module")
def beamline(tmp_path_factory) -> Iterator[SimulatedBeamline]:
    beamline = SimulatedBeamline(tmp_path_factory.mktemp("beamline"))
    yield beamline
    beamline.end()


@pytest.fixture(scope="module")
def measured(beamline: SimulatedBeamline) -> dict[str, str]:
    """Measure four sweeps, with what happened to each: name → uid."""
    uids = {}

    stacker = beamline.stack()
    with beamline.measure() as measuring:
        uids["stacker killed"] = uid_of(measuring)
        wait_until(lambda: beamline.stored(uids["stacker killed"]) >= 5, 40, "5 frames stored")
        stacker.send_signal(signal.SIGKILL)
        stacker.wait()
        uid_of(measuring, "done")
    beamline.stack()

    with beamline.measure() as measuring:
        uids["RunEngine killed"] = uid_of(measuring)
        wait_until(lambda: beamline.stored(uids["RunEngine killed"]) >= 5, 40, "5 frames stored")
        measuring.send_signal(signal.SIGKILL)
        measuring.wait()
    # the camserver goes on; the next sweep has to wait for it
    beamline.wait_for_complete(uids["RunEngine killed"])

    with beamline.measure() as measuring:
        uids["undisturbed"] = uid_of(measuring, "done")
    for uid in uids.values():
        beamline.wait_for_complete(uid)
    return uids


@pytest.mark.parametrize("what", ["stacker killed", "RunEngine killed", "undisturbed"])
def test_all_frames_are_there_at_their_numbers(beamline, measured, what):
    path = beamline.scan_file(measured[what])

    verdict = verify(path, journal=beamline.config.paths.journal)

    assert verdict.problems == []
    assert verdict.frames["stored"] == FRAMES
    assert verdict.checked == FRAMES
    assert_as_written(beamline.config, path)


def test_the_run_of_a_killed_run_engine_is_closed_as_failed(beamline, measured):
    documents, _ = read_journal(
        beamline.config.paths.journal / f"{measured['RunEngine killed']}.jsonl"
    )

    stops = [doc for name, doc in documents if name == "stop"]

    assert len(stops) == 1
    assert stops[0]["exit_status"] == "fail"
    assert "RunEngine process ended" in stops[0]["reason"]


def test_a_catalog_that_was_dead_all_the_time_gets_every_run_once(beamline, measured):
    ready = beamline.config.file.parent / "log" / "catalog.json"
    beamline.children.start(
        "serve",
        ["offbragg", "serve", "--beamline", str(beamline.config.file), "--ready", str(ready)],
    )
    beamline.children.stop("stack")
    beamline.children.wait_for(ready)

    done = subprocess.run(
        [sys.executable, "-m", "offbragg", "stack", "--once", "--json",
         "--beamline", str(beamline.config.file)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"failed": {"stack": [], "publish": []}}
    runs = beamline.config.connect_catalog()
    assert sorted(runs) == sorted(measured.values())
    for uid in measured.values():
        run = runs[uid]
        assert run.metadata["stop"]["offbragg"]["frames"]["stored"] == FRAMES
        image = run["primary"]["pilatus_image"]
        with ScanFile.open(beamline.scan_file(uid)) as scan:
            np.testing.assert_array_equal(image[FRAMES - 1], scan.stack.counts[FRAMES - 1])
        assert validate(run, fix_errors=False, try_reading=True, raise_on_error=True)
    assert runs[measured["RunEngine killed"]].metadata["stop"]["exit_status"] == "fail"

    result = run_readme(beamline.config)
    assert result["frame"] == np.asarray(runs[result["uid"]]["primary"]["pilatus_image"][30]).sum(
        dtype=np.int64
    )
    assert result["cold"] == 3
    assert result["status"] == ["stored"] * FRAMES
    np.testing.assert_allclose(result["angles"], 0.25 + 0.5 * np.arange(FRAMES), atol=0.01)
    assert result["table"] == FRAMES


def run_readme(config: Beamline) -> dict[str, Any]:
    """Run the README's example as it stands there, in a process of its own, as a reader would."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    example = readme.partition("```python\n")[2].partition("```")[0]
    # nothing is reduced here: volumes have tests of their own
    example = "\n".join(line for line in example.splitlines() if "volume" not in line) + "\n"
    example = example.replace("http://127.0.0.1:8000", config.catalog_url)
    example = example.replace("…", config.key_file.read_text().strip())
    example += """
import json
print(json.dumps({"uid": run.start["uid"], "frame": int(frame.sum()), "cold": len(cold),
    "status": list(rows["status"]), "angles": list(rows["angle"]), "table": len(table)}))
"""
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_dropped_and_a_damaged_frame_are_listed_and_shift_nothing(tmp_path):
    beamline = SimulatedBeamline(tmp_path, ioc=("--fault", "drop=7", "--fault", "flip=12"))
    try:
        beamline.stack()
        with beamline.measure(20) as measuring:
            uid = uid_of(measuring, "done")
        path = beamline.wait_for_complete(uid)

        with ScanFile.open(path) as scan:
            problems = {n: (status, reason) for n, status, reason in scan.ledger.problems()}
            assert set(problems) == {7, 12}
            assert problems[7][0] == "missing"
            assert "was not there" in problems[7][1]
            assert problems[12][0] == "rejected"
            assert "MD5" in problems[12][1]
            assert np.all(scan.stack.counts[7] == -1)
            assert np.all(scan.stack.counts[12] == -1)
        assert_as_written(beamline.config, path, but=frozenset({7, 12}))
    finally:
        beamline.end()


@pytest.mark.slow
def test_two_beamlines_side_by_side_and_one_writes_tiff(tmp_path):
    beamlines = [
        SimulatedBeamline(tmp_path / "one"),
        SimulatedBeamline(tmp_path / "two", ioc=("--seed", "5"), file_format="tif"),
    ]
    try:
        for beamline in beamlines:
            beamline.stack()
        measuring = [beamline.measure(20) for beamline in beamlines]
        uids = [uid_of(process, "done") for process in measuring]
        for process in measuring:
            finish(process)

        for beamline, uid in zip(beamlines, uids, strict=True):
            path = beamline.wait_for_complete(uid)
            with ScanFile.open(path) as scan:
                assert scan.ledger.counts()["stored"] == 20
            assert_as_written(beamline.config, path)
        assert {path.suffix for path in (tmp_path / "two").rglob("*_00003.*")} == {".tif"}
        assert len(list((tmp_path / "one").rglob("*.jsonl"))) == 1
    finally:
        for beamline in beamlines:
            beamline.end()
