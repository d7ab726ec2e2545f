"""Twins whose lattices share points: what indexed reflections tell of them, and what they cannot.

A twin whose operation is one of the lattice's metric, but not of the crystal, has its reflections
on points of a lattice that both domains share (International Tables C, 2004, 1.3). Of an R crystal
turned by 180° about c, a third falls on reflections of the first domain, and the rest on points
that the centring forbids: the lattice explains all peaks, and the twin goes unseen unless they are
compared with the centring.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.lattice import direct_basis
from offbragg.reduction.bravais import (
    CENTRINGS,
    angle_of,
    bravais_lattices,
    cell_of,
    lattice_operations,
    primitive_basis,
    reduce,
)
from offbragg.reduction.search import primitive

Array = NDArray[Any]
Whole = NDArray[np.int64]

_METRIC = 1.5  # degree by which a twin operation may miss the lattice
_EXPLAINED = 0.8  # of the reflections that break a centring: then it is this twin
_UNION = 0.96  # of the indexed reflections: then they lie on superposed lattices
_SINGLE = 0.92  # of them, at most, on one of those
_FILLED = 0.8  # of the points of the common lattice: if they have more, absences are not evidence
_LAW = 1.0  # degree by which axis and angle of a twin law may be off

RULES: dict[str, tuple[str, Callable[[Whole], NDArray[np.bool_]]]] = {
    "P": ("none", lambda hkl: np.ones(len(hkl), np.bool_)),
    "A": ("k + l = 2n", lambda hkl: (hkl[:, 1] + hkl[:, 2]) % 2 == 0),
    "B": ("h + l = 2n", lambda hkl: (hkl[:, 0] + hkl[:, 2]) % 2 == 0),
    "C": ("h + k = 2n", lambda hkl: (hkl[:, 0] + hkl[:, 1]) % 2 == 0),
    "I": ("h + k + l = 2n", lambda hkl: hkl.sum(axis=1) % 2 == 0),
    "F": (
        "h, k, l all even or all odd",
        lambda hkl: (hkl % 2 == hkl[:, :1] % 2).all(axis=1),
    ),
    "R": ("−h + k + l = 3n", lambda hkl: (-hkl[:, 0] + hkl[:, 1] + hkl[:, 2]) % 3 == 0),
    "R reverse": ("h − k + l = 3n", lambda hkl: (hkl[:, 0] - hkl[:, 1] + hkl[:, 2]) % 3 == 0),
}
"""What each centring asks of a reflection: in words, and of whole hkl of shape (n, 3)."""


@dataclass(frozen=True, slots=True)
class CentringCheck:
    """How many indexed reflections a centring forbids, and the twin that would explain them.

    Parameters
    ----------
    centring
        Letter; ``R`` is obverse.
    rule
        What a reflection must obey, in words.
    broken, of
        How many of the indexed reflections break it.
    by_chance
        How many stray peaks would.
    operation
        The twin operation, in words; empty if none explains them.
    explained
        How many of the broken ones obey the rule after it.
    """

    centring: str
    rule: str
    broken: int
    of: int
    by_chance: float
    operation: str = ""
    explained: int = 0

    @property
    def doubtful(self) -> bool:
        """Return whether more reflections break the rule than stray peaks would."""
        return self.broken > self.by_chance + 4.0 * math.sqrt(self.by_chance) + 3.0

    def __str__(self) -> str:
        kind = {"R": "R, obverse"}.get(self.centring, self.centring)
        text = (
            f"{self.broken} of {self.of} indexed peaks break {self.rule}, the rule of centring "
            f"{kind} ({self.by_chance:.0f} would by chance)"
        )
        if not self.operation:
            return (
                f"{text}, and no twin of this lattice explains them: is it another centring? Try "
                "--centring P, or --unknown-cell"
            )
        twin = "an obverse/reverse twin" if self.centring == "R" else "a twin"
        return f"{text}; {self.explained} of them obey it after {self.operation}: {twin}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "centring": self.centring, "rule": self.rule, "broken": self.broken, "of": self.of,
            "by_chance": round(self.by_chance, 1), "operation": self.operation,
            "explained": self.explained,
        }  # fmt: skip


def check_centring(
    hkl: Array, centring: str, lattice: Sequence[float], *, strays: float = 0.0
) -> CentringCheck:
    """Compare indexed reflections with a centring, and look for the twin that explains the rest.

    Parameters
    ----------
    hkl
        Of the indexed peaks, whole numbers on the axes of ``lattice``, shape (n, 3).
    centring
        One of `RULES`.
    lattice
        a, b, c in Å and alpha, beta, gamma in degree: its metric says which twins there can be.
    strays
        How many peaks are expected to be indexed by chance.

    Examples
    --------
    >>> hkl = np.array([[1, 0, 1], [-1, 1, 1], [0, 0, 3], [0, 1, 1]])
    >>> check = check_centring(hkl, "R", (5.0, 5.0, 13.0, 90.0, 90.0, 120.0))
    >>> check.broken, check.operation
    (1, 'a twofold turn about [001] (h k l → −h −k l)')
    """
    rule, obeys = RULES[centring]
    whole = np.rint(hkl).astype(np.int64)
    broken = whole[~obeys(whole)]
    by_chance = strays * (1.0 - 1.0 / _multiplicity(centring))
    check = CentringCheck(centring, rule, len(broken), len(whole), by_chance)
    if not len(broken):
        return check
    explained, operation = 0, None
    for w in sorted(metric_operations(lattice), key=_simplicity):
        count = int(obeys(broken @ w).sum())
        if count > explained:
            explained, operation = count, w
    if operation is None or explained < _EXPLAINED * max(len(broken) - by_chance, 1.0):
        return check
    return replace(check, operation=describe(operation), explained=explained)


def metric_operations(lattice: Sequence[float], within: float = _METRIC) -> Whole:
    """Return the rotations of a cell's own metric, on its axes, without centring, (n, 3, 3)."""
    basis, change = reduce(direct_basis(lattice))
    inverse = np.linalg.inv(change)
    return np.rint(inverse @ lattice_operations(basis, within) @ change).astype(np.int64)


def _multiplicity(centring: str) -> int:
    return 1 + len(CENTRINGS[centring[0]])


def _order(w: Whole) -> int:
    return {3: 1, -1: 2, 0: 3, 1: 4, 2: 6}[int(np.trace(w))]


def _axis(w: Array) -> Whole | None:
    """Return the direction [uvw] about which a rotation turns; None if its indices are large."""
    values, vectors = np.linalg.eig(w)
    axis = np.real(vectors[:, int(np.argmin(np.abs(values - 1.0)))])
    axis = axis / np.abs(axis).max()
    for m in range(1, 7):
        whole = np.rint(axis * m).astype(np.int64)
        if np.abs(axis * m - whole).max() < 0.03 * m:
            return whole if whole[np.flatnonzero(whole)[0]] > 0 else -whole
    return None


def _simplicity(w: Array) -> tuple[float, ...]:
    """Order rotations: twofold before others, about an axis of the cell, c first."""
    axis = _axis(w)
    if axis is None:
        return (9.0,)
    return (float(np.trace(w)), float(np.abs(axis).sum()), *(float(-x) for x in axis[::-1]))


def describe(w: Whole) -> str:
    """Name a rotation of a lattice: its order, its axis, and what it makes of h, k, l."""
    turns = {2: "a twofold turn", 3: "a threefold turn", 4: "a fourfold turn", 6: "a sixfold turn"}
    axis = _axis(w)
    if _order(w) == 1 or axis is None:
        return "no turn"
    image = " ".join(_sum(column) for column in w.T)  # hkl is a row: h' = h W
    return f"{turns[_order(w)]} about {_direction(axis)} (h k l → {image})"


def _sum(factors: Whole) -> str:
    terms: list[str] = []
    for factor, name in zip(factors, "hkl", strict=True):
        if factor:
            size = "" if abs(factor) == 1 else str(abs(int(factor)))
            sign = "−" if factor < 0 else "+" if terms else ""
            terms.append(f"{sign}{size}{name}")
    return "".join(terms) or "0"


def _direction(axis: Whole, brackets: str = "[]") -> str:
    plain = all(0 <= x <= 9 for x in axis)
    inside = ("" if plain else " ").join(str(int(x)).replace("-", "−") for x in axis)
    return f"{brackets[0]}{inside}{brackets[1]}"


# ---- superposed lattices -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Superposed:
    """Lattices that only together explain the reflections of one that was found.

    Parameters
    ----------
    lattices
        How many.
    times
        How much smaller the primitive cell of each is.
    name, cell
        Bravais lattice and conventional cell of each.
    together, of
        How many of the indexed reflections lie on them.
    alone
        How many on the one that has most.
    filled
        Share of the points of the common lattice that they have.
    operation
        What takes one to the next, in words.
    """

    lattices: int
    times: int
    name: str
    cell: tuple[float, ...]
    together: int
    of: int
    alone: int
    filled: float
    operation: str

    def __str__(self) -> str:
        cell = ",".join(f"{x:.5g}" for x in self.cell)
        return (
            f"{self.together} of {self.of} indexed peaks lie on {self.lattices} superposed "
            f"lattices {self.name} with a {self.times} times smaller primitive cell "
            f"({self.alone} on one of them; together they have {self.filled:.0%} of the points): "
            f"a twin by {self.operation}? Try --cell {cell} --centring {self.name[1]}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "lattices": self.lattices, "times": self.times, "bravais": self.name,
            "lattice": [round(float(x), 4) for x in self.cell], "together": self.together,
            "of": self.of, "alone": self.alone, "filled": round(self.filled, 4),
            "operation": self.operation,
        }  # fmt: skip


def find_superposed(q: Array, basis: Array) -> Superposed | None:
    """Look whether reflections lie on several smaller-celled lattices that a metric makes one.

    Parameters
    ----------
    q
        Of the indexed peaks, Å⁻¹, shape (n, 3).
    basis
        Direct basis of a primitive cell that indexes them, Å, columns.
    """
    basis = primitive(q, basis)
    basis, _ = reduce(basis * np.sign(np.linalg.det(basis)))
    hkl = np.rint(q @ basis).astype(np.int64)
    hkl = hkl[np.any(hkl != 0, axis=1)]
    n = len(hkl)
    if n < 30:
        return None
    operations = sorted(lattice_operations(basis, _METRIC), key=_simplicity)  # the simplest first
    best: tuple[float, int] | None = None
    found: Superposed | None = None
    for modulus, rules in _sublattices():
        cosets = np.array(list(itertools.product(range(modulus), repeat=3)), np.int64)
        place = np.array([modulus**2, modulus, 1])
        populated = np.bincount((hkl % modulus) @ place, minlength=modulus**3)
        turned = [((cosets @ w) % modulus) @ place for w in operations]
        done: set[bytes] = set()
        for rule in rules:
            mask = np.all([(cosets @ v) % modulus == 0 for v in rule], axis=0)
            if mask.tobytes() in done:
                continue
            images = [mask[where] for where in turned]
            orbit = {image.tobytes(): image for image in images}
            done |= set(orbit)
            union = np.any(list(orbit.values()), axis=0)
            filled = float(union.mean())
            if len(orbit) == 1 or filled > _FILLED or (1.0 - filled) * n < 12:
                continue
            together = int(populated[union].sum())
            alone, which = max((int(populated[image].sum()), i) for i, image in enumerate(images))
            if together < _UNION * n or alone > _SINGLE * together:
                continue
            # the emptiest union says most, and of equal ones that of the fewest rules
            if best is not None and (filled, modulus) >= best:
                continue
            best = filled, modulus
            main = images[which]
            between = next(
                w for w, where in zip(operations, turned, strict=True)
                if np.any(main[where] != main)
            )  # fmt: skip
            finer = _finer(basis, [operations[which] @ v for v in rule], modulus)
            bravais = bravais_lattices(finer, within=0.05)[0]
            axes = finer @ bravais.change
            onto = np.linalg.inv(axes) @ basis  # from the coordinates of one to the other
            found = Superposed(
                len(orbit), round(float(np.linalg.det(basis) / np.linalg.det(finer))),
                bravais.name, cell_of(axes), together, n, alone, filled,
                _describe_turn(onto @ between @ np.linalg.inv(onto)),
            )  # fmt: skip
    return found


def _sublattices() -> list[tuple[int, list[list[Whole]]]]:
    """Return the sublattices of index 2, 3, 4, 9 as rules h · v ≡ 0 (mod m), one or two."""
    found: list[tuple[int, list[list[Whole]]]] = []
    for modulus in (2, 3, 4):
        v = np.array(list(itertools.product(range(modulus), repeat=3)), np.int64)[1:]
        first = v[np.arange(len(v)), np.argmax(v % 2 != 0 if modulus == 4 else v != 0, axis=1)]
        v = v[first == 1]
        rules = [[each] for each in v]
        if modulus != 4:
            rules += [list(pair) for pair in itertools.combinations(v, 2)]
        found.append((modulus, rules))
    return found


def _finer(basis: Array, rule: Sequence[Array], modulus: int) -> Array:
    """Return the direct lattice of the reciprocal vectors that obey a rule: with basis · v / m."""
    columns = [*basis.T, *(basis @ (np.asarray(v) % modulus) / modulus for v in rule)]
    volume = abs(float(np.linalg.det(basis))) / modulus ** len(rule)
    for chosen in itertools.combinations(columns, 3):
        candidate = np.column_stack(chosen)
        got = float(np.linalg.det(candidate))
        if abs(abs(got) / volume - 1.0) < 1e-6:
            return reduce(candidate if got > 0 else -candidate)[0]
    return basis


def _describe_turn(w: Array) -> str:
    """Name a rotation given on some axes, whole numbers or not."""
    nearest = np.rint(w).astype(np.int64)
    if np.abs(w - nearest).max() < 0.02 and int(np.trace(nearest)) in (-1, 0, 1, 2):
        return describe(nearest)
    axis = _axis(w)
    about = "" if axis is None else f" about {_direction(axis)}"
    return f"a turn of {angle_of(w):.0f}°{about}"


# ---- what positions cannot tell, and laws of lattices that are seen apart ---------------------


def hidden_twins(
    lattice: Sequence[float], centring: str, operations: Whole, within: float = _METRIC
) -> tuple[int, list[tuple[str, float]]]:
    """Find the rotations of a lattice that a crystal lacks: twins by them share all points.

    Parameters
    ----------
    lattice, centring
        The conventional cell.
    operations
        Proper rotations of the crystal's Laue class on hkl, columns, shape (n, 3, 3).
    within
        How far from exact, degree.

    Returns
    -------
    domains
        How many orientations the crystal can have in this lattice, itself included.
    missing
        One operation of each other domain, in words, with how far it is from a symmetry, degree.
    """
    given, change = primitive_basis(lattice, centring)
    turned = np.linalg.inv(change) @ lattice_operations(given, within) @ change
    own = [np.rint(np.linalg.inv(w).T) for w in operations]  # on coordinates

    def key(w: Array) -> bytes:
        return np.rint(12 * w).astype(np.int64).tobytes()  # centred axes: halves, thirds, quarters

    seen = {key(w) for w in own}
    missing: list[tuple[str, float]] = []
    for w in turned:
        if key(w) in seen:
            continue
        mates = [w @ each for each in own]
        seen |= {key(each) for each in mates}
        simplest = min(mates, key=_simplicity)
        missing.append((_describe_turn(simplest), _obliquity(simplest, direct_basis(lattice))))
    return 1 + len(missing), missing


def _obliquity(w: Array, basis: Array) -> float:
    """Return how far an operation is from a symmetry of a lattice, degree of its worst shear."""
    deformed = basis @ w @ np.linalg.inv(basis)
    _, s, _ = np.linalg.svd(deformed)
    return math.degrees(math.log(float(s[0] / s[-1])) / 2.0)


def twin_law(turn: Array, basis: Array, own: Whole, axes: Array) -> str:
    """Name the law by which a second lattice follows from the first, if it is a simple one.

    Parameters
    ----------
    turn
        Rotation from the first to the second, shape (3, 3).
    basis
        Direct basis of the first, Å, columns.
    own
        Rotations of the lattice that it has exactly, on coordinates, shape (n, 3, 3).
    axes
        Direct basis on which the law is given, of the conventional cell, Å, columns.

    Returns
    -------
    law
        As ``180° about [110]`` or ``180° about the normal of (111)``; empty if there is none, or if
        the second is the first, turned by less than 2.5°.
    """
    inverse = np.linalg.inv(basis)
    indices = np.array([v for v in itertools.product(range(-2, 3), repeat=3) if any(v)], np.int64)
    indices = indices[[math.gcd(*(int(x) for x in v)) == 1 for v in indices]]
    indices = indices[[v[np.flatnonzero(v)[0]] > 0 for v in indices]]
    choices = [
        ("[]", indices @ axes.T, "about "),
        ("()", indices @ np.linalg.inv(axes), "about the normal of "),
    ]
    best: tuple[float, str] | None = None
    for w in own:
        candidate = turn @ basis @ w @ inverse
        u, _, v = np.linalg.svd(candidate)
        candidate = u @ v
        angle = angle_of(candidate)
        if angle < 2.5 * _LAW:
            return ""  # the same lattice, a little turned: its own rotations are not a law
        nearest = min((60.0, 90.0, 120.0, 180.0), key=lambda each: abs(each - angle))
        if abs(nearest - angle) > _LAW:
            continue
        values, vectors = np.linalg.eig(candidate)
        axis = np.real(vectors[:, int(np.argmin(np.abs(values - 1.0)))])
        axis = axis / np.linalg.norm(axis)
        for brackets, directions, words in choices:
            unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
            off = np.rad2deg(np.arccos(np.clip(np.abs(unit @ axis), 0.0, 1.0)))
            for i in np.flatnonzero(off < _LAW):
                size = float(np.abs(indices[i]).sum())
                cost = size + 0.3 * abs(180.0 - nearest) / 60.0 + 0.5 * (brackets == "()")
                cost += 0.5 * float(off[i])
                if best is None or cost < best[0]:
                    law = f"{nearest:.0f}° {words}{_direction(indices[i], brackets)}"
                    best = cost, law
    return "" if best is None else best[1]
