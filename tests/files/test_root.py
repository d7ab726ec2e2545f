"""A root that has gone is not made again on another disk."""

from __future__ import annotations

import pytest
from faulty_disks import SmallDisk, needs_mount

from offbragg.errors import ScanFileError
from offbragg.files.root import Root, mount_of


def test_one_that_was_never_there_may_be_made(tmp_path):
    root = Root(tmp_path / "experiment")

    root.check()

    assert root.trouble() == "is not there"


def test_one_that_went_is_refused_until_it_is_back(tmp_path):
    root = Root(tmp_path)
    root.check()
    away = tmp_path.rename(tmp_path.with_name("away"))

    with pytest.raises(ScanFileError, match="is not there"):
        root.check()

    away.rename(tmp_path)
    root.check()


@needs_mount
def test_one_whose_disk_is_not_mounted_is_refused_although_there_is_a_directory(tmp_path):
    with SmallDisk(tmp_path, 100_000) as disk:
        below = tmp_path / "2026-1"
        below.mkdir()
        root, other = Root(tmp_path), Root(below)
        assert mount_of(below) == tmp_path

        with disk.broken("unmounted"):
            with pytest.raises(ScanFileError, match=f"{tmp_path} is not mounted"):
                root.check()
            below.mkdir()  # somebody did
            with pytest.raises(ScanFileError, match=f"{tmp_path} is not mounted"):
                other.check()
            below.rmdir()

        root.check()
        other.check()
