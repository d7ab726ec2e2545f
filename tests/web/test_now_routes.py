"""What the routes /now answer: the RunEngine's word, the frames on disk, and what has changed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from runs import wait_until
from web.beamline import ShownBeamline, series_of
from websockets.sync.client import connect

from offbragg.catalog import now as routes
from offbragg.catalog.now import Now
from offbragg.now import BeamlineNow, NewestJournals


class Runs:
    """Stands for the database of a catalog: it has 3 runs."""

    context = property(lambda self: SimpleNamespace(engine=self))

    def connect(self):
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return None

    async def scalar(self, _):
        return 3


@pytest.fixture
def beamline(tmp_path):
    made = ShownBeamline.create(tmp_path)
    yield made
    made.close()


@pytest.fixture
def http(beamline, monkeypatch):
    monkeypatch.setattr(routes, "EVERY", 0.1)
    app = FastAPI()
    now = Now(app, BeamlineNow(beamline.config), Runs())
    now.watch_with(app)
    config = uvicorn.Config(now, port=0, log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield client
    server.should_exit = True
    thread.join()


def test_the_run_engine_s_own_word_is_answered_with_its_age(beamline, http):
    assert http.get("/now").json()["engine"]["state"] == "gone"
    waits = ["settling: 0.08 K from 90 K, 41 s of 60 s inside ± 0.2 K"]
    beamline.says("measuring", waits=waits)

    engine = wait_until(lambda: (e := http.get("/now").json()["engine"])["state"] != "gone" and e)

    assert engine["waits"] == waits
    assert engine["values"]["temperature"]["set"] == 90.0
    assert 0 <= engine["age"] < 10
    beamline.is_gone()
    wait_until(lambda: http.get("/now").json()["engine"]["state"] == "gone")


def test_frames_are_those_of_the_scan_file(beamline, http):
    run = beamline.run(series=series_of("s", 0, (0, 0), "LSMO-140"))
    run.take(0, 1, 2, 4)
    run.scan.mark(3, "missing", "was not there")

    def frames():
        found = http.get("/now").json()["frames"]
        return found if found and found["run"] == run.uid and found["missing"] else None

    assert wait_until(frames) == {
        "run": run.uid, "n": 8, "stored": 4, "last": 4, "behind": 0, "missing": 1, "rejected": 0,
        "pending": 3,
    }  # fmt: skip
    gone = http.get("/now").json()["engine"]  # a RunEngine that does not report
    assert gone["run"] is not None
    assert {k: gone["run"][k] for k in ("uid", "done", "n", "sample")} == {
        "uid": run.uid, "done": 5, "n": 8, "sample": "LSMO-140",
    }  # fmt: skip
    run.announce(8)
    wait_until(lambda: http.get("/now").json()["frames"]["behind"] == 3)
    run.finish()
    wait_until(lambda: http.get("/now").json()["engine"]["run"] is None)


def test_a_run_has_begun_while_a_run_engine_is_in_it(beamline):
    now = BeamlineNow(beamline.config)
    run = beamline.run(series=series_of("s", 0, (0, 0), "LSMO-140"))

    assert now.has_begun(run.uid)
    assert not now.has_begun(f"../journal/{run.uid}")
    assert not now.has_begun(run.uid[:8])
    run.take(0)
    run.finish()
    assert not now.has_begun(run.uid)


def test_a_websocket_sends_what_has_changed_at_once(beamline, http):
    beamline.says("idle")
    wait_until(lambda: http.get("/now").json()["engine"]["state"] == "idle")
    with connect(str(http.base_url).replace("http", "ws") + "/now/socket") as socket:
        first = json.loads(socket.recv(timeout=20))
        beamline.says("measuring")
        second = json.loads(socket.recv(timeout=20))

    assert first["engine"]["state"] == "idle"
    assert first["catalog"] == {"runs": 3}
    assert second["engine"]["state"] == "measuring"


def test_all_get_the_same_text_of_one_look(monkeypatch):
    """Ten browsers cost as one: looks are counted, not requests."""
    looks = []

    def look():
        looks.append(time.time())
        return {"time": time.time(), "engine": {"state": "idle", "values": {}}, "n": len(looks)}

    async def ten():
        answers = Now(None, look, Runs())
        texts = [[] for _ in range(10)]

        async def browser(seen):
            gone = asyncio.Event()

            async def receive():
                if not seen:
                    seen.append("connect")
                    return {"type": "websocket.connect"}
                await gone.wait()
                return {"type": "websocket.disconnect"}

            async def send(message):
                if message["type"] == "websocket.send":
                    seen.append(message["text"])

            asyncio.get_running_loop().call_later(1.0, gone.set)
            await answers({"type": "websocket", "path": "/now/socket"}, receive, send)

        looking = asyncio.create_task(answers._run())
        await asyncio.gather(*(browser(seen) for seen in texts))
        looking.cancel()
        return texts

    monkeypatch.setattr(routes, "EVERY", 0.1)
    texts = asyncio.run(ten())

    assert len(looks) <= 15
    assert all(len(seen) >= 3 for seen in texts)
    assert all(set(seen) <= set(texts[0]) | set(texts[1]) for seen in texts)


def test_the_history_has_what_was_seen(beamline, http):
    beamline.says("idle")
    wait_until(lambda: "temperature" in http.get("/now/history").json()["curves"])

    curve = http.get("/now/history?minutes=1").json()["curves"]["temperature"]

    assert (curve["unit"], curve["window"]) == ("K", 0.2)
    assert curve["y"][-1] == 90.08
    assert curve["set"][-1] == 90.0
    assert len(curve["t"]) == len(curve["y"]) == len(curve["set"])


@pytest.mark.parametrize(
    ("path", "status", "why"),
    [("/now?x=1", 400, "x is unknown"), ("/now/history?minutes=0", 400, "at most 60"),
     ("/now/history?minute=3", 400, "minutes"), ("/now/history?minutes=nan", 400, "at most"),
     ("/now/socket", 426, "websocket")],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused(http, path, status, why):
    answer = http.get(path)

    assert answer.status_code == status
    assert why in answer.json()["detail"]


def test_a_catalog_without_a_beamline_says_so():
    async def asked():
        transport = httpx.ASGITransport(Now(None, None, None))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get("/now")

    answer = asyncio.run(asked())

    assert answer.status_code == 404
    assert "offbragg serve --beamline" in answer.json()["detail"]


def test_damaged_or_absent_files_are_no_trouble(tmp_path):
    beamline = ShownBeamline.create(tmp_path)
    look = BeamlineNow(beamline.config)
    (beamline.config.paths.journal / "x.jsonl").write_text("nonsense\n")

    first = look()
    shutil.rmtree(beamline.config.paths.journal)
    second = look()

    assert first["frames"] is None
    assert second["engine"]["state"] == "gone"


def test_a_journal_is_looked_at_once_however_many_there_are(tmp_path, monkeypatch):
    beamline = ShownBeamline.create(tmp_path)
    journal = beamline.config.paths.journal
    for number in range(100):
        path = journal / f"{number:03d}.jsonl"
        path.touch()
        os.utime(path, (number, number))
    newest = NewestJournals(journal)
    looked = []
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **how: looked.append(path) or stat(path, **how))

    first = newest.look()
    looked.clear()
    (journal / "100.jsonl").touch()
    second = newest.look()

    assert [path.stem for path in first[:2]] == ["099", "098"]
    assert [path.stem for path in second[:2]] == ["100", "099"]
    assert len(looked) < 30


def test_a_clock_that_is_set_back_stops_nothing():
    looks = [10_000.0, 10_001.0, 5_000.0, 5_001.0]
    now = Now(FastAPI(), lambda: {"time": looks.pop(0), "engine": {}, "frames": None}, Runs())

    async def look_often():
        for _ in range(4):
            await now._look_once()
            await asyncio.sleep(routes.EVERY)

    asyncio.run(look_often())

    assert now._seen["time"] == 5_001.0
    assert [point["t"] for point in now._history.since(0.0)] == [5_000.0, 5_001.0]
