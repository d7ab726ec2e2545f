from __future__ import annotations

import numpy as np
import pytest

from offbragg.errors import ReductionError
from offbragg.grid import Grid
from offbragg.sample import Sample
from offbragg.volume import Volume

CUBIC = (4.0, 4.0, 4.0, 90.0, 90.0, 90.0)


def test_cells_are_centred_on_their_labels():
    grid = Grid.box((-1, 1), (0, 0.5), (2, 2), step=0.1)

    assert grid.shape == (21, 6, 1)
    np.testing.assert_allclose(grid.h, np.linspace(-1, 1, 21), atol=1e-15)
    assert grid.index((0.0499, 0.0, 2.0)) == (10, 0, 0)
    assert grid.index((0.0501, 0.0, 2.0)) == (11, 0, 0)
    assert grid.index((-0.0499, 0.0, 1.951)) == (10, 0, 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Grid.box((0, 1), (0, 1), (0, 1), step=0.3), "1/integer"),
        (lambda: Grid.box((0, 1), (0, 1), (0, 1), step=-0.1), "between 0 and 1"),
        (lambda: Grid.box((1, 0), (0, 1), (0, 1)), "is not a range"),
        (lambda: Grid.parse("1:2,3:4"), "is not a grid"),
        (lambda: Grid.parse("a:2,3:4,0:1"), "is not a grid"),
        (lambda: Grid((0, 0, 0), (0, 1, 1), (1, 1, 1)), "empty"),
        (lambda: Grid.box((0, 1), (0, 1), (0, 1)).index((2, 0, 0)), "outside"),
    ],
)
def test_what_is_no_grid_is_refused(wrong, message):
    with pytest.raises(ReductionError, match=message):
        wrong()


def test_a_grid_survives_json():
    grid = Grid.parse("-5:5:0.05,-5:5:1/20,-3:3:0.1")

    assert grid.per_unit == (20, 20, 10)
    assert Grid.from_dict(grid.to_dict()) == grid


def test_merging_before_or_after_reading_is_the_same_measurement():
    once = Volume(np.array([3.0, 0.0]), np.array([1.0, 0.0]))
    longer = Volume(np.array([21.0, 4.0]), np.array([7.0, 2.0]))

    merged = once + longer

    np.testing.assert_allclose(merged.intensity, [3.0, 2.0])
    np.testing.assert_allclose(merged.sigma, np.sqrt([24.0, 4.0]) / [8.0, 2.0])


def test_what_was_not_measured_is_not_a_number():
    volume = Volume(np.array([0.0, 0.0]), np.array([0.0, 2.0]))

    np.testing.assert_array_equal(volume.intensity, [np.nan, 0.0])
    assert volume.completeness == 0.5


def test_only_one_of_them_has_its_own_variance():
    fractions = Volume(np.array([2.5]), np.array([1.0]), variance=np.array([1.5]))
    whole = Volume(np.array([4.0]), np.array([1.0]))

    assert (fractions + whole).variance == pytest.approx([5.5])
    assert (whole + fractions).variance == pytest.approx([5.5])


def test_a_background_is_subtracted_after_division_and_variances_add():
    data = Volume(np.array([100.0, 50.0, 7.0]), np.array([10.0, 5.0, 1.0]))
    air = Volume(np.array([6.0, 8.0, 0.0]), np.array([3.0, 2.0, 0.0]))

    above = data.subtract(air, scale=0.5)

    np.testing.assert_allclose(above.intensity, [10 - 0.5 * 2, 10 - 0.5 * 4, np.nan])
    variance = [100 / 10**2 + 0.25 * 6 / 3**2, 50 / 5**2 + 0.25 * 8 / 2**2, np.nan]
    np.testing.assert_allclose(above.sigma**2, variance)
    with pytest.raises(ReductionError, match="already"):
        above.subtract(air)
    with pytest.raises(ReductionError, match="only one"):
        _ = above + data


def sampled(**facts: object) -> Volume:
    grid = Grid((0, 0, 0), (1, 1, 1), (1, 1, 1))
    sample = Sample("a", "c1", **{"lattice": CUBIC, **facts})
    return Volume(np.ones((1, 1, 1)), np.ones((1, 1, 1)), grid, sample=sample)


def test_different_crystals_do_not_merge():
    other = Volume(np.ones((1, 1, 1)), np.ones((1, 1, 1)), sampled().grid, sample=Sample("b", "c1"))

    with pytest.raises(ReductionError, match=r"sample\.name is 'a' and 'b'"):
        _ = sampled() + other
    with pytest.raises(ReductionError, match=r"sample\.lattice"):
        _ = sampled() + sampled(lattice=(4.0, 4.0, 4.3, 90, 90, 90))
    warmed = sampled() + sampled(lattice=(4.02, 4.02, 4.02, 90, 90, 90))
    assert warmed.counts.sum() == 2


def test_different_grids_do_not_add():
    one = Volume.empty(Grid((0, 0, 0), (2, 1, 1), (1, 1, 1)))
    other = Volume.empty(Grid((1, 0, 0), (2, 1, 1), (1, 1, 1)))

    with pytest.raises(ReductionError, match="different grids"):
        _ = one + other
    assert (one.grid | other.grid).shape == (3, 1, 1)


def test_a_part_keeps_its_labels():
    grid = Grid.box((-1, 1), (-1, 1), (-1, 1), step=0.5)
    volume = Volume(np.arange(125.0).reshape(grid.shape), np.ones(grid.shape), grid)

    part = volume[grid.around((0.5, 0.0, -1.0), 0.5)]

    np.testing.assert_allclose(part.grid.h, [0, 0.5, 1])
    np.testing.assert_allclose(part.grid.l, [-1, -0.5])
    assert part.counts[1, 1, 0] == volume.counts[grid.index((0.5, 0.0, -1.0))]


def test_a_volume_is_shown_as_one_line_of_numbers():
    grid = Grid.box((-1, 1), (0, 2), (0.5, 0.5), step=0.05)
    counts, weight = np.zeros(grid.shape), np.zeros(grid.shape)
    counts[:10], weight[:10] = 3.0, 1.0
    sample = Sample("KMnF3", "x1", lattice=CUBIC)

    shown = repr(Volume(counts, weight, grid, sample=sample, symmetry="m-3m"))
    bare = repr(Volume(np.zeros(5), np.zeros(5)))

    assert shown == (
        "<Volume KMnF3 x1; h -1 to 1 by 1/20, k 0 to 2 by 1/20, l 0.5 to 0.5 by 1/20; "
        "24.4% of 1681 cells measured; 1230 counts; m-3m>"
    )
    assert bare == "<Volume 5 cells; 0.0% of 5 cells measured; 0 counts>"
    assert len(repr(Volume(np.zeros(0), np.zeros(0)))) < 100
