"""A run's documents and its frame files, made by hand, without a beamline."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from offbragg.callbacks.journal import Journal
from sim_iocs.cbf import encode_cbf

SHAPE = (195, 487)
MIMETYPES = {
    "cbf": "multipart/related;type=image/x-cbf",
    "tif": "multipart/related;type=image/tiff",
}


def counts_of(number: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Counts that cannot be taken for another frame's."""
    counts = np.random.default_rng(number).poisson(3.0, shape).astype(np.int32)
    counts[0, 0] = number
    counts[5, 5] = 1_000_000 + number
    counts[10] = -1
    return counts


@dataclass
class MeasuredRun:
    """The journal and the frame files of one sweep, made by hand, step by step."""

    root: Path
    n_frames: int = 10
    temperature: float = 120.0
    late: float = 0.3
    period: float = 0.1
    suffix: str = "cbf"
    per_frame: dict[str, Any] = field(default_factory=dict)  # more columns
    first: int = 0  # number of its first frame in the sweep that it is a piece of
    series: dict[str, Any] = field(default_factory=dict)  # more of `series`
    scan_id: int = 1
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    began: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.frames = self.root / "frames" / self.uid[:8]
        self.frames.mkdir(parents=True)
        self.journal_directory = self.root / "journal"
        self.experiment = self.root / "experiment"
        self.journal = Journal(self.journal_directory)
        self.descriptor = str(uuid.uuid4())
        self.resource = str(uuid.uuid4())
        self.announced = 0

    @property
    def start(self) -> dict[str, Any]:
        return {
            "uid": self.uid,
            "time": self.began,
            "scan_id": self.scan_id,
            "purpose": "data",
            "beamline_id": "test",
            "plan_name": "rotation_scan",
            "wavelength": 0.7,
            "sample": {
                "name": "LSMO-140",
                "label": "c1",
                "formula": "La0.7Sr0.3MnO3",
                "space_group": "P m -3 m",
                "lattice": [4.0, 4.0, 4.0, 90.0, 90.0, 90.0],
                "UB": [[0.25, 0.0, 0.0], [0.0, 0.25, 0.0], [0.0, 0.0, 0.25]],
            },
            "temperature": {"setpoint": self.temperature, "direction": "cooling"},
            "sweep": {
                "axis": "phi",
                "start": 0.5 * self.first,
                "step": 0.5,
                "n_frames": self.n_frames,
                "exposure": round(self.period - 0.002, 6),
                "period": self.period,
            },
            "geometry": {
                "wavelength": 0.7,
                "panel": {
                    "origin": [41.882, 16.77, 100.0],
                    "fast": [-1.0, 0.0, 0.0],
                    "slow": [0.0, -1.0, 0.0],
                    "pixel_size": [0.172, 0.172],
                    "shape": list(SHAPE),
                },
                "axes": [{"name": "phi", "vector": [-1.0, 0.0, 0.0], "angle": 0.0}],
                "scan_axis": "phi",
            },
            "detector": {
                "name": "pilatus",
                "model": "PILATUS 100K",
                "serial": "test",
                "sensor_material": "Si",
                "sensor_thickness": 0.32,
                "saturation": 1048575,
                "threshold": 9.0,
                "energy": 17.7,
                "format": "cbf",
                "shape": list(SHAPE),
            },
            "per_frame": {
                "monitor": {"key": "monitor_counts", "by": "monitor_frame", "units": "counts"},
                "temperature": {"key": "cryostream_temperature", "units": "K"},
                **self.per_frame,
            },
            "series": {"uid": "a-series", "index": 0, "kind": "temperature"} | self.series,
        }

    def begin(self) -> MeasuredRun:
        """Open the run: start, descriptors, where the frames are, one temperature."""
        self.journal("start", self.start)
        self.journal(
            "descriptor",
            {
                "uid": self.descriptor,
                "run_start": self.uid,
                "time": self.began,
                "name": "primary",
                "data_keys": {
                    "pilatus_image": {
                        "source": "test",
                        "dtype": "array",
                        "dtype_numpy": "<i4",
                        "shape": self.start["detector"]["shape"],
                        "external": "STREAM:",
                    }
                },
                "object_keys": {"pilatus": ["pilatus_image"]},
                "configuration": {},
                "hints": {},
            },
        )
        for name, keys in (
            ("cryostream_temperature", ["cryostream_temperature"]),
            ("monitor", ["monitor_frame", "monitor_counts"]),
        ):
            self.journal(
                "descriptor",
                {
                    "uid": f"{self.uid}-{name}",
                    "run_start": self.uid,
                    "time": self.began,
                    "name": name,
                    "data_keys": {
                        k: {"source": "test", "dtype": "number", "shape": []} for k in keys
                    },
                    "object_keys": {name: keys},
                    "configuration": {},
                    "hints": {},
                },
            )
        self.journal(
            "stream_resource",
            {
                "uid": self.resource,
                "run_start": self.uid,
                "data_key": "pilatus_image",
                "mimetype": MIMETYPES[self.suffix],
                "uri": f"file://localhost{self.frames}/",
                "parameters": {
                    "template": f"x_{{:05d}}.{self.suffix}",
                    "chunk_shape": [1],
                    "exposure_started": self.began,
                },
            },
        )
        self.temperature_is(self.temperature, at=self.began - 10.0)
        return self

    def temperature_is(self, kelvin: float, *, at: float, seq_num: int = 1) -> None:
        self.journal(
            "event",
            {
                "uid": str(uuid.uuid4()),
                "descriptor": f"{self.uid}-cryostream_temperature",
                "time": at,
                "seq_num": seq_num,
                "data": {"cryostream_temperature": kelvin},
                "timestamps": {"cryostream_temperature": at},
            },
        )

    def monitor_counted(self, numbers: list[int]) -> None:
        """Post the incident monitor of some frames: 1000 + the frame's number."""
        when = [self.began + 0.1 * (n + 1) for n in numbers]
        self.journal(
            "event_page",
            {
                "uid": [str(uuid.uuid4()) for _ in numbers],
                "descriptor": f"{self.uid}-monitor",
                "time": when,
                "seq_num": [n + 1 for n in numbers],
                "data": {
                    "monitor_frame": numbers,
                    "monitor_counts": [1000.0 + n for n in numbers],
                },
                "timestamps": {"monitor_frame": when, "monitor_counts": when},
            },
        )

    def path(self, number: int) -> Path:
        return self.frames / f"x_{number:05d}.{self.suffix}"

    def write(self, *numbers: int, damage: Callable[[bytes], bytes] | None = None) -> None:
        """Write frame files."""
        for number in numbers:
            content = encode_cbf(counts_of(number), name=f"x_{number:05d}", header=["test"])
            self.path(number).write_bytes(damage(content) if damage else content)

    def announce(self, stop: int) -> None:
        """Announce that the frames below `stop` are expected by now."""
        self.journal(
            "stream_datum",
            {
                "uid": str(uuid.uuid4()),
                "stream_resource": self.resource,
                "descriptor": self.descriptor,
                "indices": {"start": self.announced, "stop": stop},
                "seq_nums": {"start": self.announced + 1, "stop": stop + 1},
            },
        )
        self.announced = stop

    def end(self, exit_status: str = "success") -> None:
        self.journal(
            "stop",
            {
                "uid": str(uuid.uuid4()),
                "run_start": self.uid,
                "time": time.time(),
                "exit_status": exit_status,
                "num_events": {"primary": self.announced},
            },
        )


def wait_until(condition: Callable[[], Any], timeout: float = 30.0, what: str = "") -> Any:
    """Return the first true value of a condition, or fail after the time-out."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout:g} s: {what or condition}")


def run_demo(out: Path, *options: str) -> dict[str, Any]:
    """Type ``offbragg demo``; give what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "offbragg", "demo", "--out", str(out), "--json", *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    return json.loads(done.stdout)
