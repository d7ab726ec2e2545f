"""The volume against the simulator's truth: an independent geometry, a known intensity."""

from __future__ import annotations

import numpy as np
import pytest
from measured import AS_SIMULATED, Measured, Truth

from offbragg.grid import Grid
from offbragg.reduction import reduce
from offbragg.reduction.binning import Oversample
from offbragg.workflows.choices import Choices
from offbragg.workflows.reduce import reduce_files

SHORT = Measured(n_frames=40, step=1.5)


def assert_fair(pulls: np.ndarray, *, at_least: int) -> None:
    """Mean 0 and standard deviation 1, within the errors of that number, and the issue's gates."""
    assert pulls.size >= at_least
    assert abs(pulls.mean()) < max(0.01, 4 / np.sqrt(pulls.size))
    assert 0.98 < pulls.std() < 1.02


@pytest.fixture(scope="module")
def grid() -> Grid:
    return Grid.covering(SHORT.geometry, SHORT.sweep, SHORT.UB, step=0.025)


@pytest.fixture(scope="module")
def truth(grid) -> Truth:
    return Truth(grid).add(SHORT)


def test_every_cell_is_as_true_as_its_counts_allow(grid, truth):
    volume = reduce(SHORT.stack, SHORT.scene(grid), SHORT.flux)

    assert volume.counts.sum() == SHORT.counts[SHORT.counts > 0].sum()
    assert_fair(truth.pulls(volume), at_least=300_000)


def test_half_a_pixel_or_half_a_frame_would_be_seen(grid, truth):
    half_frame = reduce(
        SHORT.stack, SHORT.scene(grid), SHORT.flux, angles=SHORT.sweep.midpoints - 0.75
    )

    assert truth.pulls(half_frame).std() > 1.1


def test_pieces_added_are_the_whole(grid):
    scene = SHORT.scene(grid)
    whole = reduce(SHORT.stack, scene, SHORT.flux)
    growing = scene.empty()
    binner = scene.binner()
    for a in range(0, 40, 7):
        reduce(SHORT.stack[a : a + 7], scene, SHORT.flux[a : a + 7], into=growing, binner=binner)

    np.testing.assert_array_equal(growing.counts, whole.counts)
    np.testing.assert_array_equal(growing.weight, whole.weight)


def test_threads_change_no_bit(grid):
    one = reduce(SHORT.stack[:5], SHORT.scene(grid, threads=1), SHORT.flux[:5])
    four = reduce(SHORT.stack[:5], SHORT.scene(grid, threads=4), SHORT.flux[:5])

    np.testing.assert_array_equal(one.weight, four.weight)
    np.testing.assert_array_equal(one.counts, four.counts)


def test_oversampling_keeps_every_count_and_the_variance_of_a_pixel(grid):
    part = SHORT.stack[:6]
    fine = reduce(part, SHORT.scene(grid, oversample=Oversample(2, 3)), SHORT.flux[:6])
    coarse = reduce(part, SHORT.scene(grid), SHORT.flux[:6])

    assert fine.counts.sum() == pytest.approx(coarse.counts.sum())
    assert fine.weight.sum() == pytest.approx(coarse.weight.sum())
    assert np.count_nonzero(fine.weight) > np.count_nonzero(coarse.weight)
    # a divided pixel's variance is at most its counts, and all of it where it was not divided
    assert np.all(fine.variance <= fine.counts * (1 + 1e-9))
    wide = Grid.covering(SHORT.geometry, SHORT.sweep, SHORT.UB, step=0.5)
    whole = reduce(part, SHORT.scene(wide, oversample=Oversample(2, 2)), SHORT.flux[:6])
    assert whole.variance.sum() > 0.9 * whole.counts.sum()


@pytest.mark.parametrize(
    ("peak", "first", "shift"), [((2, 0, 0), 187.0, 5.0), ((0, 0, -2), 88.9, 0.0)]
)
def test_the_200_peak_is_where_it_is_called(peak, first, shift):
    sweep = Measured(n_frames=50, step=0.2, first=first, shift=(0.0, shift))
    grid = Grid.box(*[(p - 0.1, p + 0.1) for p in peak], step=0.025)

    volume = reduce(sweep.stack, sweep.scene(grid), sweep.flux)

    assert volume.measured.all()
    above = volume.intensity - np.median(volume.intensity)
    axes = np.meshgrid(grid.h, grid.k, grid.l, indexing="ij")
    centroid = np.array([np.sum(above * axis) / above.sum() for axis in axes])
    assert np.all(np.abs(centroid - peak) < 0.1 * 0.025), (centroid - peak) / 0.025


def test_three_omegas_add_nothing_at_chi_0_and_much_at_chi_minus_90():
    """Cells that turns of 360 degrees measure, at omega 0 and at 0, ±15."""
    grid = Grid.box((-3, 3), (-3, 3), (-3, 3), step=0.2)
    gain = {}
    for chi in (0.0, -90.0):
        seen: list[int] = []
        volume = None
        for omega in (0.0, 15.0, -15.0):
            sweep = Measured(n_frames=144, step=2.5, chi=chi, omega=omega)
            blank = np.where(sweep.crystal.gaps, -1, 0).astype(np.int32)  # it needs no counts
            blanks = np.broadcast_to(blank, (144, *blank.shape))
            part = reduce(sweep.stack_of(blanks), sweep.scene(grid), sweep.flux)
            volume = part if volume is None else volume + part
            seen.append(np.count_nonzero(volume.weight > 1e-9 * volume.weight.max()))
        gain[chi] = seen[-1] / seen[0] - 1.0

    assert abs(gain[0.0]) < 1e-3  # what 360 degrees of phi see, they see from any omega
    assert gain[-90.0] > 0.3


def test_two_sweeps_merged_are_one_long_sweep(tmp_path):
    long = Measured(n_frames=20, step=1.0)
    halves = [Measured(n_frames=10, step=1.0, first=10.0 * i, series=i) for i in range(2)]
    for i, half in enumerate(halves):
        half.counts = long.counts[10 * i : 10 * i + 10]
    grid = Grid.covering(long.geometry, long.sweep, long.UB, step=0.05)
    mask = long.mask_file(tmp_path)
    choices = Choices(grid=grid, corrections=AS_SIMULATED, mask=mask)

    whole = reduce_files(long.write(tmp_path / "long"), choices)
    merged = reduce_files([half.write(tmp_path / "halves") for half in halves], choices)

    np.testing.assert_array_equal(merged.counts, whole.counts)
    np.testing.assert_allclose(merged.weight, whole.weight, rtol=1e-12)


def test_faults_cost_counts_and_no_truth(tmp_path, grid):
    """A frame dropped, some in another order or twice, one repeated by the detector, dips and
    top-up of the beam."""
    rng = np.random.default_rng(5)
    beam = 1.0 - 0.3 * (np.arange(40) % 10) / 10  # decays, and is topped up
    beam[[7, 8, 21]] = 0.05, 0.0, 0.4
    faulty = Measured(n_frames=40, step=1.5, beam=beam, series=3)
    order = rng.permutation(40).tolist()
    order += order[:10]  # ten come twice
    without = [13]
    repeated = {18: 17, 19: 17, 30: 29}
    messages: list[str] = []

    path = faulty.write(tmp_path, order=order, without=without, repeated=repeated)
    volume = reduce_files(
        path,
        Choices(grid=grid, corrections=AS_SIMULATED, mask=SHORT.mask_file(tmp_path)),
        say=messages.append,
    )

    assert any("18 = 17, 19 = 17, 30 = 29" in line for line in messages), messages
    lost = [*without, *repeated]
    assert_fair(Truth(grid).add(faulty, lost).pulls(volume), at_least=250_000)


def test_air_is_subtracted_with_its_own_noise(tmp_path, grid):
    data = Measured(n_frames=40, step=1.5, series=4)
    air = Measured(n_frames=40, step=15.0, series=5, crystal_in=False)
    path = data.write(tmp_path / "perovskite" / "c1" / "300K")
    air.write(tmp_path / "perovskite" / "c1_background" / "300K")
    messages: list[str] = []

    volume = reduce_files(
        path,
        Choices(grid=grid, corrections=AS_SIMULATED, mask=SHORT.mask_file(tmp_path)),
        say=messages.append,
    )

    assert any("c1_background" in line for line in messages)
    assert_fair(Truth(grid).add(data).pulls(volume), at_least=300_000)


@pytest.mark.slow
@pytest.mark.parametrize("faults", [0, 1, 10, 200])
def test_a_million_cells_are_true(tmp_path, faults):
    """The gates of the issue: |mean| < 0.01, standard deviation 0.98 to 1.02."""
    rng = np.random.default_rng(faults)
    n = 720
    beam = np.ones(n)
    if faults:
        beam = 1.0 - 0.1 * (np.arange(n) % 60) / 60
        beam[rng.choice(n, faults, replace=False)] = rng.uniform(0, 0.8, faults)
    sweep = Measured(n_frames=n, step=0.5, beam=beam, series=faults)
    grid = Grid.covering(sweep.geometry, sweep.sweep, sweep.UB, step=0.025)
    without = sorted(rng.choice(n, faults, replace=False).tolist())
    order = np.arange(n)
    swapped = rng.choice(n, 2 * faults, replace=False)
    order[swapped] = order[rng.permutation(swapped)]
    twice = [x for x in rng.choice(n, faults, replace=False).tolist() if x not in without]
    # the detector gives the frame before once more: the same pixels under two numbers
    later = rng.permutation(np.arange(1, n))
    stuck = [int(x) for x in later if x not in without and x - 1 not in without]
    repeated: dict[int, int] = {}
    for x in stuck:
        if len(repeated) < faults and x - 1 not in repeated and x + 1 not in repeated:
            repeated[x] = x - 1

    path = sweep.write(tmp_path, order=order.tolist() + twice, without=without, repeated=repeated)
    volume = reduce_files(
        path, Choices(grid=grid, corrections=AS_SIMULATED, mask=SHORT.mask_file(tmp_path))
    )

    pulls = Truth(grid).add(sweep, [*without, *repeated]).pulls(volume)
    print(
        f"{faults} dropped, {len(swapped)} swapped, {len(twice)} twice, {len(repeated)} repeated, "
        f"{np.count_nonzero(beam < 0.8)} dips: "
        f"{pulls.size} cells, mean {pulls.mean():.5f}, std {pulls.std():.5f}"
    )
    assert pulls.size >= 1_000_000
    assert abs(pulls.mean()) < 0.01
    assert 0.98 < pulls.std() < 1.02
