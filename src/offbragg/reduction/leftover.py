"""Peaks that a lattice does not explain: superlattice reflections, and rings of powder or ice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.reduction.refinement import Refined

Array = NDArray[Any]

_AT = 0.05  # of a reciprocal-lattice unit: so near a simple fraction
_RING = 0.006  # relative width of a shell of |q|
_SAME = 0.8  # degree between a peak and the opposite of another that are a pair of Friedel's
_NEAR = 1.5  # degree between peaks that may be one reflection
_FURTHEST = (5.0, 8.0, 12.0)  # degree up to which others are counted: two of a lattice lie apart
_TELLING = 8.0  # pairs that chance must make before their number tells anything


@dataclass(frozen=True, slots=True, eq=False)
class Superlattice:
    """Peaks at simple fractions of a lattice.

    Parameters
    ----------
    which
        Of all peaks, shape (n,).
    denominator
        2, 3 or 4: they lie at n/2, n/3 or n/4.
    by_chance
        How many of the peaks that are left would lie there by chance.
    kinds
        Points in one cell, each a triple of numerators, and how many peaks lie there; most first.
    """

    which: NDArray[np.bool_]
    denominator: int
    by_chance: float
    kinds: tuple[tuple[tuple[int, int, int], int], ...]

    @property
    def count(self) -> int:
        """Number of peaks."""
        return int(self.which.sum())

    def __str__(self) -> str:
        m = self.denominator
        points = [
            f"({' '.join('0' if x == 0 else f'{x}/{m}' for x in numerators)})"
            for numerators, _ in self.kinds
        ]
        others = ", ".join(
            f"{count} at {point}"
            for point, (_, count) in zip(points[1:4], self.kinds[1:4], strict=True)
        )
        return (
            f"{self.count} of {len(self.which)} peaks lie at fractions n/{m} of this lattice, most "
            f"at {points[0]}" + (f" ({self.kinds[0][1]}; {others})" if others else "")
            + ": superlattice reflections? The cell without them was kept"
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "peaks": self.count, "denominator": self.denominator,
            "by_chance": round(self.by_chance, 1),
            "at": [{"numerators": list(point), "peaks": n} for point, n in self.kinds[:12]],
        }  # fmt: skip


def find_superlattice(refined: Refined) -> Superlattice | None:
    """Look whether peaks that are left lie at simple fractions of the lattice.

    Of halves, thirds and quarters, the first that explains far more than chance; a later one only
    if it explains many more.
    """
    rest = np.flatnonzero(~refined.indexed)
    if len(rest) < 12:
        return None
    h = refined.spots.q[rest] @ np.linalg.inv(refined.UB).T
    away = np.abs(h - np.rint(h)).max(axis=1)
    best: Superlattice | None = None
    for m in (2, 3, 4):
        fraction = np.rint(h * m)
        near = (np.abs(h - fraction / m).max(axis=1) < _AT) & (away > 0.15)
        by_chance = (m**3 - 1) * (2.0 * _AT) ** 3 * len(rest)
        if near.sum() <= by_chance + 6.0 * math.sqrt(by_chance) + 8:
            continue
        if best is not None and near.sum() - by_chance < 1.3 * (best.count - best.by_chance):
            continue
        points, counts = np.unique(fraction[near].astype(int) % m, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        kinds = tuple(
            ((int(points[i, 0]), int(points[i, 1]), int(points[i, 2])), int(counts[i]))
            for i in order
        )
        which = np.zeros(len(refined.indexed), np.bool_)
        which[rest[near]] = True
        best = Superlattice(which, m, by_chance, kinds)
    return best


@dataclass(frozen=True, slots=True)
class Shells:
    """Thin shells of |q| that hold far more peaks than what lies between.

    ``rings`` says whether the peaks on them lie anywhere, as of powder or ice; False if they lie
    at few, separate directions, as equivalent reflections of a crystal do; None if they are too
    few to tell.
    """

    count: int
    spacings: tuple[float, ...]
    rings: bool | None

    def __str__(self) -> str:
        where = (
            f"{self.count} of the peaks lie on {len(self.spacings)} thin shells, d = "
            f"{', '.join(f'{d:.2f}' for d in self.spacings[:5])} Å"
        )
        if self.rings is None:
            return f"{where}: powder, ice, or equivalent reflections of a crystal? "
        if self.rings:
            return f"{where}, in all directions: powder or ice? "
        return (
            f"{where}, but in separate directions: not powder or ice, but reflections of a crystal "
            "of high symmetry, of several crystals, or satellites around them. "
        )


def find_shells(q: Array) -> Shells | None:
    """Look for shells, and whether they are rings of powder or equivalent reflections.

    Peaks of a powder lie anywhere on a shell, so pairs of them are near each other as often as
    chance has it. Reflections of a crystal with the same |q| lie at opposite points, and else
    far from each other.
    """
    length = np.linalg.norm(q, axis=1)
    if len(q) < 12 or not length.max() > 0:
        return None
    edges = np.exp(np.arange(math.log(max(length.min(), 1e-3)), math.log(length.max()), _RING))
    if edges.size < 12:
        return None
    counts, _ = np.histogram(length, edges)
    usual = np.mean(counts)
    full = np.flatnonzero(counts > 6.0 * usual + 5)
    if not full.size or counts[full].sum() < 0.3 * len(q):
        return None
    ordered = full[np.argsort(-counts[full])]
    shells = [q[(length >= edges[i]) & (length < edges[i + 1])][:500] for i in ordered[:12]]
    spacings = tuple(float(2.0 / (edges[i] + edges[i + 1])) for i in ordered)
    return Shells(int(counts[full].sum()), spacings, _are_rings(shells))


def _are_rings(shells: list[Array]) -> bool | None:
    """Return whether peaks of each shell lie anywhere on it; None if they are too few to tell."""
    cosines: list[Array] = []
    mated, by_chance, total = 0, 0.0, 0
    same = math.cos(math.radians(_SAME))
    for some in shells:
        unit = some / np.linalg.norm(some, axis=1, keepdims=True)
        cosine = unit @ unit.T
        # the mate of Friedel: a reflection's opposite is one of the same crystal
        mated += int(np.any(cosine < -same, axis=1).sum())
        by_chance += len(unit) ** 2 * 0.5 * (1.0 - same)
        # a peak, and the same one again or its other half, are one direction
        first = ~np.any(np.tril(cosine >= math.cos(math.radians(_NEAR)), -1), axis=1)
        cosines.append(cosine[np.ix_(first, first)])
        total += len(unit)
    if mated > 3.0 * by_chance + 6.0 and mated > 0.15 * total:
        return False
    for furthest in _FURTHEST:
        low, high = (math.cos(math.radians(each)) for each in (furthest, _NEAR))
        pairs = sum(int(np.sum((c > low) & (c < high))) // 2 for c in cosines)
        expected = sum(0.25 * len(c) * (len(c) - 1) * (high - low) for c in cosines)
        if expected >= _TELLING:
            return pairs > 0.4 * expected
    return None
