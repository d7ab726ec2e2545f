"""Who gets in, what may be read, and how the server comes and goes."""

from __future__ import annotations

import asyncio
import signal
import stat
import subprocess
import sys
import time
from types import SimpleNamespace

import h5py
import httpx
import pytest
from catalog.served import SERVE, PublishedRun, Server
from runs import wait_until

from offbragg.catalog.authentication import reading_key
from offbragg.catalog.client import connect
from offbragg.catalog.configuration import catalog_key
from offbragg.catalog.request_limits import RequestLimits
from offbragg.catalog.server import _end_on_signals, serve
from offbragg.errors import CatalogError


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Apikey 0123456789abcdef"}])
@pytest.mark.parametrize("path", ["metadata/raw", "search/", "metadata/"])
def test_without_the_key_nothing_is_answered(server, path, headers):
    answer = httpx.get(f"{server.url}/api/v1/{path}", headers=headers)

    assert answer.status_code == 401


def test_a_client_with_another_key_is_refused(server):
    with pytest.raises(CatalogError, match="refused the key"):
        connect(server.url, "0123456789abcdef")


def test_the_key_is_for_its_owner_only_and_nowhere_else(server, cat):
    assert stat.S_IMODE((server.directory / "key").stat().st_mode) == 0o600
    httpx.get(f"{server.url}/api/v1/metadata/raw", params={"api_key": server.key})

    assert server.key not in server.log
    assert server.key not in server.ready.read_text()


def test_a_key_that_others_can_read_is_refused(tmp_path):
    key = catalog_key(tmp_path)
    assert catalog_key(tmp_path) == key
    (tmp_path / "key").chmod(0o644)

    with pytest.raises(CatalogError, match="can be read by others"):
        catalog_key(tmp_path)


def test_a_catalog_that_is_not_there_is_reported_in_time():
    before = time.monotonic()

    with pytest.raises(CatalogError, match=r"did not answer within 0\.2 s"):
        connect("http://127.0.0.1:1", "key", timeout=0.2)
    assert time.monotonic() - before < 10


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_client_that_waits_when_the_server_ends_is_asked_to_try_again(kind):
    """As uvicorn does, once it has waited long enough for its graceful end."""
    sent = []

    async def waits(*_):
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    async def end():
        scope = {"type": kind, "method": "GET", "path": "/", "query_string": b"", "headers": []}
        answering = asyncio.create_task(RequestLimits(waits)(scope, waits, send))
        await asyncio.sleep(0)
        answering.cancel()
        await answering

    asyncio.run(end())

    assert sent[0].get("status", sent[0].get("code")) == (503 if kind == "http" else 1012)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_uvicorn_listens_for_one_is_not_lost(number):
    server = SimpleNamespace(should_exit=False)
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        _end_on_signals(server)
        signal.raise_signal(number)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)

    assert server.should_exit


def test_a_file_outside_the_roots_is_refused(make_run, tmp_path):
    run: PublishedRun = make_run()
    run.experiment = tmp_path / "elsewhere"
    run.begin().create_scan_file()
    run.store(0)
    run.open()
    run.feed()

    with pytest.raises(CatalogError, match="failed"):
        run.node["primary"]["pilatus_image"].read()
    with pytest.raises(CatalogError, match="failed"):
        run.node["primary"].base["internal"].read()


def test_a_catalog_that_goes_away_mid_run_has_the_run_once_when_it_is_back(tmp_path):
    """It goes away because its parent was killed; its end by SIGTERM is clean."""
    (root := tmp_path / "data").mkdir()
    directory, ready = tmp_path / "catalog", tmp_path / "first.ready"
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys\n"
            "subprocess.run([sys.executable, '-c', *sys.argv[1:-1], str(os.getpid()), '0'])",
            SERVE,
            str(directory),
            str(root),
            str(ready),
            "",
        ]
    )
    wait_until(ready.exists, 90.0, "the catalog to start")
    first = Server(directory, root, parent, ready)
    run = PublishedRun(root / "run", client=connect(first.url, first.key), n_frames=6)
    run.begin().create_scan_file()
    run.store(0, 1, 2)
    run.open()
    run.feed()
    assert run.node["primary"]["pilatus_image"].shape[0] == 3

    parent.kill()
    parent.wait()
    wait_until(lambda: not ready.exists(), 30.0, "the catalog to end with its parent")
    run.store(3)
    before = time.monotonic()
    with pytest.raises(CatalogError, match="is away"):
        run.feed()
    assert time.monotonic() - before < 5  # Tiled's own client would try for 73 s
    with pytest.raises(CatalogError, match="is away"):
        run.publisher.open(run.start)

    run.store(4, 5)
    run.announce(6)
    run.finish()
    second = Server.start(directory, root)
    try:
        run.client = connect(second.url, second.key)
        run.open()
        assert run.feed()
        assert list(run.client) == [run.uid]
        assert run.node["primary"]["pilatus_image"].shape[0] == 6
        assert run.node.stop["offbragg"]["frames"]["stored"] == 6
    finally:
        assert second.end() == 0
        run.journal.close()
    assert not second.ready.exists()
    assert not ready.exists()


@pytest.mark.parametrize("how", ["symbolic link", "external link"])
def test_a_scan_file_that_leads_out_of_the_roots_is_refused(make_run, tmp_path, how):
    run: PublishedRun = make_run()
    run.begin().create_scan_file()
    run.store(0)
    run.open()
    run.feed()
    assert run.node["primary"]["pilatus_image"].read().shape[0] == 1
    assert run.scan is not None
    run.scan.close()
    path, elsewhere = run.scan.path, tmp_path / "elsewhere.h5"
    path.rename(elsewhere)
    if how == "symbolic link":
        path.symlink_to(elsewhere)
    else:
        with h5py.File(path, "w") as file:
            file["entry"] = h5py.ExternalLink(str(elsewhere), "/entry")

    with pytest.raises(CatalogError, match="leads out of what may be served"):
        run.node["primary"]["pilatus_image"].read()
    with pytest.raises(CatalogError, match="leads out of what may be served"):
        run.node["primary"].base["internal"].read()


def test_a_second_server_of_a_catalog_is_refused_with_the_first_ones_pid(server, tmp_path):
    (link := tmp_path / "the same").symlink_to(server.directory)

    for directory in (server.directory, link):
        with pytest.raises(CatalogError, match=f"served already, by process {server.process.pid} "):
            serve(directory, [tmp_path])


@pytest.mark.parametrize(
    ("given", "reason"),
    [("", "A key is needed"), ("wrong", "This key is wrong"), ("ended", "This key has expired")],
)
def test_a_key_is_refused_with_the_reason(server, given, reason):
    key = reading_key(server.key, ends=1.0) if given == "ended" else given
    headers = {"Authorization": f"Apikey {key}"} if key else {}

    answer = httpx.get(f"{server.url}/api/v1/metadata/raw", headers=headers)

    assert answer.status_code == 401
    assert answer.json()["detail"].startswith(reason)
    if key:
        with pytest.raises(CatalogError, match=reason):
            connect(server.url, key)
