"""Preprocessors that complete every run: columns, places of the axes, the detector's comment."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Set
from dataclasses import replace
from typing import Any

from offbragg.geometry import Geometry
from offbragg.protocols import (
    TakesComment,
    meets,
)
from offbragg.sweep import Sweep


def recorder(
    columns: Mapping[str, tuple[Any, str]], devices: Mapping[str, Any]
) -> Callable[[Any], Generator[Any, Any, Any]]:
    """Make a preprocessor that records signals through every run and says so in its start.

    What the plan monitors itself is not monitored twice. It also writes where the goniometer's axes
    stand into the start document's geometry, and the angle of stills into their sweep, for the
    devices as for the document.

    Parameters
    ----------
    columns
        Name of the per-frame column → (signal, units).
    devices
        Where the axes are found by name.
    """
    from bluesky import plan_stubs as bps
    from bluesky.preprocessors import msg_mutator, plan_mutator

    def complete(msg: Any) -> Any:
        more: dict[str, Any] = {}
        if msg.command == "open_run" and "sweep" in msg.kwargs:
            more["sweep"] = _where_it_stands(msg.kwargs["sweep"], devices)
            more["per_frame"] = {
                **{name: _column(signal, units) for name, (signal, units) in columns.items()},
                **msg.kwargs.get("per_frame", {}),
            }
        if msg.command == "prepare" and msg.args and isinstance(msg.args[0], Sweep):
            if (geometry := getattr(msg.obj, "geometry", None)) and hasattr(msg.obj, "axes_at"):
                turning = replace(geometry, scan_axis=msg.args[0].axis).to_dict()
                stand = _where_axes_stand(turning, devices)["axes"]
                msg.obj.axes_at = {axis["name"]: axis["angle"] for axis in stand}
            sweep = _where_it_stands(msg.args[0].to_dict(), devices)
            return msg._replace(args=(Sweep.from_dict(sweep), *msg.args[1:]))
        if msg.command == "open_run" and "geometry" in msg.kwargs:
            more["geometry"] = _where_axes_stand(msg.kwargs["geometry"], devices)
        return msg._replace(kwargs={**msg.kwargs, **more}) if more else msg

    def watch(msg: Any) -> tuple[Any, Any]:
        if msg.command == "open_run" and columns:
            return None, monitors(
                {column["key"] for column in msg.kwargs.get("per_frame", {}).values()}
            )
        return None, None

    def monitors(plan_has: Set[str]) -> Generator[Any, Any, None]:
        for signal, _ in columns.values():
            if signal.name not in plan_has:
                yield from bps.monitor(signal, name=signal.name)

    return lambda plan: msg_mutator(plan_mutator(plan, watch), complete)


def captioner(RE: Any) -> Callable[[Any], Generator[Any, Any, Any]]:
    """Make a preprocessor that gives detectors, when they are staged, the comment of their frames.

    A detector with a ``comment`` writes it into every frame's header: the number of the run, if
    one is open already, then name and label of the sample.

    Parameters
    ----------
    RE
        The RunEngine, for its own metadata as it is then.
    """
    from bluesky import plan_stubs as bps
    from bluesky.preprocessors import plan_mutator

    def caption(plan: Any) -> Generator[Any, Any, Any]:
        open_run: dict[str, Any] = {}

        def look(msg: Any) -> tuple[Any, Any]:
            if msg.command == "open_run":
                open_run.update(msg.kwargs, open=True)
            elif msg.command == "close_run":
                open_run.clear()
            elif msg.command == "stage" and meets(msg.obj, TakesComment):
                return commented(msg), None
            return None, None

        def commented(msg: Any) -> Generator[Any, Any, Any]:
            number = [f"#{RE.md['scan_id']}"] if open_run and "scan_id" in RE.md else []
            known = open_run.get("sample", RE.md.get("sample"))
            if isinstance(known, Mapping):
                words = [str(known[key]) for key in ("name", "label") if known.get(key)]
            else:
                words = [str(known)] if known else []
            yield from bps.abs_set(msg.obj.comment, " ".join(number + words), wait=True)
            return (yield msg)

        return plan_mutator(plan, look)

    return caption


def _column(signal: Any, units: str) -> dict[str, str]:
    return {"key": signal.name, **({"units": units} if units else {})}


def _where_axes_stand(geometry: Mapping[str, Any], devices: Mapping[str, Any]) -> dict[str, Any]:
    known = Geometry.from_dict(geometry)
    axes = tuple(
        replace(axis, angle=float(devices[axis.name].position))
        if axis.name in devices and axis.name != known.scan_axis
        else axis
        for axis in known.axes
    )
    return replace(known, axes=axes).to_dict()


def _where_it_stands(sweep: Mapping[str, Any], devices: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return stills with the angle at which their axis stands: a plan without it does not know."""
    if sweep.get("step") != 0 or sweep.get("axis") not in devices:
        return sweep
    return {**sweep, "start": float(devices[sweep["axis"]].position)}
