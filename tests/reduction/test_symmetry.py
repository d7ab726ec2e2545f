from __future__ import annotations

import itertools

import gemmi
import numpy as np
import pytest

from offbragg.errors import ReductionError
from offbragg.grid import Grid
from offbragg.lattice import direct_basis
from offbragg.reduction.symmetry import NAMES, Laue, symmetrise
from offbragg.volume import Volume

LATTICES = {
    "-1": (4.0, 5.0, 6.0, 80.0, 95.0, 105.0),
    "2/m": (4.0, 5.0, 6.0, 90.0, 105.0, 90.0),
    "2/m (a)": (4.0, 5.0, 6.0, 105.0, 90.0, 90.0),
    "2/m (c)": (4.0, 5.0, 6.0, 90.0, 90.0, 105.0),
    "mmm": (4.0, 5.0, 6.0, 90.0, 90.0, 90.0),
    "4/m": (4.0, 4.0, 6.0, 90.0, 90.0, 90.0),
    "4/mmm": (4.0, 4.0, 6.0, 90.0, 90.0, 90.0),
    "-3": (4.0, 4.0, 6.0, 90.0, 90.0, 120.0),
    "-3m1": (4.0, 4.0, 6.0, 90.0, 90.0, 120.0),
    "-31m": (4.0, 4.0, 6.0, 90.0, 90.0, 120.0),
    "-3 (r)": (4.0, 4.0, 4.0, 75.0, 75.0, 75.0),
    "-3m (r)": (4.0, 4.0, 4.0, 75.0, 75.0, 75.0),
    "6/m": (4.0, 4.0, 6.0, 90.0, 90.0, 120.0),
    "6/mmm": (4.0, 4.0, 6.0, 90.0, 90.0, 120.0),
    "m-3": (4.0, 4.0, 4.0, 90.0, 90.0, 90.0),
    "m-3m": (4.0, 4.0, 4.0, 90.0, 90.0, 90.0),
}
ORDER = {
    "-1": 2, "2/m": 4, "2/m (a)": 4, "2/m (c)": 4, "mmm": 8, "4/m": 8, "4/mmm": 16, "-3": 6,
    "-3m1": 12, "-31m": 12, "-3 (r)": 6, "-3m (r)": 12, "6/m": 12, "6/mmm": 24, "m-3": 24,
    "m-3m": 48,
}  # fmt: skip
# International Tables A, table 3.1.4.1 and the listed general positions: what is equivalent to hkl
EQUIVALENT = {
    "2/m": (-1, 2, -3),
    "mmm": (-1, 2, 3),
    "4/m": (-2, 1, 3),
    "4/mmm": (2, 1, 3),
    "-3": (2, -3, 3),
    "-3m1": (2, 1, -3),
    "-31m": (2, 1, 3),
    "-3 (r)": (2, 3, 1),
    "-3m (r)": (2, 1, 3),
    "6/m": (3, -1, 3),
    "6/mmm": (2, 1, 3),
    "m-3": (2, 3, 1),
    "m-3m": (2, 1, 3),
}
NOT_EQUIVALENT = {
    "2/m": (-1, 2, 3), "4/m": (2, 1, 3), "-3": (2, 1, -3), "-3m1": (2, 1, 3),
    "-31m": (2, 1, -3), "6/m": (2, 1, 3), "m-3": (2, 1, 3), "-3 (r)": (2, 1, 3),
}  # fmt: skip


def rotations_of(lattice: tuple[float, ...]) -> np.ndarray:
    """Real rotations and inversions that the operations must be: W as it acts on vectors."""
    return np.linalg.inv(direct_basis(lattice)).T


@pytest.mark.parametrize("name", NAMES)
def test_a_class_is_a_group_of_isometries_of_its_lattice(name):
    laue = Laue.named(name)
    W = [np.array(operation) for operation in laue.operations]

    assert len(W) == ORDER[name]
    products = {(a @ b).tobytes() for a, b in itertools.product(W, W)}
    assert products == {w.tobytes() for w in W}
    B = rotations_of(LATTICES[name])
    for w in W:
        real = B @ w @ np.linalg.inv(B)
        np.testing.assert_allclose(real @ real.T, np.eye(3), atol=1e-12)
    laue.check(LATTICES[name])


@pytest.mark.parametrize("name", EQUIVALENT)
def test_what_the_tables_call_equivalent_is(name):
    images = {tuple(np.array(w) @ (1, 2, 3)) for w in Laue.named(name).operations}

    assert EQUIVALENT[name] in images
    if name in NOT_EQUIVALENT:
        assert NOT_EQUIVALENT[name] not in images


def symmetric_function(name: str, grid: Grid) -> np.ndarray:
    """Something with exactly the symmetry, and no more, at every cell: Cartesian, no operations."""
    laue = Laue.named(name)
    h, k, l = np.meshgrid(grid.h, grid.k, grid.l, indexing="ij")  # noqa: E741
    value = np.zeros(h.shape)
    for w in laue.operations:
        a, b, c = np.tensordot(np.array(w), np.stack([h, k, l]), axes=1)
        value += np.exp(np.sin(1.3 * a + 0.4) + np.cos(0.7 * b - 0.2 * a * c) + 0.3 * np.sin(c * b))
    return value


@pytest.mark.parametrize("shape", ["whole", "part"])
@pytest.mark.parametrize("name", NAMES)
def test_holes_are_filled_exactly(name, shape):
    """With 30 % holes and any weights, the intensity is that of the equivalents: below 1e-6."""
    steps = (3, 3, 3)
    if shape == "whole":
        grid = Grid((-7, -7, -7), (15, 15, 15), steps)
    else:  # a box that is not its own image
        grid = Grid((-3, -7, -2), (12, 11, 10), steps)
    rng = np.random.default_rng(3)
    truth = symmetric_function(name, grid)
    weight = rng.uniform(0.1, 2.0, grid.shape) * (rng.random(grid.shape) > 0.3)
    volume = Volume(truth * weight, weight, grid, variance=truth * weight * 0.5)

    once = symmetrise(volume, Laue.named(name))

    seen = once.measured
    if ORDER[name] >= 8 and shape == "whole":
        assert seen.mean() > 0.98  # on special positions there are few
    assert np.all(seen[weight > 0])
    np.testing.assert_allclose(once.intensity[seen], truth[seen], rtol=1e-9)
    # every equivalent cell holds the same sums
    labels = np.meshgrid(
        *(np.arange(a, b) for a, b in zip(grid.first, grid.end, strict=True)), indexing="ij"
    )
    for w in Laue.named(name).operations:
        image = np.tensordot(np.array(w), np.stack(labels), axes=1)
        image = image - np.array(grid.first)[:, None, None, None]
        inside = np.all((image >= 0) & (image < np.array(grid.shape)[:, None, None, None]), axis=0)
        at = tuple(image[:, inside])
        np.testing.assert_allclose(once.weight[at], once.weight[inside], rtol=1e-12)
        np.testing.assert_allclose(once.variance[at], once.variance[inside], rtol=1e-12)


@pytest.mark.parametrize("first", [(-6, -6, -6), (-6, -6, -4), (-3, -6, -4), (2, 0, -1)])
@pytest.mark.parametrize("name", NAMES)
def test_sums_by_steps_are_sums_over_every_operation(name, first):
    """Cell by cell, by hand, on grids that the class takes onto themselves or does not."""
    laue = Laue.named(name)
    shape = tuple(max(1 - 2 * a, 4) for a in first)
    volume = Volume(*np.random.default_rng(4).random((2, *shape)), Grid(first, shape, (5, 5, 5)))

    done = symmetrise(volume, laue)
    assert done.counts is not volume.counts

    for cell in np.random.default_rng(5).integers(0, shape, (40, 3)):
        images = {tuple(np.array(op) @ (cell + first) - first) for op in laue.operations}
        there = [i for i in images if all(0 <= x < n for x, n in zip(i, shape, strict=True))]
        by_hand = sum(volume.counts[image] for image in there)
        assert done.counts[tuple(cell)] == pytest.approx(by_hand)
    in_place = symmetrise(volume, laue, overwrite=True)
    assert in_place.weight is volume.weight
    np.testing.assert_array_equal(in_place.counts, done.counts)
    np.testing.assert_array_equal(in_place.weight, done.weight)


@pytest.mark.parametrize("name", NAMES)
def test_twice_is_once(name):
    grid = Grid((-4, -4, -4), (9, 9, 9), (2, 2, 2))
    rng = np.random.default_rng(1)
    weight = rng.random(grid.shape) * (rng.random(grid.shape) > 0.3)
    volume = Volume(rng.poisson(5, grid.shape) * 1.0 * (weight > 0), weight, grid)
    laue = Laue.named(name)

    once = symmetrise(volume, laue)
    twice = symmetrise(once, laue)

    for each in ("counts", "weight"):
        np.testing.assert_array_equal(getattr(twice, each), getattr(once, each))


def test_a_class_after_one_that_it_contains_is_that_class():
    grid = Grid((-4, -4, -4), (9, 9, 9), (2, 2, 2))
    rng = np.random.default_rng(1)
    volume = Volume(rng.random(grid.shape), rng.random(grid.shape), grid)

    by_steps = symmetrise(symmetrise(volume, Laue.named("mmm")), Laue.named("m-3m"))
    at_once = symmetrise(volume, Laue.named("m-3m"))

    np.testing.assert_allclose(by_steps.counts, at_once.counts)
    with pytest.raises(ReductionError, match="does not contain"):
        symmetrise(at_once, Laue.named("mmm"))


def test_a_cell_on_a_mirror_plane_counts_once():
    grid = Grid((-1, 0, 0), (3, 1, 1), (1, 1, 1))
    volume = Volume(np.array([2.0, 5.0, 4.0]).reshape(3, 1, 1), np.ones(grid.shape), grid)

    both = symmetrise(volume, Laue.named("mmm"))

    np.testing.assert_array_equal(both.counts.ravel(), [6.0, 5.0, 6.0])
    np.testing.assert_array_equal(both.weight.ravel(), [2.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("P 1", "-1"), ("P-1", "-1"), ("P 21/c", "2/m"), ("P 1 21/c 1", "2/m"), ("C2/m", "2/m"),
        ("P 1 1 2/m", "2/m (c)"), ("P 2/m 1 1", "2/m (a)"), ("Cc", "2/m"), ("I 2", "2/m"),
        ("P 21 21 21", "mmm"), ("Pnma", "mmm"), ("C m c m", "mmm"), ("Fdd2", "mmm"),
        ("I b a m", "mmm"), ("P 2/m 2/m 2/m", "mmm"), ("C m c e", "mmm"), ("P222", "mmm"),
        ("P 4", "4/m"), ("I-4", "4/m"), ("P 42/n", "4/m"), ("I41/a", "4/m"),
        ("P 4/m m m", "4/mmm"), ("I 4/m c m", "4/mmm"), ("P 41 21 2", "4/mmm"),
        ("I-42d", "4/mmm"), ("P4mm", "4/mmm"), ("P 42/m n m", "4/mmm"),
        ("P 3", "-3"), ("P 31", "-3"), ("P32", "-3"), ("R -3", "-3"), ("P-3", "-3"),
        ("P 3 2 1", "-3m1"), ("P 31 2 1", "-3m1"), ("P3221", "-3m1"), ("P3m1", "-3m1"),
        ("P-3c1", "-3m1"), ("P -3 m 1", "-3m1"), ("R -3 m", "-3m1"), ("R32", "-3m1"),
        ("R-3c:H", "-3m1"), ("R 3 m", "-3m1"), ("P -3 2/m 1", "-3m1"),
        ("P312", "-31m"), ("P 31 1 2", "-31m"), ("P3212", "-31m"), ("P31m", "-31m"),
        ("P 3 1 c", "-31m"), ("P -3 1 m", "-31m"), ("P-31c", "-31m"),
        ("P 6", "6/m"), ("P63/m", "6/m"), ("P-6", "6/m"), ("P65", "6/m"),
        ("P 63/m m c", "6/mmm"), ("P6122", "6/mmm"), ("P-62m", "6/mmm"), ("P6mm", "6/mmm"),
        ("P 2 3", "m-3"), ("P213", "m-3"), ("I a -3", "m-3"), ("Pa3", "m-3"), ("Fd-3", "m-3"),
        ("P m -3 m", "m-3m"), ("Fm-3m", "m-3m"), ("F d -3 m", "m-3m"), ("I-43d", "m-3m"),
        ("F 4/m -3 2/m", "m-3m"), ("I 41/a -3 2/d", "m-3m"), ("P 2/m -3", "m-3"),
        ("I 21/a -3", "m-3"), ("P 4/m 2/m 2/m", "4/mmm"), ("P 43 3 2", "m-3m"),
        ("F 4 3 2", "m-3m"), ("Ia-3d", "m-3m"), ("P4232", "m-3m"),
    ],
)  # fmt: skip
def test_a_space_group_says_its_class(symbol, name):
    assert Laue.of(symbol).name == name


def spellings(group: gemmi.SpaceGroup) -> set[str]:
    """Every way in which gemmi writes a setting, with and without spaces."""
    written = {group.hm, group.xhm(), group.short_name()}
    return written | {each.replace(" ", "") for each in written}


def operations_on_hkl(group: gemmi.SpaceGroup) -> set[tuple[tuple[int, ...], ...]]:
    """By gemmi alone: what it makes of three reflections says what a matrix it is."""
    found = set()
    for operation in group.operations().sym_ops:
        columns = [operation.apply_to_hkl(unit) for unit in ([1, 0, 0], [0, 1, 0], [0, 0, 1])]
        for sign in (1, -1):
            found.add(tuple(tuple(sign * x for x in row) for row in zip(*columns, strict=True)))
    return found


def test_every_spelling_of_every_setting_has_the_operations_that_gemmi_has():
    meant: dict[str, list[gemmi.SpaceGroup]] = {}
    for group in gemmi.spacegroup_table():
        for text in spellings(group):
            meant.setdefault(text, []).append(group)

    wrong = []
    for text, groups in meant.items():
        # R 3 is written on both axes: hexagonal, if nothing else is said
        group = next((each for each in groups if each.ext == "H"), groups[0])
        if set(Laue.of(text).operations) != operations_on_hkl(group):
            wrong.append((text, Laue.of(text).name, group.xhm()))

    assert len(meant) == 1258
    assert wrong == []


@pytest.mark.parametrize("group", [g for g in gemmi.spacegroup_table() if g.ext == "H"], ids=str)
def test_a_rhombohedral_group_is_the_same_obverse_and_reverse_and_on_both_axes(group):
    hexagonal, rhombohedral = (4.0, 4.0, 12.0, 90.0, 90.0, 120.0), (4.0, 4.0, 4.0, 75.0, 75.0, 75.0)
    other = gemmi.find_spacegroup_by_name(f"{group.hm}:R")
    reverse = np.diag([-1, -1, 1])

    for text in (group.hm, group.xhm(), group.hm.replace("R", "H"), group.short_name()):
        obverse = Laue.of(text, hexagonal)
        turned = {
            tuple(map(tuple, reverse @ w @ reverse)) for w in map(np.array, obverse.operations)
        }
        assert set(obverse.operations) == operations_on_hkl(group) == turned
    for text in (group.hm, other.xhm()):
        assert set(Laue.of(text, rhombohedral).operations) == operations_on_hkl(other)
    for text in (group.xhm(), group.short_name()):
        with pytest.raises(ReductionError, match="does not have the symmetry"):
            Laue.of(text, rhombohedral)


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("H 3 2", "-3m1"), ("h32", "-3m1"), ("H-3c", "-3m1"), ("H 3", "-3"), ("R 3 2:R", "-3m (r)"),
        ("P 2(1)/c", "2/m"), ("P6(3)/mmc", "6/mmm"), ("P 21 21 2 (a)", "mmm"), ("B 2/b", "2/m (c)"),
        ("P 63/m 2/m 2/c", "6/mmm"), ("P 21/n 21/m 21/a", "mmm"), ("C 4/m m m", "4/mmm"),
        ("C 4 m b", "4/mmm"), ("P_21_21_21", "mmm"), ("P −3 m 1", "-3m1"),
    ],
)  # fmt: skip
def test_other_spellings_are_understood(symbol, name):
    assert Laue.of(symbol).name == name


@pytest.mark.parametrize("symbol", ["P 3 2", "P 3 m", "P3c", "P 4 foo", "225", "R 3 2 1 m"])
def test_a_symbol_that_could_be_several_groups_or_none_is_refused(symbol):
    with pytest.raises(ReductionError, match=r"could be P32|not a known space group"):
        Laue.of(symbol)


def test_the_lattice_says_which_axes():
    assert Laue.of("R -3 m", (4, 4, 4, 75, 75, 75)).name == "-3m (r)"
    assert Laue.of("R -3 m", (4, 4, 12, 90, 90, 120)).name == "-3m1"
    assert Laue.of("P 21", (4, 5, 6, 90, 90, 101)).name == "2/m (c)"
    assert Laue.named("2/m", (4, 5, 6, 90, 101, 90)).name == "2/m"
    # the errors of a refined cell say nothing
    assert Laue.of("P 21/c", (7.1, 8.2, 9.3, 89.91, 90.04, 90.0)).name == "2/m"
    assert Laue.of("P 21", (4, 5, 6, 90.02, 89.96, 101)).name == "2/m (c)"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Laue.named("m-3m", (4, 4, 4.2, 90, 90, 90)), "does not have the symmetry"),
        (lambda: Laue.named("6/mmm", (4, 4, 4, 90, 90, 90)), "does not have the symmetry"),
        (lambda: Laue.named("5/m"), "not a Laue class"),
        (lambda: Laue.of("P 5 m"), "not a known space group"),
        (lambda: Laue.of(""), "not a known space group"),
        (lambda: Laue.of("P -3 m 1", (4, 4, 4, 75, 75, 75)), "does not have the symmetry"),
        (
            lambda: Laue.named("m-3m").check_grid(Grid((0, 0, 0), (2, 2, 2), (10, 10, 5))),
            "exchanges",
        ),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(ReductionError, match=message):
        wrong()


def test_a_grid_grows_to_hold_its_equivalents():
    grid = Laue.named("6/mmm").covering(Grid((0, 0, 0), (3, 2, 2), (1, 1, 1)))

    assert grid.first == (-3, -3, -1)
    assert grid.shape == (7, 7, 3)
