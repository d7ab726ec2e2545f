"""Groups, fields and text of NeXus files: every length fixed, as SWMR wants it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import h5py  # pyright: ignore[reportMissingTypeStubs]
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

COMPRESSED: dict[str, Any] = dict(hdf5plugin.Bitshuffle(cname="lz4"))
"""Filter of frames, masks and volumes."""


def add_group(parent: h5py.Group, name: str, kind: str, **attributes: str) -> h5py.Group:
    """Make a group of a NeXus class; attributes are fixed-length."""
    group: Any = cast(Any, parent).create_group(name)
    group.attrs["NX_class"] = np.bytes_(kind)
    for key, value in attributes.items():
        group.attrs[key] = np.bytes_(value)
    return group


def add_field(group: h5py.Group, name: str, value: Any, **attributes: Any) -> None:
    """Make a field; text and attributes are fixed-length, attributes that are None left out."""
    data = text_value(value) if isinstance(value, str) else value
    dataset = cast(Any, group).create_dataset(name, data=data)
    for key, attribute in attributes.items():
        if attribute is not None:
            dataset.attrs[key] = text_value(attribute) if isinstance(attribute, str) else attribute


def text_value(value: str) -> NDArray[Any]:
    """Return text as HDF5 keeps it, of fixed length in UTF-8."""
    raw = value.encode("utf-8", "replace") or b" "
    library: Any = h5py
    return np.array(raw, library.string_dtype("utf-8", len(raw)))


def fit(text: str, length: int) -> bytes:
    """UTF-8 of ``text``, cut between characters to at most ``length`` bytes."""
    raw = text.replace("\0", "").encode("utf-8", "replace")
    if len(raw) <= length:
        return raw
    return raw[: length - 3].decode("utf-8", "ignore").encode() + "…".encode()


def iso(seconds: float) -> str:
    """POSIX seconds as ISO 8601 in UTC."""
    return (
        datetime.fromtimestamp(seconds, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )
