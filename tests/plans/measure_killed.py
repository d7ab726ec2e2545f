"""A sweep in a process of its own that kills itself at a document or a message.

``python measure_killed.py BEAMLINE.TOML TRIGGER [KIND:WHICH[+SECONDS]]``: KIND is "message" or
"document", WHICH a number, or for a message its command and what it is for, as "kickoff pilatus";
SECONDS pass before the kill while the devices' own threads go on. Prints ``open UID`` when the run
begins, ``message N …`` and ``document N …`` for each.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from offbragg.beamline import build_devices, load, make_run_engine
from offbragg.plans import rotation_scan
from offbragg.sweep import Sweep

SWEEP = Sweep(axis="phi", start=0.0, step=0.5, n_frames=10, exposure=0.097, period=0.1)


class Killing:
    """Counts what comes, and kills this process when it is what was asked for."""

    def __init__(self, point: str) -> None:
        self.kind, _, which = point.partition(":")
        self.which, _, seconds = which.partition("+")
        self.seconds = float(seconds or 0.0)
        self.numbers = {"message": 0, "document": 0}

    def at(self, kind: str, what: str) -> None:
        number = self.numbers[kind]
        self.numbers[kind] = number + 1
        print(kind, number, what, flush=True)
        if kind == self.kind and self.which in (str(number), what):
            time.sleep(self.seconds)
            os.kill(os.getpid(), signal.SIGKILL)

    def message(self, msg: Any) -> None:
        self.at("message", f"{msg.command} {getattr(msg.obj, 'name', '')}".strip())

    def document(self, name: str, doc: dict[str, Any]) -> None:
        if name == "start":
            print("open", doc["uid"], flush=True)
        self.at("document", name)


def main() -> None:
    config = load(sys.argv[1])
    devices = build_devices(
        config, ["pilatus", "phi", "monitor", "compare", "shutter"], timeout=30.0
    )
    devices["pilatus"].trigger_mode = sys.argv[2]
    config = config.model_copy(update={"per_frame": {}, "baseline": []})
    RE = make_run_engine(config, devices, context_managers=[])
    RE.md["sample"] = {"name": "perovskite", "label": "c1"}
    killing = Killing(sys.argv[3] if len(sys.argv) > 3 else "nothing:0")
    RE.subscribe(killing.document)  # after the journal, which has it by then
    RE.msg_hook = killing.message
    flyers = [devices["monitor"]] + (["compare"] if sys.argv[2] != "internal" else [])
    RE(
        rotation_scan(
            devices["pilatus"], devices["phi"], SWEEP,
            md={"temperature": {"setpoint": 120.0, "direction": "hold"}},
            flyers=[devices[each] if isinstance(each, str) else each for each in flyers],
            shutter=devices["shutter"],
        )
    )  # fmt: skip
    print("done", flush=True)


if __name__ == "__main__":
    main()
