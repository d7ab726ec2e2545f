"""What sweeps will take and what they will cover, without moving anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import SweepError
from offbragg.geometry import Geometry, rotation_about
from offbragg.plans.rotation import check_axis
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
        size = f", at most {self.bytes / 1e9:.2f} GB of frame files" if self.bytes else ""
        lines = [
            f"{self.sweeps} sweeps, {self.frames} frames, {hours} h {minutes:02d} min "
            f"{seconds:02d} s{size}"
        ]
        if self.coverage is not None:
            each = ", ".join(f"{100 * part:.1f}" for part in self.added)
            lines.append(f"{100 * self.coverage:.1f} % of reciprocal space (added: {each} %)")
        return "\n".join([*lines, *self.notes])


def estimate(
    *sweeps: Sweep | Mapping[str, Any],
    detector: Any = None,
    axis: Any = None,
    temperatures: Sequence[float] = (),
    settling: float = 0.0,
    settings: Sequence[Setting] = (),
    geometry: Geometry | None = None,
) -> Estimate:
    """Say what sweeps will take and cover, without moving anything.

    Parameters
    ----------
    sweeps
        What will be measured (at each temperature); each a `Sweep` or a mapping with its fields.
    detector
        If given, the sweeps are checked against it, and bytes are counted.
    axis
        If given, the sweeps are checked against it.
    temperatures
        Of a series; none is one pass at the present temperature.
    settling
        Time for each temperature to be reached and settle, s.
    settings
        Where the other axes of the goniometer will stand, degree: one mapping of names to angles
        for each setting; every sweep is measured at every setting.
    geometry
        The instrument; the detector's own if not given.

    Examples
    --------
    >>> sweep = Sweep(axis="phi", start=0, step=0.1, n_frames=3650, exposure=0.099, period=0.1)
    >>> print(estimate(sweep, sweep, sweep))
    3 sweeps, 10950 frames, 0 h 18 min 15 s
    """
    planned = [s if isinstance(s, Sweep) else Sweep.from_dict(s) for s in sweeps]
    if isinstance(temperatures, str | Mapping) or not hasattr(temperatures, "__len__"):
        raise SweepError(f"temperatures is {temperatures!r}: it must be a list, K, as [300, 200]")
    for sweep in planned:
        check_axis(sweep, axis)
    for device in (detector, axis):
        check = getattr(device, "check", None)
        if check is not None:
            for sweep in planned:
                check(sweep)
    if isinstance(settings, Mapping):
        raise SweepError("settings is one setting: it must be a list of them, [{...}]")
    settings = settings or ({},)
    known = geometry if geometry is not None else getattr(detector, "geometry", None)
    if known is None and any(settings):
        raise SweepError("settings need a geometry: give geometry=, or a detector that has one")
    passes = max(len(temperatures), 1) * len(settings)
    frames = passes * sum(sweep.n_frames for sweep in planned)
    run_ups = 0.0
    if axis is not None and hasattr(axis, "plan_flight"):
        run_ups = sum(axis.plan_flight(sweep).duration - sweep.duration for sweep in planned)
    seconds = passes * (sum(sweep.duration for sweep in planned) + run_ups)
    seconds += len(temperatures) * settling
    size = detector.frame_bytes() if hasattr(detector, "frame_bytes") else 0
    total = Estimate(passes * len(planned), frames, seconds, frames * size)
    if known is None:
        return total
    added = coverage(known, planned, settings)
    return replace(
        total, coverage=sum(added), added=added, notes=_notes(known, planned, settings, added)
    )


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
            raise SweepError(f"setting {name!r} is no axis: there are {', '.join(names)}")
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
    for (setting, sweep), part in list(zip(product(settings, sweeps), added, strict=True))[1:]:
        if part == 0:
            at = ", ".join(f"{name} = {angle:g}" for name, angle in setting.items())
            notes.append(
                f"{sweep.axis} {sweep.start:g} to {sweep.stop:g}{f' at {at}' if at else ''} adds "
                "nothing to what comes before it"
            )
    return tuple(dict.fromkeys(notes))
