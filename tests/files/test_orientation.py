"""``orientation.json``: written whole, never in place of another, and refused if it is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from offbragg.errors import OrientationError
from offbragg.files.orientation import (
    Orientation,
    newest_orientation,
    read_orientation,
    write_orientation,
)

UB = ((0.2, 0.0, 0.0), (0.0, 0.1, 0.0), (0.0, 0.0, 0.05))
CELL = (5.0, 10.0, 20.0, 90.0, 90.0, 90.0)


def orientation(*, when: str = "2026-01-01", time: float = 0.0) -> Orientation:
    return Orientation(UB, CELL, {"when": when, "files": [{"time": time}]}, {"fraction": 0.9})


def test_it_reads_as_it_was_written(tmp_path: Path):
    assert write_orientation(tmp_path / "orientation.json", orientation()) is None

    assert read_orientation(tmp_path / "orientation.json") == orientation()
    assert [path.name for path in tmp_path.iterdir()] == ["orientation.json"]


def test_earlier_ones_are_kept(tmp_path: Path):
    path = tmp_path / "orientation.json"
    kept = [write_orientation(path, orientation(when=when)) for when in ("1", "2", "3")]

    assert kept == [None, tmp_path / "orientation_1.json", tmp_path / "orientation_2.json"]
    assert [read_orientation(p).source["when"] for p in (*kept[1:], path) if p] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"UB": [[1, 0, 0], [0, 1, 0], [0, 0, 0]]}, "UB is singular"),
        ({"UB": [[0, 0.2, 0], [0.2, 0, 0], [0, 0, 0.2]]}, "UB is left-handed"),
        ({"UB": [[1, 0], [0, 1]]}, "UB has 2 rows"),
        ({"UB": None}, "UB or lattice is empty"),
        ({"lattice": [5, 5, 5, 90, 90]}, "lattice has 5 numbers"),
        ({"lattice": [5, 5, -5, 90, 90, 90]}, "lengths 5.0, 5.0, -5.0"),
        ({"geometry": {"wavelength": 1.0}}, "geometry.panel is missing"),
        ({"ub": 1}, "it has 'ub', which is unknown"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, change, message):
    path = tmp_path / "orientation.json"
    path.write_text(json.dumps(orientation().to_dict() | change))

    with pytest.raises(OrientationError, match=message) as caught:
        read_orientation(path)

    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", '{"UB": [[NaN, 0, 0], [0, 1, 0], [0, 0, 1]]}', "\x00"])
def test_what_is_no_orientation_is_refused(tmp_path: Path, text):
    path = tmp_path / "orientation.json"
    path.write_text(text)

    with pytest.raises(OrientationError):
        read_orientation(path)


def test_a_missing_one_says_how_to_make_it(tmp_path: Path):
    with pytest.raises(OrientationError, match="is not there\nFind it with: offbragg index"):
        read_orientation(tmp_path / "orientation.json")


def test_the_newest_sweep_of_the_mount_counts(tmp_path: Path):
    for label, time in (("x1_orient", 5.0), ("x1", 9.0), ("x10", 20.0), ("x1_other", 30.0)):
        folder = tmp_path / "LSMO" / label / "300K"
        folder.mkdir(parents=True)
        write_orientation(folder / "orientation.json", orientation(time=time))

    newest = newest_orientation(tmp_path, "LSMO", "x1")

    assert newest == tmp_path / "LSMO" / "x1" / "300K" / "orientation.json"
    assert newest_orientation(tmp_path, "LSMO", "x2") is None
