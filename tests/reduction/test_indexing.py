"""Orientations from peak positions, against the simulator's geometry and hand-made crossings."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
import pytest
from crystals import BRAVAIS, geometry, misorientation, orientation, random_cell, random_turn, seen
from peak_lists import KINDS, SWEEP, anywhere, on_shells, only, peak_list, peaks_of, q_of

from offbragg.errors import GeometryError, OrientationError
from offbragg.geometry import rotation_about
from offbragg.reduction.indexing import index
from offbragg.reduction.leftover import find_shells
from offbragg.reduction.peaks import Peaks
from offbragg.reduction.refinement import SweepPeaks, moved_panel
from offbragg.reduction.search import sharpen
from offbragg.sweep import Sweep

ORTHO = (5.43, 7.21, 11.3, 90.0, 90.0, 90.0)


def crystal(seed: int, cell=ORTHO):
    rng = np.random.default_rng(seed)
    return rng, orientation(cell, random_turn(rng))


def attempt(seed: int, *, known: bool) -> tuple[bool, str]:
    """Index one random crystal; return whether it came out right, and the numbers."""
    rng = np.random.default_rng(seed)
    name = BRAVAIS[seed % len(BRAVAIS)]
    cell = random_cell(name, rng)
    UB = orientation(cell, random_turn(rng))
    view = seen(UB, name[1], rng)
    began = time.perf_counter()
    try:
        found = index([view], lattice=cell if known else None, centring=name[1])
    except OrientationError as error:
        return False, f"{seed} {name} {cell}: {error}"
    seconds = time.perf_counter() - began
    angle, strain = misorientation(found.UB, UB, cell)
    numbers = f"{seed} {name}: {found.name}, {angle:.4f} degree, {strain:.6f}, {seconds:.1f} s"
    right = angle < 0.02 and strain < 5e-4 and found.name == name and seconds < 30
    return right, numbers


@pytest.mark.parametrize("seed", [0, 2, 6, 8, 9, 10, 13], ids=lambda seed: BRAVAIS[seed])
def test_a_crystal_of_unknown_cell_is_found(seed):
    right, numbers = attempt(seed, known=False)

    assert right, numbers


@pytest.mark.parametrize("seed", [15, 24])
def test_a_crystal_of_known_cell_is_found(seed):
    right, numbers = attempt(seed, known=True)

    assert right, numbers


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
def test_98_percent_of_250_random_crystals_are_found(known):
    results = [attempt(seed, known=known) for seed in range(250)]

    wrong = [numbers for right, numbers in results if not right]
    print(*wrong, sep="\n")
    assert len(wrong) <= 5, wrong


def test_a_symmetry_that_fits_worse_holds_where_the_free_cell_has_it(monkeypatch):
    cell = (5.43, 5.43, 5.43, 90.0, 90.0, 90.0)
    rng, UB = crystal(4, cell)
    view = seen(UB, "P", rng)
    monkeypatch.setattr("offbragg.reduction.setting._allowed", lambda n, lattice: 0.5)

    assert index([view]).name == "cP"


@pytest.mark.slow
def test_of_two_lattices_the_stronger_is_found_and_the_other_reported():
    rng, UB = crystal(2)
    view = seen(UB, "P", rng, also=[(random_turn(rng) @ UB, "P", 0.5)])

    found = index([view])

    assert misorientation(found.UB, UB, ORTHO)[0] < 0.02
    assert found.second is not None
    assert any("a second lattice of the same cell" in each for each in found.warnings)


def test_a_split_crystal_is_reported():
    rng, UB = crystal(38)
    part = rotation_about([0, 1, 0], 0.8) @ UB
    view = seen(UB, "P", rng, also=[(part, "P", 0.7)])

    found = index([view])

    assert any("a split crystal" in each for each in found.warnings)


def test_one_lattice_has_no_second():
    rng, UB = crystal(3)

    found = index([seen(UB, "P", rng)])

    assert found.second is None
    assert found.warnings == ()


def test_peaks_of_ice_are_left_over():
    rng, UB = crystal(4)
    view = seen(UB, "P", rng, most=600)
    peaks = view.peaks
    # 400 more, on the shells of hexagonal ice
    shells = np.repeat(1 / np.array([3.90, 3.67, 3.44, 2.67, 2.25]), 80)
    theta = 2 * np.arcsin(shells * 0.7 / 2)
    about = rng.uniform(0, 2 * np.pi, shells.size)
    radius = 100 * np.tan(theta) / 0.172
    x, y, z = (
        737.4 + radius * np.cos(about),
        832.1 + radius * np.sin(about),
        rng.uniform(0, 360, 400),
    )
    iced = Peaks(
        *(np.concatenate(pair) for pair in ((peaks.x, x), (peaks.y, y), (peaks.z, z))),
        np.concatenate([peaks.intensity, rng.exponential(size=400)]),
        np.full(len(peaks) + 400, 0.4),
        np.ones(len(peaks) + 400, bool),
        {},
    )

    found = index([dataclasses.replace(view, peaks=iced)])

    assert misorientation(found.UB, UB, ORTHO)[0] < 0.02


def test_a_beam_centre_that_is_off_is_reported_and_can_be_refined():
    rng, UB = crystal(5)
    view = seen(UB, "P", rng, believed=geometry(moved=(3.0, -2.0)))

    warned = index([view])
    refined = index([view], what=("beam",))

    assert warned.warnings[0].endswith("try --refine beam,distance")
    assert refined.refined.moved["fast"][0] == pytest.approx(-3.0 * 0.172, abs=0.02)
    assert refined.refined.moved["slow"][0] == pytest.approx(2.0 * 0.172, abs=0.02)
    assert misorientation(refined.UB, UB, ORTHO)[0] < 0.02
    assert misorientation(refined.UB, UB, ORTHO)[1] < 5e-4


@pytest.mark.slow
def test_distance_and_tilts_are_refined():
    rng, UB = crystal(6, (8.2, 8.2, 8.2, 90, 90, 90))
    true = geometry()
    believed = dataclasses.replace(
        true, panel=moved_panel(true.panel, (0.1, 0.2, 0.5), (0.3, -0.2, 0.15))
    )
    view = seen(UB, "P", rng, believed=believed)

    found = index([view], what=("beam", "distance", "tilt"))

    panel = found.refined.views[0].geometry.panel
    np.testing.assert_allclose(panel.normal, true.panel.normal, atol=1e-3)
    np.testing.assert_allclose(panel.origin, true.panel.origin, atol=0.1)
    assert misorientation(found.UB, UB, (8.2, 8.2, 8.2, 90, 90, 90))[0] < 0.02


def test_two_sweeps_of_one_mount_are_indexed_together():
    rng, UB = crystal(7)
    views = [seen(UB, "P", rng, start=start, n_frames=40, most=150) for start in (-30.0, 60.0)]

    both = index(views)

    assert len(both.refined.indexed) == sum(len(view.peaks) for view in views)
    assert misorientation(both.UB, UB, ORTHO)[0] < 0.02


def test_the_setting_is_right_handed_and_always_the_same():
    rng, UB = crystal(8)
    view = seen(UB, "P", rng)
    other = UB @ np.diag([-1.0, -1.0, 1.0])

    settings = [index([view], lattice=ORTHO, reference=each).UB for each in (UB, other)]
    plain = index([view], lattice=ORTHO)

    assert np.linalg.det(plain.UB) > 0
    assert "of 4 indistinguishable ones" in plain.setting
    np.testing.assert_allclose(settings[0], UB, atol=2e-4)
    np.testing.assert_allclose(settings[1], other, atol=2e-4)


@pytest.mark.parametrize(
    "cell",
    [(5.50, 5.51, 5.52, 90, 90, 90), (8.1, 9.7, 40.0, 90, 90, 90), (4.2, 4.2, 8.4, 90, 90, 90)],
    ids=["pseudo-cubic", "40 angstrom", "c = 2a"],
)
def test_cells_that_tempt_come_out_as_they_are(cell):
    rng, UB = crystal(9, cell)

    found = index([seen(UB, "P", rng, most=2500)])

    assert found.name == ("tP" if cell[0] == cell[1] else "oP")
    np.testing.assert_allclose(found.lattice[:3], cell[:3], rtol=5e-4)


def test_weak_superlattice_reflections_are_reported():
    rng, UB = crystal(10)
    view = seen(UB, "P", rng, most=1000, missing=0.0, stray=0.0)
    half = seen(UB @ np.diag([1, 1, 0.5]), "P", rng, most=1000, missing=0.0, stray=0.0)
    h = half.peaks
    q = half.geometry.q(h.x, h.y, half.sweep.start + half.sweep.step * h.z)
    odd = np.flatnonzero(np.abs(np.rint(q @ np.linalg.inv(UB * [1, 1, 0.5]).T)[:, 2]) % 2 == 1)[:60]
    joined = Peaks(
        *(
            np.concatenate([getattr(view.peaks, name), getattr(h, name)[odd]])
            for name in ("x", "y", "z", "intensity", "width", "clean")
        ),
        {},
    )

    found = index([dataclasses.replace(view, peaks=joined)])

    np.testing.assert_allclose(found.lattice[:3], ORTHO[:3], rtol=5e-4)
    assert any("n/2 of this lattice, most at (0 0 1/2)" in each for each in found.warnings)


def with_superlattice(seed: int, m: int, ratio: int, *, n: int = 300):
    """A cubic cell whose peaks are fewer than those at n/m of it: 1 to ``ratio``."""
    cell = (4.186, 4.186, 4.186, 90.0, 90.0, 90.0)
    rng, UB = crystal(seed, cell)
    view = seen(UB / m, "P", rng, most=100_000, stray=0.0, missing=0.0)
    hkl = np.rint(q_of(view) @ np.linalg.inv(UB / m).T).astype(int)
    own = np.all(hkl % m == 0, axis=1)
    few = n // (1 + ratio)
    chosen = [rng.permutation(np.flatnonzero(own))[:few]]
    chosen.append(rng.permutation(np.flatnonzero(~own))[: few * ratio])
    return cell, UB, only(view, np.sort(np.concatenate(chosen)))


@pytest.mark.parametrize(("m", "ratio"), [pytest.param(2, 7, marks=pytest.mark.slow), (3, 26)])
def test_a_cell_is_found_however_many_superlattice_peaks_there_are(m, ratio):
    cell, UB, view = with_superlattice(1, m, ratio)

    found = index([view], lattice=cell)

    assert misorientation(found.UB, UB, cell)[0] < 0.1
    assert found.superlattice is not None
    assert found.superlattice.denominator == m
    assert found.superlattice.count > 0.97 * (~found.refined.indexed).sum()
    assert any(f"lie at fractions n/{m} of this lattice" in each for each in found.warnings)


@pytest.mark.parametrize("seed", [4, 5, 6, 7, 8, 9], ids=lambda seed: KINDS[seed])
def test_whatever_the_peaks_are_it_is_right_or_a_refusal(seed):
    assert judge(seed, known=False) == ""


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_1000_peak_lists_are_right_or_refused():
    lists = [(seed, known) for seed in range(500) for known in (False, True)]
    wrong = [error for seed, known in lists if (error := judge(seed, known))]

    print(*wrong, sep="\n")
    assert wrong == []


def judge(seed: int, known: bool) -> str:
    """Index a list of `peak_list`; return what is wrong, if anything is."""
    given = peak_list(seed)
    lattice, centring = (given.cell, given.centring) if known else (None, "P")
    try:
        found = index([given.view], lattice=lattice, centring=centring)
    except OrientationError:
        return ""
    numbers = f"{seed} {given.kind}, known {known}: {found.name} {np.round(found.lattice, 3)}"
    if given.UB is None:
        return f"{numbers} in peaks of nothing"
    angle, strain = misorientation(found.UB, given.UB, given.cell)
    return (
        "" if angle < 0.5 and strain < 0.02 else f"{numbers}, but it is {np.round(given.cell, 3)}"
    )


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(154, id="a sublattice of index 2"),
        pytest.param(210, id="a sublattice of index 6"),
        pytest.param(286, id="a cell 16 times as large"),
        pytest.param(224, id="points so dense that any cell fits a fifth"),
        pytest.param(324, id="13 peaks of oF"),
        pytest.param(354, id="20 peaks of hP"),
        pytest.param(479, id="12 peaks of hP"),
    ],
)
def test_few_peaks_give_the_whole_lattice_and_its_symmetry(seed):
    given = peak_list(seed)

    found = index([given.view])

    angle, strain = misorientation(found.UB, given.UB, given.cell)
    assert angle < 0.5, found.lattice
    assert strain < 0.02


@pytest.mark.parametrize(("height", "strays"), [(1, 0), (5, 0), (2, 40)])
def test_peaks_in_one_plane_beside_the_origin_are_refused(height, strays):
    rng, UB = crystal(18)
    view = seen(UB, "P", rng, most=3000, missing=0.0, stray=0.0, noise=(0.1, 0.05))
    along = (q_of(view) @ np.linalg.inv(UB).T)[:, 2]
    p = only(view, np.abs(along - height) < 0.1).peaks
    both = [
        np.concatenate(pair) for pair in zip((p.x, p.y, p.z), anywhere(rng, strays), strict=True)
    ]

    with pytest.raises(OrientationError, match=r"planes?: they tell two axes of the cell, not"):
        index([dataclasses.replace(view, peaks=peaks_of(*both))])


def test_what_is_scattered_around_the_peaks_is_no_twin():
    given = peak_list(73)  # satellites

    found = index([given.view], lattice=given.cell, centring=given.centring)

    assert found.second is None
    assert not any("twin" in each or "second lattice" in each for each in found.warnings)
    assert any(each.startswith("only 17% of the peaks belong") for each in found.warnings)


def test_a_block_that_is_a_little_turned_has_no_twin_law():
    rng, UB = crystal(38)
    about = np.array([1.0, 1.0, 0.0]) / math.sqrt(2.0)
    view = seen(UB, "P", rng, also=[(rotation_about(about, 2.0) @ UB, "P", 0.7)])

    found = index([view])

    assert found.second is not None
    assert found.second.angle == pytest.approx(2.0, abs=0.2)
    assert found.second.law == ""


def test_a_vector_that_no_peak_is_near_stays_where_it_is():
    q = np.array([[0.5, 0.0, 0.0], [1.5, 0.0, 0.0]])
    t = np.array([[1.0, 0.2, 0.3]])

    np.testing.assert_array_equal(sharpen(q, t), t)


def test_a_cell_is_found_where_no_peak_is_near_the_origin():
    rng, UB = crystal(16)
    view = seen(UB, "P", rng, most=5000, q_max=1.3)
    far = np.flatnonzero(np.linalg.norm(q_of(view), axis=1) > 0.9)[:120]

    found = index([only(view, far)])

    assert misorientation(found.UB, UB, ORTHO)[0] < 0.05


def test_rings_are_distinguished_from_the_reflections_of_a_crystal():
    rng, UB = crystal(17, (5.6, 5.6, 5.6, 90.0, 90.0, 90.0))
    three = [q_of(seen(turn @ UB, "P", rng, most=500))
             for turn in (np.eye(3), random_turn(rng), random_turn(rng))]  # fmt: skip
    columns = on_shells(rng, 1 / np.array([3.12, 2.70, 1.91, 1.63]), 80)
    powder = q_of(SweepPeaks(geometry(), SWEEP, peaks_of(*columns)))

    crystals, rings = (find_shells(q) for q in (np.concatenate(three), powder))

    assert rings is not None
    assert rings.rings
    assert "powder or ice?" in str(rings)
    assert crystals is not None
    assert crystals.rings is False
    assert "not powder or ice" in str(crystals)


# ---- what must be refused ------------------------------------------------------------------


def test_a_wrong_cell_is_refused():
    rng, UB = crystal(11)

    with pytest.raises(OrientationError, match=r"the given cell, 6.100, 7.900, 9.400 Å"):
        index([seen(UB, "P", rng)], lattice=(6.1, 7.9, 9.4, 90, 90, 90))


@pytest.mark.parametrize("known", [False, True])
def test_peaks_of_nothing_are_refused(known):
    rng, UB = crystal(12)
    view = seen(UB, "P", rng, most=0, stray=0)
    n = 800
    noise = Peaks(
        rng.uniform(0, 1475, n), rng.uniform(0, 1679, n), rng.uniform(0, 360, n),
        np.ones(n), np.full(n, 0.4), np.ones(n, bool), {},
    )  # fmt: skip

    with pytest.raises(OrientationError, match="800 peaks"):
        index([dataclasses.replace(view, peaks=noise)], lattice=ORTHO if known else None)


def test_powder_is_refused_with_its_spacings():
    rng, _ = crystal(13)
    shells = np.repeat(1 / np.array([3.12, 2.70, 1.91, 1.63]), 150)
    theta = 2 * np.arcsin(shells * 0.7 / 2)
    about = rng.uniform(0, 2 * np.pi, shells.size)
    radius = 100 * np.tan(theta) / 0.172
    n = shells.size
    peaks = Peaks(
        737.4 + radius * np.cos(about), 832.1 + radius * np.sin(about), rng.uniform(0, 360, n),
        np.ones(n), np.full(n, 0.4), np.ones(n, bool), {},
    )  # fmt: skip
    view = SweepPeaks(geometry(), Sweep("phi", 0.0, 0.5, 360, 0.1, 0.1), peaks)

    with pytest.raises(OrientationError, match=r"of the peaks lie on [34] thin shells, d = 3\.1"):
        index([view])


def test_too_few_peaks_are_refused_with_what_was_seen():
    rng, UB = crystal(14)
    view = seen(UB, "P", rng, most=8, stray=0.0)
    peaks = dataclasses.replace(view.peaks, ignored={"single pixels": 3, "lasting": 1, "broad": 0})

    with pytest.raises(OrientationError, match="8 peaks were found: at least 12") as caught:
        index([dataclasses.replace(view, peaks=peaks)])

    assert "3 single pixels, 1 lasting" in str(caught.value)


def test_what_cannot_be_refined_is_named():
    rng, UB = crystal(15)

    with pytest.raises(OrientationError, match="'wavelength' cannot be refined"):
        index([seen(UB, "P", rng)], what=("wavelength",))


def test_a_wavelength_that_is_no_number_is_refused():
    with pytest.raises(GeometryError, match="wavelength nan Å"):
        dataclasses.replace(geometry(), wavelength=float("nan"))
