"""NumPy's basic indexing, as a question of few bytes and what is left to do with the answer."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAMES = ("frame", "row", "column")


@dataclass(frozen=True, slots=True)
class Along:
    """What is asked for along one axis: places first, first + step … below stop, in rising order.

    ``stop`` is ``first`` if it is nothing.
    """

    first: int
    stop: int
    step: int
    is_number: bool
    backwards: bool

    @property
    def count(self) -> int:
        """Number of places."""
        return len(range(self.first, self.stop, self.step))

    def __str__(self) -> str:
        return f"{self.first}:{self.stop}" + (f":{self.step}" if self.step > 1 else "")


def asked_along(key: Any, shape: Sequence[int]) -> tuple[Along, ...]:
    """Read a key as NumPy does: whole numbers, slices and an ellipsis.

    Parameters
    ----------
    key
        Of ``array[key]``.
    shape
        Of the array.

    Raises
    ------
    IndexError
        As of NumPy, if a number is outside, there are too many, or it is none of these.

    Examples
    --------
    >>> [str(each) for each in asked_along((-1, slice(None, None, -2)), (5, 4, 3))]
    ['4:5', '1:4:2', '0:3']
    """
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(each is Ellipsis for each in keys):
        at = next(i for i, each in enumerate(keys) if each is Ellipsis)
        rest = keys[at + 1 :]
        if any(each is Ellipsis for each in rest):
            raise IndexError("an index has one ellipsis (...) at most")
        keys = keys[:at] + [slice(None)] * (len(shape) - len(keys) + 1) + rest
    if len(keys) > len(shape):
        raise IndexError(f"{len(keys)} indices are given: there are {len(shape)} axes")
    keys += [slice(None)] * (len(shape) - len(keys))
    return tuple(map(_along, keys, shape, _NAMES))


def _along(key: Any, size: int, name: str) -> Along:
    if isinstance(key, slice):
        places = range(size)[key]
        if not places:
            return Along(0, 0, 1, False, False)
        low, high = min(places[0], places[-1]), max(places[0], places[-1])
        return Along(low, high + 1, abs(places.step), False, places.step < 0)
    try:
        place = operator.index(key)
        if isinstance(key, bool | np.bool_):
            raise TypeError
    except TypeError:
        raise IndexError(
            f"{type(key).__name__} is not an index of a {name}: take a whole number or a slice, "
            "as run.frames[0:10, 90:110, 200:220]"
        ) from None
    if not -size <= place < size:
        raise IndexError(f"{name} {place} is outside: there are {size}")
    place %= size
    return Along(place, place + 1, 1, True, False)


def arranged(values: NDArray[Any], asked: Sequence[Along]) -> NDArray[Any]:
    """Turn an array in rising order into what the key means: backwards, and without numbers."""
    key = tuple(0 if a.is_number else slice(None, None, -1 if a.backwards else 1) for a in asked)
    return values[key]
