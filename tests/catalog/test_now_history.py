"""The history of /now outlives the server, whatever happens to its file."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import create_async_engine

from offbragg.catalog import now_history
from offbragg.catalog.now_history import NowHistory
from offbragg.catalog.now_seen import points_seen
from offbragg.catalog.searched import RUNS
from offbragg.catalog.viewers import Viewer, seen_by


def times(history: NowHistory) -> list[float]:
    return [point["t"] for point in history.since(0.0)]


def test_a_server_that_starts_again_has_the_last_hour(tmp_path: Path):
    path, now = tmp_path / now_history.FILE, time.time()
    first = NowHistory(path)
    for ago in (4000.0, 30.0, 20.0, 19.5, 10.0):
        first.add(
            {"t": now - ago, "temperature": 90.0, "window": [89.8, 90.2], "set": None}, step=1
        )

    again = NowHistory(path)

    assert times(first) == [now - ago for ago in (4000.0, 30.0, 20.0, 10.0)]
    assert times(again) == [now - ago for ago in (30.0, 20.0, 10.0)]
    assert again.since(now - 15)[0]["window"] == [89.8, 90.2]
    assert path.stat().st_mode & 0o077 == 0


def test_what_is_torn_or_is_no_point_is_passed_by(tmp_path: Path):
    path, now = tmp_path / now_history.FILE, time.time()
    good = [json.dumps({"t": now - 10.0 + i, "stored": i}) for i in range(3)]
    bad = ['{"t": NaN}', '{"t": "x"}', "[]", '{"t": 1e300}', '{"t": [1]}', "\0", "[" * 5000,
           json.dumps({"t": now, "temperature": "hot"})]  # fmt: skip
    path.write_text("\n".join([good[0], *bad, good[1], good[2][:-9]]))

    history = NowHistory(path)

    assert [point["stored"] for point in history.since(0.0)] == [0, 1]
    assert path.read_text().count("\n") == 2


def test_a_clock_that_was_set_back_is_followed(tmp_path: Path):
    path, now = tmp_path / now_history.FILE, time.time()
    history = NowHistory(path)
    for ago in (9.0, 8.0, 7.0, 8.5, 6.0):
        history.add({"t": now - ago}, step=0.9)

    assert times(history) == [now - 9.0, now - 8.5, now - 6.0]
    assert times(NowHistory(path)) == times(history)


def test_the_file_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(now_history, "POINTS", 10)
    path, now = tmp_path / now_history.FILE, time.time() - 1000.0
    history = NowHistory(path)
    lines: list[int] = []
    for i in range(95):
        history.add({"t": now + i}, step=0.9)
        lines.append(path.read_text().count("\n"))

    assert max(lines) <= 20
    assert times(NowHistory(path)) == times(history)[-10:]


def test_a_reader_takes_it_and_leaves_it(tmp_path: Path):
    path, now = tmp_path / now_history.FILE, time.time()
    NowHistory(path).add({"t": now - 5.0}, step=1)
    before = path.read_bytes()
    reader = NowHistory(path, writes=False)
    reader.add({"t": now}, step=1)

    assert times(reader) == [now - 5.0, now]
    assert path.read_bytes() == before


def test_a_disk_that_takes_nothing_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    history = NowHistory(tmp_path / "absent" / now_history.FILE)
    for i in range(3):
        history.add({"t": time.time() + i}, step=0.9)

    assert len(history.since(0.0)) == 3
    assert len(caplog.records) == 1


def test_whose_frames_a_point_counts_is_kept_too(tmp_path):
    path, now = tmp_path / now_history.FILE, time.time()
    point = {"t": now - 5.0, "of": ["a", ""], "stored": 4, "behind": 1, "frames_of": "b"}
    NowHistory(path).add(point, step=1)
    NowHistory(path).add({"t": now - 3.0, "of": ["a", ""], "stored": 4}, step=1)

    assert NowHistory(path).since(0) == [point, {"t": now - 3.0, "of": ["a", ""], "stored": 4,
                                                 "frames_of": ""}]  # fmt: skip


def test_frames_of_another_run_are_counted_for_those_who_see_it(tmp_path):
    """The stacker is behind: it still stores the run before, of another proposal."""
    point = {"t": 1.0, "of": ["a", ""], "ring": 9.0, "stored": 4, "behind": 1, "frames_of": "b"}
    mine = {**point, "frames_of": "a"}

    async def seen() -> list[Mapping[str, Any]]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'runs.db'}")
        async with engine.begin() as connection:
            names = ", ".join(column.name for column in RUNS.c)
            await connection.execute(text(f"CREATE TABLE {RUNS.name} ({names})"))
            rows = [{"uid": "a", "proposal": "A"}, {"uid": "b", "proposal": "B"}]
            await connection.execute(insert(RUNS), rows)
        with seen_by(Viewer("ada", frozenset({"A"}))):
            found = await points_seen(engine, [point, mine])
        await engine.dispose()
        return found

    assert asyncio.run(seen()) == [{"t": 1.0, "of": ["a", ""], "ring": 9.0}, mine]
