"""Rotation scans: one sweep, one run."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Flyable, Movable, Readable
from bluesky.utils import FailedStatus, MsgGenerator, RunEngineControlException, short_uid

from offbragg.errors import DeviceError, OffbraggError, SweepError
from offbragg.plans.annotations import DEVICE_OR_SWEEP, OPTIONAL_MAPPING, from_json
from offbragg.plans.defaults import with_defaults
from offbragg.plans.start_document import about, names_of, start_of
from offbragg.plans.timing import (
    STREAM,
    AngleCheck,
    Timing,
    TimingReadable,
    is_measured,
    is_read_back,
    timing_of,
)
from offbragg.plans.triggers import gets_stray_pulses
from offbragg.protocols import (
    NamesFrames,
    Pausable,
    meets,
)
from offbragg.sweep import Sweep

log = logging.getLogger(__name__)


_TRIES = 4


_RECONNECTING = 5.0  # s for an IOC that was restarted just now


_PATIENCE = 20.0  # s for instruments to be connected again


FLUSH_PERIOD = 0.15
"""Time between two collections of documents during a sweep, s."""


@from_json(detector=DEVICE_OR_SWEEP, sweep=OPTIONAL_MAPPING)
@with_defaults("detector", "axis", "sweep")
def rotation_scan(
    detector: Flyable | None = None,
    axis: Flyable | None = None,
    sweep: Sweep | Mapping[str, Any] | None = None,
    *,
    md: Mapping[str, Any] | None = None,
    flyers: Sequence[Flyable] = (),
    monitors: Sequence[Readable] = (),
    shutter: Movable | None = None,
    permit: Readable | None = None,
    purpose: str = "data",
    flush_period: float = FLUSH_PERIOD,
) -> MsgGenerator[str]:
    """Record one sweep in one run: ``rotation_scan(sweep)``; returns the run's uid.

    What is not given is what [defaults] of beamline.toml names: detector, flyers, shutter and
    permit; None, or [] for the flyers, is nothing. The axis is the one that the sweep names. Only
    the flyers that the detector needs fly along by default: a position compare if it waits for
    pulses, none with another detector.

    Whatever happens, the axis gets its speed back, the detector is left idle and the shutter
    closed. A pause in the middle stops the sweep; on resuming its run ends as failed, and the sweep
    is begun again in a run of its own.

    The angles of its frames are measured (`offbragg.plans.timing`): a sweep that was far from
    where it should have been fails, and one that was a little off has the angles that were read
    back.

    Parameters
    ----------
    detector
        Anything that prepares, flies and emits frame files (see explanations/plug-points).
    axis
        A rotation axis that can move at constant speed, degrees.
    sweep
        What to measure, or a mapping with its fields. A period shorter than exposure + readout, and
        a trigger that no device would give, are refused before anything moves.
    md
        More for the start document.
    flyers
        Devices that count once per frame and give event pages; each has a stream of its name.
    monitors
        Signals that are recorded whenever they change; each has a stream of its name.
    shutter
        Set to "open" for the sweep and to "closed" after it, if given.
    permit
        Says whether there is beam: ``beam`` is a signal, 1 with and 0 without, that is recorded as
        the stream "permit". A sweep that loses its beam goes on to its end; its dark frames get
        the weight 0.
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
    turn = Sweep.of(sweep or {})
    if turn.step == 0:
        raise SweepError("sweep.step is 0 degree: a rotation turns; for stills there is expose")
    more = about("rotation_scan", md)
    return (
        yield from record(
            detector, axis, turn, md=more, flyers=flyers, monitors=monitors, shutter=shutter,
            permit=permit, purpose=purpose, flush_period=flush_period,
        )
    )  # fmt: skip


def record(
    detector: Flyable | None,
    axis: Flyable | None,
    sweep: Sweep,
    *,
    md: Mapping[str, Any],
    flyers: Sequence[Flyable] = (),
    monitors: Sequence[Any] = (),
    shutter: Movable | None = None,
    permit: Any = None,
    purpose: str = "data",
    flush_period: float = FLUSH_PERIOD,
) -> MsgGenerator[str]:
    """Record frames in one run, turning an axis or, with None, standing still.

    The parameters are those of `rotation_scan`.
    """
    if not isinstance(flush_period, Real) or not 0 < float(flush_period) < math.inf:
        raise SweepError(f"flush_period is {flush_period!r}: it must be above 0 s")
    for what, given in (("flyers", flyers), ("monitors", monitors)):
        if not isinstance(given, Sequence):
            raise SweepError(f"{what} is {names_of(given)}: it must be a list, [{names_of(given)}]")
    _check_role("detector", detector, "prepare")
    _check_role("axis", axis, "prepare")
    for flyer in flyers:
        _check_role("a flyer", flyer, "prepare")
    for signal in monitors:
        _check_role("a monitor", signal, "subscribe")
        if parts := getattr(signal, "component_names", ()):
            raise SweepError(
                f"a monitor is {signal.name}, a whole device: give its signals, one by one\n"
                f"It has {', '.join(f'{signal.name}.{part}' for part in parts)}."
            )
    _check_role("shutter", shutter, "set")
    _check_role("permit", permit, "beam")
    yield from _check_connected(detector, axis, *flyers, shutter, permit)
    metadata = start_of(
        detector, axis, sweep, md=md, flyers=flyers, monitors=monitors, permit=permit,
        purpose=purpose,
    )  # fmt: skip

    watched = [(signal, signal.name) for signal in monitors]
    if permit is not None:
        watched.append((permit.beam, "permit"))
    has_angles = axis is None or "angle" in metadata["per_frame"]

    def once() -> MsgGenerator[str]:
        uid = yield from bps.open_run(metadata)
        try:
            remark = yield from _fly(
                detector, axis, sweep, uid, flyers, watched, shutter, purpose, flush_period
            )
        except OffbraggError as error:
            yield from _close_failed(str(error))
            raise
        except FailedStatus as error:
            cause = error.__cause__
            reason = str(cause) if isinstance(cause, OffbraggError) else str(error)
            yield from _close_failed(reason)
            if isinstance(cause, OffbraggError):
                raise cause from None
            raise
        if not has_angles:
            remark = f"the angles of {sweep.axis} are as commanded, and nothing has checked them"
            log.warning("%s", remark)
        yield from bps.close_run(exit_status="success", reason=remark)
        return uid

    def inner() -> MsgGenerator[str]:
        while True:  # a pause is somebody's wish each time: whoever resumes wants the sweep
            try:
                return (yield from once())
            except (OffbraggError, FailedStatus):
                if not _was_paused(detector, axis):
                    raise
                log.warning("the sweep was paused in its middle: it is begun again, as a new run")

    # half a sweep cannot be repeated by replaying messages
    return (yield from bpp.rewindable_wrapper(inner(), False))


def _close_failed(reason: str) -> MsgGenerator[None]:
    """Close the run of a sweep that failed; what closing meets with must not hide the reason.

    A baseline is read before a run is closed, maybe of the instrument that has gone away. Then the
    RunEngine closes the run with the error that is raised next.
    """
    try:
        yield from bps.close_run(exit_status="fail", reason=reason)
    except RunEngineControlException:
        raise
    except Exception as error:
        log.warning("while the run was closed: %s", error)


def _check_connected(*devices: Any) -> MsgGenerator[None]:
    """Refuse instruments whose IOC is away, after some time to come back.

    Raises
    ------
    DeviceError
        Naming them.
    """
    used = [device for device in devices if device is not None]
    yield from _until_connected(used, time.monotonic() + _RECONNECTING)
    if away := [device for device in used if not getattr(device, "connected", True)]:
        named = ", ".join(
            f"{device.name} ({device.prefix})" if getattr(device, "prefix", "") else device.name
            for device in away
        )
        raise DeviceError(
            f"{named}: not connected, some records do not answer\n"
            "Has an IOC ended? Start it again, and repeat the scan; nothing has moved."
        )


def _check_role(role: str, device: object, verb: str) -> None:
    """Refuse a device that cannot be what it is given as, before anything moves."""
    if device is not None and not hasattr(device, verb):
        raise SweepError(
            f"{role} is {names_of(device)}, which has no {verb!r}\n"
            "Give the device itself, and one that can do that (see explanations/plug-points)."
        )


def _fly(
    detector: Any,
    axis: Any,
    sweep: Sweep,
    uid: str,
    flyers: Sequence[Any],
    monitors: Sequence[tuple[Any, str]],
    shutter: Any,
    purpose: str,
    flush_period: float,
) -> MsgGenerator[str]:
    """Do the sweep in an open run; return what is to be known of its angles."""
    streams = [(detector, "primary"), *((flyer, flyer.name) for flyer in flyers)]
    if is_read_back(detector, axis):
        streams.append((axis, axis.angle_key))
    moving = () if axis is None else (axis,)
    devices = (detector, *moving, *flyers)
    declared: list[tuple[Any, str]] = []
    watched: list[Any] = []

    def sweeping() -> MsgGenerator[str]:
        yield from bps.stage_all(*devices)
        if meets(detector, NamesFrames):
            yield from bps.abs_set(detector.file_stem, uid[:8], wait=True)
        group = short_uid("prepare")
        before = moving if gets_stray_pulses(detector, sweep) else ()
        for device in before:
            yield from bps.prepare(device, sweep, wait=True)
        for device in devices:
            if device not in before:
                yield from bps.prepare(device, sweep, group=group)
        if shutter is not None:
            wanted = "closed" if purpose == "dark" else "open"
            yield from bps.abs_set(shutter, wanted, group=group)
        yield from bps.wait(group)
        for device, name in streams:
            yield from bps.declare_stream(device, name=name, collect=True)
            declared.append((device, name))
        for signal, name in monitors:
            yield from bps.monitor(signal, name=name)
            watched.append(signal)
        for flyer in flyers:
            yield from bps.kickoff(flyer, wait=True)
        for device in moving:
            yield from bps.kickoff(device, wait=True)
        yield from bps.kickoff(detector, wait=True)
        timing = timing_of(detector, axis) if is_measured(detector, axis) else None
        if timing is not None:
            yield from record_timing(timing)
        read_back = is_read_back(detector, axis)
        check = AngleCheck(detector, axis, sweep, timing) if read_back else None
        yield from collect()  # at once: whoever stacks knows now where the frames will be
        group = short_uid("complete")
        yield from bps.complete_all(*devices, group=group, wait=False)
        done = False
        while not done:
            done = yield from bps.wait(group, timeout=flush_period, error_on_timeout=False)
            yield from collect()
            if check is not None:
                check.begin()
        if check is None:
            return ""
        if (again := check.compare_clocks()) is not None:
            yield from record_timing(again)
        return check.end()

    clocks = TimingReadable()

    def record_timing(timing: Timing) -> MsgGenerator[None]:
        clocks.timing = timing
        yield from bps.create(name=STREAM)
        yield from bps.read(clocks)
        yield from bps.save()

    def collect() -> MsgGenerator[None]:
        for device, name in declared:
            yield from bps.collect(device, name=name, return_payload=False)

    def close() -> MsgGenerator[None]:
        if shutter is not None:
            yield from bps.abs_set(shutter, "closed", wait=True)

    def forget() -> MsgGenerator[None]:
        while watched:
            yield from bps.unmonitor(watched.pop())

    tidy: list[tuple[Callable[[], MsgGenerator[Any]], Sequence[Any]]] = [
        (close, () if shutter is None else (shutter,)),
        *((partial(bps.unstage, device, wait=True), (device,)) for device in devices),
        (collect, ()),
        (forget, ()),
    ]
    try:
        remark = yield from sweeping()
    except GeneratorExit:  # the RunEngine halts, without cleaning up
        raise
    except BaseException:
        yield from _each(tidy, because_it_failed=True)
        raise
    yield from _each(tidy)
    return remark


def _each(
    steps: Sequence[tuple[Callable[[], MsgGenerator[Any]], Sequence[Any]]],
    *,
    because_it_failed: bool = False,
) -> MsgGenerator[None]:
    """Take every step, whatever the others meet with.

    A status that fails while no one waits for it (a kickoff that a stop cut short) is thrown into
    whatever message is next: the step that it hits is taken again. So is one that finds an
    instrument away, once it is back: else the shutter stays open. What is done with one
    instrument does not wait for another. A request of the RunEngine to abort or to stop that comes
    meanwhile is obeyed once all steps are taken.

    Parameters
    ----------
    steps
        Plans, each of which can be repeated, and what it uses.
    because_it_failed
        An error is under way already: what goes wrong now is logged only.
    """
    first: Exception | None = None
    request: RunEngineControlException | None = None
    limit = time.monotonic() + _PATIENCE
    for step, devices in steps:
        problem: Exception | None = None
        for _ in range(_TRIES):
            problem = None
            try:
                yield from _until_connected(devices, limit)
                yield from step()
            except RunEngineControlException as error:
                request = error
                continue
            except FailedStatus as error:
                problem = error
                if time.monotonic() < limit or not _away(devices):
                    continue
            except Exception as error:
                problem = error
                yield from bps.sleep(0.2)  # an exception is faster than the event that it is away
                if time.monotonic() < limit and _away(devices):
                    continue
            break
        if problem is not None:
            log.warning("while tidying up: %s", problem.__cause__ or problem)
            first = first or problem
    if request is not None:
        raise request
    if first is not None and not because_it_failed:
        raise first


def _until_connected(devices: Sequence[Any], limit: float) -> MsgGenerator[None]:
    """Wait for instruments that are away, until a time of the monotonic clock."""
    if away := _away(devices):
        log.warning("waiting for %s to be connected again", ", ".join(away))
    while _away(devices) and time.monotonic() < limit:
        yield from bps.sleep(0.2)


def _away(devices: Sequence[Any]) -> list[str]:
    return [device.name for device in devices if not getattr(device, "connected", True)]


def _was_paused(*devices: Any) -> bool:
    """Return whether a pause of the RunEngine ended the sweep."""
    return any(meets(device, Pausable) and device.was_paused for device in devices)
