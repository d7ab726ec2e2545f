"""Sweeps in processes of their own that kill themselves at a document or a message.

``python measure_killed.py``: each line of its input is a JSON object, one sweep:

``beamline``
    The file of the beamline.
``journal``, ``experiment``
    Paths instead of those in it.
``trigger``
    Mode of the detector.
``point``
    "KIND:WHICH[+SECONDS]", where the process is killed, or "" for nowhere. KIND is "message" or
    "document"; WHICH a number, or for a message its command and what it is for, as
    "kickoff pilatus"; SECONDS pass before the kill while the devices' own threads go on.

It is answered with one JSON object: ``status``, as `os.waitstatus_to_exitcode` gives it, and
``printed``: ``open UID`` when the run begins, ``message N …`` and ``document N …`` for each.

Everything is imported once, and each sweep is a fork, made and connected while the one before is
looked at: the imports take as long as half a sweep. The first process never uses Channel Access,
whose threads a fork would lose.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ["OPHYD_CONTROL_LAYER"] = "dummy"  # libca begins in each child

import ophyd

import offbragg.callbacks.journal
import offbragg.callbacks.recall
import offbragg.callbacks.watchdog
import offbragg.devices.ca_messages
import offbragg.devices.goniometer
import offbragg.devices.pilatus
import offbragg.devices.position_compare
import offbragg.plans.defaults
import offbragg.plans.watch  # noqa: F401
from offbragg.beamline import build_devices, load, make_run_engine
from offbragg.plans import rotation_scan
from offbragg.sweep import Sweep

SWEEP = Sweep(axis="phi", start=0.0, step=0.5, n_frames=6, exposure=0.097, period=0.1)


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


def measure(beamline: str, orders: Any) -> None:
    """Connect to the devices, wait for what to do, and do it."""
    config = load(beamline)
    devices = build_devices(
        config, ["pilatus", "phi", "monitor", "compare", "shutter"], timeout=30.0
    )
    line = orders.readline()
    if not line:
        return  # nobody needs it
    order = json.loads(line)
    paths = {key: Path(order[key]) for key in ("journal", "experiment")}
    config = config.model_copy(
        update={"per_frame": {}, "baseline": [], "paths": config.paths.model_copy(update=paths)}
    )
    devices["pilatus"].trigger_mode = order["trigger"]
    RE = make_run_engine(config, devices, context_managers=[])
    RE.md["sample"] = {"name": "perovskite", "label": "c1"}
    killing = Killing(order["point"])
    RE.subscribe(killing.document)  # after the journal, which has it by then
    RE.msg_hook = killing.message
    flyers = ["monitor"] + (["compare"] if order["trigger"] != "internal" else [])
    RE(
        rotation_scan(
            devices["pilatus"], devices["phi"], SWEEP,
            md={"temperature": {"setpoint": 120.0, "direction": "hold"}},
            flyers=[devices[each] for each in flyers], shutter=devices["shutter"],
        )
    )  # fmt: skip
    print("done", flush=True)


class Child:
    """A process that is connected to the beamline and waits for its sweep."""

    def __init__(self, beamline: str) -> None:
        self.beamline = beamline
        self._printed = tempfile.TemporaryFile("w+")  # noqa: SIM115 - until `end`
        self._orders = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._run()
        os.close(self._orders[0])

    def _run(self) -> None:
        code = 1
        try:
            os.close(self._orders[1])
            os.dup2(self._printed.fileno(), 1)
            os.dup2(self._printed.fileno(), 2)
            ophyd.set_cl("pyepics")
            with os.fdopen(self._orders[0]) as orders:
                measure(self.beamline, orders)
            code = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def measure(self, order: str) -> dict[str, Any]:
        """Let it do its sweep; return how it ended."""
        os.write(self._orders[1], order.encode())
        return self.end()

    def end(self) -> dict[str, Any]:
        """Wait for its end; without an order it ends at once."""
        os.close(self._orders[1])
        _, status = os.waitpid(self.pid, 0)
        with self._printed as printed:
            printed.seek(0)
            return {"status": os.waitstatus_to_exitcode(status), "printed": printed.read()}


def main() -> None:
    spare: Child | None = None
    for order in sys.stdin:
        beamline = json.loads(order)["beamline"]
        child = spare if spare is not None else Child(beamline)
        print(json.dumps(child.measure(order)), flush=True)
        spare = Child(beamline)
    if spare is not None:
        spare.end()


if __name__ == "__main__":
    main()
