"""What a lattice is called: reduced cell, lattice symmetry, conventional cell, and a given one.

A basis is a matrix of column vectors. Basis changes are integer matrices that are multiplied from
the right; symmetry operations are integer matrices on coordinates, x' = W x, so that
Wᵀ G W = G for the metric G.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gemmi
import numpy as np
from numpy.typing import NDArray

from offbragg.errors import OrientationError
from offbragg.lattice import direct_basis

Array = NDArray[Any]
Whole = NDArray[np.int64]

CENTRINGS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "P": (),
    "A": ((0.0, 0.5, 0.5),),
    "B": ((0.5, 0.0, 0.5),),
    "C": ((0.5, 0.5, 0.0),),
    "I": ((0.5, 0.5, 0.5),),
    "F": ((0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)),
    "R": ((2 / 3, 1 / 3, 1 / 3), (1 / 3, 2 / 3, 2 / 3)),
}
"""Centring translations; R on hexagonal axes, obverse."""

_LETTER = {1: "a", 2: "m", 4: "o", 6: "h", 8: "t", 12: "h", 24: "c"}
_SYSTEM = {
    1: "triclinic", 2: "monoclinic", 4: "orthorhombic", 6: "rhombohedral", 8: "tetragonal",
    12: "hexagonal", 24: "cubic",
}  # fmt: skip
_NEAR = np.array([x for x in itertools.product(range(-3, 4), repeat=3) if any(x)], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Bravais:
    """One name of a lattice, with its axes.

    Parameters
    ----------
    name
        Crystal family and centring: aP, mP, mC, oP, oC, oI, oF, tP, tI, hR, hP, cP, cI, cF.
    change
        Conventional basis = reduced basis @ change, shape (3, 3).
    operations
        Rotations of the lattice on the conventional axes, shape (n, 3, 3).
    """

    name: str
    change: Whole
    operations: Whole

    @property
    def system(self) -> str:
        """Crystal system of the lattice."""
        return _SYSTEM[len(self.operations)]

    @property
    def centring(self) -> str:
        """Letter of the centring."""
        return self.name[1]


def cell_of(basis: Array) -> tuple[float, float, float, float, float, float]:
    """Return lengths, Å, and angles, degree, of a direct basis."""
    metric = basis.T @ basis
    lengths = np.sqrt(np.diag(metric))
    a, b, c = (float(each) for each in lengths)
    alpha, beta, gamma = (
        math.degrees(math.acos(max(-1.0, min(1.0, metric[i, j] / lengths[i] / lengths[j]))))
        for i, j in ((1, 2), (0, 2), (0, 1))
    )
    return a, b, c, alpha, beta, gamma


def _rows(operation: gemmi.Op) -> Whole:
    return np.rint(np.array(operation.rot, np.float64) / gemmi.Op.DEN).astype(np.int64)


def reduce(basis: Array) -> tuple[Array, Whole]:
    """Return the reduced basis after Niggli, and the basis change to it; handedness is kept.

    By gemmi: Křivý & Gruber, Acta Cryst. A32, 297 (1976), made stable after Grosse-Kunstleve,
    Sauter & Adams, Acta Cryst. A60, 1 (2004).

    Examples
    --------
    >>> basis, change = reduce(np.array([[4.0, 4.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 6.0]]))
    >>> [round(x, 6) for x in cell_of(basis)]
    [4.0, 5.0, 6.0, 90.0, 90.0, 90.0]
    """
    change = np.eye(3, dtype=np.int64)
    for _ in range(20):  # gemmi wants a cell, and a very oblique one has none to many digits
        u = basis @ change
        lengths = np.linalg.norm(u, axis=0)
        i = int(np.argmax(lengths))
        better = False
        for j in range(3):
            if j != i:
                n = round(float(u[:, i] @ u[:, j] / lengths[j] ** 2))
                if n:
                    change[:, i] -= n * change[:, j]
                    better = True
                    break
        if not better:
            break
    vector = gemmi.GruberVector(
        gemmi.UnitCell(*cell_of(basis @ change)), "P", track_change_of_basis=True
    )
    vector.niggli_reduce()
    operation = vector.change_of_basis
    assert operation is not None
    niggli: Any = vector.get_cell()
    wanted = np.array(niggli.parameters)
    for candidate in (_rows(operation), _rows(operation.inverse())):
        for step in (candidate, candidate.T):
            got = np.array(cell_of(basis @ change @ step))
            if np.allclose(got, wanted, rtol=1e-6, atol=1e-5):
                change = change @ step
                if np.linalg.det(change) < 0:
                    change = -change
                return basis @ change, change
    raise OrientationError(f"the cell {cell_of(basis)} cannot be reduced")


def primitive_basis(lattice: Sequence[float], centring: str = "P") -> tuple[Array, Array]:
    """Return the reduced primitive basis of a conventional cell, and the change back to that cell.

    Returns
    -------
    basis
        Å, columns, shape (3, 3), right-handed.
    change
        Conventional basis = basis @ change; whole numbers.
    """
    if centring not in CENTRINGS:
        raise OrientationError(f"centring {centring!r} is unknown: one of {', '.join(CENTRINGS)}")
    conventional = direct_basis(lattice)
    fractions = np.vstack([np.eye(3), *(np.array([each]) for each in CENTRINGS[centring])])
    best: Array | None = None
    n = 1 + len(CENTRINGS[centring])
    for chosen in itertools.combinations(range(len(fractions)), 3):
        rows = fractions[list(chosen)]
        if abs(abs(np.linalg.det(rows)) - 1.0 / n) < 1e-6:
            best = rows.T if np.linalg.det(rows) > 0 else -rows.T
            break
    assert best is not None
    basis, _ = reduce(conventional @ best)
    change = np.linalg.solve(basis, conventional)
    return basis, np.rint(change).astype(np.int64)


def lattice_operations(basis: Array, within: float) -> Whole:
    """Return the rotations that take a lattice to itself, or nearly so.

    From the two-fold axes after Le Page, J. Appl. Cryst. 15, 255 (1982), by gemmi.

    Parameters
    ----------
    basis
        Reduced, Å.
    within
        Angle between a lattice row and the normal of its net, degree.

    Returns
    -------
    operations
        On coordinates of ``basis``, shape (n, 3, 3).
    """
    cell = gemmi.UnitCell(*cell_of(basis))
    found = [_rows(operation) for operation, _ in gemmi.find_lattice_2fold_ops(cell, within)]
    metric = basis.T @ basis

    # gemmi's operations act on coordinates or on their transposes; the metric tells
    def misfit(w: Whole) -> float:
        return float(np.abs(w.T @ metric @ w - metric).max() / metric.max())

    found = [w if misfit(w) <= misfit(w.T) else w.T for w in found]
    return _group(found)


def _group(generators: Sequence[Whole]) -> Whole:
    one = np.eye(3, dtype=np.int64)
    elements = {one.tobytes(): one}
    fresh = [one]
    while fresh and len(elements) <= 24:
        coming: list[Whole] = []
        for a in fresh:
            for b in generators:
                c = np.ascontiguousarray(a @ b)
                if c.tobytes() not in elements:
                    elements[c.tobytes()] = c
                    coming.append(c)
        fresh = coming
    return np.array(sorted(elements.values(), key=lambda w: w.tolist(), reverse=True))


def symmetrise(metric: Array, operations: Whole) -> Array:
    """Average a metric over a group: the nearest one that has its symmetry."""
    return np.mean([w.T @ metric @ w for w in operations], axis=0)


def bravais_lattices(basis: Array, *, within: float = 2.0) -> list[Bravais]:
    """Return every Bravais lattice that a reduced basis could be, the most symmetric first.

    Those of the whole lattice symmetry and of its subgroups (Sauter, Grosse-Kunstleve & Adams,
    J. Appl. Cryst. 39, 158, 2006).

    Parameters
    ----------
    basis
        Reduced, Å.
    within
        How far from exact a two-fold axis may be, degree.
    """
    whole = lattice_operations(basis, within)
    while len(whole) not in _LETTER and within > 1e-3:  # no group: too generous for this cell
        within *= 0.7
        whole = lattice_operations(basis, within)
    twofold = [w for w in whole if np.trace(w) == -1]
    groups = [whole, _group([])]
    groups += [_group([w]) for w in twofold]
    groups += [_group(pair) for pair in itertools.combinations(twofold, 2)]
    metric = basis.T @ basis
    found: dict[bytes, Bravais] = {}
    for group in groups:
        if group.tobytes() not in found and len(group) in _LETTER:
            called = _conventional(symmetrise(metric, group), group)
            if called is not None:
                found[group.tobytes()] = called
    return sorted(found.values(), key=lambda each: -len(each.operations))


def _conventional(metric: Array, operations: Whole) -> Bravais | None:
    """Return conventional axes of a lattice with this symmetry; None if it has more than that."""
    length = np.einsum("ni,ij,nj->n", _NEAR, metric, _NEAR)
    order = np.argsort(length, kind="stable")
    near = _NEAR[order]

    def along(w: Whole) -> Whole:
        return near[np.all(near @ w.T == near, axis=1)][0]

    def across(axis: Whole) -> Whole:
        products = near @ metric @ axis
        scale = np.sqrt(length[order] * float(axis @ metric @ axis))
        return near[np.abs(products) < 1e-7 * scale]

    trace = np.trace(operations, axis1=1, axis2=2)
    turns = {n: operations[trace == t] for n, t in ((2, -1), (3, 0), (4, 1), (6, 2))}
    n = len(operations)
    if n == 1:
        axes = np.eye(3, dtype=np.int64)
    elif n == 2:
        b = along(turns[2][0])
        flat = across(b)
        a = flat[0]
        c = next(v for v in flat if np.any(np.cross(v, a)))
        if a @ metric @ c > 0:
            c = -c
        axes = np.column_stack([a, b, c])
    elif n == 4:
        if len(turns[2]) != 3:
            return None
        axes = np.column_stack(
            sorted((along(w) for w in turns[2]), key=lambda v: float(v @ metric @ v))
        )
    elif n == 24:
        fourfold = {tuple(axis.tolist()): axis for axis in map(along, turns[4])}
        axes = np.column_stack(list(fourfold.values()))
    else:
        most = {8: 4, 6: 3, 12: 3}[n]
        if not len(turns[most]):
            return None
        w = turns[most][0]
        c = along(w)
        a = across(c)[0]
        axes = np.column_stack([a, w @ a, c])
    if axes.shape != (3, 3):
        return None
    if np.linalg.det(axes) < 0:
        axes = axes * np.array([1, -1, 1]) if n == 2 else axes.copy()
        if n != 2:
            axes[:, 2] = -axes[:, 2]
    settled = _centred(axes, n)
    if settled is None:
        return None
    centring, axes = settled
    inverse = np.linalg.inv(axes)
    turned = np.rint(inverse @ operations @ axes).astype(np.int64)
    return Bravais(_LETTER[n] + centring, axes, turned)


def _centred(axes: Whole, n: int) -> tuple[str, Whole] | None:
    """Return the letter of the centring, with the axes put into their usual order for it."""
    volume = round(abs(float(np.linalg.det(axes))))
    if volume == 1:
        return None if n == 6 else ("P", axes)

    def has(*fraction: float) -> bool:
        at = axes @ np.array(fraction)
        return bool(np.allclose(at, np.rint(at), atol=1e-6))

    halves = {letter: all(has(*f) for f in CENTRINGS[letter]) for letter in "ABCIF"}
    if n in (6, 12):
        if n == 12 or volume != 3:
            return None
        if not has(*CENTRINGS["R"][0]):
            axes = axes * np.array([-1, -1, 1])
        return ("R", axes) if has(*CENTRINGS["R"][0]) else None
    if volume == 4:
        return ("F", axes) if halves["F"] and n in (4, 24) else None
    if volume != 2:
        return None
    if halves["I"]:
        if n != 2:
            return "I", axes
        a, b, c = axes.T
        return "C", np.column_stack([-a - c, b, a]) if _right(-a - c, b, a) else np.column_stack(
            [a + c, b, a]
        )
    if n == 2:
        a, b, c = axes.T
        if halves["A"]:
            return "C", np.column_stack([c, -b, a])
        return ("C", axes) if halves["C"] else None
    if n == 4:
        a, b, c = axes.T
        if halves["C"]:
            return "C", axes
        if halves["A"]:
            return "C", np.column_stack([b, c, a])
        if halves["B"]:
            return "C", np.column_stack([a, -c, b])
    return None


def _right(a: Whole, b: Whole, c: Whole) -> bool:
    return bool(np.linalg.det(np.column_stack([a, b, c])) > 0)


def free_metrics(operations: Whole) -> Array:
    """Return the basis of the metrics that a group leaves free, shape (k, 3, 3).

    k is 1 (cubic) to 6 (triclinic).

    Examples
    --------
    >>> len(free_metrics(np.eye(3, dtype=np.int64)[None]))
    6
    """
    units: list[Array] = []
    for i in range(3):
        for j in range(i, 3):
            unit = np.zeros((3, 3))
            unit[i, j] = unit[j, i] = 1.0
            units.append(symmetrise(unit, operations))
    flat = np.array([unit[np.triu_indices(3)] for unit in units])
    _, singular, rows = np.linalg.svd(flat)
    free: list[Array] = []
    for row in rows[: int(np.sum(singular > 1e-9))]:
        unit = np.zeros((3, 3))
        unit[np.triu_indices(3)] = row
        free.append(unit + unit.T - np.diag(np.diag(unit)))
    return np.array(free)


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """One way to lay a given cell into a lattice.

    ``basis`` is the given cell as found, Å; ``strain`` how much it differs from the given one,
    root mean square of the principal strains; ``turn`` the rotation U of Busing & Levy's UB.
    """

    basis: Array
    strain: float
    turn: Array


def matches(
    basis: Array, lattice: Sequence[float], centring: str = "P", *, within: float = 0.03
) -> list[Match]:
    """Return every way in which a lattice is the given one, right-handed, the best first.

    Parameters
    ----------
    basis
        Reduced basis that was found, Å.
    lattice
        The given conventional cell.
    centring
        Its centring.
    within
        Largest relative difference of a length.
    """
    given, change = primitive_basis(lattice, centring)
    vectors = basis @ _NEAR.T
    lengths = np.linalg.norm(vectors, axis=0)
    sides = [
        np.flatnonzero(np.abs(lengths / np.linalg.norm(given[:, i]) - 1.0) < within)
        for i in range(3)
    ]
    goal = given.T @ given
    scale = np.sqrt(np.outer(np.diag(goal), np.diag(goal)))
    found: list[Match] = []
    conventional = direct_basis(lattice)
    for i, j in itertools.product(sides[0], sides[1]):
        if abs(vectors[:, i] @ vectors[:, j] - goal[0, 1]) > 2 * within * scale[0, 1]:
            continue
        for k in sides[2]:
            chosen = vectors[:, [i, j, k]]
            metric = chosen.T @ chosen
            if np.any(np.abs(metric - goal) > 2 * within * scale) or np.linalg.det(chosen) <= 0:
                continue
            whole = np.column_stack([_NEAR[i], _NEAR[j], _NEAR[k]])
            if round(float(np.linalg.det(whole))) != 1:
                continue
            laid = chosen @ change
            deformed = laid @ np.linalg.inv(conventional)
            u, s, v = np.linalg.svd(deformed)
            strain = float(np.sqrt(np.mean((s - 1.0) ** 2)))
            if np.max(np.abs(s - 1.0)) < within:
                found.append(Match(laid, strain, u @ v))
    return sorted(found, key=lambda each: each.strain)


SAME_CELL = 0.03  # of a length
SAME_ANGLE = 2.0  # degree


def same_lattice(
    one: Sequence[float], other: Sequence[float], space_group: str | None = None
) -> bool:
    """Return whether two cells are of one lattice, on whatever axes and however centred.

    Parameters
    ----------
    one, other
        a, b, c in Å and alpha, beta, gamma in degree.
    space_group
        Of the first, Hermann–Mauguin: its letter is the centring, if the cell is not primitive;
        None: it could be any. That of the other is not known.

    Examples
    --------
    >>> cubic = (4.0, 4.0, 4.0, 90.0, 90.0, 90.0)
    >>> same_lattice(cubic, (4.0, 4.0, 5.0, 90.0, 90.0, 90.0), "P m -3 m")
    False
    >>> same_lattice(cubic, (2.828, 2.828, 2.828, 60.0, 60.0, 60.0), "F m -3 m")
    True
    """
    letter = (space_group or " ").strip()[:1].upper()
    letter = "R" if letter == "H" else letter
    for mine in dict.fromkeys([letter, "P"]) if letter in CENTRINGS else CENTRINGS:
        volume = abs(float(np.linalg.det(primitive_basis(one, mine)[0])))
        for its in CENTRINGS:
            basis, _ = primitive_basis(other, its)
            if abs(abs(float(np.linalg.det(basis))) / volume - 1.0) > 4 * SAME_CELL:
                continue
            for match in matches(basis, one, mine, within=SAME_CELL):
                angles = np.subtract(cell_of(match.basis)[3:], one[3:])
                if np.abs(angles).max() <= SAME_ANGLE:
                    return True
    return False


def turn_of(basis: Array) -> Array:
    """Return U of Busing & Levy (Acta Cryst. 22, 457, 1967): how a direct basis is turned."""
    UB = np.linalg.inv(basis).T
    B = np.linalg.cholesky(UB.T @ UB).T
    return UB @ np.linalg.inv(B)


def angle_of(turn: Array) -> float:
    """Return the angle of a rotation, degree."""
    return math.degrees(math.acos(max(-1.0, min(1.0, (float(np.trace(turn)) - 1.0) / 2.0))))
