"""A RunEngine in a process of its own, so that it can be killed.

``python measure.py BEAMLINE.TOML N_FRAMES [STEP SAMPLE]``: one sweep, with a step in degrees and
the sample as JSON; prints ``open UID`` when it begins and ``done UID`` when it is over.
"""

from __future__ import annotations

import json
import sys

from offbragg.beamline.build import build_devices
from offbragg.beamline.config import load
from offbragg.beamline.run_engine import make_run_engine
from offbragg.plans.rotation import rotation_scan
from offbragg.sweep import Sweep


def main() -> None:
    config = load(sys.argv[1])
    devices = build_devices(config, timeout=30.0)
    RE = make_run_engine(config, devices, context_managers=[])
    step, sample = sys.argv[3:5] or ("0.5", '{"name": "perovskite", "label": "c1"}')
    RE.md["sample"] = json.loads(sample)
    RE.subscribe(lambda name, doc: print("open", doc["uid"], flush=True), "start")
    sweep = Sweep(
        axis="phi",
        start=0.0,
        step=float(step),
        n_frames=int(sys.argv[2]),
        exposure=0.097,
        period=0.1,
    )
    (uid,) = RE(
        rotation_scan(
            devices["pilatus"],
            devices["phi"],
            sweep,
            md={"temperature": {"setpoint": 120.0, "direction": "hold"}},
            flyers=[devices["monitor"], devices["compare"]],
            shutter=devices["shutter"],
        )
    )
    print("done", uid, flush=True)


if __name__ == "__main__":
    main()
