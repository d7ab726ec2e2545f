"""What is published is what other people's clients expect, also while the crystal turns."""

from __future__ import annotations

import io
import threading
import time

import numpy as np
import pytest
from bluesky_tiled_plugins.queries import ScanID, TimeRange
from bluesky_tiled_plugins.writing.validator import validate
from catalog.served import Documents
from event_model import DocumentNames, schema_validators
from files.torn import tear
from rich.console import Console
from runs import counts_of, wait_until
from tiled.queries import Contains, FullText, Key, KeyPresent, Like

from offbragg.alarms.board import Alarm, Change
from offbragg.callbacks.unpublished import Unpublished
from offbragg.errors import CatalogError
from offbragg.files.examine import Examiner
from offbragg.files.journal_file import read_journal
from offbragg.followers import publisher as module
from offbragg.followers.follow import follow
from offbragg.followers.publisher import Publisher
from offbragg.followers.run_documents import (
    frames_datum,
    rewrite_descriptor,
    stack_resource,
    summary_documents,
)
from offbragg.followers.stacker import Stacker
from offbragg.plans.watch import WatchStream
from offbragg.recovery.compare import differences
from offbragg.status import describe

DESCRIPTOR = {"uid": "d", "name": "primary", "time": 0.0, "data_keys": {"pilatus_image": {}}}


# -- pure ------------------------------------------------------------------------------------


def test_the_descriptor_of_primary_declares_a_row_per_frame(run):
    new = rewrite_descriptor(run.start, DESCRIPTOR)

    assert list(new["data_keys"]) == [
        *("pilatus_image", "angle", "angle_sigma", "monitor", "temperature"),
        *("status", "reason", "angle_source"),
    ]
    assert new["data_keys"]["temperature"]["units"] == "K"
    assert all("external" not in new["data_keys"][k] for k in ("angle", "status"))
    assert list(DESCRIPTOR["data_keys"]) == ["pilatus_image"]


def test_publishing_twice_gives_the_same_uids(run, tmp_path):
    once, again = (stack_resource(run.start, tmp_path / "f1.h5") for _ in range(2))

    assert once == again
    assert frames_datum(once, DESCRIPTOR, 3, 5) == frames_datum(again, DESCRIPTOR, 3, 5)


def test_the_summary_leaves_out_what_is_not_known(run):
    values = {
        "monitor": np.full(10, np.nan), "temperature": np.array([1.0, 3.0] + [np.nan] * 8),
        "angle": np.arange(10.0), "angle_source": np.array(["commanded"] * 10),
    }  # fmt: skip
    counts = {"pending": 0, "stored": 8, "missing": 2, "rejected": 0}

    (_, descriptor), (_, event) = summary_documents(run.start, {"time": 9.0}, counts, values)

    assert event["data"] == {
        "stored": 8,
        "missing": 2,
        "rejected": 0,
        "completeness": 0.8,
        "angles_measured": 0,
        "temperature_mean": 2.0,
        "temperature_std": 1.0,
        "temperature_span": 2.0,
    }
    assert descriptor["data_keys"].keys() == event["data"].keys()


# -- a whole run -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "queries",
    [
        [Key("sample.name") == "LSMO-140"],
        [Key("temperature.setpoint") >= 94.0, Key("temperature.setpoint") < 96.0],
        [Key("temperature.direction") == "cooling"],
        [Like("sample.name", "LSMO%")],
        [Contains("sample.formula", "MnO")],
        [KeyPresent("series.uid")],
        [FullText('"LSMO-140"')],
        [ScanID(1)],
        [Key("sweep.n_frames") == 10, Key("purpose") == "data"],
    ],
    ids=str,
)
def test_the_run_is_found(whole, queries):
    found = whole.client
    for query in queries:
        found = found.search(query)

    assert whole.uid in found


def test_the_run_is_found_by_its_time(whole):
    at = whole.began

    assert whole.uid in whole.client.search(TimeRange(since=at - 1, until=at + 1))
    assert whole.uid not in whole.client.search(TimeRange(since=at + 1))


@pytest.mark.parametrize(
    "query", [Key("temperature.setpoint") > 96.0, Key("sample.name") == "LSMO", ScanID(2)], ids=str
)
def test_a_run_that_does_not_match_is_not_found(whole, query):
    assert whole.uid not in whole.client.search(query)


def test_the_stack_is_sliced_over_http(whole):
    stack = whole.node["primary"]["pilatus_image"]

    assert stack.shape == (10, *counts_of(0).shape)
    np.testing.assert_array_equal(stack[2], counts_of(2))
    np.testing.assert_array_equal(stack[4:6, 3:9, 7], [counts_of(n)[3:9, 7] for n in (4, 5)])
    assert np.all(stack[3] == -1)
    assert np.all(stack[7] == -1)


def test_rows_and_pixels_share_their_dimension(whole):
    data = whole.node["primary"].read()

    assert data["pilatus_image"].dims == ("time", "slow", "fast")
    bad = data.isel(time=data["status"].to_numpy() != "stored")
    assert bad["angle"].to_numpy().tolist() == [1.75, 3.75]
    assert "was not there" in str(bad["reason"].to_numpy()[0])
    assert np.all(bad["pilatus_image"] == -1)


def test_the_stop_document_says_what_became_of_the_frames(whole):
    stop = whole.node.stop

    assert stop["offbragg"]["frames"] == {"stored": 8, "missing": 1, "rejected": 1}
    assert stop["offbragg"]["scan_file"].endswith("/f1.h5")
    assert stop["num_events"] == {"primary": 10, "summary": 1}


def test_the_streams_are_those_of_the_run_without_the_per_frame_one(whole):
    assert set(whole.node) == {"primary", "cryostream_temperature", "summary"}
    rows = whole.node["cryostream_temperature"].read()
    assert rows["cryostream_temperature"].to_numpy().tolist() == [95.0, 95.1]
    assert whole.node["summary"].read()["completeness"].item() == 0.8


def test_databroker_gives_one_row_per_frame(whole):
    (header,) = whole.client.v1(**{"sample.name": "LSMO-140", "temperature.setpoint": 95.0})

    table = header.table()

    assert header.start["uid"] == whole.uid
    assert table.index.tolist() == list(range(1, 11))
    assert set(table) == {
        *("time", "angle", "angle_sigma", "angle_source"),
        *("monitor", "temperature", "status", "reason"),
    }
    assert table["angle"].tolist() == [0.5 * n + 0.25 for n in range(10)]
    assert table["status"].value_counts().to_dict() == {"stored": 8, "missing": 1, "rejected": 1}
    stored = table[table["status"] == "stored"]
    assert stored["monitor"].tolist() == [1000.0 + n - 1 for n in stored.index]
    assert table["time"].is_monotonic_increasing


def test_the_client_stays_what_it_is_after_databroker_has_used_it(whole):
    before = type(whole.node)
    whole.client.v1[whole.uid].table()

    assert type(whole.node) is before


def test_databroker_reads_the_newest_run(make_run):
    run = make_run(n_frames=2)
    run.begin().create_scan_file()
    run.store(0, 1)
    run.finish()
    assert run.open().feed()

    assert run.client.v1[-1].start["uid"] == run.uid
    assert len(run.client.v1[-1].table()) == 2
    data = run.client.v2[-1].primary.read()
    np.testing.assert_array_equal(data["pilatus_image"][1], counts_of(1))
    assert run.client.v2[-1].primary["data"]["monitor"].read().tolist() == [1000.0, 1001.0]


def test_the_documents_are_valid(whole):
    documents = list(whole.node.documents())

    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    names = [name for name, _ in documents]
    assert names[0] == "start"
    assert names[-1] == "stop"
    primary = whole.node["primary"].descriptors[0]["uid"]
    events = [d for n, d in documents if n == "event" and d["descriptor"] == primary]
    assert [e["seq_num"] for e in events] == list(range(1, 11))
    assert [e["data"]["status"] for e in events[2:5]] == ["stored", "missing", "stored"]
    (datum,) = [d for n, d in documents if n == "stream_datum"]
    assert datum["indices"] == {"start": 0, "stop": 10}


def test_the_validator_of_bluesky_tiled_plugins_finds_nothing(whole):
    assert validate(whole.node, fix_errors=False, try_reading=True, raise_on_error=True)


def test_a_run_that_is_whole_is_left_alone(whole):
    assert whole.publisher.done(whole.start)

    whole.open()

    assert whole.feed()
    assert whole.node["primary"]["pilatus_image"].shape[0] == 10


# -- while the crystal turns -----------------------------------------------------------------


def test_the_stack_and_its_rows_grow_while_the_run_lasts(make_run):
    run = make_run()
    run.begin().create_scan_file()
    run.store(0, 1, 2)
    run.open()

    assert not run.feed()
    assert run.node["primary"]["pilatus_image"].shape[0] == 3
    np.testing.assert_array_equal(run.node["primary"]["pilatus_image"][2], counts_of(2))
    assert len(run.client.v1[run.uid].table()) == 3

    run.store(3, 4, 6)  # 5 is still to come
    assert not run.feed()
    np.testing.assert_array_equal(run.node["primary"]["pilatus_image"][4], counts_of(4))
    assert run.node["primary"]["status"].read().tolist() == ["stored"] * 5
    assert run.node.stop == {}


def test_rows_that_are_ahead_of_the_stack_do_not_spoil_a_read(make_run):
    run = make_run()
    run.begin().create_scan_file()
    run.store(0, 1, 2)
    run.open()
    run.feed()
    run.store(3)

    data = run.node["primary"].read()

    assert data["pilatus_image"].dims == ("frame", "slow", "fast")
    assert data.sizes["frame"] == 3
    assert data.sizes["time"] == 4


def test_a_stack_that_a_kill_tore_keeps_no_one_waiting(make_run, whole):
    run = make_run(n_frames=400)  # their index is longer than a page
    run.begin()
    run.create_scan_file()
    run.open()
    run.store(*range(4))
    run.announce(4)
    run.feed()
    frames = run.node["primary"]["pilatus_image"]
    np.testing.assert_array_equal(frames[3], counts_of(3))

    tear(run.scan.path, lambda: run.store(4, 5))

    with pytest.raises(CatalogError, match=r"503.*Restart offbragg stack: it rebuilds the file"):
        frames[2]
    np.testing.assert_array_equal(whole.node["primary"]["pilatus_image"][0], counts_of(0))


def test_a_column_that_grows_between_two_requests_is_read_as_long_as_it_was(make_run):
    run = make_run().begin()
    run.create_scan_file()
    run.open()
    run.store(0, 1, 2)
    run.announce(3)
    run.feed()
    status, angle = (run.node["primary"][column] for column in ("status", "angle"))
    run.store(3, 4)

    assert [str(word) for word in status.read()] == ["stored"] * 3
    np.testing.assert_allclose(angle[:], [0.25, 0.75, 1.25])
    np.testing.assert_allclose(angle[1:], [0.75, 1.25])
    assert len(run.node["primary"]["status"].read()) == 5


@pytest.mark.filterwarnings(  # Tiled's own way to open a websocket, with websockets 17.1
    r"ignore:connect\(\) must be used as a context manager:DeprecationWarning"
)
def test_a_subscriber_sees_the_stack_grow(make_run):
    run = make_run()
    run.begin().create_scan_file()
    run.store(0, 1)
    run.open()
    run.feed()
    shapes: list[int] = []
    seen = threading.Event()

    def note(update) -> None:
        shapes.append(update.shape[0])
        if update.shape[0] == 4:
            np.testing.assert_array_equal(update.data()[-1], counts_of(3))
            seen.set()

    subscription = run.node["primary"]["pilatus_image"].subscribe()
    subscription.new_data.add_callback(note)
    with subscription.start_in_thread():
        run.store(2, 3)
        run.feed()
        assert seen.wait(20), shapes


def test_frames_go_to_the_catalog_together_not_one_by_one(make_run):
    run = make_run(interval=3600.0)
    run.begin().create_scan_file()
    run.store(0)
    run.open()
    run.feed()
    run.store(1, 2)
    for _ in range(5):
        assert not run.feed()
    assert run.node["primary"]["pilatus_image"].shape[0] == 1

    run.store(*range(3, 10))
    run.finish()

    assert run.feed()
    assert run.node["primary"]["pilatus_image"].shape[0] == 10


def test_events_that_gathered_are_written_in_one_append(make_run, monkeypatch):
    run = make_run(n_frames=1)
    run.begin().create_scan_file()
    for i in range(50):
        run.temperature_is(120.0 + i, at=run.began + i, seq_num=i + 2)
    run.store(0)
    run.finish()
    run.open()
    appends = []
    append = type(run.follower._writer)._append_with_retry
    monkeypatch.setattr(
        type(run.follower._writer),
        "_append_with_retry",
        lambda self, *a: (appends.append(a[-1]), append(self, *a)),
    )

    assert run.feed()

    assert appends == ["cryostream_temperature", "summary"]
    rows = run.node["cryostream_temperature"].read()["cryostream_temperature"].to_numpy()
    assert rows.tolist() == [120.0, *(120.0 + i for i in range(50))]


# -- restarts and failures -------------------------------------------------------------------


def test_a_run_left_in_the_middle_is_published_again_and_once(make_run):
    run = make_run()
    run.begin().create_scan_file()
    run.store(0, 1, 2)
    run.open()
    run.feed()
    run.follower.close()
    before = len(run.client)
    assert not run.publisher.done(run.start)

    run.open()
    run.feed()
    run.store(*range(3, 10))
    run.finish()

    assert run.feed()
    assert len(run.client) == before
    assert run.scan.path.exists()  # records go, files stay
    np.testing.assert_array_equal(run.node["primary"]["pilatus_image"][9], counts_of(9))
    rows = run.node["cryostream_temperature"].read()
    assert rows.sizes["time"] == 1


def test_stacker_and_publisher_go_through_a_journal_side_by_side(make_run):
    run = make_run()
    run.begin()
    run.write(*(n for n in range(10) if n != 4))
    run.announce(10)
    run.monitor_counted(list(range(10)))
    run.end()

    failed = follow(
        run.journal_directory,
        [Stacker(run.experiment, late=run.late), run.publisher],
        once=True,
    )

    assert failed == {"stack": [], "publish": []}
    assert run.node.stop["offbragg"]["frames"] == {"stored": 9, "missing": 1, "rejected": 0}
    np.testing.assert_array_equal(run.node["primary"]["pilatus_image"][9], counts_of(9))
    assert run.node["primary"]["monitor"].read().tolist() == [1000.0 + n for n in range(10)]
    assert run.publisher.done(run.start)


def test_a_frame_that_comes_after_its_run_is_published_without_a_restart(make_run, monkeypatch):
    monkeypatch.setattr("offbragg.followers.followed_run._LOOK_LATER", 0.1)
    run = make_run()
    run.begin()
    run.write(*(n for n in range(10) if n != 4))
    run.announce(10)
    run.end()
    stop = threading.Event()
    followers = [Stacker(run.experiment, late=run.late), run.publisher]
    thread = threading.Thread(
        target=follow, args=(run.journal_directory, followers), kwargs={"stop": stop}
    )
    thread.start()

    def frames():
        try:
            return run.node.stop["offbragg"]["frames"]
        except (KeyError, TypeError):  # it is being published
            return {}

    try:
        wait_until(lambda: frames().get("missing") == 1, 60, "the run without a frame")
        run.write(4)
        wait_until(lambda: frames().get("stored") == 10, 60, "the run with all of them")
    finally:
        stop.set()
        thread.join()

    np.testing.assert_array_equal(run.node["primary"]["pilatus_image"][4], counts_of(4))


def test_a_run_published_before_its_file_changed_is_published_again(whole, make_run, monkeypatch):
    assert whole.publisher.done(whole.start)

    counts = {"stored": 9, "missing": 0, "rejected": 1, "pending": 0}
    monkeypatch.setattr("offbragg.ledger.Ledger.counts", lambda self: counts)

    assert not whole.publisher.done(whole.start)


def test_a_failed_run_ends_in_the_catalog_with_its_stop(make_run):
    run = make_run(n_frames=4)
    run.begin().create_scan_file()
    run.store(0, 1)
    for number in (2, 3):
        run.scan.mark(number, "missing", "the run had ended (fail)")
    run.finish("fail")

    assert run.open().feed()

    assert run.node.stop["exit_status"] == "fail"
    assert run.node.stop["offbragg"]["frames"] == {"stored": 2, "missing": 2, "rejected": 0}
    assert run.node["primary"]["pilatus_image"].shape[0] == 4


def test_a_run_that_failed_before_it_had_a_file_is_published(make_run, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    run = make_run()
    run.journal("start", run.start)
    run.end("fail")
    run.open()

    wait_until(run.feed, what="the run to be given up")

    assert run.node.stop["exit_status"] == "fail"
    assert run.publisher.done(run.start)


def test_a_run_waits_for_its_scan_file(make_run, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    run = make_run(n_frames=1)
    run.begin()
    run.end()
    run.open()
    assert not run.feed()
    assert not run.feed()

    run.create_scan_file()
    run.store(0)
    run.scan.finish(time=run.began + 1, exit_status="success", reason="", summary={})

    assert run.feed()


@pytest.mark.parametrize("changes", [0, 2])
def test_what_a_watchdog_reported_is_a_stream_with_or_without_events(make_run, changes):
    run = make_run(n_frames=2)
    run.begin()
    run.create_scan_file()
    run.store(0, 1)
    stream = WatchStream(None)
    descriptor = f"{run.uid}-watch"
    run.journal(
        "descriptor",
        {
            "uid": descriptor, "run_start": run.uid, "time": run.began, "name": "watch",
            "data_keys": stream.describe(), "configuration": {}, "hints": {},
            "object_keys": {"watch": list(stream.describe())},
        },
    )  # fmt: skip
    events = []

    def emit(readings):
        data = {key: reading["value"] for key, reading in readings.items()}
        stamps = {key: reading["timestamp"] for key, reading in readings.items()}
        events.append(data)
        run.journal("event", {
            "uid": f"{descriptor}-{len(events)}", "descriptor": descriptor, "data": data,
            "timestamps": stamps, "time": run.began, "seq_num": len(events),
        })  # fmt: skip

    stream._emit = emit
    alarm = Alarm("disk.frames", "major", "0.4 GB free", 0.4, 1.0, "GB", {"free": 4e8})
    for state in ("raised", "cleared")[:changes]:
        stream._take(Change(alarm, state, run.began, run.began))
    run.announce(2)
    run.finish()

    assert run.open().feed()

    assert validate(run.node, fix_errors=False, try_reading=True, raise_on_error=True)
    assert "watch" in set(run.node)
    if changes:
        rows = run.node["watch"].read()
        assert rows["watch_state"].to_numpy().tolist() == ["raised", "cleared"]
        assert rows["watch_value"].to_numpy().tolist() == [0.4, 0.4]
        assert run.client.v1[run.uid].table("watch")["watch_reason"].tolist() == ["0.4 GB free"] * 2


def test_a_run_without_a_sweep_is_published_as_it_is(make_run):
    """Its CBF files are an array too, also where one is gone or damaged."""
    run = make_run()
    run.write(0, 2, 3)
    run.write(3, damage=lambda content: content[:-6000] + b"?" + content[-5999:])
    start = {k: v for k, v in run.start.items() if k not in ("sweep", "per_frame")}
    type(run).start, before = property(lambda self: start), type(run).start
    try:
        run.begin()
        run.announce(4)
        run.monitor_counted([0, 1])
        run.end()
        assert run.open().feed()
        assert run.publisher.done(run.start)
    finally:
        type(run).start = before

    assert set(run.node) == {"primary", "monitor", "cryostream_temperature"}
    frames = run.node["primary"]["pilatus_image"]
    assert frames.shape == (4, *counts_of(0).shape)
    np.testing.assert_array_equal(frames[2], counts_of(2))
    np.testing.assert_array_equal(frames[0:3:2, 5, 5], [1_000_000, 1_000_002])
    assert np.all(frames[1] == -1)
    assert np.all(frames[3] == -1)
    assert "offbragg" not in run.node.stop
    assert validate(run.node, fix_errors=False, try_reading=False, raise_on_error=False)


# -- from the start, and to the end ----------------------------------------------------------


def test_a_run_has_its_stack_and_rows_from_the_start(make_run):
    """Before its first frame, and before the detector has described itself."""
    run = make_run()
    run.begin().create_scan_file()
    documents, _ = read_journal(run.journal_directory / f"{run.uid}.jsonl")
    run.open()

    run.follower(*documents[0])
    run.follower.poll()

    assert run.node.stop == {}
    assert run.node["primary"]["pilatus_image"].shape == (0, *counts_of(0).shape)
    assert run.node["primary"]["status"].read().tolist() == []
    assert run.node["primary"].read()["angle"].size == 0
    assert run.client.v1[run.uid].table().empty
    assert not run.client.v1[run.uid].stop
    assert [name for name, _ in run.node.documents()][-1] != "stop"

    for name, doc in documents[1:]:
        run.follower(name, doc)
    run.store(0, 1)
    run.follower._next_look = 0.0
    run.follower.poll()

    (descriptor,) = run.node["primary"].descriptors
    assert descriptor["uid"] == run.descriptor
    assert descriptor["data_keys"]["pilatus_image"]["source"] == "test"
    assert run.node["primary"]["pilatus_image"].shape[0] == 2
    assert run.node["primary"]["status"].read().tolist() == ["stored"] * 2
    run.announce(10)
    run.store(*range(2, 10))
    run.finish()
    run.position = 0
    skip, run.follower = run.follower, None
    skip.close()
    assert run.open().feed()


def test_a_run_that_ended_before_it_had_a_stream_agrees_with_its_scan_file(make_run):
    run = make_run()
    run.journal("start", run.start)
    run.create_scan_file()
    for number in range(10):
        run.scan.mark(number, "missing", "the run had ended (fail)")
    run.finish("fail")

    assert run.open().feed()

    assert run.node["primary"]["status"].read().tolist() == ["missing"] * 10
    assert len(run.client.v1[run.uid].table()) == 10
    with Examiner() as examiner:
        assert differences(run.client, run.scan.path, examiner.look(run.scan.path)) == []


def test_a_run_without_any_stream_has_an_empty_table(make_run, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    run = make_run()
    run.journal("start", run.start)
    run.end("fail")
    run.open()
    wait_until(run.feed, what="the run to be given up")
    scan = Documents(run.client, run.root / "scan", plan_name="count")
    scan.stop().publish()

    for uid in (run.uid, scan.uid):
        assert run.client.v1[uid].table().empty
        assert run.client.v1[uid].stop["exit_status"]
        assert "primary" in set(run.client[uid])


def test_what_the_catalog_refuses_is_reported_once(cat, tmp_path, caplog):
    """A start document of an earlier version, which was not checked."""
    documents = Documents(cat, tmp_path / "journal", mask="x" * 12_000_000).stop()
    documents.journal.close()
    publisher = Publisher(lambda: cat, tmp_path)

    failed = follow(tmp_path / "journal", [publisher], once=True)

    assert failed == {"publish": [documents.uid]}
    (record,) = [one for one in caplog.records if documents.uid[:8] in one.message]
    assert "10,000,000 bytes" in record.message
    refused = publisher.backlog()["refused"]
    assert refused.keys() == {documents.uid}
    screen = io.StringIO()
    unpublished = Unpublished(lambda: refused, Console(file=screen, width=400))
    unpublished()
    unpublished()
    assert screen.getvalue().count("cannot be published") == 1
    catalog = {"up": True, "runs": 1, "reason": "", "refused": refused}
    state = {"stacker": True, "catalog": catalog, "running": [], "last": None, "alarms": [],
             "backlog": {"runs": 0, "frames": 0}}  # fmt: skip
    assert f"run {documents.uid[:8]} cannot be published" in describe(state)


def test_a_catalog_that_is_away_is_waited_for_once_whatever_many_runs_need_it(tmp_path):
    """After many kills each run waited for it alone, three times: minutes."""
    asked = []

    def away():
        asked.append(time.monotonic())
        raise CatalogError("the catalog is away")

    publisher = Publisher(away, tmp_path)
    for number in range(30):
        with pytest.raises(CatalogError, match="away"):
            publisher.done({"uid": str(number)})

    assert len(asked) < 10
    wait_until(lambda: time.monotonic() > asked[-1] + module._AWAY, 10)
    before = len(asked)
    with pytest.raises(CatalogError, match="away"):
        publisher.done({"uid": "0"})
    assert len(asked) == before + 1


def test_documents_can_be_filled(whole):
    events = [doc for name, doc in whole.node.documents(fill=True) if name == "event"]

    frames = [event for event in events if "pilatus_image" in event["data"]]
    assert [event["seq_num"] for event in frames] == list(range(1, 11))
    np.testing.assert_array_equal(frames[2]["data"]["pilatus_image"], counts_of(2))
    assert np.all(frames[3]["data"]["pilatus_image"] == -1)
    assert frames[2]["filled"] == {"pilatus_image": True}
