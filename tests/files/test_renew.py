"""A kill may tear a write of where the frames are: nothing is lost, and nobody waits for ever."""

from __future__ import annotations

import time

import h5py
import numpy as np
import pytest
from files.torn import tear

from offbragg.errors import ScanFileError
from offbragg.files import ScanFile
from offbragg.files.examine import Examiner
from offbragg.files.hdf5 import open_to_read
from offbragg.files.nxmx import DATA, FRAMES
from offbragg.files.renew import renew_if_torn
from offbragg.frame import Frame
from offbragg.ledger import Status

STORED = 20


@pytest.fixture
def torn(tmp_path, start, make_counts):
    """A file whose writer was killed when it wrote where frame 20 to 24 are."""
    start["sweep"]["n_frames"] = 1000

    def write(*numbers):
        for number in numbers:
            scan.write_frame(Frame(number, make_counts(number)), source=f"x_{number}", time=1.0)

    with ScanFile.create(tmp_path, start=start) as scan:
        write(*range(STORED))
        tear(scan.path, lambda: write(*range(STORED, STORED + 5)))
        left = scan.path.read_bytes()
    scan.path.write_bytes(left)  # as if nobody had closed it
    return scan.path


def test_a_torn_file_is_made_anew_with_every_frame_that_was_stored(torn, start, make_counts):
    before = torn.read_bytes()

    renew_if_torn(torn, start)

    with ScanFile.resume(torn) as scan:
        assert [n for n, s in enumerate(scan.ledger.statuses) if s is Status.STORED] == list(
            range(STORED)
        )
        for number in range(STORED):
            np.testing.assert_array_equal(scan.stack.counts[number], make_counts(number))
        scan.write_frame(Frame(STORED, make_counts(STORED)), source="x", time=1.0)
    kept = torn.with_name("f1.h5.damaged-1")
    assert kept.read_bytes() == before
    renew_if_torn(torn, start)
    assert sorted(path.name for path in torn.parent.iterdir()) == ["f1.h5", kept.name]


def test_a_frame_whose_bytes_are_wrong_is_not_taken_over(torn, start):
    with Examiner() as examiner:
        place = examiner.look(torn).chunk(3)
    raw = bytearray(torn.read_bytes())
    raw[place.offset + 20] ^= 1
    torn.write_bytes(raw)

    renew_if_torn(torn, start)

    with ScanFile.open(torn) as scan:
        assert scan.ledger.statuses[3] is Status.MISSING
        assert scan.ledger.reasons[3] == "was stored, was damaged, and x_3 was not there"
        assert scan.ledger.counts()[Status.STORED] == STORED - 1


def test_who_reads_or_writes_a_torn_file_is_told_at_once(torn):
    with ScanFile.open(torn) as scan, pytest.raises(ScanFileError, match="a kill tore a write"):
        scan.stack  # noqa: B018
    with pytest.raises(ScanFileError, match=r"a kill tore a write\noffbragg stack --once"):
        ScanFile.resume(torn)
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


def test_a_whole_file_is_left_alone(tmp_path, start, make_counts):
    with ScanFile.create(tmp_path, start=start) as scan:
        scan.write_frame(Frame(0, make_counts(0)), source="x", time=1.0)
        inode = scan.path.stat().st_ino

        renew_if_torn(scan.path, start)

        assert scan.path.stat().st_ino == inode


def test_what_is_written_with_every_frame_lies_in_one_page(tmp_path, start):
    """Else a kill could tear it: a status, and the header that says how many frames there are."""
    start["sweep"]["n_frames"] = 1000
    with ScanFile.create(tmp_path, start=start) as scan:
        with open_to_read(scan.path) as file:
            status = file[f"{FRAMES}/status"]
            assert status.dtype.itemsize == 8
            assert status.id.get_offset() % 8 == 0
            at = h5py.h5o.get_info(file[DATA].id)
            size = at.hdr.space.total
        assert at.addr // 4096 == (at.addr + size - 1) // 4096
