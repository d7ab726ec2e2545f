"""Masters and files of others are adopted by the command line, and reduced where they lie."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from measured import Measured

from offbragg.errors import ConfigError, ScanFileError
from offbragg.files.journal_archive import archiving, pack
from offbragg.files.others import find_frames
from offbragg.files.scan_file import ScanFile
from offbragg.files.text_logs import read_text_logs
from offbragg.workflows.adopt import adopt, adopt_as_run, describe
from sim_iocs import crystal

GUIDE = Path(__file__).parents[1] / "docs" / "how-to" / "adopt-existing-data.md"
GIVEN = {
    "oscillation_axis": "phi",
    "start_angle": 0.0,
    "angle_increment": 0.5,
    "exposure_time": 0.1,
}


def master(folder: Path, counts: np.ndarray, *, per_file: int, target: str = "x_data_{:06d}.h5"):
    """Write an Eiger master and its data files."""
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / "x_master.h5", "w") as file:
        data = file.create_group("/entry/data")
        for i, first in enumerate(range(0, len(counts), per_file), 1):
            name = target.format(i)
            data[f"data_{i:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
            with h5py.File(folder / Path(name).name, "w") as part:
                raw = counts[first : first + per_file].astype(np.uint32)
                part.create_dataset("/entry/data/data", data=raw, chunks=(1, *raw.shape[1:]))
        detector = file.create_group("/entry/instrument/detector")
        detector["detectorSpecific/nimages"] = len(counts)
        detector["count_time"] = detector["frame_time"] = 0.1
        file["/entry/instrument/beam/incident_wavelength"] = crystal.WAVELENGTH
    return folder / "x_master.h5"


def model_of(sweep: Measured, path: Path, **more) -> Path:
    turn = np.diag([-1.0, 1.0, -1.0])  # from NeXus to imgCIF
    geometry = sweep.geometry
    panel, axes = geometry.panel, geometry.axes
    document = {
        "wavelength_angstrom": geometry.wavelength,
        "s0": [0.0, 0.0, -1.0 / geometry.wavelength],
        "panel_origin_mm": (turn @ panel.origin).tolist(),
        "fast": (turn @ panel.fast).tolist(),
        "slow": (turn @ panel.slow).tolist(),
        "pixel_mm": panel.pixel_size[0],
        "UB_no_2pi": (turn @ sweep.UB).ravel().tolist(),
        "cell": sweep.start["sample"]["lattice"],
        "goniometer": {
            "axes": [(turn @ axis.vector).tolist() for axis in axes],
            "angles_deg": [axis.angle for axis in axes],
            "names": [axis.name for axis in axes],
            "scan_axis": [axis.name for axis in axes].index("phi"),
            "start_deg": sweep.first,
            "step_deg": sweep.step,
        },
        **more,
    }
    path.write_text(json.dumps(document))
    return path


def offbragg(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Type a command."""
    return subprocess.run(
        [sys.executable, "-m", "offbragg", *words],
        cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_guide_is_typed(tmp_path):
    sweep = Measured(n_frames=60, step=1.0)
    master(tmp_path / "others", sweep.counts, per_file=25)
    model_of(sweep, tmp_path / "model.json")
    alone = GUIDE.read_text().partition("## In the catalog")[0]
    lines = re.findall(r"^\$ offbragg (.*)$", alone, re.MULTILINE)
    assert [line.split()[0] for line in lines] == ["adopt", "index", "reduce", "plot"]
    for line in lines:
        done = offbragg(*shlex.split(line), cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert list((tmp_path / "adopted").glob("*.png"))
    with ScanFile.open(tmp_path / "adopted" / "f1.h5") as scan:
        np.testing.assert_allclose(scan.geometry.panel.origin, sweep.geometry.panel.origin)
        np.testing.assert_array_equal(scan.stack.counts[49:51], sweep.counts[49:51])


def test_all_that_is_missing_is_named_at_once(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["/a/b"] = np.zeros((3, 4, 5), np.uint16)
    with pytest.raises(ConfigError, match="--axis, --start, --step, --exposure, --sample"):
        adopt(path, tmp_path / "f1.h5", dataset="/a/b")
    with pytest.raises(ConfigError, match="--dataset /a/b"):
        adopt(path, tmp_path / "f1.h5")
    adopt(path, tmp_path / "f1.h5", dataset="/a/b", sample="x", given=GIVEN)
    with ScanFile.open(tmp_path / "f1.h5") as scan:
        assert scan.stack.angles.tolist() == [0.25, 0.75, 1.25]
        assert scan.damage().frames == ()


def test_a_run_whose_journal_is_archived_is_adopted_already(tmp_path):
    path = tmp_path / "others" / "x.h5"
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["/a/b"] = np.zeros((3, 4, 5), np.uint16)
    what = describe(path, dataset="/a/b", sample="x", given=GIVEN)
    journal = tmp_path / "journal"
    journal.mkdir()
    places = {
        "experiment": tmp_path / "experiment", "journal": journal, "readable": [path.parent],
    }  # fmt: skip
    adopt_as_run(what, **places)
    file = next(journal.glob("*.jsonl"))
    with archiving(journal):
        pack(journal, "2026-11", {file: file.read_bytes()})

    with pytest.raises(ConfigError, match="is adopted already"):
        adopt_as_run(what, **places)

    assert not file.exists()


def test_a_missing_data_file_is_missing_frames(tmp_path):
    path = master(tmp_path, np.ones((7, 4, 5)), per_file=3)
    (tmp_path / "x_data_000002.h5").unlink()
    (tmp_path / "x_data_000003.h5").unlink()
    adopt(path, tmp_path / "f1.h5", sample="x", given=GIVEN)
    with ScanFile.open(tmp_path / "f1.h5") as scan:
        assert scan.ledger.counts()["missing"] == 4
        assert scan.ledger.reasons[6].startswith("x_data_000003.h5 was not there")


@pytest.mark.parametrize(
    ("gone", "declared", "frames"),
    [
        ((1, 2), True, None),  # the last one, of 1 frame, is all that is there
        ((3,), False, None),
        ((1, 2), False, None),
        ((1,), False, None),  # one is full, or none
        ((3,), True, 11),
        ((), True, 9),
    ],
)
def test_frames_are_not_numbered_by_a_guess(tmp_path, gone, declared, frames):
    path = master(tmp_path, np.ones((7, 4, 5)), per_file=3)
    for number in gone:
        (tmp_path / f"x_data_{number:06d}.h5").unlink()
    if not declared:
        with h5py.File(path, "r+") as file:
            del file["/entry/instrument/detector/detectorSpecific"]
    with pytest.raises(ConfigError, match=r"hold . frames.*\n.*--frames"):
        find_frames(path, n_frames=frames)


def test_missing_files_that_add_up_have_their_numbers(tmp_path):
    path = master(tmp_path, np.ones((7, 4, 5)), per_file=3)
    (tmp_path / "x_data_000001.h5").unlink()
    assert [(p.first, p.stop) for p in find_frames(path).pieces] == [(0, 3), (3, 6), (6, 7)]


def test_a_link_at_the_usual_place_is_followed(tmp_path):
    master(tmp_path, np.ones((2, 4, 5)), per_file=2)
    with h5py.File(tmp_path / "wrapper.nxs", "w") as file:
        file["/entry/data/data"] = h5py.ExternalLink("x_data_000001.h5", "/entry/data/data")
    assert find_frames(tmp_path / "wrapper.nxs").pieces[0].file == "x_data_000001.h5"


@pytest.mark.parametrize("dataset", ["/", "/entry/data/data/", "/entry/."])
def test_a_name_without_an_end_is_refused(tmp_path, dataset):
    path = master(tmp_path, np.ones((2, 4, 5)), per_file=2)
    with pytest.raises(ConfigError, match="names no dataset"):
        find_frames(path, dataset)


def with_fields(folder: Path, angles, /, **units) -> Path:
    path = master(folder, np.ones((4, 4, 5)), per_file=4)
    where = {
        "omega": "/entry/sample/goniometer/omega",
        "wavelength": "/entry/instrument/beam/incident_wavelength",
        "count": "/entry/instrument/detector/count_time",
        "frame": "/entry/instrument/detector/frame_time",
    }
    with h5py.File(path, "r+") as file:
        file[where["omega"]] = angles
        for name, unit in units.items():
            file[where[name]].attrs["units"] = unit
    return path


@pytest.mark.parametrize(
    "omega", [[0, 1, 2, 90.0], [0, 1, 2.0], [0, 1, 2, 3, 4], [0, np.nan, 2, 3]]
)
def test_angles_that_are_not_even_are_asked_for(tmp_path, omega):
    path = with_fields(tmp_path, omega)
    with pytest.raises(ConfigError, match=r"--axis, --start, --step\."):
        adopt(path, tmp_path / "f1.h5", sample="x")


def test_a_value_in_other_units_is_asked_for(tmp_path):
    fine = np.array([3, 2, 1, 0], np.uint8)
    usual = {"omega": "degrees", "count": b"s", "frame": "sec", "wavelength": "Angstrom"}
    found = find_frames(with_fields(tmp_path / "usual", fine, **usual))
    assert (found.header["start_angle"], found.header["angle_increment"]) == (3.0, -1.0)
    assert found.header.keys() >= {"wavelength", "exposure_time", "exposure_period"}
    other = {"omega": "rad", "count": "ms", "frame": "ms", "wavelength": "nm"}
    path = with_fields(tmp_path / "other", fine, **other)
    assert not find_frames(path).header
    with pytest.raises(ConfigError, match="--axis, --start, --step, --exposure, --period"):
        adopt(path, tmp_path / "f1.h5", sample="x")


@pytest.mark.parametrize("target", ["../x_{}.h5", "/tmp/x_{}.h5"])
def test_a_link_that_leaves_the_folder_is_refused(tmp_path, target):
    path = master(tmp_path, np.ones((2, 4, 5)), per_file=2, target=target)
    with pytest.raises(ScanFileError, match="leads out of the adopted folder"):
        find_frames(path)


def test_a_model_of_another_step_is_refused_with_both_numbers(tmp_path):
    sweep = Measured(n_frames=2, step=1.0)
    path = master(tmp_path / "others", np.ones((2, 195, 487)), per_file=2)
    model = model_of(sweep, tmp_path / "model.json")
    with pytest.raises(ConfigError, match=r"by 1 degree.* 0\.5 degree"):
        adopt(path, tmp_path / "f1.h5", model=model, sample="x", given=GIVEN)


def test_a_rotation_of_an_nxrefine_tree_is_named(tmp_path):
    """Its wrapper links the frames of each rotation below its own folder."""
    (tmp_path / "300K").mkdir()
    with h5py.File(tmp_path / "STO_300K.nxs", "w") as file:
        for i in (1, 2):
            raw = np.full((3, 4, 5), i, np.int32)
            with h5py.File(tmp_path / "300K" / f"f{i}.h5", "w") as part:
                part["/entry/data/data"] = raw
            file[f"/f{i}/data/data"] = h5py.ExternalLink(f"300K/f{i}.h5", "/entry/data/data")
    path = tmp_path / "STO_300K.nxs"
    with pytest.raises(ConfigError, match=r"--dataset /f1/data/data or /f2/data/data"):
        adopt(path, tmp_path / "f2.h5", sample="x", given=GIVEN)
    adopt(path, tmp_path / "f2.h5", dataset="/f2/data/data", sample="x", given=GIVEN)
    with ScanFile.open(tmp_path / "f2.h5") as scan:
        assert scan.stack.counts[1].tolist() == np.full((4, 5), 2).tolist()


def area_detector(folder: Path) -> Path:
    """Write what areaDetector's file plug-in writes: frames, and attributes of each."""
    path = folder / "f1.h5"
    with h5py.File(path, "w") as file:
        file["/entry/data/data"] = np.ones((4, 4, 5), np.int32)
        attributes = file.create_group("/entry/instrument/NDAttributes")
        attributes["phi"] = [1.0, 1.1, 1.2, 1.3]
        attributes["uneven"] = [1.0, 1.1, 1.2, 1.5]
        attributes["ring"] = [100.0, 100.1, 100.2, 100.3]
    return path


def test_angles_and_monitor_are_read_where_they_are_named(tmp_path):
    path, out = area_detector(tmp_path), tmp_path / "thin.h5"
    names = "/entry/instrument/NDAttributes"
    with pytest.raises(ConfigError, match="--axis, --start, --step, --exposure, --sample"):
        adopt(path, out)
    given = {"oscillation_axis": "phi", "exposure_time": 0.1}
    how = {"sample": "x", "given": given, "monitor": f"{names}/ring"}
    with pytest.raises(ScanFileError, match=r"uneven does not say how the axis turned"):
        adopt(path, out, angles=f"{names}/uneven", **how)
    adopt(path, out, angles=f"{names}/phi", **how)
    with ScanFile.open(out) as scan:
        assert (scan.sweep.start, round(scan.sweep.step, 9)) == (1.0, 0.1)
        assert scan.column("monitor").tolist() == [100.0, 100.1, 100.2, 100.3]


def test_text_files_beside_a_stack_are_read(tmp_path):
    """As at 6-ID-D: a head, and a row for each frame, of which there may be one too many."""
    sweep = Measured(n_frames=6, step=2.0)
    path = master(tmp_path / "others", sweep.counts, per_file=6).with_name("f1.h5")
    with h5py.File(path, "w") as file:
        file["/entry/data/data"] = sweep.counts.astype(np.int32)
    path.with_name("f1_head.txt").write_text(
        "Storage_Ring_Current, 102.3\nSample, SrTiO3, twinned\nSCU_Current, nan\n"
    )
    path.with_name("f1_meta.txt").write_text(
        "# MCS1, MCS2, Shutter\n" + "".join(f"{100 + n}, {n}.5, 0\n" for n in range(7))
    )
    model = model_of(sweep, tmp_path / "model.json")
    out = tmp_path / "f1.h5"
    command = ["adopt", str(path), "--model", str(model), "--sample", "SrTiO3",
               "--exposure", "0.1"]  # fmt: skip

    done = offbragg(*command, "--out", str(tmp_path / "without.h5"))
    refused = offbragg(*command, "--out", str(tmp_path / "no.h5"), "--monitor", "MCS3")
    offbragg(*command, "--out", str(out), "--monitor", "MCS1")

    assert "no monitor is taken; beside it are MCS1, MCS2, Shutter" in done.stdout + done.stderr
    assert "f1_meta.txt has no column MCS3: MCS1, MCS2, Shutter" in refused.stderr
    with ScanFile.open(out) as scan:
        assert scan.frame_values()["monitor"].tolist() == [100.0 + n for n in range(6)]
        assert scan.start["logs"] == {
            "files": ["f1_head.txt", "f1_meta.txt"],
            "head": {"Storage_Ring_Current": 102.3, "Sample": "SrTiO3, twinned",
                     "SCU_Current": "nan"},
            "columns": ["MCS1", "MCS2", "Shutter"],
        }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MCS1, MCS2\n1, 2\n3\n", "line 3 has 1 values for 2 names"),
        ("MCS1, MCS1\n", "line 1 does not name each column once"),
        ("MCS1\n1\n2\n", "has 2 rows for 6 frames"),
        ("MCS1\n1\n2\nstuck\n4\n5\n6\n", "row 3 has no number under MCS1"),
    ],
)
def test_a_text_file_that_is_wrong_is_refused(tmp_path, text, message):
    (tmp_path / "f1_meta.txt").write_text(text)

    def first_six():
        logs = read_text_logs(tmp_path / "f1.h5")
        assert logs is not None
        return logs.column("MCS1", 6)

    with pytest.raises(ScanFileError, match=message):
        first_six()


def test_the_stacks_of_a_temperature_are_adopted_at_once(tmp_path):
    """As three folders of QM2, into a beamline; and never into one file."""
    folders = {name: tmp_path / name for name in ("experiment", "frames", "journal", "log")}
    others = tmp_path / "others"
    stacks = [others / f"x{n}.h5" for n in range(3)]
    for folder in (*folders.values(), others):
        folder.mkdir()
    for n, path in enumerate(stacks):
        with h5py.File(path, "w") as file:
            file["/a/b"] = np.full((3, 4, 5), n, np.uint16)
    paths = "\n".join(f'{name} = "{folder}"' for name, folder in folders.items())
    (tmp_path / "beamline.toml").write_text(
        f'beamline_id = "x"\nbaseline = []\n[paths]\n{paths}\ncatalog = "{tmp_path}/catalog"\n'
        f'[catalog]\nadopted = ["{others}"]\n[devices]\n[per_frame]\n'
    )
    options = "--dataset /a/b --sample x --axis phi --start 0 --step 0.5 --exposure 0.1"
    command = ["adopt", *map(str, stacks), *options.split(), "--temperature", "100"]

    refused = offbragg(*command, "--out", str(tmp_path / "f1.h5"))
    done = offbragg(*command, "--beamline", str(tmp_path / "beamline.toml"), "--json")

    assert "--out is one file, and 3 sweeps are to be adopted" in refused.stderr
    assert done.returncode == 0, done.stderr
    made = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(each["file"]).name for each in made] == ["f1.h5", "f2.h5", "f3.h5"]
    for n, each in enumerate(made):
        with ScanFile.open(Path(each["file"])) as scan:
            assert np.all(scan.stack.counts[2] == n)
            assert (folders["journal"] / f"{scan.run}.jsonl").exists()
