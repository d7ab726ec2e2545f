"""What sweeps will take and what they will cover, without moving anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.alarms.disk import describe_bytes
from offbragg.errors import ConfigError, SweepError
from offbragg.geometry import Geometry, rotation_about
from offbragg.plans.defaults import Defaults, is_device
from offbragg.plans.rotation import rotation_scan
from offbragg.plans.series import PastRun, by_sweep, part, remaining
from offbragg.plans.series_parameters import in_order, turned
from offbragg.plans.start_document import check_axis
from offbragg.plans.temperature import parameters_from, temperature_series
from offbragg.plans.triggers import check_triggers
from offbragg.protocols import (
    ChecksSweep,
    ChecksValue,
    HasGeometry,
    PlansFlight,
    SizesFrames,
    as_a,
)
from offbragg.spelling import did_you_mean
from offbragg.sweep import Sweep

Setting = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a list of sweeps will take, and what it will cover.

    ``coverage`` is the part of reciprocal space, up to the largest |q| on the detector, that
    crosses the Ewald sphere on the detector, 0 to 1; None where no geometry is known. ``added`` is
    what each sweep at each setting adds to those before it. ``notes`` say what adds nothing, and
    why.
    """

    sweeps: int
    frames: int
    seconds: float
    bytes: int
    coverage: float | None = None
    added: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        hours, minutes = divmod(minutes, 60)
        size = f", at most {describe_bytes(self.bytes)} of frame files" if self.bytes else ""
        lines = [
            f"{self.sweeps} {'sweep' if self.sweeps == 1 else 'sweeps'}, {self.frames} "
            f"{'frame' if self.frames == 1 else 'frames'}, {hours} h {minutes:02d} min "
            f"{seconds:02d} s{size}"
        ]
        if self.coverage is not None:
            each = ", ".join(f"{100 * part:.1f}" for part in self.added)
            lines.append(f"{100 * self.coverage:.1f} % of reciprocal space (added: {each} %)")
        return "\n".join([*lines, *self.notes])


def estimate(
    *what: object,
    settling: float = 0.0,
    settings: Sequence[Setting] = (),
    geometry: Geometry | None = None,
    defaults: Defaults | None = None,
    **given: object,
) -> Estimate:
    """Return what sweeps will take and cover, without moving anything.

    It takes what the plans take: ``estimate(sweep)``, ``estimate(pilatus, phi, sweep, shutter=…)``,
    ``estimate([300, 200], sweep)``, ``estimate(resume="3f2b8c1e")``; and several sweeps in a row.
    What they would refuse it refuses, also a sweep that a disk has no room for. Where only all of
    them together do not fit, ``notes`` say so: a series waits between two sweeps (``on_full``).

    Parameters
    ----------
    what
        As for `rotation_scan` or `temperature_series`; or sweeps.
    settling
        Time for each temperature to be reached and settle, s.
    settings
        Where the other axes of the goniometer will stand, degree: one mapping of names to angles
        for each setting; every sweep is measured at every setting.
    geometry
        The instrument; the detector's own if not given.
    defaults
        Of the beamline, as the shell gives them.
    given
        Any parameter of the two plans. The sweeps are checked against ``detector`` and ``axis``,
        and bytes are counted, where they are known.

    Examples
    --------
    >>> sweep = Sweep(axis="phi", start=0, step=0.1, n_frames=3650, exposure=0.099, period=0.1)
    >>> print(estimate(sweep, sweep, sweep))
    3 sweeps, 10950 frames, 0 h 18 min 15 s
    """
    defaults = defaults or Defaults()
    known = defaults.fill(_FILLED, _read(what, given))
    past: list[PastRun] = []
    if known.get("resume"):
        answers = defaults.past(series=known["resume"]) if defaults.past is not None else []
        past = [PastRun(**run) for run in answers]
        if past and (parameters := past[-1].start["series"].get("parameters")):
            left = {key: value for key, value in parameters.items() if key not in known}
            known = {**parameters_from(left, past[-1].start, defaults), **known}
    planned = _sweeps(known)
    temperatures = known.get("temperatures")
    points: list[float] = []
    if temperatures is not None and (not hasattr(temperatures, "__len__") or len(temperatures)):
        points = in_order(temperatures, known.get("order", "given"), known.get("reference"))
    detector, axis = known.get("detector"), known.get("axis")
    for sweep in planned:
        check_axis(sweep, axis)
    for device in (detector, axis):
        if checker := as_a(device, ChecksSweep):
            for sweep in planned:
                checker.check(sweep)
    if detector is not None:
        for sweep in planned:
            check_triggers(detector, sweep, known.get("flyers", ()))
    if cryostream := as_a(known.get("cryostream"), ChecksValue):
        for kelvin in points:
            cryostream.check_value(kelvin)
    if isinstance(settings, Mapping):
        raise SweepError("settings is one setting: it must be a list of them, [{...}]")
    settings = settings or ({},)
    standing = as_a(detector, HasGeometry)
    instrument = standing.geometry if geometry is None and standing else geometry
    if instrument is None and any(settings):
        raise SweepError("settings need a geometry: give geometry=, or a detector that has one")
    passes = max(len(points), 1) * len(settings)
    measured = planned * passes
    if past and points:
        measured, points = _missing(past, points, planned, known)
    seconds = sum(sweep.duration for sweep in measured) + len(points) * settling
    if flier := as_a(axis, PlansFlight):
        seconds += sum(flier.plan_flight(sweep).duration - sweep.duration for sweep in measured)
    sizer = as_a(detector, SizesFrames)
    size = sizer.frame_bytes() if sizer else 0
    frames = sum(sweep.n_frames for sweep in measured)
    room = _check_room(defaults, detector, measured)
    total = Estimate(len(measured), frames, seconds, frames * size, notes=room)
    if instrument is None:
        return total
    added = coverage(instrument, planned, settings)
    notes = (*room, *_notes(instrument, planned, settings, added))
    return replace(total, coverage=sum(added), added=added, notes=notes)


def _check_room(defaults: Defaults, detector: Any, sweeps: Sequence[Sweep]) -> tuple[str, ...]:
    """Refuse a sweep that the disks have no room for, as a plan does; note if all have none.

    Raises
    ------
    ConfigError
        With what is needed and what is free.
    """
    if defaults.lacks is None or not sweeps:
        return ()
    facts = detector.hardware() if hasattr(detector, "hardware") else {}
    largest, frames = max(s.n_frames for s in sweeps), sum(s.n_frames for s in sweeps)
    if lack := defaults.lacks(n_frames=largest, detector=facts):
        raise ConfigError(lack)
    lack = defaults.lacks(n_frames=frames, detector=facts, what=f"all {len(sweeps)} sweeps")
    return (lack.partition("\n")[0],) if lack else ()


_PARAMETERS = {
    key: None for plan in (temperature_series, rotation_scan) for key in signature(plan).parameters
}
_FILLED = ("detector", "axis", "cryostream", "flyers")


def _read(what: Sequence[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Find out which parameters of the plans were given."""
    for key in given:
        if key not in _PARAMETERS:
            raise SweepError(
                f"estimate has no parameter {key!r}{did_you_mean(key, _PARAMETERS)}: "
                f"it has {', '.join(_PARAMETERS)}"
            )
    known, rest = dict(given), list(what)
    for key in ("detector", "axis", "cryostream"):
        if key not in given and rest and is_device(rest[0]):
            known[key] = rest.pop(0)
    if len(rest) == 2 and not isinstance(rest[0], Sweep | Mapping):
        known["temperatures"], rest = rest[0], [rest[1]]
        known["sweeps"] = rest[0]
    elif rest:
        known["sweeps"] = rest
    elif "sweep" in known:
        known["sweeps"] = [known["sweep"]]
    return known


def _sweeps(known: Mapping[str, Any]) -> list[Sweep]:
    sweeps = known.get("sweeps")
    if sweeps is None:
        raise SweepError("estimate was given no sweep\nIt takes what the plan takes.")
    return [Sweep.of(s) for s in ([sweeps] if isinstance(sweeps, Sweep | Mapping) else sweeps)]


def _missing(
    past: Sequence[PastRun], points: list[float], planned: list[Sweep], known: Mapping[str, Any]
) -> tuple[list[Sweep], list[float]]:
    """Find what a series that goes on has not measured yet, and at which temperatures."""
    asked = turned(planned, len(points), both_ways=bool(known.get("both_ways")))
    runs = by_sweep(past, points, asked, str(known["resume"]))
    missing: list[Sweep] = []
    left: list[float] = []
    for i, kelvin in enumerate(points):
        before = len(missing)
        for j, sweep in enumerate(asked[i]):
            parts = remaining(sweep, runs.get((i, j), []), overlap=known.get("overlap", 1.0))
            missing += [part(sweep, first, end) for first, end in parts]
        if len(missing) > before:
            left.append(kelvin)
    return missing, left


def coverage(
    geometry: Geometry, sweeps: Sequence[Sweep], settings: Sequence[Setting] = ({},)
) -> tuple[float, ...]:
    """Work out what each sweep at each setting adds to the part of reciprocal space covered.

    Points of a cubic grid inside the largest |q| on the panel are taken as if they were
    reflections; one counts as covered when it crosses the Ewald sphere and hits the panel.

    Parameters
    ----------
    geometry
        The instrument.
    sweeps, settings
        As for `estimate`.

    Returns
    -------
    added
        For each setting, for each sweep, 0 to 1.
    """
    points = _points(geometry)
    covered = np.zeros(len(points), bool)
    added: list[float] = []
    for setting, sweep in product(settings, sweeps):
        before = int(covered.sum())
        crossings = _at(geometry, sweep, setting).predict(points, np.eye(3), sweep)
        covered[crossings.which] = True
        added.append((int(covered.sum()) - before) / len(points))
    return tuple(added)


def same_axes(geometry: Geometry, *, tolerance: float = 0.1) -> tuple[str, ...]:
    """Name the axes that turn about the same direction as the scan axis, as they all stand.

    Parameters
    ----------
    geometry
        Axes with their angles.
    tolerance
        Degree.
    """
    turned: dict[str, NDArray[np.float64]] = {}
    for i, axis in enumerate(geometry.axes):
        direction = np.array(axis.vector)
        for outer in geometry.axes[i + 1 :]:
            if outer.name == geometry.scan_axis:
                continue  # it turns all the time; only axes outside it have one direction
            direction = rotation_about(outer.vector, outer.angle) @ direction
        turned[axis.name] = direction
    scan = turned[geometry.scan_axis]
    limit = math.cos(math.radians(tolerance))
    return tuple(
        name
        for name, direction in turned.items()
        if name != geometry.scan_axis and abs(float(direction @ scan)) > limit
    )


def _at(geometry: Geometry, sweep: Sweep, setting: Setting) -> Geometry:
    names = [axis.name for axis in geometry.axes]
    for name in setting:
        if name not in names:
            raise SweepError(f"setting {name!r} is not an axis: there are {', '.join(names)}")
    axes = tuple(replace(a, angle=float(setting.get(a.name, a.angle))) for a in geometry.axes)
    return replace(geometry, axes=axes, scan_axis=sweep.axis)


def _points(geometry: Geometry, across: int = 41) -> NDArray[np.float64]:
    rows, columns = geometry.panel.shape
    x, y = np.meshgrid(np.linspace(0, columns, 33), np.linspace(0, rows, 33))
    longest = float(np.linalg.norm(geometry.q(x, y, 0.0), axis=-1).max())
    edge = np.linspace(-longest, longest, across)
    points = np.stack(np.meshgrid(edge, edge, edge, indexing="ij"), axis=-1).reshape(-1, 3)
    length = np.linalg.norm(points, axis=1)
    return points[(length > 0) & (length <= longest)]


def _notes(
    geometry: Geometry,
    sweeps: Sequence[Sweep],
    settings: Sequence[Setting],
    added: Sequence[float],
) -> tuple[str, ...]:
    notes: list[str] = []
    for setting, sweep in product(settings, sweeps):
        here = _at(geometry, sweep, setting)
        for name in same_axes(here):
            at = ", ".join(f"{a.name} = {a.angle:g}" for a in here.axes if a.name != name
                           and a.name != sweep.axis)  # fmt: skip
            notes.append(
                f"{name} and {sweep.axis} are the same axis{f' at {at}' if at else ''}: another "
                f"{name} only shifts {sweep.axis}, and adds nothing to a full turn"
            )
    for (setting, sweep), more in list(zip(product(settings, sweeps), added, strict=True))[1:]:
        if more == 0:
            at = ", ".join(f"{name} = {angle:g}" for name, angle in setting.items())
            notes.append(
                f"{sweep.axis} {sweep.start:g} to {sweep.stop:g}{f' at {at}' if at else ''} adds "
                "nothing to what comes before it"
            )
    return tuple(dict.fromkeys(notes))
