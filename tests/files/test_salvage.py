"""A kill may tear a write of the frame index: nothing is lost, and no reader waits for ever."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import time
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from files.torn import tear

from offbragg.errors import ScanFileError
from offbragg.files import ScanFile
from offbragg.files.examine import Examiner
from offbragg.files.hdf5 import open_to_read
from offbragg.files.salvage import rebuild_if_torn
from offbragg.files.scan_layout import DATA, FRAMES
from offbragg.files.scan_writer import ScanWriter
from offbragg.frame import Frame
from offbragg.ledger import FrameStatus

STORED = 20


@pytest.fixture
def torn(tmp_path, start, make_counts):
    """A file whose writer was killed when it wrote where frame 20 to 24 are."""
    start["sweep"]["n_frames"] = 1000

    def write(*numbers):
        for number in numbers:
            scan.write_frame(Frame(number, make_counts(number)), source=f"x_{number}", time=1.0)

    with ScanWriter.create(tmp_path, start=start) as scan:
        write(*range(STORED))
        tear(scan.path, lambda: write(*range(STORED, STORED + 5)))
        left = scan.path.read_bytes()
    scan.path.write_bytes(left)  # as if it had not been closed
    return scan.path


def test_a_torn_file_is_rebuilt_with_every_frame_that_was_stored(torn, start, make_counts):
    before = torn.read_bytes()

    rebuild_if_torn(torn, start)

    with ScanWriter.resume(torn) as scan:
        assert [n for n, s in enumerate(scan.ledger.statuses) if s is FrameStatus.STORED] == list(
            range(STORED)
        )
        for number in range(STORED):
            np.testing.assert_array_equal(scan.stack.counts[number], make_counts(number))
        scan.write_frame(Frame(STORED, make_counts(STORED)), source="x", time=1.0)
    kept = torn.with_name("f1.h5.damaged-1")
    assert kept.read_bytes() == before
    rebuild_if_torn(torn, start)
    assert sorted(path.name for path in torn.parent.iterdir()) == ["f1.h5", kept.name]


def test_a_frame_whose_bytes_are_wrong_is_not_taken_over(torn, start):
    with Examiner() as examiner:
        place = examiner.look(torn).chunk(3)
    raw = bytearray(torn.read_bytes())
    raw[place.offset + 20] ^= 1
    torn.write_bytes(raw)

    rebuild_if_torn(torn, start)

    with ScanFile.open(torn) as scan:
        assert scan.ledger.statuses[3] is FrameStatus.MISSING
        assert scan.ledger.reasons[3] == "was stored, was damaged, and x_3 was not there"
        assert scan.ledger.counts()[FrameStatus.STORED] == STORED - 1


def test_reading_or_writing_a_torn_file_fails_at_once(torn):
    for _ in range(2):  # also after the mark of its writer was cleared
        with ScanFile.open(torn) as scan:
            for _ in range(2):
                with pytest.raises(ScanFileError, match=r"killed during a write.\nRestart"):
                    scan.stack  # noqa: B018
        with pytest.raises(ScanFileError, match=r"offbragg stack --once --repair"):
            ScanWriter.resume(torn)
    began = time.monotonic()
    with open_to_read(torn) as file, pytest.raises((OSError, RuntimeError), match="checksum"):
        file[DATA][0]
    assert time.monotonic() - began < 30  # for ever, without


def test_another_program_of_the_process_does_not_wait_either(torn):
    with (
        open_to_read(torn),
        h5py.File(torn, "r", swmr=True, locking=False) as file,
        pytest.raises((OSError, RuntimeError), match="checksum"),
    ):
        file[DATA][0]


def test_without_room_for_another_nothing_is_begun(torn, start, monkeypatch):
    before = torn.read_bytes()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))

    with pytest.raises(ScanFileError, match=r"its disk has 0 MB\nMake room"):
        rebuild_if_torn(torn, start)

    assert torn.read_bytes() == before
    assert [path.name for path in torn.parent.iterdir()] == ["f1.h5"]


def test_what_fails_on_the_way_leaves_nothing_behind(torn, start, monkeypatch):
    def fails(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = torn.read_bytes()
    monkeypatch.setattr("offbragg.files.salvage.put_in_place", fails)

    with pytest.raises(ScanFileError, match=r"cannot be rebuilt: .*No space left"):
        rebuild_if_torn(torn, start)

    assert torn.read_bytes() == before
    assert [path.name for path in torn.parent.iterdir()] == ["f1.h5"]


def test_a_file_without_stored_checksums_is_left_to_people(torn, start, monkeypatch):
    look = Examiner.look
    old = lambda *args: dataclasses.replace(look(*args), crc64=None)  # noqa: E731
    monkeypatch.setattr(Examiner, "look", old)
    before = torn.read_bytes()

    with pytest.raises(ScanFileError, match=r"without stored checksums.*\n.*--repair"):
        rebuild_if_torn(torn, start)

    assert torn.read_bytes() == before


def test_a_file_that_became_whole_meanwhile_is_left_alone(tmp_path, start, monkeypatch):
    with ScanWriter.create(tmp_path, start=start) as scan:
        pass
    inode = scan.path.stat().st_ino
    monkeypatch.setattr(ScanFile, "is_torn", lambda scan: True)  # its child sees for itself

    rebuild_if_torn(scan.path, start)

    assert scan.path.stat().st_ino == inode


def test_a_file_with_a_damaged_header_is_an_error(torn, start):
    with open_to_read(torn) as file:
        at = h5py.h5o.get_info(file[DATA].id).addr
    raw = bytearray(torn.read_bytes())
    raw[at + 40] ^= 0xFF
    torn.write_bytes(raw)

    with pytest.raises(ScanFileError, match=r"is damaged: .*\noffbragg stack --once --repair"):
        rebuild_if_torn(torn, start)


def test_a_whole_file_is_left_alone(tmp_path, start, make_counts):
    with ScanWriter.create(tmp_path, start=start) as scan:
        scan.write_frame(Frame(0, make_counts(0)), source="x", time=1.0)
        inode = scan.path.stat().st_ino

        rebuild_if_torn(scan.path, start)

        assert scan.path.stat().st_ino == inode


def test_what_is_written_with_every_frame_lies_in_one_page(tmp_path, start):
    """Else a kill could tear it: a status, and the header that says how many frames there are."""
    start["sweep"]["n_frames"] = 1000
    with ScanWriter.create(tmp_path, start=start) as scan:
        with open_to_read(scan.path) as file:
            status = file[f"{FRAMES}/status"]
            assert status.dtype.itemsize == 8
            assert status.id.get_offset() % 8 == 0
            at = h5py.h5o.get_info(file[DATA].id)
            size = at.hdr.space.total
        assert at.addr // 4096 == (at.addr + size - 1) // 4096
