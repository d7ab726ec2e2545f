"""The simulated beamline over Channel Access, and clients of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ophyd.signal import EpicsSignalBase
from simulated import ioc

__all__ = ["ioc"]

EpicsSignalBase.set_defaults(connection_timeout=10.0)  # 1 s is short for a loaded host


def pytest_collection_modifyitems(config, items) -> None:
    """Leave out what measures rates, unless asked for with ``-m slow``: it needs a quiet host."""
    if "slow" in (config.option.markexpr or ""):
        return
    here = Path(__file__).parent
    slow = [i for i in items if here in i.path.parents and i.get_closest_marker("slow")]
    items[:] = [item for item in items if item not in slow]
    config.hook.pytest_deselected(items=slow)


def poll(condition: Callable[[], Any], *, seconds: float = 20.0) -> Any:
    """Poll until something holds; generous, for a loaded host."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.01)
    return value


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    return poll


class Client:
    """Channel Access by short names.

    Its PVs are of a form that ophyd does not ask for: pyepics would hand the same ones to ophyd,
    which cannot use them.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._pvs: dict[str, Any] = {}

    def get(self, name: str, **keywords: Any) -> Any:
        from epics import PV

        # no monitor: a get asks the IOC, and pyepics does not cut it to what a monitor had
        if name not in self._pvs:
            self._pvs[name] = PV(self.prefix + name, auto_monitor=False, form="native")
        pv = self._pvs[name]
        assert pv.wait_for_connection(timeout=5), name
        return pv.get(timeout=5, use_monitor=False, **keywords)

    def text(self, name: str) -> str:
        return self.get(name, as_string=True)

    def put(self, name: str, value: Any, *, timeout: float = 30.0) -> None:
        from epics import PV

        pv = PV(self.prefix + name, auto_monitor=False, form="native")
        assert pv.wait_for_connection(timeout=5), name
        assert pv.put(value, wait=True, timeout=timeout) == 1, name

    def send(self, name: str, value: Any) -> None:
        """Put without completion: a put-callback would wait for the one that a record has."""
        from epics import PV

        pv = PV(self.prefix + name, auto_monitor=False, form="native")
        assert pv.wait_for_connection(timeout=5), name
        assert pv.put(value) == 1, name

    def start(self, name: str, value: Any) -> Callable[[], bool]:
        """Put without waiting; the answer tells whether the put has completed."""
        from epics import PV

        pv = PV(self.prefix + name, auto_monitor=False, form="native")
        assert pv.wait_for_connection(timeout=5)
        completed: list[bool] = []
        pv.put(value, callback=lambda **_: completed.append(True))
        return lambda: bool(completed)

    @contextmanager
    def watch(self, *names: str) -> Iterator[list[tuple[str, str]]]:
        """Collect what monitors report, in order, as (name, text)."""
        from epics import PV

        seen: list[tuple[str, str]] = []

        def note(pvname: str = "", char_value: str = "", **_: Any) -> None:
            seen.append((pvname.removeprefix(self.prefix), char_value))

        pvs = [PV(self.prefix + name, form="ctrl", callback=note) for name in names]
        try:
            poll(lambda: len(seen) >= len(names))
            seen.clear()
            yield seen
        finally:
            # now, not when it is collected: if somebody, as ophyd's destroy, has cleared the
            # channel before, libca ends the process
            for pv in pvs:
                pv.disconnect()


@pytest.fixture
def client(ioc) -> Client:
    return Client(ioc["prefix"])


@pytest.fixture
def camera(client, tmp_path):
    """A function that sets the detector up for a series in a fresh folder."""

    def prepare(n_images: int, *, period: float = 0.05, template: str = "%s%s_%3.3d.cbf") -> None:
        settings = {
            "FilePath": str(tmp_path), "FileName": "x", "FileNumber": 0, "FileTemplate": template,
            "AutoIncrement": 0, "NumImages": n_images, "AcquireTime": period - 0.003,
            "AcquirePeriod": period, "TriggerMode": 0, "ImageFileTmot": 20.0, "ArrayCounter": 0,
        }  # fmt: skip
        for name, value in settings.items():
            client.put(f"cam1:{name}", value)
        client.put("shutter:open", 1)

    yield prepare
    client.put("shutter:open", 0)
    for fault in ("drop", "flip", "truncate", "duplicate", "resize", "late", "hang", "hiccup"):
        client.put(f"sim:{fault}", -1)
    client.put("sim:no7ok", 0)


@contextmanager
def serving(folder: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], dict[str, Any]]]]:
    """Start IOCs as children, and end them."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        ready = folder / f"ready{len(started)}.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "sim_iocs", "--ready", str(ready), *arguments],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        poll(lambda: ready.exists() or process.poll() is not None, seconds=60)
        assert process.poll() is None
        return process, json.loads(ready.read_text())

    yield start
    for process in started:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def serve(tmp_path):
    """Start another IOC as a child; gives the process and what its ready file says."""
    with serving(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def serve_for_all(tmp_path_factory):
    """Start an IOC that the tests of a module share."""
    with serving(tmp_path_factory.mktemp("served")) as start:
        yield start


# a monitor of what a put changed may come after the put's completion, so caget asks the IOC
ELSEWHERE = """
import functools, json, sys
import epics
from epics import caput
caget = functools.partial(epics.caget, use_monitor=False)
"""


@pytest.fixture(scope="session")
def elsewhere():
    """Run Python in a process of its own that talks to another IOC (libca has one per process)."""

    def run(announced: dict[str, Any], script: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE + script],
            env=os.environ | announced["environment"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.strip().splitlines()[-1])

    return run


@pytest.fixture
def frames() -> Callable[[Path], list[Path]]:
    return lambda folder: sorted(folder.glob("x*"))
