"""Runs over HTTP: listed, searched, opened, while they are measured and after; Tiled's own ways."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import databroker
import httpx
import numpy as np
import pytest
from catalog.served import Documents, PublishedRun, Server
from runs import wait_until
from tiled.queries import Comparison, FullText, In, Key, Like

from offbragg.catalog.volumes import publish_volume
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.sample import Sample
from offbragg.volume import Volume


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Apikey {server.key}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def mine(server: Server, cat: Any, whole: PublishedRun) -> list[str]:
    """Uids of four runs without frames, a day apart, which no other test has made."""
    del whole  # it is there first
    made = [
        Documents(
            cat, server.root / f"mine-{i}", time=1e9 + 86400.0 * i, scan_id=9 + 2 * i,
            sample={"name": f"mine-{i % 2}", "label": "c"}, purpose="calibration",
            temperature={"setpoint": 100.0 + 10.0 * i}, plan_name="count", note=f"walrus{i} mine",
        ).stream({"x": [1.0, 2.0], "y": [3, 4]}).stop()
        for i in range(4)
    ]  # fmt: skip
    for one in made:
        one.publish()
        one.journal.close()
    return [one.uid for one in made]


def uids(http: httpx.Client, query: str) -> list[str]:
    return [row["uid"] for row in http.get(f"/runs?{query}").raise_for_status().json()["runs"]]


def test_runs_are_listed_newest_first_page_by_page(http, mine):
    first = http.get("/runs?purpose=calibration&limit=3").json()
    rest = http.get(f"/runs?purpose=calibration&limit=3&before={first['runs'][-1]['uid']}").json()

    assert [row["uid"] for row in first["runs"] + rest["runs"]] == mine[::-1]
    assert (first["total"], first["more"], rest["more"]) == (4, True, False)
    assert uids(http, "text=walrus2") == [mine[2]]
    assert uids(http, "sample=mine-*&temperature=105:125") == [mine[2], mine[1]]
    assert uids(http, f"since={1e9 + 1}&until={1e9 + 100000}&purpose=calibration") == [mine[1]]
    assert uids(http, "scan_id=13") == [mine[2]]


def test_what_is_wrong_with_a_question_is_answered(http, mine):
    for query, what in (
        ("sampel=x", "did you mean 'sample'"), ("limit=501", "from 1 to 500"),
        ("temperature=cold", "cold"), ("since=noon", "2026-11-29"), ("text=%2A", "0 words"),
        ("scan_id=a", "finite number"), ("sample=a&sample=b", "twice"), ("before=x", "before"),
    ):  # fmt: skip
        refused = http.get(f"/runs?{query}")
        assert (refused.status_code, what in refused.json()["detail"]) == (400, True), query
    assert http.post("/runs").status_code == 405
    assert http.get("/runs/no-such-run").status_code == 404
    assert http.get("/runs", headers={"Authorization": "Apikey no"}).status_code == 401


def test_an_answer_that_a_client_has_is_not_sent_again(http, mine):
    answer = http.get("/runs?purpose=calibration")
    again = http.get("/runs?purpose=calibration", headers={"If-None-Match": answer.headers["etag"]})

    assert answer.headers["content-encoding"] == "gzip"
    assert (again.status_code, again.content) == (304, b"")


def test_a_run_is_found_by_its_uid_the_beginning_of_it_and_its_number(http, whole, mine):
    one = http.get(f"/runs/{whole.uid}").json()

    assert http.get(f"/runs/{whole.uid[:7]}").json() == one
    assert http.get("/runs/15").json()["row"]["uid"] == mine[3]
    assert one["row"]["frames"] == {"stored": 8, "missing": 1, "rejected": 1, "pending": 0}
    assert one["row"]["what"].endswith("8 of 10 frames, 1 missing, 1 rejected")
    assert one["start"]["uid"] == one["stop"]["run_start"] == whole.uid
    assert one["geometry"] == whole.start["geometry"]
    assert {"primary", "summary"} <= set(one["streams"])
    assert one["volumes"] == []
    (file,) = one["files"]
    assert (file["name"], file["whole"]) == (whole.scan.path.name, True)
    assert len(http.get(file["address"]).content) == file["size"]


def test_a_run_that_was_just_opened_is_there_and_grows(http, make_run, cat):
    one = make_run(temperature=77.0)
    one.begin()
    one.open()
    one.feed()

    opened = http.get(f"/runs/{one.uid}").json()
    assert (opened["row"]["exit_status"], opened["stop"]) == ("running", None)
    assert opened["row"]["frames"]["pending"] == 10
    one.create_scan_file()
    one.store(0, 1, 2)
    one.announce(3)
    one.feed()
    wait_until(lambda: _frames(http, one.uid)["stored"] == 3, 10.0, "three frames to be counted")
    assert _frames(http, one.uid)["pending"] == 7
    assert uids(http, "status=running&temperature=77") == [one.uid]

    one.store(*range(3, 10))
    one.announce(10)
    one.finish("abort")
    assert one.feed()
    (row,) = http.get("/runs?temperature=77").json()["runs"]
    assert (row["exit_status"], row["complete"]) == ("abort", True)
    cat.delete_contents(one.uid, recursive=True, external_only=False)
    assert uids(http, "temperature=77") == []
    one.open()
    assert one.feed()
    assert uids(http, "temperature=77") == [one.uid]


def _frames(http: httpx.Client, uid: str) -> dict[str, int]:
    return http.get(f"/runs/{uid}").json()["row"]["frames"]


def test_searches_of_tiled_find_what_is_in_the_documents(cat, mine):
    starts = {
        uid: run.metadata["start"] for uid, run in cat.items() if "start" in run.metadata
    }  # what else lies beside the runs of other files

    def found(*queries: Any) -> list[str]:
        runs = cat
        for query in queries:
            runs = runs.search(query)
        assert len(runs) == len(list(runs))
        return list(runs)

    def those(condition: Any) -> list[str]:
        return [uid for uid, start in starts.items() if condition(start)]

    def kelvin(start: Any) -> float:
        return (start.get("temperature") or {}).get("setpoint", -1.0)

    name = "start.sample.name"
    assert found(Key(name) == "mine-1") == [mine[1], mine[3]]
    assert found(Key("start.scan_id") == 13, Key("start.purpose") == "calibration") == [mine[2]]
    assert found(Key("start.scan_id") == 13.0) == those(lambda start: start["scan_id"] == 13)
    ends = [Comparison("ge", "start.temperature.setpoint", 100.0),
            Comparison("lt", "start.temperature.setpoint", 125)]  # fmt: skip
    assert found(*ends) == those(lambda start: 100.0 <= kelvin(start) < 125)
    assert found(In(name, ["mine-0", "mine-1"])) == mine
    assert found(Like("start.uid", f"{mine[0][:8]}%")) == [mine[0]]
    assert found(FullText("walrus3")) == [mine[3]]
    assert found(Key("start.scan_id") == "13") == []
    assert found(Key("start.note") == "walrus0 mine") == [mine[0]]  # in no table
    assert cat[15].metadata["start"]["uid"] == mine[3]
    assert cat[mine[1][:8]].metadata["start"]["uid"] == mine[1]
    numbers = [starts[uid]["scan_id"] for uid in list(cat.search(Key(name) == "mine-0"))]
    ordered = cat.search(FullText("mine")).sort(("start.scan_id", -1))
    assert [starts[uid]["scan_id"] for uid in ordered] == [15, 13, 11, 9]
    assert numbers == [9, 13]


def test_the_ways_of_databroker_go_on_working(cat, mine, whole):
    v1 = cat.v1
    newest = list(cat)[-1]

    assert v1[-1].start["uid"] == newest
    (header,) = v1(**{"sample.name": "mine-1", "scan_id": 15})
    assert header.start["uid"] == mine[3]
    table = header.table()
    assert list(table["x"]) == [1.0, 2.0]
    assert list(table["y"]) == [3, 4]
    assert isinstance(v1, databroker.Broker)
    assert {name for name, _ in header.documents()} >= {"start", "descriptor", "stop"}
    frames = v1[whole.uid].table()
    assert len(frames) == 10
    np.testing.assert_allclose(frames["monitor"].iloc[0], 1000.0)
    assert v1[mine[0]].stop["exit_status"] == "success"


# -- series and volumes ---------------------------------------------------------------------------

AT = (0.5, 0.5, 0.5)
TC, BETA = 150.0, 0.33


def volume_at(kelvin: float) -> Volume:
    """Return a superlattice peak that vanishes at Tc, on a smooth background."""
    grid = Grid((6, 6, 6), (9, 9, 9), (20, 20, 20))
    axes = np.stack(np.meshgrid(*(grid.axis(i) for i in range(3)), indexing="ij"), -1)
    squared = ((axes - np.array(AT)) ** 2).sum(-1)
    height = 4000.0 * max(1.0 - kelvin / TC, 0.0) ** (2 * BETA)
    mean = 20.0 + height * np.exp(-0.5 * squared / 0.035**2)
    counts = np.random.default_rng(int(kelvin)).poisson(mean).astype(float)
    sample = Sample("order", "c1", lattice=(4.0, 4.0, 4.0, 90.0, 90.0, 90.0))
    return Volume(counts, np.ones(grid.shape), grid, sample=sample)


KELVIN = (60.0, 90.0, 120.0, 140.0, 160.0, 180.0)


@pytest.fixture(scope="module")
def series(server: Server, cat: Any) -> dict[str, Any]:
    """A series of six temperatures, of which each has a run and a volume, and one is planned."""
    uid, host, port = str(uuid.uuid4()), *server.url.removeprefix("http://").split(":")
    planned = [{"axis": "phi", "start": 0.0, "step": 1.0, "n_frames": 5}]
    parameters = {"temperatures": [*KELVIN, 200.0], "sweeps": planned}
    folder = server.root / "ordered"
    keys: list[str] = []
    runs: list[str] = []
    for i, kelvin in enumerate(KELVIN):
        one = Documents(
            cat, folder / f"{kelvin:g}K", time=2e9 + 60.0 * i, scan_id=100 + i, purpose="data",
            sample={"name": "order", "label": "c1"}, temperature={"setpoint": kelvin},
            series={"uid": uid, "sweep_of": [i, 0], "parameters": parameters},
        ).stop(time=2e9 + 60.0 * i + 50.0)  # fmt: skip
        one.publish()
        one.journal.close()
        record = {"temperature": kelvin, "inputs": [{"run": one.uid, "file": "f1.h5"}]}
        path = write_volume(folder / f"{kelvin:g}K" / "volume.h5", volume_at(kelvin), record)
        keys.append(publish_volume(path, host=host, port=int(port), key=server.key))
        runs.append(one.uid)
    return {"uid": uid, "runs": runs, "volumes": keys, "folder": folder}


def test_the_board_of_a_series_has_a_cell_for_each_temperature(http, series):
    board = http.get(f"/series/{series['uid']}").json()

    assert (board["samples"], board["temperatures"]) == (["order"], [*KELVIN, 200.0])
    assert [cell["state"] for cell in board["cells"]][-1] == "planned"
    assert [cell["volume"] for cell in board["cells"][:-1]] == series["volumes"]
    assert [cell["runs"] for cell in board["cells"][:-1]] == [[uid] for uid in series["runs"]]
    assert board["cells"][0]["volume_state"] == "finished"
    (entry,) = [
        each for each in http.get("/series").json()["series"] if each["uid"] == board["uid"]
    ]
    assert (entry["runs"], entry["temperatures"]) == (6, [*KELVIN])
    assert uids(http, f"series={series['uid']}") == series["runs"][::-1]
    assert http.get("/series/latest").json() == board
    assert http.get("/series/no-such").status_code == 404


def test_runs_without_a_series_are_listed_by_their_day(http, mine):
    day = time.strftime("day-%Y-%m-%d", time.localtime(1e9 + 86400.0))

    listed = [each["uid"] for each in http.get("/series?limit=500").json()["series"]]
    board = http.get(f"/series/{day}").json()

    assert day in listed
    assert (board["uid"], board["state"], board["samples"]) == (day, "ended", ["mine-1"])


def test_volumes_are_listed_by_what_they_are_of(http, series):
    (one,) = http.get(f"/volumes?run={series['runs'][1]}").json()["volumes"]

    assert (one["key"], one["temperature"]) == (series["volumes"][1], 90.0)
    assert (one["runs"], one["grid"]["shape"]) == ([series["runs"][1]], [9, 9, 9])
    some = http.get("/volumes?sample=order&temperature=100:150").json()["volumes"]
    assert sorted(each["temperature"] for each in some) == [120.0, 140.0]
    assert http.get("/volumes?temperature=x").status_code == 400
    opened = http.get(f"/runs/{series['runs'][0]}").json()
    assert opened["volumes"] == [series["volumes"][0]]


def test_the_order_parameter_of_a_series_vanishes_at_its_transition(http, series):
    address = f"/series/{series['uid']}/order"
    found = http.get(address).raise_for_status().json()

    assert [point["temperature"] for point in found["points"]] == [*KELVIN]
    assert [point["volume"] for point in found["points"]] == series["volumes"]
    heights = [point["intensity"] for point in found["points"]]
    law = [(1 - kelvin / TC) ** (2 * BETA) for kelvin in KELVIN[:4]]
    assert [h / heights[0] for h in heights[:4]] == pytest.approx(
        [each / law[0] for each in law], rel=0.1
    )
    assert abs(found["law"]["Tc"] - TC) < 4 * found["law"]["Tc_error"] < 20
    assert not any(point["growing"] for point in found["points"])
    assert http.get(address).json() == found
    elsewhere = http.get(f"{address}?at=3,3,3").json()
    assert (elsewhere["points"], elsewhere["law"]) == ([], None)
    assert "does not lie in the volume" in elsewhere["why"]
    assert http.get(f"{address}?at=a,b").status_code == 400
    assert http.get(f"{address}?sample=other").status_code == 400


def test_a_lattice_is_that_which_was_refined_from_the_runs_of_the_cell(http, series):
    def lattices() -> list[Any]:
        cells = http.get(f"/series/{series['uid']}").json()["cells"]
        return [cell["lattice"] for cell in cells]

    assert lattices() == [None] * 7
    for kelvin, run in (("60K", series["runs"][0]), ("90K", series["runs"][0])):
        _orientation(series["folder"] / kelvin / "orientation.json", run)
    found = lattices()
    assert found[0]["a"] == [4.01, 0.002]
    assert found[0]["alpha"] == [90.0, None]
    assert found[1:] == [None] * 6


def _orientation(path: Path, run: str) -> None:
    path.write_text(
        json.dumps({
            "UB": [[0.25, 0.0, 0.0], [0.0, 0.25, 0.0], [0.0, 0.0, 0.25]],
            "lattice": [4.01, 4.0, 4.0, 90.0, 90.0, 90.0],
            "source": {"files": [{"path": "f1.h5", "run": run}]},
            "residuals": {"esd": {"a": 0.002, "alpha": None}},
        })
    )  # fmt: skip
