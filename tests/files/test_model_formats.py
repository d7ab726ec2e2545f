"""Models that other programs wrote: what is read of them, and what is refused with both numbers."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from offbragg.errors import ConfigError
from offbragg.files import model_pyfai
from offbragg.files.model import Model, compare_with_headers
from offbragg.files.nxrefine import pyfai_parameters
from offbragg.geometry import Geometry, rotation_about
from offbragg.lattice import q_to_hkl

SHAPE = (1679, 1475)
UP, BEAM = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0])  # of a model
TO_NEXUS = np.array([-1.0, 1.0, -1.0])
CELL = [5.4, 8.1, 12.2, 80.0, 95.0, 103.0]
RIGHT_ANGLED = [5.4, 8.1, 12.2, 90.0, 90.0, 90.0]
GONIOMETER = {
    "axes": [[1.0, 0.0, 0.0]],
    "angles_deg": [0.0],
    "scan_axis": 0,
    "start_deg": 10.0,
    "step_deg": 0.1,
    "names": ["phi"],
}
EXPT = {
    "__id__": "ExperimentList",
    "experiment": [{"beam": 0, "detector": 0, "goniometer": 0, "scan": 0}],
    "beam": [{"direction": [0.0, 0.0, 1.0], "wavelength": 0.5}],
    "detector": [
        {
            "panels": [
                {
                    "fast_axis": [1.0, 0.0, 0.0],
                    "slow_axis": [0.0, -1.0, 0.0],
                    "origin": [-127.0, 144.0, -200.0],
                    "image_size": [1475, 1679],
                    "pixel_size": [0.172, 0.172],
                }
            ],
            "hierarchy": {
                "fast_axis": [1.0, 0.0, 0.0],
                "slow_axis": [0.0, 1.0, 0.0],
                "origin": [0.0, 0.0, 0.0],
                "children": [{"panel": 0}],
            },
        }
    ],
    "goniometer": [
        {
            "axes": [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
            "angles": [30.0, 10.0],
            "names": ["GON_CHI", "GON_OMEGA"],
            "scan_axis": 1,
        }
    ],
    "scan": [{"oscillation": [10.0, 0.1], "image_range": [1, 20]}],
    "crystal": [],
}
PONI = """poni_version: 2.1
Detector: Detector
Detector_config: {{"pixel1": 0.000172, "pixel2": 0.000172, "orientation": {}, "max_shape": {}}}
Distance: 0.2
Poni1: 0.13
Poni2: 0.1
Rot1: 0.11
Rot2: -0.07
Rot3: 0.3
Wavelength: 6.889e-11
"""
XPARM = """ XPARM.XDS    VERSION Jan 10, 2022
     1       10.0000    0.1000  1.000000  0.000000  0.000000
       0.500000       0.000000       0.000000       2.000000
     1      5.0000    5.0000    5.0000  90.000  90.000  90.000
       5.000000       0.000000       0.000000
       0.000000       5.000000       0.000000
       0.000000       0.000000       5.000000
         1      1475      1679    0.172000    0.172000
     738.000000     840.000000     200.000000
       1.000000       0.000000       0.000000
       0.000000       1.000000       0.000000
       0.000000       0.000000       1.000000
         1         1      1475         1      1679
    0.00    0.00    0.00  1.00000  0.00000  0.00000  0.00000  1.00000  0.00000
"""


def written(folder, text, name="any.name") -> Model:
    path = folder / name
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return Model.read(path)


def geometry_of(model: Model, shape=SHAPE):
    return model.geometry(shape=shape, header={"exposure_time": 0.1}, n_frames=20)


def with_poni(folder, poni: str, **own) -> Model:
    (folder / "x.poni").write_text(poni)
    mount = {"fast": [1, 0, 0], "slow": [0, -1, 0], "goniometer": GONIOMETER}
    return written(folder, {"from": "x.poni"} | mount | own)


@pytest.mark.parametrize(
    ("orientation", "degrees"),  # as pyFAI 2026.9 has them, of pixels (0, 0), (100, 1200), …
    [
        (1, [55.122914224, 39.209703641, 44.137726676]),
        (2, [43.721166549, 48.57559101, 26.434619012]),
        (3, [32.395322859, 39.765232427, 38.213753792]),
        (4, [47.796078533, 25.864187089, 51.043090565]),
    ],
)
@pytest.mark.parametrize("says_shape", [True, False])
def test_pixels_have_the_angle_that_pyfai_gives_them(tmp_path, orientation, degrees, says_shape):
    shape, own = (list(SHAPE), {}) if says_shape else ("null", {"shape": list(SHAPE)})
    model = with_poni(tmp_path, PONI.format(orientation, shape), **own)

    geometry, sweep, crystal = geometry_of(model)

    position = geometry.lab(np.array([0.5, 1200.5, 70.5]), np.array([0.5, 100.5, 1500.5]))
    angles = np.degrees(np.arccos(position[:, 2] / np.linalg.norm(position, axis=1)))
    np.testing.assert_allclose(angles, degrees, atol=1e-7)
    assert geometry.wavelength == pytest.approx(0.6889)
    assert np.cross(geometry.panel.fast, geometry.panel.slow)[2] > 0.9  # not mirrored
    assert (sweep.axis, sweep.start, crystal) == ("phi", 10.0, {})


def test_a_panel_that_was_written_as_pyfai_has_it_is_read_back(tmp_path):
    turn = rotation_about([0.6, 0.8, 0.0], 20.0)
    fast, slow = (turn @ np.array(v) for v in ([1.0, 0.0, 0.0], [0.0, -1.0, 0.0]))
    first, _, _ = geometry_of(with_poni(tmp_path, PONI.format(3, "null"), fast=list(fast),
                                        slow=list(slow)))  # fmt: skip
    values = pyfai_parameters(first)

    text = "".join(f"{key}: {value!r}\n" for key, value in values.items())
    mount = {key: list(TO_NEXUS * getattr(first.panel, key)) for key in ("fast", "slow")}
    again, _, _ = geometry_of(with_poni(tmp_path, text, **mount))

    np.testing.assert_allclose(again.panel.origin, first.panel.origin, atol=1e-9)
    np.testing.assert_allclose(again.panel.fast, first.panel.fast, atol=1e-12)
    np.testing.assert_allclose(again.panel.slow, first.panel.slow, atol=1e-12)


def test_the_last_calibration_of_a_file_counts(tmp_path):
    text = PONI.format(3, "null")
    model = with_poni(tmp_path, text.replace("Distance: 0.2", "Distance: 0.3") + text)

    origin, normal = np.array(model.document["panel_origin_mm"]), np.cross(
        model.document["fast"], model.document["slow"]
    )  # fmt: skip
    assert origin @ normal == pytest.approx(200.0)


def test_a_line_without_a_value_takes_none_from_the_next_line():
    assert model_pyfai.is_pyfai("Distance:\nPoni1: 1\nPoni2: 2\n" + " " * 20_000)
    found = model_pyfai._values("Detector_config:\nDistance: 0.1\n" + " " * 20_000 + "\n")
    assert found == {"detector_config": "", "distance": "0.1"}


def test_a_calibration_alone_is_refused_with_what_it_lacks(tmp_path):
    with pytest.raises(ConfigError, match=r'nor the axes\nGive a model that does: \{"from"'):
        written(tmp_path, PONI.format(3, "null"))


def test_xds_counts_the_centre_of_the_first_pixel_as_1(tmp_path):
    geometry, sweep, crystal = geometry_of(written(tmp_path, XPARM))

    x, y, distance = geometry.direct_beam()
    assert (x, y, distance) == pytest.approx((737.5, 839.5, 200.0))
    assert (sweep.start, sweep.step, geometry.wavelength) == (10.0, 0.1, 0.5)
    assert crystal["lattice"] == [5.0, 5.0, 5.0, 90.0, 90.0, 90.0]
    np.testing.assert_allclose(geometry.panel.slow, [0, -1, 0], atol=1e-12)


# ---- UB of other programs --------------------------------------------------------------

_RIGHT = np.cross(BEAM, UP)
DIFFCALC = [  # diffcalc-core 0.4.0: CELL, turned by xyz Euler angles of 20, 30, 40 degree
    [0.7932186831090624, -0.2581807043002129, 0.3589560952411001],
    [0.6655895044397419, 0.7495789255564451, -0.0401380547945309],
    [-0.5978308756534232, 0.14708270981180777, 0.3790982529664182],
]
LIBHKL = [  # libhkl 5.0.0.3001, E4CV: RIGHT_ANGLED, ux, uy, uz = 20, 30, 40 degree
    [0.7719171799468654, -0.43181028066188065, 0.2575075945565404],
    [0.8552393619171877, 0.47311854410359494, -0.15254653734083465],
    [-0.16298680984177225, 0.43750673885199565, 0.41911816675993446],
]


@pytest.mark.parametrize(
    ("convention", "rows", "axes", "angles", "arm", "hkl"),
    [
        # mu about up, eta and delta about −z, chi about the beam, phi as eta; nu about up
        ("diffcalc", DIFFCALC, [_RIGHT, BEAM, _RIGHT, UP], [-60.0, 40.0, 11.0, 7.0],
         rotation_about(UP, 13.0) @ rotation_about(_RIGHT, 25.0),
         [-2.1609113726067113, 0.22711812983193352, 7.180864375873829]),
        # omega, phi, tth about −y, chi about x, which is the beam
        ("hkl", LIBHKL, [_RIGHT, BEAM, _RIGHT], [-60.0, 40.0, 12.0], rotation_about(_RIGHT, 31.0),
         [-0.14290906037991455, 6.050117186096223, -2.539450374278736]),
        # by hand: (100) of a cubic crystal at theta, chi = phi = 0
        ("Busing-Levy", np.eye(3) / 5.0, [_RIGHT, BEAM, _RIGHT], [0.0, 0.0, 20.0],
         rotation_about(_RIGHT, 40.0), [2 * np.sin(np.radians(20.0)) / 0.6889 * 5.0, 0.0, 0.0]),
        ("SPEC", np.eye(3) * 2 * np.pi / 5.0, [UP, BEAM, UP], [0.0, 0.0, 20.0],
         rotation_about(UP, 40.0), [2 * np.sin(np.radians(20.0)) / 0.6889 * 5.0, 0.0, 0.0]),
    ],
)  # fmt: skip
def test_UB_of_another_program_gives_its_hkl(tmp_path, convention, rows, axes, angles, arm, hkl):
    goniometer = {"axes": np.array(axes).tolist(), "angles_deg": angles, "scan_axis": 0,
                  "start_deg": 0.0, "step_deg": 0.1}  # fmt: skip
    beam_and_panel = {
        "wavelength_angstrom": 0.6889, "s0": list(BEAM / 0.6889), "panel_origin_mm": [0, 0, -100],
        "fast": [1, 0, 0], "slow": [0, -1, 0], "pixel_mm": 0.172,
    }  # fmt: skip
    given = {"convention": convention, "rows": np.array(rows).tolist()}
    model = written(tmp_path, beam_and_panel | {"goniometer": goniometer, "UB": given})

    geometry, _, crystal = geometry_of(model)

    q = (TO_NEXUS * (arm @ BEAM) - [0, 0, 1]) / 0.6889 @ geometry.rotation(angles[0])
    np.testing.assert_allclose(q_to_hkl(q, crystal["UB"]), hkl, atol=1e-9)
    cell = {"diffcalc": CELL, "hkl": RIGHT_ANGLED}.get(convention, [5, 5, 5, 90, 90, 90])
    np.testing.assert_allclose(crystal["lattice"], cell)


# ---- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"wavelength": 0.6}, "the headers say Wavelength 0.6 Å, and the model 0.5 Å"),
        ({"distance": 300.0}, "Detector_distance 300 mm, and the model 200 mm"),
        ({"pixel_size": [0.075, 0.075]}, "Pixel_size 0.075, 0.075 mm, and the model 0.172, 0.172"),
        ({"oscillation_axis": "PHI"}, "Oscillation_axis PHI, and the model omega"),
        ({"oscillation_axis": "OMEGA", "chi": 40.0}, "Chi 40 degree, and the model 30 degree"),
    ],
)
def test_headers_that_contradict_dials_are_refused_with_both_numbers(tmp_path, header, words):
    model = written(tmp_path, EXPT)
    geometry, _, _ = geometry_of(model)

    with pytest.raises(ConfigError) as refused:
        compare_with_headers(model, geometry, header, trusted=False)

    assert words in str(refused.value)


def test_a_panel_of_another_size_is_refused_with_both(tmp_path):
    with pytest.raises(ConfigError, match=r"195 × 487 pixels, and the panel of .* 1679 × 1475"):
        geometry_of(written(tmp_path, EXPT), shape=(195, 487))


def _changed(*keys, to):
    document = copy.deepcopy(EXPT)
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    return document


PANEL = EXPT["detector"][0]["panels"][0]
WHOLE = {"from": "x.expt"}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (_changed("experiment", to=EXPT["experiment"] * 2), "holds 2 experiments, not 1"),
        (_changed("experiment", to=[{"beam": 0}]), "its experiment has no detector"),
        (_changed("detector", 0, "panels", to=[PANEL, PANEL]), "has 2 panels"),
        (_changed("detector", 0, "panels", 0, "pixel_size", to=[0.1, 0.2]), "0.1 × 0.2 mm"),
        (_changed("beam", to=[{"wavelength": "x"}]), "is not a model of a sweep: ValueError"),
        (_changed("scan", to=[7]), "is not a model of a sweep: TypeError"),
        (XPARM.replace("    200.000000\n", "\n"), "its lines have 6, 4, 7, 3, 3, 3, 5, 2, 3"),
        (XPARM.replace("0.172000\n", "0.175000\n"), "pixels of 0.172 × 0.175 mm"),
        (XPARM.replace("    0.00    0.00    0.00  1", "    0.00    2.00    0.00  1"), "segment 1"),
        (XPARM.replace("2.000000\n", "-2.00000\n"), "its beam runs along"),
        (XPARM.replace("5.000000       0.000000 ", "x       0.000000 "), "ValueError"),
        (WHOLE | {"pixel_mm": 0.1}, "has pixel_mm 0.1, and"),
        (WHOLE | {"goniometer": {"step_deg": 0.2}}, "has step_deg 0.2, and"),
        ({"from": "gone.expt"}, "gone.expt cannot be read: No such file"),
        (WHOLE | {"UB": {"convention": "ours", "rows": []}}, "convention 'ours'; offbragg reads"),
        (WHOLE | {"UB": {"convention": "hkl", "rows": LIBHKL}, "cell": [1, 1, 1, 90, 90, 90]},
         "its cell is 1, 1, 1, 90, 90, 90, and its UB in the convention hkl has 5.4, 8.1, 12.2"),
        (WHOLE | {"UB": {"convention": "hkl", "rows": np.zeros((3, 3)).tolist()}}, "is singular"),
    ],
)  # fmt: skip
def test_what_is_not_one_sweep_of_one_panel_is_refused(tmp_path, document, words):
    (tmp_path / "x.expt").write_text(json.dumps(EXPT))

    with pytest.raises(ConfigError) as refused:
        written(tmp_path, document)

    assert words in str(refused.value)


def test_what_dials_does_not_have_comes_from_a_model_that_takes_the_rest_from_it(tmp_path):
    (tmp_path / "x.expt").write_text(json.dumps(EXPT))
    unturned = {"convention": "hkl", "rows": LIBHKL}

    model = written(tmp_path, WHOLE | {"UB": unturned, "exposure_time": 0.2})

    _, sweep, crystal = geometry_of(model)
    np.testing.assert_allclose(crystal["lattice"], RIGHT_ANGLED)
    assert (sweep.exposure, sweep.step) == (0.2, 0.1)


def test_a_sweep_without_a_crystal_has_a_geometry(tmp_path):
    geometry, sweep, crystal = geometry_of(written(tmp_path, EXPT))

    assert isinstance(geometry, Geometry)
    assert [axis.name for axis in geometry.axes] == ["chi", "omega"]
    assert (sweep.axis, crystal) == ("omega", {})
