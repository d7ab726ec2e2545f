"""Fixtures: a simulated beamline behind real Channel Access, one per process.

libca reads its environment once per process, so every test that talks to an IOC in this process has
to use this one. A conftest.py imports the fixtures that its tests need.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

TOML = Path(__file__).parents[1] / "profiles" / "profile_offbragg" / "beamline.toml"


@cache
def _serve() -> dict[str, Any]:
    """Start the one IOC of this process; it ends with it."""
    ready = Path(tempfile.mkdtemp(prefix="offbragg-ioc-")) / "ready.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "sim_iocs", "--port", "0", "--ready", str(ready),
         "--acceleration", "600", "--seed", "7"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip

    @atexit.register
    def end() -> None:
        process.terminate()
        process.wait(10)
        shutil.rmtree(ready.parent, ignore_errors=True)

    deadline = time.monotonic() + 60
    while not ready.exists():
        assert process.poll() is None, "the simulated IOC ended before it served"
        assert time.monotonic() < deadline, "the simulated IOC did not serve within 60 s"
        time.sleep(0.05)
    told = json.loads(ready.read_text())
    os.environ.update(told["environment"])
    return told


@pytest.fixture(scope="session")
def ioc() -> dict[str, Any]:
    """What the simulated IOC wrote into its --ready file."""
    return _serve()


@pytest.fixture(scope="session")
def config(ioc, tmp_path_factory):
    """The simulated beamline of the profile, its paths in a temporary folder."""
    from offbragg import beamline

    folder = tmp_path_factory.mktemp("beamline")
    file = folder / "beamline.toml"
    file.write_text(TOML.read_text())
    config = beamline.load(file)
    beamline.make_paths(config)
    return config


@pytest.fixture(scope="session")
def devices(config):
    from offbragg import beamline

    return beamline.build_devices(config)


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
    from offbragg import beamline

    RE = beamline.make_run_engine(config, devices)
    beamline.sample(RE, name="KMnF3", label="crystal1", formula="KMnF3")
    return RE


@pytest.fixture
def documents(RE):
    collected = Documents()
    RE.subscribe(lambda name, doc: collected(name, doc))
    return collected
