"""The crystal's lattice: its basis in space, and indices of scattering vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from offbragg.errors import GeometryError
from offbragg.instrument import Array

Cell = tuple[float, float, float, float, float, float]


def q_to_hkl(q: ArrayLike, UB: ArrayLike) -> Array:
    """Express scattering vectors in reciprocal-lattice units.

    Parameters
    ----------
    q
        (s − s0) in the goniometer frame at zero angles, Å⁻¹ without 2π, shape (..., 3).
    UB
        Orientation matrix, Å⁻¹ without 2π, shape (3, 3); column j is reciprocal basis vector j
        (Busing & Levy, Acta Cryst. 22, 457, 1967).

    Returns
    -------
    hkl
        Reciprocal-lattice units, shape (..., 3).

    Raises
    ------
    GeometryError
        If ``UB`` is singular.

    Examples
    --------
    >>> q_to_hkl(np.array([0.0, 0.5, 0.0]), np.eye(3) / 4.0)
    array([0., 2., 0.])
    """
    matrix = np.asarray(UB, np.float64)
    if matrix.shape != (3, 3) or not np.all(np.isfinite(matrix)):
        raise GeometryError(f"UB must be 3 × 3 finite numbers, not {matrix.tolist()}")
    if np.linalg.cond(matrix) > 1e9:
        raise GeometryError(f"UB is singular: its rows are {matrix.tolist()}")
    return np.asarray(q, np.float64) @ np.linalg.inv(matrix).T


def direct_basis(lattice: Sequence[float]) -> Array:
    """Direct basis of a lattice, a along x and b in the xy plane.

    Parameters
    ----------
    lattice
        a, b, c in Å and alpha, beta, gamma in degree.

    Returns
    -------
    A
        Å, shape (3, 3), upper triangular; column j is basis vector j.
    """
    a, b, c = lattice[:3]
    ca, cb, cg = (math.cos(math.radians(angle)) for angle in lattice[3:])
    sg = math.sqrt(1.0 - cg * cg)
    third = (ca - cb * cg) / sg
    return np.array(
        [
            [a, b * cg, c * cb],
            [0.0, b * sg, c * third],
            [0.0, 0.0, c * math.sqrt(1.0 - cb * cb - third * third)],
        ]
    )


def lattice_of(UB: Array) -> Cell:
    """Return the lattice of an orientation matrix, Å and degree."""
    axes = np.linalg.inv(UB)
    a, b, c = (float(x) for x in np.linalg.norm(axes, axis=1))

    def between(i: int, j: int, product: float) -> float:
        return math.degrees(math.acos(float(axes[i] @ axes[j]) / product))

    return a, b, c, between(1, 2, b * c), between(0, 2, a * c), between(0, 1, a * b)
