"""MD5 in lanes is MD5."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from offbragg import kernels


def digests(buffers) -> list[bytes]:
    return [hashlib.md5(buffer).digest() for buffer in buffers]


def test_the_examples_of_rfc_1321(level):
    texts = [b"", b"a", b"abc", b"message digest", b"abcdefghijklmnopqrstuvwxyz"]

    found = [digest.hex() for digest in kernels.md5(texts, level=level)]

    assert found == [
        "d41d8cd98f00b204e9800998ecf8427e",
        "0cc175b9c0f1b6a831c399e269772661",
        "900150983cd24fb0d6963f7d28e17f72",
        "f96b697d7cb7938d525a2f31aaf161d0",
        "c3fcd3d76192e4007dfb496cca67e13b",
    ]


def test_every_length_around_a_block(level):
    text = np.random.default_rng(0).bytes(200)
    buffers = [text[:n] for n in range(200)]

    assert kernels.md5(buffers, level=level) == digests(buffers)


def test_any_number_of_buffers(level):
    text = np.random.default_rng(0).bytes(5000)
    for count in range(40):
        buffers = [text[i : i * 117] for i in range(count)]
        assert kernels.md5(buffers, level=level) == digests(buffers)


def test_lanes_of_very_different_lengths(level):
    rng = np.random.default_rng(1)
    for _ in range(10):
        buffers = [rng.bytes(int(n)) for n in rng.exponential(3000.0, 37)]
        buffers.insert(20, rng.bytes(200_000))
        assert kernels.md5(buffers, level=level) == digests(buffers)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=40))
def test_any_bytes(buffers):
    for level in kernels.available():
        assert kernels.md5(buffers, level=level) == digests(buffers)


def test_arrays_and_views_are_buffers_too(level):
    counts = np.arange(1000, dtype=np.int32)

    found = kernels.md5([counts, memoryview(counts)[3:], bytearray(b"abc")], level=level)

    assert found == digests([counts.tobytes(), counts[3:].tobytes(), b"abc"])
