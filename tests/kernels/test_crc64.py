"""CRC-64/XZ is what xz itself writes."""

from __future__ import annotations

import lzma

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offbragg import kernels

SIZES = [1, 7, 8, 9, 16, 127, 128, 129, 255, 256, 257, 511, 512, 513, 767, 768, 1024, 5001, 100_003]


def by_xz(data: bytes) -> int:
    """The check that liblzma puts behind the only block of an .xz file."""
    packed = lzma.compress(data, check=lzma.CHECK_CRC64, preset=0)
    index = (int.from_bytes(packed[-8:-4], "little") + 1) * 4
    return int.from_bytes(packed[-20 - index : -12 - index], "little")


def test_the_published_check_value(level):
    assert kernels.crc64(b"123456789", level=level) == 0x995DC9BBDF1939FA
    assert kernels.crc64(b"", level=level) == 0


@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_check_of_xz(level, size):
    data = np.random.default_rng(size).bytes(size)

    assert kernels.crc64(data, level=level) == by_xz(data)
    assert kernels.crc64(memoryview(data)[1:], level=level) == kernels.crc64(data[1:])


@pytest.mark.parametrize("size", SIZES)
def test_parts_give_the_whole(level, size):
    data = np.random.default_rng(size).bytes(size)
    whole = kernels.crc64(data, level=level)
    for cut in {0, 1, size // 3, size - 1, size}:
        first, second = data[:cut], data[cut:]
        before = kernels.crc64(first, level=level)

        assert kernels.crc64(second, before, level=level) == whole
        after = kernels.crc64(second, level=level)
        assert kernels.crc64_combine(before, after, len(second), level=level) == whole


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=1500), st.integers(0, 2**64 - 1))
def test_any_bytes_behind_any_others(data, before):
    expected = kernels.crc64(data, before, level="reference")

    for level in kernels.available():
        assert kernels.crc64(data, before, level=level) == expected


def test_every_changed_byte_is_seen(level):
    data = bytearray(np.random.default_rng(0).bytes(1000))
    right = kernels.crc64(data, level=level)
    for place in range(0, 1000, 37):
        for flip in (1, 0x80, 0xFF):
            data[place] ^= flip
            assert kernels.crc64(data, level=level) != right
            data[place] ^= flip


@pytest.mark.parametrize("length", [0, 1, 1 << 20, (1 << 32) + 1, (1 << 62) + 12345])
def test_a_part_may_be_of_any_length(level, length):
    moved = kernels.crc64_combine(0x995DC9BBDF1939FA, 1, length, level=level)

    assert moved == kernels.crc64_combine(0x995DC9BBDF1939FA, 1, length, level="reference")


def test_zeros_by_doubling_are_zeros(level):
    crc, length = kernels.crc64(b"\0", level=level), 1
    while length < 1 << 17:
        crc, length = kernels.crc64_combine(crc, crc, length, level=level), 2 * length

    assert crc == by_xz(bytes(length))
