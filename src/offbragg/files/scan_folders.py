"""The folders of sweeps: named after sample, label and temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offbragg.errors import MetadataError, OffbraggError, ScanFileError
from offbragg.files.find import find_scan_file
from offbragg.files.scan_file import ScanFile
from offbragg.sample import Sample, check_component

PURPOSES = ("data", "orient", "background", "dark", "calibration")


def scan_directory(experiment: Path | str, start: Mapping[str, Any]) -> Path:
    """Where the scan file of a run belongs: ``<experiment>/<sample>/<label>/<scan>``.

    ``<scan>`` is the temperature (``100K``, ``102p5K``, ``m5K``) or ``ambient``; purposes other
    than data have a label of their own. When a temperature is come back to, after another one or
    in another series, it is ``300K_2``; a run that has a scan file already stays where it is.

    Raises
    ------
    MetadataError
        If a name cannot stand in a path: named.
    ScanFileError
        If the directory would lie outside ``experiment``, through a symbolic link.
    """
    experiment = Path(experiment)
    sample = Sample.from_dict(start["sample"])
    label, purpose = sample.label, start.get("purpose", "data")
    if purpose not in PURPOSES:
        raise MetadataError(f"purpose is {purpose!r}: it must be one of {', '.join(PURPOSES)}")
    if purpose != "data":
        label = f"{label}_{purpose}"
    name = check_component(scan_name(start), "temperature.setpoint")
    crystal = experiment / sample.name / check_component(label, "sample.label")
    if not crystal.resolve().is_relative_to(experiment.resolve()):
        raise ScanFileError(
            f"{crystal} leads to {crystal.resolve()}, outside {experiment}: remove the link"
        )
    scan = _visit(crystal, name, start)
    if not scan.resolve().is_relative_to(experiment.resolve()):
        raise ScanFileError(
            f"{scan} leads to {scan.resolve()}, outside {experiment}: remove the link"
        )
    return scan


def scan_name(start: Mapping[str, Any]) -> str:
    """Return the name of a scan, after its temperature.

    Examples
    --------
    >>> scan_name({"temperature": {"setpoint": 102.5}}), scan_name({})
    ('102p5K', 'ambient')
    """
    temperature: Mapping[str, Any] = start.get("temperature") or {}
    kelvin = temperature.get("setpoint")
    if kelvin is None:
        return "ambient"
    if (
        isinstance(kelvin, bool)
        or not isinstance(kelvin, (int, float))
        or not math.isfinite(kelvin)
    ):
        raise MetadataError(f"temperature.setpoint is {kelvin!r}: it must be a number of kelvin")
    digits = f"{abs(kelvin):.3f}".rstrip("0").rstrip(".")
    return ("m" if kelvin < 0 else "") + digits.replace(".", "p") + "K"


def _visit(crystal: Path, name: str, start: Mapping[str, Any]) -> Path:
    """Directory of this temperature, or the next of its kind if it was left in between."""
    visits = [crystal / name]
    while (another := crystal / f"{name}_{len(visits) + 1}").exists():
        visits.append(another)
    for visit in visits:
        if find_scan_file(visit, str(start["uid"])):
            return visit
    # as it was when this run began, also if its file is made again later
    now = float(start.get("time", math.inf))
    while len(visits) > 1 and _latest(visits[-1], now) is None and _latest(visits[-1]) is not None:
        another = visits.pop()
    here = _latest(visits[-1], now)
    if here is None:
        return visits[-1]
    elsewhere = [
        latest["time"]
        for other in crystal.iterdir()
        if other.is_dir() and other not in visits and (latest := _latest(other, now))
    ]
    series: Mapping[str, Any] = start.get("series") or {}
    earlier: Mapping[str, Any] = here.get("series") or {}
    left = max(elsewhere, default=-math.inf) > here["time"]
    if left or earlier.get("uid") != series.get("uid"):
        return another
    return visits[-1]


def _latest(directory: Path, before: float = math.inf) -> dict[str, Any] | None:
    """Start document of the newest sweep in a directory that began before another."""
    newest: dict[str, Any] | None = None
    for path in directory.glob("f*.h5"):
        try:
            with ScanFile.open(path) as scan:
                start = scan.start
        except (OffbraggError, OSError):
            continue  # another file of that name, or one whose writer died just now
        if start["time"] <= before and (newest is None or start["time"] > newest["time"]):
            newest = start
    return newest
