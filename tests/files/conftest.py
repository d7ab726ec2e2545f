"""Frame files and start documents, made by hand."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from streams import byte_offset

from offbragg.geometry import Geometry
from offbragg.sweep import Sweep

SHAPE = (20, 30)


HEADER = """# Detector: PILATUS 100K, S/N 1-0001
# 2026-03-05T09:01:45.613
# Pixel_size 172e-6 m x 172e-6 m
# Silicon sensor, thickness 0.000450 m
# Exposure_time 0.0970000 s
# Exposure_period 0.1000000 s
# Count_cutoff 1048574 counts
# Wavelength 0.6889 A
# Detector_distance 0.16000 m
# Beam_xy (15.50, 10.25) pixels
# Start_angle 10.0000 deg.
# Angle_increment 0.1000 deg.
# Oscillation_axis PHI"""


def cbf(
    counts: np.ndarray,
    *,
    header: str = HEADER,
    md5: bool | str = True,
    newline: str = "\r\n",
    stream: bytes | None = None,
    **promises: Any,
) -> bytes:
    """A CBF file like camserver's; keyword arguments replace what it says of itself."""
    packed = byte_offset(counts) if stream is None else stream
    stated = {
        "Size": len(packed),
        "ID": 1,
        "Element-Type": '"signed 32-bit integer"',
        "Element-Byte-Order": "LITTLE_ENDIAN",
        "Number-of-Elements": counts.size,
        "Size-Fastest-Dimension": counts.shape[1],
        "Size-Second-Dimension": counts.shape[0],
        "Size-Padding": 4095,
    } | {key.replace("_", "-"): value for key, value in promises.items()}
    lines = [
        "###CBF: VERSION 1.5, CBFlib v0.7.8 - PILATUS detectors",
        "data_x_00001",
        '_array_data.header_convention "PILATUS_1.2"',
        "_array_data.header_contents",
        ";",
        *header.split("\n"),
        ";",
        "_array_data.data",
        ";",
        "--CIF-BINARY-FORMAT-SECTION--",
        "Content-Type: application/octet-stream;",
        '     conversions="x-CBF_BYTE_OFFSET"',
        "Content-Transfer-Encoding: BINARY",
        *[f"X-Binary-{key}: {value}" for key, value in stated.items() if value is not None],
    ]
    if md5:
        declared = md5 if isinstance(md5, str) else base64.b64encode(hashlib.md5(packed).digest())
        lines.append(f"Content-MD5: {declared if isinstance(declared, str) else declared.decode()}")
    text = newline.join([*lines, "", ""]).encode("latin-1")
    end = b"--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n\r\n"
    return text + b"\x0c\x1a\x04\xd5" + packed + b"\0" * 4095 + b"\r\n" + end


def tiff(counts: np.ndarray, *, description: str = HEADER, **tags: int) -> bytes:
    """A TIFF file like camserver's: directory first, pixels from byte 4096 on."""
    text = description.encode("latin-1") + b"\0"
    pixels = counts.astype("<i4").tobytes()
    entries = {
        "width": (256, 4, 1, counts.shape[1]),
        "length": (257, 4, 1, counts.shape[0]),
        "bits": (258, 3, 1, 32),
        "compression": (259, 3, 1, 1),
        "description": (270, 2, len(text), 1024),
        "offset": (273, 4, 1, 4096),
        "samples": (277, 3, 1, 1),
        "rows_per_strip": (278, 4, 1, counts.shape[0]),
        "bytes": (279, 4, 1, len(pixels)),
        "format": (339, 3, 1, 2),
    }
    directory = struct.pack("<H", len(entries))
    for name, (tag, kind, n, value) in entries.items():
        value = tags.get(name, value)
        packed = struct.pack("<HH", value, 0) if kind == 3 else struct.pack("<I", value)
        directory += struct.pack("<HHI", tag, kind, n) + packed
    head = b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0)
    return (head.ljust(1024, b"\0") + text).ljust(4096, b"\0") + pixels


def counts_of(number: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Counts that no other frame has, with a gap and a dead pixel."""
    counts = np.random.default_rng(number).poisson(40.0, shape).astype(np.int32)
    counts[0, :3] = 1000 * number, 40_000, 1_000_000
    counts[7] = -1
    counts[3, 4] = -2
    return counts


@pytest.fixture
def make_counts() -> Callable[..., np.ndarray]:
    return counts_of


@pytest.fixture
def make_cbf() -> Callable[..., bytes]:
    return cbf


@pytest.fixture
def make_tiff() -> Callable[..., bytes]:
    return tiff


@pytest.fixture
def start() -> dict[str, Any]:
    """A start document of a 6-frame sweep with everything in it."""
    sweep = Sweep("phi", start=-5.0, step=0.5, n_frames=6, exposure=0.097, period=0.1)
    geometry = Geometry.from_dict(
        {
            "wavelength": 0.6889,
            "panel": {
                "origin": [2.7, 1.9, 100.0],
                "fast": [-1.0, 0.0, 0.0],
                "slow": [0.0, -1.0, 0.0],
                "pixel_size": [0.172, 0.172],
                "shape": list(SHAPE),
            },
            "axes": [
                {"name": "phi", "vector": [0.0, 1.0, 0.0], "angle": 0.0},
                {"name": "chi", "vector": [0.0, 0.0, 1.0], "angle": -90.0},
            ],
            "scan_axis": "phi",
        }
    )
    return {
        "uid": "1f0c0d5e-0000-4000-8000-000000000001",
        "time": 1_770_000_000.25,
        "scan_id": 12,
        "plan_name": "rotation_scan",
        "purpose": "data",
        "beamline_id": "simulated",
        "wavelength": 0.6889,
        "proposal": "2026-1",
        "sample": {
            "name": "LSMO-140",
            "label": "crystal1",
            "formula": "La0.7Sr0.3MnO3",
            "space_group": "P m -3 m",
            "lattice": [3.88, 3.9, 4.1, 85.0, 92.0, 100.0],
            "UB": [[0.25, 0.01, 0.0], [0.0, 0.26, 0.02], [-0.01, 0.0, 0.24]],
        },
        "temperature": {
            "setpoint": 102.5,
            "direction": "warming",
            "settled": {"mean": 102.47, "std": 0.02, "window": 60.0},
        },
        "sweep": sweep.to_dict(),
        "geometry": geometry.to_dict(),
        "detector": {
            "name": "pilatus",
            "model": "PILATUS 100K",
            "serial": "1-0001",
            "sensor_material": "Si",
            "sensor_thickness": 0.45,
            "saturation": 1_048_574,
            "threshold": 9.0,
            "energy": 18.0,
            "format": "cbf",
            "shape": list(SHAPE),
        },
        "per_frame": {
            "monitor": {"key": "monitor_counts", "by": "monitor_frame", "units": "counts"},
            "temperature": {"key": "cryostream_temperature", "units": "K"},
            "ring": {"key": "ring_current", "units": "mA"},
        },
    }
