"""Steps of a series: reach a temperature, test the detector, come to rest."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.preprocessors import plan_mutator
from bluesky.protocols import Flyable, Movable
from bluesky.utils import FailedStatus, Msg, MsgGenerator, short_uid

from offbragg.errors import DeviceError, OffbraggError
from offbragg.plans.expose import dark, expose
from offbragg.plans.series import PastRun, past_runs
from offbragg.protocols import (
    ChecksSweep,
    KeepsSpeed,
    Positioned,
    Recovers,
    RunsUp,
    meets,
)
from offbragg.sweep import Sweep

log = logging.getLogger(__name__)


_LAST_FRAMES = 5.0
"""How long a detector may take to end once its axis stands, s."""


def reach(
    cryostream: Any, kelvin: float, policy: str, attempts: int, axis: Any, first: Sweep
) -> MsgGenerator[bool]:
    """Set a temperature and wait until it has settled; False to skip it.

    Meanwhile the axis goes to where its first sweep there begins.
    """
    goes_back = meets(axis, RunsUp) and hasattr(axis, "set")
    attempt = 0
    while True:
        yield from bps.checkpoint()
        try:
            back = short_uid("back")
            if goes_back:
                yield from bps.abs_set(axis, axis.run_up(first), group=back)
            yield from bps.abs_set(cryostream, kelvin, wait=True)
            yield from bps.wait(back)
        except FailedStatus as error:
            cause = error.__cause__
            if not isinstance(cause, OffbraggError):
                raise
            attempt += 1
            what = f"{kelvin:g} K is not settled: {first_line(cause)}"
            log.warning(what)
            choice = yield from choose(policy, what)
            if choice == "skip":
                return False
            if choice == "stop" or (policy == "retry" and attempt >= attempts):
                raise cause from None
        else:
            return True


def take_test_frames(
    detector: Any,
    axis: Flyable | None,
    sweep: Sweep,
    n_frames: int,
    shutter: Movable | None,
    md: Mapping[str, Any],
) -> MsgGenerator[None]:
    """See whether the detector takes frames again, before a sweep is tried with it."""
    where = axis if meets(axis, Positioned) else None
    # without a shutter they have beam: that is not a dark frame
    take = expose if shutter is None else partial(dark, shutter=shutter)
    alone: dict[str, Any] = {"flyers": (), "shutter": None} if shutter is None else {}
    uid = yield from take(
        detector, n_frames, sweep.exposure, period=sweep.period, axis=where, monitors=(), **alone,
        md={"plan_name": "temperature_series", **md},
    )  # fmt: skip
    for run in (yield from past_runs(run=uid, frames=True)):
        lost = [number for number, there in enumerate(run.there or ()) if not there]
        if lost:
            raise DeviceError(
                f"{detector.name} took {n_frames - len(lost)} of {n_frames} test frames: "
                f"{', '.join(map(str, lost))} did not come"
            )


def noting_runs(plan: MsgGenerator[Any], note: Callable[[str], None]) -> MsgGenerator[Any]:
    """Run a plan, and note the uid of each run when it is opened: it is known also if it fails."""

    def opening(msg: Msg) -> MsgGenerator[str]:
        uid = yield msg
        note(uid)
        return uid

    return plan_mutator(plan, lambda m: (opening(m) if m.command == "open_run" else None, None))


def choose(policy: str, what: str) -> MsgGenerator[str]:
    """Return what is to be done: the policy, or what a person answers."""
    if policy != "ask":
        return policy
    while True:
        answer = yield from bps.input_plan(f"{what}\nretry, skip or stop? ")
        answer = str(answer or "stop").strip().lower()
        if answer in ("retry", "skip", "stop"):
            return answer


def come_to_rest(
    detector: Any,
    axis: Any,
    sweeps: Sequence[Sweep],
    past: Sequence[PastRun],
    timeout: float = 60.0,
) -> MsgGenerator[None]:
    """Wait until nothing moves: the RunEngine that was killed stopped neither axis nor detector.

    A detector that it left waiting for pulses would wait on: that one is stopped.
    """
    last = last_run(past).start
    waits = last.get("detector", {}).get("trigger", "internal") != "internal"
    recover = detector.recover if waits and meets(detector, Recovers) else None
    deadline = time.monotonic() + timeout
    stands_since: float | None = None
    while True:
        try:
            _check((axis,), sweeps)
            stands_since = stands_since or time.monotonic()
            _check((detector,), sweeps)
            return
        except DeviceError:
            now = time.monotonic()
            if now > deadline:
                raise
            if recover is not None and stands_since and now - stands_since > _LAST_FRAMES:
                log.warning("%s was left armed; it is stopped", detector.name)
                yield from bps.wait_for([partial(asyncio.to_thread, recover)])
                recover = None
        yield from bps.sleep(0.5)


def last_run(past: Sequence[PastRun]) -> PastRun:
    """Return the run of a series that was measured last."""
    return max(past, key=lambda run: run.start["series"]["index"])


def mend_speed_of(axis: Any, past: Sequence[PastRun]) -> None:
    """Restore the speed of the axis that a RunEngine which was killed did not."""
    last = last_run(past)
    if last.usual_speed is None or not meets(axis, KeepsSpeed) or last.sweep.axis != axis.name:
        return
    axis.mend_speed(last.usual_speed, left=last.sweep.speed)


def _check(devices: Sequence[Any], sweeps: Sequence[Sweep]) -> None:
    for device in devices:
        if meets(device, ChecksSweep):
            for sweep in sweeps:
                device.check(sweep)


def first_line(error: BaseException) -> str:
    """Return the first line of an error, or of what caused it."""
    return str(error.__cause__ or error).partition("\n")[0]
