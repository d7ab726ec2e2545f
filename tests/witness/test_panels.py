"""Every panel of Dectris that pyFAI lists has here the size, pixels and gaps that it has there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from offbragg.errors import ConfigError, GeometryError
from offbragg.files.adopted_datasets import as_counts
from offbragg.files.mask import read_mask
from offbragg.files.model import Model
from offbragg.panels import known_panels, panel_named, size_named


def _of_pyfai() -> dict[str, list[str]]:
    """What pyFAI calls each panel, by the name of its class; Mythen is a strip."""
    detectors = pytest.importorskip("pyFAI.detectors")
    found: dict[str, list[str]] = {}
    for name, kind in detectors.ALL_DETECTORS.items():
        if kind.__module__.endswith("_dectris") and min(kind.MAX_SHAPE) > 1:
            found.setdefault(kind.__name__, [kind.__name__]).append(name)
    return found


def test_every_panel_of_pyfai_is_known_by_each_of_its_names():
    detectors = pytest.importorskip("pyFAI.detectors")
    seen = set()
    for name, aliases in _of_pyfai().items():
        theirs = detectors.ALL_DETECTORS[name.lower()]()
        for alias in {*aliases, theirs.name}:
            panel = panel_named(alias)
            seen.add(panel.name)
            assert panel.shape == theirs.MAX_SHAPE, alias
            assert 1e-3 * panel.pixel == pytest.approx(theirs.pixel1, rel=1e-12), alias
            assert theirs.pixel1 == theirs.pixel2
            assert theirs.IS_FLAT
        np.testing.assert_array_equal(panel.gaps(), theirs.calc_mask() != 0, err_msg=name)
    assert len(seen) == len(_of_pyfai()) > 40
    assert seen == {panel.name for panel in known_panels()}  # and there are no others


@pytest.mark.parametrize("kind", [np.int32, np.uint16, np.uint32])
def test_what_marks_a_pixel_without_a_count_is_what_pyfai_takes_for_it(kind):
    """Gaps and dead pixels: -1 and -2, or the two highest numbers of unsigned ones."""
    detectors = pytest.importorskip("pyFAI.detectors")
    panel, top = detectors.Detector.factory("Eiger2_500k"), np.array([-1, -2]).astype(kind)
    raw = np.zeros(panel.MAX_SHAPE, kind)
    raw[3, 4], raw[5, 6], raw[7, 8] = *top, 1000

    marked = np.argwhere(panel.dynamic_mask(raw)).tolist()

    assert marked == [[3, 4], [5, 6]]
    assert np.argwhere(as_counts(raw) < 0).tolist() == marked


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("PILATUS 2M, S/N 24-0107 Diamond", "Pilatus 2M"),
        ("PILATUS3 X CdTe 2M, S/N 24-9999", "Pilatus CdTe 2M"),
        ("PILATUS3 6M", "Pilatus 6M"),
        ("Dectris EIGER2 XE 16M", "Eiger2 16M"),
        ("Dectris EIGER2 Si 500K, E-08-0102", "Eiger2 500K"),
        ("Dectris Eiger 1M", "Eiger 1M"),
        ("DECTRIS PILATUS4 XE CdTe 1M", "Pilatus4 CdTe 1M"),
        ("pilatus 300k-w", "Pilatus 300K-W"),
        ("PILATUS41M", "Pilatus4 1M"),
        ("Eiger 2 4M", "Eiger2 4M"),
        ("Pilatus 2 M", "Pilatus 2M"),
    ],
)
def test_a_panel_is_known_as_headers_call_it(called, name):
    assert panel_named(called).name == name


@pytest.mark.parametrize(
    ("called", "message"),
    [
        ("Eiger3 4M", "did you mean 'Eiger 4M'"),
        ("PILATUS 5M", "did you mean 'Pilatus 6M'"),
        ("PILATUS 12M", "did you mean 'Pilatus"),  # not the first generation's 2M
        ("Pilatus12M", "did you mean 'Pilatus"),
        ("Eiger 21M, E-32", "did you mean 'Eiger"),
        ("Pilatus 42M", "did you mean 'Pilatus"),
        ("Pilatus CdTe 6M", r"did you mean 'Pilatus CdTe"),  # there is none
        ("Pilatus 900K-W", r"did you mean 'Pilatus"),  # of CdTe only
        ("Rayonix MX300", "not a panel that is known\noffbragg panels"),
        ("", "not a panel"),
        ("x" * 10_000, "not a panel"),
    ],
)
def test_an_unknown_panel_is_refused_with_the_nearest_name(called, message):
    with pytest.raises(GeometryError, match=message):
        panel_named(called)


def test_a_size_is_named_by_its_pixels():
    assert size_named("Pilatus", (1679, 1475)) == "2M"
    assert size_named("Pilatus", (195, 4439)) == "900K-W"
    assert size_named("Pilatus", (3, 4)) == ""


MOUNT = {
    "from": "x.poni", "fast": [1, 0, 0], "slow": [0, -1, 0],
    "goniometer": {
        "names": ["phi"], "axes": [[1, 0, 0]], "angles_deg": [0], "scan_axis": 0, "start_deg": 0,
        "step_deg": 0.1,
    },
}  # fmt: skip


def _model(folder: Path, **more) -> Model:
    (folder / "m.json").write_text(json.dumps(MOUNT | more))
    return Model.read(folder / "m.json")


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["Pilatus4_260k", "Eiger2CdTe_500k", "Eiger1M", "Pilatus300kw"])
def test_a_calibration_that_names_the_panel_only_has_the_angles_of_pyfai(
    tmp_path, name, orientation
):
    """pyFAI writes it: with a known panel it leaves out pixel size and shape."""
    geometry = pytest.importorskip("pyFAI.geometry").Geometry
    detector = pytest.importorskip("pyFAI.detectors").Detector.factory(
        name, {"orientation": orientation}
    )
    theirs = geometry(0.15, 0.02, 0.03, 0.1, -0.05, 0.2, detector=detector, wavelength=7e-11)
    theirs.save(str(tmp_path / "x.poni"))
    shape = detector.shape

    ours, _, _ = _model(tmp_path).geometry(shape=shape, header={"exposure_time": 0.1}, n_frames=20)

    rows, columns = np.array([0, 17, shape[0] - 1]), np.array([3, shape[1] - 1, 0])
    position = ours.lab(columns + 0.5, rows + 0.5)
    angles = np.arccos(position[:, 2] / np.linalg.norm(position, axis=1))
    wanted = theirs.center_array(shape, unit="2th_rad")[rows, columns]
    np.testing.assert_allclose(angles, wanted, atol=1e-9)
    with pytest.raises(ConfigError, match=f"{shape[0]} × {shape[1]}"):
        _model(tmp_path).geometry(shape=(3, 4), header={"exposure_time": 0.1}, n_frames=20)


def test_a_calibration_of_a_panel_that_is_not_known_is_refused_with_the_nearest_name(tmp_path):
    (tmp_path / "x.poni").write_text(
        "Detector: Eiger3_4M\nDistance: 0.2\nPoni1: 0.1\nPoni2: 0.1\nRot1: 0\nRot2: 0\n"
        "Rot3: 0\nWavelength: 7e-11\n"
    )

    with pytest.raises(ConfigError, match=r"x\.poni|m\.json.*'Eiger3_4M'.*did you mean 'Eiger 4M'"):
        _model(tmp_path)
    assert _model(tmp_path, pixel_mm=0.075).document["pixel_mm"] == 0.075  # it says what it must


def test_the_command_line_lists_panels_and_writes_a_mask(tmp_path):
    from typer.testing import CliRunner

    from offbragg.cli.app import app

    listed = CliRunner().invoke(app, ["panels"]).output.splitlines()
    assert len(listed) == len(known_panels())
    written = CliRunner().invoke(
        app, ["panels", "eiger2_cdte_1m", "--mask", str(tmp_path / "gaps.npy"), "--json"]
    )
    assert json.loads(written.output)["panels"][0]["name"] == "Eiger2 CdTe 1M"
    gaps = read_mask(tmp_path / "gaps.npy")
    np.testing.assert_array_equal(gaps, panel_named("Eiger2 CdTe 1M").gaps())
    for arguments, message in (
        (["eiger2_cdte_1m", "--mask", str(tmp_path / "gaps.npy")], "there already"),
        (["eiger2_cdte_1m", "--mask", str(tmp_path / "gaps.tif")], "must end in .npy"),
        (["eiger2_cdte_1m", "--mask", str(tmp_path / "no" / "gaps.npy")], "No such file"),
    ):
        refused = CliRunner().invoke(app, ["panels", *arguments])
        assert message in str(refused.exception), arguments
