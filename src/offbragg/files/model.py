"""Geometry, angles and crystal of frames that were measured elsewhere, from a model file.

Headers round what they say of the instrument, and a model was refined: it counts. Where they are
too far apart for that, one of them is of other frames, and nothing is stacked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from offbragg.errors import ConfigError
from offbragg.files.headers import (
    ANGLES,
    BEAM,
    DISTANCE,
    EXPOSURE,
    PERIOD,
    PIXEL_SIZE,
    STEP,
    TWO_THETA,
    WAVELENGTH,
    Quantity,
    Tolerance,
    alike,
    axis_name,
)
from offbragg.files.model_formats import read_document
from offbragg.geometry import Geometry
from offbragg.sweep import Sweep

_TIMES = {"exposure_time": EXPOSURE, "exposure_period": PERIOD}
_TOP = (
    "wavelength_angstrom",
    "s0",
    "panel_origin_mm",
    "fast",
    "slow",
    "pixel_mm",
)
_CRYSTAL = ("UB_no_2pi", "cell")  # both or neither: a calibration is made before a crystal is known
_GONIOMETER = ("axes", "angles_deg", "scan_axis", "start_deg", "step_deg")
_HINT = (
    "Give the model of these frames; if it is, and the headers are wrong, say so: --trust-model."
)


@dataclass(frozen=True, slots=True)
class Model:
    """What a model file holds."""

    path: Path
    text: str
    document: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Model:
        """Read a model file, of offbragg or another program (`offbragg.files.model_formats`).

        Raises
        ------
        ConfigError
            If it is missing, is not a model or a JSON object, or has neither a whole geometry nor
            an exposure time: what it lacks is named.
        """
        text, document = read_document(path)
        if not isinstance(document, dict):
            raise ConfigError(f"{path} is not a model of a sweep: it is not a JSON object")
        model = cls(path, text, cast(dict[str, Any], document))
        model._check_scan_axis()
        missing = model.missing()
        if model.has_geometry and missing:
            raise ConfigError(
                f"{path} is not a model of a sweep: it lacks {', '.join(missing)}\n"
                "Give them all, or only exposure_time and exposure_period."
            )
        if not model.has_geometry and "exposure_time" not in document:
            raise ConfigError(
                f"{path} is not a model of a sweep: it has neither exposure_time nor a geometry "
                f"({', '.join(missing)})"
            )
        for key in _TIMES:
            model._time(key)
        return model

    @property
    def has_geometry(self) -> bool:
        """Whether it says anything of beam, panel, axes or crystal."""
        return any(key in self.document for key in (*_TOP, *_CRYSTAL, "goniometer"))

    def missing(self) -> list[str]:
        """Return which keys of a geometry are not there."""
        goniometer = self.document.get("goniometer")
        inner = cast(dict[str, Any], goniometer if isinstance(goniometer, dict) else {})
        crystal = _CRYSTAL if any(key in self.document for key in _CRYSTAL) else ()
        return [
            *(key for key in (*_TOP, *crystal) if key not in self.document),
            *(f"goniometer.{key}" for key in _GONIOMETER if key not in inner),
        ]

    def times(self, header: Mapping[str, Any]) -> tuple[float, float]:
        """Return exposure and period, s, its own or those of a header.

        Raises
        ------
        ConfigError
            If neither has them.
        """
        own = {key: value for key in _TIMES if (value := self._time(key)) is not None}
        return times({**header, **own})

    def _check_scan_axis(self) -> None:
        goniometer = self.document.get("goniometer")
        if not isinstance(goniometer, dict) or not {"axes", "scan_axis"} <= goniometer.keys():
            return
        inner = cast(dict[str, Any], goniometer)
        axes, scan = inner["axes"], inner["scan_axis"]
        n = len(cast(list[Any], axes)) if isinstance(axes, list) else 0
        if isinstance(scan, bool) or not isinstance(scan, int) or not 0 <= scan < n:
            raise ConfigError(
                f"{self.path} has {n} goniometer axes and scan_axis {_short(repr(scan))}: "
                "it counts them from 0"
            )

    def _time(self, key: str) -> float | None:
        value = self.document.get(key)
        if value is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not 0 < value < math.inf
        ):
            raise ConfigError(
                f"{self.path} has the {key} {_short(repr(value))}: it must be s, above 0"
            )
        return float(value)

    def geometry(
        self,
        *,
        shape: tuple[int, int],
        header: Mapping[str, Any],
        n_frames: int,
        names: Callable[[int, int], Sequence[str]] | None = None,
    ) -> tuple[Geometry, Sweep, dict[str, Any]]:
        """Read geometry, sweep and, if it has one, crystal (see `Geometry.from_model`).

        Parameters
        ----------
        shape
            Rows and columns of the frames.
        header
            What the headers say: the name of the scan axis, where the model names none, and the
            times that it does not have.
        n_frames
            Of the sweep.
        names
            Number of axes and index of the scan axis → what to call them, whatever others say.

        Raises
        ------
        ConfigError
            If something is wrong or missing.
        """
        if missing := self.missing():
            raise ConfigError(
                f"{self.path} is not a model of a sweep: it lacks {', '.join(missing)}"
            )
        goniometer = self.document["goniometer"]
        self._check_shape(shape)
        known = "cell" in self.document
        try:
            n, scan = len(goniometer["axes"]), goniometer["scan_axis"]
            called = self._names(n, scan, header) if names is None else names(n, scan)
            document = {"UB_no_2pi": np.eye(3).ravel(), **self.document}
            geometry, UB = Geometry.from_model(document, shape=shape, names=called)
            exposure, period = self.times(header)
            sweep = Sweep(
                axis=geometry.scan_axis,
                start=goniometer["start_deg"],
                step=goniometer["step_deg"],
                n_frames=n_frames,
                exposure=exposure,
                period=period,
            )
            crystal = {"lattice": self.document["cell"], "UB": UB.tolist()} if known else {}
            return geometry, sweep, crystal
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ConfigError(
                f"{self.path} is not a model of a sweep: {_short(repr(error))}"
            ) from error

    def _check_shape(self, shape: tuple[int, int]) -> None:
        own = self.document.get("shape")
        if own is not None and list(own) != list(shape):
            raise ConfigError(
                f"the frames have {shape[0]} × {shape[1]} pixels, and the panel of {self.path} "
                f"{' × '.join(map(str, own))}: give the model of these frames"
            )

    def own_names(self) -> list[str] | None:
        """Return what the model calls its axes, innermost first; None if it does not."""
        names = self.document["goniometer"].get("names")
        if names is None:
            return None
        n = len(self.document["goniometer"]["axes"])
        listed = cast(list[Any], names if isinstance(names, list) else [])
        if (
            not isinstance(names, list)
            or len(listed) != n
            or not all(isinstance(name, str) for name in listed)
            or len(set(listed)) != n
        ):
            raise ConfigError(
                f"{self.path} has goniometer.names {_short(repr(cast(object, names)))}: they must "
                f"be {n} different names, one for each of its axes"
            )
        return listed

    def _names(self, n: int, scan: int, header: Mapping[str, Any]) -> list[str]:
        """Name the axes as the model or the headers do, else by their place."""
        if (own := self.own_names()) is not None:
            return own
        names = [f"axis{i}" for i in range(n)]
        turned = axis_name(header)
        if turned is not None and turned not in names:
            names[scan] = turned
        return names


def times(header: Mapping[str, Any]) -> tuple[float, float]:
    """Return exposure and period as a header has them, s.

    Raises
    ------
    ConfigError
        If it does not have the exposure time.
    """
    exposure = header.get("exposure_time")
    if exposure is None:
        raise ConfigError(
            "no header says Exposure_time\n"
            'Give it in a model, s: {"exposure_time": 0.1, "exposure_period": 0.1} '
            "(--model FILE)."
        )
    return exposure, max(header.get("exposure_period", exposure), exposure)


def _short(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


# ---- against the headers ---------------------------------------------------------------

# From where on a refined value is listed beside that of the headers, and from where on it cannot
# be of the same instrument.
_LIMITS: Mapping[Quantity, tuple[Tolerance, Tolerance]] = {
    WAVELENGTH: ((0.0, 1e-4), (0.0, 1e-3)),
    PIXEL_SIZE: ((0.0, 1e-4), (0.0, 1e-3)),
    DISTANCE: ((0.0, 1e-3), (0.0, 2e-2)),
    TWO_THETA: ((0.1, 0.0), (1.0, 0.0)),
    BEAM: ((1.0, 0.0), (10.0, 0.0)),
}
_ANGLE_LIMITS: tuple[Tolerance, Tolerance] = (0.05, 0.0), (0.5, 0.0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a header and a model have for the same quantity, and how far apart they may be."""

    quantity: Quantity
    header: Any
    model: Any
    limits: tuple[Tolerance, Tolerance]

    def text(self) -> str:
        """Return both values in words."""
        return (
            f"the headers say {self.quantity.text(self.header)}, and the model "
            f"{self.quantity.number(self.model)}"
        )


def compare_with_headers(
    model: Model, geometry: Geometry, header: Mapping[str, Any], *, trusted: bool
) -> list[str]:
    """Compare a model with what the headers of a sweep agree on.

    A header's 0 is what a camserver writes for a value that was never set: it contradicts nothing,
    and is listed.

    Returns
    -------
    differences
        In words; the model counts.

    Raises
    ------
    ConfigError
        If they are so far apart that q would be another, unless the model is ``trusted``.
    """
    listed: list[str] = []
    refused: list[str] = []
    for each in compare_geometry(geometry, header):
        near, far = each.limits
        if alike(each.header, each.model, near):
            continue
        unset = each.header in (0.0, (0.0, 0.0))
        if trusted or unset or alike(each.header, each.model, far):
            listed.append(f"{each.text()}: the model counts")
        else:
            refused.append(each.text())
    called, turned = geometry.scan_axis, axis_name(header)
    if turned is not None and turned != called.lower():
        what = f"the headers say Oscillation_axis {header['oscillation_axis']}, and the model "
        (listed if trusted else refused).append(f"{what}{called}")
    if refused:
        raise ConfigError(f"{model.path}: {'; '.join(refused)}\n{_HINT}")
    return listed


def compare_times(model: Model, header: Mapping[str, Any]) -> list[str]:
    """List in what a model's times differ from those of the headers; the model counts."""
    return [
        f"the headers say {quantity.text(header[key])}, and the model "
        f"{quantity.number(value)}: the model counts"
        for key, quantity in _TIMES.items()
        if (value := model.document.get(key)) is not None
        and key in header
        and not alike(header[key], value, quantity.alike)
    ]


def begin_where_headers_do(
    sweep: Sweep, header: Mapping[str, Any], first: int, model: Model, *, trusted: bool
) -> tuple[Sweep, list[str]]:
    """Let a model's sweep begin where the headers say, if they say at which angle frames began.

    The model may be of other frames of that crystal, so its start need not be that of the lowest
    number; only the step can be compared.

    Parameters
    ----------
    sweep
        The model's.
    header
        What the headers agree on.
    first
        Frame that is to be exactly where they say.

    Returns
    -------
    sweep, differences

    Raises
    ------
    ConfigError
        If the steps differ, unless the model is ``trusted``: then its start and step count.
    """
    start, step = header.get("start_angle"), header.get("angle_increment", 0.0)
    if start is None or step == 0.0:
        return sweep, []
    if not alike(step, sweep.step, STEP.refused or STEP.alike):
        what = (
            f"the headers say Angle_increment {step:g} degree, and the model step_deg "
            f"{sweep.step:g} degree"
        )
        if not trusted:
            raise ConfigError(f"{model.path}: {what}\n{_HINT}")
        return sweep, [f"{what}: start and step of the model count"]
    return replace(sweep, start=start + first * (step - sweep.step)), []


def known_of(model: Model) -> dict[str, Any]:
    """Return what a model says of what headers say, too: where they disagree, it decides."""
    known: dict[str, Any] = {}
    try:
        if "wavelength_angstrom" in model.document:
            known["wavelength"] = float(model.document["wavelength_angstrom"])
        if "pixel_mm" in model.document:
            known["pixel_size"] = (float(model.document["pixel_mm"]),) * 2
        known |= {key: value for key in _TIMES if (value := model.document.get(key))}
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{model.path} is not a model of a sweep: {_short(repr(error))}"
        ) from error
    return known


def compare_geometry(geometry: Geometry, header: Mapping[str, Any]) -> list[Comparison]:
    """Return what a header and a geometry both have, alike or not."""
    panel = geometry.panel
    normal = panel.normal
    two_theta = math.degrees(math.acos(min(abs(float(normal[2])), 1.0)))
    found: dict[Quantity, Any] = {
        WAVELENGTH: geometry.wavelength,
        # camserver has its own order of the two
        PIXEL_SIZE: tuple(sorted(panel.pixel_size)),
        DISTANCE: abs(float(np.dot(np.array(panel.origin), normal))),
        TWO_THETA: two_theta,
    }
    beam = geometry.direct_beam()
    # with the arm elsewhere, the header's is still that at 2θ = 0
    if beam is not None and two_theta < 1.0 and abs(header.get("two_theta", 0.0)) < 1.0:
        found[BEAM] = beam[:2]
    comparisons: list[Comparison] = []
    for quantity, value in found.items():
        measured = header.get(quantity.key)
        if measured is None:
            continue
        if isinstance(measured, list):
            numbers = cast(list[float], measured)
            measured = tuple(sorted(numbers) if quantity is PIXEL_SIZE else numbers)
        elif quantity is TWO_THETA:
            measured = abs(measured)
        comparisons.append(Comparison(quantity, measured, value, _LIMITS[quantity]))
    for axis in geometry.axes:
        key = axis.name.lower()
        if axis.name != geometry.scan_axis and key in ANGLES and key in header:
            measured = axis.angle + math.remainder(header[key] - axis.angle, 360.0)
            comparisons.append(Comparison(ANGLES[key], measured, axis.angle, _ANGLE_LIMITS))
    return comparisons + _between_axes(geometry, header)


def _between_axes(geometry: Geometry, header: Mapping[str, Any]) -> list[Comparison]:
    """Compare chi with how far apart a model of two axes has them, as an Eulerian cradle does."""
    chi = header.get("chi")
    names = {axis.name.lower() for axis in geometry.axes}
    if chi is None or "chi" in names or len(geometry.axes) != 2 or header.get("kappa"):
        return []
    inner, outer = (np.array(axis.vector) for axis in geometry.axes)
    apart = math.degrees(math.acos(min(abs(float(inner @ outer)), 1.0)))
    folded = abs(math.remainder(chi, 180.0))  # an axis has no direction
    return [Comparison(ANGLES["chi"], folded, apart, ((0.2, 0.0), (2.0, 0.0)))]
