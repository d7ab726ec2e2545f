"""Formats for arrays that Tiled's server lacks: raw bytes of an empty array, and HDF5."""

from __future__ import annotations

import io
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray
from tiled.media_type_registration import default_serialization_registry
from tiled.serialization.array import as_buffer


def register_formats() -> None:
    """Register the formats in this process; a second call changes nothing."""
    for media_type, send in (("application/octet-stream", _raw), ("application/x-hdf5", _hdf5)):
        default_serialization_registry.register("array", media_type, send)


def _raw(mimetype: str, array: NDArray[Any], metadata: dict[str, Any]) -> Any:
    # the buffer of an array without values cannot be cast
    return as_buffer(mimetype, array, metadata) if np.size(array) else b""


def _hdf5(mimetype: str, array: NDArray[Any], metadata: dict[str, Any]) -> bytes:
    raw = io.BytesIO()
    values = np.asarray(array)
    with h5py.File(raw, "w", libver=("v110", "v110")) as file:
        packed = hdf5plugin.Bitshuffle() if values.size and values.ndim else {}
        file.create_dataset("data", data=values, **packed)
    return raw.getvalue()
