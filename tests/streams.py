"""Streams and chunks for the kernels, and where the real frames are."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from offbragg import kernels

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
