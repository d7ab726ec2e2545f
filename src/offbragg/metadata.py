"""The start document: what a run must say before it is opened.

Scientists search by these keys, and the files are written from them, so a run with a wrong one is
refused while nothing has moved yet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from offbragg.errors import GeometryError, MetadataError, SweepError
from offbragg.files.scan_folders import PURPOSES
from offbragg.geometry import Geometry
from offbragg.read_backs import SOURCES
from offbragg.sample import Sample
from offbragg.sweep import Sweep
from offbragg.values import check_values

DIRECTIONS = ("warming", "cooling", "hold")
FORMATS = ("cbf", "tif")
REQUIRED = (
    "purpose", "beamline_id", "wavelength", "sample", "sweep", "geometry", "detector",
)  # fmt: skip
DETECTOR_REQUIRED = ("name", "model", "format", "shape", "sensor_material", "sensor_thickness")

_ADVICE = {
    "purpose": f"one of {', '.join(PURPOSES)}",
    "beamline_id": "set beamline_id in beamline.toml",
    "wavelength": "Å; set [geometry] wavelength in beamline.toml",
    "sample": "tell it first: sample(RE, name=…, label=…)",
    "geometry": "set [geometry] in beamline.toml",
    "detector": "rotation_scan fills it from a detector that has hardware()",
}
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,31}")
_T = TypeVar("_T")


def validate_start(doc: Mapping[str, Any]) -> None:
    """Refuse a start document that must not open a run.

    A run without ``sweep`` and ``purpose`` (an alignment scan, say) makes no scan file; of it, only
    what it has is checked.

    Parameters
    ----------
    doc
        The start document, or what will become one.

    Raises
    ------
    MetadataError
        Its first line names the field and says what is wrong with it.
    """
    check_values(doc)
    if "sweep" in doc or "purpose" in doc:
        for key in REQUIRED:
            if doc.get(key) is None:
                advice = f"\n{_ADVICE[key]}" if key in _ADVICE else ""
                raise MetadataError(f"start document lacks {key}{advice}")
    sweep = geometry = None
    if "purpose" in doc and doc["purpose"] not in PURPOSES:
        raise _wrong("purpose", doc["purpose"], _ADVICE["purpose"])
    if "beamline_id" in doc:
        _text(doc["beamline_id"], "beamline_id")
    if "wavelength" in doc:
        _positive(doc["wavelength"], "wavelength", "Å")
    if "sample" in doc and not isinstance(doc["sample"], str):
        _noun(Sample.from_dict, doc["sample"], "sample")
    elif "sweep" in doc:
        raise _wrong("sample", doc["sample"], "a mapping with name, label, …")
    if "sweep" in doc:
        sweep = _noun(Sweep.from_dict, doc["sweep"], "sweep")
    if "geometry" in doc:
        geometry = _noun(Geometry.from_dict, doc["geometry"], "geometry")
    if "detector" in doc:
        _detector(doc["detector"])
    if "temperature" in doc:
        _temperature(doc["temperature"])
    if "per_frame" in doc:
        _per_frame(doc["per_frame"])
    if "series" in doc:
        _series(doc["series"])
    for axis, speed in _mapping(doc.get("motor_speeds", {}), "motor_speeds").items():
        _positive(speed, f"motor_speeds.{axis}", "degree/s")
    if "attenuation" in doc:
        _positive(doc["attenuation"], "attenuation", "factor by which the beam is weakened")
    if geometry is not None:
        _agree(doc, sweep, geometry)


def check_keys(md: Mapping[Any, Any], where: str = "md") -> None:
    """Refuse keys that no document of Bluesky's can have, and values that it cannot keep.

    Raises
    ------
    MetadataError
        Naming the key.
    """
    check_values(md, where)  # first: it ends, whatever contains itself
    _check_names(md, where)


def _check_names(md: Mapping[Any, Any], where: str) -> None:
    for key, value in md.items():
        if not isinstance(key, str) or not key or "." in key or "/" in key:
            raise MetadataError(
                f"{where} has the key {key!r}: a key must be text, and have neither '.' nor '/'"
            )
        if isinstance(value, Mapping):
            _check_names(cast(Mapping[Any, Any], value), f"{where}[{key!r}]")


def _agree(doc: Mapping[str, Any], sweep: Sweep | None, geometry: Geometry) -> None:
    wavelength = doc.get("wavelength")
    if wavelength is not None and not math.isclose(wavelength, geometry.wavelength, rel_tol=1e-6):
        raise MetadataError(
            f"wavelength {wavelength} Å contradicts geometry.wavelength {geometry.wavelength} Å"
        )
    if sweep is not None and sweep.axis != geometry.scan_axis:
        raise MetadataError(
            f"sweep.axis {sweep.axis!r} contradicts geometry.scan_axis {geometry.scan_axis!r}"
        )
    shape = doc.get("detector", {}).get("shape") if "detector" in doc else None
    if shape is not None and tuple(shape) != tuple(geometry.panel.shape):
        raise MetadataError(
            f"detector.shape {list(shape)} contradicts geometry.panel.shape "
            f"{list(geometry.panel.shape)} (slow, fast)"
        )


def _detector(value: object) -> None:
    detector = _mapping(value, "detector")
    for key in DETECTOR_REQUIRED:
        if key not in detector:
            raise MetadataError(f"start document lacks detector.{key}")
    _text(detector["name"], "detector.name")
    if detector["format"] not in FORMATS:
        raise _wrong("detector.format", detector["format"], f"one of {', '.join(FORMATS)}")
    shape = detector["shape"]
    if not _is_pair(shape, least=1):
        raise _wrong("detector.shape", shape, "[slow, fast] pixels")
    _positive(detector["sensor_thickness"], "detector.sensor_thickness", "mm")
    for key, unit in (("saturation", "counts"), ("threshold", "keV"), ("energy", "keV")):
        if key in detector:
            _positive(detector[key], f"detector.{key}", unit)
    if "bad_pixels" in detector:
        bad = _mapping(detector["bad_pixels"], "detector.bad_pixels")
        _only(bad, ("n", "file"), "detector.bad_pixels")
        _positive(bad.get("n"), "detector.bad_pixels.n", "pixels")
    if "flat_field" in detector:
        flat = _mapping(detector["flat_field"], "detector.flat_field")
        _only(flat, ("file",), "detector.flat_field")
    if "header_template" in detector:
        _text(detector["header_template"], "detector.header_template")


def _temperature(value: object) -> None:
    temperature = _mapping(value, "temperature")
    _only(temperature, ("setpoint", "direction", "settled"), "temperature")
    if "setpoint" not in temperature:
        raise MetadataError("start document lacks temperature.setpoint")
    _positive(temperature["setpoint"], "temperature.setpoint", "K")
    direction = temperature.get("direction", "hold")
    if direction not in DIRECTIONS:
        raise _wrong("temperature.direction", direction, f"one of {', '.join(DIRECTIONS)}")
    if "settled" in temperature:
        settled = _mapping(temperature["settled"], "temperature.settled")
        _only(settled, ("mean", "std", "window"), "temperature.settled")
        for key, number in settled.items():
            _number(number, f"temperature.settled.{key}")


_FRAME_NUMBERS = ("fraction", "before", "after", "sigma")  # of what is said of a column


def _per_frame(value: Any) -> None:
    for column, source in _mapping(value, "per_frame").items():
        where = f"per_frame.{column}"
        if not _COLUMN.fullmatch(str(column)):
            raise MetadataError(
                f"{where} is not a name for a column: small letters, digits and _, at most 32"
            )
        source = _mapping(source, where)
        _only(source, ("key", "by", "units", "how", "monitor", *_FRAME_NUMBERS), where)
        if "key" not in source:
            raise MetadataError(f"start document lacks {where}.key")
        for key, item in source.items():
            if key in _FRAME_NUMBERS:
                _number(item, f"{where}.{key}")
            else:
                _text(item, f"{where}.{key}")
        if source.get("how", SOURCES[0]) not in SOURCES:
            raise _wrong(f"{where}.how", source["how"], f"{', '.join(SOURCES)}, or left out")
        if "monitor" in source:
            monitor = value.get(source["monitor"], {})
            if "by" not in monitor or "fraction" not in source:
                raise MetadataError(
                    f"{where}.monitor is {source['monitor']!r}: it must be a column that is "
                    f"joined by frame number, and needs {where}.fraction"
                )


def _series(value: object) -> None:
    series = _mapping(value, "series")
    _only(series, ("uid", "index", "kind", "sweep_of", "follows", "parameters"), "series")
    if "uid" not in series:
        raise MetadataError("start document lacks series.uid")
    _text(series["uid"], "series.uid")
    index = series.get("index", 0)
    if not isinstance(index, int) or index < 0:
        raise _wrong("series.index", index, "a number from 0")
    place = series.get("sweep_of", [0, 0])
    if not _is_pair(place, least=0):
        raise _wrong("series.sweep_of", place, "[temperature, sweep] as numbers from 0")
    if "follows" in series:
        _text(series["follows"], "series.follows")
    if "parameters" in series:
        _mapping(series["parameters"], "series.parameters")


def _noun(read: Callable[[Mapping[str, Any]], _T], value: object, field: str) -> _T:
    try:
        return read(_mapping(value, field))
    except MetadataError:
        raise
    except (SweepError, GeometryError) as error:
        text = str(error)
        raise MetadataError(text if text.startswith(field) else f"{field}: {text}") from error


def _is_pair(value: object, *, least: int) -> bool:
    """Return whether a value is two integers, none below the least one."""
    if not isinstance(value, Sequence):
        return False
    pair = cast(Sequence[Any], value)
    return len(pair) == 2 and all(isinstance(n, int) and n >= least for n in pair)


def _mapping(value: object, field: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(field, value, "a mapping")
    return cast(Mapping[str, Any], value)


def _only(mapping: Mapping[str, Any], known: Sequence[str], field: str) -> None:
    for key in mapping:
        if key not in known:
            raise MetadataError(f"{field}.{key} is unknown: {field} has {', '.join(known)}")


def _text(value: object, field: str) -> None:
    if not isinstance(value, str) or not value:
        raise _wrong(field, value, "text")


def _number(value: object, field: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(field, value, "a finite number")


def _positive(value: Any, field: str, unit: str) -> None:
    _number(value, field)
    if value <= 0:
        raise _wrong(field, value, f"above 0 ({unit})")


def _wrong(field: str, value: object, wanted: str) -> MetadataError:
    shown = repr(value)
    return MetadataError(
        f"{field} is {shown if len(shown) <= 60 else shown[:60] + '…'}: it must be {wanted}"
    )
