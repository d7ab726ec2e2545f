"""How far the RunEngine's run and series are, from their documents alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from offbragg.files.run_progress import RunProgress

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Series:
    """A series as its runs describe it, and how long it takes between two of them."""

    uid: str
    durations: list[float]
    """Of its sweeps, in order, s."""
    done: int = 0
    gaps: list[float] = field(default_factory=list)
    """Between the end of a sweep and the start of the next, s."""
    ended: float | None = None

    @classmethod
    def of(cls, start: Mapping[str, Any]) -> _Series | None:
        """Return the series of a run; None if it is in none, or it is not known how many."""
        series = start.get("series") or {}
        parameters = series.get("parameters") or {}
        sweeps = parameters.get("sweeps") or ()
        points = parameters.get("temperatures") or ()
        if not series.get("uid") or not sweeps or not points:
            return None
        one = [int(s["n_frames"]) * float(s["period"]) for s in sweeps]
        return cls(str(series["uid"]), one * len(points))

    def left(self, of_run: float | None) -> float:
        """Return how long it will take from now on, s, given what is left of its open run."""
        rest = self.durations[self.done + (of_run is not None) :]
        gap = sum(self.gaps) / len(self.gaps) if self.gaps else 0.0
        return (of_run or 0.0) + sum(rest) + len(rest) * gap


@dataclass(slots=True)
class _Run:
    """The open run."""

    start: Mapping[str, Any]
    progress: RunProgress
    place: tuple[int, int] = (1, 1)
    """Which sweep of how many at its temperature."""

    @property
    def left(self) -> float:
        """How long its frames will still take, s."""
        period = float((self.start.get("sweep") or {}).get("period") or 0.0)
        return (self.progress.n_frames - self.progress.announced) * period


class EngineState:
    """Follows documents, and returns at any time what the RunEngine measures and how far it is.

    Documents come in the RunEngine's thread, questions from another one. A document costs
    microseconds, and none can fail a run.

    Parameters
    ----------
    wall
        POSIX s.
    """

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._runs: dict[str, _Run] = {}
        self._run_of: dict[str, str] = {}  # stream resource → run
        self._series: _Series | None = None
        self._columns: dict[str, tuple[str, str]] = {}  # data key → column, unit
        self._latest: dict[str, tuple[float, float, str]] = {}  # column → value, time, unit
        self._plan = ""

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take a document."""
        try:
            self._take(name, doc)
        except Exception:  # a subscriber that raises would end the run
            log.debug("a %s document is not understood", name, exc_info=True)

    def _take(self, name: str, doc: Mapping[str, Any]) -> None:
        match name:
            case "event":
                self._read(doc["data"], doc["timestamps"], last=False)
            case "event_page":
                self._read(doc["data"], doc["timestamps"], last=True)
            case "stream_datum":
                run = self._runs.get(self._run_of.get(doc["stream_resource"], ""))
                if run is not None:
                    run.progress.add(name, doc)
            case "stream_resource":
                self._run_of[doc["uid"]] = doc["run_start"]
            case "start":
                self._begin(doc)
            case "stop":
                self._end(doc)
            case _:
                pass

    def _read(self, data: Mapping[str, Any], stamps: Mapping[str, Any], *, last: bool) -> None:
        for key, value in data.items():
            if key in self._columns:
                column, unit = self._columns[key]
                value, stamp = (value[-1], stamps[key][-1]) if last else (value, stamps[key])
                self._latest[column] = float(value), float(stamp), unit

    def _begin(self, start: Mapping[str, Any]) -> None:
        sweep, series = start.get("sweep") or {}, start.get("series") or {}
        run = _Run(start, RunProgress(int(sweep.get("n_frames") or 0)))
        self._plan = str(start.get("plan_name") or "")
        self._columns = {
            str(column["key"]): (name, str(column.get("units") or ""))
            for name, column in (start.get("per_frame") or {}).items()
        }
        if (of := _Series.of(start)) is not None:
            known = self._series
            if known is None or known.uid != of.uid:
                self._series = known = of
            n = len(series["parameters"]["sweeps"])
            i, j = (int(each) for each in series.get("sweep_of") or (0, 0))
            run.place = j + 1, n
            known.done = i * n + j
            if known.ended is not None:
                known.gaps = [*known.gaps, float(start["time"]) - known.ended][-20:]
                known.ended = None
        else:
            self._series = None
        self._runs[start["uid"]] = run

    def _end(self, stop: Mapping[str, Any]) -> None:
        run = self._runs.pop(stop["run_start"], None)
        self._run_of = {key: uid for key, uid in self._run_of.items() if uid in self._runs}
        series = self._series
        if run is None or series is None:
            return
        if (run.start.get("series") or {}).get("uid") == series.uid:
            series.ended = float(stop["time"])
            series.done += stop["exit_status"] == "success"

    def finish(self) -> None:
        """Forget the series: the plan is over."""
        self._series, self._plan = None, ""

    @property
    def plan(self) -> str:
        """Name of the plan whose run came last; empty if none runs."""
        return self._plan

    def run(self) -> dict[str, Any] | None:
        """Return the open run of a sweep, or any other one; None if none is open."""
        runs: Sequence[_Run] = list(self._runs.values())
        if not runs:
            return None
        run = next((run for run in runs if run.start.get("sweep")), runs[-1])
        start = run.start
        sample, temperature = start.get("sample"), start.get("temperature")
        return {
            "uid": start["uid"],
            "scan_id": start.get("scan_id"),
            "sample": sample.get("name") if isinstance(sample, Mapping) else sample,
            "temperature": (temperature or {}).get("setpoint"),
            "purpose": start.get("purpose"),
            "sweep": run.place[0],
            "sweeps": run.place[1],
            "done": run.progress.announced,
            "n": run.progress.n_frames,
            "left": round(run.left, 1),
            "axis": (start.get("sweep") or {}).get("axis"),
            "began": start.get("time"),
        }

    def series(self) -> dict[str, Any] | None:
        """Return how far the series is; None if there is none."""
        series = self._series
        if series is None:
            return None
        run = next(iter(list(self._runs.values())), None)
        left = series.left(None if run is None else run.left)
        return {"uid": series.uid, "done": series.done, "n": len(series.durations),
                "left": round(left, 1)}  # fmt: skip

    def values(self) -> dict[str, dict[str, Any]]:
        """Return the newest value of each per-frame column: ``value``, ``unit``, ``time``."""
        return {
            name: {"value": value, "unit": unit, "time": stamp}
            for name, (value, stamp, unit) in list(self._latest.items())
        }
