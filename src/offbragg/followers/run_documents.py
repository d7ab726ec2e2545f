"""The documents of a run as the catalog gets them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from numpy.typing import NDArray

from offbragg.catalog.consolidators import FRAMES_MIMETYPE, STACK_MIMETYPE
from offbragg.files.frame_columns import COLUMNS, PUBLISHED_TEXT, published_columns
from offbragg.followers.run_writer import ROWS
from offbragg.sweep import Sweep

Document = dict[str, Any]


STACK = "/entry/data/data"
_SPELT_OUT = {"deg": "degree"}  # units as NeXus has them, and as the catalog does


def frame_columns(start: Mapping[str, Any]) -> list[str]:
    """List the per-frame columns of a run, as they are in its scan file."""
    return published_columns(start.get("per_frame", {}))


def image_key(start: Mapping[str, Any]) -> str:
    """Name the data key of the frames."""
    return f"{start['detector']['name']}_image"


def is_per_frame_stream(start: Mapping[str, Any], descriptor: Mapping[str, Any]) -> bool:
    """Return whether a stream holds values by frame number, which are columns of ``primary``."""
    by = {spec["by"] for spec in start.get("per_frame", {}).values() if "by" in spec}
    return bool(by & descriptor["data_keys"].keys())


def rewrite_descriptor(start: Mapping[str, Any], descriptor: Mapping[str, Any]) -> Document:
    """Declare the per-frame columns in the descriptor of ``primary``."""
    units = {column: spec.get("units") for column, spec in start.get("per_frame", {}).items()}
    units |= {c.name: _SPELT_OUT.get(c.units, c.units) for c in COLUMNS if c.published and c.units}
    keys: dict[str, Document] = {}
    for column in frame_columns(start):
        words = column in PUBLISHED_TEXT
        keys[column] = {
            "source": f"scan file:/entry/frames/{column}",
            "dtype": "string" if words else "number",
            "dtype_numpy": f"<U{PUBLISHED_TEXT[column]}" if words else "<f8",
            "shape": [],
        }
        if units.get(column):
            keys[column]["units"] = units[column]
    new = dict(descriptor)
    new["data_keys"] = {**descriptor["data_keys"], **keys}
    new["object_keys"] = {**descriptor.get("object_keys", {}), "frames": list(keys)}
    fields = [key for key in keys if key not in PUBLISHED_TEXT]
    new["hints"] = {**descriptor.get("hints", {}), "frames": {"fields": fields}}
    return new


def provisional_descriptor(start: Mapping[str, Any]) -> Document:
    """Describe ``primary`` as far as the start document does, until its descriptor is there."""
    described: Document = {
        "uid": _uid(start, "primary"),
        "run_start": start["uid"],
        "time": start["time"],
        "name": "primary",
        "data_keys": {},
        "object_keys": {},
        "configuration": {},
        "hints": {},
    }
    if not has_frames(start):
        return described
    detector = start["detector"]
    described["object_keys"] = {detector["name"]: [image_key(start)]}
    described["data_keys"][image_key(start)] = {
        "source": "start document",
        "dtype": "array",
        "dtype_numpy": "<i4",
        "shape": list(detector["shape"]),
        "external": "STREAM:",
    }
    return rewrite_descriptor(start, described)


def has_frames(start: Mapping[str, Any]) -> bool:
    """Return whether a run is a sweep, whose frames are in a scan file."""
    return "sweep" in start and "detector" in start


def stack_resource(start: Mapping[str, Any], path: Path) -> Document:
    """Point at the stack of a scan file."""
    slow, fast = start["detector"]["shape"]
    return {
        "uid": _uid(start, "stack"),
        "run_start": start["uid"],
        "data_key": image_key(start),
        "mimetype": STACK_MIMETYPE,
        "uri": f"file://localhost{path.resolve()}",
        "parameters": {
            "dataset": STACK,
            "swmr": True,
            "locking": False,  # as the rows are read: HDF5 wants all of a process to agree
            "chunk_shape": [1, slow, fast],
            "n_frames": start["sweep"]["n_frames"],
        },
    }


def rows_resource(start: Mapping[str, Any], path: Path) -> Document:
    """Point at the per-frame rows of a scan file."""
    return {
        "uid": _uid(start, "rows"),
        "run_start": start["uid"],
        "data_key": ROWS,
        "mimetype": FRAMES_MIMETYPE,
        "uri": f"file://localhost{path.resolve()}",
        "parameters": {
            "columns": frame_columns(start),
            "started": start["time"],
            "period": start["sweep"]["period"],
        },
    }


def frames_datum(
    resource: Mapping[str, Any], descriptor: Mapping[str, Any], first: int, stop: int
) -> Document:
    """Return the datum that announces the frames `first` to `stop` (not included)."""
    return {
        "uid": f"{resource['uid']}/{first}",
        "stream_resource": resource["uid"],
        "descriptor": descriptor["uid"],
        "indices": {"start": first, "stop": stop},
        "seq_nums": {"start": first + 1, "stop": stop + 1},
    }


def summary_documents(
    start: Mapping[str, Any],
    stop: Mapping[str, Any],
    counts: Mapping[str, int],
    values: Mapping[str, NDArray[Any]],
) -> list[tuple[str, Document]]:
    """Summarize a run that is complete: a descriptor and one event.

    Parameters
    ----------
    start, stop
        The run.
    counts
        Frames with each status, from the ledger.
    values
        The per-frame columns of the scan file; each has its mean, standard deviation and span
        in the summary if any of its values is known. ``angle_offset`` is the largest difference
        between a measured and a commanded angle, degree.
    """
    n_frames = start["sweep"]["n_frames"]
    data: dict[str, int | float] = {name: counts[name] for name in _ENDS}
    data["completeness"] = counts["stored"] / n_frames
    units: dict[str, str] = {}
    measured = values["angle_source"] != "commanded"
    data["angles_measured"] = int(np.count_nonzero(measured))
    if measured.any():
        off = (values["angle"] - Sweep.from_dict(start["sweep"]).midpoints)[measured]
        data["angle_offset"] = float(off[np.argmax(np.abs(off))])
        units["angle_offset"] = "degree"
    for column, spec in start.get("per_frame", {}).items():
        known = values[column][np.isfinite(values[column])]
        if known.size:
            for name, statistic in (("mean", np.mean), ("std", np.std), ("span", np.ptp)):
                data[f"{column}_{name}"] = float(statistic(known))
                units[f"{column}_{name}"] = spec.get("units", "")
    keys: dict[str, Document] = {}
    for key, value in data.items():
        whole = isinstance(value, int)
        keys[key] = {
            "source": "scan file",
            "dtype": "integer" if whole else "number",
            "dtype_numpy": "<i8" if whole else "<f8",
            "shape": [],
        }
        if units.get(key):
            keys[key]["units"] = units[key]
    descriptor: Document = {
        "uid": _uid(start, "summary"),
        "run_start": start["uid"],
        "time": stop["time"],
        "name": "summary",
        "data_keys": keys,
        "object_keys": {"summary": list(keys)},
        "configuration": {},
        "hints": {},
    }
    event: Document = {
        "uid": _uid(start, "summary/1"),
        "descriptor": descriptor["uid"],
        "seq_num": 1,
        "time": stop["time"],
        "data": data,
        "timestamps": dict.fromkeys(data, stop["time"]),
        "filled": {},
    }
    return [("descriptor", descriptor), ("event", event)]


def rewrite_stop(
    start: Mapping[str, Any],
    stop: Mapping[str, Any],
    counts: Mapping[str, int],
    path: Path,
    *,
    dropped: set[str],
) -> Document:
    """Add to a stop document what became of the frames.

    Parameters
    ----------
    start, stop
        The run.
    counts
        Frames with each status, from the ledger.
    path
        The scan file.
    dropped
        Streams that are not published, because their values are columns of ``primary``.
    """
    events = {k: n for k, n in stop.get("num_events", {}).items() if k not in dropped}
    return {
        **stop,
        "num_events": {**events, "primary": start["sweep"]["n_frames"], "summary": 1},
        "offbragg": {"frames": frame_totals(counts), "scan_file": str(path)},
    }


_ENDS = ("stored", "missing", "rejected")


def frame_totals(counts: Mapping[str, int]) -> dict[str, int]:
    """Return how many frames were stored, are missing, were rejected."""
    return {name: counts[name] for name in _ENDS}


def _uid(start: Mapping[str, Any], what: str) -> str:
    """Make the same uid each time the run is published."""
    return str(uuid5(NAMESPACE_URL, f"offbragg:{start['uid']}/{what}"))
