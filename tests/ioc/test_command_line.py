"""``python -m sim_iocs``: what it says, refuses, replays, and when it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from sim_iocs.cbf import encode_cbf

pytestmark = pytest.mark.ioc


def refused(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sim_iocs", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "real"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        counts = rng.poisson(2.0, (195, 487)).astype(np.int32)
        content = encode_cbf(counts, name=f"r{i}", header=["Wavelength 0.6889 A"])
        (folder / f"r{i}.cbf").write_bytes(content)
    return folder


def test_an_unknown_detector_size_is_refused():
    assert "'3M'; it is one of 100K, 300K, 1M, 2M" in refused("--detector", "3M")


def test_an_empty_folder_is_refused_by_name(tmp_path):
    assert f"{tmp_path} holds no .cbf file" in refused("--replay", str(tmp_path))


def test_a_broken_frame_is_refused_by_name(folder):
    content = (folder / "r2.cbf").read_bytes()
    (folder / "r2.cbf").write_bytes(content[: len(content) - 50_000])

    assert f"{folder / 'r2.cbf'}: is cut off" in refused("--replay", str(folder))


def test_an_unknown_fault_is_refused():
    assert "'melt=3'" in refused("--fault", "melt=3")


@pytest.mark.parametrize("fault", ["drop=1.5", "overshoot=", "silent=-1", "dump=soon"])
def test_a_fault_that_is_no_number_of_its_kind_is_refused(fault):
    assert f"'{fault}' is not NAME=VALUE" in refused("--fault", fault)


def test_faults_of_the_command_line_wait_for_their_series(serve, elsewhere, tmp_path):
    _, announced = serve(
        "--prefix", "D:", "--fault", "dump=30", "--fault", "duplicate=2", "--fault", "no7ok=1",
        "--fault", "overshoot=2.5", "--fault", "jitter=0.01",
    )  # fmt: skip

    values = elsewhere(
        announced,
        f"""
names = ("dump", "duplicate", "no7ok", "overshoot", "jitter")
given = [caget("D:sim:" + name) for name in names]
before = caget("D:ring:current")
for name, value in dict(FilePath={str(tmp_path)!r}, FileName="x", FileTemplate="%s%s_%3.3d.cbf",
                        NumImages=3, AcquireTime=0.04, AcquirePeriod=0.05, ImageFileTmot=1).items():
    assert caput("D:cam1:" + name, value, wait=True, timeout=5) == 1
caput("D:cam1:Acquire", 1, wait=True, timeout=30)
print(json.dumps([given, before, caget("D:ring:current"),
                  caget("D:cam1:StatusMessage_RBV", as_string=True)]))
""",
    )

    given, before, after, message = values
    assert given == [30.0, 2, 1, 2.5, 0.01]
    assert before > 100.0
    assert after == 0.0
    assert message == "Camserver returned OK"
    assert (tmp_path / "x_002.cbf").read_bytes() == (tmp_path / "x_001.cbf").read_bytes()


def test_a_taken_port_is_refused(ioc):
    assert f"port {ioc['port']}" in refused("--port", str(ioc["port"]))


def test_it_prints_the_environment_tells_the_truth_and_ends_on_sigterm(serve):
    began = time.monotonic()
    process, announced = serve("--prefix", "B:", "--detector", "300K")
    seconds = time.monotonic() - began

    process.send_signal(signal.SIGTERM)

    assert process.wait(10) == 0
    printed = process.stdout.read().splitlines()
    assert printed == [f"export {k}={v}" for k, v in announced["environment"].items()]
    assert announced["truth"]["panel"]["shape"] == [619, 487]
    assert [axis["name"] for axis in announced["truth"]["axes"]] == ["phi", "chi", "omega"]
    assert seconds < 50.0  # 1 s on a quiet host


def test_it_ends_when_its_parent_is_killed(tmp_path, wait_until):
    ready = tmp_path / "ready.json"
    script = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-m', 'sim_iocs', '--ready', {str(ready)!r}])\n"
        "time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
    wait_until(ready.exists, seconds=60)
    pid = json.loads(ready.read_text())["pid"]

    parent.kill()
    parent.wait()

    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        with open(f"/proc/{pid}/stat") as status:  # noqa: PTH123
            return status.read().rsplit(")", 1)[1].split()[0] == "Z"

    wait_until(gone)


def test_replay_gives_the_bytes_of_the_folder_and_no_more_frames_than_it_has(
    serve, elsewhere, folder, tmp_path
):
    out = tmp_path / "out"
    out.mkdir()
    _, announced = serve("--replay", str(folder), "--prefix", "R:")

    state = elsewhere(
        announced,
        f"""
for name, value in dict(FilePath={str(out)!r}, FileName="x", FileTemplate="%s%s_%3.3d_00000.cbf",
                        NumImages=4, AcquireTime=0.05, AcquirePeriod=0.1).items():
    assert caput("R:cam1:" + name, value, wait=True, timeout=5) == 1
assert caput("R:cam1:Acquire", 1, wait=True, timeout=30) == 1
first = caget("R:cam1:DetectorState_RBV", as_string=True)
caput("R:cam1:NumImages", 5, wait=True)
caput("R:cam1:Acquire", 1, wait=True, timeout=30)
print(json.dumps([first, caget("R:cam1:DetectorState_RBV", as_string=True),
                  caget("R:cam1:StatusMessage_RBV", as_string=True)]))
""",
    )

    assert state[:2] == ["Idle", "Error"]
    assert "NumImages 5 asked, the replayed folder holds 4" in state[2]
    for i in range(4):
        assert (out / f"x_000_{i:05d}.cbf").read_bytes() == (folder / f"r{i}.cbf").read_bytes()


def test_two_beamlines_side_by_side_do_not_mix(serve, elsewhere, ioc):
    _, announced = serve("--prefix", "B:", "--temperature", "123", "--fault", "drop=2")

    values = elsewhere(
        announced,
        """
print(json.dumps([caget("B:cryo:TARGETTEMP"), caget("B:sim:drop"),
                  caget("SIM:cryo:TARGETTEMP", connection_timeout=0.5)]))
""",
    )

    assert announced["port"] != ioc["port"]
    assert values == [123.0, 2, None]
