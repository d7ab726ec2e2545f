from __future__ import annotations

import h5py
import numpy as np
import pytest

from offbragg.errors import ScanFileError
from offbragg.files.superblock import lookup3, read_superblock, release


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file["a"] = np.arange(1000)
    return path


def test_the_checksum_is_the_published_one():
    # from the test driver in Bob Jenkins' lookup3.c
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551


def flagged(path, flags: int) -> bytes:
    raw = bytearray(path.read_bytes())
    raw[11] = flags
    raw[44:48] = lookup3(bytes(raw[:44])).to_bytes(4, "little")
    path.write_bytes(raw)
    return bytes(raw[:48])


def test_a_mark_is_cleared_and_what_was_there_is_kept(path, tmp_path):
    before = flagged(path, 5)
    assert read_superblock(path).writing
    with pytest.raises(OSError, match="already open"):
        h5py.File(path, "r+")

    release(path, keep=tmp_path / "kept")

    assert (tmp_path / "kept").read_bytes() == before
    with h5py.File(path, "r+") as file:
        assert file["a"][999] == 999


def test_what_lies_behind_the_stored_end_survives(path, tmp_path):
    flagged(path, 5)
    with path.open("ab") as file:
        file.write(b"pixels" * 1000)
    size = path.stat().st_size

    release(path, keep=tmp_path / "kept")
    with h5py.File(path, "r+") as file:
        file["b"] = np.arange(5000)

    assert path.read_bytes()[size - 6 : size] == b"pixels"


def test_a_damaged_superblock_is_put_back_from_the_kept_one(path, tmp_path):
    good = flagged(path, 5)
    (tmp_path / "kept").write_bytes(good)
    raw = bytearray(path.read_bytes())
    raw[20] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(ScanFileError, match="checksum is wrong"):
        read_superblock(path)
    with pytest.raises(ScanFileError, match="checksum is wrong"):
        release(path, keep=tmp_path / "nothing")

    release(path, keep=tmp_path / "kept")

    with h5py.File(path) as file:
        assert file["a"][7] == 7
