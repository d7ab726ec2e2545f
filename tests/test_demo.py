"""What the README promises: one command, and what it says it made is there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import wait_until
from tools.typed import Terminal

from offbragg.beamline.config import load
from offbragg.files.cuts import cut_plane
from offbragg.files.planes import Plane
from offbragg.files.scan_file import ScanFile
from offbragg.files.volume_file import VolumeFile
from offbragg.followers.live_volume import read_record
from offbragg.recovery.verify import verify
from sim_iocs import crystal

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"

pytestmark = [pytest.mark.ioc, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The demo as the tutorials start it, in ``first``; it stays up until `demo` ends it."""
    folder = tmp_path_factory.mktemp("demo")
    process = subprocess.Popen(
        [sys.executable, "-m", "offbragg", "demo", "--out", "first", "--keep", "--json"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # a shell lets what it starts in the background ignore Ctrl-C, and that is inherited
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    process.folder = folder
    pictures = folder / "first"
    try:
        wait_until(
            lambda: any(pictures.glob("*-order-parameter.png")) or process.poll() is not None,
            300, "the demo has measured, looked and reduced",
        )  # fmt: skip
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def demo(kept) -> dict[str, Any]:
    kept.send_signal(signal.SIGINT)
    output, errors = kept.communicate(timeout=60)
    assert kept.returncode == 0, errors
    assert errors == ""
    return json.loads(output)


def blocks(page: str) -> list[str]:
    text = (TUTORIALS / page).read_text()
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_first_tutorial_can_be_typed_on_its_demo(kept):
    folder = kept.folder / "first/offbragg-data/experiment/perovskite/crystal1/90K"
    remote, local = [], []
    for block in blocks("first-sweep.md"):
        (local if '.h5"' in block else remote).append(block)
    typed = kept.folder / "typed.ipy"
    typed.write_text(
        "\n".join([*remote, f"%cd -q {folder}", *local, "print(len(mine), len(cold))"])
    )

    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--colors=NoColor", "typed.ipy"],
        cwd=kept.folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout, done.stdout
    output = done.stdout.splitlines()
    assert output[0].startswith("(60, 195, 487) ")
    assert output[1] == "perovskite"
    assert re.fullmatch(r"\d\d% measured, symmetry m-3m", output[-2])
    assert output[-1] == "6 1"
    assert typed_in(folder, "plot") == "live-f1-hhl.png"
    assert typed_in(folder, "verify") == "OK: the file holds what was measured"


def typed_in(folder: Path, verb: str) -> str:
    """Type the page's command of a verb; give the last line that it prints."""
    (command,) = re.findall(
        rf"^\$ (offbragg {verb} .*)$", (TUTORIALS / "first-sweep.md").read_text(), re.MULTILINE
    )
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_second_tutorial_can_be_typed_on_that_demo(kept):
    config = load(kept.folder / "first" / "beamline.toml")
    assert config.devices["pilatus"].parameters["trigger"] == "ext_trigger"
    page = "\n".join(blocks("at-the-prompt.md")).splitlines()
    lines = iter([line for line in page if line.strip()])

    def upto(what: str, shell: Terminal) -> str:
        """Type the page's lines up to the one that begins so; give what that one shows."""
        for line in lines:
            output = shell.type(line)
            if line.startswith(what):
                return output
        raise AssertionError(f"the page has no line {what!r} here")

    with Terminal("first/beamline.toml", cwd=kept.folder) as shell:
        assert re.match(r"no sample · (89|90)\.\d K · #6\b", shell.place)
        assert "LSMO-140" in upto("sample(", shell)
        assert shell.place.startswith("LSMO-140 · ")
        assert "2026-117" in upto("experiment(", shell)
        assert "1 sweep, 30 frames" in upto("print(estimate", shell)

        output = upto("RE(rotation_scan", shell)
        assert "SweepError: period 0.1 s is shorter than the PILATUS3 100K allows" in output
        assert "Traceback" not in output

        output = upto("RE(rotation_scan", shell)
        assert re.search(r"#7 \w{8} · LSMO-140 · phi 0 → 15° · 30 frames · .* · success", output)
        assert " · #7" in shell.place
        wait_until(lambda: "30 stored" in shell.type("%ledger"), 30, "30 frames stored")
        assert "30 stored · " in upto("%ledger", shell)

        output = upto("RE(temperature_series", shell)
        assert len(re.findall(r"#\d+ \w{8} · LSMO-140 · 9[12] K · .* · success", output)) == 2
        assert re.match(r"LSMO-140 · 9[12]\.\d K · #9\b", shell.place)
        series = re.search(r"series (\S{36}): 2 runs for 2 sweeps", output)
        assert series, output
        resume = f'RE(temperature_series(resume="{series[1][:8]}"))'
        assert resume in output
        assert "#10" not in shell.type(resume)  # nothing is missing

        output = upto("runs()", shell)
        assert re.search(rf"9 +\w{{8}} +LSMO-140 +92 +\d+/30 +success +{series[1][:8]}", output), (
            output
        )
        output = upto("RE(expose", shell)
        assert re.search(r"#10 \w{8} · LSMO-140 · .* · 5 frames · .* · success", output), output

        assert "omega" in upto("%wa", shell)
        assert "ring_current" in upto("RE(bp.scan", shell)

        shell.send("RE(rotation_scan(Sweep('phi', 0, 0.5, 100, 0.099, 0.1)))")
        known = len(list(config.paths.frames.rglob("*.cbf")))
        wait_until(lambda: len(list(config.paths.frames.rglob("*.cbf"))) > known + 20, 60, "frames")
        output = shell.interrupt_twice()
        assert "RunEngineInterrupted: a plan is paused" in output
        assert "RE.resume()" in output
        assert " · paused" in shell.place
        assert "AttributeError" not in shell.type("%wa")
        assert "Traceback" not in output
        upto("RE.abort", shell)
        wait_until(lambda: "missing" in shell.type("%ledger"), 30, "missing frames listed")

        assert "'LSMO-140'" in upto("cat[-1]", shell)
        wait_until(lambda: "12" in shell.type("len(cat)").split("]:")[-1], 60, "12 runs published")
        assert re.search(r"Out.*: 6", upto("len(list(db(", shell))
        assert not list(lines)

    kept_md = json.loads((config.paths.journal / "RE.md.json").read_text())
    assert kept_md["sample"]["name"] == "LSMO-140"
    assert kept_md["proposal"] == "2026-117"
    with Terminal("first/beamline.toml", cwd=kept.folder) as shell:
        assert re.match(r"LSMO-140 · 9[12]\.\d K · #12\b", shell.place)


def test_every_frame_of_every_sweep_is_stored(demo):
    assert len(demo["runs"]) == 6
    assert demo["frames"] == {"stored": 360, "missing": 0, "rejected": 0}
    assert [run["temperature"] for run in demo["runs"]] == [170, 156, 147, 140, 120, 90]
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
    assert demo["found"] == {"sample perovskite": 6, "up to 90 K": 1}


def test_the_superlattice_is_there_below_the_transition_and_gone_above(demo):
    below, above = demo["superlattice"]["below"], demo["superlattice"]["above"]

    assert below["reflections"] == above["reflections"] >= 3
    assert below["counts"] > 50 * below["sigma"]
    assert abs(above["counts"]) < 5 * above["sigma"]


def test_the_pictures_are_png(demo):
    names = sorted(Path(path).name.removeprefix("perovskite-") for path in demo["pictures"])

    assert names == [
        "170K-hk0.5.png", "170K-hk0.png", "170K.png", "90K-hk0.5.png", "90K-hk0.png", "90K.png",
        "hk0.5.png", "hk0.png", "order-parameter.png", "superlattice.png",
    ]  # fmt: skip
    for path in demo["pictures"]:
        assert Path(path).read_bytes().startswith(b"\x89PNG")


def test_volumes_were_complete_soon_after_the_last_frame(demo):
    """They are closed by offbragg live, niced, on a host that is as busy as it may be."""
    assert [each["temperature"] for each in demo["volumes"]] == [170, 156, 147, 140, 120, 90]
    for each in demo["volumes"]:
        assert each["frames"] == 60
        assert 0 < each["seconds_after_last_frame"] < 60
        assert read_record(Path(each["file"])) is not None


def test_the_superlattice_is_in_its_plane_below_the_transition_only(demo):
    at_r, between = {}, {}
    for each in demo["volumes"]:
        with VolumeFile(each["file"]) as file:
            cut = cut_plane(file, Plane.parse("hk0.5"))
        h, k = cut.axes
        is_half = [np.isclose(np.abs(axis) % 1, 0.5) for axis in (h, k)]
        near = [np.isclose(np.abs(axis) % 1, 0.25) for axis in (h, k)]
        at_r[each["temperature"]] = np.nanmedian(cut.intensity[np.ix_(*is_half)])
        between[each["temperature"]] = np.nanmedian(cut.intensity[np.ix_(*near)])

    assert at_r[90] > 20 * between[90]
    assert at_r[90] > at_r[120] > at_r[140] > at_r[147] > 3 * at_r[170]
    assert at_r[170] < 2 * between[170]


def test_the_order_parameter_finds_the_transition_of_the_simulated_crystal(demo):
    law = demo["transition"]

    assert law["temperatures"] == 6
    assert law["at"] == [0.5, 0.5, 0.5]
    assert 0 < law["Tc_error"] < 1.0
    assert 0 < law["beta_error"] < 0.05
    # settled temperatures scatter: three standard deviations
    assert abs(law["Tc"] - crystal.TC) < 3 * law["Tc_error"]
    assert abs(law["beta"] - crystal.BETA) < 3 * law["beta_error"]
    assert demo["simulated_Tc"] == crystal.TC


def test_values_that_belong_to_frames_are_there(demo):
    with ScanFile.open(demo["runs"][-1]["scan_file"]) as scan:
        values = scan.frame_values()
    assert np.all(values["monitor"] > 0)
    np.testing.assert_allclose(values["temperature"], 90.0, atol=1.0)
    np.testing.assert_allclose(values["angle"], 0.5 + np.arange(60))
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
    ("options", "output"),
    [
        (["--detector", "5M"], "5M"),
        (["--replay", "{empty}", "--model", "{model}"], "holds no *.cbf frames"),
        (["--replay", "{broken}", "--model", "{model}"], "x_00001.cbf"),
        (["--replay", "{broken}"], "--model"),
        (["--out", "{broken}"], "is not empty"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_starts(tmp_path, options, output):
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
    assert output in done.stderr
    assert "starting" not in done.stderr
    assert "Traceback" not in done.stderr
