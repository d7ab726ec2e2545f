"""Plans: what a scientist asks for, in the words of any device with the Bluesky verbs."""

from offbragg.plans.align import align
from offbragg.plans.estimate import Estimate, estimate
from offbragg.plans.expose import air_scan, calibrate, dark, expose, orient_scan
from offbragg.plans.rotation import rotation_scan
from offbragg.plans.temperature import temperature_series

__all__ = [
    "Estimate",
    "air_scan",
    "align",
    "calibrate",
    "dark",
    "estimate",
    "expose",
    "orient_scan",
    "rotation_scan",
    "temperature_series",
]
