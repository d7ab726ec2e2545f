"""Parts of the instrument: axes of the goniometer, the detector's panel."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import GeometryError

Vector = tuple[float, float, float]


Array = NDArray[np.float64]


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")


@dataclass(frozen=True, slots=True)
class Axis:
    """One rotation axis of the goniometer; a positive angle turns right-handed.

    Parameters
    ----------
    name
        As the beamline calls it.
    vector
        Direction when all axes are at zero, lab frame, unit length.
    angle
        Where it stands, degree. Of the scan axis it does not matter: there the sweep rules.
    """

    name: str
    vector: Vector
    angle: float = 0.0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise GeometryError(
                f"axis name {self.name!r} cannot be used: a letter, then up to 31 letters, "
                "digits or _"
            )
        object.__setattr__(self, "vector", _unit(self.vector, f"axis {self.name}"))
        if not math.isfinite(self.angle):
            raise GeometryError(f"axis {self.name} stands at {self.angle} degree: not a number")


@dataclass(frozen=True, slots=True)
class Panel:
    """The flat detector.

    Parameters
    ----------
    origin
        Outer corner of pixel (0, 0), mm.
    fast, slow
        Directions of growing column and row number, unit length and perpendicular.
    pixel_size
        Of a pixel along fast and slow, mm.
    shape
        Rows and columns: (slow, fast).
    """

    origin: Vector
    fast: Vector
    slow: Vector
    pixel_size: tuple[float, float]
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        if not all(math.isfinite(x) for x in self.origin) or not any(self.origin):
            raise GeometryError(f"panel origin {self.origin} mm: three finite numbers, not all 0")
        object.__setattr__(self, "fast", _unit(self.fast, "panel fast"))
        object.__setattr__(self, "slow", _unit(self.slow, "panel slow"))
        along = float(np.dot(self.fast, self.slow))
        if abs(along) > 1e-3:
            raise GeometryError(
                f"panel fast and slow are not perpendicular: their product is {along:.4g}"
            )
        if not all(math.isfinite(size) and size > 0 for size in self.pixel_size):
            raise GeometryError(f"panel pixel_size {self.pixel_size} mm: must be above 0")
        if not all(n > 0 for n in self.shape):
            raise GeometryError(f"panel shape {self.shape}: rows and columns must be above 0")

    @property
    def normal(self) -> Array:
        """Unit vector along fast × slow, shape (3,)."""
        normal = np.cross(self.fast, self.slow)
        return normal / np.linalg.norm(normal)


def _unit(vector: Vector, name: str) -> Vector:
    length = math.sqrt(sum(x * x for x in vector)) if len(vector) == 3 else math.nan
    if not math.isfinite(length) or abs(length - 1.0) > 1e-3:
        raise GeometryError(
            f"{name} {tuple(vector)} is not a unit vector: its length is {length:.6g}"
        )
    if abs(length - 1.0) < 1e-14:  # so that a document read back is the very same geometry
        return (float(vector[0]), float(vector[1]), float(vector[2]))
    return (vector[0] / length, vector[1] / length, vector[2] / length)


def exactly(value: object, keys: tuple[str, ...], where: str) -> Mapping[str, Any]:
    """Refuse a mapping that lacks a key, or has one more."""
    if not isinstance(value, Mapping):
        raise GeometryError(f"{where} is {value!r}: it must have {', '.join(keys)}")
    mapping = cast(Mapping[str, Any], value)
    for key in mapping:
        if key not in keys:
            raise GeometryError(f"{where}.{key} is unknown: it has {', '.join(keys)}")
    for key in keys:
        if key not in mapping:
            raise GeometryError(f"{where}.{key} is missing: it has {', '.join(keys)}")
    return mapping


def text_of(value: object, where: str) -> str:
    """Return a text, or refuse what is not one."""
    if not isinstance(value, str):
        raise GeometryError(f"{where} is {value!r}: it must be text")
    return value


def float_of(value: object, where: str) -> float:
    """Return a finite number, or refuse what is not one."""
    if isinstance(value, (bool, str, bytes)):
        raise GeometryError(f"{where} is {value!r}: it must be a number")
    try:
        return float(cast(Any, value))
    except (TypeError, ValueError):
        raise GeometryError(f"{where} is {value!r}: it must be a number") from None


def floats_of(values: object, length: int, where: str) -> tuple[float, ...]:
    """Return several finite numbers, or refuse what they are not."""
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise GeometryError(f"{where} is {values!r}: it must be {length} numbers")
    items = cast(Sequence[Any], values)
    if len(items) != length:
        raise GeometryError(f"{where} has {len(items)} numbers: it must have {length}")
    return tuple(float_of(item, where) for item in items)


def vector_of(values: object, where: str) -> Vector:
    """Return three numbers, or refuse what they are not."""
    x, y, z = floats_of(values, 3, where)
    return (x, y, z)
