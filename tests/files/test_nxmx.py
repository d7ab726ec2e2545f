"""What other programs make of a scan file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import h5py
import nexusformat.nexus
import numpy as np
import nxmx
import pytest
import silx.io
from silx.io.nxdata import NXdata

from offbragg.files.scan_writer import ScanWriter
from offbragg.frame import Frame


@pytest.fixture
def path(tmp_path, start, make_counts) -> Path:
    scan = ScanWriter.create(tmp_path, start=start)
    for number in range(6):
        began = start["time"] + 0.1 * number
        scan.write_frame(Frame(number, make_counts(number)), source="x", time=began)
    scan.finish(time=1_770_000_060.0, exit_status="success", reason="", summary={})
    return scan.path


def validated(path: Path) -> str:
    program = Path(sys.executable).with_name("nxvalidate")
    output = subprocess.run(
        [program, "-a", "NXmx", path], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    return re.sub(r"\x1b\[[0-9;]*m", "", output)


def test_nxvalidate_finds_no_error(path):
    assert "Total number of errors: 0" in validated(path)


@pytest.mark.parametrize(
    "unknown", [("beamline_id",), ("beamline_id", "source", "temperature", "per_frame")]
)
def test_nxvalidate_finds_no_error_where_names_are_not_known(tmp_path, start, unknown):
    start = {key: value for key, value in start.items() if key not in unknown}
    facts = start["detector"]
    start["detector"] = {
        key: facts[key] for key in ("shape", "sensor_material", "sensor_thickness")
    }
    ScanWriter.create(tmp_path, start=start, name="f.h5").close()

    assert "Total number of errors: 0" in validated(tmp_path / "f.h5")


def test_a_file_without_a_geometry_does_not_claim_nxmx(tmp_path, start):
    start["geometry"], start["wavelength"] = None, 0.6889
    start["detector"] |= {
        "pixel_size": [0.172, 0.172], "distance": 160.0, "beam_center": [15.5, 10.25],
    }  # fmt: skip
    ScanWriter.create(tmp_path, start=start, name="f.h5").close()

    with h5py.File(tmp_path / "f.h5") as file:
        assert "definition" not in file["entry"]
        # what a header says is kept all the same
        assert file["entry/instrument/beam/incident_wavelength"][()] == 0.6889
        detector = file["entry/instrument/detector"]
        assert [detector[name][()] for name in ("x_pixel_size", "y_pixel_size")] == [0.172, 0.172]
        assert [detector[name][()] for name in ("beam_center_x", "beam_center_y")] == [15.5, 10.25]
        assert detector["distance"][()] == 160.0


def test_a_file_whose_sensor_is_not_known_does_not_claim_nxmx(tmp_path, start):
    del start["detector"]["sensor_material"]
    ScanWriter.create(tmp_path, start=start, name="f.h5").close()

    with h5py.File(tmp_path / "f.h5") as file:
        assert "definition" not in file["entry"]
        assert "transformations" in file["entry/sample"]


def test_nxvalidate_can_find_one(path):
    with h5py.File(path, "r+") as file:
        del file["entry/instrument/beam/incident_wavelength"]

    assert "Total number of errors: 0" not in validated(path)


def test_nxmx_reads_the_instrument_as_it_is(path, start):
    with h5py.File(path) as file:
        (entry,) = nxmx.NXmx(file).entries
        detector = entry.instruments[0].detectors[0]
        (module,) = detector.modules
        chain = nxmx.get_dependency_chain(module.fast_pixel_direction)
        corner = nxmx.get_cumulative_transformation(chain[1:])[0] @ [0, 0, 0, 1]
        axes = nxmx.get_rotation_axes(nxmx.get_dependency_chain(entry.samples[0].depends_on))

        panel = start["geometry"]["panel"]
        np.testing.assert_allclose(corner[:3], panel["origin"])
        np.testing.assert_allclose(module.fast_pixel_direction.vector, panel["fast"])
        np.testing.assert_allclose(module.slow_pixel_direction.vector, panel["slow"])
        assert module.fast_pixel_direction[()].to("mm").magnitude == pytest.approx(0.172)
        assert axes.names.tolist() == ["phi", "chi"]
        assert axes.is_scan_axis.tolist() == [True, False]
        np.testing.assert_allclose(axes.axes, [[0, 1, 0], [0, 0, 1]])
        np.testing.assert_allclose(axes.angles, [-5.0, -90.0])
        phi = file["entry/sample/transformations/phi"]
        np.testing.assert_allclose(phi, -5.0 + 0.5 * np.arange(6))
        np.testing.assert_allclose(file["entry/sample/transformations/phi_end"], phi[()] + 0.5)
        assert file["entry/sample/transformations/phi_increment_set"][()] == 0.5
        beam = entry.instruments[0].beams[0]
        assert beam.incident_wavelength.to("angstrom").magnitude == 0.6889
        assert detector.count_time.to("s").magnitude == 0.097
        assert detector.frame_time.to("s").magnitude == 0.1
        assert detector.saturation_value == 1_048_574
        assert detector.sensor_material == "Si"
        assert detector.sensor_thickness.to("mm").magnitude == 0.45
        assert detector.distance.to("mm").magnitude == pytest.approx(100.0)
        assert detector.beam_center_x.magnitude == pytest.approx(2.7 / 0.172)
        assert detector.beam_center_y.magnitude == pytest.approx(1.9 / 0.172)
        assert entry.samples[0].name == "LSMO-140"
        assert entry.start_time.timestamp() == pytest.approx(start["time"], abs=0.001)
        # the last exposure, not the end of the run a minute later
        last = start["time"] + 0.5 + 0.097
        assert entry.end_time.timestamp() == pytest.approx(last, abs=0.001)
        assert detector.bit_depth_readout == 20
        assert detector.underload_value == 0
        assert (entry.end_time_estimated - entry.start_time).total_seconds() == pytest.approx(0.6)


def test_silx_plots_it(path, make_counts):
    with silx.io.open(str(path)) as file:
        data = NXdata(file["entry/data"])

        assert data.is_valid
        assert data.issues == []
        assert data.signal.shape == (6, 20, 30)
        np.testing.assert_array_equal(data.signal[4], make_counts(4))
        np.testing.assert_allclose(data.axes[0], -4.75 + 0.5 * np.arange(6))


def test_nexusformat_opens_it(path, make_counts):
    root = nexusformat.nexus.nxload(path)

    np.testing.assert_array_equal(root.entry.data[2].data.nxvalue, make_counts(2))
    assert root.entry.definition.nxvalue == "NXmx"
    assert root.entry.sample.temperature.nxvalue == 102.47


def test_the_orientation_is_a_rotation_for_the_lattice_of_UB(tmp_path, start, make_counts):
    from offbragg.lattice import direct_basis

    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    lattice = start["sample"]["lattice"]
    start["sample"]["UB"] = (turn @ np.linalg.inv(direct_basis(lattice)).T).tolist()
    with ScanWriter.create(tmp_path, start=start) as scan:
        path = scan.path

    with h5py.File(path) as file:
        np.testing.assert_allclose(file["entry/sample/orientation_matrix"][0], turn, atol=1e-12)
        np.testing.assert_allclose(file["entry/sample/ub_matrix"][0], start["sample"]["UB"])
        np.testing.assert_allclose(file["entry/sample/unit_cell"], lattice)
