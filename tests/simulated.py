"""Fixtures: a simulated beamline behind real Channel Access, one per process.

libca reads its environment once per process, so every test that talks to an IOC in this process has
to use this one. tests/conftest.py imports this module before anything can import ophyd.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

TOML = Path(__file__).parents[1] / "profiles" / "profile_offbragg" / "beamline.toml"


def _free_port(*taken: int) -> int:
    """Choose a port that is free with its neighbour, which the server's repeater takes."""
    for _ in range(100):
        with socket.socket() as tcp:
            tcp.bind(("127.0.0.1", 0))
            port = tcp.getsockname()[1]
            if any(abs(port - other) < 2 for other in taken):
                continue
            try:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    with socket.socket(type=kind) as neighbour:
                        neighbour.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
    raise RuntimeError("no free port")


# libca reads its environment once, when ophyd is imported: that may be at the collection of tests
PORT = _free_port()
MOTOR_PORT = _free_port(PORT)
MOTOR_CLOCK = 0.7
"""The motors have an IOC of their own, whose clock is ahead, s: as at a beamline without NTP."""
os.environ.update(
    EPICS_CA_ADDR_LIST=f"127.0.0.1:{PORT} 127.0.0.1:{MOTOR_PORT}",
    EPICS_CA_AUTO_ADDR_LIST="NO",
    EPICS_CA_SERVER_PORT=str(PORT),
    EPICS_CA_REPEATER_PORT=str(PORT + 1),
    EPICS_CA_MAX_ARRAY_BYTES="20000000",
)

# softioc brings a libca of its own, which ophyd would take: tests use the one that users have
sys.modules["epicscorelibs.path.pyepics"] = None  # type: ignore[assignment]

_served: list[tuple[subprocess.Popen[bytes], Path]] = []
_settings: list[Any] = []  # axes of the built devices that nobody sweeps


@atexit.register  # before ophyd is imported, so after libca has been shut down
def _end() -> None:
    for process, folder in _served:
        process.terminate()
        process.wait(10)
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _serve() -> dict[str, Any]:
    """Start the one IOC of this process; it ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="offbragg-ioc-"))
    ready = folder / "ready.json"
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sim_iocs", "--port", str(PORT), "--ready", str(ready),
             "--acceleration", "600", "--seed", "7",
             "--motor-port", str(MOTOR_PORT), "--motor-clock", str(MOTOR_CLOCK)],
            stdout=output, stderr=output,
        )  # fmt: skip
    _served.append((process, folder))
    deadline = time.monotonic() + 60
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no simulated IOC: {(folder / 'output').read_text()[-1000:]}")
        time.sleep(0.05)
    return json.loads(ready.read_text())


@pytest.fixture(scope="session")
def ioc() -> dict[str, Any]:
    """What the simulated IOC wrote into its --ready file."""
    return _serve()


@pytest.fixture(scope="session")
def config(ioc, tmp_path_factory):
    """The simulated beamline of the profile, its paths in a temporary folder."""
    from offbragg.beamline import config as beamline
    from offbragg.beamline.limits import make_paths

    folder = tmp_path_factory.mktemp("beamline")
    file = folder / "beamline.toml"
    text = TOML.read_text()
    # plans get what a test gives them, and nothing else; see the fixture RE_with_defaults
    text = re.sub(r"^\[defaults\].*?^$", "", text, flags=re.MULTILINE | re.DOTALL)
    file.write_text(
        text.replace("window = 3.0", "window = 1.0").replace("dwell = 1.0", "dwell = 0.2")
    )
    config = beamline.load(file)
    make_paths(config)
    return config


@pytest.fixture(scope="session")
def devices(config):
    from offbragg.beamline.build import build_devices

    devices = build_devices(config, timeout=30.0)
    _settings.extend(devices[name] for name in ("chi", "omega"))
    return devices


@pytest.fixture(autouse=True)
def axes_put_back():
    """Put the axes that nobody sweeps back to 0: headers have where they stand, runs may not."""
    yield
    for status in [axis.set(0.0) for axis in _settings if abs(axis.position) > 1e-3]:
        status.wait(60)


@pytest.fixture(scope="session")
def simulator(ioc):
    """Put a value to one of the simulator's own records, e.g. simulator("drop", 7)."""
    from epics import caput

    def put(name: str, value: Any) -> None:
        assert caput(f"{ioc['prefix']}sim:{name}", value, wait=True, timeout=5) == 1

    return put


class Documents(list):
    """Collects (name, document) and answers what tests ask."""

    def __call__(self, name: str, doc: dict[str, Any]) -> None:
        self.append((name, doc))

    def of(self, name: str) -> list[dict[str, Any]]:
        return [doc for kind, doc in self if kind == name]

    def start(self) -> dict[str, Any]:
        return self.of("start")[-1]

    def stop(self) -> dict[str, Any]:
        return self.of("stop")[-1]

    def rows(self, key: str) -> list[Any]:
        values: list[Any] = []
        for name, doc in self:
            if name == "event" and key in doc["data"]:
                values.append(doc["data"][key])
            elif name == "event_page" and key in doc["data"]:
                values.extend(doc["data"][key])
        return values


@pytest.fixture
def RE(config, devices):
    from offbragg.beamline.run_engine import make_run_engine, sample

    RE = make_run_engine(config, devices)
    sample(RE, name="KMnF3", label="crystal1", formula="KMnF3")
    return RE


@pytest.fixture
def RE_with_defaults(config, devices):
    """A RunEngine that knows which devices plans use, as at the prompt."""
    from offbragg.beamline import config as beamline
    from offbragg.beamline.run_engine import make_run_engine, sample

    defaults = beamline.load(TOML).defaults
    RE = make_run_engine(config.model_copy(update={"defaults": defaults}), devices)
    sample(RE, name="KMnF3", label="crystal1", formula="KMnF3")
    return RE


@pytest.fixture
def documents(RE):
    collected = Documents()
    RE.subscribe(lambda name, doc: collected(name, doc))
    return collected
