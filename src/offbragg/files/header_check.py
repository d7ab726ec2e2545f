"""What the header of each frame says of a run, beside what the run and its devices said before it.

The run decides: its frames are stored whatever their headers say, since another program, or none,
may have set the camserver. But a header that contradicts the run in what changes a scattering
vector must not pass in silence: one of the two is wrong.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from offbragg.files.header_settings import CUT_OFF, THRESHOLD, Setting, find_settings
from offbragg.files.header_time import header_time, tag_difference
from offbragg.files.headers import (
    ANGLES,
    AXIS,
    EXPOSURE,
    PERIOD,
    STEP,
    WAVELENGTH,
    Quantity,
    alike,
    axis_name,
    odd_dates,
)
from offbragg.files.model import compare_geometry
from offbragg.geometry import Geometry
from offbragg.sweep import Sweep

_LABELS = {
    quantity.key: quantity
    for quantity in (
        WAVELENGTH,
        EXPOSURE,
        PERIOD,
        THRESHOLD,
        Quantity("sensor_material", "sensor"),
        Quantity("sensor_thickness", "sensor thickness", "mm", (1e-3, 1e-3)),
    )
}
_OF_GEOMETRY = ("wavelength", "pixel_size", "distance", "two_theta", "beam_xy", *ANGLES)
_COMPARED = dict.fromkeys(
    (*_OF_GEOMETRY, "oscillation_axis", "angle_increment", *_LABELS, CUT_OFF.key)
)
_MATERIALS = {"silicon": "Si", "cdte": "CdTe", "germanium": "Ge", "gaas": "GaAs"}
_RUN = re.compile(r"^#[ \t]*([0-9a-f]{8})(?:-\d{1,3})?(?:[ \t]|$)", re.MULTILINE)
_NUMBER = re.compile(r"(\d{1,9})(?:\.\w+)*$")
_KINDS = 1000  # of headers whose comparison is remembered
_ROOM = 6000  # bytes of JSON that findings may take in a scan file
_STANDS = 0.05  # degree, at stills


@dataclass(slots=True)
class _Found:
    """One thing in which headers differ from the run."""

    severe: bool
    text: str
    source: str
    first: int
    count: int = 1


class HeaderCheck:
    """Compare header after header with what the run said.

    Parameters
    ----------
    start
        The run's start document.
    """

    def __init__(self, start: Mapping[str, Any]) -> None:
        self._sweep = Sweep.from_dict(start["sweep"])
        self._starts = self._sweep.starts
        known = start.get("geometry")
        self._geometry = None if known is None else Geometry.from_dict(known)
        # frames of another place that are served as if they were measured now
        self._replayed = bool(start.get("replay"))
        self._uid = str(start["uid"])[:8]
        detector: Mapping[str, Any] = start.get("detector") or {}
        self._expected: dict[str, Any] = {
            "exposure_time": self._sweep.exposure,
            "exposure_period": self._sweep.period,
            **{key: detector[key] for key in _LABELS if detector.get(key) is not None},
        }
        if self._geometry is None and isinstance(start.get("wavelength"), int | float):
            self._expected["wavelength"] = float(start["wavelength"])
        self._detector = str(detector.get("name", ""))
        self._settings: dict[str, Setting] = {}
        self._alike = [key for key in _COMPARED if key != self._sweep.axis.lower()]
        self._kinds: dict[tuple[Any, ...], list[tuple[str, bool, str]]] = {}
        self._found: dict[tuple[str, bool], _Found] = {}
        self._times = np.full(self._sweep.n_frames, np.nan)
        self._news: list[str] = []
        self.seen = np.zeros(self._sweep.n_frames, bool)
        """Of which frames a header was compared."""

    def configure(self, descriptor: Mapping[str, Any]) -> None:
        """Compare headers from now on also with the configuration of the devices of a stream."""
        for setting in find_settings(descriptor, self._detector):
            self._settings[setting.source] = setting
            self._kinds.clear()

    def add(self, number: int, source: str, header: Mapping[str, Any]) -> None:
        """Compare the header of a frame.

        Parameters
        ----------
        number
            Of the frame.
        source
            Name of its file.
        header
            As `offbragg.files.cbf.parse_minicbf_header` has it.
        """
        self.seen[number] = True
        kind = tuple(
            tuple(cast(list[Any], value)) if isinstance(value, list) else value
            for value in map(header.get, self._alike)
        )
        if kind not in self._kinds:
            if len(self._kinds) >= _KINDS:
                self._kinds.clear()
            self._kinds[kind] = list(self._compare(header))
        for about, severe, text in self._kinds[kind]:
            self._note(number, source, about, severe, text)
        for about, severe, text in self._compare_number(number, source, header):
            self._note(number, source, about, severe, text)
        if (taken := header_time(header)) is not None:
            self._times[number] = taken - number * self._sweep.period

    def news(self) -> list[str]:
        """Return the contradictions that were not returned before, each of its kind once."""
        news, self._news = self._news, []
        return news

    def findings(self) -> dict[str, list[str]]:
        """Return in what headers and run differ, as it is kept in the scan file.

        Returns
        -------
        findings
            ``contradictions``, where scattering vectors would be others or the frame is of another
            run, and ``differences``; empty if there are none.
        """
        lines: dict[str, list[str]] = {}
        n = int(np.count_nonzero(self.seen))
        for found in self._found.values():
            kind = "contradictions" if found.severe else "differences"
            lines.setdefault(kind, []).append(
                f"{found.count} of {n} headers, first frame {found.first} ({found.source}): "
                f"{found.text}"
            )
        limit = max(60.0, 2 * self._sweep.duration)
        if text := odd_dates(self._times, limit):
            lines.setdefault("differences", []).append(text)
        return {kind: _fitting(each) for kind, each in lines.items()}

    # -- one header ------------------------------------------------------------------------

    def _note(self, number: int, source: str, about: str, severe: bool, text: str) -> None:
        severe = severe and not self._replayed
        known = self._found.get((about, severe))
        if known is not None:
            known.count += 1
            if number < known.first:
                known.first, known.source, known.text = number, source, text
            return
        self._found[about, severe] = _Found(severe, text, source, number)
        if severe:
            self._news.append(f"frame {number} ({source}): {text}")

    def _compare(self, header: Mapping[str, Any]) -> Iterable[tuple[str, bool, str]]:
        """Compare what is alike in all headers of a run; yield key, whether severe, and text."""
        if self._geometry is not None:
            for each in compare_geometry(self._geometry, self._without_tilt(header)):
                near, far = each.limits
                if not alike(each.header, each.model, near):
                    unset = each.header in (0.0, (0.0, 0.0))
                    severe = not unset and not alike(each.header, each.model, far)
                    quantity = each.quantity
                    yield quantity.key, severe, _words(quantity, each.header, each.model)
        turned = axis_name(header)
        if turned is not None and turned != axis_name({"oscillation_axis": self._sweep.axis}):
            name = header["oscillation_axis"]
            yield AXIS.key, True, f"{AXIS.label} {name}, and the run {self._sweep.axis}"
        step = header.get("angle_increment")
        if step is not None and not alike(step, self._sweep.step, STEP.refused or STEP.alike):
            yield STEP.key, step != 0.0, _words(STEP, step, self._sweep.step)
        for key, expected in self._expected.items():
            value, quantity = header.get(key), _LABELS[key]
            if value is None or alike(_symbol(value), _symbol(expected), quantity.alike):
                continue
            severe = key == "wavelength" and value != 0.0
            yield key, severe, _words(quantity, value, expected)

        for setting in self._settings.values():
            quantity, value = setting.quantity, header.get(setting.quantity.key)
            if value in (None, 0.0) or alike(value, setting.value, quantity.alike):
                continue
            limit = quantity.refused
            severe = setting.certain and limit is not None
            severe = severe and not alike(value, setting.value, limit or quantity.alike)
            yield (
                f"{quantity.key} {setting.source}",
                severe,
                f"{quantity.text(value)}, and {setting.source} {quantity.number(setting.value)}",
            )

    def _without_tilt(self, header: Mapping[str, Any]) -> Mapping[str, Any]:
        """Drop a distance that is right along the beam: that to a tilted panel differs."""
        assert self._geometry is not None
        beam, distance = self._geometry.direct_beam(), header.get("distance")
        if beam is not None and distance is not None and alike(distance, beam[2], (0.0, 1e-3)):
            return {key: value for key, value in header.items() if key != "distance"}
        return header

    def _compare_number(
        self, number: int, source: str, header: Mapping[str, Any]
    ) -> Iterable[tuple[str, bool, str]]:
        """Compare what belongs to one frame only."""
        key = "start_angle" if "start_angle" in header else self._sweep.axis.lower()
        value = header.get(key) if key in ("start_angle", *ANGLES) else None
        if value is not None:
            sweep, angle = self._sweep, float(self._starts[number])
            limit = 0.5 * abs(sweep.step) + 1e-4 if sweep.step else _STANDS
            if abs(math.remainder(value - angle, 360.0)) > limit:
                unset = value == 0.0 and not header.get("angle_increment")
                label = "Start_angle" if key == "start_angle" else ANGLES[key].label
                yield (
                    "start_angle",
                    not unset,
                    f"{label} {value:.6g} degree, and the run {angle:.6g} degree",
                )
        run = _RUN.findall(header.get("text", ""))
        if run and run[-1] != self._uid:
            yield "run", True, f"it is a frame of run {run[-1]}, and this is run {self._uid}"
        wrote, has = _NUMBER.search(header.get("data_name", "")), _NUMBER.search(source)
        if wrote and has and int(wrote[1]) != int(has[1]):
            yield "number", False, f"it was written as data_{header['data_name']}"
        if text := tag_difference(header):
            yield "date", False, text


def _symbol(value: Any) -> Any:
    """Return the symbol of a sensor's material; a number as it is."""
    return _MATERIALS.get(value.lower(), value) if isinstance(value, str) else value


def _words(quantity: Quantity, value: Any, expected: Any) -> str:
    return f"{quantity.text(value)}, and the run {quantity.number(expected)}"


def _fitting(lines: list[str]) -> list[str]:
    """Return the lines that fit into the room for them."""
    kept: list[str] = []
    for line in lines:
        if len(json.dumps([*kept, line])) > _ROOM:
            return [*kept, f"and {len(lines) - len(kept)} more"]
        kept.append(line[:400])
    return kept
