"""What the start document of a sweep says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bluesky.utils import MsgGenerator

from offbragg.errors import MetadataError, SweepError
from offbragg.metadata import check_keys
from offbragg.plans.messages import ANNOUNCED_RUN, ask
from offbragg.plans.timing import is_measured
from offbragg.plans.triggers import check_triggers
from offbragg.protocols import (
    ChecksSweep,
    CountsBeam,
    DescribesHardware,
    FillsColumns,
    HasGeometry,
    KeepsSpeed,
    TriggeredPerSweep,
    meets,
)
from offbragg.sweep import Sweep

_PLAN_SAYS = frozenset({"sweep", "purpose", "detector", "detectors", "motors", "motor_speeds"})


def names_of(device: object) -> str:
    """Return the names of devices, as one text."""
    return str(getattr(device, "name", repr(device)))


def about(plan: str, md: Mapping[str, Any] | None) -> dict[str, Any]:
    """Put a plan's name and what its user has to say together, for a start document.

    Raises
    ------
    MetadataError
        If that is not a mapping, or a key in it is not one that a document can have.
    """
    if md is not None and not isinstance(md, Mapping):
        raise MetadataError(f"md is {md!r}: it must be a mapping, as {{'comment': '…'}}")
    check_keys(md or {})
    return {"plan_name": plan, **(md or {})}


def check_axis(sweep: Sweep, axis: Any) -> None:
    """Refuse a sweep that is about another axis.

    Raises
    ------
    SweepError
        Naming both.
    """
    if axis is not None and sweep.axis != axis.name:
        raise SweepError(
            f"the sweep turns {sweep.axis!r} but the axis given is {axis.name!r}\n"
            f"Its angles would be recorded as those of {sweep.axis}. Give the axis that turns."
        )


def start_of(
    detector: Any,
    axis: Any,
    sweep: Sweep,
    *,
    md: Mapping[str, Any],
    flyers: Sequence[Any] = (),
    monitors: Sequence[Any] = (),
    permit: Any = None,
    purpose: str = "data",
) -> dict[str, Any]:
    """Return what `record` would put into its start document; nothing moves.

    Raises
    ------
    OffbraggError
        If a device cannot do the sweep, or the sweep is not about this axis.
    """
    check_axis(sweep, axis)
    for key in _PLAN_SAYS & md.keys():
        raise MetadataError(
            f"md says {key!r}: that is what the plan itself records\n"
            "A run would contradict what was measured. Leave it out of md."
        )
    for device in (detector, axis, *flyers):
        if meets(device, ChecksSweep):
            device.check(sweep)
    check_triggers(detector, sweep, flyers)
    return {
        "purpose": purpose,
        "detectors": [detector.name],
        "motors": [] if axis is None else [axis.name],
        **_of_axis(axis),
        "hints": {"dimensions": []},
        "sweep": sweep.to_dict(),
        **_of_detector(detector, sweep),
        "per_frame": _columns(detector, axis, flyers, monitors, permit),
        **md,
    }


def announce(metadata: Mapping[str, Any]) -> MsgGenerator[None]:
    """Announce a run that a plan is going to open: it can be refused before anything moves."""
    yield from ask(ANNOUNCED_RUN, start=dict(metadata))


def _of_axis(axis: Any) -> dict[str, Any]:
    """Return which speed to restore, also for whoever finds the axis without a RunEngine."""
    speed = axis.usual_speed if meets(axis, KeepsSpeed) else None
    return {} if speed is None else {"motor_speeds": {axis.name: float(speed)}}


def _of_detector(detector: Any, sweep: Sweep) -> dict[str, Any]:
    """Collect what the detector knows about itself and the beam, for the start document."""
    known: dict[str, Any] = {}
    if meets(detector, DescribesHardware):
        known["detector"] = detector.hardware()
        if "trigger" in known["detector"] and meets(detector, TriggeredPerSweep):
            known["detector"]["trigger"] = detector.trigger_of(sweep)
    geometry = detector.geometry if meets(detector, HasGeometry) else None
    if geometry is not None:
        known["geometry"] = replace(geometry, scan_axis=sweep.axis).to_dict()
        known["wavelength"] = geometry.wavelength
    return known


def _columns(
    detector: Any,
    axis: Any,
    flyers: Sequence[Any],
    monitors: Sequence[Any],
    permit: Any,
) -> dict[str, dict[str, Any]]:
    """Collect which per-frame columns will be filled by which data key."""
    columns: dict[str, dict[str, Any]] = {}
    if is_measured(detector, axis):
        columns["angle"] = {
            "key": axis.angle_key, "how": axis.angle_source, "units": "degree",
            "before": axis.at_speed[0], "after": axis.at_speed[1],
        }  # fmt: skip
    for flyer in flyers:
        if meets(flyer, FillsColumns):
            columns.update({name: dict(column) for name, column in flyer.per_frame.items()})
    for signal in monitors:
        columns[signal.name] = {"key": signal.name}
    if permit is not None:
        columns["weight"] = {"key": permit.beam.name}
        if "monitor" in columns and meets(permit, CountsBeam) and permit.monitor is not None:
            columns["weight"] |= {"monitor": "monitor", "fraction": permit.fraction}
    return columns
