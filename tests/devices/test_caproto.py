"""The same devices with OPHYD_CONTROL_LAYER=caproto, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulated import TOML

pytestmark = pytest.mark.ioc

SCRIPT = """
import json, os, sys
from pathlib import Path
import ophyd
from offbragg import beamline
from offbragg.devices.goniometer import PositionCompare
from offbragg.plans import rotation_scan
from offbragg.sweep import Sweep

config = beamline.load(sys.argv[1])
beamline.make_paths(config)
devices = beamline.build_devices(config)
RE = beamline.make_run_engine(config, devices)
beamline.sample(RE, name="KMnF3", label="crystal1")
documents = []
RE.subscribe(lambda name, doc: documents.append((name, doc)))
compare = PositionCompare("SIM:sim:", name="compare")
compare.wait_for_connection(timeout=10)
sweep = Sweep(axis="phi", start=0, step=0.5, n_frames=6, exposure=0.09, period=0.1)
for mode in ("internal", "mult_trigger"):
    devices["pilatus"].trigger_mode = mode
    RE(rotation_scan(devices["pilatus"], devices["phi"], sweep,
                     flyers=[devices["monitor"], compare], shutter=devices["shutter"]))
Path(sys.argv[2]).write_text(json.dumps({
    "layer": ophyd.get_cl().name,
    "ends": [doc["exit_status"] for name, doc in documents if name == "stop"],
    "events": [doc["num_events"] for name, doc in documents if name == "stop"],
    "angles": [angle for name, doc in documents if name == "event_page"
               for angle in doc["data"].get("compare_angle", [])],
}))
os._exit(0)  # caproto's threads do not like the end of an interpreter
"""


def test_a_rotation_scan_on_the_caproto_layer(tmp_path, serve):
    _, told = serve("--seed", "3")
    toml, answer = tmp_path / "beamline.toml", tmp_path / "answer.json"
    toml.write_text(TOML.read_text())
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root / "src"), str(root), os.environ.get("PYTHONPATH", "")])

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(toml), str(answer)],
        env=os.environ | told["environment"]
        | {"OPHYD_CONTROL_LAYER": "caproto", "PYTHONPATH": paths.rstrip(os.pathsep)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert answer.exists(), done.stderr[-3000:]
    found = json.loads(answer.read_text())
    assert found["layer"] == "caproto"
    assert found["ends"] == ["success", "success"]
    assert all(events["primary"] == events["monitor"] == 6 for events in found["events"])
    pulsed = found["angles"][6:]
    assert pulsed == pytest.approx([0.25 + 0.5 * n for n in range(6)], abs=0.005)
