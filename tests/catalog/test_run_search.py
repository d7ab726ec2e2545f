"""Boards of a series and rows of runs, as they are computed; and a database that is away."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from offbragg.catalog import series_order
from offbragg.catalog.parameters import read_parameters
from offbragg.catalog.readable import Readable
from offbragg.catalog.run_routes import RunRoutes
from offbragg.catalog.run_search import RunSearch, run_row
from offbragg.catalog.search_tables import RUN_COLUMNS
from offbragg.catalog.sent import Refusal
from offbragg.catalog.series_board import series_board
from offbragg.catalog.series_order import SeriesOrder
from offbragg.catalog.series_routes import _of_series
from offbragg.reduction.order_parameter import _solve

PLAN = {
    "temperatures": [90.0, 60.0], "reference": 90.0,
    "sweeps": [{"n_frames": 10}, {"n_frames": 10}],
}  # fmt: skip


def run(number: int, kelvin: float, *, point: int = 0, sweep: int = 0, **more: Any) -> Any:
    found = dict.fromkeys(column.name for column in RUN_COLUMNS) | {
        "uid": f"run-{number}", "scan_id": number, "time": 100.0 * number, "sample": "LSMO",
        "stop_time": 100.0 * number + 90, "temperature": kelvin, "purpose": "data",
        "status": "success", "n_frames": 10, "stored": 10, "missing": 0, "rejected": 0,
        "point": point, "sweep": sweep,
    }  # fmt: skip
    return run_row(found | more)


def volume(key: str, *runs: str, written: float = 1.0, state: str = "finished") -> Any:
    return {"key": key, "runs": list(runs), "written": written, "state": state}


def cells(board: Any) -> dict[float, Any]:
    return {cell["temperature"]: cell for cell in board["cells"]}


def test_a_cell_is_measured_once_all_its_sweeps_are():
    rows = [run(1, 90.0), run(2, 90.0, sweep=1)]

    board = series_board("s", rows, [], PLAN, now=200.0)

    assert board["state"] == "running"
    assert (cells(board)[90.0]["state"], cells(board)[90.0]["expected"]) == ("measuring", 40)
    assert (cells(board)[60.0]["state"], cells(board)[60.0]["completeness"]) == ("planned", 0.0)
    assert board["left"] == 400.0  # four sweeps of 100 s
    rows += [run(3, 90.0, point=2), run(4, 90.0, point=2, sweep=1)]
    rows += [run(5, 60.0, point=1), run(6, 60.0, point=1, sweep=1)]
    ended = series_board("s", rows, [], PLAN, now=700.0)
    assert (ended["state"], ended["left"]) == ("ended", None)
    assert [cell["state"] for cell in ended["cells"]] == ["measured"] * 2


def test_a_series_that_stopped_in_the_middle_has_ended():
    board = series_board("s", [run(1, 90.0)], [], PLAN, now=100_000.0)

    assert (board["state"], board["left"]) == ("ended", None)


@pytest.mark.parametrize(
    ("more", "state", "alarm"),
    [
        ({"status": None, "stored": None, "stop_time": None}, "measuring", None),
        ({"status": "fail", "stored": 4, "missing": 6, "reason": "no beam\nmore"}, "failed",
         "#1: fail: no beam"),
        ({"stored": 0, "missing": 10}, "failed", "#1: 10 frames missing"),
        ({"stored": 9, "rejected": 1}, "measured", "#1: 1 frame rejected"),
    ],
)  # fmt: skip
def test_a_cell_says_what_is_wrong(more: dict[str, Any], state: str, alarm: str | None):
    (cell,) = series_board("s", [run(1, 90.0, **more)], [], {}, now=0.0)["cells"]

    assert cell["state"] == state
    assert alarm in cell["alarms"] if alarm else cell["alarms"] == []


def test_the_volume_of_a_cell_is_of_its_runs_only_and_of_most_of_them():
    rows = [run(1, 90.0), run(2, 90.0, sweep=1), run(3, 60.0)]
    volumes = [
        volume("all", "run-1", "run-2", "run-3", written=9.0), volume("one", "run-1", written=8.0),
        volume("both", "run-1", "run-2"), volume("gone", "run-1", "run-2", state="missing"),
        volume("grows", "run-3", state="growing"),
    ]  # fmt: skip

    found = cells(series_board("s", rows, volumes, {}, now=0.0))

    assert (found[90.0]["volume"], found[90.0]["volume_state"]) == ("both", "finished")
    assert (found[60.0]["volume"], found[60.0]["volume_state"]) == ("grows", "growing")


def test_two_crystals_of_one_name_are_two_rows():
    rows = [run(1, 90.0, label="c1"), run(2, 90.0, label="c2"), run(3, 90.0, sample="other")]

    board = series_board("s", rows, [], {}, now=0.0)

    assert board["samples"] == ["LSMO c1", "LSMO c2", "other"]


def test_a_run_that_has_just_begun_has_no_frame_yet(tmp_path: Path):
    class Empty:
        """A database without runs."""

        dialect = SimpleNamespace(name="sqlite")

        def connect(self) -> Any:
            return self

        async def __aenter__(self) -> Any:
            return self

        async def __aexit__(self, *_: object) -> None:
            return None

        async def execute(self, _: object) -> Any:
            return SimpleNamespace(mappings=lambda: SimpleNamespace(first=lambda: None, all=list))

        async def scalar(self, _: object) -> int:
            return 0

    tree = SimpleNamespace(context=SimpleNamespace(engine=Empty()))
    app: Any = RunRoutes(None, tree, Readable([tmp_path]), lambda uid: uid == "begun-1")  # type: ignore[arg-type]

    with pytest.raises(Refusal, match="Run begun-1 has no frame yet: it has just begun") as begun:
        asyncio.run(app.find("begun-1"))
    with pytest.raises(Refusal, match="None of 0 runs") as unknown:
        asyncio.run(app.find("begun-2"))

    assert (begun.value.status, begun.value.headers) == (404, {"retry-after": "1"})
    assert (unknown.value.status, unknown.value.headers) == (404, {})


def test_a_database_that_does_not_answer_is_no_error_of_the_server(tmp_path: Path):
    def connect() -> Any:
        raise ConnectionRefusedError("nobody listens")

    engine = SimpleNamespace(dialect=SimpleNamespace(name="sqlite"), connect=connect)
    tree = SimpleNamespace(context=SimpleNamespace(engine=engine))
    app: Any = RunRoutes(None, tree, Readable([tmp_path]))  # type: ignore[arg-type]  none follows

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://catalog") as client:
            return await client.get("/runs")

    answer = asyncio.run(ask())

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "database does not answer" in answer.json()["detail"]


@pytest.mark.parametrize(
    "query", ["since=nan", "until=inf", "since=1e400", "since=١٢", "since=1_0"]
)
def test_a_time_that_is_not_one_is_refused(query: str):
    with pytest.raises(Refusal, match="POSIX seconds"):
        RunSearch.parse(query)


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31", "2026-02-30"])
def test_a_day_that_no_clock_has_is_not_found(day: str):
    with pytest.raises(Refusal, match="is not a day"):
        _of_series(f"day-{day}")


def test_no_more_order_parameters_wait_than_can_be_fitted_soon(tmp_path: Path):
    order, go_on = SeriesOrder(None, Readable([tmp_path])), threading.Event()
    order._answer = lambda *_: go_on.wait() and b"{}"  # type: ignore[method-assign]

    async def ask() -> list[Any]:
        board = {"cells": [], "samples": []}
        asked = [asyncio.create_task(order.find(board, {}, (0, 0, n), "")) for n in range(30)]
        await asyncio.sleep(0.1)
        asked[0].cancel()  # the client has gone: the work has not
        await asyncio.sleep(0.1)
        with pytest.raises(Refusal):
            await order.find(board, {}, (1, 0, 0), "")
        go_on.set()
        done = await asyncio.gather(*asked, return_exceptions=True)
        assert await order.find(board, {}, (1, 0, 0), "") == {}
        return done

    done = asyncio.run(ask())

    refused = [each for each in done if isinstance(each, Refusal)]
    assert [each.status for each in refused] == [429] * 10
    assert sum(each == {} for each in done) == 19


def test_a_peak_that_cannot_be_fitted_is_said_not_raised(tmp_path: Path, monkeypatch: Any):
    order: Any = SeriesOrder(None, Readable([tmp_path]))
    monkeypatch.setattr(order, "_box", lambda *_: None)
    monkeypatch.setattr(series_order, "box_around", lambda *_: None)
    box = SimpleNamespace(above=np.ones(8), weight=np.ones(8), extra=np.full(8, np.nan))
    monkeypatch.setattr(series_order, "peak_shape", lambda *_: _solve(box, np.ones((8, 3))))
    cell = {"temperature": 90.0, "sample": "LSMO", "volume": "v", "volume_state": "finished"}

    answer = json.loads(order._made([(cell, SimpleNamespace(identity=(1,)))], (0.5, 0.5, 0.5), ""))

    assert answer["points"] == []
    assert "is not fitted" in answer["why"]


def test_a_value_that_is_too_long_is_refused_and_not_cut():
    assert read_parameters(f"text={'x' * 200}", ("text",), "runs") == {"text": "x" * 200}
    with pytest.raises(Refusal, match="text has 201 characters; 200 are the limit"):
        read_parameters(f"text={'x' * 201}", ("text",), "runs")
