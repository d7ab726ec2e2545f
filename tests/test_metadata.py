"""Start documents that must open a run, and those that must not."""

from __future__ import annotations

import copy
import time
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from offbragg.errors import MetadataError
from offbragg.metadata import validate_start

GOOD = {
    "uid": "0b5f", "time": 1.0, "scan_id": 7, "plan_name": "rotation_scan",
    "purpose": "data",
    "beamline_id": "simulated",
    "wavelength": 0.7,
    "sample": {"name": "LSMO-140", "label": "crystal1", "formula": "La0.6Sr0.4MnO3"},
    "temperature": {
        "setpoint": 120.0,
        "direction": "warming",
        "settled": {"mean": 120.01, "std": 0.02, "window": 60.0},
    },
    "sweep": {
        "axis": "phi", "start": 0.0, "step": 0.1, "n_frames": 60, "exposure": 0.099, "period": 0.1,
    },
    "geometry": {
        "wavelength": 0.7,
        "panel": {
            "origin": [8.3, 17.5, 100.0], "fast": [-1.0, 0.0, 0.0], "slow": [0.0, -1.0, 0.0],
            "pixel_size": [0.172, 0.172], "shape": [195, 487],
        },
        "axes": [{"name": "phi", "vector": [0.0, 1.0, 0.0], "angle": 0.0}],
        "scan_axis": "phi",
    },
    "detector": {
        "name": "pilatus", "model": "PILATUS3 100K", "serial": "1", "sensor_material": "Si",
        "sensor_thickness": 0.45, "saturation": 1048500.0, "format": "cbf", "shape": [195, 487],
    },
    "per_frame": {
        "monitor": {"key": "monitor_counts", "by": "monitor_frame", "units": "counts"},
        "weight": {"key": "permit_beam", "monitor": "monitor", "fraction": 0.5},
    },
    "series": {"uid": "5a1e", "index": 3, "kind": "temperature"},
}  # fmt: skip


def changed(path: str, value: object) -> dict:
    """GOOD with one value changed; ``...`` takes the key out."""
    doc = copy.deepcopy(GOOD)
    *parents, key = path.split(".")
    inner = doc
    for parent in parents:
        inner = inner[parent]
    if value is ...:
        del inner[key]
    else:
        inner[key] = value
    return doc


def test_a_complete_start_document_opens_a_run():
    validate_start(GOOD)


def test_an_alignment_scan_needs_none_of_it():
    validate_start({"uid": "1", "plan_name": "scan", "beamline_id": "simulated"})


@pytest.mark.parametrize(
    "field",
    ["wavelength", "sample", "beamline_id", "geometry", "detector", "sweep", "purpose",
     "detector.sensor_thickness", "temperature.setpoint", "series.uid"],
)  # fmt: skip
def test_what_is_missing_is_named(field):
    with pytest.raises(MetadataError, match=rf"^start document lacks {field}\b"):
        validate_start(changed(field, ...))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("wavelength", -0.7),
        ("wavelength", "0.7"),
        ("wavelength", float("nan")),
        ("purpose", "fun"),
        ("sample", "LSMO"),
        ("sample.name", "../../etc"),
        ("sample.lattice", [4.0, 4.0, 4.0, 90.0, 90.0]),
        ("sample.colour", "black"),
        ("sweep.period", 0.05),
        ("sweep.n_frames", 0),
        ("sweep.speed", 1.0),
        ("geometry.panel.fast", [0.0, 0.0, 0.0]),
        ("temperature.setpoint", 0.0),
        ("temperature.setpoint", "120 K"),
        ("temperature.direction", "up"),
        ("temperature.ramp", 3.0),
        ("temperature.settled.mean", float("inf")),
        ("detector.format", "jpg"),
        ("detector.shape", [195]),
        ("per_frame.monitor.keys", "x"),
        ("series.index", -1),
        ("attenuation", 0.0),
    ],
)
def test_what_is_wrong_is_named(field, value):
    with pytest.raises(MetadataError) as caught:
        validate_start(changed(field, value))

    first = str(caught.value).splitlines()[0]
    shown = field.rsplit(".", 1)[-1] if field.startswith("geometry") else field
    assert shown in first


@pytest.mark.parametrize(
    ("field", "value", "other"),
    [
        ("wavelength", 0.71, "geometry.wavelength"),
        ("sweep.axis", "omega", "geometry.scan_axis"),
        ("detector.shape", [487, 195], "geometry.panel.shape"),
    ],
)
def test_a_contradiction_names_both_sides(field, value, other):
    with pytest.raises(MetadataError, match=f"{field}.* contradicts {other}"):
        validate_start(changed(field, value))


def nested(levels: int) -> dict:
    value: dict = {}
    for _ in range(levels - 1):
        value = {"k": value}
    return value


def cyclic() -> dict:
    value: dict = {"a": 1}
    value["self"] = [value]
    return value


def laughing(levels: int) -> list:
    """Few objects, many values."""
    value: list = []
    for _ in range(levels):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    ("value", "named", "limit"),
    [
        (float("inf"), "notes.comment is inf", "finite"),
        (float("-inf"), "notes.comment is -inf", "finite"),
        (float("nan"), "notes.comment is nan", "finite"),
        (np.float32("nan"), "notes.comment is nan", "finite"),
        ([1.0, np.array([2.0, np.inf])], "notes.comment[1][1] is inf", "finite"),
        (2**70, "notes.comment is 1180591620717411303424", "2**64 - 1"),
        (2**64, "notes.comment is", "2**64 - 1"),
        (-(2**63) - 1, "notes.comment is", "-2**63"),
        ("a\ud800b", "notes.comment has half of a surrogate pair, '\\ud800', at position 1", "UTF"),
        ("a\0b", "notes.comment has a NUL character at position 1", "NUL"),
        ({"x\udc80": 1}, "the key 'x\\udc80' in notes.comment", "UTF"),
        ({1: "one"}, "notes.comment has the key 1, of type int", "text"),
        ({None: "one"}, "notes.comment has the key None", "text"),
        ({(1, 2): "one"}, "notes.comment has the key (1, 2)", "text"),
        ({1, 2}, "notes.comment is {1, 2}, of type set", "list"),
        (b"bytes", "of type bytes", "text"),
        (1 + 2j, "of type complex", "number"),
        (np.array([b"x"]), "notes.comment[0] is b'x', of type bytes", "text"),
        (np.longdouble(1), "of type longdouble", "number"),
        (datetime(2026, 1, 1), "of type datetime", "text"),
        (Path("/x"), "notes.comment is PosixPath('/x')", "text"),
        (MappingProxyType({"a": 1}), "of type mappingproxy", "dict"),
        (nested(64), "notes has more than 64 levels", "64"),
        (cyclic(), "notes has more than 64 levels", "contains itself"),
        (laughing(12), "notes makes the start document larger than 1,000,000 bytes", "1,000,000"),
        (np.zeros(1_500_000), "notes makes the start document larger", "1,000,000 bytes"),
        ("x" * 12_000_000, "notes makes the start document larger", "1,000,000 bytes"),
        ({f"key{i}": i for i in range(200_000)}, "notes makes the start document", "1,000,000"),
    ],
    ids=[f"case{number}" for number in range(28)],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_with_its_key_and_the_limit(value, named, limit):
    with pytest.raises(MetadataError) as refused:
        validate_start(GOOD | {"notes": {"comment": value}})

    first = str(refused.value).partition("\n")[0]
    assert named in first
    assert limit in first
    assert first.isprintable()


def test_many_entries_are_too_large_together_and_the_largest_is_named():
    many = {"larger": "x" * 30_000} | {f"key{i}": "x" * 20_000 for i in range(60)}

    with pytest.raises(MetadataError, match=r"^larger makes the start document larger than 1,0"):
        validate_start(GOOD | many)


@pytest.mark.parametrize(
    "value",
    [1e300, -0.0, 5e-324, 2**64 - 1, -(2**63), time.time_ns(), np.int64(7), np.float32(0.1),
     np.bool_(1), np.uint64(2**64 - 1), np.arange(3), np.array(2.5), (1, 2), "Å \U0001f600 \t",
     nested(63), "", None, {"": 1}],
    ids=[f"value{number}" for number in range(18)],
)  # fmt: skip
def test_what_can_be_kept_opens_a_run(value):
    validate_start(GOOD | {"notes": {"comment": value}})


@pytest.mark.parametrize("key", [1, None, "x\ud800", "x\0"], ids=ascii)
def test_a_key_that_no_document_can_have_is_refused(key):
    with pytest.raises(MetadataError, match=r"key"):
        validate_start({**GOOD, key: 1})
