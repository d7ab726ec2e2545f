"""Devices that are destroyed leave nothing on Channel Access, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulated import TOML

pytestmark = pytest.mark.ioc

SCRIPT = """
import sys
import ophyd  # before epics: softioc brings a libca of its own
import epics
from offbragg.beamline import build, config as beamline
from offbragg.beamline.limits import make_paths

config = beamline.load(sys.argv[1])
make_paths(config)
devices = build.build_devices(config)
devices["pilatus"].step  # the twin, too
assert any(channels for channels in epics.ca._cache.values())
build.destroy_devices(devices)
print("left:", *(name for channels in epics.ca._cache.values() for name in channels))
sys.stdout.flush()
sys.stdin.read()  # until the IOC is gone
"""


def test_all_channels_of_destroyed_devices_are_closed(tmp_path, serve):
    process, settings = serve()
    toml = tmp_path / "beamline.toml"
    toml.write_text(TOML.read_text())
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root / "src"), str(root), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(toml)],
        env=os.environ | settings["environment"] | {"PYTHONPATH": paths.rstrip(os.pathsep)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        left = child.stdout.readline()

        process.terminate()
        process.wait(10)
        _, errors = child.communicate(timeout=30)

    assert left.split() == ["left:"], errors
    assert errors == ""  # libca has nothing to say about the end of the IOC
    assert child.returncode == 0
