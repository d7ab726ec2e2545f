"""What indexing finds: a lattice, perhaps a second one, and what is doubtful."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.reduction.leftover import Superlattice
from offbragg.reduction.refinement import (
    Refined,
    Spots,
    SweepPeaks,
)
from offbragg.reduction.twins import (
    CentringCheck,
    Superposed,
)

Array = NDArray[Any]


Whole = NDArray[np.int64]


LEAST = 12  # peaks; fewer fit something by chance


POOR = 0.5  # of the peaks: a search that explains fewer is repeated for larger cells


SEARCHED = 1500  # strongest peaks that the search looks at


EXACT = 0.02  # degree: a given cell has the symmetries that hold so well


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """A candidate for the lattice: what it would be called, and how well it fits.

    ``worse`` is the factor by which residuals grow against a cell without symmetry.
    """

    name: str
    cell: tuple[float, ...]
    worse: float


@dataclass(frozen=True, slots=True, eq=False)
class SecondLattice:
    """A second lattice of the same cell among the peaks that the first leaves.

    ``axis`` and ``angle`` are the smallest rotation that takes the first to it: a unit vector in
    the laboratory at zero angles, and degree. ``law`` is the twin law that this is, as
    ``180° about [110]``; empty if it is none of a simple one.
    """

    UB: Array
    count: int
    axis: tuple[float, float, float]
    angle: float
    law: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Indexed:
    """An orientation that was found.

    Parameters
    ----------
    refined
        UB, residuals, hkl, panel.
    lattice
        a, b, c in Å and alpha, beta, gamma in degree.
    name
        Bravais lattice (mP, cF …) that the cell has, or was given with.
    candidates
        The lattices that were compared, if the cell was not known.
    setting
        Which of the equivalent settings was taken, in words.
    mosaicity
        Standard deviation of a peak along its rotation, degree.
    expected
        Share of the peaks that would be indexed by chance.
    second
        A second lattice, if there is one.
    superlattice
        Peaks at simple fractions of the lattice, if there are such.
    centring_check
        How many indexed peaks the given cell's centring forbids.
    superposed
        Smaller lattices that would explain the peaks together, if there are such.
    warnings
        What should be known before this is used; one sentence each.
    """

    refined: Refined
    lattice: tuple[float, ...]
    name: str
    candidates: tuple[Lattice, ...]
    setting: str
    mosaicity: float
    expected: float
    second: SecondLattice | None
    superlattice: Superlattice | None
    centring_check: CentringCheck | None
    superposed: Superposed | None
    warnings: tuple[str, ...]

    @property
    def UB(self) -> Array:
        """Å⁻¹ without 2π, shape (3, 3)."""
        return self.refined.UB

    @property
    def fraction(self) -> float:
        """Share of the peaks that it indexes."""
        return float(np.mean(self.refined.indexed))


def strongest(spots: Spots) -> Array:
    """Take the strongest peaks, clean ones first."""
    order = np.lexsort((-spots.intensity, ~spots.clean))
    return spots.q[order[:SEARCHED]]


ONE = np.eye(3, dtype=np.int64)[None]


def chance_level(share: float, n: int) -> float:
    """Return how many of ``n`` peaks a lattice must index to be far beyond chance."""
    return share * n + 6.0 * math.sqrt(n * share * (1.0 - share)) + 6.0


def score_of(off: Array, sigma: Array) -> float:
    """Return the root mean square of distances over their uncertainty, each at most 4."""
    return float(np.sqrt(np.mean(np.minimum((off / sigma) ** 2, 16.0))))


def says_little(views: Sequence[SweepPeaks], free: Refined) -> bool:
    """Return whether there are too few peaks, or too little rotation, to distinguish symmetries."""
    turned = sum(abs(view.sweep.step) * view.sweep.n_frames for view in views)
    return turned < 5.0 or int(free.used.sum()) < 30


def cell_text(cell: Sequence[float]) -> str:
    """Return a cell as text, Å and degree."""
    lengths = ", ".join(f"{x:.3f}" for x in cell[:3])
    return f"{lengths} Å, {', '.join(f'{x:.2f}' for x in cell[3:])}°"
