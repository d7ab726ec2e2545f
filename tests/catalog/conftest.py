"""One catalog server for the session."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from catalog.served import PublishedRun, Server

from offbragg.catalog.authentication import reading_key
from offbragg.catalog.client import connect


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("catalog")
    root = base / "data"
    root.mkdir()
    started = Server.start(base / "catalog", root)
    yield started
    started.end()


@pytest.fixture(scope="session")
def cat(server: Server) -> Any:
    """The runs, over HTTP."""
    return connect(server.url, server.key)


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    """What asks the server with a key for reading."""
    key = reading_key(server.key, ends=time.time() + 3600)
    headers = {"Authorization": f"Apikey {key}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        yield client


@pytest.fixture
def make_run(server: Server, cat: Any) -> Iterator[Callable[..., PublishedRun]]:
    """Make runs below the root that the server may read."""
    made: list[PublishedRun] = []

    def make(**kwargs: Any) -> PublishedRun:
        made.append(PublishedRun(server.root / uuid.uuid4().hex[:8], **{"client": cat} | kwargs))
        return made[-1]

    yield make
    for one in made:
        one.journal.close()
        if one.scan is not None:
            with contextlib.suppress(Exception):
                one.scan.close()


@pytest.fixture(scope="session")
def whole(server: Server, cat: Any) -> Iterator[PublishedRun]:
    """A run of ten frames, 3 missing and 7 rejected, published to its end."""
    one = PublishedRun(server.root / "whole", client=cat, temperature=95.0)
    one.begin()
    one.create_scan_file()
    one.store(*(n for n in range(10) if n not in (3, 7)))
    assert one.scan is not None
    one.scan.mark(3, "missing", "x_00003.cbf was not there 5 s after it was due")
    one.scan.mark(7, "rejected", "x_00007.cbf does not have the checksum that it declares")
    one.monitor_counted(list(range(10)))
    one.temperature_is(95.1, at=one.began + 0.3, seq_num=2)
    one.announce(10)
    one.finish()
    one.open()
    assert one.feed()
    yield one
    one.journal.close()
