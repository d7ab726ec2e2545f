"""Centrings and twins, against points that are made by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from crystals import ALLOWED, orientation, random_turn, seen

from offbragg.geometry import rotation_about
from offbragg.lattice import direct_basis
from offbragg.reduction.indexing import index
from offbragg.reduction.symmetry import Laue
from offbragg.reduction.twins import RULES, check_centring, find_superposed, hidden_twins

GENERAL = (5.0, 6.1, 7.3, 90.0, 90.0, 90.0)
TETRAGONAL = (5.5, 5.5, 8.2, 90.0, 90.0, 90.0)
CROSSWISE = (8.2, 5.5, 8.2, 90.0, 90.0, 90.0)
HEXAGONAL = (5.1, 5.1, 14.3, 90.0, 90.0, 120.0)
POINTS = np.array([v for v in itertools.product(range(-6, 7), repeat=3) if any(v)])


def points(centring: str) -> np.ndarray:
    return POINTS[RULES[centring][1](POINTS)]


@pytest.mark.parametrize("centring", [each for each in RULES if each != "P"])
def test_every_centring_counts_what_it_forbids(centring):
    if centring in ALLOWED:
        np.testing.assert_array_equal(RULES[centring][1](POINTS), ALLOWED[centring](*POINTS.T))
    cell = HEXAGONAL if centring[0] == "R" else GENERAL
    allowed = points(centring)

    right = check_centring(allowed, centring, cell)
    wrong = check_centring(POINTS, centring, cell)

    assert (right.broken, right.of, right.doubtful) == (0, len(allowed), False)
    assert wrong.broken == len(POINTS) - len(allowed)
    assert wrong.doubtful
    assert wrong.operation == ""  # all points are no twin
    assert "is it another centring?" in str(wrong)
    assert not check_centring(POINTS, centring, cell, strays=3.0 * len(POINTS)).doubtful


@pytest.mark.parametrize(
    ("centring", "other", "cell", "operation"),
    [
        ("R", "R reverse", HEXAGONAL, "a twofold turn about [001] (h k l → −h −k l)"),
        ("R reverse", "R", HEXAGONAL, "a twofold turn about [001] (h k l → −h −k l)"),
        ("A", "B", TETRAGONAL, "a twofold turn about [110] (h k l → k h −l)"),
        ("B", "A", TETRAGONAL, "a twofold turn about [110] (h k l → k h −l)"),
        ("C", "A", CROSSWISE, "a twofold turn about [101] (h k l → l −k h)"),
    ],
)  # fmt: skip
def test_the_twin_that_explains_broken_reflections_is_named(centring, other, cell, operation):
    rng = np.random.default_rng(1)
    second = points(other)
    both = np.concatenate([points(centring), second[rng.random(len(second)) < 0.3]])

    check = check_centring(both, centring, cell, strays=4.0)

    assert check.doubtful
    assert check.operation == operation
    assert check.explained == check.broken == int((~RULES[centring][1](both)).sum())


def test_lattices_that_only_together_explain_a_larger_one_are_found():
    basis = direct_basis(HEXAGONAL)
    both = np.unique(np.concatenate([points("R"), points("R reverse")]), axis=0)
    tetragonal = np.unique(np.concatenate([points("A"), points("B")]), axis=0)
    even = POINTS % 2 == 0
    three = POINTS[even.sum(axis=1) >= 2]  # a cubic cell doubled along each axis in turn
    cubic = 8.0 * np.eye(3)

    twin = find_superposed(both @ np.linalg.inv(basis), basis)
    pair = find_superposed(
        tetragonal @ np.linalg.inv(direct_basis(TETRAGONAL)), direct_basis(TETRAGONAL)
    )
    domains = find_superposed(three @ np.linalg.inv(cubic), cubic)

    assert twin is not None
    assert (twin.lattices, twin.times, twin.name) == (2, 3, "hR")
    np.testing.assert_allclose(twin.cell, HEXAGONAL, rtol=1e-6)
    assert twin.operation == "a twofold turn about [001] (h k l → −h −k l)"
    assert pair is not None
    assert (pair.lattices, pair.times, pair.name) == (2, 2, "oC")
    assert domains is not None
    assert (domains.lattices, domains.times, domains.name) == (3, 4, "tP")
    np.testing.assert_allclose(domains.cell[:3], [4.0, 4.0, 8.0], rtol=1e-6)
    for single in (POINTS, points("R"), points("I")):
        assert find_superposed(single @ np.linalg.inv(basis), basis) is None


def rotations(symbol: str, cell) -> np.ndarray:
    operations = np.array(Laue.of(symbol, cell).operations)
    return operations[np.rint(np.linalg.det(operations)) == 1]


@pytest.mark.parametrize(
    ("symbol", "centring", "cell", "domains"),
    [
        ("P m -3 m", "P", (4.0, 4.0, 4.0, 90.0, 90.0, 90.0), 1),
        ("F d -3", "F", (4.0, 4.0, 4.0, 90.0, 90.0, 90.0), 2),
        ("P 4/n", "P", TETRAGONAL, 2),
        ("R -3", "R", HEXAGONAL, 2),
        ("P -3", "P", HEXAGONAL, 4),
        ("P 21/c", "P", (5.0, 6.1, 7.3, 90.0, 90.4, 90.0), 2),
        ("P 21/c", "P", (5.0, 6.1, 7.3, 90.0, 97.0, 90.0), 1),
        ("P n m a", "P", (5.50, 7.78, 5.52, 90.0, 90.0, 90.0), 6),  # √2, 2, √2 of a cube
    ],
)  # fmt: skip
def test_rotations_of_the_metric_that_the_crystal_lacks_are_counted(
    symbol, centring, cell, domains
):
    found, missing = hidden_twins(cell, centring, rotations(symbol, cell))

    # a perovskite's primitive cell has no cubic metric of its own, but a tetragonal one
    assert found == (2 if domains == 6 else domains)
    assert len(missing) == found - 1


def test_an_obverse_reverse_twin_is_reported_with_or_without_its_cell():
    rng = np.random.default_rng(2)
    UB = orientation(HEXAGONAL, random_turn(rng))
    about = UB[:, 2] / np.linalg.norm(UB[:, 2])
    view = seen(
        UB, "R", rng, most=300, stray=0.05, also=[(rotation_about(about, 180) @ UB, "R", 1)]
    )

    known = index([view], lattice=HEXAGONAL, centring="R", rotations=rotations("R -3", HEXAGONAL))
    unknown = index([view])

    check = known.centring_check
    assert check is not None
    assert check.broken == check.explained > 80
    assert any(
        f"{check.broken} of {check.of} indexed peaks break −h + k + l = 3n" in each
        and each.endswith("(h k l → −h −k l): an obverse/reverse twin")
        for each in known.warnings
    )
    assert any("only intensities tell them" in each for each in known.warnings)
    assert any(
        "superposed lattices hR with a 3 times smaller primitive cell" in each
        for each in unknown.warnings
    )


def test_a_pseudo_merohedral_twin_is_reported_with_its_law():
    cell = (5.5, 6.6, 7.9, 90.0, 91.2, 90.0)
    rng = np.random.default_rng(3)
    UB = orientation(cell, random_turn(rng))
    about = np.linalg.inv(UB)[0]
    twin = rotation_about(about / np.linalg.norm(about), 180) @ UB
    view = seen(UB, "P", rng, most=300, stray=0.0, also=[(twin, "P", 0.7)])

    found = index([view], lattice=cell, rotations=rotations("P 21/c", cell))

    assert found.second is not None
    assert found.second.law in ("180° about [100]", "180° about the normal of (001)")
    assert any(f"(a twin: {found.second.law})" in each for each in found.warnings)
    assert any("off by 1.2" in each for each in found.warnings)
