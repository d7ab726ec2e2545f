"""A small beamline made from files, without Channel Access, and its catalog in a process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from catalog.served import PublishedRun
from measured import AS_SIMULATED, Measured
from runs import wait_until

from offbragg.beamline.config import Beamline, load
from offbragg.catalog.authentication import reading_key
from offbragg.catalog.client import connect
from offbragg.catalog.one_time import create_link
from offbragg.catalog.volumes import publish_volume
from offbragg.files.engine_file import engine_file
from offbragg.files.held_file import HeldFile
from offbragg.frame import Frame
from offbragg.workflows.choices import Choices
from offbragg.workflows.reduce import reduce_to_file

TEMPERATURES = (90.0, 140.0, 200.0)
SAMPLES = ("LSMO-140", "LSMO-142")
N = 8  # frames of a sweep
MISSING, REJECTED = 3, 5
CHOICES = Choices(step=0.1, corrections=AS_SIMULATED)

SERVE = """
import sys
from offbragg.catalog import volume_watch
from offbragg.__main__ import main
volume_watch.EVERY = 0.2
main()
"""


@dataclass
class ShownRun(PublishedRun):
    """A run of the simulated crystal in a series."""

    n_frames: int = N
    sample: str = SAMPLES[0]
    scan_id: int = 1
    interval: float = 0.0
    series: dict[str, Any] = field(default_factory=dict)
    sweep_of: tuple[int, int] = (0, 0)
    plan: str = "temperature_series"
    proposal: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sweep = Measured(n_frames=self.n_frames, step=2.0, temperature=self.temperature)

    @property
    def start(self) -> dict[str, Any]:
        of_sweep = self.sweep.start
        start = {
            **super().start, **of_sweep, "uid": self.uid, "time": self.began,
            "scan_id": self.scan_id, "plan_name": self.plan, "series": self.series,
            "sample": {**of_sweep["sample"], "name": self.sample},
            "temperature": {"setpoint": self.temperature, "direction": "warming"},
            "per_frame": super().start["per_frame"],
        }  # fmt: skip
        if self.proposal:
            start["proposal"] = self.proposal
        return start if self.series else {k: v for k, v in start.items() if k != "series"}

    def store(self, *numbers: int) -> None:
        assert self.scan is not None
        for n in numbers:
            self.scan.set_values("monitor", [n], [self.sweep.flux[n]])
            self.scan.set_values("temperature", [n], [self.temperature + 0.01 * n])
            frame = Frame(number=n, counts=self.sweep.counts[n], header={})
            self.scan.write_frame(frame, source=f"x_{n:05d}.cbf", time=self.began + 0.1 * n)

    def take(self, *numbers: int) -> None:
        """Let frames come as they do while the crystal turns: announced, counted, stored."""
        self.announce(max(numbers) + 1)
        self.monitor_counted(list(numbers))
        self.store(*numbers)

    def publish(self) -> None:
        """Let the catalog have what there is."""
        if self.follower is None:
            self.open()
        self.feed()


def series_of(uid: str, index: int, sweep_of: tuple[int, int], samples: str) -> dict[str, Any]:
    """What a start document has of its series."""
    sweep = Measured(n_frames=N, step=2.0).sweep.to_dict()
    parameters = {
        "detector": "pilatus", "axis": "phi", "cryostream": "cryostream",
        "temperatures": list(TEMPERATURES), "sweeps": [sweep], "order": "given", "md": [],
    }  # fmt: skip
    return {"uid": uid, "index": index, "kind": "temperature", "sweep_of": list(sweep_of),
            "parameters": parameters}  # fmt: skip


@dataclass
class ShownBeamline:
    """What the tests of the page look at."""

    root: Path
    config: Beamline
    process: subprocess.Popen[bytes] | None = None
    runs: list[ShownRun] = field(default_factory=list)
    engine: HeldFile | None = None
    volumes: list[str] = field(default_factory=list)
    """Keys of the finished volumes, in the order of the runs."""

    @classmethod
    def create(cls, root: Path) -> ShownBeamline:
        folders = {name: root / name for name in ("experiment", "frames", "journal", "log")}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        content = {
            "beamline_id": "simulated", "baseline": [],
            "paths": {**{k: str(v) for k, v in folders.items()}, "catalog": str(root / "catalog")},
            "catalog": {"port": 0, "trusted_proxies": ["127.0.0.1"]},
            "devices": {}, "per_frame": {},
        }  # fmt: skip
        file = root / "beamline.toml"
        file.write_text(tomli_w.dumps(content))
        return cls(root, load(file))

    # -- the catalog ---------------------------------------------------------------------------

    def begin(self, *, port: int = 0) -> None:
        """Start the catalog without waiting for it."""
        if port:
            file = self.root / "beamline.toml"
            file.write_text(file.read_text().replace("port = 0", f"port = {port}"))
        self.ready.unlink(missing_ok=True)
        options = ["--beamline", str(self.root / "beamline.toml"), "--ready", str(self.ready)]
        command = [sys.executable, "-c", SERVE, "serve", *options]
        with (self.root / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--with-parent", str(os.getpid())], stdout=log, stderr=log
            )

    def wait(self) -> None:
        process = self.process
        assert process is not None
        wait_until(lambda: self.ready.exists() or process.poll() is not None, 90.0, "the catalog")
        assert process.poll() is None, (self.root / "serve.log").read_text()

    def close(self) -> None:
        """End everything, also runs that were left open."""
        self.is_gone()
        self.end()
        for run in self.runs:
            run.journal.close()
            if run.scan is not None:
                with contextlib.suppress(Exception):
                    run.scan.close()

    def end(self) -> None:
        """End the catalog."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=30)
            self.process = None

    def restart(self) -> None:
        """Start the catalog again at the same address."""
        port = int(self.url.rpartition(":")[2])
        self.end()
        self.begin(port=port)
        self.wait()

    @property
    def ready(self) -> Path:
        return self.root / "ready.json"

    @property
    def url(self) -> str:
        if self.ready.exists():
            self._url = json.loads(self.ready.read_text())["url"]
        return self._url

    @property
    def key(self) -> str:
        """The catalog's own key."""
        return (self.root / "catalog" / "key").read_text().strip()

    @property
    def reading_key(self) -> str:
        return reading_key(self.key, ends=time.time() + 3600)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Apikey {self.reading_key}"}

    def link(self) -> str:
        """An address that lets a browser in, once."""
        return create_link(self.config.paths.catalog, self.url)

    # -- the RunEngine ---------------------------------------------------------------------------

    def says(self, state: str = "measuring", **more: Any) -> None:
        """Let a RunEngine say what it does, as `offbragg.beamline.engine_report` writes it."""
        if self.engine is None:
            self.engine = HeldFile(engine_file(self.config.paths.journal))
        now = time.time()
        values = {
            "temperature": {"value": 90.08, "unit": "K", "set": 90.0, "window": 0.2,
                            "label": "cryostream", "time": now},
            "phi": {"value": 12.5, "unit": "°", "label": "phi", "time": now},
            "ring": {"value": 101.9, "unit": "mA", "label": "ring", "time": now},
            "shutter": {"value": "open", "unit": "", "label": "shutter", "time": now},
            "monitor": {"value": 197603.0, "unit": "counts", "time": now},
        }  # fmt: skip
        report = {"state": state, "since": now, "plan": "temperature_series", "run": None,
                  "series": None, "waits": [], "values": values}  # fmt: skip
        self.engine.write({"time": now, "pid": os.getpid(), **report, **more})

    def is_gone(self) -> None:
        """Let the RunEngine's process end."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None

    # -- runs ----------------------------------------------------------------------------------

    def run(self, **more: Any) -> ShownRun:
        """Open a run with a scan file; nothing of it is in the catalog yet."""
        made = ShownRun(self.root, scan_id=len(self.runs) + 1, **more)
        self.runs.append(made)
        made.begin().create_scan_file()
        return made

    def publish(self, runs: Sequence[ShownRun]) -> None:
        client = connect(self.url, self.key)
        for run in runs:
            run.client = client
            run.publish()

    def reduce(self, run: ShownRun) -> Path:
        assert run.scan is not None
        made = run.scan.path.with_name("volume-f1.h5")
        reduce_to_file([run.scan.path], CHOICES, made, say=lambda text: None)
        return made

    def publish_volume(self, path: Path) -> str:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return publish_volume(path, host=host, port=int(port), key=self.key)


def whole_beamline(root: Path) -> ShownBeamline:
    """A series of 3 temperatures, one run of another sample, faults, and volumes.

    Runs, oldest first: LSMO-140 at 90, 140 (frame 3 missing, 5 rejected) and 200 K, of one series;
    LSMO-142 at 90 K, of a second one, which is to go on. The first three have a finished volume.
    """
    made = ShownBeamline.create(root)
    made.begin()
    now = time.time()
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    for i, kelvin in enumerate((*TEMPERATURES, TEMPERATURES[0])):
        sample, series = (SAMPLES[0], first) if i < 3 else (SAMPLES[1], second)
        where = (i % 3, 0)
        run = made.run(
            sample=sample, temperature=kelvin, began=now - 3600.0 + 600.0 * i,
            series=series_of(series, i % 3, where, sample), sweep_of=where,
        )  # fmt: skip
        faulty = {MISSING, REJECTED} if i == 1 else set()
        run.store(*(n for n in range(N) if n not in faulty))
        if faulty:
            run.scan.mark(MISSING, "missing", "x_00003.cbf was not there 5 s after it was due")
            run.scan.mark(REJECTED, "rejected", "x_00005.cbf does not have its own checksum")
        run.monitor_counted(list(range(N)))
        run.announce(N)
        run.finish()
    volumes = [made.reduce(run) for run in made.runs[:3]]
    made.wait()
    made.publish(made.runs)
    made.volumes = [made.publish_volume(path) for path in volumes]
    return made
