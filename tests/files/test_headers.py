"""Most headers decide; the others are of another sweep, or their difference is listed."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from offbragg.errors import ConfigError
from offbragg.files.header_time import header_time
from offbragg.files.headers import agree, axis_name

USUAL = {
    "wavelength": 0.6889,
    "pixel_size": [0.172, 0.172],
    "distance": 160.0,
    "two_theta": 30.0,
    "beam_xy": [730.0, 865.0],
    "exposure_time": 0.0964,
    "exposure_period": 0.1,
    "threshold": 9.0,
    "oscillation_axis": "OMEGA",
    "angle_increment": 0.1,
    "omega_increment": 0.1,
    "phi_increment": 0.0,
    "kappa": 0.0,
    "phi": 0.0,
    "chi": -54.7,
}


def headers(n: int = 20, **usual):
    return {
        i: {**USUAL, "start_angle": round(-145 + 0.1 * i, 4), "omega": -145 + 0.1 * i, **usual}
        for i in range(n)
    }


def name(number: int) -> str:
    return f"x_{number}.cbf"


def test_headers_that_agree_say_what_each_says():
    found = agree(headers(), name)

    assert not found.refused
    assert not found.differences
    for key in ("wavelength", "pixel_size", "chi", "oscillation_axis", "exposure_time"):
        assert found.header[key] == USUAL[key]
    assert (found.header["start_angle"], found.header["angle_increment"]) == (-145.0, 0.1)


@pytest.mark.parametrize("number", [0, 7, 19])
@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("wavelength", 0.7107, "Wavelength 0.7107 Å, and 19 of 20 headers say 0.6889 Å"),
        ("wavelength", 0.6900, "Wavelength 0.69 Å"),
        ("pixel_size", [0.075, 0.075], "Pixel_size 0.075, 0.075 mm"),
        ("distance", 161.0, "Detector_distance 161 mm, and 19 of 20 headers say 160 mm"),
        ("two_theta", 0.0, "Detector_2theta 0 degree"),
        ("beam_xy", [730.0, 860.0], "Beam_xy 730, 860 pixel"),
        ("chi", 0.0, "Chi 0 degree, and 19 of 20 headers say -54.7 degree"),
        ("kappa", 30.0, "Kappa 30 degree"),
        ("phi", 10.0, "Phi 10 degree"),
        ("oscillation_axis", "PHI", "Oscillation_axis PHI, and 19 of 20 headers say OMEGA"),
        ("angle_increment", 0.2, "Angle_increment 0.2 degree"),
        ("start_angle", 12.0, "Start_angle 12 degree"),
    ],
)
def test_a_frame_of_another_sweep_is_refused_with_the_numbers(number, key, value, words):
    given = headers()
    given[number][key] = value

    found = agree(given, name)

    assert list(found.refused) == [number]
    assert f"x_{number}.cbf says {words}" in found.refused[number]
    assert found.header["start_angle"] == -145.0
    assert not found.differences


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("exposure_time", 0.5, "Exposure_time 0.5 s, and 19 of 20 headers say 0.0964 s"),
        ("exposure_period", 0.6, "Exposure_period 0.6 s"),
        ("threshold", 7.5, "Threshold_setting 7.5 keV"),
        ("wavelength", 0.6892, "Wavelength 0.6892 Å"),
    ],
)
def test_a_frame_that_only_counted_otherwise_is_listed(key, value, words):
    given = headers()
    given[0][key] = value

    found = agree(given, name)

    assert not found.refused
    assert len(found.differences) == 1
    assert found.differences[0].startswith(f"x_0.cbf says {words}")
    assert found.header[key] == USUAL[key]


def test_two_frames_in_each_others_place_are_both_refused():
    given = headers()
    given[4], given[5] = given[5], given[4]

    assert list(agree(given, name).refused) == [4, 5]


@pytest.mark.parametrize(
    "key", ["wavelength", "distance", "chi", "oscillation_axis", "exposure_time"]
)
def test_where_no_majority_decides_nothing_is_stacked(key):
    given = headers(10)
    other = {"oscillation_axis": "PHI"}.get(key, 1.5)
    for number in range(0, 10, 2):
        given[number][key] = other

    with pytest.raises(
        ConfigError, match=r"contradict each other: .* in 5 of 10 \(x_0.cbf first\)"
    ):
        agree(given, name)

    if key == "wavelength":
        found = agree(given, name, known={"wavelength": 1.5})  # by a model
        assert sorted(found.refused) == [1, 3, 5, 7, 9]


def test_rounded_angles_of_a_long_sweep_are_one_line():
    given = {i: {"start_angle": round((350 + i / 30) % 360, 4), "angle_increment": 0.0333}
             for i in range(3600)}  # fmt: skip

    found = agree(given, name)

    assert not found.refused
    assert not found.differences
    assert found.header["start_angle"] == pytest.approx(350.0, abs=1e-3)
    assert found.header["angle_increment"] == pytest.approx(1 / 30, abs=1e-6)


def test_missing_frames_and_frames_without_angles_do_not_move_the_line():
    given = headers(40)
    for number in (0, 1, 2, 20, 30):
        del given[number]
    del given[5]["start_angle"]

    found = agree(given, name)

    assert not found.refused
    assert found.header["start_angle"] == -145.0


def test_frames_that_are_left_out_of_a_sweep_contradict_its_increment():
    given = {i: headers(40)[2 * i] for i in range(20)}

    with pytest.raises(
        ConfigError, match=r"grows by 0\.2 degree .* Angle_increment is 0\.1 degree"
    ):
        agree(given, name)


def test_headers_that_are_wrong_are_listed_where_a_model_is_trusted():
    given = headers(start_angle=0.0)  # a camserver in which none was set

    with pytest.raises(ConfigError, match=r"grows by 0 degree .*\n.*--trust-model"):
        agree(given, name)
    found = agree(given, name, trusted=True)

    assert not found.refused
    assert "grows by 0 degree" in found.differences[0]
    assert "start_angle" not in found.header


def test_angles_that_grow_without_an_increment_count():
    given = headers(angle_increment=0.0, omega_increment=0.0)

    found = agree(given, name)

    assert found.header["angle_increment"] == 0.1
    assert "Start_angle grows by 0.1 degree a frame" in found.differences[0]


@pytest.mark.parametrize("axis", ["PHI", "(nil)"])
def test_an_axis_has_its_own_angles_where_there_is_no_start_angle(axis):
    given = {
        i: {"phi": 3.0 + 0.25 * i, "phi_increment": 0.25, "omega": 0.0}
        | ({"oscillation_axis": axis} if axis == "PHI" else {})
        for i in range(6)
    }
    given[2]["phi"] = 77.0

    found = agree(given, name)

    assert (found.header["start_angle"], found.header["angle_increment"]) == (3.0, 0.25)
    assert list(found.refused) == [2]


def test_an_oscillation_axis_that_does_not_turn_is_listed():
    found = agree(headers(phi_increment=0.1, omega_increment=0.0), name)

    assert "Oscillation_axis OMEGA, but Phi_increment 0.1 degree" in found.differences[0]


def test_a_frame_that_was_written_under_another_number_is_listed():
    given = {i: {"data_name": f"was_{i + 5:05d}"} for i in range(6)}
    assert not agree(given, name).differences
    given[2]["data_name"] = "was_00010"

    (listed,) = agree(given, name).differences

    assert "1 of 6 files were written under another number" in listed
    assert "x_2.cbf as data_was_00010" in listed


def test_a_frame_that_was_taken_at_another_time_is_listed():
    given = headers(date="2016-03-05T09:01:45.6")
    assert not agree(given, name).differences
    given[0]["date"] = "2016-03-04T09:01:45.6"

    (listed,) = agree(given, name).differences

    assert listed == "1 of 20 headers have a date far from the others, as x_0.cbf: -86399 s"


@pytest.mark.parametrize(
    ("date", "tag", "differ"),
    [
        ("2016-03-05T09:01:45.613", "2016:03:05 09:01:45", False),
        ("2016-03-05T09:01:45.613", "2016:03:05 09:01:53", False),  # when it was written
        ("2016-03-05T09:01:45.613Z", "2016:03:05 10:01:45", False),  # a tag has no zone
        ("2016-03-05T09:01:45.613", "2016:03:05 10:01:45", True),
        ("2016-03-05T09:01:45.613Z", "2016:03:07 09:01:45", True),
        ("2016-03-05T09:01:45.613", "0000:00:00 00:00:00", False),  # never set
    ],
)
def test_the_tag_of_a_file_is_compared_with_its_description(date, tag, differ):
    given = headers(date=date)
    given[3]["date_tag"] = tag

    listed = agree(given, name).differences

    assert len(listed) == differ
    if differ:
        assert f"1 of 20 files have two dates, as x_3.cbf: its tag DateTime is {tag}" in listed[0]
        assert f"its header says {date}" in listed[0]


def test_angles_without_a_sweep_in_them_are_refused():
    rng = np.random.default_rng(1)
    given = {i: {"start_angle": float(a)} for i, a in enumerate(rng.uniform(0, 360, 50))}

    with pytest.raises(ConfigError, match="which is not a sweep"):
        agree(given, name)


def test_any_headers_are_agreed_on_or_refused_in_words():
    rng = np.random.default_rng(2)
    values = [0.0, -0.0, 1e300, -1e300, 360.0, 1e-300, 0.1, 5.0]
    keys = [*USUAL, "start_angle", "omega", "flux"]
    for _ in range(300):
        given = {}
        for number in rng.choice(1000, rng.integers(1, 9), replace=False):
            header = {}
            for key in keys:
                if rng.random() < 0.6:
                    value = values[rng.integers(len(values))]
                    header[key] = "AXIS" if key == "oscillation_axis" else value
                    if key in ("pixel_size", "beam_xy"):
                        header[key] = [value, value]
            given[int(number)] = header
        try:
            found = agree(given, name)
        except ConfigError:
            continue
        assert found.refused.keys() <= given.keys()
        json.dumps(found.header)


@pytest.mark.parametrize(
    ("words", "called"),
    [("OMEGA", "omega"), ("X, CW", "x"), ("Phi", "phi"), ("", None), ("2theta", "theta")],
)
def test_the_name_of_an_axis_is_what_the_header_says(words, called):
    assert axis_name({"oscillation_axis": words}) == called


@pytest.mark.parametrize(
    "date",
    [
        "2016-03-05T09:01:45.613",
        "2016-Mar-05T09:01:45.613",
        "2016/Mar/05 09:01:45.613",
        "2016/03/05 09:01:45,613",
        "2016-MAR-05  09:01:45.613000123",
        "2016:03:05 09:01:45.613",
        "2016/Mar/5 9:01:45.613",
    ],
)
def test_every_way_to_write_a_date_is_local_time(date):
    expected = time.mktime((2016, 3, 5, 9, 1, 45, 0, 0, -1)) + 0.613

    assert header_time({"date": date}) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("date", ["", "0000:00:00 00:00:00", "2016/Mrz/05 09:01:45", "2016-03-05"])
def test_what_is_no_date_gives_no_time(date):
    assert header_time({"date": date}) is None
    assert header_time({}) is None
