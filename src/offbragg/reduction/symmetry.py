"""The eleven Laue classes, exactly, on the lattice's own axes.

An operation is a 3 × 3 matrix of whole numbers that acts on (h, k, l) as a column, so a cell goes
exactly to a cell. International Tables for Crystallography A (2016), 2.1.3 and table 10.1.2.4
(the classes) and 1.5.1 (trigonal ones on hexagonal and on rhombohedral axes).
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import gemmi
import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ReductionError
from offbragg.grid import Grid
from offbragg.kernels import symmetry as kernel
from offbragg.lattice import direct_basis
from offbragg.volume import Volume

Array = NDArray[np.float64]
Matrix = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]

_INVERSION: Matrix = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))
_TWO_A: Matrix = ((1, 0, 0), (0, -1, 0), (0, 0, -1))
_TWO_B: Matrix = ((-1, 0, 0), (0, 1, 0), (0, 0, -1))
_TWO_C: Matrix = ((-1, 0, 0), (0, -1, 0), (0, 0, 1))
_FOUR: Matrix = ((0, -1, 0), (1, 0, 0), (0, 0, 1))
# hkl → kil with i = −h−k, and its double (turn by 60 degrees)
_THREE: Matrix = ((0, 1, 0), (-1, -1, 0), (0, 0, 1))
_SIX: Matrix = ((1, 1, 0), (-1, 0, 0), (0, 0, 1))
_CYCLE: Matrix = ((0, 1, 0), (0, 0, 1), (1, 0, 0))  # about the diagonal: hkl → klh
_SWAP: Matrix = ((0, 1, 0), (1, 0, 0), (0, 0, -1))  # hkl → kh−l
_SWAP_UP: Matrix = ((0, 1, 0), (1, 0, 0), (0, 0, 1))  # hkl → khl

_GENERATORS: dict[str, tuple[Matrix, ...]] = {
    "-1": (_INVERSION,),
    "2/m": (_INVERSION, _TWO_B),
    "2/m (a)": (_INVERSION, _TWO_A),
    "2/m (c)": (_INVERSION, _TWO_C),
    "mmm": (_INVERSION, _TWO_A, _TWO_B),
    "4/m": (_INVERSION, _FOUR),
    "4/mmm": (_INVERSION, _FOUR, _TWO_A),
    "-3": (_INVERSION, _THREE),
    "-3m1": (_INVERSION, _THREE, _SWAP),
    "-31m": (_INVERSION, _THREE, _SWAP_UP),
    "-3 (r)": (_INVERSION, _CYCLE),
    "-3m (r)": (_INVERSION, _CYCLE, _SWAP_UP),
    "6/m": (_INVERSION, _SIX),
    "6/mmm": (_INVERSION, _SIX, _SWAP),
    "m-3": (_INVERSION, _TWO_A, _TWO_B, _CYCLE),
    "m-3m": (_INVERSION, _TWO_A, _TWO_B, _CYCLE, _SWAP_UP),
}

NAMES = tuple(_GENERATORS)
"""What a Laue class can be called: unique axis b, hexagonal axes, by default."""


@dataclass(frozen=True, slots=True)
class Laue:
    """One of the eleven Laue classes, on given axes.

    Parameters
    ----------
    name
        One of `NAMES`.
    operations
        All of them, the identity first; they act on (h, k, l) as a column.

    Examples
    --------
    >>> len(Laue.named("m-3m").operations), len(Laue.named("-31m").operations)
    (48, 12)
    """

    name: str
    operations: tuple[Matrix, ...]

    @classmethod
    def named(cls, name: str, lattice: Sequence[float] | None = None) -> Laue:
        """Find a class by its name; the lattice says which axes it is on.

        Parameters
        ----------
        name
            As ``m-3m``; ``-3m`` is ``-3m1`` on hexagonal axes.
        lattice
            a, b, c in Å and alpha, beta, gamma in degree.

        Raises
        ------
        ReductionError
            If the class is unknown, or the lattice does not have its symmetry.
        """
        wanted = re.sub(r"\s+", "", name.lower().replace("_", "").replace("−", "-"))
        aliases = {key.replace(" ", ""): key for key in NAMES} | {"-3m": "-3m1", "m3m": "m-3m"}
        aliases |= {"m3": "m-3", "2/m(b)": "2/m", "1": "-1", "-3mr": "-3m (r)", "-3r": "-3 (r)"}
        found = aliases.get(wanted)
        if found is None:
            raise ReductionError(f"{name!r} is not a Laue class: one of {', '.join(NAMES)}")
        if lattice is not None:
            if found == "2/m" and wanted == "2/m":
                found = _unique_axis(lattice)
            if _is_rhombohedral(lattice) and wanted in ("-3", "-3m", "-3m1"):
                found = "-3 (r)" if wanted == "-3" else "-3m (r)"
        laue = cls(found, _close(_GENERATORS[found]))
        if lattice is not None:
            laue.check(lattice)
        return laue

    @classmethod
    def of(cls, space_group: str, lattice: Sequence[float] | None = None) -> Laue:
        """Find the class of a space group, by its Hermann–Mauguin symbol.

        The group is that of gemmi's table: every setting of International Tables, short, full or
        extended (``R 3 2:R``), with or without spaces; H instead of R means hexagonal axes. The
        class is the same for obverse and reverse. Where a symbol leaves its axes open (``P 21``,
        ``R 3``), the lattice tells them; without one they are b, and hexagonal.

        Raises
        ------
        ReductionError
            If the symbol is not understood, or the lattice does not have its symmetry.

        Examples
        --------
        >>> [Laue.of(s).name for s in ("P m -3 m", "P 21/c", "P 31 2 1", "P-31m", "Ia-3d")]
        ['m-3m', '2/m', '-3m1', '-31m', 'm-3m']
        """
        group = _space_group(space_group)
        operations = _operations_of(group)
        name = _by_operations()[operations]
        if lattice is not None and not _says_axes(space_group, group):
            # the symbol leaves open which axes are meant: the lattice tells
            if name.startswith("2/m"):
                name = _unique_axis(lattice, name)
            elif group.ext == "H" and _is_rhombohedral(lattice):
                name = {"-3": "-3 (r)", "-3m1": "-3m (r)"}.get(name, name)
        laue = cls(name, _close(_GENERATORS[name]))
        if lattice is not None:
            laue.check(lattice)
        return laue

    def check(self, lattice: Sequence[float]) -> None:
        """Refuse a lattice that the operations change by more than 1 %.

        Raises
        ------
        ReductionError
            Saying which class and which lattice.
        """
        reciprocal = np.linalg.inv(direct_basis(lattice)).T
        metric = reciprocal.T @ reciprocal
        lengths = np.sqrt(np.diag(metric))
        for operation in self.operations:
            W = np.array(operation, np.float64)
            apart = np.abs(W.T @ metric @ W - metric) / np.outer(lengths, lengths)
            if apart.max() > 0.02:
                raise ReductionError(
                    f"the lattice {[round(float(x), 4) for x in lattice]} does not have the "
                    f"symmetry {self.name}: one of its operations changes lengths or angles\n"
                    "Give another --symmetry, or none."
                )

    def contains(self, other: Laue) -> bool:
        """Return whether all operations of another class are among these."""
        return set(other.operations) <= set(self.operations)

    def covering(self, grid: Grid) -> Grid:
        """Make the smallest grid that holds all equivalents of a grid's cells."""
        self.check_grid(grid)
        low, high = np.array(grid.first), np.array(grid.end) - 1
        corners = np.array(list(itertools.product(*zip(low, high, strict=True))))
        images = np.concatenate([corners @ np.array(op).T for op in self.operations])
        first, last = images.min(axis=0), images.max(axis=0)
        return replace(grid, first=tuple(first), shape=tuple(last - first + 1))

    def check_grid(self, grid: Grid) -> None:
        """Refuse a grid in which an operation would not take a cell to a cell.

        Raises
        ------
        ReductionError
            Naming the axes.
        """
        for operation in self.operations:
            for i, j in zip(*np.nonzero(np.array(operation)), strict=True):
                if grid.per_unit[i] != grid.per_unit[j]:
                    raise ReductionError(
                        f"{self.name} exchanges {'hkl'[j]} and {'hkl'[i]}, but the grid has "
                        f"steps of 1/{grid.per_unit[j]} and 1/{grid.per_unit[i]}: "
                        "give both the same"
                    )


def symmetrise(volume: Volume, laue: Laue, *, overwrite: bool = False) -> Volume:
    """Return a volume in which every cell has the sums over all cells that are equivalent to it.

    Each equivalent cell counts once, however many operations lead to it (one on a mirror plane
    is its own image); one outside the grid does not count. Counts, weights, variances and
    backgrounds are summed and the division comes last, so a cell that was looked at longer
    counts for more, and one that was not measured for nothing. Done twice it changes nothing.

    Parameters
    ----------
    volume
        Not symmetrised, or with a class that is contained in ``laue``.
    laue
        The class.
    overwrite
        Make the sums in the arrays of ``volume``, which must not be used afterwards. Arrays that
        are fresh from the system cost several times what the sums cost, beside the memory.

    Raises
    ------
    ReductionError
        If the grid does not allow it, or the volume has a symmetry that is not in ``laue``.
    """
    if volume.grid is None:
        raise ReductionError("a volume without a grid cannot be symmetrised")
    if volume.symmetry == laue.name:
        return volume
    laue.check_grid(volume.grid)
    share: Array | None = None
    if volume.symmetry:
        before = Laue.named(volume.symmetry)
        if not laue.contains(before):
            raise ReductionError(
                f"the volume is symmetrised with {before.name}, which {laue.name} does not "
                "contain: begin with the volume as it was measured"
            )
        # what equivalent cells hold is there once
        share = _sum(None, volume.grid, before)
        np.divide(1.0, share, out=share)

    sums = {
        name: _sum(array, volume.grid, laue, share, overwrite=overwrite)
        for name in ("counts", "weight", "variance", "background", "background_variance")
        if (array := getattr(volume, name)) is not None
    }
    return replace(volume, symmetry=laue.name, **sums)


def _sum(
    array: Array | None,
    grid: Grid,
    laue: Laue,
    share: Array | None = None,
    *,
    overwrite: bool = False,
) -> Array:
    """Sum over the equivalents of each cell, which count once; of ones, if ``array`` is None."""
    numbers = {operation: number for number, operation in enumerate(laue.operations)}
    if array is not None:
        array = np.ascontiguousarray(array, np.float64)
    out = array if overwrite and array is not None else np.empty(grid.shape)
    kernel.symmetrise(
        array,
        grid.first,
        np.array(laue.operations, np.int8),
        [[numbers[operation] for operation in step] for step in steps(grid, laue)],
        out,
        share=share,
        threads=min(os.cpu_count() or 1, 8),
    )
    return out


def steps(grid: Grid, laue: Laue) -> list[list[Matrix]]:
    """Divide a group into steps: in each, the cosets (but the first) of what was summed before.

    If S[x] = Σ array[H x] over a subgroup H that takes the grid onto itself, then the sum over the
    cosets H r is Σ S[r x]. For m-3m that is 6 images in place of 47.
    """
    onto = [operation for operation in laue.operations if _takes_onto_itself(grid, operation)]
    identity = laue.operations[0]
    onto.sort(key=lambda operation: _times(operation, operation) != identity)  # small steps
    done: tuple[Matrix, ...] = laue.operations[:1]
    generators: list[Matrix] = []
    divided: list[list[Matrix]] = []
    for operation in onto:
        if operation not in done:
            generators.append(operation)
            bigger = _close(generators)
            divided.append(_cosets(done, bigger))
            done = bigger
    if len(done) < len(laue.operations):
        divided.append(_cosets(done, laue.operations))
    return divided


def _cosets(subgroup: Sequence[Matrix], group: Sequence[Matrix]) -> list[Matrix]:
    """Return one operation r of each coset H r, without H itself."""
    seen, found = set(subgroup), list[Matrix]()
    for operation in group:
        if operation not in seen:
            found.append(operation)
            seen.update(_times(h, operation) for h in subgroup)
    return found


def _times(a: Matrix, b: Matrix) -> Matrix:
    product = (np.array(a) @ np.array(b)).tolist()
    return tuple(map(tuple, product))  # type: ignore[return-value]


def _takes_onto_itself(grid: Grid, operation: Matrix) -> bool:
    """Return whether the images of the grid's cells are the grid's cells."""
    W = np.array(operation)
    if np.any(np.count_nonzero(W, axis=1) != 1):
        return False  # of a box, it makes none
    corners = np.array([grid.first, np.array(grid.end) - 1]) @ W.T
    low, high = corners.min(axis=0), corners.max(axis=0)
    return bool(np.all(low == grid.first) and np.all(high == np.array(grid.end) - 1))


def _close(generators: Sequence[Matrix]) -> tuple[Matrix, ...]:
    """Multiply until no new operation is found."""
    identity: Matrix = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    found, new = [identity], [identity]
    while new:
        products: list[Matrix] = []
        for a in new:
            for b in generators:
                product = _times(a, b)
                if product not in found and product not in products:
                    products.append(product)
        found += products
        new = products
    return tuple(found)


_CLEAR = 0.5  # degree by which an angle is none of 90


def _unique_axis(lattice: Sequence[float], custom: str = "2/m") -> str:
    """Return which axis is at right angles to the other two; the usual one if that is not clear."""
    off = [abs(angle - 90.0) for angle in lattice[3:]]
    which = int(np.argmax(off))
    clear = off[which] > _CLEAR and sorted(off)[1] < _CLEAR  # a refined cell has no angle of 90
    return ("2/m (a)", "2/m", "2/m (c)")[which] if clear else custom


def _is_rhombohedral(lattice: Sequence[float]) -> bool:
    a, b, c, alpha, beta, gamma = lattice
    return (
        abs(a - b) < 0.01 * a
        and abs(a - c) < 0.01 * a
        and abs(alpha - beta) < 0.3
        and abs(alpha - gamma) < 0.3
    )


def _space_group(symbol: str) -> gemmi.SpaceGroup:
    """Find a space group in gemmi's table, however its symbol is spelled.

    Raises
    ------
    ReductionError
        If it is not there, or could be more than one.
    """
    text = " ".join(symbol.replace("_", "").replace("−", "-").replace("–", "-").split())
    if re.fullmatch(r"P 3 2", text, re.IGNORECASE):
        raise ReductionError(
            f"{symbol!r} could be P32 (a screw axis), P 3 2 1 or P 3 1 2\nWrite one of these."
        )
    plain = text
    if re.search(r"[1-6]\([1-5]\)", text):  # screw axes as SHELX writes them, 2(1)
        plain = re.sub(r"[()]", "", text)
    upright = f"{plain[:1]} 1 {plain[1:].strip()} 1"  # unique axis b, as is the custom: B2, too
    for spelling in (upright, text, plain, _without_axes(plain), _without_axes(_symmorphic(plain))):
        found = gemmi.find_spacegroup_by_name(spelling) if re.match(r"[A-Za-z]", spelling) else None
        if found is not None:
            return found
    raise ReductionError(
        f"{symbol!r} is not a known space group\n"
        f"Give the Laue class instead: --symmetry with one of {', '.join(NAMES)}"
    )


_PLANES = "[mabcnde]"


def _without_axes(text: str) -> str:
    """Shorten a full symbol: 2/m 2/m 2/m is mmm, 4/m -3 2/m is m-3m."""
    compact = text.replace(" ", "")
    compact = re.sub(rf"(?<![46])21?/({_PLANES})", r"\1", compact)
    return re.sub(rf"4[123]?/({_PLANES})(?=-?3)", r"\1", compact)


def _symmorphic(text: str) -> str:
    """Remove screws, glides and centring from a symbol that has spaces: C 4/n m b is P 4/m m m.

    The Laue class of a setting that no table lists is that of its point group.
    """
    parts: list[str] = []
    for token in text.split()[1:]:
        found = re.fullmatch(rf"(-?[12346])([1-5]?)(/{_PLANES})?|{_PLANES}", token)
        if found is None:
            return ""
        parts.append("m" if found[1] is None else found[1] + ("/m" if found[3] else ""))
    return " ".join(["P", *parts]) if parts else ""


def _operations_of(group: gemmi.SpaceGroup) -> frozenset[Matrix]:
    """Return the operations of a group's Laue class on (h, k, l) as a column."""
    found: set[Matrix] = set()
    for operation in group.operations().sym_ops:
        rotation = np.array(operation.rot) // gemmi.Op.DEN  # on coordinates; hkl is a row there
        for sign in (1, -1):
            found.add(tuple(map(tuple, (sign * rotation.T).tolist())))  # type: ignore[arg-type]
    return frozenset(found)


@cache
def _by_operations() -> dict[frozenset[Matrix], str]:
    return {frozenset(_close(generators)): name for name, generators in _GENERATORS.items()}


def _says_axes(symbol: str, group: gemmi.SpaceGroup) -> bool:
    """Return whether a symbol says on which axes its operations are."""
    if group.crystal_system_str() == "monoclinic":
        point = re.sub(r"[\s_]", "", symbol.split(":")[0])[1:]
        return point.startswith("1") or point.endswith("11")
    return ":" in symbol or symbol.strip()[:1].upper() == "H"
