"""What a start document can hold: values that journal, scan file and catalog keep exactly.

The journal is JSON as Python writes it, the scan file is HDF5, and the catalog sends JSON and
msgpack. What one of them cannot keep is refused before a run is opened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from offbragg.errors import MetadataError

LARGEST = 1_000_000
"""Bytes that a start document may have as JSON: the catalog sends it with every listing."""

DEEPEST = 64
"""Levels of lists and mappings in a start document."""

INTEGERS = (-(2**63), 2**64 - 1)
"""The smallest and the largest integer that JSON parsers and msgpack agree on."""

Nested = dict[Any, Any] | list[Any] | tuple[Any, ...]
"""What holds further values."""


def check_values(doc: Mapping[Any, Any], where: str = "the start document") -> None:
    """Refuse values that cannot be kept exactly as they are.

    Parameters
    ----------
    doc
        A start document, or what will become one.
    where
        What it is called where a key is refused.

    Raises
    ------
    MetadataError
        Its first line names the key, what is wrong with its value, and the limit.

    Examples
    --------
    >>> check_values({"sample": {"name": "LSMO-140", "mass": float("nan")}})
    Traceback (most recent call last):
    offbragg.errors.MetadataError: sample.mass is nan: a number must be finite...
    """
    sizes: dict[str, int] = {}
    for key, value in doc.items():
        entry = _Entry(_shown(key), LARGEST - sum(sizes.values()), sizes)
        entry.check_key(key, where)
        entry.check(value, str(key), 1)
        sizes[key] = entry.size


class _Entry:
    """Checks one entry of a document, and counts what it takes as JSON.

    Parameters
    ----------
    key
        Its key.
    room
        Bytes that are left for it.
    others
        Bytes of the entries before it, by their keys.
    """

    def __init__(self, key: str, room: int, others: Mapping[str, int]) -> None:
        self.size = 0
        self._key = key
        self._room = room
        self._others = others

    def check(self, value: Any, field: str, depth: int) -> None:
        """Check a value that is nested in lists and mappings.

        Parameters
        ----------
        value
            Of any type.
        field
            Where it is, for a message.
        depth
            Levels, its own included.
        """
        if value is None or isinstance(value, bool | np.bool_):
            self._take(5)
        elif isinstance(value, str):
            self._check_text(value, field)
        elif isinstance(value, int | np.integer):
            self._check_integer(int(cast(int, value)), field)
        elif isinstance(value, float) or type(value) in (np.float16, np.float32):
            self._check_float(float(value), field)
        elif isinstance(value, np.ndarray):
            if 2 * value.size > self._room - self.size:  # a digit and a comma each, at least
                self._take(2 * value.size)
            self.check(cast(Any, value).tolist(), field, depth)
        elif isinstance(value, dict | list | tuple):
            self._check_nested(cast(Nested, value), field, depth)
        else:
            raise MetadataError(
                f"{field} is {_shown(value)}, of type {type(value).__name__}: it must be text, a "
                "number, true or false, None, or a list or dict of these"
            )

    def check_key(self, key: Any, field: str) -> None:
        """Check a key of a mapping."""
        if not isinstance(key, str):
            raise MetadataError(
                f"{field} has the key {_shown(key)}, of type {type(key).__name__}: a key must be "
                "text"
            )
        self._check_text(key, f"the key '{_shown(key)}' in {field}")

    def _check_nested(self, value: Nested, field: str, depth: int) -> None:
        self._take(2)
        if depth > DEEPEST:
            raise MetadataError(
                f"{self._key} has more than {DEEPEST} levels of lists and mappings, which is the "
                "limit, or contains itself"
            )
        if isinstance(value, dict):
            for key, inner in value.items():
                self.check_key(key, field)
                self.check(inner, f"{field}.{key}", depth + 1)
            return
        for number, inner in enumerate(value):
            self.check(inner, f"{field}[{number}]", depth + 1)

    def _check_text(self, text: str, field: str) -> None:
        if "\0" in text:
            raise MetadataError(
                f"{field} has a NUL character at position {text.index(chr(0))}: scan files and "
                "databases cannot keep one"
            )
        try:
            self._take(len(text.encode()) + 3)
        except UnicodeEncodeError as error:
            raise MetadataError(
                f"{field} has half of a surrogate pair, {text[error.start]!a}, at position "
                f"{error.start}: this cannot be stored as UTF-8"
            ) from None

    def _check_integer(self, value: int, field: str) -> None:
        low, high = INTEGERS
        if not low <= value <= high:
            raise MetadataError(
                f"{field} is {_shown(value)}: an integer must be from -2**63 to 2**64 - 1, the "
                "limit of 64 bits\nWrite it as text, or as a float if its last digits do not matter"
            )
        self._take(len(str(value)) + 1)

    def _check_float(self, value: float, field: str) -> None:
        if not math.isfinite(value):
            raise MetadataError(
                f"{field} is {value}: a number must be finite, JSON has neither inf nor nan\n"
                "Leave it out, or write None or text."
            )
        self._take(len(repr(value)) + 1)

    def _take(self, count: int) -> None:
        self.size += count
        if self.size > self._room:
            sizes = {**self._others, self._key: self.size}
            key = max(sizes, key=lambda name: sizes[name])
            raise MetadataError(
                f"{key} makes the start document larger than {LARGEST:,} bytes (as JSON), which is "
                "the limit\nThe catalog sends start documents with every listing. Save the data in "
                "a file, and write the path of the file."
            )


def _shown(value: Any) -> str:
    """Return a value as printable text of one line."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # whatever somebody's own class does
        text = "something"
    return ascii(text[:60])[1:-1] + ("…" if len(text) > 60 else "")
