"""A series goes on where the journal says that it was, whatever ended it."""

from __future__ import annotations

import importlib.util
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs import wait_until

from offbragg.beamline.run_engine import make_run_engine
from offbragg.callbacks.past_runs import PastRuns
from offbragg.errors import JournalError, SweepError
from offbragg.files.abandoned import close_abandoned
from offbragg.files.journal_file import read_journal
from offbragg.plans import temperature_series
from offbragg.plans.series import PastRun

SCRIPT = Path(__file__).with_name("measure_series.py")
spec = importlib.util.spec_from_file_location("measure_series", SCRIPT)
measure_series = importlib.util.module_from_spec(spec)
spec.loader.exec_module(measure_series)
TEMPERATURES, SWEEPS = measure_series.TEMPERATURES, measure_series.SWEEPS


@pytest.fixture(autouse=True)
def pulses(request):
    """Frames begin at their angles, however busy this host is: as in the process to be killed."""
    if "devices" in request.fixturenames:
        monkeypatch = request.getfixturevalue("monkeypatch")
        pilatus = request.getfixturevalue("devices")["pilatus"]
        monkeypatch.setattr(pilatus, "trigger_mode", "mult_trigger")


def killed_in(config, *, run: int, frames: int) -> list[str]:
    """Measure a series in another process, kill -9 it in the middle of a run; give the uids."""
    uids: list[str] = []
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), str(config.file)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            word, _, value = line.strip().partition(" ")
            if word == "open":
                uids.append(value)
            reached = int(value) if word == "frames" else 0
            if word in ("open", "frames") and len(uids) == run and reached >= frames:
                process.send_signal(signal.SIGKILL)
                break
            assert word != "done"
    return uids


def angles_of(config, uid: str) -> np.ndarray:
    """Angles that a run measured, from its journal and its frame files."""
    (past,) = PastRuns(config.paths.journal, config.paths.experiment).runs(uid=uid)
    run = PastRun(**past)
    return run.sweep.midpoints[run.measured()]


def resumed(RE, devices, series: str, temperatures=TEMPERATURES, sweeps=SWEEPS, **more):
    return RE(
        temperature_series(
            devices["pilatus"], devices["phi"], devices["cryostream"], temperatures, sweeps,
            flyers=[devices["monitor"], devices["compare"]], shutter=devices["shutter"],
            resume=series, **more,
        )
    )  # fmt: skip


def series_of(config, uid: str) -> str:
    documents, _ = read_journal(config.paths.journal / f"{uid}.jsonl")
    return documents[0][1]["series"]["uid"]


@pytest.mark.ioc
def test_after_kill_9_a_series_goes_on_with_the_missing_angles(RE, config, devices, documents):
    phi = devices["phi"]
    speed = phi.velocity.get(use_monitor=False)
    before = killed_in(config, run=2, frames=8)
    assert len(before) == 2
    assert phi.velocity.get(use_monitor=False) == SWEEPS[0].speed != speed

    uids = resumed(RE, devices, series_of(config, before[0]))

    assert phi.velocity.get(use_monitor=False) == speed, "the axis keeps the speed of the sweep"
    starts = documents.of("start")
    assert [doc["uid"] for doc in starts] == list(uids)
    assert {doc["motor_speeds"]["phi"] for doc in starts} == {speed}
    assert [doc["series"]["sweep_of"] for doc in starts] == [[0, 1], [1, 0], [1, 1]]
    assert [doc["series"]["index"] for doc in starts] == [2, 3, 4]
    assert starts[0]["series"]["follows"] == before[1]
    assert starts[0]["sweep"]["n_frames"] < 20
    assert [doc["exit_status"] for doc in documents.of("stop")] == ["success"] * 3
    # each angle of each sweep once, and once only
    for sweep, of_it in ((SWEEPS[0], before[:1]), (SWEEPS[1], [before[1], uids[0]])):
        angles = np.sort(np.concatenate([angles_of(config, uid) for uid in of_it]))
        np.testing.assert_allclose(angles, sweep.midpoints)
    # the killed run has its one stop document, and the series nothing left to do
    assert not close_abandoned(config.paths.journal / f"{before[1]}.jsonl")
    assert resumed(RE, devices, series_of(config, before[0])) == ()


@pytest.mark.ioc
def test_the_next_session_gives_the_axis_its_speed_back(config, devices):
    phi = devices["phi"]
    speed = phi.velocity.get(use_monitor=False)
    (uid,) = killed_in(config, run=1, frames=5)
    assert phi.velocity.get(use_monitor=False) == SWEEPS[0].speed != speed

    make_run_engine(config, devices)

    wait_until(lambda: phi.velocity.get(use_monitor=False) == speed, 5, "the usual speed")
    # whoever sets that very speed from now on may keep it
    assert not close_abandoned(config.paths.journal / f"{uid}.jsonl")
    _come_to_rest((devices["pilatus"], phi))


def _come_to_rest(devices):
    wait_until(lambda: not devices[1].moving, 30, "the axis stands")
    devices[0].cam.acquire.put(0)
    wait_until(lambda: devices[0].cam.state.get() in ("Idle", "Aborted", "Error"), 30, "idle")


def test_a_damaged_journal_keeps_no_series_from_going_on(run, tmp_path):
    run.begin()
    run.end()
    (run.journal_directory / "damaged.jsonl").write_text("")

    (past,) = PastRuns(run.journal_directory, run.experiment).runs(series="a-series")

    assert past["documents"][0][1]["uid"] == run.uid


@pytest.mark.ioc
@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_killed_at_twenty_random_moments_nothing_is_missing_or_measured_twice(
    RE, config, devices, documents, part
):
    moments = random.Random(f"kill -9, part {part}")
    again = 0
    for _ in range(5):
        documents.clear()
        which, frames = moments.randint(1, 4), moments.randint(0, 19)
        before = killed_in(config, run=which, frames=frames)

        uids = resumed(RE, devices, series_of(config, before[0]))

        again += len(uids)
        for place in ([0, 0], [0, 1], [1, 0], [1, 1]):
            pieces = []
            for uid in (*before, *uids):
                start = read_journal(config.paths.journal / f"{uid}.jsonl")[0][0][1]
                if start["series"]["sweep_of"] == place:
                    pieces.append(angles_of(config, uid))
            where = f"killed in run {which} at frame {frames}, {place}"
            angles = np.sort(np.concatenate(pieces))
            np.testing.assert_allclose(angles, SWEEPS[place[1]].midpoints, err_msg=where)
    print(f"5 kills, {again} runs to finish their series")


@pytest.mark.ioc
def test_another_series_than_it_was_is_refused_with_the_facts(RE, config, devices, documents):
    sweep = SWEEPS[0]
    (uid,) = RE(
        temperature_series(
            devices["pilatus"],
            devices["phi"],
            devices["cryostream"],
            [291.0],
            [sweep],
            flyers=[devices["compare"]],
        )
    )
    series = series_of(config, uid)
    documents.clear()

    with pytest.raises(SweepError, match=r"was at 291\.0 K, its temperature number 1; asked for"):
        resumed(RE, devices, series, [290.0], [sweep])
    with pytest.raises(SweepError, match="no part of the sweep phi 20 to 30"):
        resumed(RE, devices, series, [291.0], [SWEEPS[1]])
    with pytest.raises(JournalError, match="series nonsense is not in the journal"):
        resumed(RE, devices, "nonsense", [291.0], [sweep])
    with pytest.raises(SweepError, match="resume is ''"):
        resumed(RE, devices, "", [291.0], [sweep])

    assert documents == []
