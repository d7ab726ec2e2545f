"""The header that a Pilatus puts into each frame."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .camserver import Settings
from .crystal import CUTOFF

HEADER_RECORDS = (
    "Wavelength", "EnergyLow", "EnergyHigh", "DetDist", "DetVOffset", "BeamX", "BeamY", "Flux",
    "FilterTransm", "StartAngle", "AngleIncr", "Det2theta", "Polarization", "Alpha", "Kappa",
    "Phi", "PhiIncr", "Chi", "ChiIncr", "Omega", "OmegaIncr", "OscillAxis", "NumOscill",
    "CbfTemplateFile", "HeaderString", "FilePath_RBV", "ThresholdEnergy",
)  # fmt: skip
"""Records that go into a header, with the values that camserver has when the series begins."""

SENT_BY_ACQUIRE = ("StartAngle", "HeaderString", "FilePath_RBV", "ThresholdEnergy")
"""camserver gets these again with each exposure; the others only with a put."""


def header_lines(
    settings: Mapping[str, Any],
    model: str,
    exposing: Settings,
    number: int,
    taken: float,
) -> list[str]:
    """Make the lines of one frame, without the leading ``# ``.

    camserver advances Start_angle, Phi, Chi and Omega frame by frame; it does not read where
    the axes are.
    """
    h = settings
    exposure, period = exposing.exposure, exposing.period
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(taken))
    made = [
        f"Detector: {model}, S/N 00-0000 simulated",
        f"{stamp}.{int(taken % 1 * 1000):03d}",
        "Pixel_size 172e-6 m x 172e-6 m",
        "Silicon sensor, thickness 0.000450 m",
        f"Exposure_time {exposure:.7f} s",
        f"Exposure_period {period or exposure:.7f} s",
        "Tau = 0 s",
        f"Count_cutoff {CUTOFF} counts",
        f"Threshold_setting: {h['ThresholdEnergy'] * 1000:.0f} eV",
        "Gain_setting: mid gain (vrf = -0.200)",
        "N_excluded_pixels = 0",
        "Excluded_pixels: (nil)",
        "Flat_field: (nil)",
        "Trim_file: (nil)",
        f"Image_path: {h['FilePath_RBV']}",
        f"Wavelength {h['Wavelength']:.5f} A",
        f"Energy_range ({h['EnergyLow']:.0f}, {h['EnergyHigh']:.0f}) eV",
        f"Detector_distance {h['DetDist'] / 1000:.5f} m",
        f"Detector_Voffset {h['DetVOffset'] / 1000:.5f} m",
        f"Beam_xy ({h['BeamX']:.2f}, {h['BeamY']:.2f}) pixels",
        f"Flux {h['Flux']:.6f}",
        f"Filter_transmission {h['FilterTransm']:.4f}",
        f"Start_angle {h['StartAngle'] + number * h['AngleIncr']:.4f} deg.",
        f"Angle_increment {h['AngleIncr']:.4f} deg.",
        f"Detector_2theta {h['Det2theta']:.4f} deg.",
        f"Polarization {h['Polarization']:.3f}",
        f"Alpha {h['Alpha']:.4f} deg.",
        f"Kappa {h['Kappa']:.4f} deg.",
        f"Phi {h['Phi'] + number * h['PhiIncr']:.4f} deg.",
        f"Phi_increment {h['PhiIncr']:.4f} deg.",
        f"Omega {h['Omega'] + number * h['OmegaIncr']:.4f} deg.",
        f"Omega_increment {h['OmegaIncr']:.4f} deg.",
        f"Chi {h['Chi'] + number * h['ChiIncr']:.4f} deg.",
        f"Chi_increment {h['ChiIncr']:.4f} deg.",
        f"Oscillation_axis {h['OscillAxis'] or '(nil)'}",
        f"N_oscillations {h['NumOscill']}",
    ]
    if h["HeaderString"]:
        made.append(str(h["HeaderString"]))
    return made
