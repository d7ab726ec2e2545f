from __future__ import annotations

import numpy as np
import pytest

from offbragg.errors import ScanFileError
from offbragg.stack import Stack, read_frame
from offbragg.sweep import Sweep

SWEEP = Sweep("phi", start=0.0, step=1.0, n_frames=10, exposure=0.1, period=0.1)


class Watched:
    """An array that says what was read of it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.keys: list[object] = []
        self.shape = array.shape

    def __getitem__(self, key: object) -> np.ndarray:
        self.keys.append(key)
        return self.array[key]  # type: ignore[index]


def test_a_part_of_a_part_keeps_numbers_and_angles():
    counts = np.arange(8 * 6, dtype=np.int32).reshape(8, 2, 3)
    stack = Stack(counts, SWEEP, np.arange(8.0))

    part = stack[2:7][1:3]

    assert len(part) == 2
    assert part.first == 3
    np.testing.assert_array_equal(part.counts[:], counts[3:5])
    np.testing.assert_array_equal(part.counts[-1], counts[4])
    np.testing.assert_array_equal(part.counts[..., 0, 1], counts[3:5, 0, 1])
    np.testing.assert_array_equal(part.monitor, [3.0, 4.0])
    np.testing.assert_allclose(part.angles, [3.5, 4.5])
    np.testing.assert_allclose(part.edges, [3.0, 4.0, 5.0])


def test_slicing_reads_nothing():
    watched = Watched(np.zeros((8, 2, 3), np.int32))

    part = Stack(watched, SWEEP)[2:6]
    assert watched.keys == []
    part.counts[0]

    assert watched.keys == [(2,)]


def test_a_part_becomes_an_array():
    counts = np.arange(8 * 6, dtype=np.int32).reshape(8, 2, 3)

    np.testing.assert_array_equal(np.asarray(Stack(counts, SWEEP)[2:4].counts), counts[2:4])


def test_an_empty_part_is_a_stack():
    assert len(Stack(np.zeros((8, 2, 3), np.int32), SWEEP)[5:5]) == 0


def test_a_frame_beyond_the_part_is_an_error():
    with pytest.raises(IndexError):
        Stack(np.zeros((8, 2, 3), np.int32), SWEEP)[2:4].counts[2]


@pytest.mark.parametrize(
    ("counts", "monitor", "first"),
    [
        (np.zeros((11, 2, 3), np.int32), None, 0),
        (np.zeros((8, 2, 3), np.int32), None, 3),
        (np.zeros((8, 6), np.int32), None, 0),
        (np.zeros((8, 2, 3), np.int32), np.zeros(7), 0),
    ],
)
def test_what_does_not_fit_the_sweep_is_refused(counts, monitor, first):
    with pytest.raises(ScanFileError):
        Stack(counts, SWEEP, monitor, first)


def test_strides_are_refused():
    with pytest.raises(ScanFileError, match="steps of 1"):
        Stack(np.zeros((8, 2, 3), np.int32), SWEEP)[::2]


def test_a_frame_is_read_into_the_buffer_of_whoever_asks_for_it():
    class Read:
        shape = (8, 2, 3)

        def read_into(self, number, out):
            out[...] = number
            return out

    out = np.empty((2, 3), np.int32)
    part = Stack(Read(), SWEEP)[2:6][1:3]

    assert read_frame(part.counts, 1, out) is out
    np.testing.assert_array_equal(out, np.full((2, 3), 4))
    with pytest.raises(IndexError):
        read_frame(part.counts, 2, out)


def test_frames_that_are_in_memory_are_not_copied():
    counts = np.arange(48, dtype=np.int32).reshape(8, 2, 3)

    frame = read_frame(Stack(counts, SWEEP)[2:6].counts, 1, np.empty((2, 3), np.int32))

    assert np.shares_memory(frame, counts[3])
