"""A lost beam costs angles, never a series."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace

import h5py
import numpy as np
import pytest
from event_model import DocumentNames, schema_validators
from ophyd import Signal

from offbragg.devices.beam import BeamPermit
from offbragg.errors import DeviceError
from offbragg.files.journal_file import read_journal
from offbragg.files.nxrefine import write_wrapper
from offbragg.files.scan_file import ScanFile
from offbragg.followers.stacker import Stacker
from offbragg.plans import temperature_series
from offbragg.sweep import Sweep

pytestmark = pytest.mark.ioc

SWEEP = Sweep(axis="phi", start=0.0, step=0.2, n_frames=40, exposure=0.09, period=0.1)


class RingPermit:
    """Beam is more than 10 mA in the ring."""

    def __init__(self, ring) -> None:
        self.beam = Signal(name="permit_beam", value=1)
        self.ring = ring
        self.asked = 0
        ring.current.subscribe(self._take)

    def _take(self, value=None, timestamp=None, **_):
        if int(value > 10) != self.beam.get():
            self.beam.put(int(value > 10), timestamp=timestamp)

    def ok(self) -> bool:
        self.asked += 1
        return bool(self.beam.get())

    def close(self) -> None:
        self.ring.current.unsubscribe(self.ring.current.subscribe(self._take))


@pytest.fixture
def dump(ioc):
    """Lose the beam, or bring it back."""
    from epics import caput

    def dump(lost: bool) -> None:
        assert caput(f"{ioc['prefix']}ring:dump", int(lost), wait=True, timeout=5) == 1

    yield dump
    dump(False)


@pytest.fixture
def permit(devices, dump):
    dump(False)
    return RingPermit(devices["ring"])


def when(devices, frame: int, do) -> threading.Thread:
    """Do something when a frame has come."""

    def wait_and_do():
        deadline = time.monotonic() + 60
        pilatus = devices["pilatus"]
        while time.monotonic() < deadline and not (pilatus.flying and pilatus.get_index() >= frame):
            time.sleep(0.01)
        do()

    thread = threading.Thread(target=wait_and_do)
    thread.start()
    return thread


def series(devices, permit, **more):
    return temperature_series(
        devices["pilatus"], devices["phi"], devices["cryostream"], [291.0],
        more.pop("sweeps", [SWEEP]), flyers=[devices["monitor"]], shutter=devices["shutter"],
        permit=permit,
        **{"overlap": 1.0, **more},
    )  # fmt: skip


def weights(config, uid: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stack a run; return weight and monitor of its frames, and the weights for NXRefine."""
    documents, _ = read_journal(config.paths.journal / f"{uid}.jsonl")
    stacker = Stacker(config.paths.experiment).open(documents[0][1])
    for name, doc in documents:
        stacker(name, doc)
    deadline = time.monotonic() + 30
    while not stacker.poll() and time.monotonic() < deadline:
        time.sleep(0.02)
    with ScanFile.open(stacker.path) as scan:
        values = scan.frame_values()
        assert set(values["status"]) == {"stored"}
    with h5py.File(write_wrapper(stacker.path)) as file:
        for_nxrefine = file[f"{stacker.path.stem}/data/monitor_weight"][()]
    return values["weight"], values["monitor"], for_nxrefine


def test_the_angles_of_a_lost_beam_are_measured_again_with_their_overlap(
    RE, config, devices, documents, dump
):
    lasted = []

    def lose():
        began = time.monotonic()
        dump(True)
        time.sleep(0.8)
        dump(False)
        lasted.append(time.monotonic() - began)  # longer on a busy host

    thread = when(devices, 12, lose)
    first, again = RE(series(devices, devices["permit"]))
    thread.join()

    assert [doc["exit_status"] for doc in documents.of("stop")] == ["success"] * 2
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    weight, monitor, for_nxrefine = weights(config, first)
    dark = np.flatnonzero(weight == 0)
    assert 7 <= dark.size <= 10 * lasted[0] + 4  # at 10 Hz, and what the edges touch
    assert set(weight) == {0.0, 1.0}
    assert set(np.flatnonzero(monitor == 0)) <= set(dark)
    assert (monitor[weight == 1] > 0.8 * np.median(monitor)).all()
    np.testing.assert_array_equal(np.flatnonzero(for_nxrefine == 0), dark)
    # extra frames = missing + overlap, exactly: 1° is 5 frames on each side
    start = documents.of("start")[1]
    assert start["series"]["follows"] == first
    assert start["series"]["sweep_of"] == [0, 0]
    assert start["sweep"]["n_frames"] == dark.size + 5 + min(5, SWEEP.n_frames - 1 - dark[-1])
    assert start["sweep"]["start"] == pytest.approx(SWEEP.edges[dark[0] - 5])
    assert (weights(config, again)[0] == 1).all()


def test_a_top_up_never_pauses(RE, ioc, devices, documents, permit):
    from epics import caput

    # a top-up every 0.35 s: 102 mA to 101.5 mA at this lifetime
    assert caput(f"{ioc['prefix']}ring:lifetime", 0.02, wait=True, timeout=5) == 1
    try:
        assert len(RE(series(devices, permit))) == 1
    finally:
        caput(f"{ioc['prefix']}ring:lifetime", 8.0, wait=True, timeout=5)

    assert documents.stop()["exit_status"] == "success"
    currents = documents.rows("ring_current")
    assert max(np.diff(currents)) > 0.1, "there was no top-up"


def test_a_series_waits_for_beam_with_the_shutter_closed(RE, devices, documents, permit, dump):
    dump(True)
    permit.asked = 0
    seen = []

    def back():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and permit.asked < 4:
            time.sleep(0.05)
        seen.append((devices["shutter"].state.get(), len(documents)))
        dump(False)

    thread = threading.Thread(target=back)
    thread.start()
    RE(series(devices, permit))
    thread.join()

    assert seen == [(0, 0)]
    assert len(documents.of("start")) == 1
    assert documents.stop()["exit_status"] == "success"


def test_no_beam_for_too_long_ends_the_series_with_the_reason(RE, devices, documents, permit, dump):
    dump(True)

    with pytest.raises(DeviceError, match=r"no beam for 1 s"):
        RE(series(devices, permit, beam_timeout=1.0))

    assert documents == []


@pytest.mark.slow
def test_dark_angles_can_be_left_dark(RE, devices, documents, permit, dump):
    def lose():
        dump(True)
        time.sleep(0.3)
        dump(False)

    thread = when(devices, 12, lose)
    uids = RE(series(devices, permit, on_beam="skip"))
    thread.join()

    assert len(uids) == 1


@pytest.mark.slow
@pytest.mark.parametrize("part", range(2))
def test_at_twenty_random_moments_extra_frames_are_missing_and_overlap_exactly(
    RE, config, devices, documents, dump, part
):
    moments = random.Random(f"dump, part {part}")
    lost, extra = 0, 0
    for _ in range(10):
        documents.clear()
        dump(False)
        frame, seconds = moments.randint(0, 35), moments.uniform(0.05, 2.0)

        def lose(seconds=seconds):
            dump(True)
            time.sleep(seconds)
            dump(False)

        thread = when(devices, frame, lose)
        first, *rest = RE(series(devices, devices["permit"]))
        thread.join()

        where = f"{seconds:.2f} s from frame {frame}"
        weight, monitor, _ = weights(config, first)
        dark = np.flatnonzero(weight == 0)
        assert (monitor[weight == 1] > 0.8 * np.median(monitor[monitor > 0])).all(), where
        measured = sum(start["sweep"]["n_frames"] for start in documents.of("start")[1:])
        again = np.zeros(SWEEP.n_frames, bool)
        for number in dark:
            again[max(number - 5, 0) : number + 6] = True
        assert measured == again.sum(), where
        assert len(rest) == (1 if dark.size else 0), where
        lost, extra = lost + dark.size, extra + measured
    print(f"10 losses: {lost} dark frames, {extra} measured again")


@pytest.mark.slow
def test_a_dump_of_thirty_seconds_costs_its_angles_and_their_overlap(
    RE, config, devices, documents, dump
):
    long = replace(SWEEP, step=0.05, n_frames=400)

    def lose():
        dump(True)
        time.sleep(30.0)
        dump(False)

    thread = when(devices, 30, lose)
    first, again = RE(series(devices, devices["permit"], sweeps=[long]))
    thread.join()

    weight, monitor, _ = weights(config, first)
    dark = np.flatnonzero(weight == 0)
    assert 295 <= dark.size <= 315
    assert (monitor[weight == 1] > 0.8 * np.median(monitor[monitor > 0])).all()
    start = documents.of("start")[1]
    assert start["sweep"]["n_frames"] == dark.size + 2 * 20  # 1° is 20 frames
    assert (weights(config, again)[0] == 1).all()


class MonitorPermit(BeamPermit):
    """A permit that knows of the beam by the monitor only."""

    def __init__(self, ring, monitor) -> None:
        super().__init__(ring, None, monitor, ring_threshold=0.0)


def test_a_loss_that_only_the_monitor_sees_leaves_no_dark_frame_its_weight(
    RE, config, devices, documents, dump
):
    blind = MonitorPermit(devices["ring"], devices["monitor"])

    def lose():
        dump(True)
        time.sleep(0.6)
        dump(False)

    thread = when(devices, 12, lose)
    first, again = RE(series(devices, blind))
    thread.join()

    weight, monitor, _ = weights(config, first)
    assert set(weight) == {0.0, 1.0}
    assert 5 <= np.count_nonzero(monitor < 0.5 * monitor.max()) <= 8
    assert (monitor[weight == 1] > 0.8 * np.median(monitor[monitor > 0])).all()
    (start,) = documents.of("start")[1:]
    assert start["sweep"]["n_frames"] == np.count_nonzero(weight == 0) + 2 * 5
    assert (weights(config, again)[0] == 1).all()
