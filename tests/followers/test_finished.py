"""Folders of finished frames become scan files: by the numbers in their names, nothing shifts."""

from __future__ import annotations

import bz2
import glob
import gzip
import json
import shlex
import subprocess
import sys
import threading
from datetime import datetime

import h5py
import hdf5plugin  # noqa: F401  the frames' filter, for what follows the links
import numpy as np
import pytest
import tifffile
from runs import SHAPE, counts_of
from streams import real_files
from typer.testing import CliRunner

import offbragg
from offbragg.cli.app import app
from offbragg.errors import ConfigError, MetadataError, ScanFileError
from offbragg.files import ScanFile, read_frame
from offbragg.files.series import find_series
from offbragg.followers.folder import stack_files
from offbragg.recovery.verify import verify
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


def write(
    folder,
    *numbers: int,
    form: str = "x_{:05d}.cbf",
    header: list[str] = HEADER,
    first: int | None = None,
) -> None:
    """Write frames of a sweep that began with the number ``first``, or the first of these."""
    for number in numbers:
        counts, name = counts_of(number), form.format(number)
        begin = numbers[0] if first is None else first
        start = f"Start_angle {12.0 + 0.5 * (number - begin):.4f} deg."
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
            sys.executable, "-m", "offbragg", "stack-files", "--json",
            f"{folder}/x_*.cbf", "--out", str(out),
        ],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.returncode == 5, done.stderr  # a file that is there was not stored
    result = json.loads(done.stdout)
    counted = {key: result[key] for key in ("frames", "stored", "missing", "rejected", "pending")}
    assert counted == {"frames": 30, "stored": 28, "missing": 1, "rejected": 1, "pending": 0}
    assert result["frames_per_second"] == pytest.approx(28 / result["seconds"])
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
    reports: list[tuple[int, int]] = []

    first = stack_files(pattern, out, progress=lambda *report: reports.append(report))
    assert (first.stored, first.missing) == (4, 1)
    write(folder, 3, first=0)
    again = stack_files(pattern, out)
    once_more = stack_files(pattern, out)

    assert (again.stored, again.missing, again.problems) == (5, 0, ())
    assert (once_more.stored, once_more.frames_per_second) == (5, 0.0)
    assert all(done <= total == 5 for done, total in reports)
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
        (["x_.cbf", "y.cbf"], "2 series: x_.cbf, y.cbf"),
        (["x_1_1.cbf", "x_2_1.cbf", "x_2_2.cbf"], r"2 series: x_1_#.cbf, x_2_#.cbf"),
        (["x_1.cbf", "x_2.cbf.gz"], r"2 series: x_#.cbf, x_#.cbf.gz"),
        (["x_1_7.cbf", "x_01_8.cbf"], "2 series"),
        (["x_1.cbf", "x_01.cbf"], "both have the number 1"),
        (["x_001.cbf", "x_02.cbf"], "another number of digits"),
        (["x_1.cbf", "x_9999999.cbf"], "too far apart"),
        (["x_1.h5"], "is not a frame"),
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

    with pytest.raises(ConfigError, match="no header says Exposure_time"):
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
    model_facts = json.loads(real_files()[0].with_name("model.json").read_text())
    model = tmp_path / "model.json"
    (folder / "x_1.cbf").write_bytes(encode_cbf(counts_of(1), name="x", header=["nothing"]))
    model.write_text(json.dumps(model_facts))
    with pytest.raises(ConfigError, match="no header says Exposure_time"):
        stack_files(f"{folder}/x_*.cbf", tmp_path / "F.h5", model=model)
    model.write_text(json.dumps(model_facts | {"exposure_time": 0.5, "exposure_period": 0.6}))

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
        (b"\xff" * 100_000, "is not JSON (byte 0 is not text)"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is not a model"),
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


def test_a_folder_is_stacked_as_the_pattern_of_its_frames(folder, tmp_path):
    write(folder, 0, 1, 3)
    (folder / "notes.txt").write_text("cold")
    outs = [tmp_path / name for name in ("pattern.h5", "folder.h5")]

    for out, what in zip(outs, (f"{folder}/x_*.cbf", str(folder)), strict=True):
        done = CliRunner().invoke(app, ["stack-files", "--json", what, "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["stored"] == 3

    with ScanFile.open(outs[0]) as one, ScanFile.open(outs[1]) as other:
        assert one.start == other.start
        np.testing.assert_array_equal(one.stack.counts[:], other.stack.counts[:])
    with pytest.raises(ConfigError, match="holds no frame"):
        find_series(str(tmp_path))


def test_the_old_way_to_stack_a_folder_works_and_says_the_new_one(folder, tmp_path):
    write(folder, 0, 1, 3)
    out, pattern = tmp_path / "F.h5", f"{folder}/x_*.cbf"

    done = CliRunner().invoke(
        app, ["stack", "--json", "--from-files", pattern, "--out", str(out), "--sample", "S-1"]
    )

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["stored"] == 3
    command = done.stderr.splitlines()[-1]
    assert command == f"offbragg stack-files '{pattern}' --out {out} --sample S-1"
    again = CliRunner().invoke(app, shlex.split(command)[1:])  # it is gone on with
    assert again.exit_code == 0, again.output
    assert "--from-files" not in CliRunner().invoke(app, ["stack", "--help"]).output


def test_a_pattern_that_the_shell_expanded_is_refused(folder, tmp_path):
    done = CliRunner().invoke(app, ["stack-files", "x_0.cbf", "x_1.cbf", "--out", "F.h5"])

    assert done.exit_code == 2
    assert "quote the pattern" in done.output


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
    write(folder, 1, first=0)

    (problem,) = verify(out, deep=True).problems

    assert problem.endswith("to store them, run: the same offbragg stack-files again")
    assert "(1, in " in problem
    assert stack_files(pattern, out).stored == 3
    assert verify(out, deep=True).problems == []


def test_a_frame_that_begins_at_another_angle_than_its_place_is_rejected(folder, tmp_path):
    write(folder, 0, 1, 2, 3)
    write(folder, 5)  # says 12 degree, which is that of frame 0

    stacked = stack_files(f"{folder}/x_*.cbf", tmp_path / "F.h5")

    assert (stacked.stored, stacked.missing, stacked.rejected) == (4, 1, 1)
    assert stacked.problems[-1] == (
        "frame 5 rejected: x_00005.cbf says Start_angle 12 degree, and by 4 of 5 headers it is "
        "14.5 degree"
    )
    # stacking again would not store it
    assert not any("good file" in each for each in verify(tmp_path / "F.h5").problems)


@pytest.mark.parametrize(
    ("names", "template", "first", "n"),
    [
        (["map_11_P1_E1_001.cbf", "map_12_P1_E1_001.cbf"], "map_{:02d}_P1_E1_001.cbf", 11, 2),
        (["map_11_P1_E1_001.cbf", "map_11_P1_E1_003.cbf"], "map_11_P1_E1_{:03d}.cbf", 1, 3),
        (["run_0001_x.cbf", "run_0003_x.cbf"], "run_{:04d}_x.cbf", 1, 3),
        (["9 b2.tif.bz2", "10 b2.tif.bz2"], "{:01d} b2.tif.bz2", 9, 2),
        (["T7_00004.cbf"], "T7_{:05d}.cbf", 4, 1),
        (["{best}.cbf"], "{{best}}.cbf", 0, 1),
    ],
)
def test_the_number_that_differs_counts_wherever_it_stands(folder, names, template, first, n):
    for name in names:
        (folder / name).touch()

    series = find_series(f"{folder}/*")

    assert (series.template, series.first, series.n_frames) == (template, first, n)
    assert series.path(0).name == names[0]
    assert series.path(n - 1).name == names[-1]


def swapped(header: list[str], **lines: str) -> list[str]:
    """The header with other lines, by the first word of each."""
    return [lines.pop(line.split()[0], line) for line in header] + list(lines.values())


REAL = [
    *HEADER[:-1],
    "Oscillation_axis PHI",
    "Pixel_size 172e-6 m x 172e-6 m",
    "Wavelength 0.50000 A",
    "Detector_distance 0.20000 m",
    "Beam_xy (244.19, 98.84) pixels",
    "Chi 0.0000 deg.",
]


def test_a_swapped_first_frame_is_rejected_and_not_the_good_ones(folder, tmp_path):
    write(folder, *range(8), header=REAL)
    foreign = swapped(REAL, Wavelength="Wavelength 0.71070 A", Exposure_time="Exposure_time 5 s",
                      Start_angle="Start_angle 12.0000 deg.")  # fmt: skip
    foreign = ["x" * 70 for _ in range(20_000)] + foreign  # and a huge one
    small = counts_of(0, (SHAPE[0] - 1, SHAPE[1]))
    words = "x_00000.cbf says Wavelength 0.7107 Å, and 7 of 8 headers say 0.5 Å"
    for counts, why in ((counts_of(0), words), (small, "expected 195 × 487")):
        (folder / "x_00000.cbf").write_bytes(encode_cbf(counts, name="x", header=foreign))
        out = tmp_path / f"{len(counts)}.h5"

        done = CliRunner().invoke(
            app, ["stack-files", "--json", f"{folder}/x_*.cbf", "--out", str(out)]
        )

        assert done.exit_code == 5
        result = json.loads(done.stdout)
        assert (result["stored"], result["rejected"]) == (7, 1)
        assert why in result["problems"][0]
        with ScanFile.open(out) as scan:
            assert scan.shape == SHAPE
            assert (scan.sweep.start, scan.sweep.step, scan.sweep.exposure) == (12.0, 0.5, 0.0964)
            assert scan.start["time"] == datetime(2026, 3, 5, 9, 1, 45, 613000).timestamp()


def test_a_frame_that_was_exposed_longer_is_stored_and_listed(folder, tmp_path):
    write(folder, 0, 1, 2, header=REAL)
    write(folder, 3, first=0, header=swapped(REAL, Exposure_time="Exposure_time 5.0 s"))

    stacked = stack_files(f"{folder}/x_*.cbf", tmp_path / "F.h5")

    words = "x_00003.cbf says Exposure_time 5 s, and 3 of 4 headers say 0.0964 s"
    assert (stacked.stored, stacked.problems) == (4, (words,))
    with ScanFile.open(tmp_path / "F.h5") as scan:
        assert scan.start["files"]["differences"] == [words]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Wavelength 0.71070 A", "Wavelength 0.7107 Å, and the model 0.5 Å"),
        ("Pixel_size 75e-6 m x 75e-6 m", "Pixel_size 0.075, 0.075 mm, and the model 0.172"),
        ("Detector_distance 0.30000 m", "Detector_distance 300 mm, and the model 200 mm"),
        ("Beam_xy (200.00, 98.84) pixels", "Beam_xy 200, 98.84 pixel, and the model 244."),
        ("Detector_2theta 30.0 deg.", "Detector_2theta 30 degree, and the model 0 degree"),
        ("Oscillation_axis OMEGA", "Oscillation_axis OMEGA, and the model phi"),
        (
            "Angle_increment 0.6000 deg.",
            "Angle_increment 0.6 degree, and the model step_deg 0.5001",
        ),
        ("Chi 40.0000 deg.", "Chi 40 degree, and the model -10 degree"),
    ],
)
def test_headers_that_contradict_a_model_are_refused_with_the_numbers(
    folder, tmp_path, line, words
):
    write(folder, 0, header=swapped(REAL, **{line.split()[0]: line}))
    axes = {"axes": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "angles_deg": [0.0, -10.0]}
    model = model_file(tmp_path, names=["phi", "chi"], **axes)
    pattern, out = f"{folder}/x_*.cbf", tmp_path / "F.h5"

    with pytest.raises(ConfigError, match="--trust-model") as refused:
        stack_files(pattern, out, model=model)
    assert words in str(refused.value)
    assert not out.exists()
    trusted = stack_files(pattern, out, model=model, trust_model=True)

    assert trusted.stored == 1
    assert any(words in problem for problem in trusted.problems)
    with ScanFile.open(out) as scan:
        assert scan.geometry.wavelength == 0.5
        assert scan.sweep.step == 0.5001


def test_headers_that_a_model_refines_are_listed_and_the_model_counts(folder, tmp_path):
    write(folder, 0, 1, header=swapped(
        REAL, Detector_distance="Detector_distance 0.20100 m", Wavelength="Wavelength 0.50010 A"
    ))  # fmt: skip

    stacked = stack_files(f"{folder}/x_*.cbf", tmp_path / "F.h5", model=model_file(tmp_path))

    assert stacked.stored == 2
    assert [p.partition(",")[0] for p in stacked.problems] == [
        "the headers say Wavelength 0.5001 Å",
        "the headers say Detector_distance 201 mm",
    ]


@pytest.mark.parametrize(
    ("names", "line", "called"),
    [
        (None, "Oscillation_axis PHI", "phi"),
        (None, "Oscillation_axis KAPPA, CW", "kappa"),
        (None, "Oscillation_axis (nil)", "axis0"),
        (["mu"], "Oscillation_axis (nil)", "mu"),
        (["mu"], "Oscillation_axis MU", "mu"),
    ],
)
def test_an_axis_is_called_what_model_or_header_call_it(folder, tmp_path, names, line, called):
    write(folder, 0, 1, header=swapped(REAL, Oscillation_axis=line))
    given = {} if names is None else {"names": names}
    model = model_file(tmp_path, **given)

    stack_files(f"{folder}/x_*.cbf", tmp_path / "F.h5", model=model)

    with ScanFile.open(tmp_path / "F.h5") as scan:
        assert scan.sweep.axis == scan.geometry.scan_axis == called


def test_an_exposure_time_alone_is_a_model(folder, tmp_path):
    write(folder, 0, 1, 2, form="x_{:05d}.tif", header=["nothing"])
    model = tmp_path / "times.json"
    model.write_text('{"exposure_time": 0.5}')

    stacked = stack_files(f"{folder}/x_*.tif", tmp_path / "F.h5", model=model)

    assert (stacked.stored, stacked.wrapper) == (3, None)
    with ScanFile.open(tmp_path / "F.h5") as scan:
        assert (scan.sweep.exposure, scan.sweep.period, scan.sweep.step) == (0.5, 0.5, 0.0)
        assert scan.start["geometry"] is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"exposure_time": 0.5, "fast": [1, 0, 0], "goniometer": {"axes": []}}',
         "it lacks wavelength_angstrom, s0, panel_origin_mm, slow, pixel_mm, "
         "goniometer.angles_deg, goniometer.scan_axis, goniometer.start_deg, goniometer.step_deg"),
        ('{"exposure_period": 0.5}', "neither exposure_time nor a geometry (wavelength_angstrom"),
        ('{"exposure_time": "0.5"}', "exposure_time '0.5': it must be s, above 0"),
        ('{"exposure_time": NaN}', "exposure_time nan"),
    ],
)  # fmt: skip
def test_what_a_model_lacks_is_named(folder, tmp_path, text, words):
    write(folder, 0)
    model = tmp_path / "model.json"
    model.write_text(text)

    with pytest.raises(ConfigError) as refused:
        stack_files(f"{folder}/x_*.cbf", tmp_path / "F.h5", model=model)

    assert words in str(refused.value)


def test_a_single_file_without_a_number_and_packed_ones(folder, tmp_path):
    write(folder, 0, 1, 2)
    for number, pack, packing in ((0, gzip.compress, "gz"), (1, bz2.compress, "bz2")):
        raw = (folder / f"x_{number:05d}.cbf").read_bytes()
        (folder / f"best.cbf.{packing}").write_bytes(pack(raw))

        stacked = stack_files(f"{folder}/best.cbf.{packing}", tmp_path / f"{number}.h5")

        assert (stacked.frames, stacked.stored) == (1, 1)
        with ScanFile.open(tmp_path / f"{number}.h5") as scan:
            np.testing.assert_array_equal(scan.stack.counts[0], counts_of(number))
            assert scan.frame_values()["md5"][0]
        assert verify(tmp_path / f"{number}.h5", deep=True).ok
    for number, cut in ((1, None), (2, -400)):
        raw = (folder / f"x_{number:05d}.cbf").read_bytes()
        (folder / f"x_{number:05d}.cbf.gz").write_bytes(gzip.compress(raw)[:cut])

    cut = stack_files(f"{folder}/x_*.cbf.gz", tmp_path / "F.h5")

    assert (cut.stored, cut.missing, cut.unused) == (1, 1, True)
    assert "was not complete" in cut.problems[0]


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"bigtiff": True}])
def test_shallow_tiff_files_are_cut_off_where_their_pixels_end(folder, tmp_path, options):
    for number in range(2):
        tifffile.imwrite(
            folder / f"x_{number}.tif", np.full(SHAPE, 65_535, "u2") - np.uint16(number),
            photometric="minisblack", metadata=None, datetime="2016:03:05 09:01:45", **options,
            description="# Exposure_time 0.1 s",
        )  # fmt: skip

    stacked = stack_files(f"{folder}/x_*.tif", tmp_path / "F.h5")

    assert stacked.stored == 2
    with ScanFile.open(tmp_path / "F.h5") as scan:
        np.testing.assert_array_equal(scan.stack.counts[1], np.full(SHAPE, 65_534))
        assert scan.start["detector"]["saturation"] == 65_535
        assert scan.start["time"] == datetime(2016, 3, 5, 9, 1, 45).timestamp()


@pytest.mark.parametrize(
    ("out", "wrapper", "target"),
    [
        ("a/100K/f1.h5", "a/frames_of__one__crystal_100K.nxs", "100K/f1.h5"),
        ("a/one.h5", "a/frames_of__one__crystal_one.nxs", "one.h5"),
    ],
)
def test_what_nxrefine_opens_is_written_where_the_geometry_is_known(
    folder, tmp_path, out, wrapper, target
):
    write(folder, 0, 2)

    stacked = stack_files(f"{folder}/x_*.cbf", tmp_path / out, model=model_file(tmp_path))

    assert stacked.wrapper == str(tmp_path / wrapper)
    with h5py.File(stacked.wrapper) as file:
        rotation = file[(tmp_path / out).stem]
        assert rotation["data"].get("data", getlink=True).filename == target
        np.testing.assert_array_equal(rotation["data/data"][2], counts_of(2))
        np.testing.assert_array_equal(rotation["data/monitor_weight"], [1.0, 0.0, 1.0])
    write(folder, 1, first=0)
    stack_files(f"{folder}/x_*.cbf", tmp_path / out, model=model_file(tmp_path))
    with h5py.File(stacked.wrapper) as file:
        weight = file[(tmp_path / out).stem]["data/monitor_weight"]
        np.testing.assert_array_equal(weight, [1.0, 1.0, 1.0])


def test_headers_that_agree_on_another_sweep_by_now_do_not_go_into_the_file(folder, tmp_path):
    write(folder, 0, 1, 3)
    pattern, out = f"{folder}/x_*.cbf", tmp_path / "F.h5"
    stack_files(pattern, out)
    write(folder, 0, 1, 2, 3, header=swapped(HEADER, Angle_increment="Angle_increment 0.4 deg."))
    for path in folder.iterdir():
        number = int(path.stem[2:])
        text = path.read_bytes().replace(
            f"Start_angle {12 + 0.5 * number:.4f}".encode(),
            f"Start_angle {12 + 0.4 * number:.4f}".encode(),
        )
        path.write_bytes(text)

    with pytest.raises(ScanFileError, match=r"by 0\.5 degree, and the headers .* 0\.4 degree"):
        stack_files(pattern, out)


@pytest.mark.skipif(not real_files(), reason="the real frames (../shared/data) are not here")
def test_a_real_frame_of_another_wavelength_or_chi_is_rejected(folder, tmp_path):
    changes = (b"Wavelength 0.68890", b"Wavelength 0.71070"), (b"Chi -54.7000", b"Chi -14.7000")
    for number, path in enumerate(real_files()[:6]):
        raw = path.read_bytes()
        for which, change in enumerate(changes):
            raw = raw.replace(*change) if number == 3 * which else raw
        (folder / path.name).write_bytes(raw)
    model = real_files()[0].with_name("model.json")

    stacked = stack_files(f"{folder}/*.cbf", tmp_path / "F.h5", model=model)

    assert (stacked.stored, stacked.rejected) == (4, 2)
    assert "says Wavelength 0.7107 Å, and 5 of 6 headers say 0.6889 Å" in stacked.problems[0]
    assert "says Chi -14.7 degree, and 5 of 6 headers say -54.7 degree" in stacked.problems[1]
