"""From scan files to a volume file, by the library and by the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter
from measured import AS_SIMULATED, Measured
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

import offbragg
from offbragg.cli import main
from offbragg.cli.app import app
from offbragg.errors import GeometryError, OffbraggError, OrientationError, ReductionError
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_writer import ScanWriter
from offbragg.files.volume_file import VolumeFile, read_volume
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.lattice import lattice_of
from offbragg.reduction import binning
from offbragg.sample import Sample
from offbragg.volume import Volume
from offbragg.workflows import sweeps
from offbragg.workflows.choices import Choices
from offbragg.workflows.reduce import reduce_files
from offbragg.workflows.reproduce import reproduce
from offbragg.workflows.sweeps import repeats

CHOICES = Choices(step=0.1, corrections=AS_SIMULATED)


@pytest.fixture(scope="module")
def sweep() -> Measured:
    return Measured(n_frames=8, step=2.0, temperature=100.0)


@pytest.fixture
def scan_path(tmp_path, sweep) -> Path:
    return sweep.write(tmp_path / "perovskite" / "c1" / "100K")


def altered(sweep: Measured, **more) -> Measured:
    other = Measured(n_frames=sweep.n_frames, step=sweep.step, series=9, start_more=more)
    other.counts = sweep.counts
    return other


def test_typed(scan_path):
    runner = CliRunner()
    typed = ["reduce", str(scan_path), "--grid", "-3:1:0.1,-1:2:0.1,-3:1:0.1", "--symmetry", "auto"]

    done = runner.invoke(app, [*typed, "--json"], catch_exceptions=False)

    (made,) = json.loads(done.output)["volumes"]
    assert made["file"] == str(scan_path.with_name("volume-f1.h5"))
    assert made["symmetry"] == "m-3m"
    with VolumeFile(made["file"]) as file:
        assert file.record["inputs"][0]["file"] == "f1.h5"
        assert file.completeness == made["completeness"] > 0
    again = runner.invoke(app, ["reduce", "--again", made["file"]], catch_exceptions=False)
    more = ["--grid", "0:1,0:1,0:1", "--no-monitor", "--hot"]  # also what is the default
    refused = runner.invoke(app, ["reduce", "--again", made["file"], *more], env={"COLUMNS": "200"})
    assert again.exit_code == 0
    assert "the same, bit for bit" in again.output
    assert refused.exit_code == 2
    assert "--again takes no --grid, --monitor, --hot: " in refused.output
    picture = runner.invoke(app, ["plot", made["file"], "hk0", "--json"], catch_exceptions=False)
    assert Path(json.loads(picture.output)["file"]).read_bytes()[:4] == b"\x89PNG"


def test_folded_while_binned_the_file_is_the_same(scan_path, tmp_path):
    """With a grid that is not symmetric, a background, parts of pixels; and in an eighth."""
    typed = ["reduce", str(scan_path), "--grid", "-3:1:0.1,-1:2:0.1,-3:1:0.1", "--symmetry", "auto"]
    typed += ["--oversample", "2,1", "--out"]
    runner, made = CliRunner(), [tmp_path / "plain.h5", tmp_path / "folded.h5"]
    for path, fold in zip(made, ([], ["--fold"]), strict=True):
        runner.invoke(app, [*typed, str(path), *fold], catch_exceptions=False)

    with VolumeFile(made[1]) as file:
        assert file.record["fold"] is True
        assert file.symmetry == "m-3m"
    plain, folded = (read_volume(path) for path in made)
    assert plain.variance is not None
    for name in ("counts", "weight", "variance"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(folded, name))
    again = runner.invoke(app, ["reduce", "--again", str(made[1])], catch_exceptions=False)
    assert "the same, bit for bit" in again.output
    with pytest.raises(ReductionError, match="give it"):
        reduce_files(scan_path, replace(CHOICES, fold=True))


def test_one_line_in_python(scan_path, tmp_path):
    volume = offbragg.reduce(scan_path, step=0.1, symmetry="m-3m", out=tmp_path / "v.h5")
    figure = offbragg.plot(volume, "h0l")

    assert volume.symmetry == "m-3m"
    assert offbragg.read_volume(tmp_path / "v.h5").counts.sum() == volume.counts.sum()
    assert len(figure.axes) == 2
    shown, _ = DisplayFormatter().format(figure)  # as a notebook asks
    assert shown["image/png"].startswith(b"\x89PNG")
    with pytest.raises(AttributeError):
        _ = offbragg.nothing


def test_importing_stays_light():
    code = (
        "import sys, offbragg; "
        "import offbragg.cli; "
        "assert not {'numpy','h5py','scipy','matplotlib','bluesky'} & set(sys.modules); "
        "offbragg.reduce; offbragg.plot; "
        "assert not {'bluesky','ophyd','tiled','caproto','epics','matplotlib'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


def test_again_is_bit_for_bit_wherever_the_files_went(scan_path, tmp_path, sweep):
    volume = scan_path.parent / "v.h5"
    choices = Choices(
        step=0.1, corrections=AS_SIMULATED, symmetry="mmm",
        mask=sweep.mask_file(scan_path.parent),
    )  # fmt: skip
    reduce_files(scan_path, choices, out=volume)
    moved = tmp_path / "elsewhere"
    scan_path.parent.rename(moved)

    verdict = reproduce(moved / "v.h5", out=moved / "w.h5")

    assert verdict.same
    assert (moved / "w.h5").read_bytes() == (moved / "v.h5").read_bytes()
    (moved / "beamstop.npy").unlink()
    with pytest.raises(ReductionError, match=r"beamstop\.npy is not there"):
        reproduce(moved / "v.h5")
    np.save(moved / "beamstop.npy", np.zeros((195, 487)))
    with pytest.raises(ReductionError, match="has changed"):
        reproduce(moved / "v.h5")


def test_again_through_a_linked_folder(scan_path, tmp_path):
    """.. of a linked folder is not where its link is."""
    really = tmp_path / "a" / "b" / "volumes"
    really.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(really)

    reduce_files(scan_path, CHOICES, out=link / "v.h5")

    assert reproduce(really / "v.h5").same
    assert reproduce(link / "v.h5").same


def test_a_box_has_all_its_equivalents(scan_path, monkeypatch):
    """What was measured outside the box counts in the cells inside that it is equivalent to."""
    whole = reduce_files(scan_path, replace(CHOICES, symmetry="m-3m"))
    octant = replace(CHOICES, symmetry="m-3m", grid=offbragg_grid("0:2:0.1,0:2:0.1,0:2:0.1"))

    box = reduce_files(scan_path, octant, out=scan_path.with_name("v.h5"))

    assert box.grid == octant.grid
    assert whole.grid is not None
    at = [slice(-f, -f + 21) for f in whole.grid.first]
    np.testing.assert_array_equal(box.counts, whole.counts[*at])
    np.testing.assert_allclose(box.weight, whole.weight[*at], rtol=1e-12)
    assert reproduce(scan_path.with_name("v.h5")).same
    monkeypatch.setattr(binning, "available_memory", lambda: 8 * 9261 * 10)  # for the box alone
    with pytest.raises(
        ReductionError, match=r"41 × 41 × 41 cells(.|\n)*equivalent to that in m-3m"
    ):
        reduce_files(scan_path, octant)


def test_an_orientation_beside_the_scan_file_is_taken(scan_path, sweep):
    messages: list[str] = []
    turned = {"UB": (sweep.UB[:, [1, 2, 0]]).tolist(), "lattice": [4.186] * 3 + [90] * 3}
    (scan_path.parent / "orientation.json").write_text(json.dumps(turned))

    by_file = reduce_files(scan_path, CHOICES, say=messages.append)
    (scan_path.parent / "orientation.json").unlink()
    by_start = reduce_files(scan_path, CHOICES)

    assert "orientation.json" in messages[0]
    np.testing.assert_array_equal(by_file.counts.transpose(2, 0, 1), by_start.counts)


def test_orientations_that_contradict_each_other_do_not_merge(scan_path, tmp_path, sweep):
    other = altered(sweep, temperature={"setpoint": 100.0}).write(tmp_path / "again")
    beside = scan_path.with_name("orientation.json")
    turn = Rotation.from_euler("z", 0.3, degrees=True).as_matrix()

    def found(UB: np.ndarray, lattice: list[float]) -> None:
        beside.write_text(json.dumps({"UB": UB.tolist(), "lattice": lattice}))

    for UB, longer, message in (
        (
            sweep.UB[:, [1, 2, 0]],
            1.0,
            r"120\.00 degree .*orientation\.json; .*start document",
        ),
        (turn @ sweep.UB, 1.0, r"0\.30 degree apart"),
        (sweep.UB / 1.006, 1.006, r"by up to 0\.60%"),
    ):
        found(UB, [4.186 * longer] * 3 + [90.0] * 3)
        with pytest.raises(ReductionError, match=message):
            reduce_files([scan_path, other], CHOICES)
    found(sweep.UB / 1.004, [4.186 * 1.004] * 3 + [90.0] * 3)
    assert reduce_files([scan_path, other], CHOICES).counts.sum() > 0


def test_the_orientation_of_another_crystal_is_refused(scan_path, tmp_path, sweep):
    """On other axes of the same lattice it is the same; found in this crystal, it is reported."""
    UB, messages = sweep.UB, []
    primitive = UB @ np.linalg.inv([[1, 1, 0], [0, 1, 0], [1, 0, 1]]).T
    longer = np.linalg.inv(UB).T @ np.diag([1.94, 2.9, 1.3])

    def choose(name: str, UB: np.ndarray, source: dict) -> Choices:
        path = tmp_path / f"{name}.json"
        content = {"UB": UB.tolist(), "lattice": list(lattice_of(UB)), "source": source}
        path.write_text(json.dumps(content))
        return replace(CHOICES, orientation=path)

    other = np.linalg.inv(longer).T
    with pytest.raises(ReductionError, match=r"another crystal: .*other\.json is 8\.1.* is 4\.186"):
        reduce_files(scan_path, choose("other", other, {}))
    with pytest.raises(ReductionError, match="another crystal"):
        reduce_files(scan_path, choose("half", UB @ np.diag([1, 1, 0.96]), {}))
    reduce_files(scan_path, choose("same", primitive, {}), say=messages.append)
    assert not [line for line in messages if "WARNING" in line]
    sample = {"name": "perovskite", "label": "c1"}
    reduce_files(
        scan_path, choose("own", other, {"files": [{"sample": sample}]}), say=messages.append
    )
    (line,) = [line for line in messages if "WARNING" in line]
    assert "own.json is 8.1" in line


def test_air_runs_are_paired_by_place_and_attenuation(scan_path, sweep):
    folder = scan_path.parents[1].with_name("c1_background") / "300K"
    near = Measured(n_frames=3, step=5.0, crystal_in=False, series=2)
    late = Measured(n_frames=3, step=5.0, crystal_in=False, series=5000)
    moved = Measured(n_frames=3, step=5.0, crystal_in=False, shift=(0.0, 5.0), series=1)
    weak = Measured(
        n_frames=3, step=5.0, crystal_in=False, series=1, start_more={"attenuation": 100.0}
    )
    for each in (late, moved, weak):
        each.write(folder)
    right = near.write(folder)
    messages: list[str] = []

    volume = reduce_files(scan_path, CHOICES, say=messages.append)

    assert f"f1.h5: background {right}" in messages
    assert volume.background is not None
    seen = volume.measured
    assert np.median(volume.intensity[seen]) < np.median(volume.counts[seen] / volume.weight[seen])
    with pytest.raises(ReductionError, match="origin is 5"):
        reduce_files(scan_path, Choices(background=moved.start["uid"]))
    with pytest.raises(ReductionError, match="attenuation is 100"):
        reduce_files(scan_path, Choices(background=str(folder / "f3.h5")))
    with pytest.raises(ReductionError, match="no run 'absent'"):
        reduce_files(scan_path, Choices(background="absent"))
    assert reduce_files(scan_path, Choices(step=0.1, background="none")).background is None


def test_only_an_air_run_is_a_background(scan_path, tmp_path, sweep):
    data = altered(sweep, temperature={"setpoint": 100.0}).write(tmp_path / "perovskite" / "other")
    air = Measured(n_frames=3, step=5.0, crystal_in=False, series=2).write(scan_path.parent)
    with ScanFile.open(data) as scan:
        uid = scan.run
    stacked = altered(sweep, plan_name="from_files", temperature={"setpoint": 100.0}).write(
        tmp_path / "from_files"
    )

    for wanted, message in (
        (scan_path, "it is the same run"),
        (data, "its purpose is 'data', not 'background'"),
        (tmp_path, "is a folder"),
        ("", "the background is ''"),
    ):
        with pytest.raises(ReductionError, match=message):
            reduce_files(scan_path, replace(CHOICES, background=str(wanted)))
    data.rename(scan_path.with_name("f9.h5"))
    with pytest.raises(
        ReductionError, match=f"run {uid} is not a background .* its purpose is 'data'"
    ):
        reduce_files(scan_path, replace(CHOICES, background=uid))
    with pytest.raises(ReductionError, match="it cannot be both"):
        reduce_files([scan_path, air], CHOICES)
    for known in (air, stacked):  # frames of a folder do not say what they were for
        volume = reduce_files(scan_path, replace(CHOICES, background=str(known)))
        assert volume.background is not None


def test_a_missing_air_run_is_reported(scan_path):
    messages: list[str] = []

    volume = reduce_files(scan_path, CHOICES, say=messages.append)

    assert volume.background is None
    assert any("no air run" in line for line in messages)


def test_without_a_monitor_it_must_be_said(tmp_path, sweep):
    path = sweep.write(tmp_path, monitor=False)

    with pytest.raises(ReductionError, match=r"f1\.h5: the sweep has a monitor without one value"):
        reduce_files(path, CHOICES)
    volume = reduce_files(path, Choices(step=0.1, corrections=AS_SIMULATED, monitor=False))
    assert volume.counts.sum() == sweep.counts[sweep.counts > 0].sum()


def start_without(sweep: Measured, path: Path, **changes) -> Path:
    start = sweep.start
    for key, value in changes.items():
        start[key] = value
    with ScanWriter.create(path, start=start, data_shape=(195, 487)) as scan:
        from offbragg.frame import Frame

        scan.write_frame(Frame(0, sweep.counts[0]), source="x", time=1.0)
        scan.set_values("monitor", [0], [100.0])
        return scan.path


def test_bad_input_is_refused_by_name(tmp_path, sweep, scan_path):
    sample = sweep.start["sample"]
    empty = ScanWriter.create(tmp_path / "empty", start=sweep.start)
    empty.close()
    left = (-sweep.UB).tolist()
    fields = tmp_path / "fields.npy"
    np.save(fields, np.zeros((195, 487), [("bad", "i4"), ("hot", "i4")]))
    cases: list[tuple[Path, Choices, type[OffbraggError], str]] = [
        (empty.path, CHOICES, ReductionError, "holds no frame"),
        (tmp_path / "no.h5", CHOICES, ReductionError, "is not there"),
        (
            start_without(sweep, tmp_path / "a", geometry=None),
            CHOICES, OffbraggError, "does not say where beam, panel and axes were",
        ),
        (
            start_without(sweep, tmp_path / "b", sample={**sample, "UB": None}),
            CHOICES, ReductionError, "has no UB\nFind it: offbragg index",
        ),
        (
            start_without(sweep, tmp_path / "c", sample={**sample, "UB": left}),
            CHOICES, GeometryError, "left-handed",
        ),
        (
            start_without(
                sweep, tmp_path / "d", sample={**sample, "UB": (sweep.UB * 2 * np.pi).tolist()}
            ),
            CHOICES, GeometryError, "contains 2π",
        ),
        (
            scan_path, Choices(grid=offbragg_grid("20:21,20:21,20:21")), ReductionError,
            "no frame reaches the grid",
        ),
        (
            scan_path, Choices(grid=offbragg_grid("-99:99:0.01,-99:99:0.01,-99:99:0.01")),
            ReductionError, "needs .* GB, and there are",
        ),
        (scan_path, Choices(symmetry="6/mmm"), ReductionError, "does not have the symmetry"),
        (scan_path, Choices(orientation=tmp_path / "no.json"), OrientationError, "is not there"),
        (scan_path, Choices(mask=tmp_path / "no.npy"), ReductionError, "no.npy cannot be read"),
        (scan_path, Choices(mask=fields), ReductionError, "fields.npy holds .*shape .195, 487"),
        (tmp_path, CHOICES, ReductionError, "is a folder\nGive a scan file"),
    ]  # fmt: skip

    for path, choices, error, message in cases:
        with pytest.raises(error, match=message):
            reduce_files(path, choices)


def test_a_frame_that_is_there_twice_counts_once(tmp_path, sweep):
    """Sent twice: one frame. The pixels of one under another number: not measured there."""
    mask = sweep.mask_file(tmp_path)
    choices = Choices(step=0.1, corrections=AS_SIMULATED, mask=mask)
    messages: list[str] = []
    once = sweep.write(tmp_path / "once", without=[4])
    twice = sweep.write(tmp_path / "twice", order=[0, 1, 2, 3, 3, 5, 6, 7, 0], without=[4])
    stuck = sweep.write(tmp_path / "stuck", repeated={4: 3})

    volumes = [reduce_files(path, choices, say=messages.append) for path in (once, twice, stuck)]

    for volume in volumes[1:]:
        np.testing.assert_array_equal(volume.counts, volumes[0].counts)
        np.testing.assert_array_equal(volume.weight, volumes[0].weight)
    assert [line for line in messages if "pixels of an earlier one" in line] == [
        "f1.h5: frames with the pixels of an earlier one do not count: 4 = 3"
    ]
    with ScanFile.open(stuck) as scan:
        assert repeats(scan) == {4: 3}


def test_a_monitor_that_jumps_is_reported(tmp_path):
    """The unit of all weights is chosen by the largest flux."""
    usual, jumped = [1.0] * 8, [1.0] * 8
    jumped[5] = 1e6
    lines: dict[str, list[str]] = {"usual": [], "jumped": []}

    for name, beam in (("usual", usual), ("jumped", jumped)):
        path = Measured(n_frames=8, step=2.0, beam=beam).write(tmp_path / name)
        reduce_files(path, CHOICES, say=lines[name].append)

    assert not [line for line in lines["usual"] if "WARNING" in line]
    (line,) = [line for line in lines["jumped"] if "WARNING" in line]
    assert line.startswith("WARNING: f1.h5: frame 5 has 1e+06 times the flux of most frames; the")


def test_frames_that_were_compared_are_not_read_again(tmp_path, sweep, monkeypatch):
    """A detector that is stuck repeats thousands of frames, and a live volume looks each second."""
    stuck, alike = sweep.write(tmp_path, repeated={4: 3}), dict[tuple[str, int, int], bool]()
    with ScanFile.open(stuck) as scan:
        assert repeats(scan, alike=alike) == {4: 3}

    monkeypatch.setattr(sweeps, "_hold_the_same", None)  # what reads them
    with ScanFile.open(stuck) as scan:
        assert repeats(scan, alike=alike) == {4: 3}


def test_empty_frames_are_alike_and_no_repeats(tmp_path):
    dark = Measured(n_frames=5, step=2.0, series=9)
    dark.counts = np.where(dark.crystal.gaps, -1, 0).astype(np.int32)[None].repeat(5, axis=0)
    dark.counts[3:, 90, 90] = 29  # as many as can be by chance

    with ScanFile.open(dark.write(tmp_path)) as scan:
        assert repeats(scan) == {}


@pytest.fixture
def typed(monkeypatch, capsys):
    """Type a command; gives its exit code and what it says of an error."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["offbragg", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


def test_bad_input_is_refused_by_name_at_the_command_line(typed, tmp_path, sweep, scan_path):
    """One line that names the file and the number, and an exit code; no traceback."""
    sample, geometry = sweep.start["sample"], sweep.start["geometry"]
    UB, lattice = sweep.UB, [4.186] * 3 + [90.0] * 3

    def lying(name: str, UB: np.ndarray, lattice: list[float] = lattice) -> Path:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"UB": UB.tolist(), "lattice": lattice}))
        return path

    def starting(name: str, **changes) -> Path:
        return start_without(sweep, tmp_path / name, **changes)

    no_frame = ScanWriter.create(tmp_path / "pending", start=sweep.start)
    no_frame.close()
    (nothing := tmp_path / "nothing.h5").touch()
    (text := tmp_path / "text.h5").write_text("h k l\n")
    other = altered(sweep, sample={**sample, "name": "SrTiO3"}).write(tmp_path / "x")
    mount = altered(sweep, sample={**sample, "label": "c2"}).write(tmp_path / "y")
    warmer = altered(sweep, temperature={"setpoint": 250.0}).write(tmp_path / "z")
    cells = np.ones((9, 9, 9))
    box = Grid.box((-2, 2), (-2, 2), (-2, 2), step=0.5)
    small = Volume(cells, cells, box, sample=Sample.from_dict(sample))
    volume = write_volume(tmp_path / "v.h5", small, {"inputs": []})
    singular = UB.copy()
    singular[:, 2] = singular[:, 0]
    point = ["--at", "0,0,0"]
    metres = {**geometry, "panel": {**geometry["panel"], "pixel_size": [1.72e-4] * 2}}
    cases: list[tuple[list[object], int, str]] = [
        (["reduce", scan_path, "--orientation", lying("s", singular)], 11, "s.json .*singular"),
        (["reduce", scan_path, "--orientation", lying("l", -UB)], 11, "l.json .*left-handed"),
        (["reduce", scan_path, "--orientation", lying("w", UB * 2 * np.pi)], 4, "contains 2π"),
        (["reduce", scan_path, "--orientation", lying("o", UB, [5.0] * 3 + [90.0] * 3)], 4,
         "does not belong to the lattice"),
        (["reduce", scan_path, "--orientation", tmp_path / "no.json"], 11, "no.json is not there"),
        (["reduce", starting("a", sample={**sample, "UB": (-UB).tolist()})], 4, "left-handed"),
        (["reduce", starting("b", sample={**sample, "UB": None})], 10, "f1.h5 .*has no UB"),
        (["reduce", starting("c", geometry=None)], 6, "f1.h5 does not say where beam, panel"),
        (["reduce", starting("d", geometry=metres)], 4, "panel.pixel_size 0.000172 mm: is it in m"),
        (["reduce", starting("e", geometry={**geometry, "wavelength": 17.7})], 4, "or an energy"),
        (["reduce", scan_path, "--grid", "20:21,20:21,20:21"], 10, "no frame reaches the grid"),
        (["reduce", scan_path, "--grid", "0:1:0.03,0:1,0:1"], 10, "0.03 is not 1/integer"),
        (["reduce", scan_path, "--grid", "a:b"], 10, "'a:b' is not a grid"),
        (["reduce", no_frame.path], 10, "f1.h5 holds no frame"),
        (["reduce", nothing], 6, "nothing.h5"),
        (["reduce", text], 6, "text.h5"),
        (["reduce", tmp_path / "no.h5"], 10, "no.h5 is not there"),
        (["reduce", scan_path, other, "--merge"], 10, "sample.name is 'perovskite' and 'SrTiO3'"),
        (["reduce", scan_path, mount, "--merge"], 10, "sample.label is 'c1' and 'c2'"),
        (["reduce", scan_path, warmer, "--merge"], 10, "100 K and .* 250 K"),
        (["reduce", scan_path, scan_path, "--merge"], 10, "given twice"),
        (["reduce", scan_path, "--out", text], 10, "text.h5 is there already"),
        (["reduce", scan_path, "--symmetry", "6/mmm"], 10, "does not have the symmetry 6/mmm"),
        (["reduce", scan_path, "--symmetry", "cubic"], 10, "'cubic' is not a Laue class"),
        (["reduce", scan_path, "--background", "absent"], 10, "no run 'absent' is found"),
        (["reduce", scan_path, "--background-scale", "0"], 2, "-scale.* 0 is not above 0"),
        (["reduce", scan_path, "--background-scale=-1"], 2, "-scale.* -1 is not above 0"),
        (["reduce", scan_path, "--background-scale", "nan"], 2, "nan is not a finite number"),
        (["reduce", "--again", scan_path], 10, "f1.h5 is not a volume file"),
        (["reduce", "--again", tmp_path / "no.h5"], 10, "no.h5 is not there"),
        (["plot", tmp_path / "no.h5"], 10, "no.h5 is not there"),
        (["plot", nothing], 10, "nothing.h5 cannot be opened"),
        (["plot", scan_path], 10, "f1.h5 is not a volume file"),
        (["plot", volume, "--low", "0"], 10, "low is 0: logarithmic colours need numbers above 0"),
        (["plot", volume, "--high", "inf"], 2, "--high.* inf is not a finite number"),
        (["plot", volume, "--out", volume], 10, "v.h5 is not a picture"),
        (["plot", volume, "--out", tmp_path / "no" / "x.png"], 10, "x.png cannot be written"),
        (["pdf", volume, "--q-max", "0"], 2, "--q-max.* 0 is not above 0"),
        (["pdf", volume, "--punch", "nan"], 2, "--punch.* nan is not a finite number"),
        (["index", scan_path, scan_path], 11, "holds the same run as"),
        (["pdf", tmp_path / "no.h5"], 10, "no.h5 is not there"),
        (["series", scan_path, "--at", "0.5,0.5,0.5"], 10, "at least 5 temperatures"),
        (["series", nothing, "--at", "0.5,0.5,0.5"], 6, "nothing.h5"),
        (["series", "0123abcd", "--at", "0.5,0.5,0.5"], 3, "beamline"),
        (["series", tmp_path / "none", "--at", "0.5,0.5,0.5"], 10, "none' is not there"),
        (["series", scan_path, "absent", "0123abcd", *point], 10, "'absent', '0123abcd': "),
        (["series", scan_path, "f2.h5", *point], 10, "'f2.h5' is not there, and is not a uid"),
        (["series", scan_path, *point, "--out", tmp_path / "no" / "x.png"], 10, "no/x.png"),
        (["series", scan_path, *point, "--out", tmp_path / "x.xyz"], 10, "x.xyz is not a picture"),
        (["index", tmp_path / "no.h5"], 11, "no.h5 is not a file"),
        (["index", nothing], 6, "nothing.h5"),
        (["index", no_frame.path], 11, "none of the . frames is there"),
        (["index", starting("f", geometry=None)], 6, "does not say where beam, panel"),
        (["index", scan_path, other], 11, "of SrTiO3 c1"),
    ]  # fmt: skip

    for words, code, message in cases:
        ended, output = typed(*words)
        assert ended == code, (words, output)
        if code == 2:  # typer's own words, in a box
            output = " ".join(re.sub("[│─╭╮╰╯]", " ", output).split())
            assert output.startswith("Usage: "), output
        else:
            assert output.startswith("offbragg: "), output
        assert re.search(message, output), (words, output)
    assert list(scan_path.parent.glob("volume*")) == []


@pytest.mark.parametrize("verb", ["reduce", "plot", "series", "pdf", "index"])
def test_help_tells_every_default(verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    output = CliRunner().invoke(app, [verb, "--help"]).output

    if verb != "series":
        assert re.search(r"--out .*\[default: \(", output), output


def test_a_refined_geometry_is_of_the_panel_alone(tmp_path, sweep):
    """The sweep that is reduced may have been measured at another omega, or place."""
    turned = Measured(n_frames=2, step=2.0, omega=15.0)
    moved = Measured(n_frames=2, step=2.0, shift=(0.0, 5.0))
    orientation = {"UB": sweep.UB.tolist(), "lattice": [4.186] * 3 + [90.0] * 3}
    plain, refined = tmp_path / "plain.json", tmp_path / "refined.json"
    plain.write_text(json.dumps(orientation))
    refined.write_text(json.dumps({**orientation, "geometry": sweep.geometry.to_dict()}))
    path = turned.write(tmp_path / "turned")

    by_both = [
        reduce_files(path, Choices(step=0.1, corrections=AS_SIMULATED, orientation=given))
        for given in (plain, refined)
    ]

    np.testing.assert_array_equal(by_both[0].counts, by_both[1].counts)
    with pytest.raises(ReductionError, match="5 mm away from where the sweep's was"):
        reduce_files(moved.write(tmp_path / "moved"), Choices(orientation=refined))


def offbragg_grid(text: str):

    return Grid.parse(text)


def test_mixed_samples_and_temperatures_do_not_merge(tmp_path, sweep, scan_path):
    other = altered(sweep, sample={**sweep.start["sample"], "name": "SrTiO3"})
    warmer = altered(sweep, temperature={"setpoint": 250.0})

    with pytest.raises(ReductionError, match=r"sample\.name is 'perovskite' and 'SrTiO3'"):
        reduce_files([scan_path, other.write(tmp_path / "x")], CHOICES)
    with pytest.raises(ReductionError, match=r"100 K and .* 250 K"):
        reduce_files([scan_path, warmer.write(tmp_path / "y")], CHOICES)
    with pytest.raises(ReductionError, match="given twice"):
        reduce_files([scan_path, scan_path], CHOICES)


def test_merged_by_command(tmp_path, sweep, scan_path):
    second = Measured(n_frames=8, step=2.0, first=20.0, temperature=100.0, series=1)
    other = second.write(scan_path.parent)

    done = CliRunner().invoke(
        app,
        ["reduce", str(scan_path), str(other), "--merge", "--json", "--no-efficiency",
         "--grid", "-3:1:0.1,-1:2:0.1,-3:1:0.1", "--background", "none"],
        catch_exceptions=False,
    )  # fmt: skip

    (made,) = json.loads(done.output)["volumes"]
    assert made["file"].endswith("volume-f1+f2.h5")
    assert read_volume(made["file"]).counts.sum() > 0


def test_a_mask_says_how_much_it_masks(scan_path, sweep, tmp_path):
    mask = sweep.mask_file(tmp_path)
    count = int(np.count_nonzero(sweep.shadow))
    messages: list[str] = []

    volume = reduce_files(scan_path, replace(CHOICES, mask=mask), say=messages.append)

    line = f"f1.h5: the mask beamstop.npy leaves out {count:,} of {sweep.shadow.size:,} pixels"
    assert any(text.startswith(line) and "%)" in text for text in messages), messages
    np.save(tmp_path / "reversed.npy", ~sweep.shadow)
    inverted = replace(CHOICES, mask=tmp_path / "reversed.npy", invert_mask=True)
    again = reduce_files(scan_path, inverted, out=tmp_path / "v.h5")
    assert np.array_equal(again.counts, volume.counts)
    assert np.array_equal(again.weight, volume.weight)
    assert reproduce(tmp_path / "v.h5").same


def test_a_mask_of_more_than_half_is_asked_back(scan_path, sweep, tmp_path):
    np.save(tmp_path / "reversed.npy", ~(sweep.shadow | (sweep.counts[0] < 0)))
    np.save(tmp_path / "turned.npy", sweep.shadow.T)
    np.save(tmp_path / "empty.npy", np.zeros_like(sweep.shadow))
    wrong = replace(CHOICES, mask=tmp_path / "reversed.npy")

    with pytest.raises(ReductionError, match="--invert-mask; if it is right") as refused:
        reduce_files(scan_path, wrong)
    assert re.search(r"leaves out [\d,]+ of [\d,]+ pixels \(9\d\.\d%\)", str(refused.value))
    assert "its polarity is likely reversed" in str(refused.value)
    with pytest.raises(ReductionError, match="leave out --invert-mask"):
        reduce_files(scan_path, replace(wrong, mask=sweep.mask_file(tmp_path), invert_mask=True))
    with pytest.raises(ReductionError, match="it is transposed"):
        reduce_files(scan_path, replace(wrong, mask=tmp_path / "turned.npy"))
    with pytest.raises(ReductionError, match="no mask is given to invert"):
        reduce_files(scan_path, replace(CHOICES, invert_mask=True))
    with pytest.warns(UserWarning, match=r"empty\.npy masks nothing"):
        reduce_files(scan_path, replace(wrong, mask=tmp_path / "empty.npy"))

    region = np.ones_like(sweep.shadow)
    region[100:140, 200:260] = False
    np.save(tmp_path / "region.npy", region)
    chosen = replace(CHOICES, mask=tmp_path / "region.npy", mask_over_half=True)
    assert reduce_files(scan_path, chosen).counts.sum() > 0
