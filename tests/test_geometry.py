from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offbragg.errors import GeometryError
from offbragg.geometry import Geometry, rotation_about
from offbragg.instrument import Axis, Panel
from offbragg.lattice import direct_basis, q_to_hkl
from offbragg.sweep import Sweep

# 100 mm downstream, looking upstream the beam meets the middle of 200 × 100 pixels of 0.1 mm
PANEL = Panel(
    origin=(5.0, 10.0, 100.0),
    fast=(-1.0, 0.0, 0.0),
    slow=(0.0, -1.0, 0.0),
    pixel_size=(0.1, 0.1),
    shape=(200, 100),
)
GEOMETRY = Geometry(
    wavelength=0.5,
    panel=PANEL,
    axes=(Axis("phi", (0.0, 1.0, 0.0)),),
    scan_axis="phi",
)
SWEEP = Sweep("phi", start=0.0, step=0.5, n_frames=720, exposure=0.1, period=0.1)


def kappa_like(angles: tuple[float, float, float], scan: str) -> Geometry:
    """Three oblique axes and a tilted panel."""
    tilt = rotation_about(np.array([1.0, 2.0, 2.0]) / 3.0, 25.0)
    panel = replace(
        PANEL,
        origin=tuple(tilt @ PANEL.origin),
        fast=tuple(tilt @ PANEL.fast),
        slow=tuple(tilt @ PANEL.slow),
        pixel_size=(1.0, 1.5),
        shape=(400, 500),
    )
    vectors = ((0.6, 0.8, 0.0), (0.0, 0.6, 0.8), (2 / 3, -2 / 3, 1 / 3))
    names = ("phi", "kappa", "omega")
    axes = tuple(Axis(n, v, a) for n, v, a in zip(names, vectors, angles, strict=True))
    return Geometry(wavelength=0.7, panel=panel, axes=axes, scan_axis=scan)


def test_the_corner_of_the_first_pixel_is_at_zero_and_its_centre_at_a_half():
    np.testing.assert_allclose(GEOMETRY.lab(0, 0), [5.0, 10.0, 100.0])
    np.testing.assert_allclose(GEOMETRY.lab(0.5, 0.5), [4.95, 9.95, 100.0])
    np.testing.assert_allclose(GEOMETRY.lab(100, 0), [-5.0, 10.0, 100.0])


def test_where_the_beam_meets_the_panel():
    assert GEOMETRY.direct_beam() == pytest.approx((50.0, 100.0, 100.0))


def test_a_panel_along_the_beam_never_meets_it():
    panel = replace(PANEL, fast=(0.0, 0.0, 1.0))

    assert replace(GEOMETRY, panel=panel).direct_beam() is None


def test_q_by_hand():
    # a ray 45 degrees up: s − s0 = (0, sin 45, cos 45 − 1) / 0.5
    panel = replace(PANEL, origin=(0.0, 100.0, 100.0))
    q = replace(GEOMETRY, panel=panel).q(0.0, 0.0, 0.0)

    np.testing.assert_allclose(q, [0.0, math.sqrt(2), math.sqrt(2) - 2], atol=1e-12)


def test_the_crystal_turns_right_handed():
    # +90 degrees about y takes z to x: what is seen along lab x belongs to the crystal's z
    panel = replace(PANEL, origin=(100.0, 0.0, 100.0))
    geometry = replace(GEOMETRY, panel=panel)

    lab = geometry.q(0.0, 0.0, 0.0)
    crystal = geometry.q(0.0, 0.0, 90.0)

    np.testing.assert_allclose(crystal, [-lab[2], lab[1], lab[0]], atol=1e-12)


def test_inner_axes_are_carried_by_outer_ones():
    axes = (Axis("phi", (0.0, 1.0, 0.0)), Axis("chi", (0.0, 0.0, 1.0), 90.0))
    geometry = replace(GEOMETRY, axes=axes)

    # chi = 90 lays the phi axis along −x; turning phi then leaves −x alone
    np.testing.assert_allclose(geometry.rotation(37.0) @ [0, 1, 0], [-1, 0, 0], atol=1e-12)


def test_the_setting_of_the_scan_axis_does_not_matter():
    turned = replace(GEOMETRY, axes=(Axis("phi", (0.0, 1.0, 0.0), 77.0),))

    np.testing.assert_array_equal(turned.q(3.0, 4.0, 5.0), GEOMETRY.q(3.0, 4.0, 5.0))


def test_many_pixels_and_angles_at_once():
    x, y = np.meshgrid([0.5, 20.0], [1.0, 2.0, 150.0])
    angles = np.array([0.0, 30.0, -20.0])

    together = GEOMETRY.q(x[..., None], y[..., None], angles)

    assert together.shape == (3, 2, 3, 3)
    np.testing.assert_allclose(together[2, 1, 1], GEOMETRY.q(20.0, 150.0, 30.0))


@settings(max_examples=40, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    scan=st.sampled_from(["phi", "kappa", "omega"]),
    seed=st.integers(0, 2**32 - 1),
    step=st.sampled_from([0.5, -0.5]),
)
def test_what_is_predicted_is_what_is_seen(angles, scan, seed, step):
    geometry = kappa_like(angles, scan)
    sweep = Sweep(scan, start=angles[0], step=step, n_frames=720, exposure=0.1, period=0.1)
    rng = np.random.default_rng(seed)
    UB = rotation_about(np.array([0.48, 0.6, 0.64]), rng.uniform(0, 360)) @ np.diag(
        [0.2, 0.15, 0.1]
    )
    hkl = rng.integers(-8, 9, (200, 3))

    x, y, z, which = geometry.predict(hkl, UB, sweep)

    assert len(x) > 5
    assert np.all(np.diff(z) >= 0)
    seen = q_to_hkl(geometry.q(x, y, sweep.start + sweep.step * z), UB)
    np.testing.assert_allclose(seen, hkl[which], atol=1e-9)


def test_any_pixel_is_predicted_where_it_is():
    geometry = kappa_like((10.0, 20.0, 30.0), "kappa")
    sweep = Sweep("kappa", start=-5.0, step=0.1, n_frames=3600, exposure=0.1, period=0.1)
    rng = np.random.default_rng(1)
    x, y, z = rng.uniform(1, 499, 50), rng.uniform(1, 399, 50), rng.uniform(0, 3600, 50)
    hkl = geometry.q(x, y, sweep.start + sweep.step * z)

    found = geometry.predict(hkl, np.eye(3), sweep)

    for n in range(50):
        mine = found.which == n
        away = np.abs(found.x[mine] - x[n]) + np.abs(found.y[mine] - y[n])
        away += np.abs(found.z[mine] - z[n])
        assert away.min() < 1e-6


def test_two_turns_cross_twice_as_often():
    once = GEOMETRY.predict([[0.0, 0.1, 0.05], [0.05, 0.1, 0.0]], np.eye(3), SWEEP)
    twice = GEOMETRY.predict(
        [[0.0, 0.1, 0.05], [0.05, 0.1, 0.0]], np.eye(3), replace(SWEEP, n_frames=1440)
    )

    assert len(once.z) > 0
    np.testing.assert_allclose(twice.z, np.concatenate([once.z, once.z + 720]), atol=1e-9)


def test_the_origin_and_what_lies_outside_the_sphere_never_cross():
    found = GEOMETRY.predict([[0, 0, 0], [0, 0, 4.1], [0, 9, 0]], np.eye(3), SWEEP)

    assert len(found.x) == 0


def test_prediction_is_for_the_scan_axis():
    with pytest.raises(GeometryError, match="'omega'"):
        GEOMETRY.predict([[1, 0, 0]], np.eye(3), replace(SWEEP, axis="omega"))


def test_a_geometry_survives_json():
    geometry = kappa_like((10.0, 20.0, 30.0), "phi")
    again = Geometry.from_dict(json.loads(json.dumps(geometry.to_dict())))

    assert again == geometry


def altered(path: str, value: object) -> dict:
    document = json.loads(json.dumps(GEOMETRY.to_dict()))
    *parents, last = path.split(".")
    target = document
    for key in parents:
        target = target[int(key) if key.isdigit() else key]
    target[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("wavelength", 0.0, "wavelength"),
        ("wavelength", math.nan, "wavelength"),
        ("wavelength", "1", "wavelength"),
        ("beam", 1, "geometry.beam is unknown"),
        ("panel.distance", 1, "geometry.panel.distance is unknown"),
        ("panel.fast", [1, 1, 0], "panel fast"),
        ("panel.fast", [0, 1, 0], "not perpendicular"),
        ("panel.origin", [0, 0, 0], "panel origin"),
        ("panel.origin", [0, math.nan, 0], "panel origin"),
        ("panel.pixel_size", [0.1, 0], "pixel_size"),
        ("panel.shape", [0, 5], "shape"),
        ("panel.shape", [1.5, 5], "shape"),
        ("axes", {}, "axes"),
        ("axes.0.vector", [0, 0, 0], "axis phi"),
        ("axes.0.name", "../phi", "axis name"),
        ("axes.0.angle", math.inf, "axis phi"),
        ("scan_axis", "omega", "'omega'"),
    ],
)
def test_what_is_no_instrument_is_refused_by_name(path, value, message):
    with pytest.raises(GeometryError, match=message):
        Geometry.from_dict(altered(path, value))


@pytest.mark.parametrize("key", ["wavelength", "panel", "axes", "scan_axis"])
def test_missing_keys_are_named(key):
    document = GEOMETRY.to_dict()
    del document[key]

    with pytest.raises(GeometryError, match=rf"geometry\.{key} is missing"):
        Geometry.from_dict(document)


@pytest.mark.parametrize(
    "UB", [np.zeros((3, 3)), np.ones((3, 3)), np.eye(2), np.full((3, 3), np.nan)]
)
def test_a_singular_UB_is_refused(UB):
    with pytest.raises(GeometryError, match="UB"):
        q_to_hkl([1.0, 0.0, 0.0], UB)


def test_the_direct_basis_has_the_lattice_it_was_made_of():
    lattice = (5.0, 6.0, 7.0, 80.0, 95.0, 110.0)

    a, b, c = direct_basis(lattice).T

    lengths = [np.linalg.norm(v) for v in (a, b, c)]
    angles = [
        math.degrees(math.acos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))
        for u, v in ((b, c), (a, c), (a, b))
    ]
    np.testing.assert_allclose([*lengths, *angles], lattice)
    np.testing.assert_allclose(np.tril(direct_basis(lattice), -1), 0.0)


def test_a_model_with_the_beam_off_axis_is_turned_whole():
    # imgCIF: beam towards −z, here 10 degrees off it; a lattice vector along the beam stays so
    off = rotation_about([0.0, 1.0, 0.0], 10.0)
    along = off @ [0.0, 0.0, -1.0]
    UB = np.column_stack([0.1 * along, off @ [0.2, 0, 0], off @ [0, 0.3, 0]])
    model = {
        "wavelength_angstrom": 0.8,
        "s0": (along / 0.8).tolist(),
        "panel_origin_mm": (100.0 * along).tolist(),
        "fast": (off @ [1.0, 0.0, 0.0]).tolist(),
        "slow": [0.0, 1.0, 0.0],
        "pixel_mm": 0.2,
        "UB_no_2pi": UB.ravel().tolist(),
        "goniometer": {"axes": [[0.0, 1.0, 0.0]], "angles_deg": [5.0], "scan_axis": 0},
    }

    geometry, turned = Geometry.from_model(model, shape=(10, 20), names=("phi",))

    assert geometry.direct_beam() == pytest.approx((0.0, 0.0, 100.0))
    np.testing.assert_allclose(geometry.panel.fast, [-1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(turned[:, 0], [0, 0, 0.1], atol=1e-12)
    np.testing.assert_allclose(turned[:, 1], [-0.2, 0, 0], atol=1e-12)
    with pytest.raises(GeometryError, match="lacks 's0'"):
        Geometry.from_model({k: v for k, v in model.items() if k != "s0"}, shape=(10, 20))
    with pytest.raises(GeometryError, match="s0"):
        Geometry.from_model(model | {"s0": [0, 0, -9.0]}, shape=(10, 20))
