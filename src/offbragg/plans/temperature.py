"""Temperature series: the same sweeps at one settled temperature after the other."""

import logging
import uuid
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, Literal

import bluesky.plan_stubs as bps
from bluesky.protocols import Flyable, Movable, Readable
from bluesky.utils import FailedStatus, InvalidCommand, MsgGenerator

from offbragg.errors import DeviceError, OffbraggError, SweepError
from offbragg.plans.annotations import DEVICE_OR_KELVIN, DEVICE_OR_SWEEPS, SWEEPS, from_json
from offbragg.plans.beam import handles_beam_loss, wait_for_beam
from offbragg.plans.defaults import Defaults, name_of, with_defaults
from offbragg.plans.rotation import FLUSH_PERIOD, rotation_scan
from offbragg.plans.series import PastRun, by_sweep, part, past_runs, remaining
from offbragg.plans.series_parameters import Order, as_sweeps, check_number, in_order, turned
from offbragg.plans.series_steps import (
    choose,
    come_to_rest,
    first_line,
    last_run,
    mend_speed_of,
    noting_runs,
    reach,
    take_test_frames,
)
from offbragg.plans.start_document import about, announce, start_of
from offbragg.plans.watch import FULL_POLICIES, need_room
from offbragg.protocols import (
    ChecksValue,
    NoticesOthers,
    Positioned,
    Settles,
    SizesFrames,
    as_a,
    meets,
)
from offbragg.sweep import Sweep

log = logging.getLogger(__name__)


to_people = logging.getLogger("offbragg.notices")
"""What people at a prompt see; elsewhere it is in the log."""


Policy = Literal["ask", "skip", "stop", "retry"]


FullPolicy = Literal["wait", "ask", "stop"]


_NO_JOURNAL = (
    "this RunEngine has no journal, so nothing is known of what a run has measured\n"
    "Make it with offbragg.beamline.run_engine.make_run_engine, or give permit=None."
)


POLICIES = ("ask", "skip", "stop", "retry")


def _as_it_began(given: Mapping[str, Any], defaults: Defaults) -> MsgGenerator[Mapping[str, Any]]:
    """Find out how a series that is to go on was begun, from the start documents of its runs."""
    resume = given.get("resume")
    if not resume or not isinstance(resume, str):
        return {}
    past = yield from past_runs(series=resume)
    if not past:
        return {}
    last = last_run(past)
    known = last.start["series"].get("parameters")
    if known is None:
        if "temperatures" in given and "sweeps" in given:
            return {}
        raise SweepError(
            f"series {resume} does not say how it is measured: an older offbragg began it\n"
            "Give temperatures and sweeps, too, and all else as it was."
        )
    left = {key: value for key, value in known.items() if key not in given}
    return parameters_from(left, last.start, defaults)


@from_json(detector=DEVICE_OR_KELVIN, axis=DEVICE_OR_SWEEPS, sweeps=SWEEPS)
@with_defaults("detector", "axis", "cryostream", "temperatures", "sweeps", more=_as_it_began)
def temperature_series(
    detector: Flyable | None = None,
    axis: Flyable | None = None,
    cryostream: Movable | None = None,
    temperatures: Sequence[float] | None = None,
    sweeps: Sequence[Sweep | Mapping[str, Any]] | Sweep | Mapping[str, Any] | None = None,
    *,
    order: Order = "given",
    both_ways: bool = False,
    reference: float | None = None,
    resume: str | None = None,
    flyers: Sequence[Flyable] = (),
    monitors: Sequence[Readable] = (),
    shutter: Movable | None = None,
    permit: Readable | None = None,
    on_settle: Policy = "stop",
    on_detector: Policy = "retry",
    on_beam: Policy = "retry",
    on_full: FullPolicy = "wait",
    overlap: float = 1.0,
    attempts: int = 3,
    test_frames: int = 5,
    beam_timeout: float = 86400.0,
    disk_timeout: float = 86400.0,
    purpose: str = "data",
    flush_period: float = FLUSH_PERIOD,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[tuple[str, ...]]:
    """Record every sweep at every temperature, one run each; returns the runs' uids.

    ``temperature_series([300, 200], sweep)``: detector, cryostream, flyers, shutter and permit are
    what [defaults] of beamline.toml names, unless they are given; None is nothing.

    All runs share one ``series`` uid. A temperature is set once and its sweeps begin when it has
    settled; meanwhile the axis goes to where the first one begins. Everything is checked before the
    first temperature is set. What has been measured is read from the journal, so a series can go on
    after anything, also in another process: ``temperature_series(resume="3f2b8c1e")``, which is
    printed at its end.

    Parameters
    ----------
    detector, axis
        As for `rotation_scan`.
    cryostream
        Any sample environment whose ``set`` is done when the sample has settled.
    temperatures
        K.
    sweeps
        What to measure at each: a `Sweep` or a mapping with its fields, or a list of them.
    order
        "given" as they stand, or sorted: "warming", "cooling".
    both_ways
        Turn backwards in every other sweep, from its end to its start: the axis need not go back
        in between.
    reference
        A temperature that is measured again at the end, K: damage, ice and drift show there.
    resume
        Uid of a series (or enough of its beginning) that is to go on: sweeps that it has are not
        measured again, of one that was interrupted the missing angles only. It needs nothing else:
        all is as it was, but for what is given. Temperatures and sweeps must stay the same.
    flyers, monitors, shutter, purpose, flush_period
        As for `rotation_scan`.
    permit
        Says whether there is beam, by ``ok()`` and as the signal ``beam`` (see `rotation_scan`).
        A sweep begins only with beam, and the angles that it lost are measured by runs that
        follow it in the series.
    on_settle, on_detector, on_beam
        What to do when the sample does not settle (or somebody else has changed the set point), a
        run fails, or frames were exposed without beam: "retry" (what is missing, ``attempts``
        times), "skip" (the temperature, the sweep, the dark angles), "stop" (the series ends with
        the reason; it can be resumed), or "ask" at the prompt.
    on_full
        What to do between two sweeps when the next one does not fit on a disk that its frames
        cross: "wait" until there is room, "ask" at the prompt, or "stop".
    overlap
        Angle beside the dark frames that is measured once more, degree.
    attempts
        Number of times in all that a temperature is set, or a failing sweep is tried.
    test_frames
        Number of frames taken before a failed sweep is tried again, with the axis standing and
        the shutter, if given, closed, as a run of purpose "dark" (without a shutter "data") that
        is not one of the series. One that does not come is a failed attempt, too.
    beam_timeout
        How long to wait for beam, s, with the shutter closed and the temperature held.
    disk_timeout
        How long to wait for room on a disk, s.
    md
        More for the start documents.
    """
    planned = as_sweeps(sweeps)
    points = in_order(temperatures, order, reference)
    asked = turned(planned, len(points), both_ways=both_ways)
    _check_policies(on_settle=on_settle, on_detector=on_detector, on_beam=on_beam)
    if on_full not in FULL_POLICIES:
        raise SweepError(f"on_full is {on_full!r}: it must be one of {', '.join(FULL_POLICIES)}")
    check_number("overlap", overlap, "degree")
    check_number("beam_timeout", beam_timeout, "s")
    check_number("disk_timeout", disk_timeout, "s")
    check_number("attempts", attempts, least=1, whole=True)
    check_number("test_frames", test_frames, whole=True)
    if checker := as_a(cryostream, ChecksValue):
        for kelvin in points:
            checker.check_value(kelvin)

    known: dict[tuple[int, int], list[PastRun]] = {}
    series, index = str(uuid.uuid4()), 0
    if resume is not None:
        if not resume or not isinstance(resume, str):
            raise SweepError(
                f"resume is {resume!r}: it must be the uid of the series that is to go on\n"
                "It is series.uid in the start document of each of its runs."
            )
        past = yield from past_runs(series=resume)
        known = by_sweep(past, points, asked, resume)
        series = past[0].start["series"]["uid"]
        index = 1 + last_run(past).start["series"]["index"]
        yield from come_to_rest(detector, axis, planned, past)
        mend_speed_of(axis, past)
    about_detector: dict[str, Any] = {}
    for kelvin, sweeps_there in zip(points, asked, strict=True):
        for sweep in sweeps_there:
            would_be = {
                "temperature": {"setpoint": float(kelvin), "direction": "hold"},
                **about("temperature_series", md),
            }
            announced_run = start_of(
                detector, axis, sweep, md=would_be, flyers=flyers, monitors=monitors,
                permit=permit, purpose=purpose,
            )  # fmt: skip
            about_detector = announced_run.get("detector", {})
            yield from announce(announced_run)
    if sizer := as_a(detector, SizesFrames):
        about_detector = {**about_detector, "frame_bytes": sizer.frame_bytes()}
    log.info(
        "series %s: %d temperatures × %d sweeps, %d runs so far",
        series, len(points), len(planned), index,
    )  # fmt: skip
    parameters = parameters_of(
        detector=name_of(detector), axis=name_of(axis), cryostream=name_of(cryostream),
        temperatures=in_order(temperatures),
        sweeps=[sweep.to_dict() for sweep in planned],
        order=order, both_ways=bool(both_ways),
        reference=None if reference is None else float(reference),
        flyers=[name_of(flyer) for flyer in flyers],
        monitors=[name_of(signal) for signal in monitors],
        shutter=name_of(shutter), permit=name_of(permit),
        on_settle=on_settle, on_detector=on_detector, on_beam=on_beam, on_full=on_full,
        overlap=float(overlap), attempts=int(attempts), test_frames=int(test_frames),
        beam_timeout=float(beam_timeout), disk_timeout=float(disk_timeout),
        purpose=purpose, flush_period=float(flush_period), md=list(md or {}),
    )  # fmt: skip

    uids: list[str] = []
    # without journal, or without need, a run that succeeds has measured all
    asks_journal = permit is not None or resume is not None

    def parts_of(i: int, j: int) -> list[tuple[int, int]]:
        runs = known.get((i, j), [])
        return remaining(asked[i][j], runs, overlap=overlap)

    def measure(i: int, j: int, temperature: Mapping[str, Any]) -> MsgGenerator[None]:
        nonlocal index
        failed = 0
        distrusted = False
        problem: Exception | None = None
        sweep = asked[i][j]
        runs = known.setdefault((i, j), [])
        while parts := parts_of(i, j):
            if runs and runs[-1].uid in uids and _lost_beam(runs[-1]):
                where = _say(sweep, parts)
                what = f"sweep {j + 1} at {points[i]:g} K lost its beam at {where}"
                log.warning(what)
                choice = yield from choose(on_beam, what)
                if choice == "skip":
                    return
                if choice == "stop":
                    raise DeviceError(f"{what}\nResume it: {_how_to_resume(series)}")
            first, end = parts[0]
            yield from bps.checkpoint()
            if changed := _changed_by_others(cryostream):
                raise _OtherTemperatureError(changed)
            yield from need_room(end - first, about_detector, on_full=on_full, timeout=disk_timeout)
            yield from wait_for_beam(permit, shutter=shutter, timeout=beam_timeout)
            more: dict[str, Any] = {
                "temperature": dict(temperature),
                **about("temperature_series", md),
                "series": {
                    "uid": series, "index": index, "kind": "temperature", "sweep_of": [i, j],
                    "parameters": parameters,
                },
            }  # fmt: skip
            if runs:
                more["series"]["follows"] = runs[-1].uid
            opened: list[str] = []
            try:
                if distrusted and test_frames:
                    known_md = {"temperature": dict(temperature), **(md or {})}
                    yield from take_test_frames(
                        detector, axis, sweep, test_frames, shutter, known_md
                    )
                distrusted = False
                turn = rotation_scan(
                    detector, axis, part(sweep, first, end), md=more, flyers=flyers,
                    monitors=monitors, shutter=shutter, permit=permit, purpose=purpose,
                    flush_period=flush_period,
                )  # fmt: skip
                yield from noting_runs(turn, opened.append)
            except (OffbraggError, FailedStatus) as error:
                failed += 1
                distrusted, problem = True, error
                what = f"sweep {j + 1} at {points[i]:g} K failed: {first_line(error)}"
                log.warning(what)
                choice = yield from choose(on_detector, what)
                if choice == "stop" or (choice == "retry" and failed >= attempts):
                    raise
                if choice == "skip":
                    return
            finally:
                index += len(opened)
                uids.extend(opened)
            if changed := _changed_by_others(cryostream):
                log.warning("%s, while sweep %d at %g K was measured", changed, j + 1, points[i])
            if not asks_journal and not failed:
                return
            try:
                for uid in opened:
                    runs.extend((yield from past_runs(run=uid)))
            except InvalidCommand:  # a RunEngine without a journal: what is missing is not known
                raise problem or SweepError(_NO_JOURNAL) from None
            if opened and not (runs and runs[-1].uid == opened[-1]):
                return  # list(plan): no answers

    def all_points() -> MsgGenerator[None]:
        stood = as_a(cryostream, Positioned)
        before: float | None = stood.position if stood else None
        for i, kelvin in enumerate(points):
            todo = [(j, parts) for j in range(len(planned)) if (parts := parts_of(i, j))]
            if not todo:
                continue
            j, parts = todo[0]
            first = part(asked[i][j], *parts[0])
            settled = yield from reach(cryostream, kelvin, on_settle, attempts, axis, first)
            if not settled:
                continue
            temperature: dict[str, Any] = {
                "setpoint": float(kelvin),
                "direction": _direction(before, kelvin),
            }
            settling = as_a(cryostream, Settles)
            if settling and settling.settled:
                temperature["settled"] = dict(settling.settled)
            yield from measure_all(i, temperature, first)
            before = kelvin

    def measure_all(i: int, temperature: dict[str, Any], first: Sweep) -> MsgGenerator[None]:
        """Measure what is missing at a temperature, which has to stay what was asked for."""
        lost = 0
        for j in range(len(planned)):
            while True:
                try:
                    yield from measure(i, j, temperature)
                except _OtherTemperatureError as error:
                    lost += 1
                    log.warning("%s", first_line(error))
                    choice = yield from choose(on_settle, first_line(error))
                    if choice == "skip":
                        return
                    if choice == "stop" or (on_settle == "retry" and lost >= attempts):
                        raise
                    if not (
                        yield from reach(cryostream, points[i], on_settle, attempts, axis, first)
                    ):
                        return
                else:
                    break

    try:
        yield from all_points() if permit is None else handles_beam_loss(all_points())
    finally:
        n_planned = len(points) * len(planned)
        to_people.info("%s", _summary(series, uids, n_planned, resumed=resume is not None))
    return tuple(uids)


class _OtherTemperatureError(DeviceError):
    """Somebody else has changed the set point."""


def _changed_by_others(cryostream: Any) -> str:
    """Return who else has asked for which temperature, or nothing; the device knows."""
    return str(cryostream.changed_by_others()) if meets(cryostream, NoticesOthers) else ""


def _how_to_resume(series: str) -> str:
    return f'RE(temperature_series(resume="{series[:8]}"))'


def _summary(series: str, uids: Sequence[str], n_planned: int, *, resumed: bool) -> str:
    """Return which series it was, and how it goes on, whatever has happened."""
    runs = f"{len(uids)} run{'' if len(uids) == 1 else 's'}"
    if not uids and not resumed:
        return f"series {series}: no sweep was begun, so there is none to resume"
    return (
        f"series {series}: {runs} for {n_planned} sweeps; what is missing is measured by\n"
        f"  {_how_to_resume(series)}"
    )


def parameters_of(**known: object) -> dict[str, Any]:
    """Put down how a series is measured, for the start documents of its runs: plain JSON types.

    Parameters
    ----------
    known
        Parameters of `temperature_series`: devices and signals by name, ``md`` by its keys.
    """
    missing = signature(temperature_series).parameters.keys() - known.keys() - {"resume"}
    assert not missing, missing
    return known


def parameters_from(
    known: Mapping[str, Any], start: Mapping[str, Any], defaults: Defaults
) -> dict[str, Any]:
    """Make parameters of `temperature_series` of what `parameters_of` put down.

    Parameters
    ----------
    known
        What it gave.
    start
        The start document that it is from, which has what ``md`` said.
    defaults
        Where devices are found.

    Raises
    ------
    ConfigError
        If a device is not there any more.
    """

    def find(name: str | None) -> Any:
        return None if name is None else defaults.find(name)

    made = {key: known[key] for key in signature(temperature_series).parameters if key in known}
    for key in made.keys() & {"detector", "axis", "cryostream", "shutter", "permit"}:
        made[key] = find(made[key])
    for key in made.keys() & {"flyers", "monitors"}:
        made[key] = [find(name) for name in made[key]]
    made["md"] = {key: start[key] for key in known.get("md", ()) if key in start}
    return made


def _check_policies(**policies: str) -> None:
    for name, policy in policies.items():
        if policy not in POLICIES:
            raise SweepError(f"{name} is {policy!r}: it must be one of {', '.join(POLICIES)}")


def _lost_beam(run: PastRun) -> bool:
    return bool((run.measured() & run.dark()).any())


def _say(sweep: Sweep, parts: Sequence[tuple[int, int]]) -> str:
    edges = sweep.edges
    return ", ".join(f"{edges[a]:g} to {edges[b]:g}°" for a, b in parts)


def _direction(before: float | None, now: float) -> str:
    if before is None or abs(now - before) < 0.5:
        return "hold"
    return "warming" if now > before else "cooling"
