"""Lattices by name: the conventional cell comes back from any basis of the lattice."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest
from crystals import BRAVAIS, direct, random_cell, random_turn

from offbragg.errors import OrientationError
from offbragg.lattice import direct_basis
from offbragg.reduction.bravais import (
    bravais_lattices,
    cell_of,
    free_metrics,
    matches,
    primitive_basis,
    reduce,
)


def any_basis(cell, centring, rng) -> tuple[np.ndarray, np.ndarray]:
    """A turned lattice, in some oblique primitive basis; and the turn."""
    turn = random_turn(rng)
    basis, _ = primitive_basis(cell, centring)
    mixed = np.eye(3, dtype=int)
    for _ in range(4):
        i, j = rng.choice(3, 2, replace=False)
        mixed[:, i] += rng.integers(-1, 2) * mixed[:, j]
    return turn @ basis @ mixed, turn


@pytest.mark.parametrize("name", BRAVAIS)
def test_any_basis_of_a_lattice_gives_its_conventional_cell(name):
    rng = np.random.default_rng(BRAVAIS.index(name))
    for _ in range(5):
        cell = random_cell(name, rng)
        basis, _ = any_basis(cell, name[1], rng)

        best = bravais_lattices(reduce(basis)[0], within=0.002)[0]

        assert best.name == name
        found = reduce(basis)[0] @ best.change
        assert np.linalg.det(found) == pytest.approx(abs(np.linalg.det(direct(cell))), rel=1e-9)
        assert len(free_metrics(best.operations)) == {
            "a": 6, "m": 4, "o": 3, "t": 2, "h": 2, "c": 1,
        }[name[0]]  # fmt: skip
        if name[0] not in "am":
            np.testing.assert_allclose(cell_of(found), cell, atol=1e-6)


def test_the_reduced_cell_is_that_of_the_published_example():
    """Grosse-Kunstleve, Sauter & Adams, Acta Cryst. A60, 1 (2004): Křivý & Gruber's example."""
    angles = np.degrees(np.arccos([-5 / (2 * np.sqrt(108)), -4 / 12, -22 / (2 * np.sqrt(243))]))
    cell = (3.0, np.sqrt(27), 2.0, *angles)

    reduced = cell_of(reduce(direct_basis(cell))[0])

    np.testing.assert_allclose(reduced, (2.0, 3.0, 3.0, 60.0, 75.52, 70.53), atol=0.02)


def test_the_reduced_cell_is_niggli_by_gemmis_own_judgement():
    rng = np.random.default_rng(0)
    for _ in range(20):
        basis, _ = any_basis(random_cell("aP", rng), "P", rng)

        reduced, change = reduce(basis)

        assert round(float(np.linalg.det(change))) == 1
        assert gemmi.GruberVector(gemmi.UnitCell(*cell_of(reduced)), "P").is_niggli()


@pytest.mark.parametrize("name", BRAVAIS)
def test_a_given_cell_is_laid_into_its_lattice_in_every_way_its_symmetry_allows(name):
    rng = np.random.default_rng(50 + BRAVAIS.index(name))
    cell = random_cell(name, rng)
    basis, turn = any_basis(cell, name[1], rng)

    ways = matches(reduce(basis)[0], cell, name[1], within=0.005)

    rotations = {"a": 1, "m": 2, "o": 4, "t": 8, "h": 12, "c": 24}[name[0]]
    assert len(ways) == (6 if name == "hR" else rotations)
    conventional = turn @ direct_basis(cell)
    nearest = min(np.abs(way.basis - conventional).max() for way in ways)
    assert nearest < 1e-6
    assert all(np.linalg.det(way.basis) > 0 for way in ways)


def test_a_lattice_is_not_matched_by_another_cell():
    basis, _ = reduce(direct_basis((5.4, 7.2, 11.3, 90, 90, 90)))

    assert matches(basis, (5.4, 7.2, 10.8, 90, 90, 90), within=0.03) == []


def test_an_unknown_centring_is_named():
    with pytest.raises(OrientationError, match="centring 'Q' is unknown: one of P, A, B, C, I, F"):
        primitive_basis((5, 5, 5, 90, 90, 90), "Q")
