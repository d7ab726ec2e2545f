"""What the headers of one sweep's frames say together, and which of them contradict the rest.

No header is believed more than another: for each quantity most of them decide. A frame that
says otherwise about where its pixels or its crystal stood is not of that sweep; where it only
says otherwise about how it counted, this is listed.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ConfigError
from offbragg.files.header_line import ANOTHER_ANGLE, ROUNDING, fit_line
from offbragg.files.header_time import header_time, tag_difference

Tolerance = tuple[float, float]
"""Absolute, in the quantity's unit, and relative."""

_LISTED = 3
_SAME_TIME = 60.0  # s, of dates of one sweep, at least
_HINT = (
    "Give a pattern that matches every frame of one sweep and no other; if the headers are wrong, "
    "a model that is right, and --trust-model."
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that all frames of a sweep should say alike."""

    key: str
    label: str
    unit: str = ""
    alike: Tolerance = (0.0, 1e-4)
    refused: Tolerance | None = None
    """From where on a frame is of another sweep; None if that changes no scattering vector."""

    def text(self, value: Any) -> str:
        """Return a value with its name and unit."""
        return f"{self.label} {self.number(value)}"

    def number(self, value: Any) -> str:
        """Return a value with its unit."""
        values = cast(tuple[Any, ...], value) if isinstance(value, tuple) else (value,)
        shown = ", ".join(each if isinstance(each, str) else f"{each:.7g}" for each in values)
        return f"{shown} {self.unit}".rstrip()


_ANGLE: Tolerance = (0.005, 0.0)
_ANOTHER_ANGLE: Tolerance = (ANOTHER_ANGLE, 0.0)
WAVELENGTH = Quantity("wavelength", "Wavelength", "Å", (0.0, 1e-4), (0.0, 1e-3))
PIXEL_SIZE = Quantity("pixel_size", "Pixel_size", "mm", (0.0, 1e-4), (0.0, 1e-3))
DISTANCE = Quantity("distance", "Detector_distance", "mm", (0.01, 1e-4), (0.0, 1e-3))
TWO_THETA = Quantity("two_theta", "Detector_2theta", "degree", _ANGLE, (0.02, 0.0))
BEAM = Quantity("beam_xy", "Beam_xy", "pixel", (0.05, 0.0), (0.5, 0.0))
AXIS = Quantity("oscillation_axis", "Oscillation_axis", "", (0.0, 0.0), (0.0, 0.0))
STEP = Quantity("angle_increment", "Angle_increment", "degree", (ROUNDING, 1e-4), (1e-4, 1e-3))
EXPOSURE = Quantity("exposure_time", "Exposure_time", "s")
PERIOD = Quantity("exposure_period", "Exposure_period", "s")
ANGLES = {
    key: Quantity(key, key.capitalize(), "degree", _ANGLE, _ANOTHER_ANGLE)
    for key in ("alpha", "kappa", "phi", "chi", "omega")
}
_ALIKE = (
    WAVELENGTH,
    PIXEL_SIZE,
    DISTANCE,
    Quantity("vertical_offset", "Detector_Voffset", "mm", (0.01, 0.0), (0.1, 0.0)),
    TWO_THETA,
    BEAM,
    AXIS,
    STEP,
    EXPOSURE,
    PERIOD,
    Quantity("detector", "Detector:"),
    Quantity("sensor_material", "sensor"),
    Quantity("sensor_thickness", "sensor thickness", "mm"),
    Quantity("threshold", "Threshold_setting", "keV"),
    Quantity("energy_range", "Energy_range", "eV"),
    Quantity("count_cutoff", "Count_cutoff", "counts"),
    Quantity("dead_time", "Tau", "s"),
    Quantity("filter_transmission", "Filter_transmission"),
    Quantity("polarization", "Polarization"),
)
_MUST_BE_KNOWN = (EXPOSURE, PERIOD)


@dataclass(slots=True)
class Agreement:
    """What most headers of a sweep say."""

    header: dict[str, Any] = field(default_factory=dict[str, Any])
    """As of one header; angles are those at the lowest number."""
    refused: dict[int, str] = field(default_factory=dict[int, str])
    """Frame → in what it contradicts the others."""
    differences: list[str] = field(default_factory=list[str])
    """What else is not alike, in words."""


def agree(
    headers: Mapping[int, Mapping[str, Any]],
    name: Callable[[int], str],
    *,
    known: Mapping[str, Any] | None = None,
    trusted: bool = False,
) -> Agreement:
    """Find what the headers of a sweep say together.

    Parameters
    ----------
    headers
        Frame → what its file says (`offbragg.files.read_head`).
    name
        Frame → name of its file, for messages.
    known
        What a model says of the same quantities: it decides where no majority does.
    trusted
        Whether that model counts where nothing decides between headers: they are listed then.

    Raises
    ------
    ConfigError
        If nothing decides between headers that contradict each other.
    """
    found = Agreement()

    def listed(error: ConfigError) -> None:
        if not trusted:
            raise error
        found.differences.append(str(error).partition("\n")[0])

    for quantity in _ALIKE:
        try:
            _agree_on(quantity, headers, name, (known or {}).get(quantity.key), found)
        except ConfigError as error:
            listed(error)
    try:
        _agree_on_angles(headers, name, found)
    except ConfigError as error:
        listed(error)
    _compare_names(headers, name, found)
    _compare_dates(headers, name, found)
    return found


def axis_name(header: Mapping[str, Any]) -> str | None:
    """Return the name of the axis that a header says turned, in lower case.

    Examples
    --------
    >>> axis_name({"oscillation_axis": "X, CW"}), axis_name({})
    ('x', None)
    """
    word = re.search(r"[A-Za-z][A-Za-z0-9_]{0,31}", header.get("oscillation_axis", ""))
    return word[0].lower() if word else None


def alike(one: Any, other: Any, tolerance: Tolerance) -> bool:
    """Return whether two values of a quantity are the same within a tolerance."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    if isinstance(one, tuple):
        pairs = cast(tuple[Any, ...], one), cast(tuple[Any, ...], other)
        return len(pairs[0]) == len(pairs[1]) and all(
            alike(a, b, tolerance) for a, b in zip(*pairs, strict=True)
        )
    return abs(one - other) <= tolerance[0] + tolerance[1] * abs(other) + 1e-12


def _agree_on(
    quantity: Quantity,
    headers: Mapping[int, Mapping[str, Any]],
    name: Callable[[int], str],
    known: Any,
    found: Agreement,
) -> None:
    values = _values(quantity.key, headers)
    if not values:
        return
    counts = Counter(values.values())
    limit = quantity.refused or quantity.alike
    candidates = [value for value, _ in counts.most_common(5)]
    if not isinstance(candidates[0], str):
        candidates.append(sorted(values.values())[len(values) // 2])

    def votes(value: Any) -> int:
        return sum(n for other, n in counts.items() if alike(other, value, limit))

    value = max(candidates, key=votes)
    if 2 * votes(value) <= len(values):
        if known is not None and any(alike(other, known, limit) for other in counts):
            value = known
        elif quantity.refused or quantity in _MUST_BE_KNOWN:
            raise _contradiction(quantity, values, name)
    same = {other for other in counts if alike(other, value, quantity.alike)}
    others = {n: other for n, other in values.items() if other not in same}
    found.header[quantity.key] = (
        list(cast(tuple[Any, ...], value)) if isinstance(value, tuple) else value
    )
    rest = f"{len(values) - len(others)} of {len(values)} headers say {quantity.number(value)}"
    if quantity.refused:
        for number, other in others.items():
            if not alike(other, value, limit):
                _refuse(found, number, f"{name(number)} says {quantity.text(other)}", rest)
        others = {n: other for n, other in others.items() if n not in found.refused}
    if others:
        first = min(others)
        also = f" and {len(others) - 1} more differ," if len(others) > 1 else ","
        found.differences.append(
            f"{name(first)} says {quantity.text(others[first])}{also} and {rest}"
        )


def _values(key: str, headers: Mapping[int, Mapping[str, Any]]) -> dict[int, Any]:
    values = {n: header[key] for n, header in headers.items() if key in header}
    return {n: tuple(cast(list[Any], v)) if isinstance(v, list) else v for n, v in values.items()}


def _refuse(found: Agreement, number: int, what: str, rest: str) -> None:
    before = found.refused.get(number)
    found.refused[number] = f"{what}, and {rest}" if before is None else f"{before}; {what}"


def _contradiction(
    quantity: Quantity, values: Mapping[int, Any], name: Callable[[int], str]
) -> ConfigError:
    first: dict[Any, int] = {}
    for number in sorted(values):
        first.setdefault(values[number], number)
    counts = Counter(values.values())
    values_found = ", ".join(
        f"{quantity.number(value)} in {n} of {len(values)} ({name(first[value])} first)"
        for value, n in counts.most_common(_LISTED)
    )
    return ConfigError(
        f"the headers contradict each other: {quantity.label} is {values_found}"
        f"{', …' if len(counts) > _LISTED else ''}\n"
        "Give a pattern that matches the frames of one sweep, or a model that says which "
        "is right (--model FILE)."
    )


def _compare_names(
    headers: Mapping[int, Mapping[str, Any]], name: Callable[[int], str], found: Agreement
) -> None:
    """List frames that were written under another number than their place in the series.

    All files may have been renamed; then most of them were so by the same difference.
    """
    wrote = {
        number: int(digits[1])
        for number, header in headers.items()
        if (digits := re.search(r"([0-9]{1,9})$", header.get("data_name", "")))
    }
    by = _most_common({number: other - number for number, other in wrote.items()})
    off = [number for number, other in wrote.items() if other - number != by]
    if off and 2 * len(off) < len(wrote):
        some = ", ".join(f"{name(n)} as data_{headers[n]['data_name']}" for n in off[:_LISTED])
        found.differences.append(
            f"{len(off)} of {len(wrote)} files were written under another number than they have: "
            f"{some}{' …' if len(off) > _LISTED else ''}"
        )


def _compare_dates(
    headers: Mapping[int, Mapping[str, Any]], name: Callable[[int], str], found: Agreement
) -> None:
    """List files whose tag has another date than their header, and frames of another time."""
    tagged = {n: text for n, header in headers.items() if (text := tag_difference(header))}
    if tagged:
        first = min(tagged)
        found.differences.append(
            f"{len(tagged)} of {len(headers)} files have two dates, as {name(first)}: "
            f"{tagged[first]}"
        )
    numbers = sorted(headers)
    period = found.header.get("exposure_period", found.header.get("exposure_time", 0.0))
    times = [header_time(headers[n]) for n in numbers]
    begun = np.array([np.nan if t is None else t - n * period
                      for n, t in zip(numbers, times, strict=True)])  # fmt: skip
    limit = max(_SAME_TIME, 2 * period * len(numbers))
    if text := odd_dates(begun, limit, lambda i: name(numbers[i])):
        found.differences.append(text)


def odd_dates(
    begun: NDArray[np.float64], limit: float, name: Callable[[int], str] = "frame {}".format
) -> str:
    """Return which frames were taken at another time than most; empty if none were.

    Parameters
    ----------
    begun
        When the sweep began by the date of each frame, POSIX s; NaN where a header has no date.
    limit
        How far from the others is another time, s.
    name
        Index in ``begun`` → how the frame is called.
    """
    known = np.flatnonzero(np.isfinite(begun))
    if len(known) < 3:
        return ""
    apart = begun[known] - np.median(begun[known])
    odd = known[np.abs(apart) > limit]
    if not len(odd) or 2 * len(odd) >= len(known):
        return ""
    first = int(odd[0])
    return (
        f"{len(odd)} of {len(known)} headers have a date far from the others, as "
        f"{name(first)}: {begun[first] - np.median(begun[known]):+.0f} s"
    )


# ---- angles ----------------------------------------------------------------------------


def _agree_on_angles(
    headers: Mapping[int, Mapping[str, Any]], name: Callable[[int], str], found: Agreement
) -> None:
    header = found.header
    scan = axis_name(header)
    increments = {
        key: _most_common(_values(f"{key}_increment", headers)) for key in ("phi", "chi", "omega")
    }
    turning = [key for key, step in increments.items() if step]
    key = _where_angles_are(headers, scan, turning)
    if key is not None:
        step = header.get("angle_increment") or increments.get(key) or 0.0
        label = "Start_angle" if key == "start_angle" else ANGLES[key].label
        _agree_on_start(label, _values(key, headers), step, name, found)
    if scan in increments and turning and scan not in turning:
        moving = ", ".join(f"{k.capitalize()}_increment {increments[k]:g}" for k in turning)
        found.differences.append(
            f"the headers say Oscillation_axis {header['oscillation_axis']}, but {moving} degree "
            f"and {'no' if increments[scan] is None else 0} {scan.capitalize()}_increment"
        )
    for other, quantity in ANGLES.items():
        if other == key:
            continue
        values = _values(other, headers)
        if other != scan and other not in turning:
            _agree_on_fixed(quantity, values, headers, name, found)
        elif key == "start_angle" and "start_angle" in header and values:
            _compare_turning(quantity, values, found)


def _where_angles_are(
    headers: Mapping[int, Mapping[str, Any]], scan: str | None, turning: Sequence[str]
) -> str | None:
    """Return which line of the headers has the angle at which each frame began."""
    if any("start_angle" in header for header in headers.values()):
        return "start_angle"
    if scan in ANGLES and any(scan in header for header in headers.values()):
        return scan
    return turning[0] if len(turning) == 1 else None


def _most_common(values: Mapping[int, Any]) -> Any:
    return Counter(values.values()).most_common(1)[0][0] if values else None


def _agree_on_start(
    label: str,
    angles: Mapping[int, float],
    step: float,
    name: Callable[[int], str],
    found: Agreement,
) -> None:
    line = fit_line(angles, step)
    if line is None:
        some = ", ".join(f"{angles[n]:g} in {name(n)}" for n in sorted(angles)[:_LISTED])
        raise ConfigError(
            f"the headers contradict each other: {label} is {some} …, degree, which is not a "
            f"sweep of {step:g} degree a frame\n{_HINT}"
        )
    span = max(angles) - min(angles)
    if step and not alike(line.step, step, (1e-4, 1e-3)):
        raise ConfigError(
            f"the headers contradict themselves: {label} grows by {line.step:.5g} degree from "
            f"number to number, and Angle_increment is {step:g} degree\n{_HINT}"
        )
    if not step and abs(line.step) * span > 2 * ROUNDING:
        found.differences.append(
            f"the headers say no Angle_increment, and {label} grows by {line.step:.5g} degree a "
            "frame: this counts"
        )
    n = len(angles) - len(line.outliers)
    for number in line.outliers:
        _refuse(
            found,
            number,
            f"{name(number)} says {label} {angles[number]:g} degree",
            f"by {n} of {len(angles)} headers it is {line.at(number):.6g} degree",
        )
    found.header["start_angle"] = line.start
    found.header["angle_increment"] = line.step


def _agree_on_fixed(
    quantity: Quantity,
    values: Mapping[int, float],
    headers: Mapping[int, Mapping[str, Any]],
    name: Callable[[int], str],
    found: Agreement,
) -> None:
    """Compare an angle that should stand still, unless it turns without an increment."""
    try:
        _agree_on(quantity, headers, name, None, found)
    except ConfigError:
        line = fit_line(values, found.header.get("angle_increment", 0.0))
        if line is None or not line.step:
            raise
        found.header[quantity.key] = line.start


def _compare_turning(quantity: Quantity, values: Mapping[int, float], found: Agreement) -> None:
    """Compare the scan axis's own angle with the start angle, which counts."""
    start, step = found.header["start_angle"], found.header["angle_increment"]
    limit = 0.5 * abs(step) + 10 * ROUNDING
    off = {
        n: value
        for n, value in values.items()
        if n not in found.refused and abs(math.remainder(value - start - n * step, 360.0)) > limit
    }
    found.header[quantity.key] = start
    if off:
        first = min(off)
        found.differences.append(
            f"{len(off)} of {len(values)} headers say another {quantity.label} than Start_angle, "
            f"as frame {first}: {off[first]:g} and {start + first * step:g} degree; "
            "Start_angle counts"
        )
