"""From scan files to a volume file, by the library and by the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from measured import AS_SIMULATED, Measured
from typer.testing import CliRunner

import offbragg
from offbragg.cli import app
from offbragg.errors import GeometryError, OffbraggError, ReductionError
from offbragg.files.scan_file import ScanFile
from offbragg.files.volume_file import VolumeFile, read_volume
from offbragg.recipe import Choices, make_again, reduce_files

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
    assert again.exit_code == 0
    assert "the same, bit for bit" in again.output
    picture = runner.invoke(app, ["plot", made["file"], "hk0", "--json"], catch_exceptions=False)
    assert Path(json.loads(picture.output)["file"]).read_bytes()[:4] == b"\x89PNG"


def test_one_line_in_python(scan_path, tmp_path):
    volume = offbragg.reduce(scan_path, step=0.1, symmetry="m-3m", out=tmp_path / "v.h5")
    figure = offbragg.plot(volume, "h0l")

    assert volume.symmetry == "m-3m"
    assert offbragg.read_volume(tmp_path / "v.h5").counts.sum() == volume.counts.sum()
    assert len(figure.axes) == 2
    with pytest.raises(AttributeError):
        _ = offbragg.nothing


def test_importing_stays_light():
    code = (
        "import sys, offbragg; "
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

    verdict = make_again(moved / "v.h5", out=moved / "w.h5")

    assert verdict.same
    assert (moved / "w.h5").read_bytes() == (moved / "v.h5").read_bytes()
    (moved / "beamstop.npy").unlink()
    with pytest.raises(ReductionError, match=r"beamstop\.npy is not there"):
        make_again(moved / "v.h5")
    np.save(moved / "beamstop.npy", np.zeros((195, 487)))
    with pytest.raises(ReductionError, match="has changed"):
        make_again(moved / "v.h5")


def test_an_orientation_beside_the_scan_file_is_taken(scan_path, sweep):
    told: list[str] = []
    turned = {"UB": (sweep.UB[:, [1, 2, 0]]).tolist(), "lattice": [4.186] * 3 + [90] * 3}
    (scan_path.parent / "orientation.json").write_text(json.dumps(turned))

    by_file = reduce_files(scan_path, CHOICES, say=told.append)
    (scan_path.parent / "orientation.json").unlink()
    by_start = reduce_files(scan_path, CHOICES)

    assert "orientation.json" in told[0]
    np.testing.assert_array_equal(by_file.counts.transpose(2, 0, 1), by_start.counts)


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
    told: list[str] = []

    volume = reduce_files(scan_path, CHOICES, say=told.append)

    assert f"f1.h5: background {right}" in told
    assert volume.background is not None
    seen = volume.measured
    assert np.median(volume.intensity[seen]) < np.median(volume.counts[seen] / volume.weight[seen])
    with pytest.raises(ReductionError, match="origin is 5"):
        reduce_files(scan_path, Choices(background=moved.start["uid"]))
    with pytest.raises(ReductionError, match="attenuation is 100"):
        reduce_files(scan_path, Choices(background=str(folder / "f3.h5")))
    with pytest.raises(ReductionError, match="no run 'nobody'"):
        reduce_files(scan_path, Choices(background="nobody"))
    assert reduce_files(scan_path, Choices(step=0.1, background="none")).background is None


def test_no_air_run_is_told(scan_path):
    told: list[str] = []

    volume = reduce_files(scan_path, CHOICES, say=told.append)

    assert volume.background is None
    assert any("no air run" in line for line in told)


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
    with ScanFile.create(path, start=start, data_shape=(195, 487)) as scan:
        from offbragg.frame import Frame

        scan.write_frame(Frame(0, sweep.counts[0]), source="x", time=1.0)
        scan.set_values("monitor", [0], [100.0])
        return scan.path


def test_bad_input_is_refused_by_name(tmp_path, sweep, scan_path):
    sample = sweep.start["sample"]
    empty = ScanFile.create(tmp_path / "empty", start=sweep.start)
    empty.close()
    left = (-sweep.UB).tolist()
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
        (scan_path, Choices(orientation=tmp_path / "no.json"), GeometryError, "cannot be read"),
        (scan_path, Choices(mask=tmp_path / "no.npy"), ReductionError, "no.npy cannot be read"),
    ]  # fmt: skip

    for path, choices, error, message in cases:
        with pytest.raises(error, match=message):
            reduce_files(path, choices)


def offbragg_grid(text: str):
    from offbragg.volume import Grid

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
