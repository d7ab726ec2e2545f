from __future__ import annotations

import json
import math

import pytest

from offbragg.errors import MetadataError
from offbragg.sample import Sample

GOOD = {
    "name": "LSMO-140",
    "label": "crystal1",
    "formula": "La0.7Sr0.3MnO3",
    "composition": "30 % strontium",
    "space_group": "P m -3 m",
    "lattice": [3.88, 3.88, 3.88, 90.0, 90.0, 90.0],
    "UB": [[0.25, 0.0, 0.0], [0.0, 0.25, 0.0], [0.0, 0.0, 0.25]],
}


def test_a_sample_survives_json():
    sample = Sample.from_dict(GOOD)

    assert sample.to_dict() == GOOD
    assert Sample.from_dict(json.loads(json.dumps(sample.to_dict()))) == sample


def test_what_is_not_known_is_not_there():
    sample = Sample.from_dict({"name": "a", "label": "b", "lattice": None})

    assert sample.to_dict() == {"name": "a", "label": "b", "formula": ""}


@pytest.mark.parametrize("field", ["name", "label"])
@pytest.mark.parametrize(
    "value",
    [
        "",
        ".",
        "..",
        "../x",
        "/etc",
        "a/b",
        "a\\b",
        "a\0b",
        "a\nb",
        "a b",
        "%2e%2e",
        "-rf",
        ".hidden",
        "x" * 101,
        "é",
        "a\u202eb",
        None,
        7,
        "name\n",
    ],
)
def test_names_that_cannot_stand_in_a_path_are_refused(field: str, value: object):
    with pytest.raises(MetadataError, match=rf"^sample\.{field}") as caught:
        Sample.from_dict(GOOD | {field: value})

    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lattice", [1, 2, 3]),
        ("lattice", "cubic"),
        ("lattice", [0, 1, 1, 90, 90, 90]),
        ("lattice", [1, 1, 1, 90, 90, 180]),
        ("lattice", [1, 1, 1, 30, 30, 90]),
        ("lattice", [1, 1, math.nan, 90, 90, 90]),
        ("UB", [[1, 0, 0], [0, 1, 0]]),
        ("UB", [[1, 0, 0], [0, 1, 0], [0, 0, math.inf]]),
        ("UB", 3),
        ("formula", 12),
        ("space_group", 225),
        ("temperature", 300),
    ],
)
def test_wrong_fields_are_refused_by_name(field: str, value: object):
    with pytest.raises(MetadataError, match=rf"sample\.{field}"):
        Sample.from_dict(GOOD | {field: value})


@pytest.mark.parametrize("field", ["name", "label"])
def test_name_and_label_are_needed(field: str):
    with pytest.raises(MetadataError, match=rf"sample\.{field} is missing"):
        Sample.from_dict({key: value for key, value in GOOD.items() if key != field})


def test_a_singular_orientation_matrix_is_refused():
    with pytest.raises(MetadataError, match="singular"):
        Sample(name="x", label="y", UB=((1.0, 0.0, 0.0), (2.0, 0.0, 0.0), (0.0, 0.0, 1.0)))


@pytest.mark.parametrize(
    ("space_group", "gamma", "letter"),
    [
        ("P m -3 m", 90.0, "P"), ("f m -3 m", 90.0, "F"), ("R -3 m", 120.0, "R"),
        ("H 3 2", 120.0, "R"), ("R -3 m", 75.0, "P"), ("R -3 m:R", None, "P"),
        ("R -3 m:H", None, "R"), (None, 90.0, None), ("", 90.0, None), ("X 1", 90.0, None),
    ],
)  # fmt: skip
def test_the_space_group_tells_the_centring(space_group, gamma, letter):
    lattice = None if gamma is None else (4.0, 4.0, 4.0, 90.0, 90.0, gamma)

    assert Sample("x", "x", space_group=space_group, lattice=lattice).centring == letter
