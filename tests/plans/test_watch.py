"""What the watchdog tells is a stream of the run; a series waits for room for its next sweep."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted
from event_model import DocumentNames, schema_validators
from faulty_disks import SmallDisk, needs_mount
from ophyd.sim import det
from runs import wait_until
from simulated import Documents

from offbragg.beamline.limits import lacking_room
from offbragg.beamline.run_engine import make_run_engine, sample
from offbragg.errors import ConfigError, DeviceError
from offbragg.plans import rotation_scan, temperature_series
from offbragg.plans.messages import LACKING_ROOM
from offbragg.plans.watch import answer_lacking_room, need_room
from offbragg.sweep import Sweep

pytestmark = pytest.mark.ioc

SWEEP = Sweep(axis="phi", start=0.0, step=0.2, n_frames=25, exposure=0.09, period=0.1)
STALL = 0.5  # s without a file: five periods


def watch(documents) -> list[tuple[str, str]]:
    """What the stream says: which alarm, and raised or cleared."""
    return [
        (what, state)
        for what, state in zip(
            documents.rows("watch_what"), documents.rows("watch_state"), strict=True
        )
    ]


def assert_valid(documents) -> None:
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    names = [name for name, _ in documents]
    # the RunEngine may emit an event of a monitored signal once more beside its stop document
    assert next(name for name in reversed(names) if name != "event") == "stop"
    for watched in (d for d in documents.of("descriptor") if d["name"] == "watch"):  # of each run
        numbers = [d["seq_num"] for d in documents.of("event") if d["descriptor"] == watched["uid"]]
        assert numbers == list(range(1, len(numbers) + 1))
    assert documents.stop()["num_events"].get("watch", 0) == len(numbers)


@pytest.fixture
def hanging(devices, simulator, monkeypatch):
    """A detector that hangs at a frame, and gives the sweep up a little later."""
    monkeypatch.setattr(devices["pilatus"], "max_missing", 0)
    monkeypatch.setattr(devices["pilatus"], "patience", 1.5)
    monkeypatch.setattr(devices["pilatus"], "stall", 1.5)
    yield lambda frame: simulator("hang", frame)
    simulator("hang", -1)


def test_a_detector_that_hangs_is_reported_within_a_second_while_the_run_is_open(
    RE, devices, documents, hanging
):
    hanging(8)

    with pytest.raises(DeviceError):
        RE(rotation_scan(devices["pilatus"], devices["phi"], SWEEP, shutter=devices["shutter"]))

    assert_valid(documents)
    assert watch(documents) == [("stall", "raised")]
    (resource,) = documents.of("stream_resource")
    folder = Path(resource["uri"].removeprefix("file://localhost"))
    last = max(path.stat().st_mtime for path in folder.iterdir())
    (event,) = [doc for doc in documents.of("event") if "watch_what" in doc["data"]]
    late = event["time"] - (last + STALL)
    print(f"stall reported {late:.3f} s after {STALL} s without a file")
    assert 0.0 < late < 1.0
    assert event["data"]["watch_severity"] == "major"
    assert event["data"]["watch_limit"] == STALL
    assert event["time"] < documents.stop()["time"] - 0.5
    assert devices  # and the sweep itself failed as it does without a watchdog


@pytest.mark.parametrize(
    "how",
    ["abort", "pause, then resume"]
    + [pytest.param(how, marks=pytest.mark.slow) for how in ("stop", "pause, then abort")],
)
def test_a_sweep_that_people_end_is_no_stall_and_its_documents_are_valid(
    RE, devices, documents, how
):
    def interrupt() -> None:
        wait_until(lambda: documents.rows("monitor_frame") or documents.of("stream_datum"), 20)
        {"abort": RE.abort, "stop": RE.stop}.get(how, RE.request_pause)()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        RE(rotation_scan(devices["pilatus"], devices["phi"], SWEEP, shutter=devices["shutter"]))
    except RunEngineInterrupted:
        thread.join()
        if how.startswith("pause"):
            time.sleep(1.0)  # twice as long as a stall takes
            (RE.resume if how.endswith("resume") else RE.abort)()
    thread.join()

    assert_valid(documents)
    assert watch(documents) == []


@pytest.fixture
def small(config, devices, tmp_path):
    """A RunEngine whose scan files go to a disk of 60 MB, of which 10 are to be left."""
    experiment = tmp_path / "experiment"
    experiment.mkdir()
    with SmallDisk(experiment, 60_000_000) as disk:
        other = config.model_copy(
            update={
                "paths": config.paths.model_copy(update={"experiment": experiment}),
                "limits": config.limits.model_copy(update={"free_disk": 0.01}),
            }
        )
        RE = make_run_engine(other, devices)
        sample(RE, name="KMnF3", label="crystal1")
        disk.RE, disk.documents, disk.config = RE, Documents(), other
        RE.subscribe(lambda name, doc: disk.documents(name, doc))
        yield disk


@needs_mount
def test_a_run_without_frames_says_that_a_disk_is_full_and_has_space_again(small, devices):
    small.fill(55_000_000)  # in alarm before the run begins
    seen: list[float] = []

    def free() -> None:
        wait_until(lambda: watch(small.documents), 10)
        seen.append(time.time())
        small.free()

    thread = threading.Thread(target=free)
    thread.start()
    small.RE(bp.count([devices["ring"]], num=12, delay=0.3))
    thread.join()

    assert_valid(small.documents)
    assert watch(small.documents) == [("disk.experiment", "raised"), ("disk.experiment", "cleared")]
    assert small.documents.stop()["num_events"]["primary"] == 12
    small.documents.clear()
    small.RE(bp.count([devices["ring"]]))
    assert watch(small.documents) == []


@needs_mount
def test_what_changes_while_a_run_is_paused_is_recorded_when_it_goes_on(small, devices):
    def plan():
        yield from bps.open_run()
        yield from bps.checkpoint()
        yield from bps.pause()
        yield from bps.checkpoint()
        yield from bps.sleep(0.2)
        yield from bps.pause()
        yield from bps.close_run()

    with pytest.raises(RunEngineInterrupted):
        small.RE(plan())
    small.fill(55_000_000)
    time.sleep(0.4)
    assert watch(small.documents) == []
    with pytest.raises(RunEngineInterrupted):
        small.RE.resume()
    assert watch(small.documents) == [("disk.experiment", "raised")]

    small.RE.resume()

    assert_valid(small.documents)
    assert watch(small.documents) == [("disk.experiment", "raised")]


@needs_mount
def test_a_series_waits_between_sweeps_for_room_and_goes_on_by_itself(small, devices, caplog):
    """The second sweep would not fit; nothing is cut and nothing fails."""
    turn = Sweep(axis="phi", start=0.0, step=0.5, n_frames=6, exposure=0.09, period=0.1)
    states: list[str] = []
    late: list[float] = []

    def people() -> None:
        wait_until(lambda: small.documents.of("stream_datum"), 40)
        began = time.time()
        small.fill(50_200_000)  # mid-sweep: it is not paused
        wait_until(lambda: watch(small.documents), 10)
        (event, *_) = [d for d in small.documents.of("event") if "watch_what" in d["data"]]
        late.append(event["time"] - began)
        wait_until(lambda: "the next sweep waits" in caplog.text, 40)
        states.append(f"{len(small.documents.of('stop'))} runs")
        time.sleep(0.6)
        states.append(f"{len(small.documents.of('start'))} runs")
        small.free()

    thread = threading.Thread(target=people)
    thread.start()
    uids = small.RE(
        temperature_series(
            devices["pilatus"], devices["phi"], devices["cryostream"], [291.0], [turn, turn],
            shutter=devices["shutter"],
        )
    )  # fmt: skip
    thread.join()

    print(f"disk reported {late[0]:.3f} s after it was full")
    assert late[0] < 1.0
    assert watch(small.documents)[0] == ("disk.experiment", "raised")
    assert len(uids) == 2
    assert states == ["1 runs", "1 runs"]
    assert [doc["exit_status"] for doc in small.documents.of("stop")] == ["success"] * 2
    (line,) = [r.message for r in caplog.records if "waits" in r.message]
    assert "too little disk for the sweep: 0.01 GB free" in line
    assert "0.01 GB to be left" in line


@pytest.mark.parametrize("policy", ["stop", "ask"])
def test_without_room_a_series_can_end_or_ask(policy):
    RE = RunEngine({}, context_managers=[])
    lacks = iter(["no room\nFree some.", "no room\nFree some.", ""])
    RE.register_command(LACKING_ROOM, answer_lacking_room(lambda **needs: next(lacks)))
    asked: list[str] = []

    async def answer(msg):
        asked.append(msg.kwargs["prompt"])
        return ["retry", "what?"][len(asked) - 1]

    RE.register_command("input", answer)

    with pytest.raises(ConfigError, match="no room"):
        RE(need_room(10, {"shape": [2, 3]}, on_full=policy))

    assert len(asked) == (2 if policy == "ask" else 0)


def test_no_one_waits_for_room_for_ever():
    RE = RunEngine({}, context_managers=[])
    RE.register_command(LACKING_ROOM, answer_lacking_room(lambda **needs: "no room"))

    with pytest.raises(ConfigError, match=r"no room\nIt was waited for 0.2 s"):
        RE(need_room(10, {}, timeout=0.2, interval=0.05))


def test_a_run_engine_that_keeps_no_room_goes_on():
    RunEngine({}, context_managers=[])(need_room(10, {}))


def test_frames_and_scan_file_on_one_disk_are_added_up(config):
    pixels = 1000 * 1000
    free = os.statvfs(config.paths.frames)
    free = free.f_bavail * free.f_frsize
    half = int(0.6 * free / (1.2 * pixels))  # fits for either of the two

    lack = lacking_room(config, n_frames=half, detector={"shape": (1000, 1000)})

    assert "(paths.frames, paths.experiment, paths.journal)" in lack
    assert lacking_room(config, n_frames=1, detector={"shape": (1000, 1000)}) == ""


def test_a_plan_that_is_halted_leaves_no_watchdog(RE, documents):
    def plan():
        yield from bps.open_run()
        yield from bps.pause()

    with pytest.raises(RunEngineInterrupted):
        RE(plan())
    assert [t for t in threading.enumerate() if t.name == "watchdog"]

    RE.halt()

    assert [t for t in threading.enumerate() if t.name == "watchdog"] == []
    RE(bp.count([det]))
    assert documents.stop()["exit_status"] == "success"
