"""Planes of reciprocal space, and the cells of a grid that lie on them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ReductionError
from offbragg.grid import Array, Grid, Three

_MOST_CELLS = 30_000_000  # on a plane
_FURTHEST = 100_000  # r.l.u., of a point
_MOST_FACTOR = 12  # of a direction through points: beyond it hardly any cell lies on the plane


@dataclass(frozen=True, slots=True)
class Plane:
    """A plane of cells, at + x · across + y · up, with whole numbers across and up.

    Examples
    --------
    >>> Plane.parse("hk0.5")
    Plane(across=(1, 0, 0), up=(0, 1, 0), at=(0.0, 0.0, 0.5), names=('h', 'k'))
    >>> Plane.parse("hhl").across, Plane.parse("-1kl").at
    ((1, 1, 0), (-1.0, 0.0, 0.0))
    >>> Plane.parse("h, k, -h-k+1").up
    (0, 1, -1)
    """

    across: Three
    up: Three
    at: tuple[float, float, float]
    names: tuple[str, str]

    @classmethod
    def parse(cls, text: str) -> Plane:
        """Read a plane as it is written: two letters run, in one or more of three places.

        A place is a number, a letter with a whole factor (``h``, ``-h``, ``2h``) or, between
        commas, a sum of such.
        """
        plain = text.replace(" ", "").replace("−", "-")
        place = r"([+-]?\d{0,2}[hkl]|[+-]?\d{1,5}(?:\.\d+)?)"
        found = re.fullmatch(place * 3, plain)
        parts = plain.split(",") if "," in plain else [] if found is None else list(found.groups())
        rows: dict[str, list[int]] = {}
        at: list[float] = []
        for i, part in enumerate(parts):
            terms = re.findall(r"[+-]?[^+-]+", part)
            constant = 0.0
            for term in terms:
                letter = re.fullmatch(r"([+-]?\d{0,2})([hkl])", term)
                if letter is not None:
                    factor = letter[1] if letter[1] not in ("", "+", "-") else f"{letter[1]}1"
                    row = rows.setdefault(letter[2], [0, 0, 0])
                    if i < 3:
                        row[i] += int(factor)
                elif re.fullmatch(r"[+-]?\d{1,5}(\.\d+)?", term):
                    constant += float(term)
                else:
                    rows.clear()
                    break
            at.append(constant if terms else math.nan)
        names = sorted(rows)
        if len(at) == 3 and not any(map(math.isnan, at)) and len(names) == 2:
            u, v = (tuple(rows[name]) for name in names)
            if np.any(np.cross(u, v)):
                return cls(u, v, (at[0], at[1], at[2]), (names[0], names[1]))  # type: ignore[arg-type]
        raise ReductionError(
            f"{text!r} is not a plane: write hk0, h0.5l, -1kl or hhl, or with commas h,k,-h-k"
        )

    @classmethod
    def through(cls, points: Sequence[Sequence[float]]) -> Plane:
        """Return the plane through three points, r.l.u.

        The directions from the first point to the others must be those of small whole numbers:
        then there are cells that lie on it, and nothing is interpolated.

        Raises
        ------
        ReductionError
            If they are not, or the points lie on one line.

        Examples
        --------
        >>> plane = Plane.through([(0, 0, 0.5), (1, 1, 0.5), (0, 0, 1)])
        >>> plane.across, plane.up, plane.at
        ((1, 1, 0), (0, 0, 1), (0.0, 0.0, 0.5))
        """
        if len(points) != 3 or any(len(point) != 3 for point in points):
            raise ReductionError("a plane goes through three points, each of three numbers h,k,l")
        if not all(abs(x) < _FURTHEST for point in points for x in point):  # nor NaN
            raise ReductionError(
                f"a point of a plane is three numbers below {_FURTHEST:,} r.l.u.; these are "
                f"{_written(points)}"
            )
        first = [float(x) for x in points[0]]
        u, v = (_direction(first, point) for point in points[1:])
        if not np.any(np.cross(u, v)):
            raise ReductionError(f"the three points {_written(points)} lie on one line")
        names = [next("hkl"[i] for i in range(3) if vector[i]) for vector in (u, v)]
        if names[0] == names[1]:
            names[1] = next(("hkl"[i] for i in (2, 1, 0) if v[i] and "hkl"[i] != names[0]), "v")
        return cls(u, v, (first[0], first[1], first[2]), (names[0], names[1]))

    def moved_to(self, value: float) -> Plane:
        """Return the parallel plane at another value of the index that stands still.

        Raises
        ------
        ReductionError
            If none does, or the value is not a number.

        Examples
        --------
        >>> Plane.parse("hk0").moved_to(0.5).at
        (0.0, 0.0, 0.5)
        """
        if self.fixed is None:
            raise ReductionError(
                "a value is for planes such as hk0, h0l and 0kl, where one index stands still; "
                "write it into the plane: h,k,-h-k+0.5"
            )
        if not math.isfinite(value):
            raise ReductionError(f"the value of a plane is {value}: it must be a finite number")
        at = [value if i == self.fixed else x for i, x in enumerate(self.at)]
        return replace(self, at=(at[0], at[1], at[2]))

    @property
    def fixed(self) -> int | None:
        """Which of h, k, l stands still; None if none does, or the others do not run alone."""
        used = np.count_nonzero([self.across, self.up], axis=1)
        both = np.any([self.across, self.up], axis=0)
        whole = max(map(abs, (*self.across, *self.up))) == 1
        return int(np.argmin(both)) if whole and list(used) == [1, 1] else None

    @property
    def normal(self) -> Three:
        """Whole numbers: the direction across the plane, along which it is thick."""
        u, v = np.array(self.across), np.array(self.up)
        n = np.cross(u, v)
        n = n // math.gcd(*(int(x) for x in n))
        return int(n[0]), int(n[1]), int(n[2])

    def axis_label(self, which: int) -> str:
        """Name the axis across (0) or up (1), as ``h`` or ``(h h 0)``."""
        vector, name = (self.across, self.up)[which], self.names[which]
        if sum(map(abs, vector)) == 1 and vector["hkl".index(name)] == 1:
            return name
        parts = [
            "0" if x == 0 else f"{'−' if x < 0 else ''}{'' if abs(x) == 1 else abs(x)}{name}"
            for x in vector
        ]
        return f"({' '.join(parts)})"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of cells, at + x · along, with whole numbers along, from x = 0 to ``length``.

    Examples
    --------
    >>> Line.through([(0, 0, 0.5), (2, 2, 0.5)])
    Line(along=(1, 1, 0), at=(0.0, 0.0, 0.5), length=2.0)
    """

    along: Three
    at: tuple[float, float, float]
    length: float

    @classmethod
    def through(cls, points: Sequence[Sequence[float]]) -> Line:
        """Return the line from one point to another, r.l.u.; refused as `Plane.through` does."""
        if len(points) != 2 or any(len(point) != 3 for point in points):
            raise ReductionError("a line goes through two points, each of three numbers h,k,l")
        if not all(abs(x) < _FURTHEST for point in points for x in point):  # nor NaN
            raise ReductionError(
                f"a point of a line is three numbers below {_FURTHEST:,} r.l.u.; these are "
                f"{_written(points)}"
            )
        first, last = ([float(x) for x in point] for point in points)
        along = _direction(first, last)
        i = next(i for i in range(3) if along[i])
        return cls(along, (first[0], first[1], first[2]), (last[i] - first[i]) / along[i])

    def cells_on(self, grid: Grid) -> tuple[NDArray[np.int64], Array]:
        """Return the cells of a grid on the line, in steps, shape (n, 3), and x of each.

        Raises
        ------
        ReductionError
            If they are too many.
        """
        vector = np.array(self.along) * np.array(grid.per_unit)
        finest = math.gcd(*(int(x) for x in vector))
        count = math.floor(self.length * finest + 1e-6) + 1
        if count > _MOST_CELLS // 100:
            raise ReductionError(
                f"the line has {count:,} cells: at most {_MOST_CELLS // 100:,} are cut at once"
            )
        numbers = np.arange(count, dtype=np.int64)
        origin = np.rint(np.array(self.at) * np.array(grid.per_unit)).astype(np.int64)
        return origin + numbers[:, None] * (vector // finest), numbers / finest


@dataclass(frozen=True, slots=True, eq=False)
class PlaneCells:
    """Where the cells of a plane are in a grid.

    ``labels`` of each axis (r.l.u. along ``across`` and ``up``); ``place`` the cells of the first
    layer, in steps, shape (across, up, 3); ``layers`` what is added for each layer, shape (n, 3).
    """

    labels: tuple[Array, Array]
    step: tuple[float, float]
    place: NDArray[np.int64]
    layers: NDArray[np.int64]


def cells_on(grid: Grid, plane: Plane, thickness: float) -> PlaneCells:
    """Find the cells of a grid on a plane.

    Parameters
    ----------
    grid
        The cells.
    plane
        Where.
    thickness
        r.l.u.; layers at most half of it away belong to the plane, and always the nearest one.

    Raises
    ------
    ReductionError
        If the plane is outside the grid, or has more than 30 million cells.
    """
    per_unit = np.array(grid.per_unit)
    u, v, w = (np.array(each) for each in (plane.across, plane.up, plane.normal))

    def finest(vector: NDArray[np.int64]) -> int:
        return math.gcd(*(int(x) for x in vector * per_unit))

    corners = np.array(
        list(itertools.product(*zip(grid.first, np.array(grid.end) - 1, strict=True)))
    )
    reach = np.linalg.lstsq(
        np.column_stack([u, v]).astype(float),
        (corners / per_unit - np.array(plane.at)).T,
        rcond=None,
    )[0]
    numbers: list[NDArray[np.int64]] = []
    for i, vector in enumerate((u, v)):
        m = finest(vector)
        low, high = math.ceil(reach[i].min() * m - 1e-6), math.floor(reach[i].max() * m + 1e-6)
        numbers.append(np.arange(low, high + 1, dtype=np.int64))
    if (size := math.prod(len(n) for n in numbers)) > _MOST_CELLS:
        raise ReductionError(
            f"the plane has {size:,} cells: at most {_MOST_CELLS:,} are cut at once"
        )
    steps = [vector * per_unit // finest(vector) for vector in (u, v)]
    origin = np.rint(np.array(plane.at) * per_unit).astype(np.int64)
    place = origin + numbers[0][:, None, None] * steps[0] + numbers[1][None, :, None] * steps[1]
    fixed = plane.fixed
    if fixed is not None:
        centres = grid.axis(fixed)
        near = np.abs(centres - plane.at[fixed])
        if near.min() > 0.5 / per_unit[fixed] + 1e-9:
            raise ReductionError(
                f"{'hkl'[fixed]} = {plane.at[fixed]:g} is outside the volume: {grid}"
            )
        which = np.flatnonzero(near <= max(0.5 * thickness, near.min()) + 1e-9)
        layers = np.zeros((len(which), 3), np.int64)
        layers[:, fixed] = which + grid.first[fixed] - origin[fixed]
    else:
        m = finest(w)
        half = math.floor(min(0.5 * thickness * m + 1e-9, sum(grid.shape)))  # beyond is nothing
        layers = np.arange(-half, half + 1)[:, None] * (w * per_unit // m)
    labels = tuple(n / finest(vector) for n, vector in zip(numbers, (u, v), strict=True))
    return PlaneCells(
        (labels[0], labels[1]), (1.0 / finest(u), 1.0 / finest(v)), place, layers
    )  # fmt: skip


def _direction(first: Sequence[float], point: Sequence[float]) -> Three:
    """Return the smallest whole numbers that have a direction."""
    apart = [Fraction(b - a).limit_denominator(10_000) for a, b in zip(first, point, strict=True)]
    common = math.lcm(*(each.denominator for each in apart))
    whole = [int(each * common) for each in apart]
    divisor = math.gcd(*whole)
    if divisor == 0:
        raise ReductionError(f"two of the points are {_written([point])}: they must differ")
    h, k, l = (n // divisor for n in whole)  # noqa: E741
    if max(abs(h), abs(k), abs(l)) > _MOST_FACTOR:
        raise ReductionError(
            f"the direction from {_written([first])} to {_written([point])} is ({h} {k} {l}): "
            f"hardly any cell lies on it; take points whose directions have whole numbers up to "
            f"{_MOST_FACTOR}, such as (1 1 0)"
        )
    return h, k, l


def _written(points: Sequence[Sequence[float]]) -> str:
    return " ".join("(" + ", ".join(f"{x:g}" for x in point) + ")" for point in points)
