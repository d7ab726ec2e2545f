"""What somebody sees of what the beamline is doing: all of it only if the runs in it are theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select

from offbragg.catalog.searched import RUNS, VOLUMES
from offbragg.catalog.viewers import seen_runs, seen_volumes, viewer

OTHERS = "others"
"""State of the RunEngine for those who may not know what it does."""

_HIDDEN: Mapping[str, Any] = {
    "state": OTHERS, "since": None, "age": None, "plan": "", "run": None, "series": None,
    "waits": [], "values": {},
}  # fmt: skip
_FRAMES = ("stored", "behind", "frames_of")
_ALARM = ("what", "severity", "since")


def whose(seen: Mapping[str, Any]) -> tuple[str, str]:
    """Return the run and the series that a look is about; empty texts if it is about none."""
    engine = seen.get("engine") or {}
    run = (engine.get("run") or {}).get("uid") or ""
    is_idle = engine.get("state") in ("idle", "gone")
    series = "" if run or is_idle else (engine.get("series") or {}).get("uid") or ""
    return str(run), str(series)


async def now_seen(engine: Any, seen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what who asks may see of a look at the beamline."""
    who = viewer()
    if who.sees_everything or not seen:
        return dict(seen)
    run, series = whose(seen)
    frames, live = seen.get("frames") or {}, seen.get("live") or {}
    async with engine.connect() as connection:
        theirs = await _are_seen(connection, [run], [series])
        of_frames = await _are_seen(connection, [str(frames.get("run") or "")], [])
        volume = select(func.count()).select_from(VOLUMES).where(
            seen_volumes(), VOLUMES.c.uid == str(live.get("volume") or "")
        )  # fmt: skip
        count = select(func.count()).select_from(RUNS).where(seen_runs())
        of_live, runs = await connection.scalar(volume), await connection.scalar(count)
    answer: dict[str, Any] = {
        "time": seen["time"],
        "beamline": seen["beamline"],
        "engine": seen["engine"] if theirs else dict(_HIDDEN),
        "frames": seen["frames"] if of_frames else None,
        "live": seen["live"] if of_live else {},
        "stacker": seen["stacker"],
        "backlog": {"runs": 0, "frames": frames.get("behind", 0) if of_frames else 0},
        "disks": [], "alarms": [], "host": {},
        "catalog": {"runs": runs},
    }  # fmt: skip
    if who.host:  # how the services are, in words of their own only
        alarms = [{key: each.get(key) for key in _ALARM} for each in seen.get("alarms") or ()]
        named = [{**each, "reason": each["what"]} for each in alarms]
        answer |= {name: seen[name] for name in ("backlog", "disks", "host")} | {"alarms": named}
    return answer


async def points_seen(engine: Any, points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the points of a history that were measured in runs and series of who asks.

    What they have of frames is that of another run, if the stacker is behind.
    """
    if viewer().sees_everything:
        return list(points)
    async with engine.connect() as connection:
        known = {
            of: await _are_seen(connection, [of[0]], [of[1]])
            for of in {each for point in points for each in (_of(point), _of_frames(point))}
        }
    return [
        point if known[_of_frames(point)] else {k: v for k, v in point.items() if k not in _FRAMES}
        for point in points
        if known[_of(point)]
    ]


def _of(point: Mapping[str, Any]) -> tuple[str, str]:
    run, series = point.get("of") or ("", "")
    return run, series


def _of_frames(point: Mapping[str, Any]) -> tuple[str, str]:
    return point.get("frames_of") or "", ""


async def _are_seen(connection: Any, runs: Iterable[str], series: Iterable[str]) -> bool:
    """Return whether there are such runs or series, and who asks sees all of them."""
    asked = [RUNS.c.uid == run for run in runs if run]
    asked += [RUNS.c.series == uid for uid in series if uid]
    for condition in asked:
        rows = select(func.count()).select_from(RUNS).where(condition)
        there = await connection.scalar(rows)
        if not there or there != await connection.scalar(rows.where(seen_runs())):
            return False
    return bool(asked)
