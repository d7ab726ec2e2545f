"""Frames are what HDF5 reads, whoever decodes them."""

from __future__ import annotations

import threading
import time

import h5py
import hdf5plugin
import numpy as np
import pytest

from offbragg import kernels
from offbragg.errors import ScanFileError
from offbragg.files import frame_chunks
from offbragg.files.direct_chunks import count_chunks, has_chunk
from offbragg.files.frame_chunks import FrameChunks

SHAPE = (61, 203)
OURS = hdf5plugin.Bitshuffle(nelems=0, cname="lz4")
compiled = pytest.mark.skipif(not kernels.compiled, reason="the kernels are not compiled")


def frames_in(path, options, dtype="<i4", chunks=(1, *SHAPE)) -> h5py.Dataset:
    counts = np.random.default_rng(1).poisson(3.0, (3, *SHAPE)).astype(dtype)
    counts[1, 5] = 100_000 % np.iinfo(dtype).max
    file = h5py.File(path, "w")
    data = file.create_dataset("data", data=counts, dtype=dtype, chunks=chunks, **options)
    return data


def read(chunks: FrameChunks, number: int, *part, out=None):
    with chunks.room() as room:
        return chunks.decode(number, *chunks.read(number, room), part, out)


@pytest.fixture
def ours(tmp_path):
    data = frames_in(tmp_path / "x.h5", OURS)
    file = data.file
    yield data
    file.close()


PARTS = [
    (),
    (...,),
    (slice(None), slice(None)),
    (slice(10, 20), slice(100, 130)),
    (slice(10, 20),),
    (..., slice(100, 130)),
    (slice(10, 20), ...),
    (7,),
    (-1, slice(2, 9)),
    (..., 7),
    (7, 9),
    (np.int64(60), -203),
    (slice(3, 50, 7), slice(1, None, 3)),
    (slice(60, 61), slice(202, 203)),
    (slice(-5, 1000), slice(-3, 1000)),
    (slice(0, 61), slice(0, 203)),
]


@compiled
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_any_part_is_the_one_that_hdf5_reads(ours, part, monkeypatch):
    expected = [ours[(number, *part)] for number in range(3)]
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *_: pytest.fail("HDF5 decoded it"))
    chunks = FrameChunks(ours)

    for number in range(3):
        got = read(chunks, number, *part)
        np.testing.assert_array_equal(got, expected[number])
        assert (got.dtype, np.shape(got)) == (np.int32, np.shape(expected[number]))
        assert np.ndim(got) == 0 or (got.flags.c_contiguous and got.base is None)


@compiled
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_it_is_read_into_a_given_buffer(ours, part):
    for order in "CF":
        out = np.full(np.shape(ours[(1, *part)]), 7, np.int32, order=order)

        assert read(FrameChunks(ours), 1, *part, out=out) is out

        np.testing.assert_array_equal(out, ours[(1, *part)])


@pytest.mark.parametrize(
    "part", [([1, 4],), (slice(5, 2),), (slice(None), np.arange(203) % 2 == 0)], ids=str
)
def test_what_only_hdf5_understands_is_left_to_it(ours, part):
    np.testing.assert_array_equal(read(FrameChunks(ours), 1, *part), ours[(1, *part)])


@pytest.mark.parametrize(
    "part",
    [(61,), (slice(None, None, -1),), (..., 203), (..., ...), (1, 2, 3), ("x",)],
    ids=str,
)
def test_what_hdf5_refuses_is_refused_alike(ours, part):
    with pytest.raises(Exception) as by_hdf5:
        ours[(1, *part)]

    with pytest.raises(by_hdf5.type):
        read(FrameChunks(ours), 1, *part)


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, "<i4"),
        (dict(compression="gzip"), "<i4"),
        (dict(compression="gzip", shuffle=True, fletcher32=True), "<i4"),
        (hdf5plugin.Bitshuffle(cname="none"), "<i4"),
        (hdf5plugin.Bitshuffle(cname="lz4", nelems=512), "<i4"),
        (hdf5plugin.Bitshuffle(cname="zstd"), "<i4"),
        (OURS, ">i4"),
        (OURS, "<u2"),
        (OURS, "<i8"),
        (OURS, "<f4"),
    ],
)
def test_frames_of_other_filters_and_types_are_read(tmp_path, options, dtype):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        counts = np.random.default_rng(1).poisson(3.0, (3, *SHAPE)).astype(dtype)
        data = file.create_dataset("x", data=counts, chunks=(1, *SHAPE), **options)

        got = read(FrameChunks(data), 2)

        assert got.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(got, counts[2])
        np.testing.assert_array_equal(read(FrameChunks(data), 0, 3, slice(9)), counts[0, 3, :9])


def test_a_chunk_that_was_written_without_its_filter_is_read(ours, tmp_path):
    plain = np.arange(SHAPE[0] * SHAPE[1], dtype="<i4").reshape(SHAPE)
    ours.id.write_direct_chunk((1, 0, 0), plain.tobytes(), filter_mask=1)
    ours.file.close()  # before, HDF5 does not say so

    with h5py.File(tmp_path / "x.h5") as file:
        np.testing.assert_array_equal(read(FrameChunks(file["data"]), 1), plain)


@compiled
def test_hdf5_has_the_last_word_on_a_chunk_that_the_kernel_refuses(ours, monkeypatch):
    expected = ours[1]
    _, chunk = ours.id.read_direct_chunk((1, 0, 0))
    ours.id.write_direct_chunk((1, 0, 0), chunk + b"and more")  # which the filter does not mind
    refused = []
    decode = kernels.decode_chunk

    def noted(*args, **more):
        try:
            decode(*args, **more)
        except ScanFileError as error:
            refused.append(str(error))
            raise

    monkeypatch.setattr(frame_chunks.kernels, "decode_chunk", noted)

    np.testing.assert_array_equal(read(FrameChunks(ours), 1), expected)
    assert "goes on behind its last pixel" in refused[0]


def test_a_chunk_of_another_size_is_refused_before_it_is_decoded(ours):
    _, chunk = ours.id.read_direct_chunk((1, 0, 0))
    ours.id.write_direct_chunk((1, 0, 0), (2**40).to_bytes(8, "big") + chunk[8:])

    with pytest.raises(ScanFileError, match=r"becomes 1,099,511,627,776 bytes, where 49,532"):
        read(FrameChunks(ours), 1)


def test_lz4_that_cannot_be_decoded_is_an_error_of_hdf5(ours):
    _, chunk = ours.id.read_direct_chunk((1, 0, 0))
    ours.id.write_direct_chunk((1, 0, 0), chunk[:40] + bytes(len(chunk) - 40))

    with pytest.raises((OSError, RuntimeError)):
        read(FrameChunks(ours), 1)


def test_threads_share_it(ours):
    chunks, expected, wrong = FrameChunks(ours), ours[()], []

    def work(number: int) -> None:
        out = np.empty(SHAPE, np.int32)
        for _ in range(100):
            if not np.array_equal(read(chunks, number, out=out), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i % 3,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
    assert len(chunks._free) <= 6


@pytest.mark.parametrize("libver", ["earliest", ("v110", "v110"), "latest"])
@pytest.mark.parametrize("most", [40, None])
def test_frames_that_have_a_chunk_are_known(tmp_path, libver, most):
    with h5py.File(tmp_path / "x.h5", "w", libver=libver) as file:
        shape = {"shape": (40, 4, 8), "maxshape": (most, 4, 8)}
        data = file.create_dataset("x", dtype="<i4", chunks=(1, 4, 8), **shape, **OURS)
        chunks, there = FrameChunks(data), {3, 4, 17, 38}

        def found() -> set[int]:
            with chunks.room() as room:
                read = {n for n in range(40) if chunks.read(n, room) is not None}
            assert read == {n for n in range(40) if has_chunk(data, (n, 0, 0))}
            return read

        assert not found()
        for number in there:
            data[number] = number
        assert found() == there
        data[20] = 20
        assert found() == {*there, 20}


def test_a_frame_is_found_in_the_same_time_whatever_the_number_of_frames(tmp_path):
    """HDF5 would go through all of them: 20 ms for the last one of 100 000."""
    n = 20_000
    with h5py.File(tmp_path / "x.h5", "w", libver=("v110", "v110")) as file:
        data = file.create_dataset("x", (n, 1, 1), "<i4", chunks=(1, 1, 1), maxshape=(n, 1, 1))
        for number in range(n - 1):
            data.id.write_direct_chunk((number, 0, 0), b"\1\0\0\0")

        begun = time.process_time()
        for number in range(n - 10, n):
            has_chunk(data, (number, 0, 0))
        took = time.process_time() - begun
        begun = time.process_time()
        data.id.get_chunk_info_by_coord((n - 2, 0, 0))
        one_by_info = time.process_time() - begun

        assert took < one_by_info
        assert count_chunks(data) == n - 1
