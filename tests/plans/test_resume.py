"""A series goes on where the journal says that it was, whatever ended it."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from offbragg.callbacks.journal import close_abandoned, read_journal
from offbragg.callbacks.recall import Recall
from offbragg.errors import JournalError, SweepError
from offbragg.plans import temperature_series
from offbragg.plans.series import PastRun

SCRIPT = Path(__file__).with_name("measure_series.py")
spec = importlib.util.spec_from_file_location("measure_series", SCRIPT)
measure_series = importlib.util.module_from_spec(spec)
spec.loader.exec_module(measure_series)
TEMPERATURES, SWEEPS = measure_series.TEMPERATURES, measure_series.SWEEPS

pytestmark = pytest.mark.slow


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
            if word == "frames" and len(uids) == run and int(value) >= frames:
                process.send_signal(signal.SIGKILL)
                break
            assert word != "done"
    return uids


def angles_of(config, uid: str) -> np.ndarray:
    """Angles that a run measured, from its journal and its frame files."""
    (told,) = Recall(config.paths.journal, config.paths.experiment).runs(uid=uid)
    run = PastRun(**told)
    return run.sweep.midpoints[run.measured()]


def resumed(RE, devices, series: str, temperatures=TEMPERATURES, sweeps=SWEEPS, **more):
    return RE(
        temperature_series(
            devices["pilatus"], devices["phi"], devices["cryostream"], temperatures, sweeps,
            flyers=[devices["monitor"]], shutter=devices["shutter"], resume=series, **more,
        )
    )  # fmt: skip


def series_of(config, uid: str) -> str:
    documents, _ = read_journal(config.paths.journal / f"{uid}.jsonl")
    return documents[0][1]["series"]["uid"]


@pytest.mark.ioc
def test_after_kill_9_a_series_goes_on_with_the_missing_angles(RE, config, devices, documents):
    before = killed_in(config, run=2, frames=8)
    assert len(before) == 2

    uids = resumed(RE, devices, series_of(config, before[0]))

    starts = documents.of("start")
    assert [doc["uid"] for doc in starts] == list(uids)
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
def test_another_series_than_it_was_is_refused_with_the_facts(RE, config, devices, documents):
    sweep = SWEEPS[0]
    (uid,) = RE(
        temperature_series(
            devices["pilatus"], devices["phi"], devices["cryostream"], [291.0], [sweep]
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
    with pytest.raises(SweepError, match="resume is empty"):
        resumed(RE, devices, "", [291.0], [sweep])

    assert documents == []
