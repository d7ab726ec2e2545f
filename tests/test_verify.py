"""One changed byte anywhere is found, and nothing that a file says brings `verify` down."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from runs import MeasuredRun, counts_of

from offbragg.errors import CatalogError, ScanFileError
from offbragg.files import ScanFile, examine, find_scan_file
from offbragg.files.digest import digest_path, read_digest
from offbragg.files.examine import Examiner
from offbragg.files.journal_folder import journals
from offbragg.files.journal_line import decode_line, encode_line
from offbragg.files.scan_folders import scan_directory
from offbragg.files.scan_writer import ScanWriter
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from offbragg.frame import Frame
from offbragg.recovery import verify as audit
from offbragg.recovery.verify import verify
from sim_iocs.cbf import encode_cbf

FRAMES = 10


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> MeasuredRun:
    """A finished sweep of ten frames, of which frame 4 never came."""
    run = MeasuredRun(tmp_path_factory.mktemp("measured"), n_frames=FRAMES)
    run.begin()
    run.write(*(n for n in range(FRAMES) if n != 4))
    run.announce(FRAMES)
    run.end()
    run.journal.close()
    assert not any(
        follow(run.journal_directory, [Stacker(run.experiment, late=0.1)], once=True).values()
    )
    return run


@pytest.fixture(scope="module")
def examiner() -> Iterator[Examiner]:
    with Examiner(patience=20.0) as one:
        yield one


@pytest.fixture
def copy(measured, tmp_path) -> Path:
    """The scan file and its digest, to be damaged."""
    path = find_scan_file(scan_directory(measured.experiment, measured.start), measured.uid)
    assert path is not None
    for each in (path, digest_path(path)):
        shutil.copy(each, tmp_path)
    return tmp_path / path.name


def chunks_of(path: Path) -> dict[int, range]:
    with h5py.File(path) as file:
        data = file["entry/data/data"]
        places = [data.id.get_chunk_info(i) for i in range(data.id.get_num_chunks())]
    return {p.chunk_offset[0]: range(p.byte_offset, p.byte_offset + p.size) for p in places}


def columns_of(path: Path) -> dict[str, range]:
    """Where the columns are, which HDF5 keeps without any checksum."""
    places = {}
    with h5py.File(path) as file:
        for name, column in file["entry/frames"].items():
            at = column.id.get_offset()
            places[name] = range(at, at + column.id.get_storage_size())
    return places


def sweep(path: Path, examiner: Examiner, places: list[int], flips: random.Random) -> None:
    """Change one byte at each place, and verify."""
    chunks = chunks_of(path)
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            right = file.read(1)
            wrong = bytes([right[0] ^ flips.randint(1, 255)])
            os.pwrite(file.fileno(), wrong, place)
            verdict = verify(path, examiner=examiner)
            os.pwrite(file.fileno(), right, place)

            assert not verdict.ok, f"byte {place} was changed from {right} to {wrong}"
            frame = [number for number, chunk in chunks.items() if place in chunk]
            assert set(frame) <= set(verdict.differ), (place, verdict.problems)
            for number in frame:
                assert any(p.startswith(f"frame {number} ") for p in verdict.problems)
    assert verify(path, examiner=examiner).ok


SLOW = [pytest.mark.slow, pytest.mark.timeout(1800)]


def some_places(path: Path, n: int, seed: int) -> list[int]:
    """Random ones, every byte of the superblock, and some of every part of the structure."""
    chance, size = random.Random(seed), path.stat().st_size
    chunks, columns = chunks_of(path), columns_of(path)
    places = [*range(48), size - 1]
    for part in (*chunks.values(), *columns.values()):
        places += [part[0], part[-1], chance.choice(part)]
    outside = [b for b in range(size) if not any(b in chunk for chunk in chunks.values())]
    places += chance.sample(outside, (n - len(places)) // 2)
    raw = path.read_bytes()
    for mark in (b"OHDR", b"OCHK", b"FRHP", b"FHDB", b"BTHD", b"BTLF", b"EAHD", b"EAIB", b"EADB"):
        at = raw.find(mark)
        while at >= 0 and len(places) < n:
            places.append(at + chance.randrange(40))
            at = raw.find(mark, at + 200 + chance.randrange(2000))
    return places[:n] + [chance.randrange(size) for _ in range(n - len(places))]


@pytest.mark.parametrize("n", [170, *(pytest.param(n, marks=SLOW) for n in (500, 10_000))])
def test_one_changed_byte_is_found_wherever_it_is(copy, examiner, n):
    places = some_places(copy, n, seed=5)
    assert len(places) == n

    sweep(copy, examiner, places, random.Random(6))


def test_a_changed_checksum_is_distinguished_from_changed_pixels(copy, examiner):
    at = columns_of(copy)["crc64"][16 * 7]
    raw = bytearray(copy.read_bytes())
    raw[at] = ord("0") if raw[at] != ord("0") else ord("1")
    copy.write_bytes(raw)

    verdict = verify(copy, examiner=examiner)

    assert verdict.differ == [7]
    assert any(p.startswith("frame 7 has its pixels") for p in verdict.problems)


def test_without_a_digest_the_frames_are_compared_all_the_same(copy, examiner):
    digest_path(copy).unlink()
    assert verify(copy, examiner=examiner).ok
    assert "it has no digest" in verify(copy, examiner=examiner).notes[0]

    raw = bytearray(copy.read_bytes())
    raw[chunks_of(copy)[3][100]] ^= 1
    copy.write_bytes(raw)

    assert verify(copy, examiner=examiner).differ == [3]


def test_a_damaged_digest_is_reported(copy, examiner):
    beside = digest_path(copy)
    beside.write_bytes(beside.read_bytes().replace(b'"size": ', b'"size":  '))

    verdict = verify(copy, examiner=examiner)

    assert verdict.digest == "damaged"
    assert len(verdict.problems) == 1
    assert verdict.checked == FRAMES - 1


@pytest.mark.parametrize("left", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_reported_with_what_is_left_of_it(copy, examiner, left):
    size = copy.stat().st_size
    os.truncate(copy, int(left * size))

    verdict = verify(copy, examiner=examiner)

    assert verdict.problems
    assert verdict.run == read_digest(copy).run
    digest_path(copy).unlink()
    with contextlib.suppress(ScanFileError):  # nothing says that it ever was one
        assert not verify(copy, examiner=examiner).ok


WITHOUT_RIGHTS = """
import os, sys
from pathlib import Path
from offbragg.recovery.verify import verify
from offbragg.errors import ScanFileError
if os.geteuid() == 0:  # who may read everything
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    verify(Path(sys.argv[1]))
except ScanFileError as error:
    print(error)
"""


def test_a_file_that_may_not_be_read_is_reported(copy):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are for one user only
        Path(folder).chmod(0o755)
        path = Path(shutil.copy(copy, folder))
        path.chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_RIGHTS, str(path)],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip

    assert f"{path} cannot be read: Permission denied" in done.stdout


def test_whoever_reads_a_damaged_file_may_die_and_the_next_one_is_read(copy, monkeypatch):
    script = "import sys, os, signal; sys.stdin.readline(); os.kill(os.getpid(), signal.SIGSEGV)"
    popen = subprocess.Popen
    with Examiner() as examiner:
        with monkeypatch.context() as patch:
            patch.setattr(
                examine.subprocess,
                "Popen",
                lambda _, **o: popen([sys.executable, "-c", script], **o),
            )
            verdict = verify(copy, examiner=examiner)
        assert "HDF5 did not survive it (SIGSEGV)" in verdict.problems[-1]
        assert verdict.digest == "agrees"
        assert verify(copy, examiner=examiner).ok


def test_whoever_hangs_in_a_damaged_file_is_ended(copy, monkeypatch):
    script = "import time; time.sleep(100)"
    popen = subprocess.Popen
    monkeypatch.setattr(
        examine.subprocess, "Popen", lambda _, **o: popen([sys.executable, "-c", script], **o)
    )
    with Examiner(patience=0.3) as examiner:
        verdict = verify(copy, examiner=examiner)

    assert "did not get through it in 0.3 s" in verdict.problems[-1]


def test_a_file_that_grows_is_verified_as_far_as_it_is(tmp_path, start_of_ten, examiner):
    with ScanWriter.create(tmp_path, start=start_of_ten) as scan:
        for number in (0, 1, 3):
            scan.write_frame(Frame(number, counts_of(number)), source="x", time=1.0)
        verdict = verify(scan.path, examiner=examiner)

        assert verdict.checked == 3
        assert verdict.problems == ["the sweep is being stacked: 7 of 10 frames are pending"]
        assert verdict.digest == "not yet"


@pytest.fixture
def start_of_ten(measured):
    return measured.start


def test_a_link_to_elsewhere_is_reported(copy, examiner):
    with h5py.File(copy, "r+", libver=("v110", "v110")) as file:
        file["entry/elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")

    assert "/entry/elsewhere is a link to elsewhere: a scan file has none" in (
        verify(copy, examiner=examiner).problems
    )


# ---- what else says what is in it ------------------------------------------------------------


def test_frame_files_are_compared_as_far_as_they_are_there(measured, copy, examiner):
    kept = {n: measured.path(n).read_bytes() for n in (2, 5)}
    try:
        measured.path(2).unlink()
        measured.path(5).write_bytes(encode_cbf(counts_of(77), name="x", header=["test"]))
        verdict = verify(copy, journal=measured.journal_directory, examiner=examiner)
        deep = verify(copy, journal=measured.journal_directory, examiner=examiner, deep=True)
    finally:
        for number, content in kept.items():
            measured.path(number).write_bytes(content)

    assert verdict.sources == {"there": 8, "gone": 1}
    assert "1 of 9 frame files are gone, and were not compared" in verdict.notes
    assert verdict.problems == [
        "frame 5 differs from its frame file: x_00005.cbf declares another MD5"
    ]
    assert deep.problems == ["frame 5 differs from its frame file: x_00005.cbf has other pixels"]
    assert verify(copy, journal=measured.journal_directory, examiner=examiner, deep=True).ok


def test_a_flipped_bit_of_a_frame_file_is_found_deep(measured, copy, examiner):
    right = measured.path(3).read_bytes()
    measured.path(3).write_bytes(right[:-6000] + bytes([right[-6000] ^ 16]) + right[-5999:])
    try:
        (problem,) = verify(
            copy, journal=measured.journal_directory, examiner=examiner, deep=True
        ).problems
    finally:
        measured.path(3).write_bytes(right)

    assert "does not have the checksum that it declares" in problem


def test_an_end_that_the_journal_does_not_know_is_found(measured, copy, examiner, tmp_path):
    (path,) = journals(measured.journal_directory)
    other = tmp_path / "journal"
    other.mkdir()
    *lines, stop = path.read_bytes().splitlines(keepends=True)
    name, doc = decode_line(stop.rstrip(b"\n"))
    stop = encode_line(name, doc | {"exit_status": "abort"})
    (other / path.name).write_bytes(b"".join([*lines, stop]))

    (problem,) = verify(copy, journal=other, examiner=examiner).problems

    assert problem == "the journal says that the run ended with 'abort', the file says 'success'"


def test_a_catalog_that_is_away_is_noted_and_not_a_problem(copy, examiner):
    def away():
        raise CatalogError("the catalog at http://127.0.0.1:1 did not answer\nIs it running?")

    verdict = verify(copy, catalog=away, examiner=examiner)

    assert verdict.ok
    assert verdict.catalog.startswith("not compared: the catalog at http://127.0.0.1:1 did not")


def test_a_file_of_before_there_were_checksums_is_verified_by_its_pixels(copy, examiner):
    digest_path(copy).unlink()
    with h5py.File(copy, "r+", libver=("v110", "v110")) as file:
        del file["entry/frames/crc64"], file["entry/frames"].attrs["columns"]
        frame = file["entry/data/data"][6]
        frame[0, 1] += 1
        file["entry/data/data"][6] = frame

    verdict = verify(copy, examiner=examiner)

    assert verdict.differ == [6]
    assert verdict.checked == 9
    assert "by a version without stored checksums" in verdict.notes[0]


def test_it_is_read_once_more_if_a_late_frame_came_meanwhile(measured, copy, examiner, monkeypatch):
    calls = []
    read = audit.crc64_of_parts

    def slow(path, parts, **options):
        calls.append(path)
        if len(calls) == 1:
            scan = ScanWriter.resume(copy)
            scan.write_frame(Frame(4, counts_of(4)), source="x", time=time.time())
            scan.finish(time=time.time(), exit_status="success", reason="", summary={})
        return read(path, parts, **options)

    monkeypatch.setattr(audit, "crc64_of_parts", slow)

    verdict = verify(copy, examiner=examiner)

    assert verdict.ok, verdict.problems
    assert len(calls) == 2
    assert verdict.frames["stored"] == 10
    assert np.array_equal(ScanFile.open(copy).stack.counts[4], counts_of(4))
