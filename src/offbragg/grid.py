"""The hkl box of a volume: cells whose centres are whole multiples of 1/integer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ReductionError
from offbragg.geometry import Geometry
from offbragg.lattice import q_to_hkl
from offbragg.sweep import Sweep

Array = NDArray[np.float64]


Mask = NDArray[np.bool_]


Three = tuple[int, int, int]


NAMES = "hkl"


_STEPS = (1, 2, 4, 5, 10, 20, 25, 40, 50, 100, 200)  # cells per r.l.u. that one chooses


@dataclass(frozen=True, slots=True)
class Grid:
    """The hkl box: cells whose centres are the labels, whole multiples of 1/integer.

    All of it is whole numbers, so that two grids are the same or they are not, and a symmetry
    takes a cell exactly to a cell.

    Parameters
    ----------
    first
        Label of the first cell along h, k, l, in steps.
    shape
        How many cells along h, k, l.
    per_unit
        Cells in one reciprocal-lattice unit along h, k, l: a step is 1/integer.

    Examples
    --------
    >>> grid = Grid(first=(-2, 0, 0), shape=(5, 2, 1), per_unit=(4, 2, 1))
    >>> grid.h, grid.k
    (array([-0.5 , -0.25,  0.  ,  0.25,  0.5 ]), array([0. , 0.5]))
    """

    first: Three
    shape: Three
    per_unit: Three

    def __post_init__(self) -> None:
        for name in ("first", "shape", "per_unit"):
            given: Sequence[Any] = getattr(self, name)
            if len(given) != 3 or any(int(n) != n for n in given):
                raise ReductionError(f"grid.{name} is {given!r}: it must be three whole numbers")
            object.__setattr__(self, name, tuple(int(n) for n in given))
        if min(self.shape) < 1:
            raise ReductionError(f"a grid of {self.shape} cells is empty: at least one along each")
        if min(self.per_unit) < 1:
            raise ReductionError(f"grid.per_unit is {self.per_unit}: at least one cell per r.l.u.")

    @classmethod
    def box(
        cls,
        h: tuple[float, float],
        k: tuple[float, float],
        l: tuple[float, float],  # noqa: E741
        *,
        step: float | Sequence[float] = 0.05,
    ) -> Grid:
        """Make the grid from the first to the last label along each axis, both in it.

        Parameters
        ----------
        h, k, l
            First and last label, r.l.u.; rounded outwards to whole steps.
        step
            r.l.u., one or three; it must be 1/integer.

        Examples
        --------
        >>> Grid.box((-1, 1), (0, 2), (0.5, 0.5), step=0.1)
        Grid(first=(-10, 0, 5), shape=(21, 21, 1), per_unit=(10, 10, 10))
        """
        steps = [step] * 3 if isinstance(step, (int, float)) else list(step)
        if len(steps) != 3:
            raise ReductionError(f"step is {step!r}: one number, or one for each of h, k, l")
        per_unit = [_per_unit(each) for each in steps]
        first: list[int] = []
        shape: list[int] = []
        for name, (low, high), n in zip(NAMES, (h, k, l), per_unit, strict=True):
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ReductionError(f"{name} from {low} to {high} is not a range")
            begin, end = math.floor(low * n + 1e-6), math.ceil(high * n - 1e-6)
            first.append(begin)
            shape.append(end - begin + 1)
        return cls(cast(Three, tuple(first)), cast(Three, tuple(shape)), cast(Three, (*per_unit,)))

    @classmethod
    def parse(cls, text: str) -> Grid:
        """Read a grid as it is typed: ``h0:h1[:step],k0:k1[:step],l0:l1[:step]``.

        Examples
        --------
        >>> Grid.parse("-2:2:0.05,-2:2:0.05,0:1:0.1").shape
        (81, 81, 11)
        """
        ranges: list[tuple[float, float]] = []
        steps: list[float] = []
        try:
            for part in text.split(","):
                numbers = [float(Fraction(number)) for number in part.split(":")]
                if len(numbers) not in (2, 3):
                    raise ValueError(part)
                ranges.append((numbers[0], numbers[1]))
                steps.append(numbers[2] if len(numbers) == 3 else 0.05)
            h, k, l = ranges  # noqa: E741
        except (ValueError, ZeroDivisionError):
            raise ReductionError(
                f"{text!r} is not a grid: write h0:h1:step,k0:k1:step,l0:l1:step, "
                "as -5:5:0.05,-5:5:0.05,-5:5:0.05"
            ) from None
        return cls.box(h, k, l, step=steps)

    @classmethod
    def covering(
        cls,
        geometry: Geometry,
        sweep: Sweep,
        UB: Any,
        *,
        step: float | Sequence[float] | None = None,
        cell: float = 0.01,
    ) -> Grid:
        """Make the smallest grid that holds all that a sweep sees.

        Parameters
        ----------
        geometry
            Beam, panel and goniometer.
        sweep
            The rotation.
        UB
            Orientation matrix, Å⁻¹ without 2π.
        step
            r.l.u., one or three; 1/integer.
        cell
            Without ``step``: smallest size of a cell, Å⁻¹ without 2π.
        """
        if step is None:
            lengths = np.linalg.norm(np.asarray(UB, np.float64), axis=0)
            step = [1.0 / _finest(float(length), cell) for length in lengths]
        low, high = extent(geometry, sweep, UB)
        margin = [float(s) for s in (step if isinstance(step, Sequence) else [step] * 3)]
        ranges = [
            (float(a) - 0.5 * m, float(b) + 0.5 * m)
            for a, b, m in zip(low, high, margin, strict=True)
        ]
        return cls.box(ranges[0], ranges[1], ranges[2], step=step)

    def __or__(self, other: Grid) -> Grid:
        """Make the smallest grid that holds both."""
        if self.per_unit != other.per_unit:
            raise ReductionError(
                f"grids of {self.per_unit} and {other.per_unit} cells per r.l.u. have no cell in "
                "common: give one step for both"
            )
        first = [min(a, b) for a, b in zip(self.first, other.first, strict=True)]
        end = [max(a, b) for a, b in zip(self.end, other.end, strict=True)]
        shape = [b - a for a, b in zip(first, end, strict=True)]
        return Grid(cast(Three, tuple(first)), cast(Three, tuple(shape)), self.per_unit)

    @property
    def end(self) -> Three:
        """One past the last label along h, k, l, in steps."""
        return cast(Three, tuple(a + n for a, n in zip(self.first, self.shape, strict=True)))

    @property
    def size(self) -> int:
        """How many cells."""
        return math.prod(self.shape)

    @property
    def step(self) -> tuple[float, float, float]:
        """Distance of neighbouring centres, r.l.u."""
        a, b, c = self.per_unit
        return 1.0 / a, 1.0 / b, 1.0 / c

    @property
    def h(self) -> Array:
        """Centres along h, r.l.u."""
        return self.axis(0)

    @property
    def k(self) -> Array:
        """Centres along k, r.l.u."""
        return self.axis(1)

    @property
    def l(self) -> Array:  # noqa: E743
        """Centres along l, r.l.u."""
        return self.axis(2)

    def axis(self, number: int) -> Array:
        """Centres along an axis, r.l.u.; 0 is h."""
        labels = np.arange(self.first[number], self.end[number])
        return labels / self.per_unit[number]

    def index(self, hkl: Any) -> tuple[int, int, int]:
        """Return the index of the cell in which a point lies.

        Raises
        ------
        ReductionError
            If it lies in none.

        Examples
        --------
        >>> Grid.box((-1, 1), (0, 2), (0, 0), step=0.5).index((0.1, 1.9, -0.2))
        (2, 4, 0)
        """
        where = [
            math.floor(float(x) * n + 0.5) - a
            for x, n, a in zip(hkl, self.per_unit, self.first, strict=True)
        ]
        if not all(0 <= i < n for i, n in zip(where, self.shape, strict=True)):
            raise ReductionError(f"hkl {tuple(map(float, hkl))} is outside {self}")
        return cast(Three, tuple(where))

    def around(self, hkl: Any, reach: float | Sequence[float]) -> tuple[slice, slice, slice]:
        """Return the slices of the cells that are at most ``reach`` r.l.u. from a point."""
        reaches = [reach] * 3 if isinstance(reach, (int, float)) else list(reach)
        slices = [
            slice(
                max(math.ceil((x - r) * n - 1e-9) - a, 0),
                max(min(math.floor((x + r) * n + 1e-9) + 1 - a, size), 0),
            )
            for x, r, n, a, size in zip(
                hkl, reaches, self.per_unit, self.first, self.shape, strict=True
            )
        ]
        return slices[0], slices[1], slices[2]

    def to_dict(self) -> dict[str, list[int]]:
        """Return as plain JSON types."""
        return {
            "first": list(self.first),
            "shape": list(self.shape),
            "per_unit": list(self.per_unit),
        }

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Grid:
        """Read what `to_dict` wrote."""
        try:
            return cls(tuple(mapping["first"]), tuple(mapping["shape"]), tuple(mapping["per_unit"]))
        except (KeyError, TypeError, ValueError):
            raise ReductionError(f"{mapping!r} is not a grid") from None

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {axis[0]:g} to {axis[-1]:g} in {len(axis)} cells of 1/{n}"
            for name, axis, n in zip(NAMES, (self.h, self.k, self.l), self.per_unit, strict=True)
        )


def extent(geometry: Geometry, sweep: Sweep, UB: Any) -> tuple[Array, Array]:
    """Return the range in hkl that a sweep sees.

    Parameters
    ----------
    geometry, sweep, UB
        As for `Grid.covering`.

    Returns
    -------
    low, high
        r.l.u., each of shape (3,).
    """
    rows, columns = geometry.panel.shape
    x = np.linspace(0, columns, 41)
    y = np.linspace(0, rows, 41)
    met = geometry.direct_beam()
    if met is not None:  # where q turns back
        x, y = np.append(x, np.clip(met[0], 0, columns)), np.append(y, np.clip(met[1], 0, rows))
    edges = sweep.edges
    n = min(len(edges), max(math.ceil(abs(edges[-1] - edges[0])) + 1, 2))
    angles = np.interp(np.linspace(0, len(edges) - 1, n), np.arange(len(edges)), edges)
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    xx, yy = np.meshgrid(x, y)
    for angle in angles:
        hkl = q_to_hkl(geometry.q(xx, yy, angle), UB).reshape(-1, 3)
        low, high = np.minimum(low, hkl.min(axis=0)), np.maximum(high, hkl.max(axis=0))
    # between two angles the path is an arc, at most a degree long
    sag = 0.5 * np.abs(high - low) * math.radians(1.0) ** 2
    return low - sag, high + sag


def _per_unit(step: float) -> int:
    if not (math.isfinite(step) and 0 < step <= 1):
        raise ReductionError(f"step {step} is not between 0 and 1 r.l.u.")
    n = round(1.0 / step)
    if abs(n * step - 1.0) > 1e-4:
        raise ReductionError(
            f"step {step} is not 1/integer, so Bragg peaks would not be centred in cells: "
            f"take {1.0 / n:.6g} (1/{n})"
        )
    return n


def _finest(length: float, cell: float) -> int:
    """Cells per unit, so that each is at least ``cell`` long."""
    return max((n for n in _STEPS if length * 1.001 >= n * cell), default=1)
