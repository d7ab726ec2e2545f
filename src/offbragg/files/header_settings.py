"""What the configuration of a run's devices says that the headers of its frames say, too.

Device classes name their signals as they like: a setting is known by how its name ends. Only what
the detector itself has is taken for its settings; a wavelength may be that of another device.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from offbragg.files.headers import DISTANCE, EXPOSURE, PERIOD, WAVELENGTH, Quantity

THRESHOLD = Quantity("threshold", "Threshold_setting", "keV", (0.0, 1e-3))
CUT_OFF = Quantity("count_cutoff", "Count_cutoff", "counts", (0.0, 1e-3))

_OF_DETECTOR = {
    EXPOSURE: ("exposure", "exposure_time", "acquire_time", "count_time"),
    PERIOD: ("period", "exposure_period", "acquire_period", "frame_time"),
    THRESHOLD: ("threshold", "threshold_energy"),
    CUT_OFF: ("cut_off", "cutoff"),
    DISTANCE: ("distance", "det_dist"),
}
_OF_ANY = {WAVELENGTH: ("wavelength",)}
_UNITS = {
    "Å": {"å": 1.0, "a": 1.0, "ang": 1.0, "angstrom": 1.0, "angstroms": 1.0, "nm": 10.0},
    "mm": {"mm": 1.0, "cm": 10.0, "m": 1e3},
    "s": {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6},
    "keV": {"kev": 1.0, "ev": 1e-3},
    "counts": {"counts": 1.0, "count": 1.0},
}  # unit of a header → units as records spell them, in lower case, and their factor
_LIMITS = {WAVELENGTH: (0.01, 20.0)}  # Å: a laser has a wavelength, too


@dataclass(frozen=True, slots=True)
class Setting:
    """A value that the configuration of a device has, in the unit of headers.

    Parameters
    ----------
    quantity
        What headers call it.
    source
        Name of its signal.
    value
        In the quantity's unit.
    certain
        Whether the signal says its unit; without, that of headers is taken.
    """

    quantity: Quantity
    source: str
    value: float
    certain: bool


def find_settings(descriptor: Mapping[str, Any], detector: str) -> Iterator[Setting]:
    """Find what headers say too in the configuration of the devices of a stream.

    Parameters
    ----------
    descriptor
        Of any stream. What is not as in Bluesky's documents is skipped.
    detector
        Name of the device whose frames they are.
    """
    for device, configured in _items(descriptor.get("configuration")):
        quantities = {**_OF_ANY, **(_OF_DETECTOR if device == detector else {})}
        described = dict(_items(_get(configured, "data_keys")))
        for source, value in _items(_get(configured, "data")):
            number = _number(value)
            words = re.split(r"[_.\-]", source.lower())
            for quantity, endings in quantities.items():
                if not any(words[-n:] == end for end, n in map(_words, endings)):
                    continue
                unit = str(_get(described.get(source), "units") or "").strip(" .")
                factor = _UNITS[quantity.unit].get(unit.lower()) if unit else 1.0
                low, high = _LIMITS.get(quantity, (0.0, math.inf))
                if factor is not None and low < number * factor < high:
                    yield Setting(quantity, source, number * factor, bool(unit))


def _number(value: Any) -> float:
    """Return a setting as a number; 0, as records have it that nobody set, if it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    try:
        return float(value)
    except OverflowError:
        return 0.0


def _words(ending: str) -> tuple[list[str], int]:
    words = ending.split("_")
    return words, len(words)


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), each) for key, each in value.items())
