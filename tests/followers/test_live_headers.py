"""The headers of a run's frames are compared with what the run says; nothing is lost by it."""

from __future__ import annotations

import re
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from runs import counts_of
from typer.testing import CliRunner

from offbragg import kernels
from offbragg.cli.app import app
from offbragg.errors import OrientationError, ReductionError
from offbragg.files.cbf import header_of
from offbragg.files.find import find_scan_file
from offbragg.files.header_check import HeaderCheck
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.files.volume_file import VolumeFile
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from offbragg.geometry import Geometry
from offbragg.recovery.verify import verify
from offbragg.shell.runs_table import list_runs
from offbragg.workflows.choices import Choices
from offbragg.workflows.index import find_orientation
from offbragg.workflows.reduce import reduce_files
from offbragg.workflows.reproduce import reproduce
from sim_iocs.cbf import encode_cbf
from sim_iocs.tiff import encode_tiff


def lines_of(run, number: int, **changed: str) -> list[str]:
    """Header lines of a frame as a camserver writes them that was given all of the run."""
    taken = time.localtime(run.began + number * run.period)
    lines = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S.000", taken),
        "Pixel_size": "172e-6 m x 172e-6 m",
        "sensor": "Silicon sensor, thickness 0.000320 m",
        "Exposure_time": "0.0980000 s",
        "Exposure_period": "0.1000000 s",
        "Threshold_setting:": "9000 eV",
        "Wavelength": "0.70000 A",
        "Detector_distance": "0.10000 m",
        "Beam_xy": "(243.50, 97.50) pixels",
        "Start_angle": f"{0.5 * number:.4f} deg.",
        "Angle_increment": "0.5000 deg.",
        "Detector_2theta": "0.0000 deg.",
        "Phi": f"{0.5 * number:.4f} deg.",
        "Chi": "0.0000 deg.",
        "Oscillation_axis": "PHI",
        "": f"{run.uid[:8]} #1 LSMO-140 c1",
    }
    lines |= {key: value for key, value in changed.items() if value}
    return [
        value if key in ("date", "sensor", "") else f"{key} {value}" for key, value in lines.items()
    ]


def write(run, number: int, **changed: str) -> None:
    path, lines = run.path(number), lines_of(run, number, **changed)
    if run.suffix == "tif":
        content = encode_tiff(
            counts_of(number), model="PILATUS 100K", header=lines,
            taken=run.began + number * run.period,
        )  # fmt: skip
    else:
        content = encode_cbf(counts_of(number), name=path.stem, header=lines)
    path.write_bytes(content)


def stack(run, stacker=None):
    stacker = stacker or Stacker(run.experiment, late=run.late)
    failed = follow(run.journal_directory, [stacker], once=True)
    assert failed == {"stack": []}
    path = find_scan_file(scan_directory(run.experiment, run.start), run.uid)
    assert path is not None
    return path


@pytest.fixture(params=["cbf", "tif", "cbf by the library"])
def measure(request, run, monkeypatch):
    """Measure ten frames, some of them with another header, and stack them."""
    kind, _, library = request.param.partition(" ")
    if library:
        monkeypatch.setattr("offbragg.kernels.compiled", False)
    elif not kernels.compiled:
        pytest.skip("the kernels are not compiled")
    run.suffix = kind

    def measured(*numbers: int, **changed: str):
        run.begin()
        for number in range(10):
            write(run, number, **(changed if number in numbers else {}))
        run.announce(10)
        run.end()
        stacker = Stacker(run.experiment, late=run.late)
        path = stack(run, stacker)
        with ScanFile.open(path) as scan:
            assert scan.ledger.counts()["stored"] == 10  # saving loses nothing
            np.testing.assert_array_equal(scan.stack.counts[3], counts_of(3))
        return path, verify(path, journal=run.journal_directory), stacker.backlog()

    return measured


def of_headers(verdict) -> list[str]:
    return [note for note in verdict.notes if note.startswith("headers: ")]


def found_in(run, numbers=(), **changed: str) -> dict[str, list[str]]:
    """Return what is found in ten headers, some of them changed."""
    check = HeaderCheck(run.start)
    for number in range(10):
        lines = lines_of(run, number, **(changed if number in numbers else {}))
        text = f"data_x_{number:05d}\n" + "".join(f"# {line}\r\n" for line in lines)
        check.add(number, f"x_{number:05d}.cbf", header_of(text))
    assert len(check.news()) <= 1  # not once for each frame
    return check.findings()


def test_headers_that_say_what_the_run_says_are_nothing_to_speak_of(measure, caplog):
    path, verdict, backlog = measure()

    assert "contradicted" not in backlog
    assert verdict.problems == []
    assert of_headers(verdict) == []
    assert not [line for line in caplog.messages if "header and run" in line]
    with ScanFile.open(path) as scan:
        assert scan.header_findings == {}


def test_a_contradiction_is_logged_at_once_kept_in_the_file_and_a_problem(measure, run, caplog):
    _, verdict, backlog = measure(4, 7, Wavelength="0.68890 A", Exposure_time="0.5 s")

    (shown,) = backlog["contradicted"].values()  # as the prompt shows it
    assert re.search(r"header and run contradict each other: frame [47] \(x_0000[47]\.", shown)
    (problem,) = verdict.problems
    assert problem.startswith("header and run contradict each other, and one of them is wrong: ")
    assert "2 of 10 headers, first frame 4 (x_00004." in problem
    assert "Wavelength 0.6889 Å, and the run 0.7 Å" in problem
    (note,) = of_headers(verdict)
    assert "Exposure_time 0.5 s, and the run 0.098 s" in note
    assert caplog.text.count("header and run contradict each other") == 1  # not once for each
    places = SimpleNamespace(journal=run.journal_directory, experiment=run.experiment)
    assert "header and run contradict each other: see offbragg verify" in repr(
        list_runs(SimpleNamespace(paths=places))
    )


def contradicted(run) -> Path:
    """Stack ten frames, of which two say another wavelength and exposure."""
    run.begin()
    for number in range(10):
        changed = {"Wavelength": "0.68890 A", "Exposure_time": "0.5 s"} if number in (4, 7) else {}
        write(run, number, **changed)
    run.announce(10)
    run.end()
    return stack(run)


def test_what_headers_contradict_is_reduced_only_if_the_run_is_said_to_be_right(run, tmp_path):
    path = contradicted(run)
    choices = Choices(monitor=False, background="none", step=0.1)
    messages: list[str] = []

    with pytest.raises(
        ReductionError,
        match=r"f1\.h5: .*2 of 10 headers, first frame 4 .*Wavelength 0\.6889 Å, and the run 0\.7 Å"
        r"(?s:.*)--despite-headers",
    ) as refused:
        reduce_files(path, choices)
    with pytest.raises(OrientationError, match=r"Wavelength 0\.6889 Å.*\n.*--despite-headers"):
        find_orientation([path], picture=False)
    out = tmp_path / "v.h5"
    reduce_files(path, replace(choices, despite_headers=True), out=out, say=messages.append)

    assert "Exposure_time" not in str(refused.value)  # q is the same
    assert any("Exposure_time 0.5 s, and the run 0.098 s" in line for line in messages)
    (warning,) = (line for line in messages if "WARNING" in line)
    assert warning.startswith("f1.h5: WARNING: header and run contradict each other: 2 of 10")
    with VolumeFile(out) as file:
        (kept,) = file.record["inputs"][0]["contradictions"]
    assert "Wavelength 0.6889 Å, and the run 0.7 Å" in kept
    assert reproduce(out).same


def test_the_commands_refuse_what_headers_contradict_unless_asked(run, tmp_path):
    path = str(contradicted(run))
    runner = CliRunner()
    out = ["--out", str(tmp_path / "v.h5")]
    typed = [
        ["reduce", path, "--no-monitor", "--background", "none", *out],
        ["index", path, "--no-picture"],
    ]

    refused = [runner.invoke(app, arguments) for arguments in typed]
    reduced, indexed = (
        runner.invoke(app, [*arguments, "--despite-headers"]) for arguments in typed
    )

    for each, kind in zip(refused, (ReductionError, OrientationError), strict=True):
        assert isinstance(each.exception, kind), each.output
        assert "and the run 0.7 Å" in str(each.exception)
    assert reduced.exit_code == 0, reduced.output
    assert "WARNING: header and run contradict each other: 2 of 10 headers" in reduced.output
    # frames of noise have no peaks: but what the headers say was accepted
    assert "header" not in str(indexed.exception)


def test_an_air_run_that_its_headers_contradict_is_not_subtracted(tmp_path, monkeypatch):
    from measured import AS_SIMULATED, Measured

    folder = tmp_path / "perovskite" / "c1" / "100K"
    path = Measured(n_frames=4, step=2.0, temperature=100.0).write(folder)
    air = Measured(n_frames=4, step=2.0, crystal_in=False, series=1).write(folder, name="air.h5")
    line = "4 of 4 headers, first frame 0 (air_00000.cbf): Detector_distance 160 mm"
    monkeypatch.setattr(
        ScanFile, "header_findings",
        property(lambda scan: {"contradictions": [line]} if scan.path.name == "air.h5" else {}),
    )  # fmt: skip
    choices = Choices(step=0.1, corrections=AS_SIMULATED, background=str(air))

    with pytest.raises(ReductionError, match=r"air\.h5: .*160 mm"):
        reduce_files(path, choices)
    with pytest.warns(UserWarning, match=r"air\.h5: WARNING: header and run contradict .* 160 mm"):
        reduce_files(path, replace(choices, despite_headers=True))


@pytest.mark.parametrize(
    ("numbers", "key", "value", "words"),
    [
        (range(10), "Wavelength", "0.68890 A", "10 of 10 headers.* 0.6889 Å, and the run 0.7 Å"),
        ([4], "Wavelength", "0.68890 A", "1 of 10 headers, first frame 4 .*0.6889 Å"),
        ([0], "Pixel_size", "75e-6 m x 75e-6 m", r"0\.075, 0\.075 mm, and the run 0\.172, 0\.172"),
        ([9], "Detector_distance", "0.16000 m", "160 mm, and the run 100 mm"),
        (range(10), "Detector_2theta", "30.0 deg.", "30 degree, and the run 0 degree"),
        (range(10), "Beam_xy", "(100.0, 97.5) pixels", r"100, 97\.5 pixel, and the run 243\.5"),
        ([3], "Start_angle", "3.0000 deg.", r"Start_angle 3 degree, and the run 1\.5 degree"),
        (range(10), "Angle_increment", "0.2500 deg.", r"0\.25 degree, and the run 0\.5 degree"),
        (range(10), "Oscillation_axis", "OMEGA", "Oscillation_axis OMEGA, and the run phi"),
        ([7], "", "deadbeef #2 other c1", "it is a frame of run deadbeef, and this is run"),
    ],
)
def test_a_header_that_changes_q_is_a_contradiction_with_both_numbers(
    run, numbers, key, value, words
):
    found = found_in(run, numbers, **{key: value})

    (line,) = found["contradictions"]
    assert re.search(words, line), line


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("Exposure_time", "0.5000000 s", "Exposure_time 0.5 s, and the run 0.098 s"),
        ("Exposure_period", "0.2000000 s", "Exposure_period 0.2 s, and the run 0.1 s"),
        ("Threshold_setting:", "7000 eV", "Threshold_setting 7 keV, and the run 9 keV"),
        ("sensor", "CdTe sensor, thickness 0.000320 m", "sensor CdTe, and the run Si"),
        ("Wavelength", "0.0 A", "Wavelength 0 Å, and the run 0.7 Å"),  # it was not set
        ("date", "2016/Mar/05 09:01:45.5", "a date far from the others, as frame 2"),
    ],
)
def test_what_changes_no_q_is_listed(run, key, value, words):
    found = found_in(run, [2], **{key: value})

    assert found.keys() == {"differences"}
    assert any(words in line for line in found["differences"]), found


def descriptor(**configuration: dict[str, tuple[object, str]]) -> dict:
    """Describe a stream of devices; each signal has a value and a unit."""
    return {
        "name": "primary",
        "configuration": {
            device: {
                "data": {key: value for key, (value, _) in signals.items()},
                "timestamps": dict.fromkeys(signals, 0.0),
                "data_keys": {key: {"units": unit} for key, (_, unit) in signals.items()},
            }
            for device, signals in configuration.items()
        },
    }


ALIKE = descriptor(
    pilatus={
        "pilatus_cam_exposure": (0.098, ""), "pilatus_cam_period": (0.1, "s"),
        "pilatus_cam_threshold": (9.0, "keV"), "pilatus_cam_distance": (0.1, "m"),
        "pilatus_cam_n_exposures": (1, ""), "pilatus_cam_cut_off": (0.0, "counts"),
        "pilatus_cam_serial": ("Unknown", ""),
    },
    mono={"mono_wavelength": (0.07, "nm"), "mono_energy": (17.7, "keV")},
    laser={"laser_wavelength": (800.0, "nm"), "laser_exposure": (7.0, "s")},
)  # fmt: skip


@pytest.mark.parametrize(
    ("device", "signal", "value", "kind", "words"),
    [
        ("pilatus", "pilatus_cam_exposure", (0.5, ""), "differences",
         "Exposure_time 0.098 s, and pilatus_cam_exposure 0.5 s"),
        ("pilatus", "pilatus-cam-acquire_period", (200.0, "ms"), "differences",
         "Exposure_period 0.1 s, and pilatus-cam-acquire_period 0.2 s"),
        ("pilatus", "pilatus_cam_threshold", (7.0, "keV"), "differences",
         "Threshold_setting 9 keV, and pilatus_cam_threshold 7 keV"),
        ("pilatus", "pilatus_cam_distance", (0.16, "m"), "contradictions",
         "Detector_distance 100 mm, and pilatus_cam_distance 160 mm"),
        ("pilatus", "pilatus_cam_distance", (160.0, ""), "differences",  # or in another unit
         "Detector_distance 100 mm, and pilatus_cam_distance 160 mm"),
        ("mono", "mono_wavelength", (0.6889, "Å"), "contradictions",
         "Wavelength 0.7 Å, and mono_wavelength 0.6889 Å"),
        ("mono", "mono_wavelength", (0.70012, "Angstrom"), "differences",
         "Wavelength 0.7 Å, and mono_wavelength 0.70012 Å"),
    ],
)  # fmt: skip
def test_headers_are_compared_with_the_configuration_of_the_devices(
    run, device, signal, value, kind, words
):
    check = HeaderCheck(run.start)
    check.configure(ALIKE)
    for number in range(5):
        check.add(number, f"x_{number}.cbf", header_of("# " + "\r\n# ".join(lines_of(run, number))))
    assert check.findings() == {}

    check.configure(descriptor(**{device: {signal: value}}))
    for number in range(5, 10):
        check.add(number, f"x_{number}.cbf", header_of("# " + "\r\n# ".join(lines_of(run, number))))

    (line,) = check.findings()[kind]
    assert line == f"5 of 10 headers, first frame 5 (x_5.cbf): {words}"


def test_what_the_stacker_finds_in_the_configuration_is_in_the_file(run):
    run.begin()
    stacker = Stacker(run.experiment, late=run.late)
    for number in range(10):
        write(run, number)
    run.announce(10)
    run.journal(
        "descriptor",
        {
            **descriptor(mono={"mono_wavelength": (0.6889, "Å")}), "uid": "d2",
            "run_start": run.uid, "time": run.began, "data_keys": {}, "name": "mono",
        },
    )  # fmt: skip
    run.end()

    with ScanFile.open(stack(run, stacker)) as scan:
        (line,) = scan.header_findings["contradictions"]
        assert scan.ledger.counts()["stored"] == 10

    assert "Wavelength 0.7 Å, and mono_wavelength 0.6889 Å" in line


@pytest.mark.parametrize(
    "configuration",
    [
        None, [], {"pilatus": None}, {"pilatus": {"data": 3}}, {"pilatus": {"data_keys": [1]}},
        {"pilatus": {"data": {"exposure": 10**400, "period": float("nan"), "threshold": True}}},
        {"pilatus": {"data": {"exposure": 1.0}, "data_keys": {"exposure": {"units": ["s"]}}}},
        {"pilatus": {"data": {"exposure": 1.0}, "data_keys": {"exposure": {"units": "furlong"}}}},
    ],
)  # fmt: skip
def test_a_configuration_that_is_none_is_skipped(run, configuration):
    check = HeaderCheck(run.start)

    check.configure({"configuration": configuration})
    check.add(0, "x_0.cbf", header_of("# " + "\r\n# ".join(lines_of(run, 0))))

    assert check.findings() == {}


def test_a_fixed_axis_that_stands_elsewhere_is_a_contradiction(run):
    start = run.start
    chi = {"name": "chi", "vector": [0.0, 0.0, -1.0], "angle": -54.7}
    start["geometry"]["axes"].append(chi)
    check = HeaderCheck(start)

    check.add(0, "x_00000.cbf", header_of("# Chi 0.0000 deg.\r\n"))
    check.add(1, "x_00001.cbf", header_of("# Chi 12.0000 deg.\r\n"))

    found = check.findings()
    assert "Chi 12 degree, and the run -54.7 degree" in found["contradictions"][0]
    assert "Chi 0 degree, and the run -54.7 degree" in found["differences"][0]  # it was not set


def test_a_distance_along_the_beam_to_a_tilted_panel_is_none(run):
    start = run.start
    tilt = np.deg2rad(30.0)
    start["geometry"]["panel"] |= {
        "fast": [-np.cos(tilt), 0.0, np.sin(tilt)], "origin": [36.3, 16.77, 100.0 - 20.9],
    }  # fmt: skip
    geometry = Geometry.from_dict(start["geometry"])
    beam = geometry.direct_beam()
    assert beam is not None
    check = HeaderCheck(start)

    check.add(0, "x_00000.cbf", {"distance": beam[2], "two_theta": 30.0})

    assert check.findings() == {}


def test_the_tag_of_a_tiff_is_compared_with_its_description(run):
    run.suffix = "tif"
    run.n_frames = 4
    run.begin()
    for number in range(4):
        write(run, number)
    lines = lines_of(run, 2)
    run.path(2).write_bytes(
        encode_tiff(counts_of(2), model="PILATUS", header=lines, taken=run.began - 86_400.0)
    )
    run.announce(4)
    run.end()

    verdict = verify(stack(run), journal=run.journal_directory)

    (note,) = of_headers(verdict)
    assert "first frame 2 (x_00002.tif): its tag DateTime is" in note
    assert "and its header says" in note


def test_frames_of_an_earlier_stacker_are_compared_too(run):
    run.begin()
    for number in range(9):
        write(run, number, **({"Wavelength": "0.68890 A"} if number < 2 else {}))
    run.announce(10)
    run.end()
    path = stack(run)
    assert len(verify(path).problems) == 1

    write(run, 9)  # it comes late: the file is opened again
    stack(run)
    (problem,) = verify(path).problems
    assert "2 of 10 headers, first frame 0" in problem

    with ScanFile.open(path) as scan:
        assert scan.ledger.counts()["stored"] == 10


def test_what_was_found_stays_where_the_files_are_gone(run):
    run.begin()
    for number in range(9):
        write(run, number, **({"Wavelength": "0.68890 A"} if number < 2 else {}))
    run.announce(10)
    run.end()
    path = stack(run)
    for number in range(9):
        run.path(number).unlink()

    write(run, 9)
    stack(run)

    (problem,) = verify(path).problems
    assert "2 of 9 headers, first frame 0" in problem


def test_frames_that_are_replayed_say_when_and_where_they_were_measured(run):
    check = HeaderCheck({**run.start, "replay": "l-cysteine"})

    check.add(0, "x_00000.cbf", {"wavelength": 0.6889, "oscillation_axis": "OMEGA"})

    assert check.news() == []
    assert len(check.findings()["differences"]) == 2


def test_any_header_is_compared_and_what_is_found_fits_into_the_scan_file(run):
    rng = np.random.default_rng(3)
    run.n_frames = 500
    check = HeaderCheck(run.start)
    numbers = [0.0, -1e300, 1e300, 360.0, 0.7, 1e-300]
    words = ["AXIS", "é" * 300, "data_7"]
    keys = [
        "wavelength", "distance", "two_theta", "chi", "phi", "start_angle", "angle_increment",
        "exposure_time", "exposure_period", "threshold", "sensor_thickness",
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(500):
            header = {key: float(rng.choice(numbers)) for key in keys if rng.random() < 0.5}
            header |= {
                key: str(rng.choice(words))
                for key in ("oscillation_axis", "sensor_material", "data_name", "date", "text")
                if rng.random() < 0.5
            }
            header["beam_xy"] = [float(rng.choice(numbers)), 1.0]
            check.add(number, f"x_{number}.cbf", header)
        found = check.findings()

    assert len(str(found).encode()) < 14_000
