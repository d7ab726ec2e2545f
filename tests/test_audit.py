"""`verify` believes the pixels, not the ledger; the commands say what they found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers the filter
import pytest
import tomli_w

from offbragg.errors import ScanFileError
from offbragg.files.find import find_scan_file
from offbragg.files.nxrefine import has_wrapper
from offbragg.files.scan_folders import scan_directory
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from offbragg.recovery.verify import scan_file_of_run, verify


@pytest.fixture
def scan_file(run) -> Path:
    """A finished sweep of ten frames, of which frame 4 never came."""
    run.begin()
    run.write(*(n for n in range(10) if n != 4))
    run.announce(10)
    run.end()
    assert not any(
        follow(run.journal_directory, [Stacker(run.experiment, late=run.late)], once=True).values()
    )
    path = find_scan_file(scan_directory(run.experiment, run.start), run.uid)
    assert path is not None
    return path


@pytest.fixture
def beamline(run, scan_file) -> Path:
    path = run.root / "beamline.toml"
    paths = {
        "experiment": "experiment",
        "frames": "frames",
        "journal": "journal",
        "catalog": "catalog",
        "log": "log",
    }
    path.write_text(tomli_w.dumps({"beamline_id": "test", "paths": paths}))
    return path


def offbragg(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "offbragg", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def change(path: Path, number: int) -> None:
    with h5py.File(path, "r+") as file:
        data = file["entry/data/data"]
        frame = data[number]
        frame[100, 100] += 1
        data[number] = frame


def test_a_whole_file_is_as_measured_and_tells_its_missing_frame(run, scan_file):
    verdict = verify(scan_file, journal=run.journal_directory)

    assert verdict.ok
    assert verdict.frames == {"pending": 0, "stored": 9, "missing": 1, "rejected": 0}
    assert verdict.checked == 9
    assert [frame["number"] for frame in verdict.listed] == [4]


def test_one_changed_pixel_is_found_by_its_frame(scan_file):
    change(scan_file, 7)

    verdict = verify(scan_file)

    assert verdict.differ == [7]
    assert any(p.startswith("frame 7 is not what was measured") for p in verdict.problems)


def test_counts_in_a_missing_frame_are_found(scan_file):
    change(scan_file, 4)

    assert "frame 4 is missing but has counts" in verify(scan_file).problems


def test_a_ledger_that_lost_a_frame_is_found(scan_file):
    with h5py.File(scan_file, "r+") as file:
        file["entry/frames/status"][2] = b"missing"

    assert "frame 2 is missing but has counts" in verify(scan_file).problems


def test_a_start_document_that_was_edited_is_found(run, scan_file):
    path = run.journal_directory / f"{run.uid}.jsonl"
    path.write_text(path.read_text().replace("LSMO-140", "LSMO-141", 1))

    verdict = verify(scan_file, journal=run.journal_directory)

    assert verdict.problems == ["start document and scan file differ in sample"]


def test_a_lost_journal_is_found(run, scan_file):
    (run.journal_directory / f"{run.uid}.jsonl").unlink()

    (problem,) = verify(scan_file, journal=run.journal_directory).problems

    assert "has no journal" in problem


def test_a_run_is_found_by_the_beginning_of_its_uid(run, scan_file):
    places = {"journal": run.journal_directory, "experiment": run.experiment}

    assert scan_file_of_run(run.uid[:6], **places) == scan_file
    with pytest.raises(ScanFileError, match="no run with a uid"):
        scan_file_of_run("unknown", **places)


def test_a_wrapper_that_was_not_written_any_more_is_written_at_the_next_start(run, scan_file):
    for wrapper in scan_file.parents[1].glob("*.nxs"):
        wrapper.unlink()
    assert not has_wrapper(scan_file)

    follow(run.journal_directory, [Stacker(run.experiment, late=run.late)], once=True)

    assert has_wrapper(scan_file)


def test_verify_says_what_it_found_and_exits_accordingly(run, scan_file, beamline):
    fine = offbragg("verify", run.uid[:8], "--beamline", beamline)
    change(scan_file, 7)
    broken = offbragg("verify", scan_file, "--json")
    nowhere = offbragg("verify", "unknown", "--beamline", beamline)

    assert fine.returncode == 0, fine.stderr
    assert "OK: the file holds what was measured" in fine.stdout
    assert "frame 4 missing: x_00004.cbf was not there" in fine.stdout
    assert broken.returncode == 1
    assert json.loads(broken.stdout)["ok"] is False
    assert nowhere.returncode == ScanFileError.exit_code
    assert nowhere.stderr.startswith("offbragg: no run with a uid")


def test_a_file_that_is_no_scan_file_is_an_error_without_a_traceback(tmp_path):
    path = tmp_path / "f1.h5"
    path.write_bytes(b"not HDF5")

    done = offbragg("verify", path)

    assert done.returncode == ScanFileError.exit_code
    assert "Traceback" not in done.stderr
    assert "f1.h5 is not an HDF5 file" in done.stderr


def test_stack_once_finishes_what_is_there(run, beamline, scan_file):
    run.write(4)

    done = offbragg("stack", "--once", "--no-catalog", "--json", "--beamline", beamline)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"failed": {"stack": []}}
    assert verify(scan_file).frames["stored"] == 10


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("beamline_id", 'detector_room = "warm"\nbeamline_id', "detector_room is unknown"),
        ('beamline_id = "test"', "beamline_id = 7", "beamline_id is 7"),
    ],
)
def test_a_wrong_configuration_is_named_by_its_key(beamline, before, after, message):
    beamline.write_text(beamline.read_text().replace(before, after, 1))

    done = offbragg("stack", "--once", "--beamline", beamline)

    assert done.returncode == 3
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_lists_every_command():
    output = offbragg("--help").stdout

    for command in ("demo", "ioc", "shell", "stack", "serve", "verify"):
        assert command in output


def test_importing_offbragg_and_reading_files_stays_light():
    program = (
        "import sys, offbragg.files.scan_file, offbragg.cli\n"
        "heavy = {'bluesky', 'ophyd', 'tiled', 'caproto', 'epics', 'databroker', 'event_model'}\n"
        "print(sorted(heavy & {m.partition('.')[0] for m in sys.modules}))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
