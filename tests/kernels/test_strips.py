"""Uncompressed pixels arrive as they are, or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from offbragg import kernels
from offbragg.errors import RejectedFrame

COUNTS = np.random.default_rng(0).integers(-(2**31), 2**31, (37, 29)).astype(np.int32)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("cuts", [[], [4 * 29], [1, 5, 1000, 1000, 4001]])
def test_strips_in_any_place_and_order_of_bytes(level, order, cuts):
    pixels = COUNTS.astype(f"{order}i4").tobytes()
    ends = [*cuts, len(pixels)]
    starts = [0, *cuts]
    # the last strip comes first in the file
    file, offsets = bytearray(b"II*\0" * 3), []
    for start, end in list(zip(starts, ends, strict=True))[::-1]:
        offsets.insert(0, len(file))
        file += pixels[start:end] + b"?"
    out = np.zeros_like(COUNTS)

    kernels.strips(file, offsets, np.diff([0, *ends]), out, big_endian=order == ">", level=level)

    np.testing.assert_array_equal(out, COUNTS)


@pytest.mark.parametrize(
    ("offsets", "lengths"),
    [
        ([0], [36]),
        ([0], [44]),
        ([70], [40]),
        ([2**64 - 1], [40]),
        ([0], [2**64 - 1]),
        ([2**63], [2**63]),
        ([0, 0], [40, 4]),
        ([], []),
    ],
)
def test_strips_that_are_not_there_or_do_not_fit_are_refused(level, offsets, lengths):
    with pytest.raises(RejectedFrame, match="strips of"):
        kernels.strips(
            bytes(100), np.array(offsets, np.uint64), np.array(lengths, np.uint64),
            np.zeros(10, np.int32), level=level,
        )  # fmt: skip


def test_as_many_offsets_as_lengths(level):
    with pytest.raises(ValueError, match="2 offsets and 1 lengths"):
        kernels.strips(bytes(100), [0, 4], [40], np.zeros(10, np.int32), level=level)
