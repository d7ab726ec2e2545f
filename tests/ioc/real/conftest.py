"""A real EPICS server (softioc) and the simulator, one after the other, for the same tests."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

collect_ignore = ["client.py", "served.py"]  # programs: one would start an IOC in this process

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Witness:
    """A server, and which of its records play which part."""

    environment: dict[str, str]
    parts: dict[str, str]
    motor: bool
    """Whether the axis is a motor record; else its fields are records."""

    def run(self, script: str, **values: Any) -> Any:
        """Run Python as a client of its own; returns what it puts into ``found``."""
        text = f"{(HERE / 'client.py').read_text()}\n{script}\nprint(json.dumps(found))"
        given = {"parts": self.parts, "motor": self.motor, **values}
        done = subprocess.run(
            [sys.executable, "-c", text, json.dumps(given)],
            env=os.environ | self.environment, capture_output=True, text=True, timeout=150,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.strip().splitlines()[-1])


def _wait(ready: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60.0
    while not (ready.exists() and ready.stat().st_size):
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        return tcp.getsockname()[1]


def _client_environment(port: int) -> dict[str, str]:
    return {
        "EPICS_CA_ADDR_LIST": "127.0.0.1",
        "EPICS_CA_AUTO_ADDR_LIST": "NO",
        "EPICS_CA_SERVER_PORT": str(port),
        "EPICS_CA_REPEATER_PORT": str(port + 1),
        # libca takes a circuit that is blocked for half a minute for lost
        "EPICS_CA_CONN_TMO": "300",
    }


def _softioc(folder: Path, start: Callable[..., None]) -> Witness:
    if importlib.util.find_spec("softioc") is None:
        pytest.skip("softioc is not installed (pip install softioc)")
    environment = _client_environment(_free_port())
    only_here = {
        "EPICS_CAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_CAS_BEACON_ADDR_LIST": "127.0.0.1",
        "EPICS_CAS_AUTO_BEACON_ADDR_LIST": "NO",
    }
    start([str(HERE / "served.py"), str(folder / "ready")], environment | only_here)
    parts = {
        "busy": "TWIN:Acquire", "busy_RBV": "TWIN:Acquire_RBV", "seconds": "TWIN:Seconds",
        "axis": "TWIN:phi", "RBV": "TWIN:phi:RBV", "VELO": "TWIN:phi:VELO",
        "slow": "TWIN:Slow", "slow_RBV": "TWIN:Slow:Done", "delay": "TWIN:Delay",
        "held": "TWIN:Slow", "held_other": "TWIN:Slow.DRVH", "idle_field": "TWIN:Slow.ADEL",
        "processing_field": "TWIN:Slow.DRVH", "idle": "TWIN:Slow", "read_only": "TWIN:Slow.LALM",
    }  # fmt: skip
    return Witness(environment, parts, motor=False)


def _simulator(folder: Path, start: Callable[..., None]) -> Witness:
    ready = folder / "ready"
    start(["-m", "sim_iocs", "--ready", str(ready)], {})
    parts = {
        "busy": "SIM:cam1:Acquire", "busy_RBV": "SIM:cam1:Acquire_RBV",
        "seconds": "SIM:cam1:AcquireTime", "folder": str(folder),
        "axis": "SIM:phi", "RBV": "SIM:phi.RBV", "VELO": "SIM:phi.VELO",
        "slow": "SIM:cam1:DelayTime", "slow_RBV": "SIM:cam1:DelayTime_RBV",
        "delay": "SIM:sim:prepare_seconds",
        "held": "SIM:cam1:DelayTime", "held_other": "SIM:cam1:DelayTime.DESC",
        "idle_field": "SIM:phi.VELO", "processing_field": "SIM:phi.SPMG",
        "idle": "SIM:phi", "read_only": "SIM:phi.TDIR",
    }  # fmt: skip
    environment = json.loads(ready.read_text())["environment"] | {"EPICS_CA_CONN_TMO": "300"}
    return Witness(environment, parts, motor=True)


@pytest.fixture(scope="module", params=["softioc", "simulator"])
def witness(request, tmp_path_factory):
    """Serve one of both."""
    folder = tmp_path_factory.mktemp(request.param)
    started: list[subprocess.Popen[bytes]] = []

    def start(arguments: list[str], environment: dict[str, str]) -> None:
        process = subprocess.Popen(
            [sys.executable, *arguments], env=os.environ | environment,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        started.append(process)
        _wait(folder / "ready", process)

    try:
        yield {"softioc": _softioc, "simulator": _simulator}[request.param](folder, start)
    finally:
        for process in started:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
