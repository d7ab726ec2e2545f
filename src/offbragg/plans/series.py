"""What a series has measured so far, derived from the documents of its runs and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from bluesky.utils import Msg, MsgGenerator
from numpy.typing import NDArray

from offbragg.errors import JournalError, SweepError
from offbragg.plans.messages import PAST_RUNS
from offbragg.sweep import Sweep, counted_too_little, exposed_while_off

_SLOWING = 0.5
"""Frames of the last moments before somebody stopped a sweep are not trusted, s."""


def past_runs(
    *, run: str | None = None, series: str | None = None, frames: bool = False
) -> MsgGenerator[list[PastRun]]:
    """Ask the RunEngine what its journal knows of a run, or of all runs of a series.

    Parameters
    ----------
    run
        Uid of a run.
    series
        Uid of a series, or enough of its beginning.
    frames
        Look which frames there are also where the run succeeded.
    """
    answer = yield Msg(PAST_RUNS, None, uid=run, series=series, frames=frames)
    # list(plan) answers every message with None
    return [PastRun(**each) for each in answer or ()]


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run, as its journal tells it.

    Parameters
    ----------
    documents
        ``(name, document)`` in order.
    there
        Of a run that did not succeed: which frames there are, by the ledger of its scan file or,
        while there is none, by the frame files; None of one that did, unless that was asked.
    alive
        Whether a RunEngine is still at it.
    """

    documents: Sequence[tuple[str, Mapping[str, Any]]]
    there: Sequence[bool] | None = None
    alive: bool = False

    @property
    def start(self) -> Mapping[str, Any]:
        """The start document."""
        return self.documents[0][1]

    @property
    def uid(self) -> str:
        """Of the run."""
        return str(self.start["uid"])

    @property
    def sweep(self) -> Sweep:
        """What it was to measure."""
        return Sweep.from_dict(self.start["sweep"])

    @property
    def usual_speed(self) -> float | None:
        """Which speed its axis had before and is to have again, degree/s, if it said so."""
        return self.start.get("motor_speeds", {}).get(self.sweep.axis)

    @property
    def sweep_of(self) -> tuple[int, int]:
        """Which sweep of its series it belongs to: (temperature index, sweep index)."""
        series = self.start["series"]
        if "sweep_of" not in series:
            raise SweepError(
                f"run {self.uid[:8]} does not say which sweep of its series it is (series.sweep_of)"
                "\nIts series was not measured by this temperature_series; begin a new one."
            )
        temperature, sweep = series["sweep_of"]
        return int(temperature), int(sweep)

    def measured(self) -> NDArray[np.bool_]:
        """Return which frames were measured, with or without beam, shape (n_frames,).

        A run that succeeded measured all its frames: a few that may be lost (the detector's
        ``max_missing``) are listed in its scan file and not measured again. Of any other run those
        count that were announced, are there, and have their monitor if the run was to have one.
        What a camera server wrote after its RunEngine had died has no monitor. An axis that failed
        makes every angle doubtful, and one that was stopped the last moments.
        """
        n = self.sweep.n_frames
        name, stop = self.documents[-1]
        if name == "stop" and stop["exit_status"] == "success":
            return np.ones(n, bool)
        announced = max(
            (doc["indices"]["stop"] for name, doc in self.documents if name == "stream_datum"),
            default=0,
        )
        measured = np.arange(n) < announced
        if self.there is not None:
            measured &= np.asarray(self.there, bool)
        for column in self.start.get("per_frame", {}).values():
            if "by" in column:
                counted = np.zeros(n, bool)
                numbers = [int(i) for i in self._values(column["by"]) if 0 <= i < n]
                counted[numbers] = True
                measured &= counted
        if name == "stop" and not self._angles_hold(stop):
            measured[:] = False
        elif name == "stop" and (stop["exit_status"] == "abort" or "was stopped" in _why(stop)):
            last = int(np.max(np.flatnonzero(measured), initial=-1)) + 1
            measured[max(last - math.ceil(_SLOWING / self.sweep.period), 0) :] = False
        return measured

    def _angles_hold(self, stop: Mapping[str, Any]) -> bool:
        """Whether the axis was where it should be: not if the run failed for its sake."""
        return "was stopped" in _why(stop) or not any(
            _why(stop).startswith(f"{motor} ") for motor in self.start.get("motors", ())
        )

    def dark(self) -> NDArray[np.bool_]:
        """Return which frames were exposed without beam, be it for a part of them only.

        The permit says when there was none; where the monitor belongs to it, a frame that counted
        too little had none either, whenever that was noticed.
        """
        n, column = self.sweep.n_frames, self.start.get("per_frame", {}).get("weight")
        dark = np.zeros(n, bool)
        if column is None:
            return dark
        resources = (doc for name, doc in self.documents if name == "stream_resource")
        began = next((doc["parameters"].get("exposure_started") for doc in resources), None)
        if began is not None:
            begin = began + self.sweep.period * np.arange(n)
            end = begin + self.sweep.exposure
            dark |= exposed_while_off(self._samples(column["key"]), begin, end)
        if "monitor" in column:
            monitor = self.start["per_frame"][column["monitor"]]
            counts = np.full(n, np.nan)
            numbers, values = self._values(monitor["by"]), self._values(monitor["key"])
            for number, value in zip(numbers, values, strict=True):
                if 0 <= number < n:
                    counts[int(number)] = value
            dark |= counted_too_little(counts, column["fraction"])
        return dark

    def _values(self, key: str) -> list[Any]:
        return [value for _, value in self._samples(key)]

    def _samples(self, key: str) -> list[tuple[float, Any]]:
        samples: list[tuple[float, Any]] = []
        for name, doc in self.documents:
            if name == "event" and key in doc["data"]:
                samples.append((doc["timestamps"][key], doc["data"][key]))
            elif name == "event_page" and key in doc["data"]:
                samples.extend(zip(doc["timestamps"][key], doc["data"][key], strict=True))
        return samples


def _why(stop: Mapping[str, Any]) -> str:
    return str(stop.get("reason", ""))


def remaining(
    sweep: Sweep, runs: Sequence[PastRun], *, overlap: float = 1.0
) -> list[tuple[int, int]]:
    """Find the frames of a sweep that no run has measured with beam.

    Parameters
    ----------
    sweep
        As planned.
    runs
        Those that belong to it: the sweep itself and what followed it.
    overlap
        Angle on each side of frames without beam that is measured once more, so that the pieces
        can be put on one scale, degree. Angles that were not measured at all have none.

    Returns
    -------
    ranges
        ``(first, end)`` frame numbers of ``sweep``, in order.
    """
    n = sweep.n_frames
    good, lost = np.zeros(n, bool), np.zeros(n, bool)
    for run in runs:
        first = _first_frame(sweep, run)
        here = slice(first, first + run.sweep.n_frames)
        measured, dark = run.measured(), run.dark()
        good[here] |= measured & ~dark
        lost[here] |= measured & dark
    todo = ~good
    margin = math.ceil(round(overlap / abs(sweep.step), 9))
    for number in np.flatnonzero(lost & ~good):
        todo[max(number - margin, 0) : number + margin + 1] = True
    edges = np.flatnonzero(np.diff(np.concatenate([[False], todo, [False]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def part(sweep: Sweep, first: int, end: int) -> Sweep:
    """Return the frames from ``first`` to before ``end`` of a sweep, as a sweep.

    Examples
    --------
    >>> part(Sweep("phi", start=0, step=0.5, n_frames=20, exposure=0.1, period=0.1), 4, 10)
    Sweep(axis='phi', start=2.0, step=0.5, n_frames=6, exposure=0.1, period=0.1)
    """
    return replace(sweep, start=sweep.start + sweep.step * first, n_frames=end - first)


def _first_frame(sweep: Sweep, run: PastRun) -> int:
    """Find with which frame of a planned sweep a run began."""
    done = run.sweep
    first = (done.start - sweep.start) / sweep.step
    near = round(first)
    fits = replace(done, start=sweep.start, n_frames=sweep.n_frames) == sweep
    if not fits or abs(first - near) > 1e-3 or near < 0 or near + done.n_frames > sweep.n_frames:
        raise SweepError(
            f"run {run.uid[:8]} of the series swept {done.axis} {done.start:g} to {done.stop:g} in "
            f"steps of {done.step:g} degree, exposure {done.exposure:g} s: no part of the sweep "
            f"{sweep.axis} {sweep.start:g} to {sweep.stop:g} in steps of {sweep.step:g}, "
            f"exposure {sweep.exposure:g} s\n"
            "Resume a series with the sweeps that it began with, or begin a new one."
        )
    return near


def by_sweep(
    runs: Sequence[PastRun],
    temperatures: Sequence[float],
    sweeps: Sequence[Sequence[Sweep]],
    uid: str,
) -> dict[tuple[int, int], list[PastRun]]:
    """Sort the runs of a series by the sweep that they belong to.

    Parameters
    ----------
    runs
        Of the series.
    temperatures
        As planned, K.
    sweeps
        What is planned at each of them.
    uid
        Of the series.

    Raises
    ------
    JournalError
        If there are none, or one is still being measured.
    SweepError
        If they are not of these temperatures and sweeps.
    """
    if not runs:
        raise JournalError(
            f"series {uid} is not in the journal\n"
            "Its uid is series.uid in the start document of each of its runs; the log has it, too."
        )
    known: dict[tuple[int, int], list[PastRun]] = {}
    for run in sorted(runs, key=lambda run: run.start["series"]["index"]):
        if run.alive:
            raise JournalError(
                f"series {uid} is still being measured: run {run.uid[:8]} is open\n"
                "Another RunEngine holds its journal. Wait for it, or end it."
            )
        i, j = run.sweep_of
        setpoint = run.start.get("temperature", {}).get("setpoint")
        wanted = temperatures[i] if i < len(temperatures) else None
        if setpoint is None or wanted is None or abs(setpoint - wanted) > 1e-6:
            raise SweepError(
                f"run {run.uid[:8]} of the series was at {setpoint} K, its temperature number "
                f"{i + 1}; asked for is {wanted} K\n"
                "Resume a series with the temperatures, order and reference it began with."
            )
        if j >= len(sweeps[i]):
            raise SweepError(
                f"run {run.uid[:8]} is sweep number {j + 1} of the series; {len(sweeps[i])} are "
                "asked for\nResume a series with the sweeps that it began with."
            )
        _first_frame(sweeps[i][j], run)
        known.setdefault((i, j), []).append(run)
    return known
