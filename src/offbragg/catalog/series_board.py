"""The phase diagram of a series: what is measured, planned and wrong at each temperature."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from offbragg.catalog.containers import DAMAGED, MISSING
from offbragg.catalog.run_search import RUNNING

_PAUSE = 2 * 3600.0  # s without a run, after which an unfinished series counts as ended
_STATUSES = ("stored", "missing", "rejected", "pending")


def series_board(
    uid: str,
    rows: Sequence[Mapping[str, Any]],
    volumes: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    *,
    now: float | None = None,
) -> dict[str, Any]:
    """Return the cells of a series.

    Parameters
    ----------
    uid
        Of the series, or of a day.
    rows
        Its runs, as ``/runs`` lists them, oldest first.
    volumes
        Its volumes, as ``/volumes`` lists them, newest first.
    parameters
        Of the series, as in the start documents of its runs; empty if unknown.
    now
        The time, POSIX s.
    """
    now = time.time() if now is None else now
    plan = _Plan(parameters)
    crystals = _crystals(rows)
    data = [
        row for row in rows if row["temperature"] is not None and row["purpose"] in ("data", None)
    ]
    cells: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for row in data:
        cells.setdefault((crystals[row["uid"]], row["temperature"]), []).append(row)
    samples = list(dict.fromkeys(sample for sample, _ in cells) or dict.fromkeys(crystals.values()))
    state = _state(rows, plan, now)
    for sample in samples[-1:]:  # what is planned is planned for the crystal that is mounted
        for kelvin in plan.visits:
            if not any(abs(kelvin - t) < 1e-6 for s, t in cells if s == sample):
                cells[sample, kelvin] = []
    made = [
        _cell(sample, kelvin, runs, volumes, plan)
        for (sample, kelvin), runs in sorted(cells.items(), key=lambda each: each[0][1])
    ]
    return {
        "uid": uid,
        "state": state,
        "time": rows[0]["time"] if rows else None,
        "samples": samples,
        "temperatures": sorted({cell["temperature"] for cell in made}),
        "left": _left(data, plan, now) if state == RUNNING else None,
        "cells": sorted(made, key=lambda cell: samples.index(cell["sample"])),
    }


class _Plan:
    """What a series was to measure."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        given = parameters.get("temperatures")
        points = [*given, parameters.get("reference")] if isinstance(given, list) else []
        self.visits = Counter(float(kelvin) for kelvin in points if _is_number(kelvin))
        sweeps = parameters.get("sweeps")
        frames = [
            n
            for each in (sweeps if isinstance(sweeps, list) else [])
            if isinstance(each, Mapping) and isinstance(n := each.get("n_frames"), int)
        ]
        self.frames = sum(frames)
        self.sweeps = len(frames) * self.visits.total()

    def expected(self, kelvin: float) -> int:
        """Return the number of frames that are planned at a temperature; 0 if unknown."""
        return self.frames * self.visits[kelvin]

    def left(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Return how many sweeps are not measured yet."""
        done = {(row["point"], row["sweep"]) for row in rows if row["exit_status"] == "success"}
        return max(self.sweeps - len(done), 0)


def _crystals(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the name of each run's crystal: of the sample, with its label if there are two."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row["sample"] or "", set()).add(row["label"] or "")
    return {
        row["uid"]: f"{name} {row['label']}" if len(labels[name]) > 1 and row["label"] else name
        for row in rows
        for name in [row["sample"] or ""]
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(
    sample: str,
    kelvin: float,
    runs: Sequence[Mapping[str, Any]],
    volumes: Sequence[Mapping[str, Any]],
    plan: _Plan,
) -> dict[str, Any]:
    frames = {name: sum(row["frames"][name] for row in runs if row["frames"]) for name in _STATUSES}
    expected = plan.expected(kelvin) or sum(row["n_frames"] or 0 for row in runs)
    uids = [row["uid"] for row in runs]
    volume = _best(uids, volumes)
    return {
        "sample": sample,
        "temperature": kelvin,
        "state": _cell_state(runs, frames, expected),
        "runs": uids,
        "frames": frames,
        "expected": expected,
        "completeness": min(frames["stored"] / expected, 1.0) if expected else 0.0,
        "alarms": _alarms(runs),
        "volume": None if volume is None else volume["key"],
        "volume_state": None if volume is None else volume["state"],
        "lattice": None if volume is None else volume.get("lattice"),
    }


def _cell_state(runs: Sequence[Mapping[str, Any]], frames: Mapping[str, int], expected: int) -> str:
    if not runs:
        return "planned"
    if any(row["exit_status"] == RUNNING for row in runs):
        return "measuring"
    ended_well = runs[-1]["exit_status"] == "success"
    whole = frames["stored"] >= expected > 0
    # a run that was to have no frames, and ended well, has all that it was to have
    if not whole and not (ended_well and (frames["stored"] or not expected)):
        return "failed"
    decided = frames["stored"] + frames["missing"] + frames["rejected"]
    return "measured" if decided >= expected else "measuring"


def _best(uids: Sequence[str], volumes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the volume of a cell: of its runs only, of most of them, and the newest of these."""
    mine = set(uids)
    found = [
        each
        for each in volumes
        if each["runs"]
        and mine.issuperset(each["runs"])
        and each["state"] not in (MISSING, DAMAGED)
    ]
    return max(found, key=lambda each: (len(each["runs"]), each["written"] or 0.0), default=None)


def _alarms(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Describe what is wrong with the runs of a cell."""
    lines: list[str] = []
    for row in runs:
        number = "" if row["scan_id"] is None else f"#{row['scan_id']}: "
        frames = row["frames"] or {}
        lines += [
            f"{number}{frames[name]} frame{'s' if frames[name] > 1 else ''} {name}"
            for name in ("missing", "rejected")
            if frames.get(name)
        ]
        if row["exit_status"] not in (RUNNING, "success"):
            reason = row["reason"].partition("\n")[0]
            lines.append(f"{number}{row['exit_status']}" + (f": {reason}" if reason else ""))
    return lines


def _state(rows: Sequence[Mapping[str, Any]], plan: _Plan, now: float) -> str:
    """Return whether a series is being measured, or waits for its next sweep."""
    if any(row["exit_status"] == RUNNING for row in rows):
        return RUNNING
    latest = max((row["stop_time"] or row["time"] for row in rows), default=0.0)
    return RUNNING if plan.left(rows) and now - latest < _PAUSE else "ended"


def _left(rows: Sequence[Mapping[str, Any]], plan: _Plan, now: float) -> float | None:
    """Return how long the rest of a series takes, s, as its sweeps took until now."""
    times = [row["time"] for row in rows]
    if not plan.sweeps or not times:
        return None
    ended = [row for row in rows if row["stop_time"] is not None]
    steps = [b - a for a, b in itertools.pairwise(times)]
    steps = steps or [row["stop_time"] - row["time"] for row in ended]
    if not steps:
        return None
    gone = now - times[-1] if rows[-1]["stop_time"] is None else 0.0
    return max(plan.left(rows) * median(steps) - gone, 0.0)
