"""Temperature series over real Channel Access."""

from __future__ import annotations

import itertools

import pytest
from runs import wait_until

from offbragg.errors import ConfigError, DeviceError
from offbragg.plans import temperature_series
from offbragg.sweep import Sweep

pytestmark = pytest.mark.ioc

SWEEPS = [
    Sweep(axis="phi", start=start, step=0.5, n_frames=4, exposure=0.09, period=0.1)
    for start in (0.0, 10.0)
]


def test_a_series_measures_every_sweep_at_every_settled_temperature(RE, devices, documents):
    result = RE(
        temperature_series(
            devices["pilatus"], devices["phi"], devices["cryostream"], [290.0, 292.0], SWEEPS
        )
    )

    starts = documents.of("start")
    assert [doc["uid"] for doc in starts] == list(result)
    assert [doc["temperature"]["setpoint"] for doc in starts] == [290.0, 290.0, 292.0, 292.0]
    assert starts[-1]["temperature"]["direction"] == "warming"
    assert len({doc["series"]["uid"] for doc in starts}) == 1
    assert [doc["series"]["index"] for doc in starts] == [0, 1, 2, 3]
    for doc in starts:
        settled = doc["temperature"]["settled"]
        assert settled["mean"] == pytest.approx(doc["temperature"]["setpoint"], abs=0.5)
        assert settled["std"] < 0.2
    assert [doc["exit_status"] for doc in documents.of("stop")] == ["success"] * 4


def test_one_temperature_out_of_range_refuses_the_whole_series(RE, devices, documents):
    target = devices["cryostream"].target.get()

    with pytest.raises(ConfigError, match="temperature 20 K is outside 80 to 400 K"):
        RE(
            temperature_series(
                devices["pilatus"], devices["phi"], devices["cryostream"], [285.0, 20.0], SWEEPS
            )
        )

    assert documents == []
    assert devices["cryostream"].target.get() == target


def test_a_sample_that_does_not_settle_ends_the_series_with_the_reason(
    RE, devices, documents, monkeypatch
):
    cryostream = devices["cryostream"]
    monkeypatch.setattr(cryostream, "settle", type(cryostream.settle)(tolerance=1e-6, window=2.0))
    monkeypatch.setattr(cryostream, "timeout", 1.0)
    monkeypatch.setattr(cryostream, "ramp_rate", 360.0)

    with pytest.raises(DeviceError, match=r"did not settle at .* K in .* s: .*at [23]"):
        RE(
            temperature_series(
                devices["pilatus"], devices["phi"], cryostream,
                [round(cryostream.position) - 0.01], SWEEPS,
            )
        )  # fmt: skip

    assert documents == []


def test_both_ways_turns_back_in_every_other_sweep_and_goes_on_from_where_it_is(
    RE, devices, documents
):
    phi = devices["phi"]
    sweep = SWEEPS[0]
    wait_until(lambda: not phi.moving, 30, "the axis to stand after the test before")
    moves = []
    watch = phi.user_setpoint.subscribe(lambda value=None, **_: moves.append(value), run=False)

    RE(
        temperature_series(
            devices["pilatus"], phi, devices["cryostream"], [290.0, 291.0], [sweep, sweep],
            both_ways=True,
        )
    )  # fmt: skip
    phi.user_setpoint.unsubscribe(watch)

    turned = [Sweep.from_dict(doc["sweep"]) for doc in documents.of("start")]
    assert turned == [sweep, sweep.backwards()] * 2
    assert [doc["exit_status"] for doc in documents.of("stop")] == ["success"] * 4
    # it never goes to the other end in between: each move ends beside where the last one did
    ends = [value for value, _ in itertools.groupby(moves)]
    assert len(ends) >= 8
    assert all(abs(a - b) < 2.0 for a, b in zip(ends[1::2], ends[2::2], strict=False))


def test_the_axis_goes_back_while_the_sample_settles(RE, devices, documents):
    phi, cryostream = devices["phi"], devices["cryostream"]
    when = {}

    def done(doc_name, doc):
        if doc_name == "start":
            when.setdefault("opened", phi.position)

    RE.subscribe(done)
    RE(temperature_series(devices["pilatus"], phi, cryostream, [293.0], [SWEEPS[1]]))

    assert when["opened"] == pytest.approx(phi.run_up(SWEEPS[1]), abs=0.01)
