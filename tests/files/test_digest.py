"""What is beside a finished file says what is in it, or is not there."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from offbragg import kernels
from offbragg.errors import ScanFileError
from offbragg.files import ScanFile, scan_writer
from offbragg.files.digest import (
    CLOSED,
    LATER,
    FilePart,
    between,
    crc64_of_parts,
    digest_path,
    has_digest,
    read_digest,
)
from offbragg.files.left_behind import seal
from offbragg.files.scan_writer import ScanWriter
from offbragg.frame import Frame, PackedFrame


def packed(number: int, counts: np.ndarray) -> PackedFrame:
    chunk = kernels.encode(counts, np.empty(kernels.chunk_bound(counts.size), np.uint8))
    return PackedFrame(number, counts.shape, chunk, f"x_{number:05d}.cbf", time=1e9 + number)


def end(scan: ScanWriter) -> Path:
    scan.finish(time=1.8e9, exit_status="success", reason="", summary={})
    return scan.path


@pytest.fixture(params=["one by one", "together"])
def finished(request, tmp_path, start, make_counts) -> Path:
    """Frames 0, 1, 3 and 5 are stored, by either route."""
    scan = ScanWriter.create(tmp_path, start=start)
    if request.param == "together":
        scan.write_frames([packed(n, make_counts(n)) for n in (3, 0, 1, 5)])
    else:
        for number in (3, 0, 1, 5):
            scan.write_frame(Frame(number, make_counts(number)), source="x", time=1.0)
    return end(scan)


def agrees(path: Path) -> bool:
    digest, content = read_digest(path), path.read_bytes()
    assert digest is not None
    return (digest.size, digest.crc64) == (len(content), kernels.crc64(content))


def test_every_chunk_has_its_checksum_in_the_file(finished):
    with h5py.File(finished) as file:
        data, column = file["entry/data/data"], file["entry/frames/crc64"][()]
        chunks = {n: data.id.read_direct_chunk((n, 0, 0))[1] for n in (0, 1, 3, 5)}

    assert column.tolist() == [
        b"%016x" % kernels.crc64(chunks[n]) if n in chunks else b"" for n in range(6)
    ]


def test_the_digest_is_that_of_the_bytes_and_says_whose_they_are(finished, start):
    digest = read_digest(finished)

    assert agrees(finished)
    assert (digest.run, digest.made) == (start["uid"], CLOSED)


def test_the_digest_goes_before_the_file_is_opened_and_comes_back(finished, make_counts):
    scan = ScanWriter.resume(finished)
    assert not has_digest(finished)
    scan.close()
    assert not has_digest(finished)

    with ScanFile.open(finished) as whole:
        seal(whole)
    assert agrees(finished)
    assert read_digest(finished).made == LATER

    late = ScanWriter.resume(finished)
    late.write_frame(Frame(2, make_counts(2)), source="x", time=1.0)
    end(late)
    assert agrees(finished)
    assert read_digest(finished).made == CLOSED


def test_a_chunk_left_by_a_dead_writer_is_covered_too(tmp_path, start, make_counts):
    scan = ScanWriter.create(tmp_path, start=start)
    scan.write_frames([packed(n, make_counts(n)) for n in (0, 1)])
    scan._column("status")[1] = b"pending"
    scan.mark(1, "missing", "gone")

    path = end(scan)

    assert agrees(path)
    with ScanFile.open(path) as back:
        assert [bool(word) for word in back.frame_values()["crc64"]] == [True, *[False] * 5]


def test_a_reader_in_the_same_process_makes_no_difference(tmp_path, start, make_counts):
    scan = ScanWriter.create(tmp_path, start=start)
    scan.write_frame(Frame(0, make_counts(0)), source="x", time=1.0)
    with ScanFile.open(scan.path) as reader:
        path = end(scan)
        assert reader.complete
        assert agrees(path)

    assert agrees(path)


def test_a_digest_that_cannot_be_written_is_an_error_and_made_later(
    tmp_path, start, make_counts, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    scan = ScanWriter.create(tmp_path, start=start)
    scan.write_frame(Frame(0, make_counts(0)), source="x", time=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(scan_writer, "write_digest", full)
        with pytest.raises(ScanFileError, match="No space left"):
            end(scan)
    scan.close()

    assert not has_digest(scan.path)
    with ScanFile.open(scan.path) as whole:
        assert whole.complete
        seal(whole)
    assert agrees(scan.path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f1.h5", "f1.h5.digest"]


def test_only_a_finished_file_without_a_writer_is_sealed(tmp_path, start):
    with (
        ScanWriter.create(tmp_path, start=start) as scan,
        ScanFile.open(scan.path) as other,
        pytest.raises(ScanFileError, match="being written"),
    ):
        seal(other)
    with ScanFile.open(scan.path) as other, pytest.raises(ScanFileError, match="not finished"):
        seal(other)


def test_a_file_of_before_there_were_checksums_goes_on_without(tmp_path, start, make_counts):
    with ScanWriter.create(tmp_path, start=start) as scan:
        path = scan.path
    with h5py.File(path, "r+", libver=("v110", "v110")) as file:
        del file["entry/frames/crc64"], file["entry/frames"].attrs["columns"]

    scan = ScanWriter.resume(path)
    scan.write_frame(Frame(0, make_counts(0)), source="x", time=1.0)
    scan.write_frames([packed(2, make_counts(2))])
    end(scan)

    assert agrees(path)
    with ScanFile.open(path) as back:
        assert "crc64" not in back.frame_values()
        np.testing.assert_array_equal(back.stack.counts[2], make_counts(2))


def test_every_changed_byte_of_a_digest_is_seen(finished):
    beside = digest_path(finished)
    content = beside.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        beside.write_bytes(changed)
        with pytest.raises(ScanFileError, match=r"f1\.h5\.digest is damaged"):
            read_digest(finished)
    for cut in (0, 1, len(content) // 2, len(content) - 1):
        beside.write_bytes(content[:cut])
        with pytest.raises(ScanFileError, match="is damaged"):
            read_digest(finished)


@pytest.mark.parametrize("threads", [1, 3])
def test_parts_are_read_at_their_places(tmp_path, threads):
    content = os.urandom(30_000_000)
    path = tmp_path / "x"
    path.write_bytes(content)
    parts = between([FilePart(n * 1_000_003, 900_000 + n) for n in range(29)], len(content))
    reports: list[tuple[int, int]] = []

    crcs = crc64_of_parts(path, parts, threads=threads, progress=lambda *now: reports.append(now))

    assert crcs == [kernels.crc64(content[p.offset : p.offset + p.size]) for p in parts]
    assert sum(part.size for part in parts) == len(content)
    assert reports[-1] == (len(content), len(content))


def test_a_file_that_is_shorter_than_its_parts_is_an_error(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(100))

    with pytest.raises(ScanFileError, match="it ends at byte 100"):
        crc64_of_parts(path, [FilePart(0, 200)])
