from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from measured import Measured

from offbragg.errors import ReductionError
from offbragg.geometry import Geometry, rotation_about
from offbragg.instrument import Axis, Panel
from offbragg.reduction.corrections import (
    Corrections,
    air_transmission,
    attenuation,
    efficiency,
    frame_weights,
    polarization,
    solid_angle,
)
from offbragg.reduction.hot_pixels import hot_pixels
from offbragg.stack import Stack
from offbragg.sweep import Sweep

PANEL = Panel((10.0, 10.0, 100.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.1, 0.1), (200, 200))
GEOMETRY = Geometry(0.5, PANEL, (Axis("phi", (0.0, 1.0, 0.0)),), "phi")


def at_45_degrees(direction: str) -> Geometry:
    """One pixel at 2theta = 45 degrees, along x or y, 141.4 mm away, facing along the beam."""
    x, y = (100.0, 0.0) if direction == "x" else (0.0, 100.0)
    panel = replace(PANEL, origin=(x + 0.05, y + 0.05, 100.0), shape=(1, 1))
    return replace(GEOMETRY, panel=panel)


def test_solid_angle_by_hand():
    assert solid_angle(GEOMETRY)[100, 100] == pytest.approx(0.1**2 / 100**2, rel=1e-5)
    # 45 degrees: √2 as far, seen at 45 degrees
    assert solid_angle(at_45_degrees("x"))[0, 0] == pytest.approx(
        0.1**2 / 100**2 / 2**1.5, rel=1e-9
    )


def test_the_solid_angles_of_a_panel_are_that_of_the_panel():
    # of a square with half side a at distance d: 4 arcsin(a² / (a² + d²))
    assert solid_angle(GEOMETRY).sum() == pytest.approx(4 * math.asin(100 / 10100), rel=1e-6)


def test_solid_angle_does_not_care_how_the_lab_is_turned():
    turn = rotation_about(np.array([1.0, 2.0, 2.0]) / 3, 40.0)
    panel = replace(
        PANEL,
        origin=tuple(turn @ PANEL.origin), fast=tuple(turn @ PANEL.fast),
        slow=tuple(turn @ PANEL.slow),
    )  # fmt: skip
    turned = replace(GEOMETRY, panel=panel)

    np.testing.assert_allclose(solid_angle(turned), solid_angle(GEOMETRY))


def test_a_horizontal_field_does_not_scatter_along_itself():
    across, up = at_45_degrees("x"), at_45_degrees("y")

    assert polarization(across, 1.0)[0, 0] == pytest.approx(0.5)  # cos² 45°
    assert polarization(up, 1.0)[0, 0] == pytest.approx(1.0)
    assert polarization(across, -1.0)[0, 0] == pytest.approx(1.0)
    assert polarization(across, 0.0)[0, 0] == pytest.approx(0.75)  # (1 + cos²2θ)/2
    two_theta, eta = math.pi / 4, 0.0
    by_kahn = 0.5 * (
        1 + math.cos(two_theta) ** 2 - 0.9 * math.cos(2 * eta) * math.sin(two_theta) ** 2
    )
    assert polarization(across, 0.9)[0, 0] == pytest.approx(by_kahn)


def test_more_sensor_is_crossed_at_an_angle():
    mu = attenuation("Si", 12.398419843320026 / 0.5)

    straight = efficiency(GEOMETRY, "Si", 0.45)[100, 100]
    oblique = efficiency(at_45_degrees("y"), "Si", 0.45)[0, 0]

    assert straight == pytest.approx(1 - math.exp(-mu * 0.45), rel=1e-5)
    assert oblique == pytest.approx(1 - math.exp(-mu * 0.45 * math.sqrt(2)), rel=1e-9)


@pytest.mark.parametrize(
    ("material", "energy", "mu"),
    [
        # attenuation lengths that others print: 1/e in silicon 134 µm at 10 keV, 962 µm at 20 keV
        ("Si", 10.0, 1 / 0.1267), ("Si", 20.0, 1 / 0.962), ("Si", 8.0, 1 / 0.0664),
        # CXRO: 1 m of dry air transmits 54 % at 10 keV
        ("air", 10.0, -math.log(0.54) / 1000),
        ("CdTe", 20.0, 21.44 * 0.585), ("CdTe", 60.0, 6.542 * 0.585),
    ],
)  # fmt: skip
def test_attenuation_is_as_tabulated(material, energy, mu):
    assert attenuation(material, energy) == pytest.approx(mu, rel=0.02)


def test_absorption_jumps_at_the_edges_of_cadmium_and_tellurium():
    assert attenuation("CdTe", 26.8) > 2.5 * attenuation("CdTe", 26.6)
    assert attenuation("CdTe", 31.9) > 1.7 * attenuation("CdTe", 31.7)


def test_air_takes_more_on_a_longer_way():
    near, far = air_transmission(GEOMETRY)[100, 100], air_transmission(at_45_degrees("x"))[0, 0]

    assert math.log(far) / math.log(near) == pytest.approx(math.sqrt(2), rel=1e-3)


def test_what_is_not_known_is_not_guessed():
    with pytest.raises(ReductionError, match="material and thickness"):
        Corrections().factor(GEOMETRY, {})
    with pytest.raises(ReductionError, match="Ge"):
        Corrections().factor(GEOMETRY, {"sensor_material": "Ge", "sensor_thickness": 1.0})
    with pytest.raises(ReductionError, match="tabulated"):
        attenuation("Si", 1000.0)
    with pytest.raises(ReductionError, match="polarization is 2"):
        Corrections(polarization=2.0)


def test_the_weight_of_a_frame():
    monitor = np.array([100.0, np.nan, 90.0, -1.0, 80.0])
    permit = np.array([1.0, 1.0, 0.0, 1.0, np.nan])
    through = np.array([0.5, 0.5, 0.5, 0.5, 0.25])

    flux = frame_weights(5, monitor, exposure=0.1, weight=permit, transmission=through)

    np.testing.assert_allclose(flux, [50.0, 0.0, 0.0, 0.0, 20.0])


def test_without_a_monitor_it_must_be_said():
    for monitor in (None, np.full(3, np.nan)):
        with pytest.raises(ReductionError, match="--no-monitor"):
            frame_weights(3, monitor, exposure=0.1)
        flux = frame_weights(3, monitor, exposure=0.1, use_monitor=False, attenuation=10.0)
        np.testing.assert_allclose(flux, 0.01)


def test_hot_pixels_are_found_and_nothing_else():
    sweep = Measured(n_frames=24, step=15.0, temperature=100.0)
    counts = sweep.counts.copy()
    for place, value in (((20, 300), 400), ((100, 450), 3000), ((180, 100), 1_000_000)):
        counts[:, *place] = np.random.default_rng(0).poisson(value, 24)

    assert not hot_pixels(sweep.stack).any()
    found = np.argwhere(hot_pixels(Stack(counts, sweep.sweep)))
    assert found.tolist() == [[20, 300], [100, 450], [180, 100]]


def test_two_frames_cannot_tell_a_peak_from_a_hot_pixel():
    counts = np.zeros((2, 10, 10), np.int32)
    counts[:, 5, 5] = 1000

    assert not hot_pixels(Stack(counts, Sweep("phi", 0.0, 1.0, 2, 1.0, 1.0))).any()
