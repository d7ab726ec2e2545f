"""Frames beside the data, over real Channel Access."""

from __future__ import annotations

import numpy as np
import pytest
from event_model import DocumentNames, schema_validators
from ophyd.sim import SynAxis

from offbragg.errors import DeviceError, MetadataError, SweepError
from offbragg.files.journal_file import read_journal
from offbragg.files.scan_file import ScanFile
from offbragg.followers.stacker import Stacker
from offbragg.plans import air_scan, calibrate, dark, expose, orient_scan, rotation_scan
from offbragg.sweep import Sweep

pytestmark = pytest.mark.ioc

SWEEP = Sweep(axis="phi", start=0.0, step=0.2, n_frames=20, exposure=0.09, period=0.1)


@pytest.fixture
def put_back():
    """A device that knows where it was: stands for attenuator or translation."""
    device = SynAxis(name="put_back", value=1.0)
    device.seen = []
    device.subscribe(lambda value=None, **_: device.seen.append(value), run=False)
    return device


def stacked(config, uid):
    documents, _ = read_journal(config.paths.journal / f"{uid}.jsonl")
    stacker = Stacker(config.paths.experiment).open(documents[0][1])
    for name, doc in documents:
        stacker(name, doc)
    while not stacker.poll():
        pass
    return stacker.path


def test_stills_stand_still(RE, devices, documents, config):
    position = devices["phi"].position

    (uid,) = RE(
        expose(
            devices["pilatus"], 4, 0.1, axis=devices["phi"], flyers=[devices["monitor"]],
            shutter=devices["shutter"],
        )
    )  # fmt: skip

    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    start = documents.start()
    assert start["plan_name"] == "expose"
    assert start["motors"] == []
    assert devices["phi"].position == position
    assert devices["shutter"].state.get() == 0
    with ScanFile.open(stacked(config, uid)) as scan:
        assert scan.ledger.counts()["stored"] == 4
        np.testing.assert_allclose(scan.frame_values()["angle"], position)
        assert (scan.frame_values()["monitor"] > 0).all()


def test_stills_without_an_axis_are_at_the_angle_where_it_stands(RE, devices, documents):
    phi = devices["phi"]
    phi.set(3.25).wait(60)

    RE(expose(devices["pilatus"], 1, 0.1))

    assert documents.start()["sweep"]["axis"] == "phi"
    assert documents.start()["sweep"]["start"] == pytest.approx(3.25)
    assert devices["pilatus"].cam.start_angle.get() == pytest.approx(3.25)  # in the headers, too


def test_what_is_recorded_anyway_can_be_monitored_too(RE, devices, documents):
    current = devices["ring"].current

    RE(expose(devices["pilatus"], 1, 0.1, monitors=[current]))

    keys = [column["key"] for column in documents.start()["per_frame"].values()]
    assert keys.count(current.name) >= 1
    streams = [doc["name"] for doc in documents.of("descriptor")]
    assert streams.count(current.name) == 1


def test_an_orientation_run_says_what_the_filters_are_and_not_what_was_asked(
    RE, devices, documents, put_back
):
    put_back.attenuation = 87.5

    RE(orient_scan(devices["pilatus"], devices["phi"], SWEEP, attenuator=put_back, both_ways=False))

    assert documents.start()["attenuation"] == 87.5


def test_darks_are_dark(RE, devices, documents, config):
    uids = RE(dark(devices["pilatus"], 3, 0.1, shutter=devices["shutter"]))

    assert documents.start()["purpose"] == "dark"
    path = stacked(config, uids[0])
    assert path.parent.parent.name == "crystal1_dark"
    with ScanFile.open(path) as scan:
        assert np.median(scan.stack.counts[0]) == 0


def test_a_powder_standard_is_its_run_s_sample(RE, devices, documents, config):
    uids = RE(calibrate(devices["pilatus"], "LaB6", 2, 0.1, shutter=devices["shutter"]))

    assert documents.start()["purpose"] == "calibration"
    assert stacked(config, uids[0]).parts[-4:-2] == ("LaB6", "powder_calibration")


def test_an_orientation_run_is_attenuated_and_goes_both_ways(RE, devices, documents, put_back):
    uids = RE(
        orient_scan(
            devices["pilatus"], devices["phi"], SWEEP, attenuator=put_back, transmission=0.01,
            shutter=devices["shutter"],
        )
    )  # fmt: skip

    there, back = documents.of("start")
    assert [there["uid"], back["uid"]] == list(uids)
    assert there["purpose"] == "orient"
    assert there["attenuation"] == pytest.approx(100.0)
    assert (there["sweep"]["start"], there["sweep"]["step"]) == (0.0, 0.2)
    assert (back["sweep"]["start"], back["sweep"]["step"]) == (4.0, -0.2)
    assert put_back.seen == pytest.approx([0.01, 1.0])


def test_air_is_measured_at_a_tenth_of_the_angles_with_the_crystal_out(
    RE, devices, documents, put_back
):
    RE(
        air_scan(
            devices["pilatus"], devices["phi"], SWEEP, put_back, 25.0, shutter=devices["shutter"]
        )
    )

    start = documents.start()
    assert start["purpose"] == "background"
    assert (start["sweep"]["n_frames"], start["sweep"]["step"]) == (2, 2.0)
    assert start["sweep"]["exposure"] == SWEEP.exposure
    assert put_back.seen == [25.0, 1.0]


def test_the_crystal_comes_back_when_the_run_fails(
    RE, devices, documents, put_back, simulator, monkeypatch
):
    monkeypatch.setattr(devices["pilatus"], "patience", 0.5)
    monkeypatch.setattr(devices["pilatus"], "max_missing", 0)
    simulator("hang", 1)

    with pytest.raises(DeviceError):
        RE(air_scan(devices["pilatus"], devices["phi"], SWEEP, put_back, 25.0, every=2))

    simulator("hang", -1)
    assert put_back.seen == [25.0, 1.0]


def test_what_cannot_be_is_refused_before_anything_moves(RE, devices, documents, put_back):
    detector, phi = devices["pilatus"], devices["phi"]

    with pytest.raises(SweepError, match="for stills there is expose"):
        RE(rotation_scan(detector, phi, Sweep("phi", 0.0, 0.0, 3, 0.09, 0.1)))
    with pytest.raises(SweepError, match=r"transmission is 2\.0: it must be above 0"):
        RE(orient_scan(detector, phi, SWEEP, attenuator=put_back, transmission=2.0))
    with pytest.raises(SweepError, match="every is 0"):
        RE(air_scan(detector, phi, SWEEP, put_back, 25.0, every=0))
    with pytest.raises(SweepError, match=r"n_frames is 0"):
        RE(expose(detector, 0, 0.1))
    with pytest.raises(SweepError, match=r"sweep\.exposure is '1 s'"):
        RE(expose(detector, 1, "1 s"))
    with pytest.raises(SweepError, match=r"a sweep is 5: it must be a Sweep"):
        RE(rotation_scan(detector, phi, 5))
    with pytest.raises(SweepError, match="transmission is 'low'"):
        RE(orient_scan(detector, phi, SWEEP, attenuator=put_back, transmission="low"))
    with pytest.raises(SweepError, match="every is 'few'"):
        RE(air_scan(detector, phi, SWEEP, put_back, 25.0, every="few"))
    with pytest.raises(SweepError, match="flush_period is 'often'"):
        RE(rotation_scan(detector, phi, SWEEP, flush_period="often"))
    with pytest.raises(MetadataError, match="md says 'purpose'"):
        RE(rotation_scan(detector, phi, SWEEP, md={"purpose": "dark"}))
    with pytest.raises(SweepError, match="dark was given no shutter: nothing would keep the beam"):
        RE(dark(detector, 3, 0.1))
    with pytest.raises(MetadataError, match="md is 'x': it must be a mapping"):
        RE(rotation_scan(detector, phi, SWEEP, md="x"))
    for odd, message in (
        ({1: 2}, "^md has the key 1, of type int: a key must be text"),
        ({"a.b": 1}, "^md has the key 'a.b': a key must be text, and have neither"),
        ({"more": {"a/b": 1}}, "the key 'a/b': a key must be text, and have neither"),
    ):
        with pytest.raises(MetadataError, match=message):
            RE(expose(detector, 3, 0.1, md=odd))
    with pytest.raises(SweepError, match=r"ring, a whole device: .*\nIt has ring\.cur"):
        RE(expose(detector, 3, 0.1, monitors=[devices["ring"]]))
    with pytest.raises(SweepError, match=r"sweep\.turns is unknown"):
        RE(rotation_scan(detector, phi, {"turns": 3}))

    assert documents == []
    assert put_back.seen == []
