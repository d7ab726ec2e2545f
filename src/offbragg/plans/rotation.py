"""Rotation scans: one sweep, one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import FailedStatus, Msg, MsgGenerator, short_uid

from offbragg.errors import DeviceError, OffbraggError, SweepError
from offbragg.sweep import Sweep

FLUSH_PERIOD = 0.25
"""Time between two collections of documents during a sweep, s."""

LATE = 0.4
"""How far from its start angle a software trigger may be, s; it is 5 to 20 ms on a quiet host."""


def rotation_scan(
    detector: Any,
    axis: Any,
    sweep: Sweep,
    *,
    md: Mapping[str, Any] | None = None,
    flyers: Sequence[Any] = (),
    monitors: Sequence[Any] = (),
    shutter: Any = None,
    purpose: str = "data",
    flush_period: float = FLUSH_PERIOD,
) -> MsgGenerator[str]:
    """Record one sweep in one run; returns the run's uid.

    Whatever happens, the axis gets its speed back, the detector is left idle and the shutter
    closed. A pause in the middle stops the sweep: its run ends as failed on resuming.

    Parameters
    ----------
    detector
        Anything that prepares, flies and emits frame files (see explanations/plug-points).
    axis
        A rotation axis that can move at constant speed, degrees.
    sweep
        What to measure. A period shorter than exposure + readout is refused before anything moves.
    md
        More for the start document.
    flyers
        Devices that count once per frame and give event pages; each has a stream of its name.
    monitors
        Signals that are recorded whenever they change; each has a stream of its name.
    shutter
        Set to "open" for the sweep and to "closed" after it, if given.
    purpose
        "data", "orient", "background", "dark" or "calibration"; for "dark" the shutter stays
        closed.
    flush_period
        Time between two collections of documents, s.

    Raises
    ------
    OffbraggError
        What a device or a check had to say, as it said it.
    """
    metadata = start_of(
        detector, axis, sweep, md=md, flyers=flyers, monitors=monitors, purpose=purpose
    )

    def inner() -> MsgGenerator[str]:
        uid = yield from bps.open_run(metadata)
        try:
            yield from _fly(
                detector, axis, sweep, uid, flyers, monitors, shutter, purpose, flush_period
            )
        except OffbraggError as error:
            yield from bps.close_run(exit_status="fail", reason=str(error))
            raise
        except FailedStatus as error:
            cause = error.__cause__
            reason = str(cause) if isinstance(cause, OffbraggError) else str(error)
            yield from bps.close_run(exit_status="fail", reason=reason)
            if isinstance(cause, OffbraggError):
                raise cause from None
            raise
        yield from bps.close_run(exit_status="success")
        return uid

    # half a sweep cannot be repeated by replaying messages
    return (yield from bpp.rewindable_wrapper(inner(), False))


def start_of(
    detector: Any,
    axis: Any,
    sweep: Sweep,
    *,
    md: Mapping[str, Any] | None = None,
    flyers: Sequence[Any] = (),
    monitors: Sequence[Any] = (),
    purpose: str = "data",
    **_: Any,
) -> dict[str, Any]:
    """Give what `rotation_scan` would put into its start document; nothing moves.

    Raises
    ------
    OffbraggError
        If a device cannot do the sweep, or the sweep is not about this axis.
    """
    if sweep.axis != axis.name:
        raise SweepError(
            f"the sweep turns {sweep.axis!r} but the axis given is {axis.name!r}\n"
            f"Its angles would be recorded as those of {sweep.axis}. Give the axis that turns."
        )
    for device in (detector, axis, *flyers):
        check = getattr(device, "check", None)
        if check is not None:
            check(sweep)
    return {
        "plan_name": "rotation_scan",
        "purpose": purpose,
        "detectors": [detector.name],
        "motors": [axis.name],
        "hints": {"dimensions": []},
        "sweep": sweep.to_dict(),
        **_of_detector(detector, sweep),
        "per_frame": _columns(flyers, monitors),
        **(md or {}),
    }


def announce(metadata: Mapping[str, Any]) -> MsgGenerator[None]:
    """Say which run a plan is going to open, so that it can be refused before anything moves.

    The message does nothing; a RunEngine that checks start documents looks at what it carries.
    """
    yield Msg("null", None, would_open=dict(metadata))


def _fly(
    detector: Any,
    axis: Any,
    sweep: Sweep,
    uid: str,
    flyers: Sequence[Any],
    monitors: Sequence[Any],
    shutter: Any,
    purpose: str,
    flush_period: float,
) -> MsgGenerator[None]:
    streams = [(detector, "primary"), *((flyer, flyer.name) for flyer in flyers)]
    devices = (detector, axis, *flyers)
    declared: list[tuple[Any, str]] = []
    watched: list[Any] = []

    def sweeping() -> MsgGenerator[None]:
        yield from bps.stage_all(*devices)
        if hasattr(detector, "file_stem"):
            yield from bps.abs_set(detector.file_stem, uid[:8], wait=True)
        group = short_uid("prepare")
        for device in devices:
            yield from bps.prepare(device, sweep, group=group)
        yield from bps.wait(group)
        for device, name in streams:
            yield from bps.declare_stream(device, name=name, collect=True)
            declared.append((device, name))
        for signal in monitors:
            yield from bps.monitor(signal, name=signal.name)
            watched.append(signal)
        if shutter is not None and purpose != "dark":
            yield from bps.abs_set(shutter, "open", wait=True)
        for flyer in flyers:
            yield from bps.kickoff(flyer, wait=True)
        yield from bps.kickoff(axis, wait=True)
        yield from bps.kickoff(detector, wait=True)
        yield from collect()  # at once: whoever stacks knows now where the frames will be
        _check_begin(detector, axis, sweep)
        group = short_uid("complete")
        yield from bps.complete_all(*devices, group=group, wait=False)
        done = False
        while not done:
            done = yield from bps.wait(group, timeout=flush_period, error_on_timeout=False)
            yield from collect()

    def collect() -> MsgGenerator[None]:
        for device, name in declared:
            yield from bps.collect(device, name=name, return_payload=False)

    def tidy() -> MsgGenerator[None]:
        yield from bps.unstage_all(*reversed(devices))
        if shutter is not None:
            yield from bps.abs_set(shutter, "closed", wait=True)
        yield from collect()
        for signal in watched:
            yield from bps.unmonitor(signal)

    yield from bpp.finalize_wrapper(sweeping(), tidy)


def _check_begin(detector: Any, axis: Any, sweep: Sweep) -> None:
    """Refuse a sweep whose first exposure began far from where its axis passed the start."""
    armed_at = getattr(detector, "armed_at", None)
    passes_at = getattr(axis, "passes_at", None)
    if armed_at is None or passes_at is None:
        return
    late = armed_at - passes_at  # both by this host's clock
    if abs(late) > max(2 * sweep.period, LATE):
        raise DeviceError(
            f"{detector.name} began to expose {late:+.3f} s after {axis.name} passed "
            f"{sweep.start:g}: every angle is off by {late * sweep.speed:+.3f} degree\n"
            "Was this host or the IOC busy? Measure the sweep again; its frames are kept."
        )


def _of_detector(detector: Any, sweep: Sweep) -> dict[str, Any]:
    """Collect what the detector knows about itself and the beam, for the start document."""
    known: dict[str, Any] = {}
    hardware = getattr(detector, "hardware", None)
    if hardware is not None:
        known["detector"] = hardware()
    geometry = getattr(detector, "geometry", None)
    if geometry is not None:
        known["geometry"] = replace(geometry, scan_axis=sweep.axis).to_dict()
        known["wavelength"] = geometry.wavelength
    return known


def _columns(flyers: Sequence[Any], monitors: Sequence[Any]) -> dict[str, dict[str, str]]:
    """Collect which per-frame columns will be filled by which data key."""
    columns: dict[str, dict[str, str]] = {}
    for flyer in flyers:
        columns.update(getattr(flyer, "per_frame", {}))
    for signal in monitors:
        columns[signal.name] = {"key": signal.name}
    return columns


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a list of sweeps will take."""

    sweeps: int
    frames: int
    seconds: float
    bytes: int

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return (
            f"{self.sweeps} sweeps, {self.frames} frames, {hours} h {minutes:02d} min "
            f"{seconds:02d} s, at most {self.bytes / 1e9:.2f} GB of frame files"
        )


def estimate(
    *sweeps: Sweep,
    detector: Any = None,
    axis: Any = None,
    temperatures: Sequence[float] = (),
    settling: float = 0.0,
) -> Estimate:
    """Say what sweeps will take, without moving anything.

    Parameters
    ----------
    sweeps
        What will be measured (at each temperature).
    detector
        If given, the sweeps are checked against it, and bytes are counted.
    axis
        If given, the sweeps are checked against it.
    temperatures
        Of a series; none is one pass at the present temperature.
    settling
        Time for each temperature to be reached and settle, s.

    Examples
    --------
    >>> sweep = Sweep(axis="phi", start=0, step=0.1, n_frames=3650, exposure=0.099, period=0.1)
    >>> print(estimate(sweep, sweep, sweep))
    3 sweeps, 10950 frames, 0 h 18 min 15 s, at most 0.00 GB of frame files
    """
    for device in (detector, axis):
        check = getattr(device, "check", None)
        if check is not None:
            for sweep in sweeps:
                check(sweep)
    passes = max(len(temperatures), 1)
    frames = passes * sum(sweep.n_frames for sweep in sweeps)
    run_ups = 0.0
    if axis is not None and hasattr(axis, "plan_flight"):
        run_ups = sum(axis.plan_flight(sweep).duration - sweep.duration for sweep in sweeps)
    seconds = passes * (sum(sweep.duration for sweep in sweeps) + run_ups)
    seconds += len(temperatures) * settling
    size = detector.frame_bytes() if hasattr(detector, "frame_bytes") else 0
    return Estimate(passes * len(sweeps), frames, seconds, frames * size)
