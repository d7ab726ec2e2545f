"""Find the direct lattice whose planes a set of scattering vectors lies on.

A direct lattice vector t makes q · t a whole number for every Bragg peak. So all peaks, projected
on its direction, are periodic, and a Fourier transform tells the period (Steller, Bolotovsky &
Rossmann, J. Appl. Cryst. 30, 1036, 1997; Duisenberg, J. Appl. Cryst. 25, 92, 1992).
Three such vectors that explain most peaks *together* are a basis; peaks of a second lattice, of ice
and of nothing are left over.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.reduction.bravais import matches, primitive_basis, reduce

Array = NDArray[Any]
Whole = NDArray[np.int64]

SHORTEST = 2.4  # Å: no lattice has a shorter vector
NEAR = 0.25  # of a reciprocal-lattice unit: nearer than that to whole numbers is indexed
_SPACING = 0.022  # radian between directions
_RESOLVED = 18.0  # q · t up to which such directions find t
_FEW = 250  # peaks of low order that are used in any case
_ENOUGH = 40  # of them; if there are fewer, differences of peaks stand in


@dataclass(frozen=True, slots=True, eq=False)
class FoundLattice:
    """A primitive lattice: reduced ``basis``, Å, and how many peaks it indexes."""

    basis: Array
    count: int


def directions(spacing: float) -> Array:
    """Return points spread evenly over a half sphere, shape (n, 3) (a Fibonacci spiral)."""
    n = math.ceil(2.0 * math.pi / spacing**2)
    k = np.arange(n) + 0.5
    z = k / n
    angle = math.pi * (1.0 + math.sqrt(5.0)) * k
    r = np.sqrt(1.0 - z * z)
    return np.column_stack([r * np.cos(angle), r * np.sin(angle), z])


def low_order(q: Array, longest: float) -> Array:
    """Take peaks of such a low order that directions some degrees apart show a long vector.

    Where few peaks are near the origin, the differences of peaks are reciprocal-lattice vectors as
    well: the shortest are taken in addition, however long.
    """
    length = np.linalg.norm(q, axis=1)
    limit = _RESOLVED / longest
    if len(q) > _FEW:
        limit = max(limit, float(np.partition(length, _FEW)[_FEW]))
    low = q[length <= limit]
    if len(low) >= _ENOUGH or len(q) < 2:
        return low if len(low) else q
    some = q[np.argsort(length, kind="stable")[: 2 * _FEW]]
    i, j = np.triu_indices(len(some), 1)
    between = some[i] - some[j]
    apart = np.linalg.norm(between, axis=1)
    # peaks nearer than any two reflections are one that was seen twice, or split
    order = np.argsort(np.where(apart > 0.5 / longest, apart, np.inf), kind="stable")
    order = order[apart[order] > 0.5 / longest]
    inside = int(np.sum(apart[order] <= limit))
    shortest = between[order[: min(max(inside, _ENOUGH), _FEW)]]
    both = np.concatenate([low, shortest])
    return both if len(both) else q


def spectrum(q: Array, along: Array, longest: float) -> tuple[Array, Array]:
    """Return how periodic peaks are along each direction, for every period.

    Parameters
    ----------
    q
        Å⁻¹, shape (peak, 3).
    along
        Unit vectors, shape (direction, 3).
    longest
        Period, Å.

    Returns
    -------
    period
        Å, shape (period,).
    strength
        Mean of cos(2π q · t): 1 for a vector of the lattice, shape (direction, period).
    """
    reach = float(np.linalg.norm(q, axis=1).max()) * 1.0001
    bin_width = 0.5 / longest
    n_bins = math.ceil(2.0 * reach / bin_width)
    n = 1 << math.ceil(math.log2(max(n_bins, 10.0 * reach * longest, 16.0)))
    period = np.arange(n // 2 + 1) / (n * bin_width)
    phase = np.exp(2j * np.pi * period * (0.5 * bin_width - reach))
    phase /= np.sinc(period * bin_width) * len(q)
    out = np.empty((len(along), period.size), np.float32)
    block = max(1, 4_000_000 // max(n, len(q)))
    for i in range(0, len(along), block):
        some = along[i : i + block]
        where = ((some @ q.T + reach) / bin_width).astype(np.int64)
        where += np.arange(len(some))[:, None] * n
        counted = np.bincount(where.ravel(), minlength=len(some) * n).reshape(len(some), n)
        out[i : i + block] = np.real(np.conj(np.fft.rfft(counted)) * phase)
    return period, out


def sharpen(q: Array, t: Array, *, rounds: int = 4) -> Array:
    """Move vectors so that q · t is nearest to whole numbers (least squares), shape (n, 3)."""
    for n in range(rounds):
        phase: Array = t @ q.T
        off: Array = phase - np.rint(phase)
        weight = (np.abs(off) < (0.3 if n == 0 else 0.22)).astype(np.float64)
        normal = np.einsum("tn,ni,nj->tij", weight, q, q, optimize=True)
        # what no peak is near, or only peaks in one plane, moves nowhere
        least = 1e-9 * np.trace(normal, axis1=1, axis2=2) + 1e-12
        normal += np.eye(3) * least[:, None, None]
        step: Array = np.linalg.solve(normal, ((weight * off) @ q)[..., None])[..., 0]
        t = t - step
    return t


def strength(q: Array, t: Array) -> Array:
    """Return the mean of cos(2π q · t) for every vector."""
    return np.mean(np.cos(2.0 * np.pi * (t @ q.T)), axis=1)


def _distinct(t: Array, order: NDArray[np.int64], most: int, apart: float = 0.9) -> Array:
    """Take the first vectors in an order that are not one another, nor their negatives."""
    kept: list[Array] = []
    for i in order:
        v = t[i]
        if kept:
            others = np.array(kept)
            away = np.minimum(
                np.linalg.norm(others - v, axis=1), np.linalg.norm(others + v, axis=1)
            )
            if away.min() < apart:
                continue
        kept.append(v)
        if len(kept) == most:
            break
    return np.array(kept).reshape(-1, 3)


def periods(q: Array, longest: float) -> Array:
    """Return vectors that could be of the direct lattice, the most periodic first, shape (n, 3)."""
    low = low_order(q, longest)
    along = directions(_SPACING)
    period, power = spectrum(low, along, longest)
    reach = float(np.linalg.norm(low, axis=1).max())
    power[:, period < max(SHORTEST, 0.7 / reach)] = -1.0
    inner = power[:, 1:-1]
    highest = (inner >= power[:, :-2]) & (inner >= power[:, 2:]) & (inner > -1.0)
    direction, place = np.nonzero(highest)
    top = inner[direction, place]
    if top.size > 6000:
        chosen = np.argpartition(top, -6000)[-6000:]
        direction, place, top = direction[chosen], place[chosen], top[chosen]
    t = along[direction] * period[place + 1][:, None]
    # multiples and sums of short vectors are as periodic as those: prefer the short ones
    rank = np.exp(-2.0 * np.linalg.norm(t, axis=1) / longest)
    t = t[np.argsort(-top * rank, kind="stable")]
    t = _distinct(t, np.arange(len(t)), 150, apart=max(0.9, 0.3 / reach))
    t = sharpen(low, t)
    t = _distinct(t, _order(low, t, longest), 60)
    i, j = np.triu_indices(min(len(t), 16), 1)
    t = np.concatenate([t, t[i] + t[j], t[i] - t[j]])
    t = sharpen(low, t, rounds=2)
    length = np.linalg.norm(t, axis=1)
    t = t[(length > SHORTEST) & (length < 1.05 * longest)]
    return _distinct(t, _order(low, t, longest), 90)


def _order(q: Array, t: Array, longest: float) -> NDArray[np.int64]:
    return np.argsort(-strength(q, t) * np.exp(-2.0 * np.linalg.norm(t, axis=1) / longest))


def _independent(t: Array, most: int) -> Array:
    """Exclude vectors that are small whole combinations of two that came before."""
    kept: list[Array] = []
    for v in t:
        if len(kept) >= 2:
            i, j = np.triu_indices(len(kept), 1)
            pairs = np.stack([np.array(kept)[i], np.array(kept)[j]], axis=-1)
            weights = np.linalg.pinv(pairs) @ v
            whole = np.rint(weights)
            rest = np.linalg.norm((pairs @ whole[..., None])[..., 0] - v, axis=1)
            if np.any((rest < 0.3) & (np.abs(whole).max(axis=1) <= 6)):
                continue
        kept.append(v)
        if len(kept) == most:
            break
    return np.array(kept)


def periods_of(q: Array, lengths: Sequence[float], within: float) -> list[Array]:
    """Return vectors of given lengths that could be of the direct lattice, for each length."""
    low = low_order(q, max(lengths))
    along = directions(_SPACING)
    period, power = spectrum(low, along, max(lengths) * 1.2)
    found: list[Array] = []
    for length in lengths:
        window = np.flatnonzero(np.abs(period - length) < within * length + period[1])
        best = np.argmax(power[:, window], axis=1)
        top = power[np.arange(len(along)), window[best]]
        order = np.argsort(-top, kind="stable")[:4000]
        t = _distinct(
            along[order] * period[window[best[order]]][:, None], np.arange(order.size), 90
        )
        t = sharpen(low, t)
        off = np.abs(np.linalg.norm(t, axis=1) / length - 1.0)
        t = t[off < 1.5 * within]
        found.append(_distinct(t, np.argsort(-strength(low, t)), 60))
    return found


def inliers(q: Array, basis: Array, near: float = NEAR) -> NDArray[np.bool_]:
    """Return which peaks lie near whole hkl."""
    h = q @ basis
    return np.all(np.abs(h - np.rint(h)) < near, axis=1)


def fit(q: Array, basis: Array) -> Array:
    """Fit a basis to all peaks, from low orders to high ones, leaving out what does not fit."""
    length = np.linalg.norm(q, axis=1)
    for part in (0.3, 0.5, 0.75, 1.0, 1.0, 1.0):
        some = q[length <= np.quantile(length, part)]
        h = some @ basis
        whole = np.rint(h)
        off = np.abs(h - whole).max(axis=1)
        good = off < NEAR
        if good.sum() < 6:
            continue
        good &= off <= max(0.04, 3.0 * float(np.median(off[good])))
        UB, _, rank, _ = np.linalg.lstsq(whole[good], some[good], rcond=None)
        if rank < 3 or abs(np.linalg.det(UB)) < 1e-9:
            continue
        basis = np.linalg.inv(UB.T).T
    return basis


def primitive(q: Array, basis: Array, share: float = 0.96) -> Array:
    """Divide a basis until its hkl have no common rule: a multiple of the cell becomes the cell.

    A rule is h · v ≡ 0 (mod n) that nearly all peaks obey; then v / n is a vector of the
    lattice, too.
    """
    for _ in range(12):
        whole = np.rint(q @ basis).astype(np.int64)[inliers(q, basis)]
        whole = whole[np.any(whole != 0, axis=1)]
        if len(whole) < 12:
            return basis
        for n in (2, 3, 5):
            v = np.array(list(itertools.product(range(n), repeat=3)), np.int64)[1:]
            first = np.argmax(v != 0, axis=1)
            v = v[v[np.arange(len(v)), first] == 1]
            obeyed = np.mean((whole @ v.T) % n == 0, axis=0)
            best = int(np.argmax(obeyed))
            if obeyed[best] >= share:
                divided = basis.copy()
                column = int(np.argmax(v[best] != 0))
                chosen = (v[best] + n // 2) % n - n // 2 if n > 2 else v[best]
                divided[:, column] = basis @ chosen / n
                basis = divided
                break
        else:
            return basis
    return basis


def _triples(q: Array, t: Array, most: int) -> list[tuple[int, tuple[int, int, int]]]:
    """Return triples of vectors by how many peaks all three explain together."""
    phase = t @ q.T
    good = (np.abs(phase - np.rint(phase)) < NEAR).astype(np.float32)
    n = len(t)
    i, j = np.triu_indices(n, 1)
    joint = (good[i] * good[j]) @ good.T
    unit = t / np.linalg.norm(t, axis=1, keepdims=True)
    volume = np.abs(np.cross(unit[i], unit[j]) @ unit.T)
    joint[(np.arange(n)[None, :] <= j[:, None]) | (volume < 0.15)] = 0
    order = np.argsort(-joint.ravel(), kind="stable")[:most]
    return [
        (int(joint.ravel()[k]), (int(i[k // n]), int(j[k // n]), int(k % n)))
        for k in order
        if joint.ravel()[k] > 0
    ]


def find_lattice(q: Array, longest: float) -> list[FoundLattice]:
    """Find primitive lattices that explain many peaks, the best first.

    Of lattices that explain nearly as many, the one with the smallest cell is best: its
    multiples explain the same peaks.
    """
    t = periods(q, longest)
    if len(t) < 3:
        return []
    low = low_order(q, longest)
    power = strength(low, t)
    by_length = np.argsort(np.linalg.norm(t, axis=1))
    short = _independent(t[by_length[power[by_length] > 0.45 * power.max()]], 24)
    t = _distinct(np.concatenate([short, t[:26]]), np.arange(len(short) + min(26, len(t))), 50)
    if len(t) < 3:
        return []
    seen: dict[tuple[float, ...], FoundLattice] = {}
    for _, triple in _triples(low, t, 150):
        basis, _ = reduce(_right_handed(t[list(triple)].T))
        key = tuple(np.round(basis.ravel(), 0))
        volume = float(np.linalg.det(basis))
        if key in seen or volume < SHORTEST**3 * 0.7:
            continue
        seen[key] = FoundLattice(basis, int(inliers(low, basis).sum()))
        if len(seen) >= 40:
            break
    found: list[FoundLattice] = []
    for each in _smallest(list(seen.values()))[:8]:
        basis = fit(q, primitive(q, fit(q, each.basis)))
        basis, _ = reduce(_right_handed(basis))
        if np.linalg.norm(basis, axis=0).min() > 0.8 * SHORTEST:  # else it fell into nothing
            found.append(FoundLattice(basis, int(inliers(q, basis).sum())))
    return _smallest(found)


def find_given(
    q: Array, lattice: Sequence[float], centring: str, *, within: float = 0.03
) -> list[FoundLattice]:
    """Find how a given cell lies, the way that explains most peaks first."""
    given, _ = primitive_basis(lattice, centring)
    goal = given.T @ given
    lengths = np.sqrt(np.diag(goal))
    t = periods_of(q, [float(x) for x in lengths], within)
    low = low_order(q, float(lengths.max()))
    good: list[NDArray[np.float32]] = []
    for each in t:
        if not len(each):
            return []
        phase = each @ low.T
        good.append((np.abs(phase - np.rint(phase)) < NEAR).astype(np.float32))
    scale = np.outer(lengths, lengths)
    ways: list[tuple[float, Array]] = []
    for (i, a), s in itertools.product(enumerate(t[0]), (1.0, -1.0)):
        b = t[1] * s
        fits_b = np.abs(b @ a - goal[0, 1]) < 2.2 * within * scale[0, 1]
        for j in np.flatnonzero(fits_b):
            pair = good[0][i] * good[1][j]
            for r in (1.0, -1.0):
                c = t[2] * r
                fits = np.abs(c @ a - goal[0, 2]) < 2.2 * within * scale[0, 2]
                fits &= np.abs(c @ b[j] - goal[1, 2]) < 2.2 * within * scale[1, 2]
                fits &= np.cross(a, b[j]) @ c.T > 0
                which = np.flatnonzero(fits)
                if which.size:
                    joint: NDArray[np.float32] = good[2][which] @ pair
                    ways += [
                        (float(n), np.column_stack([a, b[j], c[k]]))
                        for n, k in zip(joint, which, strict=True)
                    ]
    ways.sort(key=lambda way: -way[0])
    found: list[FoundLattice] = []
    for _, way in ways[:30]:
        basis, _ = reduce(fit(q, way))
        if np.linalg.det(basis) <= 0 or not matches(basis, lattice, centring, within=within):
            continue
        found.append(FoundLattice(basis, int(inliers(q, basis).sum())))
    return sorted(found, key=lambda each: -each.count)


def _smallest(found: list[FoundLattice]) -> list[FoundLattice]:
    """Order lattices: those that explain nearly as many as any by volume, then the rest."""
    if not found:
        return []
    most = max(each.count for each in found)
    return sorted(
        found,
        key=lambda each: (
            (0, float(np.linalg.det(each.basis)))
            if each.count >= 0.9 * most
            else (1, -float(each.count))
        ),
    )


def _right_handed(basis: Array) -> Array:
    return basis if np.linalg.det(basis) > 0 else -basis
