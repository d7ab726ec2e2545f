"""The layout of a scan file: an NXmx tree, everything in it made before the first frame.

SWMR allows nothing new once it has begun, so whatever a sweep may come to need is made here:
fixed lengths, no variable-length strings, no attribute later. What is not known is absent. The
columns, one row for each frame, are declared in `frame_columns`.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import Any, cast

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from numpy.typing import NDArray

from offbragg.files.frame_columns import BY_NAME, COLUMNS, LISTED
from offbragg.files.nexus import COMPRESSED, add_field, add_group, iso, text_value
from offbragg.geometry import Geometry
from offbragg.lattice import direct_basis
from offbragg.sample import Sample
from offbragg.sweep import Sweep

FRAMES, RUN, DATA = "/entry/frames", "/entry/run", "/entry/data/data"
MASK = "/entry/instrument/detector/pixel_mask"
ADOPTED = "offbragg_adopted"
"""The key of a start document that names the folder and the pieces of adopted frames.

Users put keys of their own there: it is one that they do not type.
"""

FILL = -1
NOT_RECORDED = "not recorded"
"""Name of a beamline or a source that the run did not name."""
_SENSOR = ("sensor_material", "sensor_thickness")
REASON_LENGTH = BY_NAME["reason"].length
SUMMARY_ROOM, HEADER_ROOM, TIME_LENGTH = 16384, 16384, 32


def write_skeleton(file: h5py.File, start: Mapping[str, Any], shape: tuple[int, int]) -> None:
    """Make everything that a scan file will ever hold, except the frames.

    Parameters
    ----------
    file
        Empty, open for writing.
    start
        The run's start document, validated.
    shape
        Rows and columns of a frame.
    """
    sweep = Sweep.from_dict(start["sweep"])
    geometry = None if start["geometry"] is None else Geometry.from_dict(start["geometry"])
    sample = Sample.from_dict(start["sample"])
    begun = float(start["time"])

    file.attrs["default"] = np.bytes_("entry")
    entry = add_group(file, "entry", "NXentry", default="data")
    facts: dict[str, Any] = start.get("detector") or {}
    if geometry is not None and all(facts.get(key) is not None for key in _SENSOR):
        add_field(entry, "definition", "NXmx")  # it promises beam, panel, axes and the sensor
    add_field(entry, "entry_identifier", str(start["uid"]))
    add_field(entry, "start_time", iso(begun))
    add_field(entry, "end_time_estimated", iso(begun + sweep.duration))
    _room(entry, "end_time", TIME_LENGTH)
    title = " ".join(str(start[k]) for k in ("plan_name", "scan_id") if start.get(k) is not None)
    if title:
        add_field(entry, "title", f"{sample.name} {sample.label}: {title}")
    if start.get("proposal") is not None:
        add_field(entry, "experiment_identifier", str(start["proposal"]))

    _write_run(entry, start)
    frames = _write_frames(entry, start, sweep)
    data = _write_data(entry, frames, shape, sweep)
    _write_sample(entry, start, sample, geometry, sweep)
    _write_instrument(entry, start, geometry, sweep, data, shape)
    if "monitor" in frames:
        monitor = add_group(entry, "monitor", "NXmonitor", signal="data")
        monitor["data"] = frames["monitor"]


def write_first_frame(
    mask: h5py.Dataset,
    room: h5py.Dataset,
    number: int,
    counts: NDArray[np.int32],
    header: Mapping[str, Any],
) -> None:
    """Write what the first stored frame has for all of them: dead pixels, and its header.

    Parameters
    ----------
    mask, room
        The fields `MASK` and ``first_header`` of `RUN`.
    number
        Which frame of the sweep it is, from 0.
    counts
        Its counts, shape (slow, fast): −1 is a gap, −2 a dead pixel.
    header
        Of its file; left out where it is longer than the room for it.
    """
    bits = np.zeros(counts.shape, np.uint32)
    bits[counts == -1] = 1
    bits[counts == -2] = 2
    mask[...] = bits
    text = as_json({"source_frame": number, **header}).encode()
    if len(text) <= HEADER_ROOM:
        room[()] = text


def counter_bits(model: str) -> int | None:
    """Bits that the electronics of a detector count with; None if that is not known.

    Parameters
    ----------
    model
        As the detector names itself. Pilatus, Pilatus2 and Pilatus3 have counters of 20 bits.
    """
    return 20 if re.search(r"pilatus(?! ?4)", model.lower()) else None


def unpack(chunk: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Decompress a frame, as HDF5 does when it is read."""
    with h5py.File(io.BytesIO(), "w") as file:
        parent: Any = file
        data = parent.create_dataset("data", (1, *shape), "<i4", chunks=(1, *shape), **COMPRESSED)
        data.id.write_direct_chunk((0, 0, 0), chunk)
        return data[0]


def as_json(document: Mapping[str, Any]) -> str:
    """Text of a document; NumPy numbers and arrays become plain ones."""
    return json.dumps(document, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return cast(Any, value).tolist()
    if isinstance(value, (set, frozenset)):
        return sorted(cast(set[Any], value))
    return str(value)


# ---- the parts -------------------------------------------------------------------------


def _write_run(entry: h5py.Group, start: Mapping[str, Any]) -> None:
    run = add_group(entry, "run", "NXcollection")
    add_field(run, "start", as_json(start), description="the run's start document, JSON")
    _room(run, "summary", SUMMARY_ROOM)
    _room(run, "exit_status", 16)
    _room(run, "reason", REASON_LENGTH)
    _room(run, "first_header", HEADER_ROOM)


def _write_frames(entry: h5py.Group, start: Mapping[str, Any], sweep: Sweep) -> h5py.Group:
    n = sweep.n_frames
    frames = add_group(
        entry, "frames", "NXcollection", **{LISTED: " ".join(column.name for column in COLUMNS)}
    )
    known = {"number": np.arange(n, dtype=np.int32), "angle": sweep.midpoints}
    for column in COLUMNS:
        frames[column.name] = known.get(column.name, np.full(n, column.begins_with, column.dtype))
        if column.units:
            frames[column.name].attrs["units"] = np.bytes_(column.units)
        if column.meaning:
            meaning = column.meaning.format(axis=sweep.axis)
            frames[column.name].attrs["long_name"] = text_value(meaning)
    per_frame: dict[str, dict[str, Any]] = start.get("per_frame") or {}
    for name, spec in per_frame.items():
        if name in BY_NAME:  # "angle": read back instead of commanded
            continue
        frames[name] = np.full(n, np.nan)
        if spec.get("units"):
            frames[name].attrs["units"] = text_value(str(spec["units"]))
    return frames


def _write_data(
    entry: h5py.Group, frames: h5py.Group, shape: tuple[int, int], sweep: Sweep
) -> h5py.Dataset:
    group: Any = add_group(entry, "data", "NXdata", signal="data")
    group.attrs["axes"] = np.array([b"angle", b"y_pixel", b"x_pixel"])
    for position, name in enumerate(("angle", "y_pixel", "x_pixel")):
        group.attrs[f"{name}_indices"] = np.int32(position)
    data = group.create_dataset(
        "data",
        shape=(0, *shape),
        maxshape=(sweep.n_frames, *shape),
        dtype="<i4",
        chunks=(1, *shape),
        fillvalue=FILL,
        **COMPRESSED,
    )
    data.attrs["units"] = np.bytes_("counts")
    data.attrs["interpretation"] = np.bytes_("image")
    group["angle"] = frames["angle"]
    for name, length in (("y_pixel", shape[0]), ("x_pixel", shape[1])):
        group[name] = np.arange(length, dtype=np.int32)
        group[name].attrs["units"] = np.bytes_("pixel")
    return data


def _write_sample(
    entry: h5py.Group,
    start: Mapping[str, Any],
    sample: Sample,
    geometry: Geometry | None,
    sweep: Sweep,
) -> None:
    group = add_group(entry, "sample", "NXsample")
    add_field(group, "name", sample.name)
    add_field(group, "short_title", sample.label)
    if sample.formula:
        add_field(group, "chemical_formula", sample.formula)
    if sample.composition:
        add_field(group, "description", sample.composition)
    if sample.space_group:
        add_field(group, "unit_cell_group", sample.space_group)
    if sample.lattice is not None:
        add_field(group, "unit_cell", np.array(sample.lattice))
        add_field(group, "unit_cell_abc", np.array(sample.lattice[:3]), units="angstrom")
        add_field(group, "unit_cell_alphabetagamma", np.array(sample.lattice[3:]), units="deg")
    if sample.UB is not None:
        note = "1/angstrom without 2 pi; column j is reciprocal basis vector j, McStas frame"
        add_field(group, "ub_matrix", np.array([sample.UB]), description=note)
        if sample.lattice is not None:
            # U = UB B⁻¹, and B is the inverse transpose of the direct basis
            reciprocal = np.linalg.inv(direct_basis(sample.lattice)).T
            U = np.array(sample.UB) @ np.linalg.inv(reciprocal)
            add_field(group, "orientation_matrix", U[None])
    temperature: dict[str, Any] | None = start.get("temperature")
    if temperature:
        settled: dict[str, Any] = temperature.get("settled") or {}
        kelvin = settled.get("mean", temperature.get("setpoint"))
        if kelvin is not None:
            add_field(group, "temperature", float(kelvin), units="K")

    if geometry is None:
        return
    chain = "/entry/sample/transformations"
    turns = add_group(group, "transformations", "NXtransformations")
    add_field(group, "depends_on", f"{chain}/{geometry.axes[0].name}")
    outer = [f"{chain}/{axis.name}" for axis in geometry.axes[1:]] + ["."]
    for axis, depends_on in zip(geometry.axes, outer, strict=True):
        scanned = axis.name == geometry.scan_axis
        add_field(
            turns,
            axis.name,
            sweep.starts if scanned else axis.angle,
            units="deg",
            transformation_type="rotation",
            vector=np.array(axis.vector),
            depends_on=depends_on,
        )
        if scanned:
            add_field(turns, f"{axis.name}_end", sweep.edges[1:], units="deg")
            add_field(turns, f"{axis.name}_increment_set", sweep.step, units="deg")


def _write_instrument(
    entry: h5py.Group,
    start: Mapping[str, Any],
    geometry: Geometry | None,
    sweep: Sweep,
    data: h5py.Dataset,
    shape: tuple[int, int],
) -> None:
    beamline = start.get("beamline_id")
    instrument = add_group(entry, "instrument", "NXinstrument")
    # NXmx asks for both names
    add_field(instrument, "name", str(beamline or NOT_RECORDED))
    where = add_group(entry, "source", "NXsource")
    add_field(where, "name", str(start.get("source") or beamline or NOT_RECORDED))
    add_field(where, "probe", "x-ray")
    beam = add_group(instrument, "beam", "NXbeam")
    wavelength = start.get("wavelength") if geometry is None else geometry.wavelength
    if wavelength is not None:
        add_field(beam, "incident_wavelength", float(wavelength), units="angstrom")
    attenuation = start.get("attenuation")  # the factor by which the beam is weakened
    if isinstance(attenuation, (int, float)) and attenuation > 0:
        attenuator = add_group(instrument, "attenuator", "NXattenuator")
        add_field(attenuator, "attenuator_transmission", 1.0 / attenuation)
    _write_detector(instrument, start.get("detector") or {}, geometry, sweep, data, shape)


def _write_detector(
    instrument: h5py.Group,
    facts: Mapping[str, Any],
    geometry: Geometry | None,
    sweep: Sweep,
    data: h5py.Dataset,
    shape: tuple[int, int],
) -> None:
    group: Any = add_group(instrument, "detector", "NXdetector")
    group["data"] = data
    for key, name, units in (
        ("model", "description", None),
        ("name", "local_name", None),
        ("serial", "serial_number", None),
        ("sensor_material", "sensor_material", None),
        ("sensor_thickness", "sensor_thickness", "mm"),
        ("threshold", "threshold_energy", "keV"),
        ("energy", "photon_energy", "keV"),
        ("saturation", "saturation_value", None),
    ):
        value = facts.get(key)
        if value is not None:
            text = name in ("description", "local_name", "serial_number", "sensor_material")
            add_field(group, name, str(value) if text else value, units=units)
    add_field(group, "type", "Pixel")
    add_field(group, "count_time", sweep.exposure, units="s")
    add_field(group, "frame_time", sweep.period, units="s")
    if (depth := counter_bits(str(facts.get("model") or ""))) is not None:
        add_field(group, "bit_depth_readout", np.int32(depth))
    # gaps, dead pixels and frames that are missing lie below; without it DIALS trusts them
    add_field(group, "underload_value", np.int32(FILL + 1))
    group.create_dataset(
        "pixel_mask", shape=shape, dtype="<u4", chunks=shape, fillvalue=0, **COMPRESSED
    )
    if geometry is not None:
        _write_place(group, geometry, shape)
    else:
        _write_nominal_place(group, facts)


def _write_nominal_place(group: h5py.Group, facts: Mapping[str, Any]) -> None:
    """Write what a header says of the place of a panel that no model describes."""
    for key, names, units in (
        ("pixel_size", ("x_pixel_size", "y_pixel_size"), "mm"),
        ("beam_center", ("beam_center_x", "beam_center_y"), "pixel"),
    ):
        for name, value in zip(names, facts.get(key) or (), strict=False):
            add_field(group, name, float(value), units=units)
    if facts.get("distance") is not None:
        add_field(group, "distance", float(facts["distance"]), units="mm")


def _write_place(group: h5py.Group, geometry: Geometry, shape: tuple[int, int]) -> None:
    """Write where the panel stands."""
    panel = geometry.panel
    add_field(group, "x_pixel_size", panel.pixel_size[0], units="mm")
    add_field(group, "y_pixel_size", panel.pixel_size[1], units="mm")
    met = geometry.direct_beam()
    if met is not None:
        add_field(group, "beam_center_x", met[0], units="pixel")
        add_field(group, "beam_center_y", met[1], units="pixel")
        add_field(group, "distance", met[2], units="mm")

    chain = "/entry/instrument/detector"
    away = float(np.linalg.norm(panel.origin))
    turns = add_group(group, "transformations", "NXtransformations")
    add_field(
        turns,
        "translation",
        away,
        units="mm",
        transformation_type="translation",
        vector=np.array(panel.origin) / away,
        depends_on=".",
    )
    add_field(group, "depends_on", f"{chain}/transformations/translation")
    module = add_group(group, "module", "NXdetector_module")
    add_field(module, "data_origin", np.zeros(2, np.int32))
    add_field(module, "data_size", np.array(shape, np.int32))
    for name, length, vector, depends_on in (
        ("module_offset", 0.0, (0.0, 0.0, 1.0), f"{chain}/transformations/translation"),
        ("fast_pixel_direction", panel.pixel_size[0], panel.fast, f"{chain}/module/module_offset"),
        ("slow_pixel_direction", panel.pixel_size[1], panel.slow, f"{chain}/module/module_offset"),
    ):
        add_field(
            module,
            name,
            length,
            units="mm",
            transformation_type="translation",
            vector=np.array(vector),
            offset=np.zeros(3),
            depends_on=depends_on,
        )


def _room(group: h5py.Group, name: str, length: int) -> None:
    cast(Any, group).create_dataset(name, data=np.array(b"", f"S{length}"))
