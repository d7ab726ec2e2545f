"""The pool judges every file as the library route does, and keeps nothing."""

from __future__ import annotations

import bz2
import gzip
import os
import struct
import threading
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import tifffile
from runs import SHAPE, counts_of

from offbragg import kernels
from offbragg.errors import FrameError, RejectedFrame
from offbragg.files import read_frame
from offbragg.files.frame_pool import BATCH, FramePool, Judged, _Reader, _Slab
from offbragg.files.scan_layout import unpack
from sim_iocs.cbf import encode_cbf
from sim_iocs.tiff import encode_tiff

pytestmark = pytest.mark.skipif(not kernels.compiled, reason="the kernels are not compiled")


@pytest.fixture
def pool():
    made = FramePool(SHAPE, threads=2)
    yield made
    made.close()


def judge(pool: FramePool, paths) -> dict[int, tuple[Judged, np.ndarray | None]]:
    """What the pool says of each file, and the counts where there is a frame."""
    found = {}
    for number, path in enumerate(paths):
        pool.offer(number, path)
        while pool.full:
            found |= take(pool)
    pool.send()
    while len(pool):
        found |= take(pool)
    return found


def take(pool: FramePool):
    with pool.take(10.0) as judged:
        assert judged
        return {j.number: (j, j.frame and unpack(j.frame.chunk, j.frame.shape)) for j in judged}


def cbf(number: int) -> bytes:
    return encode_cbf(counts_of(number), name=f"x_{number:05d}", header=["Exposure_time 0.1 s"])


DAMAGE = {
    "none": lambda b: b,
    "empty": lambda b: b"",
    "five bytes": lambda b: b[:5],
    "no CBF": lambda b: b"GIF89a" + b[6:],
    "only its header": lambda b: b[: b.index(b"\x0c\x1a\x04\xd5")],
    "no starter": lambda b: b.replace(b"\x0c\x1a\x04\xd5", b"...."),
    "cut in the pixels": lambda b: b[:20_000],
    "cut behind the pixels": lambda b: b[: b.index(b"--CIF-BINARY-FORMAT-SECTION----")],
    "cut and wrong": lambda b: b[: b.index(b"--CIF-BINARY-FORMAT-SECTION----")].replace(
        b"\x02\x01", b"\x01\x02"
    ),
    "a flipped bit": lambda b: b[:-6000] + bytes([b[-6000] ^ 16]) + b[-5999:],
    "no checksum": lambda b: b.replace(b"Content-MD5", b"Content-MDx"),
    "no checksum, no end": lambda b: b[: b.index(b"--CIF-BINARY-FORMAT-SECTION----")].replace(
        b"Content-MD5", b"Content-MDx"
    ),
    "no checksum, no pixels": lambda b: b.replace(b"Content-MD5", b"Content-MDx").replace(
        b"X-Binary-Size: ", b"X-Binary-Size: 9"
    ),
    "a checksum that is none": lambda b: b.replace(b"Content-MD5: ", b"Content-MD5: ?"),
    "another shape": lambda b: b.replace(b"Dimension: 487", b"Dimension: 486"),
    "more pixels": lambda b: b.replace(b"Elements: 94965", b"Elements: 94966"),
    "another compression": lambda b: b.replace(b"x-CBF_BYTE_OFFSET", b"x-CBF_PACKED"),
}


PACKING = ((".gz", gzip.compress), (".bz2", bz2.compress))
PACKED_DAMAGE = {
    "whole": lambda packed, pack: packed,
    "in two members": lambda packed, pack: pack(cbf(1)[:7000]) + pack(cbf(1)[7000:]),
    "cut short": lambda packed, pack: packed[:-20],
    "empty": lambda packed, pack: b"",
    "not packed": lambda packed, pack: cbf(1),
    "a flipped bit": lambda packed, pack: (
        packed[:9000] + bytes([packed[9000] ^ 16]) + packed[9001:]
    ),
    "a bomb": lambda packed, pack: pack(bytes(4 << 20)),
    "a bomb with a header": lambda packed, pack: pack(b"###CBF" + bytes(4 << 20)),
    "a bomb behind a frame": lambda packed, pack: pack(cbf(1) + bytes(4 << 20)),
    "a bomb of members": lambda packed, pack: packed + 64 * pack(bytes(1 << 16)),
    "a bomb as promised": lambda packed, pack: pack(
        cbf(1).replace(b"X-Binary-Size: ", b"X-Binary-Size: 9") + bytes(4 << 20)
    ),
}
UNUSUAL = {
    "deflated": {"compression": "zlib", "predictor": True},
    "in tiles": {"tile": (64, 64)},
    "big": {"bigtiff": True},
}


def test_every_damage_is_judged_as_by_the_library_route(pool, tmp_path):
    paths = []
    for number, (what, damage) in enumerate(DAMAGE.items()):
        paths.append(tmp_path / f"{what}.cbf")
        paths[-1].write_bytes(damage(cbf(number)))
        packing, pack = PACKING[number % 2]
        paths.append(tmp_path / f"{what}.cbf{packing}")
        paths[-1].write_bytes(pack(damage(cbf(number))))
    for what, damage in PACKED_DAMAGE.items():
        for packing, pack in PACKING:
            paths.append(tmp_path / f"{what}.cbf{packing}")
            paths[-1].write_bytes(damage(pack(cbf(1)), pack))
    for what, options in UNUSUAL.items():
        paths.append(tmp_path / f"{what}.tif")
        tifffile.imwrite(paths[-1], np.abs(counts_of(1)).astype("u2"), metadata=None, **options)
    paths.append(tmp_path / "packed.tiff.gz")
    paths[-1].write_bytes(gzip.compress(encode_tiff(counts_of(1), model="", header=[], taken=0.0)))
    paths += [tmp_path / "not there.cbf", tmp_path / "x.png", tmp_path / "not there.cbf.gz"]

    judged = judge(pool, paths)

    assert sorted(judged) == list(range(len(paths)))
    for number, path in enumerate(paths):
        (verdict, counts), error = judged[number], None
        try:
            frame = read_frame(path, number=number, shape=SHAPE)
        except (FrameError, OSError) as refused:
            error = refused
        if error is not None:
            assert type(verdict.error) is type(error), path.name
            assert str(verdict.error) == str(error)
            continue
        assert verdict.frame is not None, verdict.error
        assert (verdict.frame.verified, verdict.frame.md5) == (frame.verified, frame.md5)
        np.testing.assert_array_equal(counts, frame.counts)
    good = 2 * 3 + 2 * 2 + len(UNUSUAL) + 1
    assert sum(verdict.frame is not None for verdict, _ in judged.values()) == good


def test_a_stream_that_does_not_decode_is_refused_by_name(pool, tmp_path):
    path = tmp_path / "x_00000.cbf"
    content = cbf(0).replace(b"Content-MD5", b"Content-MDx")
    start = content.index(b"\x0c\x1a\x04\xd5") + 4
    path.write_bytes(content[:start] + b"\x80" * 90_000 + content[start + 90_000 :])

    ((verdict, _),) = judge(pool, [path]).values()

    assert isinstance(verdict.error, RejectedFrame)
    assert str(verdict.error).startswith("frame 0: x_00000.cbf does not decode to the 94965")


def strips(counts: np.ndarray, order: str) -> bytes:
    """A TIFF file of two strips, the second one first."""
    half = counts.shape[0] // 2
    second = counts[half:].astype(f"{order}i4").tobytes()
    first = counts[:half].astype(f"{order}i4").tobytes()
    at = 8 + 2 + 6 * 12 + 4
    values = at + 16
    tags = [
        (256, 1, counts.shape[1]), (257, 1, counts.shape[0]), (258, 1, 32), (259, 1, 1),
        (273, 2, at), (279, 2, at + 8),
    ]  # fmt: skip
    return (
        (b"II*\0" if order == "<" else b"MM\0*")
        + struct.pack(f"{order}IH", 8, len(tags))
        + b"".join(struct.pack(f"{order}HHII", tag, 4, n, value) for tag, n, value in tags)
        + struct.pack(f"{order}IIIII", 0, values + len(second), values, len(first), len(second))
        + second
        + first
    )


def test_tiff_files_of_either_byte_order_and_of_several_strips(pool, tmp_path):
    content = [
        encode_tiff(counts_of(0), model="test", header=["Exposure_time 0.1 s"], taken=0.0),
        strips(counts_of(1), "<"),
        strips(counts_of(2), ">"),
        strips(counts_of(3), ">")[:-100_000],
        cbf(4),
    ]
    paths = [tmp_path / f"x_{n}.{'cbf' if n == 4 else 'tif'}" for n in range(len(content))]
    for path, text in zip(paths, content, strict=True):
        path.write_bytes(text)

    judged = judge(pool, paths)

    for number in (0, 1, 2, 4):
        verdict, counts = judged[number]
        assert verdict.frame is not None, verdict.error
        assert verdict.frame.verified is (number == 4)
        np.testing.assert_array_equal(counts, counts_of(number))
    assert "Exposure_time" in judged[0][0].frame.text
    assert "x_3.tif has" in str(judged[3][0].error)


def descriptors_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_buffers_descriptors_and_threads_are_those_of_the_first_batches(tmp_path):
    paths = [tmp_path / f"x_{n:05d}.cbf" for n in range(3 * BATCH + 5)]
    for number, path in enumerate(paths):
        path.write_bytes(cbf(number))
    threads, descriptors = threading.active_count(), descriptors_open()
    pool = FramePool(SHAPE, threads=2)

    for _ in range(3):
        judged = judge(pool, paths)
        for number in range(len(paths)):
            np.testing.assert_array_equal(judged[number][1], counts_of(number))
        assert threading.active_count() <= threads + 2
        assert descriptors_open() == descriptors
        assert pool._slabs.qsize() <= 2 + 2 + 2

    for number, path in enumerate(paths):
        pool.offer(number, path)  # and not taken
    pool.close()
    assert threading.active_count() == threads


def test_chunks_of_any_size_find_room_that_is_there():
    largest = kernels.chunk_bound(1000 * 1000)
    slab = _Slab(largest)
    for batch in range(20):
        slab.clear()
        for n in range(BATCH):
            slab.cut(largest // 2 + 64 * (BATCH * batch + n))

    assert len(slab._blocks) <= BATCH


def test_pieces_begin_where_the_kernel_copies_to_fast():
    slab = _Slab(1000)

    pieces = [slab.cut(size) for size in (1, 31, 64, 100, 1000)]

    starts = [piece.ctypes.data for piece in pieces]
    assert [start % 64 for start in starts] == [0] * 5
    ends = [start + piece.size for start, piece in zip(starts, pieces, strict=True)]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


def test_a_thread_without_memory_says_so(pool, monkeypatch, tmp_path):
    def no_memory(_: int) -> int:
        raise MemoryError("no room for a chunk")

    (tmp_path / "x_0.cbf").write_bytes(cbf(0))
    monkeypatch.setattr("offbragg.kernels.chunk_bound", no_memory)
    pool.offer(0, tmp_path / "x_0.cbf")
    pool.send()

    with pytest.raises(MemoryError, match="no room for a chunk"), pool.take(10.0):
        pass


def test_what_is_no_file_keeps_no_thread_waiting(pool, tmp_path):
    os.mkfifo(tmp_path / "x_0.cbf")
    (tmp_path / "x_1.cbf").mkdir()
    (tmp_path / "x_2.cbf").write_bytes(cbf(2))

    found = judge(pool, [tmp_path / f"x_{n}.cbf" for n in range(3)])

    assert "is not a file" in str(found[0][0].error)
    assert found[1][0].error is not None
    np.testing.assert_array_equal(found[2][1], counts_of(2))


def test_of_a_file_that_goes_on_behind_its_pixels_no_more_is_read_than_it_promises(tmp_path):
    with (tmp_path / "x_0.cbf").open("wb") as file:
        file.write(cbf(0))
        file.truncate(1 << 30)
    reader = _Reader(SHAPE)

    file, _ = reader._read(tmp_path / "x_0.cbf", "x")

    assert len(cbf(0)) < len(file) < len(cbf(0)) + 20_000
    assert reader._files._used <= 1 << 20


def test_the_last_frames_are_shared_among_the_threads(tmp_path):
    pool = FramePool(SHAPE, threads=2)
    pool._todo.extend((number, tmp_path / f"x_{number}.cbf") for number in range(3 * BATCH))

    shares = []
    while pool._todo:
        shares.append([number for number, _ in pool._next_jobs()])

    assert [len(share) for share in shares] == [BATCH, BATCH, 8, 4, 4]
    assert list(chain.from_iterable(shares)) == list(range(3 * BATCH))
