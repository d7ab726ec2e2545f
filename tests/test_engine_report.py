"""What the RunEngine's process says of itself, and that it costs the RunEngine nothing."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import pytest
from bluesky import RunEngine
from bluesky.utils import Msg
from ophyd.sim import SynAxis
from ophyd.status import Status
from runs import MeasuredRun, wait_until
from web.beamline import ShownBeamline

from offbragg.beamline import engine_report
from offbragg.beamline.engine_report import EngineReport
from offbragg.beamline.run_engine import make_run_engine
from offbragg.callbacks.engine_state import EngineState
from offbragg.files.engine_file import read_engine
from offbragg.files.held_file import HeldFile, read_held
from offbragg.plans.in_flight import InFlight


class Documents:
    """Documents of a series of 3 temperatures × 2 sweeps of 10 frames of 1 s, by hand."""

    def __init__(self, state: EngineState) -> None:
        self.state = state

    def start(self, uid: str, i: int, j: int, at: float = 0.0) -> None:
        sweep = {"axis": "phi", "n_frames": 10, "period": 1.0}
        self.state("start", {
            "uid": uid, "time": at, "scan_id": 7, "plan_name": "temperature_series",
            "purpose": "data", "sample": {"name": "LSMO"}, "sweep": sweep,
            "temperature": {"setpoint": 90.0}, "per_frame": {
                "temperature": {"key": "cryostream_temperature", "units": "K"},
                "monitor": {"key": "monitor_counts", "by": "monitor_frame", "units": "counts"}},
            "series": {"uid": "s", "sweep_of": [i, j], "parameters": {
                "temperatures": [90, 100, 110], "sweeps": [sweep, sweep]}},
        })  # fmt: skip
        self.state("stream_resource", {"uid": f"r-{uid}", "run_start": uid})

    def frames(self, uid: str, stop: int) -> None:
        self.state(
            "stream_datum", {"stream_resource": f"r-{uid}", "indices": {"start": 0, "stop": stop}}
        )

    def stop(self, uid: str, at: float, status: str = "success") -> None:
        self.state("stop", {"run_start": uid, "time": at, "exit_status": status})


def test_a_run_and_its_series_are_as_far_as_their_documents():
    state = EngineState()
    documents = Documents(state)
    documents.start("a", 0, 0, at=0.0)
    documents.frames("a", 4)

    run, series = state.run(), state.series()

    assert run is not None
    assert {k: run[k] for k in ("uid", "scan_id", "sample", "done", "n", "left", "sweep")} == {
        "uid": "a", "scan_id": 7, "sample": "LSMO", "done": 4, "n": 10, "left": 6.0, "sweep": 1,
    }  # fmt: skip
    assert (run["temperature"], run["sweeps"], run["purpose"]) == (90.0, 2, "data")
    assert series == {"uid": "s", "done": 0, "n": 6, "left": 56.0}


def test_the_time_left_counts_what_it_took_between_sweeps():
    state = EngineState()
    documents = Documents(state)
    documents.start("a", 0, 0, at=0.0)
    documents.stop("a", at=10.0)
    documents.start("b", 0, 1, at=15.0)
    documents.stop("b", at=25.0)

    between = state.series()
    documents.start("c", 1, 0, at=40.0)

    assert between == {"uid": "s", "done": 2, "n": 6, "left": 4 * 10.0 + 4 * 5.0}
    assert state.series() == {"uid": "s", "done": 2, "n": 6, "left": 10.0 + 3 * 10.0 + 3 * 10.0}
    assert state.plan == "temperature_series"
    state.finish()
    assert (state.series(), state.plan) == (None, "")


def test_a_sweep_that_failed_is_still_to_be_measured():
    state = EngineState()
    documents = Documents(state)
    documents.start("a", 0, 1)
    documents.stop("a", at=5.0, status="fail")

    series = state.series()

    assert series is not None
    assert series["done"] == 1
    assert state.run() is None


def test_values_are_those_of_the_newest_events():
    state = EngineState()
    Documents(state).start("a", 0, 0)
    state("event", {"data": {"cryostream_temperature": 90.1, "x": [1]},
                    "timestamps": {"cryostream_temperature": 5.0, "x": 5.0}})  # fmt: skip
    state("event_page", {"data": {"monitor_counts": [3, 4]},
                         "timestamps": {"monitor_counts": [6.0, 7.0]}})  # fmt: skip

    assert state.values() == {
        "temperature": {"value": 90.1, "unit": "K", "time": 5.0},
        "monitor": {"value": 4.0, "unit": "counts", "time": 7.0},
    }


@pytest.mark.parametrize(
    "document",
    [("start", {}), ("stop", {}), ("event", {"data": None}), ("stream_datum", {"indices": 3}),
     ("start", {"uid": "x", "series": {"uid": 1, "parameters": {"sweeps": [{}]}}}),
     ("start", {"uid": "x", "sweep": {"n_frames": "many"}})],
)  # fmt: skip
def test_no_document_fails_a_run(document):
    EngineState()(*document)


# -- plans ----------------------------------------------------------------------------------------


def test_what_a_plan_has_set_is_waited_for_in_the_words_of_the_device():
    now = [0.0]
    plans = InFlight(clock=lambda: now[0])
    cooler = SimpleNamespace(name="cryostream", waits_for="settling: 0.08 K from 90 K")
    axis = SimpleNamespace(name="phi", position=3.5)
    done, pending = Status(), Status()
    seen = []

    def plan():
        seen.append((yield Msg("set", cooler, 90.0)))
        seen.append((yield Msg("set", axis, 60.0)))
        return "over"

    followed = plans.preprocessor(plan())
    next(followed)
    followed.send(done)
    with pytest.raises(StopIteration) as end:
        followed.send(pending)
    assert (end.value.value, seen) == ("over", [done, pending])
    assert plans.waits() == []  # the plan is over

    followed = plans.preprocessor(plan())
    next(followed)
    followed.send(done)
    first = plans.waits()
    plans._note(Msg("set", axis, 60.0), pending)
    at_once = plans.waits()
    now[0] = 2.0

    assert first == at_once == ["settling: 0.08 K from 90 K"]
    assert plans.waits() == ["settling: 0.08 K from 90 K", "moving phi: at 3.5, to 60"]
    done.set_finished()
    done.wait(1)
    assert plans.waits() == ["moving phi: at 3.5, to 60"]
    pending.set_finished()
    pending.wait(1)


# -- the file -------------------------------------------------------------------------------------


def test_a_file_counts_while_its_writer_holds_it(tmp_path):
    path = tmp_path / "held.json"
    first, second = HeldFile(path), HeldFile(path)
    first.write({"a": 1})
    second.write({"a": 2})

    assert read_held(path) == {"a": 1}
    first.write({"long": "x" * 3000})
    first.write({"a": 3})
    assert read_held(path) == {"a": 3}
    first.close()
    assert read_held(path) == {}
    assert read_held(tmp_path / "none.json") == {}


def test_the_report_of_a_process_that_was_killed_counts_for_nothing(tmp_path):
    program = (
        "import sys, time; from pathlib import Path\n"
        "from offbragg.files.held_file import HeldFile\n"
        "file = HeldFile(Path(sys.argv[1])); file.write({'state': 'idle'}); print('held')\n"
        "sys.stdout.flush(); time.sleep(60)"
    )
    path = tmp_path / ".engine.json"
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        alive = read_engine(tmp_path)
    finally:
        process.kill()
        process.communicate()

    assert alive == {"state": "idle"}
    assert read_engine(tmp_path) == {}


@pytest.fixture
def beamline(tmp_path):
    return ShownBeamline.create(tmp_path)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(engine_report, "EVERY", 0.02)
    monkeypatch.setattr(engine_report, "_POLL", 0.02)


def test_a_run_engine_says_what_it_does_until_it_is_gone(beamline, quick, caplog):
    caplog.set_level(logging.WARNING, "bluesky")  # what is logged of it would keep it
    journal = beamline.config.paths.journal
    axis = SynAxis(name="phi", delay=0.0)
    RE = make_run_engine(beamline.config, {})

    idle = wait_until(lambda: read_engine(journal))
    measuring = []

    def plan():
        yield from bps.mv(axis, 1.0)
        for _ in range(1000):
            yield from bps.sleep(0.02)
            if (report := read_engine(journal)).get("state") == "measuring":
                measuring.append(report)
                return

    RE(plan())

    assert (idle["state"], idle["run"], idle["series"], idle["waits"]) == ("idle", None, None, [])
    assert measuring
    wait_until(lambda: read_engine(journal).get("state") == "idle")
    del RE
    wait_until(lambda: gc.collect() >= 0 and not read_engine(journal), what="the report to end")


def test_instruments_that_hang_or_fail_only_make_their_values_old(tmp_path, quick):
    hangs = threading.Event()
    reads = {"ring": hangs.wait, "shutter": lambda: 1 / 0}
    RE = RunEngine({})
    report = EngineReport(
        lambda: RE if not hangs.is_set() else None, EngineState(), InFlight(),
        HeldFile(tmp_path / ".engine.json"), instruments=reads,
    )  # fmt: skip
    report.start()
    wait_until(lambda: read_engine(tmp_path))

    began = time.monotonic()
    RE([Msg("null")] * 100)

    assert time.monotonic() - began < 20.0  # one reading hangs for as long as the test runs
    assert read_engine(tmp_path)["values"] == {}
    hangs.set()
    wait_until(lambda: not read_engine(tmp_path))


def test_a_journal_that_cannot_be_written_fails_nothing(tmp_path):
    (tmp_path / "file").touch()
    report = EngineReport(
        lambda: None, EngineState(), InFlight(), HeldFile(tmp_path / "file" / "x"), instruments={}
    )

    report.look(SimpleNamespace(state="idle", suspenders=()))


def test_a_document_costs_microseconds(tmp_path):
    run = MeasuredRun(tmp_path)
    state = EngineState()
    state("start", {**run.start})
    event = {"data": {"cryostream_temperature": 90.0, "ring_current": 100.0},
             "timestamps": {"cryostream_temperature": 1.0, "ring_current": 1.0}}  # fmt: skip
    n = 20_000

    began = time.process_time()
    for _ in range(n):
        state("event", event)
    cost = (time.process_time() - began) / n
    run.journal.close()

    assert cost < 50e-6, f"{1e6 * cost:.1f} µs"
    assert len(json.dumps(state.values())) > 10
