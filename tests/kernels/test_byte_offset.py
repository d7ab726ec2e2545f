"""Byte-offset streams come out the same at every level, or are refused for the same reason."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from fabio.compression import compByteOffset, decByteOffset
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import byte_offset, chunk_for, real_files

from offbragg import kernels
from offbragg.errors import RejectedFrame

INT32 = np.iinfo(np.int32)


def verdict(stream: bytes, n: int, level: str, *, fused: bool = False, keep: bool = True):
    """Pixels or the reason why there are none."""
    out = np.full(n, 7, np.int32)
    try:
        if fused:
            kernels.decode_encode(stream, n, chunk_for(n), image=out if keep else None, level=level)
        else:
            kernels.decode(stream, out, level=level)
    except RejectedFrame as error:
        return str(error)
    return out.tolist() if keep else n


def agree(stream: bytes, n: int) -> None:
    expected = verdict(stream, n, "reference")
    for level in kernels.available():
        assert verdict(stream, n, level) == expected, level
        assert verdict(stream, n, level, fused=True) == expected, level
        blind = verdict(stream, n, level, fused=True, keep=False)
        assert blind == (expected if isinstance(expected, str) else n), level


def test_steps_of_every_size_and_sign_are_followed(level):
    small = [0, 127, 0, 128, 0, -127, 0, -128, 32767, 0, 32768, 0, -32768]
    large = [INT32.max, -1, INT32.min, 0, INT32.min, INT32.max, INT32.min, -2, -1, -1]
    counts = np.array([*small, *large], np.int32)
    out = np.empty_like(counts)

    kernels.decode(byte_offset(counts), out, level=level)

    np.testing.assert_array_equal(out, counts)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000, 2049])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("step", [1, 200, 40_000, 1 << 30])
def test_an_escape_may_stand_anywhere(n, where, step):
    counts = np.arange(n, dtype=np.int32) % 50
    counts[{"first": 0, "middle": n // 2, "last": -1}[where]] = step

    agree(byte_offset(counts), n)


@pytest.mark.parametrize("n", [1, 5, 64, 70, 200])
def test_every_place_where_a_stream_can_end_is_found(n):
    counts = np.arange(n, dtype=np.int32)
    counts[-1] = INT32.max
    counts[n // 2] = -70_000
    stream = byte_offset(counts)

    for cut in range(len(stream)):
        agree(stream[:cut], n)
    agree(stream, n)


@pytest.mark.parametrize("surplus", [b"\0", b"\x80", b"\x80\x00\x80\x00", bytes(100)])
def test_bytes_behind_the_last_pixel_are_refused(level, surplus):
    with pytest.raises(RejectedFrame, match="goes on behind the last of 100"):
        kernels.decode(bytes(100) + surplus, np.empty(100, np.int32), level=level)


def test_an_escape_of_64_bits_counts_as_one_step(level):
    wide = b"\x80\x00\x80\x00\x00\x00\x80"
    stream = b"\x05" + wide + struct.pack("<q", -(2**31)) + wide + struct.pack("<q", 2**31)
    out = np.empty(3, np.int32)

    kernels.decode(stream, out, level=level)

    assert out.tolist() == [5, 5 - 2**31, 5]


@pytest.mark.parametrize(
    "stream",
    [
        b"\x80\x00\x80\x00\x00\x00\x80" + struct.pack("<q", 2**31),
        b"\x80\x00\x80\x00\x00\x00\x80" + struct.pack("<q", -(2**63)),
        b"\x80\x00\x80\x00\x00\x00\x80" + struct.pack("<q", 2**63 - 1),
        b"\x80\x00\x80" + struct.pack("<i", 2**31 - 1) + b"\x01",
        b"\x80\x00\x80" + struct.pack("<i", -(2**31) + 1) + b"\xff\xff",
        b"\x80\x00\x80" + struct.pack("<i", 2**31 - 200) + b"\x01" * 300,
    ],
)
def test_a_pixel_beyond_32_bits_is_refused_and_never_wraps(stream):
    n = 400
    stream = stream + bytes(400)

    assert "does not fit in 32 bits" in verdict(stream, n, "reference")
    agree(stream, n)


def test_a_climb_in_single_bytes_to_the_limit_is_followed_and_no_further():
    n = (2**31 - 2**30) // 127 + 1000
    stream = b"\x80\x00\x80" + struct.pack("<i", 2**30 - 1) + b"\x7f" * (n - 1)
    right = (2**31 - 1 - (2**30 - 1)) // 127 + 1
    for level in kernels.available():
        out = np.empty(n, np.int32)
        with pytest.raises(RejectedFrame, match=f"pixel {right} of {n} does not fit"):
            kernels.decode(stream, out, level=level)
        assert out[right - 1] == 2**30 - 1 + 127 * (right - 1)


def test_nothing_is_no_pixel_and_no_pixel_is_nothing(level):
    kernels.decode(b"", np.empty(0, np.int32), level=level)

    with pytest.raises(RejectedFrame, match="ends after 0 of 1"):
        kernels.decode(b"", np.empty(1, np.int32), level=level)


steps = st.one_of(
    st.integers(-127, 127).map(lambda s: struct.pack("<b", s)),
    st.integers(-127, 127).map(lambda s: struct.pack("<b", s) * 70),
    st.integers(-32767, 32767).map(lambda s: b"\x80" + struct.pack("<h", s)),
    st.integers(-(2**31) + 1, 2**31 - 1).map(lambda s: b"\x80\x00\x80" + struct.pack("<i", s)),
    st.integers(-(2**63), 2**63 - 1).map(
        lambda s: b"\x80\x00\x80\x00\x00\x00\x80" + struct.pack("<q", s)
    ),
    st.binary(max_size=40),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=40).map(b"".join), st.integers(0, 2500))
def test_any_bytes_give_the_same_pixels_or_the_same_refusal(stream, n):
    agree(stream, n)


@pytest.mark.parametrize("mean", [0.1, 3, 100, 5000])
def test_it_is_what_fabio_reads(level, mean):
    counts = np.random.default_rng(7).poisson(mean, 4 * 2048 + 77).astype(np.int32)
    counts[100:150] = -1
    stream = bytes(compByteOffset(counts))
    out = np.empty_like(counts)

    kernels.decode(stream, out, level=level)

    np.testing.assert_array_equal(out, decByteOffset(stream, counts.size, "int32"))


@pytest.mark.skipif(not real_files(), reason="../shared/data/l-cysteine is not there")
def test_real_frames_are_what_fabio_reads(level):
    import fabio

    for path in real_files()[:: 1 if level != "reference" else 7]:
        expected = fabio.open(path).data.astype(np.int32)
        text = path.read_bytes()
        start = text.index(b"\x0c\x1a\x04\xd5") + 4
        size = int(text.split(b"X-Binary-Size:")[1].split()[0])
        out = np.empty(expected.shape, np.int32)

        kernels.decode(memoryview(text)[start : start + size], out, level=level)

        np.testing.assert_array_equal(out, expected)
