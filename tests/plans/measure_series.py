"""A temperature series in a process of its own, so that its RunEngine can be killed.

``python measure_series.py BEAMLINE.TOML``: prints ``open UID`` when a run begins, ``frames N`` when
frames are announced, and ``done`` when all is over.
"""

from __future__ import annotations

import sys

from offbragg.beamline.build import build_devices
from offbragg.beamline.config import load
from offbragg.beamline.run_engine import make_run_engine
from offbragg.plans import temperature_series
from offbragg.sweep import Sweep

TEMPERATURES = [290.0, 292.0]
SWEEPS = [
    Sweep(axis="phi", start=start, step=0.5, n_frames=20, exposure=0.097, period=0.1)
    for start in (0.0, 20.0)
]


def main() -> None:
    config = load(sys.argv[1])
    devices = build_devices(config, timeout=30.0)
    # exact however busy this host is; an internal start is as good as the host is prompt
    devices["pilatus"].trigger_mode = "mult_trigger"
    RE = make_run_engine(config, devices, context_managers=[])
    RE.md["sample"] = {"name": "perovskite", "label": "c1"}
    RE.subscribe(lambda name, doc: print("open", doc["uid"], flush=True), "start")

    def announced(name, doc):
        if name == "stream_datum":
            print("frames", doc["indices"]["stop"], flush=True)

    RE.subscribe(announced)
    RE(
        temperature_series(
            devices["pilatus"], devices["phi"], devices["cryostream"], TEMPERATURES, SWEEPS,
            flyers=[devices["monitor"], devices["compare"]], shutter=devices["shutter"],
        )
    )  # fmt: skip
    print("done", flush=True)


if __name__ == "__main__":
    main()
