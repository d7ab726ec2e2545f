"""Store documents in the catalog so that no number in them changes.

The catalog keeps metadata as JSON, and events in tables whose columns have one type. JSON has
neither inf nor nan and no integers beyond 64 bits: these become text, which `restored` reads back.
The type of a column holds every value of it exactly; where no type of numbers does, it is text,
each value as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import DTypeLike, NDArray

from offbragg.errors import CatalogError
from offbragg.values import INTEGERS

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NUMBERS = ("number", "integer")
_LEAST_WIDTH = 64  # characters of a text in an array: later ones are seldom longer


# -- metadata --------------------------------------------------------------------------------


def storable(value: object) -> Any:
    """Return metadata in a form that the catalog stores exactly.

    Examples
    --------
    >>> storable({"a": [1e300, float("-inf")], "b": 2**70})
    {'a': [1e+300, '-Infinity'], 'b': '1180591620717411303424'}
    """
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if INTEGERS[0] <= value <= INTEGERS[1] else str(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return next(name for name, number in _NOT_FINITE.items() if _same(number, value))
    if isinstance(value, Mapping):
        return {_text(str(key)): storable(inner) for key, inner in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return storable(value.tolist())
    if isinstance(value, list | tuple):
        return [storable(inner) for inner in value]
    return value


def restored(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a stream with its configuration as the devices gave it.

    Parameters
    ----------
    metadata
        As the catalog stores it. Text becomes a number where the data key describes a number.
    """
    configuration = metadata.get("configuration") or {}
    new = {**metadata, "configuration": _restored(configuration, configuration)}
    if "_config_updates" in metadata:
        new["_config_updates"] = [
            {**update, "configuration": _restored(update["configuration"], configuration)}
            if "configuration" in update
            else dict(update)
            for update in metadata["_config_updates"]
        ]
    return new


def _restored(configuration: Mapping[str, Any], described: Mapping[str, Any]) -> dict[str, Any]:
    new = {}
    for device, there in configuration.items():
        keys = described.get(device, {}).get("data_keys", {})
        data = {
            key: _number(value) if keys.get(key, {}).get("dtype") in (*_NUMBERS, "array") else value
            for key, value in there.get("data", {}).items()
        }
        new[device] = {**there, "data": data}
    return new


def _number(value: object) -> Any:
    if isinstance(value, list | tuple):
        return [_number(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if value in _NOT_FINITE:
        return _NOT_FINITE[value]
    digits = value.removeprefix("-")
    return int(value) if digits.isdecimal() and digits.isascii() else value


def without_limits_of_nan(descriptor: Mapping[str, Any]) -> dict[str, Any]:
    """Return a descriptor whose limits are finite or None: an IOC without limits may send NaN."""
    keys = {
        key: {**spec, "limits": _finite(spec["limits"])} if "limits" in spec else spec
        for key, spec in descriptor["data_keys"].items()
    }
    return {**descriptor, "data_keys": keys}


def _finite(value: object) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


# -- events ----------------------------------------------------------------------------------


class Columns:
    """The types of the columns of one stream, each chosen from the first values of its key."""

    def __init__(self) -> None:
        self._kinds: dict[str, str] = {}
        self._arrays: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}

    def split(
        self, rows: Sequence[Mapping[str, Any]], data_keys: Mapping[str, Any]
    ) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
        """Divide the rows of a stream into scalars of one type for each key, and arrays.

        Parameters
        ----------
        rows
            Data keys and their time stamps; all rows since the last call.
        data_keys
            Their descriptions in the descriptor.

        Returns
        -------
        scalars
            Rows without the arrays.
        arrays
            By data key, shape (rows, ...).

        Raises
        ------
        CatalogError
            If a value does not fit the type that the earlier values of its key chose. With all
            values known another type is chosen: publish the run again.
        """
        scalars: list[dict[str, Any]] = [{} for _ in rows]
        arrays: dict[str, NDArray[Any]] = {}
        for key in dict.fromkeys(key for row in rows for key in row):
            values = [row.get(key) for row in rows]
            is_array = key in self._arrays or (
                key not in self._kinds and any(isinstance(value, list) for value in values)
            )
            if is_array:
                array = self._array(key, values, data_keys.get(key, {}).get("dtype_numpy"))
                if array is not None:
                    arrays[key] = array
                    continue
            for row, value in zip(scalars, self._scalars(key, values), strict=True):
                row[key] = value
        return scalars, arrays

    def _scalars(self, key: str, values: Sequence[Any]) -> Iterator[Any]:
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _kind_of(values)
        elif not _holds(kind, values):
            raise _another_type(key)
        return (_as_kind(kind, value) for value in values)

    def _array(
        self, key: str, values: Sequence[Any], declared: DTypeLike | None
    ) -> NDArray[Any] | None:
        """Return the values as one array; None if they do not make one, and never did."""
        if key in self._arrays:
            dtype, shape = self._arrays[key]
            array = _as_array(values, dtype, shape)
            if array is None:
                raise _another_type(key)
            return array
        array = _as_array(values, declared, None)
        if array is None:
            array = _as_array(values, None, None)
        if array is not None:
            self._arrays[key] = array.dtype, array.shape[1:]
        return array


def _another_type(key: str) -> CatalogError:
    return CatalogError(
        f"{key} has a value that the type of its column cannot hold\n"
        "The run is published again, with another type."
    )


def _kind_of(values: Sequence[Any]) -> str:
    """Choose a type: none, boolean, text, int64, uint64, float64, or json."""
    kinds = ("none", "boolean", "text", "int64", "uint64", "float64")
    return next((kind for kind in kinds if _holds(kind, values)), "json")


def _holds(kind: str, values: Sequence[Any]) -> bool:
    if kind == "json":
        return True
    if kind == "none":
        return all(value is None for value in values)
    if kind in ("int64", "uint64"):
        low, high = (-(2**63), 2**63 - 1) if kind == "int64" else (0, 2**64 - 1)
        return all(_is_integer(value) and low <= value <= high for value in values)
    known = [value for value in values if value is not None]
    if kind == "boolean":
        return all(isinstance(value, bool) for value in known)
    if kind == "text":
        return all(isinstance(value, str) for value in known)
    return all(
        isinstance(value, float) or (_is_integer(value) and _is_float(value)) for value in known
    )


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_float(value: int) -> bool:
    """Return whether a float has exactly this value."""
    try:
        return int(float(value)) == value
    except OverflowError:
        return False


def _as_kind(kind: str, value: Any) -> Any:
    match kind:
        case "uint64":
            return np.uint64(value)
        case "float64":
            return math.nan if value is None else float(value)
        case "text":
            return None if value is None else _text(value)
        case "json":
            return _text(json.dumps(value, ensure_ascii=False))
    return value


def _as_array(
    values: Sequence[Any], declared: DTypeLike | None, shape: tuple[int, ...] | None
) -> NDArray[Any] | None:
    """Return an array that holds lists exactly; None if no array of this type and shape does."""
    shapes = {_shape_of(value) for value in values}
    if shape is not None:
        shapes.add(shape)
    if None in shapes or any(0 in one for one in shapes if one is not None):
        return None
    if len(shapes) > 1:  # only numbers can be padded, with nan
        if any(one is None or len(one) != 1 for one in shapes):
            return None
        longest = max(one[0] for one in shapes if one)
        values = [[*value, *[math.nan] * (longest - len(value))] for value in values]
        shapes = {(longest,)}
    if shape is not None and shapes != {shape}:
        return None
    leaves = list(_leaves(values))
    kind = _kind_of(leaves)
    if kind in ("none", "json") or (kind == "text" and any(map(_is_not_text, leaves))):
        return None
    dtype = _dtype_of(kind, leaves) if declared is None else np.dtype(declared)
    if dtype.kind != {"boolean": "b", "text": "U"}.get(kind, dtype.kind):
        return None
    if dtype.kind not in ("iuf" if kind in ("int64", "uint64", "float64") else "bU"):
        return None
    try:
        array = np.array([_texts(value) if kind == "text" else value for value in values], dtype)
    except (OverflowError, TypeError, ValueError):
        return None
    wanted = [_text(leaf) for leaf in leaves] if kind == "text" else leaves
    return array if all(map(_same, array.ravel().tolist(), wanted)) else None


def _dtype_of(kind: str, leaves: Sequence[Any]) -> np.dtype[Any]:
    if kind == "text":
        width = max(_LEAST_WIDTH, 2 * max(len(_text(leaf)) for leaf in leaves))
        return np.dtype(f"<U{width}")
    return np.dtype("bool" if kind == "boolean" else kind)


def _is_not_text(leaf: Any) -> bool:
    return leaf is None or "\0" in leaf  # NumPy strips NUL characters from the end


def _texts(value: Any) -> Any:
    return [_texts(inner) for inner in value] if isinstance(value, list) else _text(value)


def _shape_of(value: object) -> tuple[int, ...] | None:
    """Return the shape of nested lists; () for what is not a list, None if they are ragged."""
    if not isinstance(value, list):
        return None if value is None else ()
    if not value:
        return (0,)
    inner = {() if one is None else _shape_of(one) for one in value}
    if len(inner) > 1 or None in inner:
        return None
    (one,) = inner
    return (len(value), *one) if one is not None else None


def _leaves(value: object) -> Iterator[Any]:
    if isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _same(one: Any, other: Any) -> bool:
    if other is None:
        return one != one
    if one != other:
        return one != one and other != other
    if isinstance(other, float) and other == 0:
        return math.copysign(1.0, one) == math.copysign(1.0, other)
    return True
