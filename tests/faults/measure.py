"""A RunEngine in a process of its own, so that it can be killed.

``python measure.py BEAMLINE.TOML N_FRAMES``: one sweep; prints ``open UID`` when it begins and
``done UID`` when it is over.
"""

from __future__ import annotations

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
    RE.md["sample"] = {"name": "perovskite", "label": "c1"}
    RE.subscribe(lambda name, doc: print("open", doc["uid"], flush=True), "start")
    sweep = Sweep(
        axis="phi", start=0.0, step=0.5, n_frames=int(sys.argv[2]), exposure=0.097, period=0.1
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
