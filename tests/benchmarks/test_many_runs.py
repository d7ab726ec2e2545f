"""How long searches of ten thousand runs take, in SQLite and in PostgreSQL.

``pytest -m slow -s tests/benchmarks/test_many_runs.py``; with ``OFFBRAGG_RUNS=100000`` of more.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse

import pytest
from benchmarks.many_runs import BEGAN, EVERY, fill
from catalog.served import SERVE, PublishedRun, Server
from postgresql import postgresql, why_not
from tiled.queries import FullText, Key

from offbragg.catalog.client import connect
from offbragg.catalog.tiled_app import create_database

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")

RUNS = int(os.environ.get("OFFBRAGG_RUNS", "10000"))
CLIENTS, SECONDS, TIMES = 20, 4.0, 20
_LATE = BEGAN + EVERY * RUNS * 0.9

ADDRESSES = {
    "ten newest": "/runs?limit=10",
    "sample": "/runs?sample=LSMO-110&limit=10",
    "sample with *": "/runs?sample=lsmo-11*&limit=10",
    "temperature": "/runs?temperature=80:90&limit=10",
    "time": f"/runs?since={_LATE}&limit=10",
    "scan id": "/runs?scan_id=4321",
    "one run": "/runs/4321",
    "series": "/series?limit=50",
    "newest series": "/series/latest",
    "full text, rare": "/runs?text=needle777&limit=10",
    "full text, of all runs": "/runs?text=crystal1&limit=10",
}


_NAME = quote('"LSMO-110"')
_LSMO = f"filter[eq][condition][key]=start.sample.name&filter[eq][condition][value]={_NAME}"
TILED = {
    "Tiled: count of a sample": f"/api/v1/search/raw?fields=&page[limit]=0&{_LSMO}",
    "Tiled: ten of a sample": f"/api/v1/search/raw?page[limit]=10&{_LSMO}",
}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    base = tmp_path_factory.mktemp(request.param)
    (base / "catalog").mkdir(mode=0o700)
    (base / "data").mkdir()
    uri = f"sqlite:///{base / 'catalog' / 'catalog.db'}"
    with ExitStack() as stack:
        program = SERVE
        if request.param == "postgresql":
            if why := why_not():
                pytest.skip(why)
            uri = stack.enter_context(postgresql()).create("catalog")
            program = SERVE.replace("port=int(port)", f"port=int(port), database={uri!r}")
        create_database(uri)
        asyncio.run(fill(uri, RUNS))
        began = time.monotonic()
        first = Server.start(base / "catalog", base / "data", program=program)
        indexed = time.monotonic() - began
        first.end()
        began = time.monotonic()
        started = Server.start(base / "catalog", base / "data", program=program)
        stack.callback(started.end)
        again = time.monotonic() - began
        print(f"\n{request.param}, {RUNS} runs: start {indexed:.1f} s, then {again:.1f} s")
        yield started


@pytest.fixture(scope="module")
def cat(server: Server) -> Any:
    runs = connect(server.url, server.key)
    one = PublishedRun(server.root / "newest", client=runs)
    one.begin()
    one.create_scan_file()
    one.store(*range(10))
    one.announce(10)
    one.finish()
    one.open()
    assert one.feed()
    one.journal.close()
    return runs


def cpu_seconds(server: Server) -> float:
    """Return what the server has computed, all threads; PostgreSQL's own processes not."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def milliseconds(ask: Callable[[], object], server: Server) -> tuple[float, float]:
    """Return the median of some askings, and the mean CPU time; the first ones do not count."""
    took: list[float] = []
    for number in range(TIMES + 2):
        if number == 2:
            computed = cpu_seconds(server)
        began = time.perf_counter()
        ask()
        took.append(1e3 * (time.perf_counter() - began))
    return statistics.median(took[2:]), 1e3 * (cpu_seconds(server) - computed) / TIMES


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_searches_over_http(server, cat):
    del cat  # the newest run is there
    headers = {"Authorization": f"Apikey {server.key}"}
    with closing(http.client.HTTPConnection(urlparse(server.url).netloc)) as connection:

        def ask(address: str) -> None:
            connection.request("GET", address, headers=headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200

        for name, address in ADDRESSES.items():
            took, computed = milliseconds(lambda address=address: ask(address), server)
            print(f"  {name:28s} {took:8.1f} ms, {computed:6.1f} ms CPU")
            assert took < (1000 if RUNS > 10_000 else 150 if "text" in name else 50)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_searches_by_tiled(server, cat):
    sample, kelvin = Key("start.sample.name"), Key("start.temperature.setpoint")
    searches: dict[str, tuple[Callable[[], object], float]] = {
        "len, sample": (lambda: len(cat.search(sample == "LSMO-110")), 50),
        "len, temperature": (lambda: len(cat.search(kelvin >= 80.0).search(kelvin <= 90.0)), 50),
        "ten newest of a time": (
            lambda: cat.search(Key("start.time") >= _LATE).keys().tail(10), 50,
        ),
        "ten newest": (lambda: [run.start for run in cat.values().tail(10)], 50),
        "scan id": (lambda: cat.search(Key("start.scan_id") == 4321).keys()[:10], 50),
        "sorted by time": (lambda: cat.sort(("start.time", -1)).keys()[:10], 100),
        "full text, rare": (lambda: len(cat.search(FullText("needle777"))), 150),
        "full text, of all runs": (lambda: len(cat.search(FullText("crystal1"))), 150),
        "v1[-1].table()": (lambda: cat.v1[-1].table(), 150),
    }  # fmt: skip
    for name, (search, most) in searches.items():
        took, computed = milliseconds(search, server)
        print(f"  Tiled: {name:21s} {took:8.1f} ms, {computed:6.1f} ms CPU")
        assert took < (1000 if RUNS > 10_000 else most)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_clients_at_once(server, cat):
    del cat
    netloc, key = urlparse(server.url).netloc, server.key
    answers = [0] * CLIENTS

    def ask(number: int, address: str) -> None:
        end = time.monotonic() + SECONDS
        with closing(http.client.HTTPConnection(netloc)) as connection:
            while time.monotonic() < end:
                connection.request("GET", address, headers={"Authorization": f"Apikey {key}"})
                answer = connection.getresponse()
                answer.read()
                answers[number] += answer.status == 200

    addresses = {name: ADDRESSES[name] for name in ("ten newest", "sample", "temperature")}
    for name, address in (addresses | TILED).items():
        answers[:] = [0] * CLIENTS
        computed = cpu_seconds(server)
        threads = [threading.Thread(target=ask, args=(i, address)) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        computed = 1e3 * (cpu_seconds(server) - computed) / max(sum(answers), 1)
        print(
            f"  {CLIENTS} clients, {name:22s} {sum(answers) / SECONDS:8.0f} requests/s, "
            f"{computed:6.1f} ms CPU each"
        )
        assert sum(answers) / SECONDS > (15 if RUNS > 10_000 else 20 if name in TILED else 150)


def test_a_filled_catalog_has_the_runs_and_their_streams(tmp_path: Path):
    uri = f"sqlite:///{tmp_path / 'catalog.db'}"
    create_database(uri)

    asyncio.run(fill(uri, 3))

    with sqlite3.connect(tmp_path / "catalog.db") as database:
        count = database.execute("SELECT count(*) FROM nodes WHERE metadata LIKE '%needle%'")
        assert count.fetchone() == (3,)
    database.close()
