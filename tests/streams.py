"""Streams and chunks for the kernels, and where the real frames are."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from offbragg import kernels

SHAPE_2M = (1679, 1475)
_FOLDER = Path("shared") / "data" / "l-cysteine"


def real_files() -> list[Path]:
    for parent in Path(__file__).resolve().parents:
        if (parent / _FOLDER).is_dir():
            return sorted((parent / _FOLDER).glob("*.cbf"))
    return []


def byte_offset(counts: np.ndarray) -> bytes:
    """Byte-offset coding as the CBF specification says it, one pixel at a time."""
    out, last = bytearray(), 0
    for value in counts.ravel().tolist():
        step, last = value - last, value
        if abs(step) <= 127:
            out += struct.pack("<b", step)
        elif abs(step) <= 32767:
            out += b"\x80" + struct.pack("<h", step)
        elif abs(step) <= 2**31 - 1:
            out += b"\x80\x00\x80" + struct.pack("<i", step)
        else:
            out += b"\x80\x00\x80\x00\x00\x00\x80" + struct.pack("<q", step)
    return bytes(out)


def as_hdf5plugin_reads(chunk: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """What h5py gives for a dataset of this one chunk."""
    with h5py.File(io.BytesIO(), "w") as file:
        data = file.create_dataset(
            "x", shape, "<i4", chunks=shape, **hdf5plugin.Bitshuffle(nelems=0, cname="lz4")
        )
        data.id.write_direct_chunk((0,) * len(shape), chunk.tobytes())
        return data[()]


def chunk_for(n: int) -> np.ndarray:
    return np.full(kernels.chunk_bound(n), 0xA5, np.uint8)


def generated() -> np.ndarray:
    """Air scatter, diffuse streaks and Bragg peaks on a 2M with its gaps: 1 MB in a chunk."""
    rng = np.random.default_rng(2)
    slow, fast = np.ogrid[: SHAPE_2M[0], : SHAPE_2M[1]]
    radius = np.hypot(slow - 830.0, fast - 738.0)
    mean = 6.0 * np.exp(-radius / 500.0) + 3.0 * np.exp(-((slow % 160 - 80) ** 2) / 18.0)
    counts = rng.poisson(np.broadcast_to(mean, SHAPE_2M)).astype(np.int32)
    for at in rng.integers(3, 1470, (300, 2)):
        counts[at[0] : at[0] + 3, at[1] : at[1] + 3] += rng.integers(100, 100_000, dtype=np.int32)
    for module in range(1, 8):
        counts[module * 212 - 17 : module * 212] = -1
    for module in range(1, 3):
        counts[:, module * 494 - 7 : module * 494] = -1
    return counts
