"""A catalog that is lost comes back as it was, as a client sees it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from catalog.served import PublishedRun, Server, seen_by_a_client
from runs import MeasuredRun

from offbragg.catalog.client import connect
from offbragg.errors import CatalogError, JournalError
from offbragg.files import find_scan_file
from offbragg.files.journal_archive import archiving
from offbragg.followers.follow import follow
from offbragg.followers.publisher import Publisher, RunPublisher
from offbragg.followers.stacker import Stacker
from offbragg.recovery.rebuild import rebuild
from offbragg.recovery.verify import verify


def sweep(root: Path, uid: str, *, missing: tuple[int, ...] = (), **options: Any) -> MeasuredRun:
    run = MeasuredRun(root, uid=uid, n_frames=4, late=0.0, **options)
    run.begin()
    run.write(*(n for n in range(4) if n not in missing))
    run.monitor_counted([0, 1, 2, 3])
    run.temperature_is(run.temperature + 0.1, at=run.began + 0.3, seq_num=2)
    run.announce(4)
    return run


def step_scan(root: Path, uid: str, began: float, exit_status: str = "success") -> MeasuredRun:
    """A run of three points with two signals, without frames or a sweep."""
    run = MeasuredRun(root, uid=uid, began=began)
    start = {k: v for k, v in run.start.items() if k not in ("sweep", "geometry", "detector")}
    run.journal("start", {**start, "plan_name": "scan", "motors": ["phi"]})
    keys = {
        key: {"source": "test", "dtype": "number", "shape": [], "dtype_numpy": "<f8"}
        for key in ("phi", "sum")
    }
    run.journal(
        "descriptor",
        {
            "uid": f"{uid}-d", "run_start": uid, "time": began, "name": "primary",
            "data_keys": keys, "object_keys": {"phi": ["phi"], "sum": ["sum"]},
            "configuration": {}, "hints": {"phi": {"fields": ["phi"]}},
        },
    )  # fmt: skip
    for n in range(3):
        run.journal(
            "event",
            {
                "uid": f"{uid}-e{n}", "descriptor": f"{uid}-d", "time": began + n,
                "seq_num": n + 1, "data": {"phi": 0.5 * n, "sum": 100.0 + n},
                "timestamps": {"phi": began + n, "sum": began + n}, "filled": {},
            },
        )  # fmt: skip
    run.announced = 3
    run.end(exit_status)
    return run


def live(root: Path, client: Any) -> None:
    """A sweep that is published while it is measured, bit by bit."""
    run = PublishedRun(
        root, client=client, n_frames=4, uid="00000000-live", began=1_789_999_900.0,
        temperature=90.0,
    )  # fmt: skip
    run.begin()
    run.create_scan_file()
    run.open()
    for number in range(4):
        run.store(number)
        run.announce(number + 1)
        run.temperature_is(90.0 + number, at=run.began + 0.1 * number, seq_num=number + 2)
        assert not run.feed()
    run.finish()
    while not run.feed():
        pass
    run.journal.close()


@pytest.fixture
def lost(tmp_path):
    """A catalog with several kinds of runs; what a client saw of it; and a new, empty one."""
    root = tmp_path / "data"
    root.mkdir()
    server = Server.start(tmp_path / "catalog", root)
    try:
        client = connect(server.url, server.key)
        live(root, client)
        one = sweep(root, "11111111-sweep", began=1_790_000_000.0)
        followers = [Stacker(root / "experiment", late=0.0), publisher(client, root)]
        one.end()
        follow(one.journal_directory, followers, once=True)
        step_scan(root, "22222222-steps", 1_790_000_100.0)
        aborted = sweep(root, "33333333-aborted", missing=(2, 3), began=1_790_000_200.0)
        aborted.end("abort")
        step_scan(root, "44444444-failed", 1_790_000_300.0, "fail")
        follow(one.journal_directory, followers, once=True)
        before = seen_by_a_client(client)
    finally:
        server.end()
    shutil.move(tmp_path / "catalog", tmp_path / "was")
    (tmp_path / "catalog").mkdir()
    shutil.copy(tmp_path / "was" / "key", tmp_path / "catalog")
    server = Server.start(tmp_path / "catalog", root)
    yield root, connect(server.url, server.key), before
    server.end()


def publisher(client: Any, root: Path) -> Publisher:
    return Publisher(lambda: client, root / "experiment", interval=0.0)


def test_a_lost_catalog_comes_back_as_it_was(lost, monkeypatch):
    root, client, before = lost
    assert [key for key, _ in before["children"]] == [
        "00000000-live", "11111111-sweep", "22222222-steps", "33333333-aborted", "44444444-failed",
    ]  # fmt: skip
    assert json.dumps(before).count('"read"') == 14
    assert len(client) == 0

    publish = RunPublisher._publish

    def fail(self: RunPublisher, name: str, doc: Any) -> None:
        if name == "stop" and self._start["uid"] in ("11111111-sweep", "44444444-failed"):
            raise CatalogError("the catalog is away")
        publish(self, name, doc)

    with monkeypatch.context() as patch:
        patch.setattr(RunPublisher, "_publish", fail)
        patch.setattr("offbragg.followers.followed_run._BACK_OFF", (0.01,))
        halfway = rebuild(root / "journal", root / "experiment", lambda: client)
    assert sorted(halfway["failed"]) == ["11111111-sweep", "44444444-failed"]
    assert len(client) == 5  # two of them without an end

    rebuilt = rebuild(root / "journal", root / "experiment", lambda: client)

    assert rebuilt["failed"] == []
    by_key = {key: seen for key, seen in before["children"]}
    assert {key: seen for key, seen in seen_by_a_client(client)["children"]} == by_key

    for key in by_key:
        client.delete_contents(key, recursive=True, external_only=False)
    rebuilt = rebuild(root / "journal", root / "experiment", lambda: client)

    assert rebuilt == {
        "runs": 5, "published": [key for key, _ in before["children"]], "failed": [],
    }  # fmt: skip
    assert seen_by_a_client(client) == before
    again = rebuild(root / "journal", root / "experiment", lambda: client)
    assert again["published"] == []

    path = find_scan_file(root / "experiment/LSMO-140/c1/120K", "33333333-aborted")
    assert verify(path, journal=root / "journal", catalog=lambda: client).catalog == "agrees"
    run = client["33333333-aborted"]
    metadata = dict(run.metadata)
    metadata["stop"] = {**metadata["stop"], "offbragg": {"frames": {"stored": 4}}}
    run.update_metadata(metadata=metadata)
    verdict = verify(path, catalog=lambda: client)
    assert verdict.catalog == "differs"
    assert "it counts" in verdict.problems[0]

    rebuilt = rebuild(root / "journal", root / "experiment", lambda: client, runs=["33333333"])

    assert rebuilt["published"] == ["33333333-aborted"]
    assert verify(path, catalog=lambda: client).ok


def test_a_catalog_that_is_away_is_reported_at_once(tmp_path):
    def away() -> Any:
        raise CatalogError("the catalog is away")

    with pytest.raises(CatalogError, match="away"):
        rebuild(tmp_path / "journal", tmp_path, away)


def test_nothing_is_archived_while_a_catalog_is_rebuilt(tmp_path):
    journal = tmp_path / "journal"
    journal.mkdir()

    with archiving(journal), pytest.raises(JournalError, match="archive or rebuild uses these"):
        rebuild(journal, tmp_path, dict)
