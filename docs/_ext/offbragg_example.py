"""One small sweep, stored as offbragg stores any: what the file-layout page shows."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from offbragg.frame import Frame
from offbragg.geometry import Geometry
from offbragg.instrument import Axis, Panel
from offbragg.ledger import FrameStatus
from offbragg.sample import Sample
from offbragg.sweep import Sweep

BEGAN = 1_790_000_000.0  # POSIX s


def example_start() -> dict:
    """Make the start document of three frames on a detector of 4 × 6 pixels."""
    shape = (4, 6)
    geometry = Geometry(
        wavelength=0.7,
        panel=Panel(
            origin=(0.516, 0.344, 200.0),
            fast=(-1.0, 0.0, 0.0),
            slow=(0.0, -1.0, 0.0),
            pixel_size=(0.172, 0.172),
            shape=shape,
        ),
        axes=(Axis("phi", (-1.0, 0.0, 0.0)),),
        scan_axis="phi",
    )
    sample = Sample(
        name="LSMO-140",
        label="crystal_2",
        formula="La0.7Sr0.3MnO3",
        composition="30 % Sr, grown in air",
        space_group="P m -3 m",
        lattice=(3.9, 3.9, 3.9, 90.0, 90.0, 90.0),
        UB=((1 / 3.9, 0.0, 0.0), (0.0, 1 / 3.9, 0.0), (0.0, 0.0, 1 / 3.9)),
    )
    return {
        "uid": "3f2b8c1e-0000-4000-8000-000000000000",
        "time": BEGAN,
        "scan_id": 17,
        "plan_name": "rotation_scan",
        "purpose": "data",
        "beamline_id": "simulated",
        "wavelength": geometry.wavelength,
        "sample": sample.to_dict(),
        "temperature": {
            "setpoint": 100.0,
            "direction": "warming",
            "settled": {"mean": 100.02, "std": 0.03, "window": 60.0},
        },
        "sweep": Sweep("phi", 0.0, 0.5, 3, 0.098, 0.1).to_dict(),
        "geometry": geometry.to_dict(),
        "detector": {
            "name": "pilatus",
            "model": "PILATUS 100K",
            "serial": "S/N 0-0000",
            "sensor_material": "Si",
            "sensor_thickness": 0.32,
            "saturation": 1_048_574,
            "threshold": 8.85,
            "energy": 17.7,
            "bad_pixels": {"n": 12, "file": "/det/bad_pixels.txt"},
            "flat_field": {"file": "/det/flat_field.tif"},
            "header_template": "/det/template.cbf",
            "format": "cbf",
            "shape": list(shape),
        },
        "per_frame": {
            "monitor": {"key": "monitor_counts", "by": "monitor_frame", "units": "counts"},
            "temperature": {"key": "cryostream_temperature", "units": "K"},
            "ring": {"key": "ring_current", "units": "mA"},
            "angle": {
                "key": "phi_read_back",
                "how": "read-back",
                "before": 0.22,
                "after": 0.11,
                "units": "degree",
            },
        },
        "series": {
            "uid": "7c0de0aa-0000-4000-8000-000000000000",
            "index": 0,
            "kind": "temperature",
        },
    }


def example_scan_file(scan_writer: ModuleType, folder: Path) -> Path:
    """Write a scan file of three frames with the given module; return its path."""
    start = example_start()
    scan = scan_writer.ScanWriter.create(folder, start=start)
    counts = np.arange(24, dtype=np.int32).reshape(4, 6)
    for number in (0, 2):
        frame = Frame(number=number, counts=counts, header={}, md5=None, verified=False)
        scan.write_frame(frame, source=f"LSMO_{number:05d}.cbf", time=BEGAN + 0.1 * number)
    scan.mark(1, FrameStatus.MISSING, "LSMO_00001.cbf was not there 5 s after it was due")
    scan.set_values("temperature", np.arange(3), np.array([100.01, 100.02, 100.02]))
    scan.set_values("angle", np.arange(3), np.array([0.252, 0.753, 1.252]))
    scan.set_values("angle_sigma", np.arange(3), np.full(3, 0.001))
    scan.finish(
        time=BEGAN + 1.0,
        exit_status="success",
        reason="",
        summary={
            "angles": {
                "source": "read-back",
                "measured": 3,
                "first_offset": 0.002,
                "largest_offset": 0.003,
                "sigma": 0.001,
                "clock_difference": -0.0004,
            },
            "temperature": {"mean": 100.02, "std": 0.005, "span": 0.01},
        },
    )
    return scan.path
