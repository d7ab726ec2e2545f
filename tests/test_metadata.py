"""Start documents that must open a run, and those that must not."""

from __future__ import annotations

import copy

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
    "per_frame": {"monitor": {"key": "monitor_counts", "by": "monitor_frame", "units": "counts"}},
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
