"""The RunEngine of a soak: sweep after sweep of a simulated beamline, in a process of its own.

``python soak_engine.py BEAMLINE FRAMES REPORT``: it ends once it has measured FRAMES frames, and
adds a line to the report after each run.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from offbragg.beamline.build import build_devices, destroy_devices
from offbragg.beamline.config import load
from offbragg.beamline.run_engine import make_run_engine
from offbragg.plans.temperature import temperature_series
from offbragg.sweep import Sweep

TEMPERATURES = (170.0, 168.0, 166.0)  # of a series, K
SWEEPS = 4  # at each of them
STEP = 0.1  # degree
PERIOD = round(1.0 / float(os.environ.get("OFFBRAGG_SOAK_RATE", "80")), 4)  # s
READOUT = 0.001  # s
SAMPLES = 5
_WAIT = 2.0  # s after a series that failed


def main(beamline: str, wanted: int, report: Path) -> None:
    """Measure series of one sample after the other."""
    config = load(Path(beamline))
    logging.basicConfig(filename=config.paths.log / "engine.log", level=logging.WARNING)
    devices = build_devices(config, timeout=60.0)
    RE = make_run_engine(config, devices)
    RE.md["replay"] = "soak"  # the frames' headers are those of another place
    each = int(os.environ.get("OFFBRAGG_SOAK_SWEEP", "3600"))
    sweep = Sweep("phi", 0.0, STEP, each, round(PERIOD - READOUT, 6), PERIOD)
    done = {"series": 0, "runs": 0, "frames": 0, "failed": 0}

    def ended(_: str, stop: dict[str, Any]) -> None:
        done["runs"] += 1
        done["frames"] += stop["num_events"].get("primary", 0)
        with report.open("a") as file:
            file.write(json.dumps({"time": time.time(), **done}) + "\n")

    RE.subscribe(ended, "stop")
    while done["frames"] < wanted:
        series = done["series"]
        # with its orientation, so that live volumes begin at once
        RE.md["sample"] = {
            "name": f"sample{series % SAMPLES}", "label": f"crystal{series // SAMPLES}",
            "formula": "KMnF3", "space_group": "P m -3 m",
            "lattice": [4.186, 4.186, 4.186, 90.0, 90.0, 90.0],
            "UB": [[1 / 4.186, 0.0, 0.0], [0.0, 1 / 4.186, 0.0], [0.0, 0.0, 1 / 4.186]],
        }  # fmt: skip
        left = -(-(wanted - done["frames"]) // each)
        some = TEMPERATURES[: min(len(TEMPERATURES), -(-left // SWEEPS))]
        try:
            RE(temperature_series(some, [sweep] * min(SWEEPS, left)))
        except Exception:
            logging.getLogger("soak").exception("series %d", series)
            done["failed"] += 1
            time.sleep(_WAIT)
        done["series"] += 1
        if done["failed"] > 20 and done["failed"] > series / 2:
            raise SystemExit("most series fail: see engine.log")
    destroy_devices(devices)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
