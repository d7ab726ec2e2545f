"""The same devices with OPHYD_CONTROL_LAYER=caproto, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from simulated import TOML

pytestmark = pytest.mark.ioc

SCRIPT = """
import json, os, sys
from pathlib import Path
import bluesky.plans as bp
import ophyd
from offbragg.beamline import config as beamline
from offbragg.beamline.build import build_devices
from offbragg.beamline.limits import make_paths
from offbragg.beamline.run_engine import make_run_engine, sample
from offbragg.plans import rotation_scan
from offbragg.sweep import Sweep

config = beamline.load(sys.argv[1])
make_paths(config)
devices = build_devices(config)
RE = make_run_engine(config, devices)
sample(RE, name="KMnF3", label="crystal1")
documents = []
RE.subscribe(lambda name, doc: documents.append((name, doc)))
sweep = Sweep(axis="phi", start=0, step=0.5, n_frames=6, exposure=0.09, period=0.1)
for mode in ("internal", "mult_trigger"):
    devices["pilatus"].trigger_mode = mode
    RE(rotation_scan(devices["pilatus"], devices["phi"], sweep,
                     flyers=[devices["monitor"], devices["compare"]],
                     shutter=devices["shutter"], permit=devices["permit"]))
devices["pilatus"].step.exposure.put(0.05)
RE(bp.count([devices["pilatus"].step]))
devices["attenuator"].set(0.1).wait(20)
devices["pilatus"].cam.threshold.set(9.0).wait(20)
Path(sys.argv[2]).write_text(json.dumps({
    "connected": sorted(name for name, device in devices.items() if device.connected),
    "position": devices["attenuator"].position,
    "layer": ophyd.get_cl().name,
    "ends": [doc["exit_status"] for name, doc in documents if name == "stop"],
    "events": [doc["num_events"] for name, doc in documents if name == "stop"],
    "angles": [angle for name, doc in documents if name == "event_page"
               for angle in doc["data"].get("compare_angle", [])],
}))
os._exit(0)  # caproto's threads do not like the end of an interpreter
"""


def test_every_device_connects_and_sweeps_on_the_caproto_layer(tmp_path, serve):
    _, settings = serve("--seed", "3")
    toml, answer = tmp_path / "beamline.toml", tmp_path / "answer.json"
    toml.write_text(TOML.read_text())
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root / "src"), str(root), os.environ.get("PYTHONPATH", "")])

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(toml), str(answer)],
        env=os.environ | settings["environment"]
        | {"OPHYD_CONTROL_LAYER": "caproto", "PYTHONPATH": paths.rstrip(os.pathsep)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert answer.exists(), done.stderr[-3000:]
    found = json.loads(answer.read_text())
    assert found["layer"] == "caproto"
    assert found["connected"] == sorted(tomllib.loads(TOML.read_text())["devices"])
    assert found["ends"] == ["success"] * 3
    assert all(events["primary"] == events["monitor"] == 6 for events in found["events"][:2])
    assert found["events"][2]["primary"] == 1  # of the step-scan twin
    assert found["position"] == pytest.approx(0.1, rel=0.3)
    pulsed = found["angles"][6:]
    assert pulsed == pytest.approx([0.25 + 0.5 * n for n in range(6)], abs=0.005)
