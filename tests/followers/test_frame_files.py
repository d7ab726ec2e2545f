"""What the folder of a run holds is stored or named, whatever its documents were able to say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from runs import MeasuredRun, counts_of

from offbragg.errors import RejectedFrame
from offbragg.files.find import find_scan_file
from offbragg.files.frame_files import find_run_folder, frame_files
from offbragg.files.journal_file import read_journal
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from offbragg.recovery.verify import verify
from sim_iocs.cbf import encode_cbf


def cut_short(run: MeasuredRun, *kept: str, folder: str | None = None) -> Path:
    """Leave what a RunEngine leaves that was killed early: documents of some kinds, a folder.

    The frame files get the names that our detector gives them; returns their folder.
    """
    directory = run.frames.parent / (folder or run.uid[:8])
    directory.mkdir(exist_ok=True)
    run.journal("start", run.start)
    if "descriptor" in kept:
        run.journal(
            "descriptor",
            {
                "uid": run.descriptor, "run_start": run.uid, "time": run.began, "name": "primary",
                "data_keys": {"pilatus_image": {"source": "test", "dtype": "array",
                                                "shape": [195, 487], "external": "STREAM:"}},
                "object_keys": {"pilatus": ["pilatus_image"]}, "hints": {},
                "configuration": {"pilatus": {"data": {
                    "pilatus_cam_file_path": f"/elsewhere/{directory.name}/",
                    "pilatus_cam_n_frames": run.n_frames}, "timestamps": {}, "data_keys": {}}},
            },
        )  # fmt: skip
    run.journal.close()  # as the end of its process does
    return directory


def write_into(directory: Path, *numbers: int) -> None:
    for number in numbers:
        name = f"{directory.name}_{number:05d}"
        (directory / f"{name}.cbf").write_bytes(
            encode_cbf(counts_of(number), name=name, header=["test"])
        )


def stack(run: MeasuredRun) -> Path:
    """Follow the journal once; give the run's scan file."""
    stacker = Stacker(run.experiment, late=run.late, frames=run.frames.parent)
    assert follow(run.journal_directory, [stacker], once=True) == {"stack": []}
    path = find_scan_file(scan_directory(run.experiment, run.start), run.uid)
    assert path is not None
    return path


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr("offbragg.followers.follow._LOOK_FOR_ABANDONED", 0.05)


@pytest.mark.parametrize(
    ("kept", "suffix"), [((), "-2"), (("descriptor",), "")], ids=["start only", "descriptor"]
)
def test_frames_of_a_run_that_could_not_say_where_they_are_are_stored(run, kept, suffix):
    directory = cut_short(run, *kept, folder=run.uid[:8] + suffix)
    write_into(directory, *range(10))

    path = stack(run)

    with ScanFile.open(path) as scan:
        assert scan.ledger.counts()["stored"] == 10
        assert scan.exit_status == "fail"
        for number in range(10):
            np.testing.assert_array_equal(scan.stack.counts[number], counts_of(number))
    assert verify(path, journal=run.journal_directory, frames=run.frames.parent).problems == []


def test_the_folder_that_the_descriptor_names_is_the_one(run):
    other = run.frames.parent / f"{run.uid[:8]}-3"  # somebody else's
    other.mkdir()
    write_into(other, *range(10, 20))
    directory = cut_short(run, "descriptor", folder=f"{run.uid[:8]}-2")
    write_into(directory, *range(10))

    with ScanFile.open(stack(run)) as scan:
        np.testing.assert_array_equal(scan.stack.counts[3], counts_of(3))


def test_a_folder_below_another_one_is_found_by_what_the_detector_was_given(run, tmp_path):
    root = tmp_path / "elsewhere"
    place = root / "ramdisk" / f"{run.uid[:8]}"
    place.mkdir(parents=True)
    write_into(place, 0)
    descriptor = {"configuration": {"d": {"data": {"path": f"/mnt/ramdisk/{run.uid[:8]}/"}}}}

    found = find_run_folder(run.start, [descriptor], root)

    assert found is not None
    assert found.path(0).exists()


def test_a_folder_that_leads_out_is_refused(run, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    write_into(secret, 0)
    run.frames.rmdir()
    run.frames.symlink_to(secret)

    with pytest.raises(RejectedFrame, match="they are not read"):
        find_run_folder(run.start, [], run.frames.parent, run.frames.parent)


def test_a_file_that_came_after_the_end_is_a_problem_until_it_is_stored(run):
    directory = cut_short(run)
    write_into(directory, *range(6))
    path = stack(run)
    write_into(directory, *range(6, 10))
    (directory / f"{directory.name}_00009.cbf").write_bytes(b"cut")

    verdict = verify(path, journal=run.journal_directory, frames=run.frames.parent)

    (problem,) = verdict.problems
    assert problem.startswith("3 frames that are not stored have good files (6–8, in ")
    assert "files of missing frames are there, and are not good (9)" in verdict.notes
    stack(run)
    again = verify(path, journal=run.journal_directory, frames=run.frames.parent)
    assert again.ok
    assert again.frames["stored"] == 9


def test_what_else_a_runs_folder_holds_is_named(run, caplog):
    run.begin()
    run.write(*range(12), 700)  # an IOC that was not asked to stop
    run.announce(10)
    run.end()

    path = stack(run)

    others = (
        "3 more frame files are in the run's folder, and not among the 10 of its sweep: x_00010"
    )
    assert others in caplog.text
    verdict = verify(path, journal=run.journal_directory)
    assert verdict.ok
    assert any(note.startswith(others) for note in verdict.notes)


def test_a_folder_that_is_not_found_is_reported(run):
    run.frames.rmdir()
    cut_short(run, "descriptor").rmdir()

    path = stack(run)

    with ScanFile.open(path) as scan:
        assert (
            f"no folder of this run with frames was found in {run.frames.parent}"
            in (scan.ledger.reasons[0])
        )
    verdict = verify(path, journal=run.journal_directory, frames=run.frames.parent)
    assert any("its 10 missing frames were not looked for" in note for note in verdict.notes)


def test_where_frames_are_is_known_from_the_document_that_says_so(run):
    run.begin()
    run.end()
    documents, _ = read_journal(run.journal_directory / f"{run.uid}.jsonl")

    found = frame_files(run.start, documents)

    assert found is not None
    assert found.directory == run.frames
