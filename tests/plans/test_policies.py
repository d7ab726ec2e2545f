"""What a series does about trouble: retry, skip, stop, or ask; without any instruments."""

from __future__ import annotations

import re
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import pytest
from bluesky import RunEngine
from ophyd.sim import NullStatus
from ophyd.status import Status

from offbragg.callbacks.journal import Journal
from offbragg.callbacks.past_runs import PastRuns
from offbragg.errors import DeviceError, SweepError
from offbragg.plans import rotation_scan, series_steps, temperature, temperature_series
from offbragg.plans.defaults import Defaults
from offbragg.plans.messages import PLAN_DEFAULTS, always
from offbragg.sweep import Sweep

DETECTOR, AXIS = SimpleNamespace(name="pilatus"), SimpleNamespace(name="phi")
SWEEPS = [
    Sweep("phi", start=start, step=0.5, n_frames=20, exposure=0.09, period=0.1)
    for start in (0.0, 20.0)
]


class Cooler:
    """Settles, but not at the temperatures that it has to fail at, a number of times."""

    name = "cooler"
    parent = None

    def __init__(self) -> None:
        self.fails: dict[float, int] = {}
        self.asked: list[float] = []

    def set(self, kelvin):
        self.asked.append(kelvin)
        if self.fails.get(kelvin, 0) > 0:
            self.fails[kelvin] -= 1
            status = Status(self)
            status.set_exception(DeviceError(f"cooler did not settle at {kelvin:g} K"))
            return status
        return NullStatus()


@pytest.fixture
def cooler():
    return Cooler()


@pytest.fixture
def failing(monkeypatch):
    """Stands for `rotation_scan`; fails in the calls whose number (from 1) is in the set."""
    failing: set[int] = set()
    calls: list[tuple] = []

    def scan(detector, axis, sweep, *, md, **_):
        calls.append((md["temperature"]["setpoint"], sweep.start, sweep.n_frames))
        uid = yield from bps.open_run({"sweep": sweep.to_dict(), "motors": ["phi"], **md})
        if len(calls) in failing:
            reason = "pilatus: frame 7 did not come"
            yield from bps.close_run(exit_status="fail", reason=reason)
            raise DeviceError(reason)
        yield from bps.close_run(exit_status="success")
        return uid

    monkeypatch.setattr(temperature, "rotation_scan", scan)
    return failing, calls


@pytest.fixture
def tested(monkeypatch, failing):
    """Stands for `expose` (no shutter); fails in the calls whose number (from 1) is in the set."""
    bad: set[int] = set()
    calls: list[tuple] = []

    def stills(detector, n_frames, exposure, *, period, axis, md, **nothing):
        assert not any(nothing.values())  # no shutter opens by default
        calls.append((n_frames, exposure, period, len(failing[1])))
        sweep = {**SWEEPS[0].to_dict(), "step": 0.0, "n_frames": n_frames}
        uid = yield from bps.open_run({"sweep": sweep, "purpose": "dark", **md})
        yield from bps.close_run()
        if len(calls) in bad:
            raise DeviceError("pilatus did not arm")
        return uid

    monkeypatch.setattr(series_steps, "expose", stills)
    return bad, calls


@pytest.fixture
def run(cooler, tmp_path, tested):
    RE = RunEngine({}, context_managers=[])
    RE.subscribe(Journal(tmp_path / "journal"))
    RE.register_command("past_runs", PastRuns(tmp_path / "journal", tmp_path / "experiment"))

    def run(temperatures=(100.0, 200.0), sweeps=SWEEPS, **more):
        return RE(temperature_series(DETECTOR, AXIS, cooler, temperatures, sweeps, **more))

    run.RE = RE
    return run


def answers(run, *replies: str) -> list[str]:
    """Answer the plan's questions; give what was asked."""
    asked: list[str] = []
    rest = iter(replies)

    async def answer(msg):
        asked.append(msg.kwargs["prompt"])
        return next(rest)

    run.RE.register_command("input", answer)
    return asked


def test_without_trouble_each_sweep_is_measured_once(run, failing, cooler):
    run(reference=100.0, order="cooling")

    assert cooler.asked == [200.0, 100.0, 100.0]
    assert [call[:2] for call in failing[1]] == [
        (kelvin, start) for kelvin in (200.0, 100.0, 100.0) for start in (0.0, 20.0)
    ]


def test_settle_retry_asks_for_the_temperature_again(run, failing, cooler):
    cooler.fails = {100.0: 2}

    assert len(run(on_settle="retry", attempts=3)) == 4
    assert cooler.asked == [100.0] * 3 + [200.0]


def test_settle_retry_gives_up_after_its_attempts(run, failing, cooler):
    cooler.fails = {100.0: 9}

    with pytest.raises(DeviceError, match="did not settle at 100 K"):
        run(on_settle="retry", attempts=2)
    assert cooler.asked == [100.0] * 2


def test_settle_skip_goes_to_the_next_temperature(run, failing, cooler):
    cooler.fails = {100.0: 1}

    assert len(run(on_settle="skip")) == 2
    assert {call[0] for call in failing[1]} == {200.0}


def test_settle_stop_ends_the_series(run, failing, cooler):
    cooler.fails = {200.0: 1}

    with pytest.raises(DeviceError, match="did not settle at 200 K"):
        run(on_settle="stop")
    assert len(failing[1]) == 2


def test_settle_ask_asks_until_it_understands(run, failing, cooler):
    cooler.fails = {100.0: 2}
    asked = answers(run, "what?", "Retry", "skip")

    assert len(run(on_settle="ask")) == 2
    assert len(asked) == 3
    assert asked[0].startswith("100 K is not settled: cooler did not settle at 100 K")


def test_a_failed_sweep_is_tried_again(run, failing):
    failing[0].update({2})

    assert len(run(on_detector="retry", test_frames=0)) == 5
    assert [call[1] for call in failing[1]] == [0.0, 20.0, 20.0, 0.0, 20.0]


def test_before_it_is_tried_again_the_detector_takes_test_frames(run, failing, tested):
    failing[0].update({2})

    uids = run(on_detector="retry")

    # after the second sweep had failed and before the third call, which measures it again
    assert tested[1] == [(5, 0.09, 0.1, 2)]
    past_runs = PastRuns(*_of(run))
    starts = [past_runs.runs(uid=uid)[0]["documents"][0][1] for uid in uids]
    assert [start.get("purpose") == "dark" for start in starts] == [0, 0, 1, 0, 0, 0]
    assert "series" not in starts[2]
    series = [start["series"] for start in starts if "series" in start]
    assert [each["index"] for each in series] == [0, 1, 2, 3, 4]
    assert len(past_runs.runs(series=series[0]["uid"])) == 5
    # the resumed series has nothing left, and is not confused by the test
    assert run(resume=series[0]["uid"]) == ()


def test_a_test_that_fails_is_a_failed_attempt(run, failing, tested):
    failing[0].update({1})
    tested[0].update({1, 2})

    with pytest.raises(DeviceError, match="did not arm"):
        run(on_detector="retry", attempts=3)

    assert len(tested[1]) == 2
    assert len(failing[1]) == 1  # nothing was measured with a detector that does not work


def test_the_test_is_made_once_for_each_failure(run, failing, tested):
    failing[0].update({1, 4})

    run(on_detector="retry", test_frames=3)

    assert [(call[0], call[3]) for call in tested[1]] == [(3, 1), (3, 4)]


def test_a_sweep_that_fails_on_is_given_up(run, failing):
    failing[0].update({1, 2, 3})

    with pytest.raises(DeviceError, match="frame 7 did not come"):
        run(on_detector="retry", attempts=3)
    assert len(failing[1]) == 3


def test_a_failed_sweep_can_be_skipped_or_end_the_series(run, failing):
    failing[0].update({1})
    assert len(run(on_detector="skip")) == 4

    failing[1].clear()
    with pytest.raises(DeviceError, match="frame 7"):
        run(on_detector="stop")


def test_asking_about_a_failed_sweep(run, failing):
    failing[0].update({1})
    asked = answers(run, "retry")

    assert len(run(on_detector="ask", test_frames=0)) == 5
    assert asked[0].startswith("sweep 1 at 100 K failed: pilatus: frame 7 did not come")


def test_what_was_skipped_is_measured_when_the_series_is_resumed(run, failing, cooler):
    cooler.fails = {100.0: 1}
    uids = run(on_settle="skip")
    (run_again,) = PastRuns(*_of(run)).runs(uid=uids[0])
    series = run_again["documents"][0][1]["series"]["uid"]
    failing[1].clear()

    run(resume=series[:8])

    assert [call[0] for call in failing[1]] == [100.0, 100.0]


def _of(run):
    past_runs = run.RE._command_registry["past_runs"]
    return past_runs.journal, past_runs.experiment


def test_unknown_policies_are_refused_by_name(run, failing, cooler):
    with pytest.raises(SweepError, match="on_beam is 'pray': it must be one of ask, skip"):
        run(on_beam="pray")
    assert cooler.asked == []


def test_sweeps_may_be_mappings_as_a_queueserver_sends_them(run, failing):
    run([100.0], [SWEEPS[0].to_dict()])

    assert failing[1] == [(100.0, 0.0, 20)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperatures": 300}, "temperatures is 300: it must be a list"),
        ({"temperatures": "300"}, "temperatures is '300': it must be a list"),
        ({"temperatures": [100, "200"]}, "temperature '200' cannot be set"),
        ({"temperatures": [float("nan")]}, "temperature nan cannot be set"),
        ({"temperatures": [True]}, "temperature True cannot be set"),
        ({"reference": "cold"}, "temperature 'cold' cannot be set"),
        ({"sweeps": 5}, "sweeps is 5: it must be a sweep, or a list of them"),
        ({"sweeps": "phi"}, "sweeps is 'phi': it must be a sweep"),
        ({"sweeps": [5]}, "a sweep is 5"),
        ({"overlap": -1.0}, "overlap is -1.0: it must be a number from 0 degree"),
        ({"overlap": float("nan")}, "overlap is nan"),
        ({"attempts": 0}, "attempts is 0: it must be a whole number from 1"),
        ({"attempts": "3"}, "attempts is '3'"),
        ({"test_frames": 2.5}, "test_frames is 2.5"),
        ({"beam_timeout": None}, "beam_timeout is None"),
        ({"resume": 5}, "resume is 5: it must be the uid"),
    ],
)
def test_what_means_nothing_is_refused_before_the_first_temperature(cooler, wrong, message):
    asked = {"temperatures": [100, 200], "sweeps": SWEEPS, **wrong}

    with pytest.raises(SweepError, match=message):
        list(temperature_series(DETECTOR, AXIS, cooler, **asked))

    assert cooler.asked == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"detector": "pilatus"}, "detector is 'pilatus', which has no 'prepare'"),
        ({"shutter": AXIS}, "shutter is phi, which has no 'set'"),
        ({"permit": AXIS}, "permit is phi, which has no 'beam'"),
        ({"flyers": AXIS}, r"flyers is phi: it must be a list, \[phi\]"),
        ({"flyers": [AXIS]}, "a flyer is phi, which has no 'prepare'"),
    ],
)
def test_a_device_that_cannot_be_what_it_is_given_as_is_refused(wrong, message):
    able = SimpleNamespace(name="able", prepare=None)

    with pytest.raises(SweepError, match=message):
        list(rotation_scan(**{"detector": able, "axis": able, "sweep": SWEEPS[0], **wrong}))


# -- how it goes on ----------------------------------------------------------------------------


@pytest.fixture
def known(run, cooler):
    """The RunEngine knows the devices by name, as that of a beamline does."""
    devices = {"pilatus": DETECTOR, "phi": AXIS, "cooler": cooler}
    run.RE.register_command(PLAN_DEFAULTS, always(Defaults(devices)))
    starts: list[dict] = []
    run.RE.subscribe(lambda name, doc: starts.append(doc), "start")
    return starts


def logged(caplog) -> str:
    return "\n".join(r.getMessage() for r in caplog.records if r.name == "offbragg.notices")


def test_a_series_that_failed_says_how_it_is_resumed_and_that_line_is_enough(
    run, known, failing, caplog, cooler
):
    caplog.set_level("INFO")
    failing[0].add(4)
    with pytest.raises(DeviceError, match="frame 7"):
        run([300.0, 100.0], order="warming", both_ways=True, reference=100.0, on_detector="stop",
            md={"comment": "night"})  # fmt: skip

    first = logged(caplog)
    line = re.search(r"^  (RE\(.*\))$", first, re.MULTILINE)
    assert line, first
    series = known[0]["series"]["uid"]
    assert first.startswith(f"series {series}: 4 runs for 6 sweeps")
    failing[0].clear()
    caplog.clear()
    eval(line[1], {"RE": run.RE, "temperature_series": temperature_series})

    there, back = (0.0, 20), (30.0, 20)
    begun = [(100.0, *there), (100.0, *back), (300.0, *there), (300.0, *back)]
    assert failing[1] == [*begun, (300.0, *back), (100.0, *there), (100.0, *back)]
    assert {start["series"]["uid"] for start in known if "series" in start} == {series}
    assert {start.get("comment") for start in known} == {"night"}
    assert f'resume="{series[:8]}"' in logged(caplog)


def test_a_series_of_one_sweep_says_it_too_when_it_succeeds(run, known, caplog):
    caplog.set_level("INFO")

    run([100.0], SWEEPS[0])

    assert f'resume="{known[0]["series"]["uid"][:8]}"' in logged(caplog)
    assert known[0]["series"]["parameters"]["sweeps"] == [SWEEPS[0].to_dict()]


def test_what_failed_before_its_first_sweep_has_nothing_to_resume(run, known, cooler, caplog):
    caplog.set_level("INFO")
    cooler.fails[100.0] = 1

    with pytest.raises(DeviceError, match="did not settle"):
        run()

    assert "no sweep was begun" in logged(caplog)


def test_a_failing_sweep_is_tried_again_by_default_also_without_a_journal(
    run, failing, tested, cooler
):
    failing[0].add(1)

    run([100.0], SWEEPS[:1])

    assert failing[1] == [(100.0, 0.0, 20)] * 2
    failing[0].add(3)
    with pytest.raises(DeviceError, match="frame 7 did not come"):
        RunEngine({}, context_managers=[])(
            temperature_series(DETECTOR, AXIS, cooler, [100.0], SWEEPS[:1])
        )


CHANGED = "cooler: its set point is 150 K, and 100 K was asked for: somebody else has changed it"


@pytest.mark.parametrize("policy", ["stop", "retry", "skip"])
def test_a_set_point_that_somebody_else_changes_is_said_and_nothing_is_measured_there(
    run, failing, cooler, caplog, policy
):
    cooler.changed_by_others = lambda: CHANGED if cooler.asked == [100.0] and failing[1] else ""

    if policy == "stop":
        with pytest.raises(DeviceError, match=r"150 K, and 100 K was asked for"):
            run([100.0, 200.0], SWEEPS, on_settle=policy)
    else:
        run([100.0, 200.0], SWEEPS, on_settle=policy)

    assert CHANGED in caplog.text
    at_100 = [call for call in failing[1] if call[0] == 100.0]
    assert len(at_100) == {"stop": 1, "retry": 2, "skip": 1}[policy]
    assert len(failing[1]) - len(at_100) == {"stop": 0, "retry": 2, "skip": 2}[policy]
    assert cooler.asked.count(100.0) == {"stop": 1, "retry": 2, "skip": 1}[policy]
