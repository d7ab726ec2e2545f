"""A column of every scan file is declared in one place, and files without it are read as before."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from offbragg.errors import ScanFileError
from offbragg.files import ScanFile, frame_columns, scan_layout, scan_writer
from offbragg.files.frame_columns import COLUMNS, FrameColumn
from offbragg.files.scan_writer import ScanWriter
from offbragg.followers.run_documents import frame_columns as published
from offbragg.recovery.verify import verify

FLUX = FrameColumn(
    "flux", units="1/s", meaning="photons on the sample", published=True, joined=True
)


@pytest.fixture
def declared(monkeypatch):
    """Declare one column more, as an edit of `COLUMNS` does."""

    def declare():
        for module in (frame_columns, scan_layout, scan_writer):
            monkeypatch.setattr(module, "COLUMNS", (*COLUMNS, FLUX))

    return declare


def make(directory, start):
    with ScanWriter.create(directory, start=start) as scan:
        return scan.path


def test_a_column_that_is_declared_is_made_set_read_and_published(tmp_path, start, declared):
    declared()

    with ScanWriter.create(tmp_path, start=start) as scan:
        scan.set_values("flux", [1, 3], [10.0, 30.0])
    with ScanFile.open(scan.path) as back:
        values = back.frame_values()

    np.testing.assert_array_equal(values["flux"], [np.nan, 10, np.nan, 30, np.nan, np.nan])
    assert "flux" in published(start)
    with h5py.File(scan.path) as file:
        assert file["entry/frames/flux"].attrs["units"] == b"1/s"


@pytest.mark.parametrize("listed", [True, False], ids=["this version", "before there was a list"])
def test_a_file_from_before_a_column_is_read_and_resumed_without_it(
    tmp_path, start, declared, listed
):
    path = make(tmp_path, start)
    if not listed:
        with h5py.File(path, "r+") as file:
            del file["entry/frames"].attrs["columns"]
    declared()

    with ScanWriter.resume(path) as scan:
        scan.set_values("flux", [1], [10.0])
    with ScanFile.open(path) as back:
        values = back.frame_values()

    assert "flux" not in values
    assert set(values) == {*(c.name for c in COLUMNS), *start["per_frame"]}


@pytest.mark.parametrize("name", [column.name for column in COLUMNS])
def test_a_file_that_has_lost_a_column_is_damaged(tmp_path, start, name):
    path = make(tmp_path, start)
    with h5py.File(path, "r+") as file:
        del file[f"entry/frames/{name}"]

    gone = pytest.raises((KeyError, ScanFileError), match=f"frames/{name} is not there")
    with gone, ScanFile.open(path) as scan:
        scan.frame_values()


def test_verify_reports_a_file_that_has_lost_its_checksums(tmp_path, start):
    path = make(tmp_path, start)
    with h5py.File(path, "r+") as file:
        del file["entry/frames/crc64"]

    with pytest.raises(ScanFileError, match=r"it is damaged: .*frames/crc64 is not there"):
        verify(path)


def test_the_list_of_a_file_names_nothing_but_columns(tmp_path, start):
    path = make(tmp_path, start)
    for hostile in (np.bytes_("angle ../data/data reason"), np.int64(2**62), np.zeros(3)):
        with h5py.File(path, "r+") as file:
            file["entry/frames"].attrs["columns"] = hostile

        with ScanFile.open(path) as scan:
            assert set(scan.columns) <= {*(c.name for c in COLUMNS), *start["per_frame"]}


def test_no_column_is_added_to_those_that_the_first_files_have():
    assert {column.name for column in COLUMNS if column.in_every_file} == {
        *("number", "status", "reason", "angle", "angle_source", "time", "source", "md5"),
    }
