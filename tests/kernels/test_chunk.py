"""Chunks are what hdf5plugin reads, and the same bytes at every level."""

from __future__ import annotations

import threading
import time

import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from streams import as_hdf5plugin_reads, byte_offset, chunk_for, real_files

from offbragg import kernels
from offbragg.errors import RejectedFrame
from offbragg.kernels import reference

INT32 = np.iinfo(np.int32)


def of_kind(kind: str, n: int) -> np.ndarray:
    """Counts that take every way through the compressor."""
    rng = np.random.default_rng(n)
    counts = {
        "zeros": lambda: np.zeros(n),
        "gap": lambda: np.full(n, -1),
        "ones": lambda: np.ones(n),
        "limits": lambda: np.resize([INT32.max, INT32.min, -1, 0], n),
        "ramp": lambda: np.arange(n),
        "few": lambda: rng.poisson(0.1, n),
        "some": lambda: rng.poisson(3.0, n),
        "many": lambda: rng.poisson(300.0, n),
        "noise": lambda: rng.integers(INT32.min, INT32.max, n, endpoint=True),
        "large": lambda: rng.integers(2**30, INT32.max, n),
        "bright": lambda: rng.poisson(0.2, n) + 100_000 * (rng.random(n) < 0.002),
        "columns": lambda: np.where(np.arange(n) % 487 < 7, -1, rng.poisson(1.0, n)),
        "periodic": lambda: np.arange(n) % 24,
        "bits": lambda: 1 << rng.integers(0, 31, n),
        "long periods": lambda: np.resize(rng.integers(INT32.min, INT32.max, 700), n),
    }
    return counts[kind]().astype(np.int32)


KINDS = [
    "zeros", "gap", "ones", "limits", "ramp", "few", "some", "many", "noise", "large", "bright",
    "columns", "periodic", "bits", "long periods",
]  # fmt: skip
SIZES = [1, 3, 7, 8, 9, 16, 40, 64, 120, 128, 136, 1000, 1024, 2040, 2047, 2048, 2049, 2056, 6150]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", SIZES)
def test_every_level_makes_the_chunk_of_the_reference_and_hdf5plugin_reads_it(kind, n):
    counts = of_kind(kind, n)
    expected = kernels.encode(counts, chunk_for(n), level="reference").copy()

    np.testing.assert_array_equal(as_hdf5plugin_reads(expected, counts.shape), counts)
    for level in kernels.available():
        buffer = chunk_for(n)
        chunk = kernels.encode(counts, buffer, level=level)
        assert np.array_equal(chunk, expected), level
        assert chunk.base is buffer


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 9, 2048, 2100, 6150])
@pytest.mark.parametrize("keep", [True, False])
def test_in_one_go_is_one_after_the_other(kind, n, keep):
    counts = of_kind(kind, n)
    stream = byte_offset(counts)
    expected = kernels.encode(counts, chunk_for(n)).copy()

    for level in kernels.available():
        image = np.full(n, 7, np.int32) if keep else None
        chunk = kernels.decode_encode(stream, n, chunk_for(n), image=image, level=level)
        assert np.array_equal(chunk, expected), level
        if image is not None:
            np.testing.assert_array_equal(image, counts)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (195, 487), (3, 1475)])
def test_a_frame_of_any_size_comes_back(level, shape):
    counts = np.random.default_rng(3).poisson(2.0, shape).astype(np.int32)
    counts[0, 0] = -2

    chunk = kernels.encode(counts, chunk_for(counts.size), level=level)

    np.testing.assert_array_equal(as_hdf5plugin_reads(chunk, shape), counts)


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        np.int32,
        st.integers(1, 2600),
        elements=st.integers(INT32.min, INT32.max),
        fill=st.sampled_from([0, -1, 3, 1000, INT32.max]),
    ),
    st.integers(0, 31),
)
def test_any_counts_make_one_chunk_and_come_back(counts, down):
    counts = counts >> down
    expected = kernels.encode(counts, chunk_for(counts.size), level="reference").copy()

    for level in kernels.available():
        chunk = kernels.encode(counts, chunk_for(counts.size), level=level)
        assert np.array_equal(chunk, expected), level
    np.testing.assert_array_equal(as_hdf5plugin_reads(expected, counts.shape), counts)


@pytest.mark.skipif(not real_files(), reason="../shared/data/l-cysteine is not there")
def test_real_frames_come_back_and_take_no_more_room_than_in_hdf5plugins_own_chunks(
    compiled_level,
):
    import fabio

    for path in real_files()[::4]:
        counts = fabio.open(path).data.astype(np.int32)
        chunk = kernels.encode(counts, chunk_for(counts.size), level=compiled_level)
        np.testing.assert_array_equal(as_hdf5plugin_reads(chunk, counts.shape), counts)
        assert chunk.size <= 1.03 * own_size(counts)


def own_size(counts: np.ndarray) -> int:
    import io

    import h5py

    with h5py.File(io.BytesIO(), "w") as file:
        data = file.create_dataset(
            "x", data=counts, chunks=counts.shape,
            **hdf5plugin.Bitshuffle(nelems=0, cname="lz4"),
        )  # fmt: skip
        return data.id.get_chunk_info(0).size


@pytest.mark.parametrize("mean", [0.2, 5, 20, 100, 1000, 20_000])
def test_it_compresses_about_as_well_as_the_filter_itself(mean):
    counts = np.random.default_rng(1).poisson(mean, (300, 1475)).astype(np.int32)
    counts[:, 487:494] = -1

    assert kernels.encode(counts, chunk_for(counts.size)).size <= 1.03 * own_size(counts)


def test_worst_case_is_within_the_bound_and_nothing_is_written_behind_it(compiled_level):
    for n in (8, 2040, 2048, 20_000):
        counts = of_kind("noise", n)
        buffer = np.full(kernels.chunk_bound(n) + 4096, 0xA5, np.uint8)

        chunk = kernels.encode(counts, buffer, level=compiled_level)

        assert chunk.size <= kernels.chunk_bound(n)
        assert (buffer[kernels.chunk_bound(n) :] == 0xA5).all()


def test_bit_planes_are_those_of_the_definition():
    pixels = of_kind("noise", 64)

    planes = reference.bitshuffle(pixels)

    for bit in (0, 7, 8, 31):
        for pixel in (0, 1, 8, 63):
            assert planes[bit, pixel // 8] >> (pixel % 8) & 1 == pixels[pixel] >> bit & 1


def test_buffers_that_do_not_fit_are_refused_before_anything_is_written(level):
    counts = np.zeros((8, 8), np.int32)
    small = np.zeros(kernels.chunk_bound(64) - 1, np.uint8)
    with pytest.raises(ValueError, match="needs a buffer of"):
        kernels.encode(counts, small, level=level)
    with pytest.raises(ValueError, match="needs a buffer of"):
        kernels.decode_encode(bytes(64), 64, small, level=level)
    with pytest.raises(ValueError, match="row of uint8"):
        kernels.encode(counts, np.zeros(100, np.int8), level=level)
    with pytest.raises(ValueError, match="int32 and C-contiguous"):
        kernels.encode(counts.astype(np.uint32), chunk_for(64), level=level)
    with pytest.raises(ValueError, match="int32 and C-contiguous"):
        kernels.encode(counts[:, ::2], chunk_for(64), level=level)
    with pytest.raises(ValueError, match="cannot keep 64"):
        kernels.decode_encode(
            bytes(64), 64, chunk_for(64), image=np.zeros(63, np.int32), level=level
        )
    with pytest.raises(ValueError, match="of -1 pixels"):
        kernels.decode_encode(b"", -1, chunk_for(64), level=level)


def test_the_compiled_module_checks_the_sizes_once_more():
    compiled = pytest.importorskip("offbragg.kernels._kernels")
    for n in (0, 1, 7, 2047, 2048, 2049, 1679 * 1475):
        assert compiled.chunk_bound(n) == kernels.chunk_bound(n)
    for wrong in (
        lambda: compiled.encode(0, np.zeros(8, np.int32), bytearray(100)),
        lambda: compiled.decode_encode(0, bytes(8), 8, bytearray(100), None),
        lambda: compiled.decode_encode(0, bytes(8), -1, bytearray(10_000), None),
        lambda: compiled.decode_encode(0, bytes(8), 1 << 40, bytearray(10_000), None),
        lambda: compiled.decode_encode(0, bytes(8), 8, bytearray(10_000), bytearray(31)),
        lambda: compiled.decode(0, bytes(8), memoryview(bytearray(40))[1:33]),
        lambda: compiled.decode(99, bytes(8), np.zeros(8, np.int32)),
        lambda: compiled.decode(-1, bytes(8), np.zeros(8, np.int32)),
        lambda: compiled.chunk_bound(-1),
        lambda: compiled.chunk_bound(1 << 62),
        lambda: compiled.strips(bytes(8), bytes(8), bytes(16), 0, np.zeros(8, np.int32)),
    ):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises((TypeError, BufferError)):
        compiled.decode(0, bytes(8), bytes(32))  # not writable


def test_a_refused_stream_makes_no_chunk(level):
    with pytest.raises(RejectedFrame, match="ends after 2100 of 3000"):
        kernels.decode_encode(bytes(2100), 3000, chunk_for(3000), level=level)


def test_threads_with_buffers_of_their_own_do_not_meet(compiled_level):
    frames = [of_kind("some", 40_000 + i) for i in range(8)]
    streams = [byte_offset(counts) for counts in frames]
    expected = [kernels.encode(counts, chunk_for(counts.size)).copy() for counts in frames]
    wrong: list[int] = []

    def work(i: int) -> None:
        chunk, image = chunk_for(frames[i].size), np.empty_like(frames[i])
        for _ in range(20):
            made = kernels.decode_encode(
                streams[i], image.size, chunk, image=image, level=compiled_level
            )
            if not (np.array_equal(made, expected[i]) and np.array_equal(image, frames[i])):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(frames))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong


def test_others_run_while_a_kernel_works(compiled_level):
    counts = np.zeros(1 << 24, np.int32)
    chunk, calls, seen = chunk_for(counts.size), [], threading.Event()

    def work() -> None:
        while not seen.is_set():
            began = time.monotonic()
            kernels.encode(counts, chunk, level=compiled_level)
            calls.append((began, time.monotonic()))

    thread = threading.Thread(target=work)
    thread.start()
    ticks, limit = [], time.monotonic() + 20.0
    while not seen.is_set() and time.monotonic() < limit:
        time.sleep(0.0005)
        ticks.append(time.monotonic())
        if any(a + (b - a) / 4 < t < b - (b - a) / 4 for a, b in calls for t in ticks):
            seen.set()
    found = seen.is_set()
    seen.set()
    thread.join()

    assert found, "nothing ran in the middle of a call"
