"""Tests that whoever makes a device inherits: one class for each role."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import bluesky.plan_stubs as bps
import pytest
from bluesky.utils import FailedStatus, RunEngineInterrupted
from event_model import DocumentNames, schema_validators

from offbragg.beamline.agreements import agreements_of
from offbragg.errors import OffbraggError
from offbragg.plans import rotation_scan
from offbragg.protocols import (
    Axis,
    ChecksValue,
    FillsColumns,
    Flyer,
    KeepsSpeed,
    Permit,
    Positioned,
    ReadsBack,
    SampleEnvironment,
    as_a,
    meets,
)
from offbragg.sweep import Sweep
from offbragg.testing.stand_ins import StandInAxis, StandInDetector


class Documents(list[tuple[str, dict[str, Any]]]):
    """The documents of runs, as (name, document)."""

    def of(self, name: str) -> list[dict[str, Any]]:
        """Return those of one kind."""
        return [doc for kind, doc in self if kind == name]

    def rows(self, stream: str) -> list[dict[str, Any]]:
        """Return the events of a stream, one mapping of keys to values each."""
        uids = {doc["uid"] for doc in self.of("descriptor") if doc["name"] == stream}
        rows = [doc["data"] for doc in self.of("event") if doc["descriptor"] in uids]
        for page in self.of("event_page"):
            if page["descriptor"] in uids:
                keys = list(page["data"])
                rows += [
                    dict(zip(keys, values, strict=True))
                    for values in zip(*page["data"].values(), strict=True)
                ]
        return rows


@contextmanager
def documents_of(RE: Any, also: Callable[[str, Any], None] | None = None) -> Iterator[Documents]:
    """Collect what a RunEngine emits, and show each document to ``also``."""
    documents = Documents()

    def take(name: str, doc: dict[str, Any]) -> None:
        documents.append((name, doc))
        if also is not None:
            also(name, doc)

    token = RE.subscribe(take)
    try:
        yield documents
    finally:
        RE.unsubscribe(token)


def assert_valid(documents: Documents) -> None:
    """Check every document against its schema of event-model."""
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)


class DeviceTests:
    """What all roles have in common."""

    role: type
    """Protocol of the role, of `offbragg.protocols`."""

    @pytest.fixture
    def device(self) -> Any:
        """Return the device under test."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture 'device'")

    def test_it_meets_the_agreement(self, device: object) -> None:
        """Every member is there, and can be called as plans call it."""
        found = agreements_of(device, {"the test kit": self.role})

        assert not found.problems
        assert not found.doubts


class FlightTests(DeviceTests):
    """What all that take part in a sweep have in common."""

    sweep: Sweep
    """What the device can measure; some ten frames in about a second."""
    bad_sweep: Sweep | None = None
    """What it has to refuse."""

    @pytest.fixture
    def axis(self) -> Any:
        """Return the axis of the sweep."""
        return StandInAxis(self.sweep.axis)

    @pytest.fixture
    def detector(self) -> Any:
        """Return the detector of the sweep."""
        return StandInDetector("stand_in")

    @pytest.fixture
    def scan(self, detector: object, axis: object) -> Callable[[Sweep], Any]:
        """Return a plan of one sweep."""
        return lambda sweep: rotation_scan(detector, axis, sweep)

    @pytest.fixture
    def measured(self, request: Any, kit_run_engine: Any, scan: Any) -> Documents:
        """Return the documents of one whole sweep, which the tests of a class share."""
        known = vars(request.cls).get("_measured")
        if known is None:
            with documents_of(kit_run_engine) as known:
                kit_run_engine(scan(self.sweep))
            request.cls._measured = known
        return known

    def test_its_documents_are_valid(self, measured: Documents) -> None:
        """A sweep is one run that succeeds, and every document of it follows its schema."""
        assert_valid(measured)
        assert len(measured.of("start")) == 1
        assert [doc["exit_status"] for doc in measured.of("stop")] == ["success"]

    def test_a_bad_sweep_is_refused_before_anything_moves(
        self, device: Any, kit_run_engine: Any, scan: Any
    ) -> None:
        """No run is opened for it, and nothing has moved."""
        if self.bad_sweep is None:
            pytest.skip(f"{type(self).__name__} has no bad_sweep")
        before = where(device)

        with documents_of(kit_run_engine) as documents, pytest.raises(OffbraggError):
            kit_run_engine(scan(self.bad_sweep))

        assert documents == [], "a run was opened: refuse in check(sweep), which is asked before"
        assert where(device) == before

    def test_after_an_abort_it_is_idle_and_measures_again(
        self, device: Any, kit_run_engine: Any, scan: Any
    ) -> None:
        """A sweep that is aborted in its middle leaves nothing behind."""
        RE, threads = kit_run_engine, []

        def abort(name: str, _: Any) -> None:
            if name == "stream_datum" and not threads:
                threads.append(threading.Thread(target=RE.abort, args=("test",)))
                threads[0].start()

        long = replace(self.sweep, n_frames=4 * self.sweep.n_frames)
        with documents_of(RE, abort) as documents, pytest.raises(RunEngineInterrupted):
            RE(scan(long))
        threads[0].join()

        assert_valid(documents)
        assert documents.of("stop")[-1]["exit_status"] == "abort"
        last = max(doc["indices"]["stop"] for doc in documents.of("stream_datum"))
        assert last < long.n_frames, "it went on to the end of the sweep"
        with documents_of(RE) as documents:
            RE(scan(self.sweep))
        assert documents.of("stop")[-1]["exit_status"] == "success"

    def test_staging_and_unstaging_can_be_repeated(self, device: Any, kit_run_engine: Any) -> None:
        """Unstaging comes also twice, and without a sweep."""

        def plan() -> Any:
            yield from bps.stage(device, wait=True)
            yield from bps.unstage(device, wait=True)
            yield from bps.unstage(device, wait=True)

        kit_run_engine(plan())


def where(device: object) -> Any:
    """Return where a device stands, if it knows."""
    standing = as_a(device, Positioned)
    return standing.position if standing else None


class AxisTests(FlightTests):
    """Tests of an axis."""

    role = Axis

    @pytest.fixture
    def axis(self, device: object) -> Any:
        """Return the device under test."""
        return device

    def test_it_stands_behind_the_end_with_its_own_speed(
        self, device: Any, kit_run_engine: Any, scan: Any
    ) -> None:
        """A sweep turns through its whole range and leaves no other speed."""
        keeps = as_a(device, KeepsSpeed)
        speed = keeps.usual_speed if keeps else None

        kit_run_engine(scan(self.sweep))

        if meets(device, Positioned):
            passed = (device.position - self.sweep.stop) * (1 if self.sweep.step > 0 else -1)
            assert passed >= -0.5 * abs(self.sweep.step), "it stands before the end of the sweep"
        if keeps:
            assert keeps.usual_speed == speed

    def test_its_read_backs_cover_the_sweep(self, device: object, measured: Documents) -> None:
        """Where it says when it was where, it says so from before the start to behind the end."""
        reader = as_a(device, ReadsBack)
        if reader is None:
            pytest.skip("it does not read back")
        stream = reader.angle_key
        rows = measured.rows(stream)
        if not rows:
            pytest.skip("read-backs are recorded with a detector that knows its start")
        angles = [row[stream] for row in rows]

        low, high = sorted((self.sweep.start, self.sweep.stop))
        assert min(angles) <= low
        assert max(angles) >= high


class FlyerTests(FlightTests):
    """Tests of a flyer: a counter, a position compare."""

    role = Flyer

    @pytest.fixture
    def scan(self, device: object, detector: object, axis: object) -> Callable[[Sweep], Any]:
        """Return a plan of one sweep with the flyer."""
        return lambda sweep: rotation_scan(detector, axis, sweep, flyers=[device])

    def test_it_has_one_row_for_each_frame(self, device: Any, measured: Documents) -> None:
        """Its stream has its name, and each frame is in it once."""
        rows = measured.rows(device.name)
        columns = as_a(device, FillsColumns)
        joined = {c["by"] for c in columns.per_frame.values() if "by" in c} if columns else set()

        assert len(rows) == self.sweep.n_frames
        for key in joined:
            assert [row[key] for row in rows] == list(range(self.sweep.n_frames))
        for column in columns.per_frame.values() if columns else ():
            assert all(column["key"] in row for row in rows)


class SampleEnvironmentTests(DeviceTests):
    """Tests of a sample environment."""

    role = SampleEnvironment
    values: Sequence[float]
    """Two values that it can be set to within a test, in its own unit."""
    bad_value: float | None = None
    """One that it has to refuse."""
    tolerance: float
    """How far from a value it may stand once it has settled."""

    def test_a_set_is_done_when_it_is_there(self, device: Any, kit_run_engine: Any) -> None:
        """Plans believe the status."""
        for value in self.values:
            kit_run_engine(bps.mv(device, value))
            if meets(device, Positioned):
                assert device.position == pytest.approx(value, abs=self.tolerance)

    def test_a_set_that_is_overtaken_fails(self, device: Any, kit_run_engine: Any) -> None:
        """No plan goes on as if it were there."""
        statuses: list[Any] = []

        def plan() -> Any:
            first, second = self.values
            try:
                statuses.append((yield from bps.abs_set(device, first)))
                yield from bps.mv(device, second)
            except FailedStatus:
                yield from bps.mv(device, second)

        kit_run_engine(bps.mv(device, self.values[1]))
        kit_run_engine(plan())

        (status,) = statuses
        assert status.done, "its first status is still waiting"
        assert not status.success

    def test_a_bad_value_is_refused(self, device: object) -> None:
        """It is refused by check_value, which is asked before anything moves."""
        checker = as_a(device, ChecksValue)
        if checker is None or self.bad_value is None:
            pytest.skip("it has no check_value, or the class no bad_value")
        before = where(device)

        with pytest.raises(OffbraggError):
            checker.check_value(self.bad_value)

        assert where(device) == pytest.approx(before, abs=self.tolerance)


class PermitTests(DeviceTests):
    """Tests of a permit."""

    role = Permit

    def test_it_answers_at_once(self, device: Any) -> None:
        """A plan asks it twice a second while there is no beam."""
        began = time.monotonic()

        assert device.ok() in (True, False)
        assert time.monotonic() - began < 10

    def test_its_signal_is_1_with_beam_and_0_without(
        self, device: Any, kit_run_engine: Any
    ) -> None:
        """The signal is recorded through a sweep, by its name."""
        read: dict[str, Any] = {}

        def plan() -> Any:
            read.update((yield from bps.read(device.beam)))

        kit_run_engine(plan())

        assert read[device.beam.name]["value"] in (0, 1)
