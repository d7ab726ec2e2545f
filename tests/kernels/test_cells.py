"""Chunks of a volume are what HDF5 reads, with its own checksum, and the same at every level."""

from __future__ import annotations

import io

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offbragg import kernels
from offbragg.errors import ScanFileError
from offbragg.kernels import reference


def of_kind(kind: str, n: int) -> np.ndarray:
    rng = np.random.default_rng(n)
    counts = rng.poisson(3.0, n) * (rng.random(n) > 0.3)
    return {
        "zeros": np.zeros(n),
        "counts": counts.astype(np.float64),
        "weight": rng.random(n),
        "fixed point": np.rint(rng.random(n) * 2**20) / 2**20,
        "signs": rng.normal(size=n),
        "limits": np.resize([np.nan, np.inf, -np.inf, -0.0, 5e-324, 1.8e308], n),
        "intensity": np.where(counts > 0, counts / 7, np.nan).astype(np.float32),
        "integers": rng.integers(-(2**63), 2**63 - 1, n, endpoint=True),
    }[kind]


KINDS = [
    "zeros", "counts", "weight", "fixed point", "signs", "limits", "intensity", "integers",
]  # fmt: skip
SIZES = [1, 7, 8, 9, 64, 128, 504, 512, 1016, 1023, 1024, 1025, 1088, 2048, 2057, 3000]


def room(cells: np.ndarray) -> np.ndarray:
    return np.full(kernels.chunk_bound(cells.nbytes // 4) + 4, 0xA5, np.uint8)


def as_hdf5_reads(chunk: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Read through bitshuffle and Fletcher32, which refuses another checksum."""
    with h5py.File(io.BytesIO(), "w") as file:
        data = file.create_dataset(
            "x", like.shape, like.dtype, chunks=like.shape, fletcher32=True,
            **hdf5plugin.Bitshuffle(cname="lz4"),
        )  # fmt: skip
        data.id.write_direct_chunk((0,) * like.ndim, chunk.tobytes())
        return data[()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", SIZES)
def test_every_level_makes_the_chunk_of_the_reference_and_hdf5_reads_it(kind, n):
    cells = of_kind(kind, n)
    expected = kernels.encode_cells(cells, room(cells), level="reference").copy()

    assert as_hdf5_reads(expected, cells).tobytes() == cells.tobytes()
    for level in kernels.available():
        buffer = room(cells)
        chunk = kernels.encode_cells(cells, buffer, level=level)
        assert np.array_equal(chunk, expected), level
        assert chunk.base is buffer


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 719, 720, 721, 1440, 100_001])
def test_the_checksum_is_hdf5s(size, fill):
    """Of a chunk that only has this filter, which shows what HDF5 computes."""
    rng = np.random.default_rng(size)
    for octets in (rng.integers(0, 256, size, np.uint8), np.full(size, fill, np.uint8)):
        raw = octets.tobytes()
        if size:
            with h5py.File(io.BytesIO(), "w") as file:
                data = file.create_dataset("x", data=octets, chunks=octets.shape, fletcher32=True)
                file.flush()
                stored = data.id.read_direct_chunk((0,))[1]
            assert int.from_bytes(stored[-4:], "little") == reference.fletcher32(raw)
        else:
            assert reference.fletcher32(raw) == 0


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=8, max_size=6000), st.sampled_from([4, 8]), st.integers(1, 5))
def test_any_bytes_make_one_chunk_and_come_back(raw, width, times):
    raw = raw[: len(raw) // width * width] * times
    cells = np.frombuffer(raw, f"u{width}")
    expected = kernels.encode_cells(cells, room(cells), level="reference").copy()

    for level in kernels.available():
        assert np.array_equal(kernels.encode_cells(cells, room(cells), level=level), expected), (
            level
        )
    np.testing.assert_array_equal(as_hdf5_reads(expected, cells), cells)


def test_what_does_not_fit_is_refused(level):
    cells = np.ones(1000)

    with pytest.raises(ValueError, match="needs a buffer"):
        kernels.encode_cells(cells, room(cells)[:-1], level=level)
    with pytest.raises(ValueError, match="4 or 8 bytes"):
        kernels.encode_cells(cells.astype(np.int16), room(cells), level=level)
    with pytest.raises(ValueError, match="4 or 8 bytes"):
        kernels.encode_cells(cells[::2], room(cells), level=level)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", SIZES)
def test_what_was_encoded_is_decoded_whole_or_in_part(kind, n, level):
    cells = of_kind(kind, n)
    chunk = kernels.encode_cells(cells, room(cells))

    for first, stop in {(0, n), (n // 3, n), (n - 1, n), (n // 2, n // 2 + 1), (0, 0)}:
        out = np.full(stop - first, 7, cells.dtype)
        kernels.decode_cells(chunk, out, cells=n, first=first, level=level)
        assert out.tobytes() == cells[first:stop].tobytes()


@pytest.mark.parametrize("block", [0, 8, 64, 128, 2048])
def test_chunks_of_hdf5s_own_filters_are_decoded(level, block):
    cells = of_kind("weight", 3000)
    with h5py.File(io.BytesIO(), "w") as file:
        data = file.create_dataset(
            "x", data=cells, chunks=cells.shape, fletcher32=True,
            **hdf5plugin.Bitshuffle(nelems=block, cname="lz4"),
        )  # fmt: skip
        file.flush()
        chunk = data.id.read_direct_chunk((0,))[1]

    out = np.empty(100)
    kernels.decode_cells(chunk, out, cells=3000, first=1500, level=level)

    np.testing.assert_array_equal(out, cells[1500:1600])


def test_a_damaged_chunk_is_refused_in_the_same_words_at_every_level(level):
    cells = of_kind("counts", 2057)
    chunk = bytearray(kernels.encode_cells(cells, room(cells)))
    out = np.empty(cells.size)

    def refused(damaged: bytes, number: int = cells.size) -> str:
        with pytest.raises(ScanFileError) as error:
            kernels.decode_cells(damaged, out[:number], level=level)
        return str(error.value)

    def with_sum(body: bytes) -> bytes:
        return bytes(body) + reference.fletcher32(bytes(body)).to_bytes(4, "little")

    flipped = chunk.copy()
    flipped[100] ^= 1
    assert "does not have its checksum (after 0 of 2057" in refused(bytes(flipped))
    assert "ends too early" in refused(b"abc")
    assert "ends too early" in refused(with_sum(chunk[:30]))
    assert "goes on behind" in refused(with_sum(chunk[:-4] + b"more"))
    assert "another number" in refused(bytes(chunk), 2056)
    assert "not LZ4" in refused(with_sum(chunk[:16] + bytes(50) + chunk[66:-4]))
    assert "of a size that is not read" in refused(with_sum(chunk[:8] + bytes(4) + chunk[12:-4]))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 60), st.integers(0, 60), st.sampled_from([4, 8]))
def test_any_bytes_are_decoded_or_refused_alike(body, n, first, width):
    head = (width * n).to_bytes(8, "big") + (8192).to_bytes(4, "big")
    chunk = head + body
    chunk += reference.fletcher32(chunk).to_bytes(4, "little")
    first = min(first, n)
    found = set()

    for level in kernels.available():
        out = np.zeros(n - first, f"i{width}")
        try:
            kernels.decode_cells(chunk, out, cells=n, first=first, level=level)
            found.add(out.tobytes())
        except ScanFileError as error:
            found.add(str(error))

    assert len(found) == 1
