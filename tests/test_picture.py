"""Planes of a volume: which cells are on them, and where their colours end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offbragg.errors import ReductionError
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.plots.planes import UNMEASURED, Plane, compare, cut, plot
from offbragg.sample import Sample
from offbragg.volume import Volume

CUBIC = (4.0, 4.0, 4.0, 90.0, 90.0, 90.0)


def volume_of(function, grid: Grid) -> Volume:
    h, k, l = np.meshgrid(grid.h, grid.k, grid.l, indexing="ij")  # noqa: E741
    weight = np.full(grid.shape, 2.0)
    return Volume(function(h, k, l) * weight, weight, grid, sample=Sample("x", "x", lattice=CUBIC))


BOX = Grid((-8, -6, -4), (17, 13, 9), (4, 4, 4))


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("hk0.5", lambda a, b: (a, b, 0.5)), ("-1kl", lambda a, b: (-1, a, b)),
        ("hhl", lambda a, b: (a, a, b)), ("h-hl", lambda a, b: (a, -a, b)),
        ("hkk", lambda a, b: (a, b, b)), ("hk-h", lambda a, b: (a, b, -a)),
        ("h,k,-h-k", lambda a, b: (a, b, -a - b)), ("h,h+0.5,l", lambda a, b: (a, a + 0.5, b)),
        ("2hkh", lambda a, b: (2 * a, b, a)), ("h,k,h+k-1", lambda a, b: (a, b, a + b - 1)),
    ],
)  # fmt: skip
def test_a_plane_holds_the_cells_that_its_name_says(text, point):
    volume = volume_of(lambda h, k, m: 100 + h + 10 * k + 0.1 * m, BOX)
    plane = Plane.parse(text)

    found = cut(volume, plane)

    assert volume.grid is not None
    seen = 0
    names = [volume.grid.axis(i) for i in range(3)]
    for a in np.arange(-4, 4.01, 0.25):
        for b in np.arange(-4, 4.01, 0.25):
            hkl = point(a, b)
            inside = all(axis[0] <= x <= axis[-1] for x, axis in zip(hkl, names, strict=True))
            on_cells = all(float(x * 4).is_integer() for x in hkl)
            if inside and on_cells:
                seen += 1
                value = 100 + hkl[0] + 10 * hkl[1] + 0.1 * hkl[2]
                assert np.any(np.isclose(found, value, atol=1e-9)), (hkl, value)
    assert seen >= np.isfinite(found).sum() > 10


def test_a_thick_oblique_plane_sums_across_it():
    volume = volume_of(lambda h, k, m: 5.0 + (h - k) ** 2, BOX)

    thin, thick = (cut(volume, Plane.parse("hhl"), thickness=t) for t in (0.0, 0.5))

    np.testing.assert_allclose(thin[np.isfinite(thin)], 5.0)
    middle = thick[thick.shape[0] // 2, thick.shape[1] // 2]
    assert middle == pytest.approx(5.0 + 2 * 0.5**2 / 3)  # layers at −1/4, 0, 1/4 of (1 −1 0)


@pytest.mark.parametrize("text", ["hkl", "hh0", "hh", "h,k", "h,h,h", "hx0", "h,k,m", "1,2,3", ""])
def test_what_is_not_a_plane_is_refused(text):
    with pytest.raises(ReductionError, match="is not a plane"):
        Plane.parse(text)


@pytest.mark.parametrize("plane", ["hk0", "hhl"])
def test_a_file_is_drawn_as_its_volume_and_bragg_peaks_do_not_set_the_colours(tmp_path, plane):
    grid = Grid((-15, -15, -15), (31, 31, 31), (10, 10, 10))

    def crystal(h, k, l):  # noqa: E741
        diffuse = 2.0 + np.cos(2 * np.pi * h) * np.cos(2 * np.pi * k)
        away = sum((x - np.rint(x)) ** 2 for x in (h, k, l))
        return diffuse + 1e5 * np.exp(-away / 0.003)

    volume = volume_of(crystal, grid)
    path = write_volume(tmp_path / "v.h5", volume, {})

    figures = [plot(each, plane) for each in (volume, path)]
    all_of_it = plot(volume, plane, top=100.0, high=None)
    chosen = plot(volume, plane, high=7.0)

    ends = [figure.axes[0].collections[0].get_clim()[1] for figure in (*figures, all_of_it, chosen)]
    assert 2.0 < ends[0] < 10.0
    assert ends[0] == ends[1]
    assert ends[0] <= ends[2] < 1e3
    assert ends[3] == 7.0
    drawn = [figure.axes[0].collections[0].get_array().filled(-1) for figure in figures]
    np.testing.assert_array_equal(*drawn)


def test_a_top_that_is_no_percentage_is_refused():
    with pytest.raises(ReductionError, match="top is 101"):
        plot(volume_of(lambda h, k, m: 1 + h * h, BOX), top=101)


def part_of(volume: Volume, radius: float) -> Volume:
    """What is measured within a circle about the origin, but for the beamstop."""
    assert volume.grid is not None
    h, k = np.meshgrid(volume.grid.h, volume.grid.k, indexing="ij")
    seen = (np.hypot(h, k) < radius) & (np.hypot(h, k) > 0.3)
    weight = volume.weight * seen[:, :, None]
    return Volume(volume.counts * (weight > 0), weight, volume.grid, sample=volume.sample)


def test_a_picture_says_what_it_shows():
    volume = part_of(volume_of(lambda h, k, m: 1.0 + h**2, BOX), 1.5)

    figure = plot(volume, "hk0.5")

    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("h (r.l.u.)", "k (r.l.u.)")
    assert bar.get_ylabel() == "S(Q) (counts / weight)"
    measured = np.isfinite(cut(volume, Plane.parse("hk0.5"))).mean()
    assert axes.get_title() == f"x x, l = 0.5\n{100 * measured:.0f} % measured"
    assert 0.1 < measured < 0.9


def test_what_was_not_measured_is_hatched_and_never_has_a_colour():
    volume = part_of(volume_of(lambda h, k, m: 1.0 + h**2, BOX), 1.5)

    figure = plot(volume, "hk0")

    drawn = figure.axes[0].collections[0].get_array()
    np.testing.assert_array_equal(
        np.ma.getmaskarray(drawn), np.isnan(cut(volume, Plane.parse("hk0")))
    )
    (behind,) = figure.axes[0].patches
    assert behind.get_hatch()
    assert behind.get_zorder() < figure.axes[0].collections[0].get_zorder()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [UNMEASURED]
    whole = plot(volume_of(lambda h, k, m: 1.0 + h**2, BOX), "hk0")
    assert not whole.legends


def test_planes_that_are_compared_have_the_same_colours():
    low, high = (volume_of(lambda h, k, m, f=f: f * (1.0 + h**2), BOX) for f in (1.0, 50.0))

    figure = compare([low, high], "hk0")

    ends = [axes.collections[0].get_clim() for axes in figure.axes[:2]]
    assert ends[0] == ends[1]
    assert ends[0][0] < 1.5
    assert ends[0][1] > 50.0
    assert figure.get_suptitle() == "x x, l = 0"
    assert len(figure.axes) == 3  # one bar of colours for both
    with pytest.raises(ReductionError, match="at least one"):
        compare([])


@pytest.mark.parametrize(
    ("lattice", "aspect", "label"),
    [
        ((4.0, 8.0, 4.0, 90.0, 90.0, 90.0), 0.5, "h (r.l.u.)"),
        ((4.0, 4.0, 6.0, 90.0, 90.0, 120.0), 1.0, "h (r.l.u.); axes at 60°"),
    ],
)
def test_lengths_and_angles_are_those_of_the_lattice(lattice, aspect, label):
    volume = volume_of(lambda h, k, m: 1.0 + h**2, BOX)
    sample = Sample("x", "x", lattice=lattice)

    axes = plot(Volume(volume.counts, volume.weight, BOX, sample=sample), "hk0").axes[0]

    assert axes.get_aspect() == pytest.approx(aspect)
    assert axes.get_xlabel() == label


def test_a_file_says_temperature_frames_and_unit(tmp_path):
    record = {
        "temperature": 89.98, "inputs": [{"frames": 60}, {"frames": 59}], "monitor": True,
        "corrections": {"solid_angle": True},
    }  # fmt: skip
    path = write_volume(tmp_path / "v.h5", volume_of(lambda h, k, m: 1.0 + h**2, BOX), record)

    figure = plot(path, "hk0")

    title = figure.axes[0].get_title()
    assert title.splitlines()[1] == "90.0 K · 119 frames · 100 % measured"
    assert figure.axes[1].get_ylabel() == "S(Q) (counts per monitor count and sr)"


def test_pictures_of_the_pages_are_small():
    images = Path(__file__).parents[1] / "docs" / "images"

    for picture in images.glob("*.png"):
        assert picture.stat().st_size <= 150_000, picture
    assert "docs/images/hk0.5.png" in (images.parents[1] / "README.md").read_text()
