"""Folders of finished frames become scan files: by the numbers in their names, nothing shifts."""

from __future__ import annotations

import glob
import json
import subprocess
import sys
import threading

import numpy as np
import pytest
from runs import SHAPE, counts_of
from streams import real_files
from typer.testing import CliRunner

import offbragg
from offbragg.audit import verify
from offbragg.callbacks.finished import find_series, stack_files
from offbragg.cli import app
from offbragg.errors import ConfigError, MetadataError, ScanFileError
from offbragg.files import ScanFile, read_frame
from offbragg.reduction.corrections import Corrections
from offbragg.sample import Sample
from sim_iocs.cbf import encode_cbf
from sim_iocs.tiff import encode_tiff

HEADER = [
    "2026-03-05T09:01:45.613",
    "Exposure_time 0.0964000 s",
    "Exposure_period 0.1000000 s",
    "Start_angle 12.0000 deg.",
    "Angle_increment 0.5000 deg.",
    "Oscillation_axis X, CW",
]


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "frames of {one} crystal"
    path.mkdir()
    return path


MODEL = {  # a beam along −z in the imgCIF frame, a panel 200 mm behind a cubic crystal
    "wavelength_angstrom": 0.5,
    "s0": [0.0, 0.0, -2.0],
    "panel_origin_mm": [-42.0, 17.0, -200.0],
    "fast": [1.0, 0.0, 0.0],
    "slow": [0.0, -1.0, 0.0],
    "pixel_mm": 0.172,
    "goniometer": {
        "axes": [[1.0, 0.0, 0.0]],
        "angles_deg": [0.0],
        "scan_axis": 0,
        "start_deg": 10.0,
        "step_deg": 0.5001,
    },
    "UB_no_2pi": [0.2, 0.0, 0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 0.2],
    "cell": [5.0, 5.0, 5.0, 90.0, 90.0, 90.0],
}


def model_file(folder, **goniometer):
    path = folder / "model.json"
    path.write_text(json.dumps(MODEL | {"goniometer": MODEL["goniometer"] | goniometer}))
    return path


def write(folder, *numbers: int, form: str = "x_{:05d}.cbf", header: list[str] = HEADER) -> None:
    for number in numbers:
        counts, name = counts_of(number), form.format(number)
        start = f"Start_angle {12.0 + 0.5 * (number - numbers[0]):.4f} deg."
        header = [start if line.startswith("Start_angle") else line for line in header]
        text = (
            encode_tiff(counts, model="test", header=header, taken=0.0)
            if name.endswith(".tif")
            else encode_cbf(counts, name=name, header=header)
        )
        (folder / name).write_bytes(text)


def test_a_gap_stays_a_gap_and_a_flipped_bit_is_rejected(folder, tmp_path):
    write(folder, *(n for n in range(3, 33) if n != 7))
    broken = folder / "x_00020.cbf"
    text = broken.read_bytes()
    broken.write_bytes(text[:-6000] + bytes([text[-6000] ^ 16]) + text[-5999:])
    out = tmp_path / "new" / "F.h5"

    done = subprocess.run(
        [
            sys.executable, "-m", "offbragg", "stack", "--json",
            "--from-files", f"{folder}/x_*.cbf", "--out", str(out),
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    said = json.loads(done.stdout)
    counted = {key: said[key] for key in ("frames", "stored", "missing", "rejected", "pending")}
    assert counted == {"frames": 30, "stored": 28, "missing": 1, "rejected": 1, "pending": 0}
    assert said["frames_per_second"] == pytest.approx(28 / said["seconds"])
    assert sorted(path.name for path in out.parent.iterdir()) == ["F.h5", "F.h5.digest"]
    with ScanFile.open(out) as scan:
        assert scan.complete
        (gap, _, why), (bad, _, wrong) = scan.ledger.problems()
        assert (gap, bad) == (4, 17)
        assert why == "x_00007.cbf was not there"
        assert "x_00020.cbf does not have the checksum" in wrong
        np.testing.assert_array_equal(scan.stack.counts[4], -1)
        for number in (0, 3, 5, 29):
            np.testing.assert_array_equal(scan.stack.counts[number], counts_of(number + 3))
        values = scan.frame_values()
        np.testing.assert_allclose(values["angle"], 12.25 + 0.5 * np.arange(30))
        assert np.isnan(values["time"]).all()
        assert scan.sweep.axis == "x"
        assert (scan.sweep.exposure, scan.sweep.period) == (0.0964, 0.1)
        with pytest.raises(ScanFileError, match="does not say where"):
            _ = scan.geometry
    verdict = verify(out)
    assert verdict.ok, verdict.problems


def test_what_was_left_is_gone_on_with_and_what_was_missing_is_filled(folder, tmp_path):
    write(folder, 0, 1, 2, 4)
    pattern, out = f"{folder}/x_*.cbf", tmp_path / "F.h5"
    stop = threading.Event()
    stop.set()
    stack_files(pattern, out, stop=stop)
    told: list[tuple[int, int]] = []

    first = stack_files(pattern, out, progress=lambda *told_: told.append(told_))
    assert (first.stored, first.missing) == (4, 1)
    write(folder, 3)
    again = stack_files(pattern, out)
    once_more = stack_files(pattern, out)

    assert (again.stored, again.missing, again.problems) == (5, 0, ())
    assert (once_more.stored, once_more.frames_per_second) == (5, 0.0)
    assert all(done <= total == 5 for done, total in told)
    with ScanFile.open(out) as scan:
        np.testing.assert_array_equal(scan.stack.counts[3], counts_of(3))


@pytest.mark.parametrize("compiled", [True, False])
def test_tiff_files_and_names_without_leading_zeros(folder, tmp_path, monkeypatch, compiled):
    if not compiled:
        monkeypatch.setattr("offbragg.kernels.compiled", False)
    write(folder, 9, 10, 11, form="a{{b_{}.tif")

    stacked = stack_files(f"{folder}/*.tif", tmp_path / "F.h5")

    assert (stacked.frames, stacked.stored) == (3, 3)
    with ScanFile.open(tmp_path / "F.h5") as scan:
        np.testing.assert_array_equal(scan.stack.counts[1], counts_of(10))


def test_a_file_that_holds_something_else_is_left_as_it_is(folder, tmp_path):
    write(folder, 0, 1, 2)
    write(folder, 0, 1, form="y_{:05d}.cbf")
    out = tmp_path / "F.h5"
    stack_files(f"{folder}/x_*.cbf", out)
    before = out.read_bytes()

    with pytest.raises(ScanFileError, match="holds other frames"):
        stack_files(f"{folder}/y_*.cbf", out)

    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ([], "no file matches"),
        (["x_1.cbf", "y_2.cbf"], "2 series"),
        (["x_.cbf"], "does not end with a number"),
        (["x_1.cbf", "x_01.cbf"], "both have the number 1"),
        (["x_001.cbf", "x_02.cbf"], "another number of digits"),
        (["x_1.cbf", "x_9999999.cbf"], "too far apart"),
        (["x_1.h5"], "is no frame"),
    ],
)
def test_files_that_are_no_series_are_refused(folder, names, why):
    for name in names:
        (folder / name).touch()

    with pytest.raises(ConfigError, match=why):
        find_series(f"{folder}/*")


def test_frames_that_do_not_say_enough_are_refused(folder, tmp_path):
    (folder / "x_1.cbf").write_bytes(encode_cbf(counts_of(1), name="x", header=["nothing"]))
    (folder / "y_1.cbf").write_bytes(b"")

    with pytest.raises(ConfigError, match="does not say Exposure_time"):
        stack_files(f"{folder}/x_*.cbf", tmp_path / "F.h5")
    with pytest.raises(ConfigError, match="none of 1 files is a frame"):
        stack_files(f"{folder}/y_*.cbf", tmp_path / "F.h5")

    assert not (tmp_path / "F.h5").exists()


def test_frames_of_another_size_are_rejected(folder, tmp_path):
    write(folder, 0, 2)
    small = counts_of(1, (SHAPE[0] - 1, SHAPE[1]))
    (folder / "x_00001.cbf").write_bytes(encode_cbf(small, name="x", header=HEADER))

    stacked = stack_files(f"{folder}/x_*.cbf", tmp_path / "F.h5")

    assert (stacked.stored, stacked.rejected) == (2, 1)
    assert "expected 195 × 487" in stacked.problems[0]


@pytest.mark.skipif(not real_files(), reason="the real frames (../shared/data) are not here")
def test_real_frames_with_their_model(tmp_path):
    files = real_files()
    model = files[0].with_name("model.json")

    stacked = stack_files(f"{files[0].parent}/*.cbf", tmp_path / "F.h5", model=model)

    assert stacked.stored == len(files)
    with ScanFile.open(tmp_path / "F.h5") as scan:
        for number in (0, len(files) - 1):
            expected = read_frame(files[number], number=number)
            np.testing.assert_array_equal(scan.stack.counts[number], expected.counts)
        assert scan.geometry.wavelength == pytest.approx(0.6889)
        assert scan.geometry.scan_axis == "omega"
        assert scan.sample.UB is not None
        assert scan.sweep.start == pytest.approx(-145.0)
    assert verify(tmp_path / "F.h5").ok


@pytest.mark.skipif(not real_files(), reason="the real frames (../shared/data) are not here")
def test_a_model_says_how_long_frames_count_that_do_not_say_it(folder, tmp_path):
    told = json.loads(real_files()[0].with_name("model.json").read_text())
    model = tmp_path / "model.json"
    (folder / "x_1.cbf").write_bytes(encode_cbf(counts_of(1), name="x", header=["nothing"]))
    model.write_text(json.dumps(told))
    with pytest.raises(ConfigError, match="does not say Exposure_time"):
        stack_files(f"{folder}/x_*.cbf", tmp_path / "F.h5", model=model)
    model.write_text(json.dumps(told | {"exposure_time": 0.5, "exposure_period": 0.6}))

    stack_files(f"{folder}/x_*.cbf", tmp_path / "F.h5", model=model)

    with ScanFile.open(tmp_path / "F.h5") as scan:
        assert (scan.sweep.exposure, scan.sweep.period) == (0.5, 0.6)


def test_pixels_at_the_cutoff_of_the_header_have_no_weight(folder, tmp_path):
    write(folder, 0, 1, 2, header=[*HEADER, "Count_cutoff 1000001 counts"])
    out = tmp_path / "F.h5"

    stack_files(f"{folder}/x_*.cbf", out, model=model_file(tmp_path))

    plain = Corrections(efficiency=False)
    volume = offbragg.reduce(out, step=0.1, hot=False, monitor=False, corrections=plain)
    counts = np.array([counts_of(number) for number in range(3)])  # up to 1 000 000 + number
    assert volume.counts.sum() == counts[(counts >= 0) & (counts < 1_000_001)].sum()
    with ScanFile.open(out) as scan:
        assert scan.start["detector"]["saturation"] == 1_000_001


def test_a_model_begins_where_the_first_header_says(folder, tmp_path):
    write(folder, 4, 5)
    write(folder, 4, form="z_{:05d}.cbf", header=HEADER[:3])
    (folder / "x_00003.cbf").write_bytes(b"")  # the number 0 of the series is not good
    model = model_file(tmp_path)

    stacked = stack_files(f"{folder}/x_*.cbf", tmp_path / "F.h5", model=model)
    stack_files(f"{folder}/z_*.cbf", tmp_path / "G.h5", model=model)

    with ScanFile.open(tmp_path / "F.h5") as scan:
        assert scan.sweep.start == pytest.approx(12.0 - 0.5001)
        assert scan.sweep.step == 0.5001
    with ScanFile.open(tmp_path / "G.h5") as scan:
        assert scan.sweep.start == 10.0
    assert not stacked.problems[1:]
    with pytest.raises(ConfigError, match=r"Angle_increment 0\.5 degree, and .* 0\.51 degree"):
        stack_files(
            f"{folder}/x_*.cbf", tmp_path / "H.h5", model=model_file(tmp_path, step_deg=0.51)
        )
    assert not (tmp_path / "H.h5").exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"\xff" * 100_000, "is not JSON (byte 0 is no text)"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is no model"),
        (b'{"goniometer": {"axes": [[1, 0, 0]], "scan_axis": 7}}', "has 1 goniometer axes"),
    ],
)
def test_what_is_no_model_is_refused_in_a_few_words(folder, tmp_path, text, why):
    write(folder, 0)
    model = tmp_path / "model.json"
    model.write_bytes(text)

    with pytest.raises(ConfigError) as caught:
        stack_files(f"{folder}/x_*.cbf", tmp_path / "F.h5", model=model)

    assert why in str(caught.value)
    assert len(str(caught.value)) < len(str(model)) + 250


@pytest.mark.parametrize(
    ("name", "sample"),
    [
        ("größe [1] {x}", "gro_e__1___x"),
        ("結晶", "frames"),
        ("..a" * 40, ".".join(["a."] * 33 + ["a"])[:100]),
        ("l-cyst_01.b", "l-cyst_01.b"),
    ],
)
def test_a_sample_is_named_after_any_folder(name, sample, tmp_path):
    path = tmp_path / name
    path.mkdir()
    write(path, 0)

    stack_files(f"{glob.escape(str(path))}/x_*.cbf", tmp_path / "F.h5")

    with ScanFile.open(tmp_path / "F.h5") as scan:
        assert scan.sample == Sample(sample, "files")


def test_a_sample_has_the_name_that_is_given_and_keeps_it(folder, tmp_path):
    write(folder, 0, 1)
    pattern, out = f"{folder}/x_*.cbf", tmp_path / "F.h5"
    with pytest.raises(MetadataError, match=r"sample\.name is 'größe'"):
        stack_files(pattern, out, sample="größe")
    assert not out.exists()

    stack_files(pattern, out, sample="L-cysteine")

    stack_files(pattern, out)
    with pytest.raises(ScanFileError, match="has the sample L-cysteine, and other is asked for"):
        stack_files(pattern, out, sample="other")
    with ScanFile.open(out) as scan:
        assert scan.sample.name == "L-cysteine"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--from-files", "x", "--out", "F.h5", "--once"], "--once is for runs"),
        (["--from-files", "x", "--out", "F.h5", "--repair"], "--repair is for runs"),
        (["--from-files", "x", "--out", "F.h5", "--late", "5"], "--late is for runs"),
        (["--sample", "a"], "--model and --sample need both"),
    ],
)
def test_options_that_would_do_nothing_are_refused(given, why):
    done = CliRunner().invoke(app, ["stack", *given])

    assert done.exit_code == 2
    assert why in " ".join(done.output.replace("│", "").split())


def test_a_series_that_has_grown_needs_another_file(folder, tmp_path):
    write(folder, 2, 3, 4)
    pattern, out = f"{folder}/x_*.cbf", tmp_path / "F.h5"
    stack_files(pattern, out)

    with pytest.raises(ScanFileError, match="another model, or without"):
        stack_files(pattern, out, model=model_file(tmp_path))
    write(folder, 5)
    with pytest.raises(
        ScanFileError, match=r"frames 2 to 4 of this series, and .* matches 2 to 5\n.*--out"
    ):
        stack_files(pattern, out)


def test_verify_says_how_missing_frames_of_a_folder_are_stored(folder, tmp_path):
    write(folder, 0, 2)
    pattern, out = f"{folder}/x_*.cbf", tmp_path / "F.h5"
    stack_files(pattern, out)
    write(folder, 1)

    (note,) = verify(out, deep=True).notes

    assert "the same offbragg stack --from-files again stores them" in note
    assert "--once" not in note


def test_angles_that_do_not_arrive_where_the_last_header_says_are_told(folder, tmp_path):
    write(folder, 0, 1)
    write(folder, 5, 2)  # x_00005.cbf says 12 degree, which is that of frame 0

    stacked = stack_files(f"{folder}/x_*.cbf", tmp_path / "F.h5")

    assert stacked.problems[-1] == (
        "frame 5 begins at 14.5000 degree in the scan file, but x_00005.cbf says "
        "Start_angle 12.0000"
    )
