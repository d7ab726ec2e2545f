"""What a directory says about a sweep."""

from __future__ import annotations

import numpy as np
import pytest

from offbragg.devices.frame_folder import FrameFolder, decided
from offbragg.ledger import ranges


@pytest.fixture
def folder(tmp_path):
    return FrameFolder(tmp_path, "abcd_1", "cbf", 5)


def write(folder, number, size=100, stem="abcd_1", suffix="cbf"):
    (folder.directory / f"{stem}_{number:05d}.{suffix}").write_bytes(b"x" * size)


def present(folder):
    return np.flatnonzero(folder.present).tolist()


def test_a_frame_counts_once_a_later_one_is_there(folder):
    write(folder, 0)
    write(folder, 1)

    folder.look()

    assert present(folder) == [0]


def test_the_last_frame_counts_once_it_stopped_growing(folder):
    write(folder, 0, size=50)
    folder.look()
    write(folder, 0, size=100)
    folder.look()
    assert present(folder) == []

    folder.look()

    assert present(folder) == [0]


def test_an_empty_file_is_no_frame(folder):
    write(folder, 0, size=0)

    folder.look()
    folder.look()

    assert present(folder) == []


def test_files_of_others_are_not_frames(folder):
    write(folder, 0, stem="other")
    write(folder, 1, suffix="tif")
    write(folder, 2, suffix="cbf.part")
    (folder.directory / "abcd_1_7.cbf").write_bytes(b"x")
    write(folder, 99)

    folder.look()
    folder.look()

    assert present(folder) == []


def test_a_frame_that_was_seen_stays_seen_when_its_file_is_moved_away(folder):
    write(folder, 0)
    write(folder, 1)
    folder.look()

    (folder.directory / "abcd_1_00000.cbf").unlink()
    folder.look()

    assert 0 in present(folder)


def judge(numbers, elapsed, n=10):
    there = np.zeros(n, dtype=bool)
    there[list(numbers)] = True
    return decided(there, elapsed, period=0.1, patience=5.0)


def test_a_hole_is_covered_by_a_later_frame_and_not_lost_yet():
    assert judge({0, 1, 3}, elapsed=0.4) == (4, [])


def test_a_hole_is_lost_when_its_time_is_over():
    assert judge({0, 1, 3}, elapsed=5.30) == (4, [2])


def test_everything_is_covered_when_the_time_of_the_sweep_is_over():
    assert judge({0, 1, 3}, elapsed=60.0) == (10, [2, 4, 5, 6, 7, 8, 9])


def test_nothing_is_covered_before_anything_came():
    assert judge(set(), elapsed=5.0) == (0, [])


@pytest.mark.parametrize("elapsed", [0.0, 0.5, 5.15, 5.55, 7.0])
def test_what_is_covered_never_shrinks_and_lost_frames_are_covered(elapsed):
    covered, lost = judge({2, 5}, elapsed)
    later, later_lost = judge({2, 5}, elapsed + 0.1)

    assert later >= covered
    assert set(lost) <= set(later_lost)
    assert all(number < covered for number in lost)


def test_numbers_are_written_shortly():
    assert ranges([7, 3, 4, 5, 9]) == "3–5, 7, 9"
