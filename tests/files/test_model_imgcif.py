"""Headers of imgCIF/CBF files as models; what DIALS reads in them is in tests/witness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offbragg.errors import ConfigError
from offbragg.files.model import Model
from sim_iocs.cbf import encode_cbf

HEADER = Path(__file__).parents[1] / "data" / "imgcif_header.cbf"


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = HEADER.read_text()
    assert old in text
    path = tmp_path / "x.cbf"
    path.write_text(text.replace(old, new))
    return path


def test_a_header_is_a_geometry_and_a_sweep(tmp_path):
    """The numbers are those of DIALS 3.12."""
    header = {"exposure_period": 0.2}
    model = Model.read(HEADER)
    geometry, sweep, known = model.geometry(shape=(195, 487), header=header, n_frames=900)
    assert (sweep.axis, sweep.start, sweep.step, sweep.exposure) == ("omega", -12.5, 0.2, 0.195)
    assert [axis.name for axis in geometry.axes] == ["phi", "kappa", "omega"]
    origin = [-212.08417090498185, 257.1127472653389, -85.26181783632418]
    np.testing.assert_allclose(model.document["panel_origin_mm"], origin, atol=1e-11)
    assert known == {}


def test_the_pixels_behind_a_header_are_not_read(tmp_path):
    path = tmp_path / "x.cbf"
    pixels = "\nloop_\n_array_data.array_id\n_array_data.data\nARRAY1\n;\n"
    binary = b"--CIF-BINARY-FORMAT-SECTION--\n\x00\xff;\n"
    path.write_bytes(HEADER.read_bytes() + pixels.encode() + binary)
    assert Model.read(path).document == Model.read(HEADER).document


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("ELEMENT_Y ELEMENT_Y 0.0 0.172", "ELEMENT_Y ELEMENT_Y 0.0 0.2", "are not square"),
        ("SCAN1 GONIOMETER_PHI 81.0 0.0 0.0", "SCAN1 GONIOMETER_PHI 81.0 1 1", "2 of its axes"),
        ("0.2 0.2 0.0 0.0 0.0", "0.0 0.0 0.0 0.0 0.0", "0 of its axes"),
        ("GONIOMETER_OMEGA 0.64279", "GONIOMETER_PHI 0.64279", "depends on itself"),
        ("WAVELENGTH1 0.6889", "WAVELENGTH1 ?", "no number for wavelength"),
        ("detector ELEMENT_X 0 -1 0", "detector DETECTOR_PITCH 0 -1 0", "not depend on each"),
        ("_axis.", "_other.", "has no _axis"),
    ],
)
def test_what_a_header_does_not_say_is_named(tmp_path, old, new, why):
    with pytest.raises(ConfigError, match=why):
        Model.read(changed(tmp_path, old, new))


@pytest.mark.parametrize("row", ["", "SCAN1 DETECTOR_Z 0.0 0.0 0.0 ? 0.0 0.0\n"])
def test_an_axis_may_be_set_in_the_frame_alone(tmp_path, row):
    path = changed(tmp_path, "SCAN1 DETECTOR_Z 0.0 0.0 0.0 159.3 0.0 0.0\n", row)

    assert Model.read(path).document == Model.read(HEADER).document

    path.write_text(path.read_text().replace("FRAME1 DETECTOR_Z 0.0 159.3\n", ""))
    with pytest.raises(ConfigError, match="axis DETECTOR_Z has no number for displacement_start"):
        Model.read(path)


def test_a_minicbf_file_is_not_a_model(tmp_path):
    path = tmp_path / "x.cbf"
    header = ["Wavelength 0.6889 A", "Phi 1.0 deg."]
    path.write_bytes(encode_cbf(np.zeros((4, 5), np.int32), name="x", header=header))
    with pytest.raises(ConfigError, match="miniCBF"):
        Model.read(path)
