"""Chunks are read as the bitshuffle filter reads them, and the same at every level."""

from __future__ import annotations

import random
import struct

import bitshuffle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from streams import as_hdf5plugin_reads, chunk_for, generated, real_files

from offbragg import kernels
from offbragg.errors import ScanFileError

INT32 = np.iinfo(np.int32)
SIZES = [1, 3, 7, 8, 9, 40, 64, 136, 1000, 2040, 2047, 2048, 2049, 2056, 4096, 6150]


def of_kind(kind: str, n: int) -> np.ndarray:
    """Counts that need one, two or four bytes, and every kind of repetition."""
    rng = np.random.default_rng(n)
    return {
        "zeros": lambda: np.zeros(n),
        "gap": lambda: np.full(n, -1),
        "few": lambda: rng.poisson(0.1, n),
        "some": lambda: rng.poisson(3.0, n) - (np.arange(n) % 487 < 7),
        "seven bits": lambda: rng.integers(-128, 128, n),
        "eight bits": lambda: rng.integers(0, 256, n),
        "fifteen bits": lambda: rng.integers(-32768, 32768, n),
        "sixteen bits": lambda: rng.integers(0, 65536, n),
        "23 bits": lambda: rng.integers(-(2**23), 2**23, n),
        "24 bits": lambda: rng.integers(0, 2**24, n),
        "bright": lambda: rng.poisson(0.2, n) + 100_000 * (rng.random(n) < 0.002),
        "noise": lambda: rng.integers(INT32.min, INT32.max, n, endpoint=True),
        "limits": lambda: np.resize([INT32.max, INT32.min, -1, 0], n),
        "periodic": lambda: np.arange(n) % 24,
        "long periods": lambda: np.resize(rng.integers(INT32.min, INT32.max, 700), n),
    }[kind]().astype(np.int32)


KINDS = [
    "zeros", "gap", "few", "some", "seven bits", "eight bits", "fifteen bits", "sixteen bits",
    "23 bits", "24 bits", "bright", "noise", "limits", "periodic", "long periods",
]  # fmt: skip


def encoded(counts: np.ndarray) -> np.ndarray:
    return kernels.encode(counts, chunk_for(counts.size)).copy()


def by_the_wheel(counts: np.ndarray, block: int) -> np.ndarray:
    """A chunk as the filter makes it, with blocks of another size."""
    head = struct.pack(">QI", counts.nbytes, 4 * block)
    packed = bitshuffle.compress_lz4(counts.reshape(-1), block)
    return np.concatenate([np.frombuffer(head, np.uint8), packed])


def outcome(chunk: np.ndarray, n: int, level: str, first: int = 0, count: int | None = None):
    """Whether and how a chunk is refused, and all that was written."""
    out = np.full(n if count is None else count, 12345, np.int32)
    try:
        kernels.decode_chunk(chunk, out, pixels=n, first=first, level=level)
    except ScanFileError as error:
        done = int(str(error).partition("after ")[2].split()[0])
        return str(error), out[:done].tobytes()
    return None, out.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", SIZES)
def test_what_was_compressed_comes_back(kind, n):
    counts = of_kind(kind, n)
    chunk = encoded(counts)

    for level in kernels.available():
        out = np.full(n, 7, np.int32)
        kernels.decode_chunk(chunk, out, level=level)
        assert np.array_equal(out, counts), level


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [8, 128, 1000, 2048, 8192, 16384])
def test_blocks_of_any_size_are_read(level, kind, block):
    counts = of_kind(kind, 20_003)
    out = np.empty_like(counts)

    kernels.decode_chunk(by_the_wheel(counts, block), out, level=level)

    np.testing.assert_array_equal(out, counts)


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(
        np.int32,
        st.integers(1, 2600),
        elements=st.integers(INT32.min, INT32.max),
        fill=st.sampled_from([0, -1, 3, 1000, INT32.max]),
    ),
    st.integers(0, 31),
)
def test_any_counts_come_back(counts, down):
    counts = counts >> down
    chunk = encoded(counts)

    for level in kernels.available():
        out = np.empty_like(counts)
        kernels.decode_chunk(chunk, out, level=level)
        np.testing.assert_array_equal(out, counts)


@pytest.mark.parametrize("n", [5, 2048, 2055, 6150])
def test_any_part_is_that_part(level, n):
    counts = of_kind("some", n)
    chunk = encoded(counts)
    rng = random.Random(n)
    for _ in range(60):
        first = rng.randint(0, n)
        count = rng.choice([0, 1, n - first, rng.randint(0, n - first)])
        out = np.full(min(count, n - first), 7, np.int32)

        kernels.decode_chunk(chunk, out, pixels=n, first=first, level=level)

        np.testing.assert_array_equal(out, counts[first : first + out.size])


def test_a_part_does_not_need_the_blocks_beside_it(level):
    counts = of_kind("some", 3 * 2048)
    chunk = encoded(counts)
    second = 16 + int.from_bytes(chunk[12:16], "big")
    chunk[second + 4 : second + 40] = 0xFF  # not LZ4
    out = np.empty(2048, np.int32)

    kernels.decode_chunk(chunk, out, pixels=counts.size, first=4096, level=level)

    np.testing.assert_array_equal(out, counts[4096:])
    with pytest.raises(ScanFileError, match="not LZ4 of its size"):
        kernels.decode_chunk(chunk, np.empty(1, np.int32), pixels=6144, first=2050, level=level)


def test_a_whole_frame_is_read_as_the_filter_reads_it(compiled_level):
    frames = [generated()]
    if real_files():
        import fabio

        frames += [fabio.open(path).data.astype(np.int32) for path in real_files()[::5]]
    for counts in frames:
        chunk, out = encoded(counts), np.empty_like(counts)

        kernels.decode_chunk(chunk, out, level=compiled_level)

        np.testing.assert_array_equal(out, as_hdf5plugin_reads(chunk, counts.shape))
        wheel = bitshuffle.decompress_lz4(chunk[12:], counts.shape, counts.dtype)
        np.testing.assert_array_equal(out, wheel)


@pytest.mark.parametrize("n", [1, 9, 2048, 3000])
def test_a_chunk_that_is_cut_short_or_goes_on_is_refused_alike(n):
    chunk = encoded(of_kind("some", n))
    for size in {*range(0, min(64, chunk.size)), *range(0, chunk.size, 37), chunk.size - 1}:
        cut = chunk[:size].copy()
        expected = outcome(cut, n, "reference")
        assert expected[0] is not None, size
        for level in kernels.available():
            assert outcome(cut, n, level) == expected, (size, level)
    for level in kernels.available():
        with pytest.raises(ScanFileError, match="goes on behind"):
            kernels.decode_chunk(np.append(chunk, np.uint8(0)), np.empty(n, np.int32), level=level)


@pytest.mark.parametrize("kind", ["some", "periodic", "noise", "bright"])
def test_flipped_bytes_are_read_or_refused_alike_at_every_level(kind):
    n = 4613
    right = encoded(of_kind(kind, n))
    rng = random.Random(kind)
    refused = 0
    for _ in range(400):
        chunk = right.copy()
        for _ in range(rng.choice([1, 1, 2, 5])):
            chunk[rng.randrange(12, chunk.size)] = rng.choice([0, 0xFF, rng.randrange(256)])
        expected = outcome(chunk, n, "reference")
        refused += expected[0] is not None
        for level in kernels.available()[:-1]:
            assert outcome(chunk, n, level) == expected, level
    assert 0 < refused < 400


@pytest.mark.parametrize("kind", ["some", "periodic", "noise", "bright", "zeros"])
def test_ten_thousand_flipped_bytes_touch_nothing_outside(kind):
    n, rng = 4613, random.Random(kind)
    right = encoded(of_kind(kind, n))
    room = np.full(n + 64, 0x5A5A5A5A, np.int32)
    for i in range(2000):
        chunk = right.copy()
        for _ in range(1 + i % 3):
            chunk[rng.randrange(chunk.size)] = rng.randrange(256)
        chunk = chunk[: rng.randrange(chunk.size + 1)].copy() if i % 5 == 0 else chunk
        first = rng.choice([0, rng.randrange(n)])
        outcomes = set()
        for level in kernels.available()[:-1]:
            out = room[32 : 32 + n - first]
            try:
                kernels.decode_chunk(chunk, out, pixels=n, first=first, level=level)
                outcomes.add(out.tobytes())
            except ScanFileError as error:
                outcomes.add(str(error))
            assert (room[:32] == 0x5A5A5A5A).all()
            assert (room[32 + n - first :] == 0x5A5A5A5A).all()
            out[:] = 0x5A5A5A5A
        assert len(outcomes) <= 1


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (struct.pack(">QI", 4 * 3000 + 4, 8192), "another number of pixels"),
        (struct.pack(">QI", 2**64 - 1, 8192), "another number of pixels"),
        (struct.pack(">QI", 4 * 3000, 0), "a size that is not read"),
        (struct.pack(">QI", 4 * 3000, 36), "a size that is not read"),
        (struct.pack(">QI", 4 * 3000, 33), "a size that is not read"),
        (struct.pack(">QI", 4 * 3000, 4 * 16384 + 32), "a size that is not read"),
        (struct.pack(">QI", 4 * 3000, 2**32 - 32), "a size that is not read"),
        (struct.pack(">QI", 4 * 3000, 4096), "not LZ4 of its size"),
        (b"", "ends too early"),
        (bytes(11), "ends too early"),
    ],
)
def test_a_wrong_head_is_refused(level, head, match):
    chunk = encoded(of_kind("some", 3000))
    whole = np.concatenate([np.frombuffer(head, np.uint8), chunk[12:]])
    if len(head) < 12:
        whole = whole[: len(head)]

    with pytest.raises(ScanFileError, match=match):
        kernels.decode_chunk(whole, np.empty(3000, np.int32), level=level)


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\x00",
        b"\xf0",  # its length does not end
        b"\xf0" + b"\xff" * 200_000,
        b"\xff" * 3000,
        b"\x10a\x00\x00",  # distance 0
        b"\x10a\x02\x00",  # before the block
        b"\x1fa\x01\x00\xff\xff\xff",
        b"\x1fa\x01\x00" + b"\xff" * 31 + b"\xf0",  # ends with a match
        b"\x1fa\x01\x00" + b"\xff" * 31 + b"\x98" + b"\x00",  # too short
        b"\x1fa\x01\x00" + b"\xff" * 31 + b"\x99",  # too far
        b"\x50abcde\x01\x00\x50",
    ],
)
def test_a_hostile_block_is_refused(level, block):
    chunk = struct.pack(">QI", 8192, 8192) + struct.pack(">I", len(block)) + block

    with pytest.raises(ScanFileError, match="not LZ4 of its size"):
        kernels.decode_chunk(chunk, np.empty(2048, np.int32), level=level)


@pytest.mark.parametrize("distance", range(1, 40))
def test_repeats_at_any_distance(level, distance):
    text = bytes(random.Random(distance).randrange(256) for _ in range(distance))
    planes = (text * 8192)[: 8192 - 5] + b"12345"
    match = 8192 - 5 - distance - 4
    literals = bytes([min(distance, 15) << 4 | 15]) + (
        bytes([distance - 15]) if distance >= 15 else b""
    )
    block = (
        literals + text + struct.pack("<H", distance)
        + b"\xff" * ((match - 15) // 255) + bytes([(match - 15) % 255])
        + b"\x5012345"
    )  # fmt: skip
    chunk = struct.pack(">QII", 8192, 8192, len(block)) + block
    out = np.empty(2048, np.int32)

    kernels.decode_chunk(chunk, out, level=level)

    bits = np.unpackbits(
        np.frombuffer(planes, np.uint8).reshape(32, 256), axis=1, bitorder="little"
    )
    expected = (bits.astype(np.uint32) << np.arange(32, dtype=np.uint32)[:, None]).sum(
        axis=0, dtype=np.uint32
    )
    np.testing.assert_array_equal(out, expected.view(np.int32))


def test_buffers_that_do_not_fit_are_refused(level):
    chunk = encoded(of_kind("some", 64))
    with pytest.raises(ValueError, match="int32 and C-contiguous"):
        kernels.decode_chunk(chunk, np.empty(64, np.uint32), level=level)
    with pytest.raises(ValueError, match="int32 and C-contiguous"):
        kernels.decode_chunk(chunk, np.empty((64, 2), np.int32)[:, 0], level=level)
    for first, count in ((1, 64), (-1, 5), (65, 0)):
        with pytest.raises(ValueError, match=f"has no {count} pixels from {first} on"):
            kernels.decode_chunk(
                chunk, np.empty(count, np.int32), pixels=64, first=first, level=level
            )


def test_the_compiled_module_checks_the_sizes_once_more():
    compiled = pytest.importorskip("offbragg.kernels._kernels")
    chunk = encoded(of_kind("some", 64))
    for level, n, first, out in (
        (0, 63, 0, np.empty(64, np.int32)),
        (0, 64, 1, np.empty(64, np.int32)),
        (0, 64, -1, np.empty(8, np.int32)),
        (0, -1, 0, np.empty(8, np.int32)),
        (0, 1 << 40, 0, np.empty(8, np.int32)),
        (0, 64, 2**62, np.empty(8, np.int32)),
        (99, 64, 0, np.empty(64, np.int32)),
        (0, 64, 0, bytearray(255)),
        (0, 64, 0, memoryview(bytearray(300))[1:257]),
    ):
        with pytest.raises(ValueError):
            compiled.decode_chunk(level, chunk, n, first, out)
