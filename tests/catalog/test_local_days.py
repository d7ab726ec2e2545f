"""Days of runs across a change to summer time."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy.dialects import sqlite

from offbragg.catalog import local_days
from offbragg.catalog.local_days import changes_of_clock, offset_at
from offbragg.catalog.series_routes import day_of_runs

ZONE = ZoneInfo("America/Chicago")


@pytest.fixture
def chicago(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as other:
        other.setenv("TZ", ZONE.key)
        time.tzset()
        local_days._changes.cache_clear()
        yield
    time.tzset()
    local_days._changes.cache_clear()


def test_changes_are_those_of_the_zone(chicago: None):
    changes = changes_of_clock()

    assert len(changes) > 90
    assert changes[-1] == (0.0, -6 * 3600.0)
    for since, ahead in changes[:-1]:
        before, after = (datetime.fromtimestamp(t, ZONE).utcoffset() for t in (since - 1, since))
        assert after == timedelta(seconds=ahead) != before
    assert offset_at(1.75e9) == next(ahead for since, ahead in changes if since <= 1.75e9)


def test_an_evening_of_summer_and_of_winter_belongs_to_its_own_day(chicago: None):
    evenings = [datetime(2026, month, 20, 23, 30, tzinfo=ZONE) for month in (1, 7, 11)]
    mornings = [evening + timedelta(hours=1) for evening in evenings]
    times = [each.timestamp() for each in (*evenings, *mornings)]
    day = day_of_runs().compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})

    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE offbragg_runs (time REAL)")
        database.executemany("INSERT INTO offbragg_runs VALUES (?)", [(t,) for t in times])
        days = [row[0] for row in database.execute(f"SELECT {day} FROM offbragg_runs")]
    database.close()

    assert days[3:] == [n + 1 for n in days[:3]]
    assert [n - days[0] for n in days[:3]] == [0, 181, 304]
