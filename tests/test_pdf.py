"""A model with known short-range order: vectors at the right places with the right signs."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from offbragg.cli.app import app
from offbragg.errors import ReductionError
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.reduction.pair_distribution import pair_distribution
from offbragg.sample import Sample
from offbragg.volume import Volume

# Warren-Cowley parameters: like atoms avoid each other along a, and are found along a + b and 2a
ALPHA = {(1, 0, 0): -0.25, (1, 1, 0): 0.15, (0, 0, 1): 0.10, (2, 0, 0): 0.08, (1, -1, 0): -0.05}
LATTICES = {
    "cubic": (4.0, 4.0, 4.0, 90.0, 90.0, 90.0),
    "hexagonal": (4.0, 4.0, 6.0, 90.0, 90.0, 120.0),
    "triclinic": (4.0, 5.0, 6.0, 78.0, 97.0, 108.0),
}


def model(lattice: tuple[float, ...], *, bragg: float = 1e5, holes: float = 0.1) -> Volume:
    """1 + 2 Σ α cos 2π h·r, with Bragg peaks at whole hkl and cells that were not measured."""
    grid = Grid.box((-3, 3), (-3, 3), (-3, 3), step=0.1)
    h, k, l = np.meshgrid(grid.h, grid.k, grid.l, indexing="ij")  # noqa: E741
    intensity = np.ones(grid.shape)
    for (x, y, z), alpha in ALPHA.items():
        intensity += 2 * alpha * np.cos(2 * np.pi * (h * x + k * y + l * z))
    away = sum((axis - np.rint(axis)) ** 2 for axis in (h, k, l))
    intensity += bragg * np.exp(-away / (2 * 0.02**2))
    weight = (np.random.default_rng(2).random(grid.shape) > holes).astype(float)
    return Volume(intensity * weight, weight, grid, sample=Sample("model", "c1", lattice=lattice))


@pytest.mark.parametrize("name", LATTICES)
def test_vectors_are_where_they_are_with_their_signs(name):
    pdf = pair_distribution(model(LATTICES[name]), punch=0.25)

    at_zero = pdf.at((0, 0, 0))
    assert at_zero > 0
    for vector, alpha in ALPHA.items():
        assert pdf.at(vector) / at_zero == pytest.approx(alpha, abs=0.03), vector
        assert pdf.at(np.negative(vector)) == pytest.approx(pdf.at(vector))
    for vector in ((1, 0, 1), (0, 2, 0), (0.5, 0.5, 0.5), (2, 1, 0)):
        assert abs(pdf.at(vector)) < 0.03 * at_zero, vector
    # an extremum, and at no other place
    (first, *_) = pdf.strongest(5)
    np.testing.assert_allclose(np.abs(first["vector"]), [1, 0, 0], atol=0.1)
    assert first["value"] < 0
    assert pdf.residual < 1e-10
    assert 0 < pdf.filled < 0.3


def test_without_the_punch_it_is_the_average_crystal():
    whole = pair_distribution(model(LATTICES["cubic"]), punch=0.0)

    assert whole.at((1, 0, 0)) > 0
    assert whole.at((1, 0, 1)) == pytest.approx(whole.at((0, 1, 1)), rel=0.05)


def test_the_taper_is_a_sphere_in_every_lattice():
    """The peak at the origin is the taper's transform: as wide in every direction, in Å."""
    grid = Grid.box((-4, 4), (-4, 4), (-4, 4), step=0.1)
    flat = Volume(
        np.ones(grid.shape), np.ones(grid.shape), grid,
        sample=Sample("flat", "c1", lattice=LATTICES["hexagonal"]),
    )  # fmt: skip
    pdf = pair_distribution(flat, punch=0.0)
    A = np.array([[4.0, -2.0, 0.0], [0.0, 4.0 * np.sqrt(0.75), 0.0], [0.0, 0.0, 6.0]])
    xyz = np.stack(np.meshgrid(pdf.x, pdf.y, pdf.z, indexing="ij"), -1)
    near = pdf.values > 0.3 * pdf.values.max()

    r = (xyz[near] @ A.T) * pdf.values[near][:, None] ** 0.5
    spread = r.T @ r / pdf.values[near].sum()
    np.testing.assert_allclose(spread / spread[2, 2], np.eye(3), atol=0.15)


def test_centred_lattices_have_fewer_bragg_points():
    body = pair_distribution(model(LATTICES["cubic"], bragg=0.0, holes=0), punch=0.3, centring="I")
    every = pair_distribution(model(LATTICES["cubic"], bragg=0.0, holes=0), punch=0.3)

    assert body.filled == pytest.approx(every.filled / 2, rel=0.2)


@pytest.mark.parametrize(
    ("more", "message"),
    [({"q_max": 100.0}, "outside the volume"), ({"centring": "X"}, "centring"),
     ({"punch": 9.0}, "nothing is left")],
)  # fmt: skip
def test_what_cannot_be_is_refused(more, message):
    with pytest.raises(ReductionError, match=message):
        pair_distribution(model(LATTICES["cubic"]), **more)


def test_typed(tmp_path):
    volume = write_volume(tmp_path / "v.h5", model(LATTICES["cubic"]), {"inputs": []})

    done = CliRunner().invoke(
        app, ["pdf", str(volume), "--punch", "0.25", "--json"], catch_exceptions=False
    )

    result = json.loads(done.output)
    assert result["file"] == str(tmp_path / "v-pdf.h5")
    assert result["strongest"][0]["value"] < 0
    assert result["residual"] < 1e-10


@pytest.mark.parametrize("measured", [1.0, 0.3])
def test_a_transform_of_what_was_not_measured_warns(tmp_path, measured):
    made = model(LATTICES["cubic"], holes=0)
    known = np.random.default_rng(3).random(made.weight.shape) < measured
    known |= known[::-1, ::-1, ::-1]  # I(Q) = I(−Q): one side is enough
    some = Volume(made.counts * known, made.weight * known, made.grid, sample=made.sample)
    volume = write_volume(tmp_path / "v.h5", some, {"inputs": []})

    done = CliRunner().invoke(app, ["pdf", str(volume), "--punch", "0.25"], catch_exceptions=False)

    missing = 1 - np.count_nonzero(known) / known.size
    found = re.search(r"\(([0-9.]+)% not measured\)", done.output)
    assert found is not None
    assert float(found[1]) / 100 == pytest.approx(missing, abs=0.03)
    assert ("WARNING" in done.output) is (measured < 1)
