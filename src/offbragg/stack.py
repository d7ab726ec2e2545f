"""The frames of a sweep in order, read lazily."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ScanFileError
from offbragg.sweep import Sweep


class Counts(Protocol):
    """Anything that can be sliced like an int32 array of shape (frame, slow, fast)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Frames, rows and columns (frame, slow, fast)."""
        ...

    def __getitem__(self, key: Any, /) -> Any:
        """Read a part, as an int32 NumPy array."""
        ...


@runtime_checkable
class _IntoBuffer(Protocol):
    def read_into(self, number: int, out: NDArray[np.int32]) -> NDArray[np.int32]: ...


def read_frame(counts: Counts, number: int, out: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return one frame; it is in ``out`` where it had to be read.

    Page faults of a new array of 10 MB cost as much as reading a frame into one that is there.

    Parameters
    ----------
    counts
        The frames, shape (frame, slow, fast).
    number
        Index of the frame in ``counts``, from 0.
    out
        A buffer of the caller's, int32, C-contiguous, shape (slow, fast).
    """
    if isinstance(counts, _IntoBuffer):
        return counts.read_into(number, out)
    return np.asarray(counts[number])


@dataclass(frozen=True, slots=True, eq=False)
class FrameRange:
    """A part of the frames of ``counts``, read when it is sliced.

    Parameters
    ----------
    counts
        int32, shape (frame, slow, fast).
    start, stop
        Index of the first frame in ``counts``, and one past the last.

    Raises
    ------
    ScanFileError
        When it is sliced with a negative step.
    """

    counts: Counts
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Frames, rows and columns; unchanged when the array behind it grows."""
        return (self.stop - self.start, *self.counts.shape[1:])

    def __len__(self) -> int:
        return self.stop - self.start

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def __getitem__(self, key: Any, /) -> Any:
        keys = cast(tuple[Any, ...], key if isinstance(key, tuple) else (key,))
        if not keys or keys[0] is Ellipsis:
            keys = (slice(None), *keys)
        frames = range(self.start, self.stop)
        if isinstance(keys[0], slice):
            chosen = frames[keys[0]]
            if chosen.step < 0:
                raise ScanFileError(f"frames {chosen} run backwards: slice forwards and turn it")
            first: Any = slice(chosen.start, max(chosen.start, chosen.stop), chosen.step)
        else:
            first = frames[int(keys[0])]
        return self.counts[(first, *keys[1:])]

    def read_into(self, number: int, out: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return one frame, as `read_frame`."""
        return read_frame(self.counts, range(self.start, self.stop)[number], out)


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """The frames of a sweep in order, read lazily; ``stack[a:b]`` is a `Stack`.

    A part keeps the whole sweep and the number of its first frame: a frame's number, and so
    its angle, never depends on how it was sliced.

    Parameters
    ----------
    counts
        int32, shape (frame, slow, fast): an array, or an HDF5 dataset that is read when sliced. A
        negative pixel has no valid count.
    sweep
        The whole sweep that these frames belong to.
    monitor
        Incident monitor of each frame here, in any unit, NaN where unknown, shape (frame,); None
        without a monitor.
    first
        Number of the first frame here, from 0.

    Raises
    ------
    ScanFileError
        If ``counts`` or ``monitor`` has another shape, the frames are outside the sweep, or a slice
        has a step other than 1.

    Examples
    --------
    >>> sweep = Sweep("phi", start=0.0, step=1.0, n_frames=5, exposure=1.0, period=1.0)
    >>> part = Stack(np.zeros((5, 2, 3), np.int32), sweep)[1:3]
    >>> len(part), part.first, part.angles
    (2, 1, array([1.5, 2.5]))
    """

    counts: Counts
    sweep: Sweep
    monitor: NDArray[np.float64] | None = None
    first: int = 0

    def __post_init__(self) -> None:
        shape = self.counts.shape
        if len(shape) != 3:
            raise ScanFileError(f"a stack has counts (frame, slow, fast), not of shape {shape}")
        if self.first < 0 or self.first + shape[0] > self.sweep.n_frames:
            raise ScanFileError(
                f"frames {self.first} to {self.first + shape[0]} are outside a sweep "
                f"of {self.sweep.n_frames}"
            )
        if self.monitor is not None and self.monitor.shape != (shape[0],):
            raise ScanFileError(
                f"a stack of {shape[0]} frames has a monitor of shape {self.monitor.shape}"
            )

    def __len__(self) -> int:
        return self.counts.shape[0]

    def __getitem__(self, part: slice) -> Stack:
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ScanFileError(f"a stack is sliced in steps of 1, not {step}")
        stop = max(start, stop)
        return Stack(
            FrameRange(self.counts, start, stop),
            self.sweep,
            None if self.monitor is None else self.monitor[start:stop],
            self.first + start,
        )

    @property
    def angles(self) -> NDArray[np.float64]:
        """Angle of each frame here: its midpoint, degree, shape (frame,)."""
        return self.sweep.midpoints[self.first : self.first + len(self)]

    @property
    def edges(self) -> NDArray[np.float64]:
        """Angles between the frames here, degree, shape (frame + 1,)."""
        return self.sweep.edges[self.first : self.first + len(self) + 1]
