"""Plans: what a scientist asks for, in the words of any device with the Bluesky verbs."""

from offbragg.plans.rotation import Estimate, estimate, rotation_scan
from offbragg.plans.temperature import temperature_series

__all__ = ["Estimate", "estimate", "rotation_scan", "temperature_series"]
