"""3D-ΔPDF: which interatomic vectors are there more often, or less, than in the average crystal.

Bragg peaks are punched out and the holes are filled from around them; what is left is tapered and
Fourier-transformed (punch and fill: Weber & Simonov, Z. Kristallogr. 227, 238, 2012; Krogstad et
al., Nat. Mater. 19, 63, 2020). Positive where a pair of scatterers of the same sign is found more
often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter

from offbragg.errors import ReductionError
from offbragg.lattice import direct_basis
from offbragg.volume import Volume

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class PairDistribution:
    """A 3D-ΔPDF.

    Parameters
    ----------
    values
        Shape (x, y, z); in units of intensity × reciprocal-lattice volume.
    x, y, z
        Of the vectors, in lattice vectors a, b, c.
    lattice
        a, b, c in Å and alpha, beta, gamma in degree.
    residual
        How far the transform back is from what was transformed, relative to its largest value.
    filled
        Part of the cells inside the taper that was punched, or not measured, and filled.
    unmeasured
        Part that was filled because it was not measured.
    q_max
        Where the taper ends, Å⁻¹ with 2π.
    """

    values: Array
    x: Array
    y: Array
    z: Array
    lattice: tuple[float, ...]
    residual: float
    filled: float
    unmeasured: float
    q_max: float

    def at(self, vector: Sequence[float]) -> float:
        """Return the value at the vector nearest to this one, in lattice vectors."""
        where = tuple(
            int(np.argmin(np.abs(axis - float(v))))
            for axis, v in zip((self.x, self.y, self.z), vector, strict=True)
        )
        return float(self.values[where])

    def strongest(self, n: int = 10) -> list[dict[str, Any]]:
        """List the strongest features but the origin: one of each pair ±, largest first."""
        from scipy.ndimage import maximum_filter

        size = np.abs(self.values)
        peaks = (size == maximum_filter(size, size=3)) & (size > 0)
        A = direct_basis(self.lattice)
        found: list[dict[str, Any]] = []
        shortest = 0.5 * min(self.lattice[:3])
        for i, j, k in sorted(np.argwhere(peaks).tolist(), key=lambda p: -size[tuple(p)]):
            vector = np.array([self.x[i], self.y[j], self.z[k]])
            length = float(np.linalg.norm(A @ vector))
            if length < shortest or tuple(vector) < tuple(-vector):
                continue
            value = float(self.values[i, j, k])
            found.append({"vector": vector.tolist(), "length": length, "value": value})
            if len(found) == n:
                break
        return found


def pair_distribution(
    volume: Volume, *, punch: float = 0.15, centring: str = "P", q_max: float | None = None
) -> PairDistribution:
    """Transform a volume into a 3D-ΔPDF.

    Parameters
    ----------
    volume
        With the lattice of its sample; best one that is symmetrised and has few holes.
    punch
        Radius of what is taken out around every Bragg point, Å⁻¹ with 2π.
    centring
        Letter of the lattice (P, I, F, A, B, C, R): which points are Bragg points.
    q_max
        Where the taper ends, Å⁻¹ with 2π; None: the largest sphere that fits into the volume.
    """
    grid, sample = volume.grid, volume.sample
    if grid is None or sample is None or sample.lattice is None:
        raise ReductionError("a pair distribution needs a volume with a grid and a lattice")
    half = [min(-a, b - 1) for a, b in zip(grid.first, grid.end, strict=True)]
    if min(half) < 2:
        raise ReductionError(f"the volume does not reach around the origin: {grid}")
    box = tuple(slice(-a - m, -a + m + 1) for a, m in zip(grid.first, half, strict=True))
    part = volume[box[0], box[1], box[2]]
    assert part.grid is not None
    h, k, l = np.meshgrid(  # noqa: E741
        part.grid.h, part.grid.k, part.grid.l, indexing="ij", sparse=True
    )
    A = direct_basis(sample.lattice)
    metric: Array = (np.linalg.inv(A.T @ A) * (2 * math.pi) ** 2).astype(np.float64)
    # planes h = const are 2π h / |a| from the origin, whatever the angles
    reach = [
        2 * math.pi * m / (n * float(np.linalg.norm(A[:, i])))
        for i, (m, n) in enumerate(zip(half, grid.per_unit, strict=True))
    ]
    end = min(reach) if q_max is None else q_max
    if not end > 0:
        raise ReductionError(f"q_max is {end:g} Å⁻¹: it must be above 0")
    if not (math.isfinite(punch) and punch >= 0):
        raise ReductionError(f"punch is {punch:g} Å⁻¹: it must be 0 or more")
    if end > min(reach) * 1.001:
        raise ReductionError(
            f"q_max {end:.3g} Å⁻¹ is outside the volume: it holds a sphere of {min(reach):.3g} Å⁻¹"
        )
    distance = np.sqrt(_squared(metric, h, k, l))
    taper = np.where(distance < end, 0.5 * (1.0 + np.cos(math.pi * distance / end)), 0.0)

    intensity, known = np.nan_to_num(part.intensity), part.measured
    punched = _bragg(metric, h, k, l, punch, centring)
    known &= ~punched
    # I(Q) = I(−Q): what is known on one side is known on both
    total = np.where(known, intensity, 0.0)
    number = known.astype(np.float64)
    total, number = total + total[::-1, ::-1, ::-1], number + number[::-1, ::-1, ::-1]
    inside = taper > 0
    if not np.any((number > 0) & inside):
        raise ReductionError("nothing is left: every measured cell is punched out")
    values = _fill(total, number, metric, grid.per_unit, punch)
    holes = (number == 0) & inside
    filled = float(np.count_nonzero(holes) / np.count_nonzero(inside))
    unmeasured = float(np.count_nonzero(holes & ~punched) / np.count_nonzero(inside))

    tapered = values * taper
    # cells have 1/n of a reciprocal unit: the sum becomes an integral
    scale = 1.0 / math.prod(grid.per_unit)
    transform = fft.fftshift(fft.fftn(fft.ifftshift(tapered))).real * scale
    back = fft.fftshift(fft.ifftn(fft.ifftshift(transform))).real / scale
    residual = float(np.max(np.abs(back - tapered)) / np.max(np.abs(tapered)))
    x, y, z = (
        np.arange(-m, m + 1) * n / (2 * m + 1) for m, n in zip(half, grid.per_unit, strict=True)
    )
    return PairDistribution(
        transform, x, y, z, tuple(sample.lattice), residual, filled, unmeasured, end
    )


def _squared(metric: Array, h: Array, k: Array, l: Array) -> Array:  # noqa: E741
    return (
        metric[0, 0] * h * h + metric[1, 1] * k * k + metric[2, 2] * l * l
        + 2 * (metric[0, 1] * h * k + metric[0, 2] * h * l + metric[1, 2] * k * l)
    )  # fmt: skip


def _bragg(
    metric: Array,
    h: Array,
    k: Array,
    l: Array,  # noqa: E741
    radius: float,
    centring: str,
) -> NDArray[np.bool_]:
    """Return which cells are within a radius of the nearest allowed Bragg point."""
    H, K, L = np.rint(h), np.rint(k), np.rint(l)
    near = np.zeros(np.broadcast_shapes(h.shape, k.shape, l.shape), np.bool_)
    around = [(a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)]
    for a, b, c in around:
        there = _allowed(H + a, K + b, L + c, centring)
        near |= there & (_squared(metric, h - H - a, k - K - b, l - L - c) < radius**2)
    return near


def _allowed(h: Array, k: Array, l: Array, centring: str) -> NDArray[np.bool_]:  # noqa: E741
    """Return the reflection conditions of a centred lattice, Int. Tables A, table 2.1.3.6."""
    even = {
        "P": lambda: np.ones(np.broadcast_shapes(h.shape, k.shape, l.shape), np.bool_),
        "I": lambda: (h + k + l) % 2 == 0,
        "A": lambda: (k + l) % 2 == 0 * h,
        "B": lambda: (h + l) % 2 == 0 * k,
        "C": lambda: (h + k) % 2 == 0 * l,
        "F": lambda: ((h + k) % 2 == 0) & ((k + l) % 2 == 0),
        "R": lambda: (-h + k + l) % 3 == 0,
    }
    if centring.upper() not in even:
        raise ReductionError(f"centring {centring!r} is none of {', '.join(even)}")
    return even[centring.upper()]()


def _fill(
    total: Array, number: Array, metric: Array, per_unit: Sequence[int], radius: float
) -> Array:
    """Return means where something is known; elsewhere those of the cells around."""
    values = np.divide(total, number, out=np.zeros_like(total), where=number > 0)
    # in cells, along each axis
    steps = [math.sqrt(metric[i, i]) / per_unit[i] for i in range(3)]
    for widening in (0.7, 1.5, 3.0):
        holes = number == 0
        if not holes.any():
            break
        sigma = [max(widening * radius / step, 0.7) for step in steps]
        seen = (~holes).astype(np.float64)
        weight = gaussian_filter(seen, sigma, mode="constant")
        smooth = gaussian_filter(values * seen, sigma, mode="constant")
        reached = holes & (weight > 1e-3)
        values[reached] = smooth[reached] / weight[reached]
        number = np.where(reached, 1.0, number)
    return values
