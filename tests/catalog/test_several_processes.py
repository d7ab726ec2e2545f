"""Several processes on one PostgreSQL database, behind nginx with TLS, as docs/snippets has it."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import facility as facilities
import httpx
import numpy as np
import pytest
from adbc_driver_postgresql import dbapi
from catalog.served import PublishedRun, Server
from facility import Facility
from postgresql import postgresql, why_not
from runs import SHAPE, counts_of, wait_until
from websockets.sync.client import connect as open_socket

import offbragg
from offbragg.catalog import several_processes
from offbragg.catalog.authentication import TRIES, reading_key
from offbragg.catalog.client import connect
from offbragg.catalog.one_time import create_token
from offbragg.catalog.several_processes import await_tables, writing
from offbragg.errors import CatalogError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
    pytest.mark.timeout(900),  # four processes start, each with all that the catalog imports
]


@pytest.fixture(scope="module")
def facility(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facility]:
    if why := why_not() or facilities.why_not():
        pytest.skip(why)
    root = tmp_path_factory.mktemp("facility")
    with postgresql() as server:
        database = server.create("catalog")
        with facilities.facility(root / "f", database) as made:
            yield made


@pytest.fixture(scope="module")
def run(facility: Facility) -> Iterator[PublishedRun]:
    """A run that was published to the process that writes."""
    client = connect(facility.direct[0], facility.key)
    one = PublishedRun(facility.root / "experiment", client=client, temperature=95.0)
    one.begin()
    one.create_scan_file()
    one.store(*range(10))
    one.monitor_counted(list(range(10)))
    one.temperature_is(95.1, at=one.began + 0.3, seq_num=2)
    one.announce(10)
    one.finish()
    one.open()
    assert one.feed()
    yield one
    one.journal.close()


@pytest.fixture(scope="module")
def key(facility: Facility) -> str:
    return reading_key(facility.key, ends=time.time() + 3600)


@pytest.fixture
def https(facility: Facility, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=facility.url, headers={"Authorization": f"Apikey {key}"}, trust_env=False,
        verify=ssl.create_default_context(cafile=str(facility.authority)), timeout=60,
    ) as client:  # fmt: skip
        yield client


def header(key: str) -> dict[str, str]:
    return {"Authorization": f"Apikey {key}"}


def test_every_process_answers_the_same(facility: Facility, run: PublishedRun, key: str):
    stream = f"/api/v1/table/full/raw/{run.uid}/cryostream_temperature"
    table = f"{stream}/internal?format=application/json"
    paths = ("/runs", f"/runs/{run.uid}", f"/runs/{run.uid}/ledger", f"/runs/{run.uid}/frames/3",
             "/series", f"/api/v1/metadata/raw/{run.uid}", table)  # fmt: skip

    answers = [
        [httpx.get(f"{url}{path}", headers=header(key), timeout=60) for path in paths]
        for url in facility.direct
    ]

    assert [[answer.status_code for answer in each] for each in answers] == [[200] * len(paths)] * 3
    texts = [[a.text.replace(url, "") for a in each]
             for url, each in zip(facility.direct, answers, strict=True)]  # fmt: skip
    assert texts[1] == texts[0]
    assert texts[2] == texts[0]


def test_a_reader_does_not_write(facility: Facility, run: PublishedRun):
    for url in facility.direct[1:]:
        refused = httpx.delete(f"{url}/api/v1/nodes/raw/{run.uid}", headers=header(facility.key))

        forms = [
            httpx.post(f"{url}{path}", json={"key": "x"}) for path in ("/login", "/live/enter")
        ]

        assert refused.status_code == 421
        assert [each.status_code for each in forms] == [421, 421]
        assert "Send this to the one that writes" in refused.text
        with (
            pytest.raises(Exception, match=r"1013|received 1013|HTTP 403"),
            open_socket(
                f"{url.replace('http', 'ws')}/api/v1/stream/single/raw",
                proxy=None,
                additional_headers=header(facility.key),
            ) as stream,
        ):
            stream.recv(timeout=10)


def test_what_is_written_goes_through_nginx_to_the_one_that_writes(
    facility: Facility, https: httpx.Client, run: PublishedRun
):
    asked = {"metadata": {"start": {"uid": str(uuid.uuid4()), "time": 1.0}}, "specs": [],
             "structure_family": "container", "data_sources": [], "id": "written"}  # fmt: skip
    for _ in range(6):  # more often than there are processes
        made = https.post("/api/v1/metadata/raw", json=asked, headers=header(facility.key))
        seen = https.get("/api/v1/metadata/raw/written")
        gone = https.delete("/api/v1/metadata/raw/written", headers=header(facility.key))

        assert (made.status_code, seen.status_code, gone.status_code) == (200, 200, 200)


def test_python_connects_with_an_authority_of_ones_own(
    facility: Facility, run: PublishedRun, key: str, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(CatalogError, match="certificate verify failed"):
        offbragg.connect(facility.url, key, timeout=0.1)

    monkeypatch.setenv("SSL_CERT_FILE", str(facility.authority))
    catalog = offbragg.connect(facility.url, key)
    tiled = connect(facility.url, key)

    found = catalog.latest()
    assert found.uid == run.uid
    np.testing.assert_array_equal(found.frames[3], counts_of(3, SHAPE))
    assert run.uid in tiled
    with monkeypatch.context() as other:
        other.setenv("SSL_CERT_FILE", str(facility.root / "nothing.pem"))
        with pytest.raises(CatalogError, match="SSL_CERT_FILE names this file"):
            offbragg.connect(facility.url, key)


def test_a_part_of_a_file_comes_through_nginx(https: httpx.Client, run: PublishedRun):
    (file,) = https.get(f"/runs/{run.uid}").json()["files"]
    whole = https.get(file["address"])

    part = https.get(file["address"], headers={"Range": "bytes=1000-1999"})

    assert whole.status_code == 200
    assert (part.status_code, part.content) == (206, whole.content[1000:2000])


def test_a_websocket_comes_through_nginx(facility: Facility, key: str):
    context = ssl.create_default_context(cafile=str(facility.authority))
    with open_socket(
        facility.url.replace("https", "wss") + "/now/socket", ssl=context, proxy=None,
        additional_headers=header(key),
    ) as stream:  # fmt: skip
        assert "engine" in json.loads(stream.recv(timeout=30))


def test_the_cookie_is_secure_and_no_log_has_the_key(
    facility: Facility, https: httpx.Client, key: str
):
    anybody = httpx.Client(base_url=facility.url, verify=https._transport._pool._ssl_context)  # pyright: ignore
    with anybody:
        entered = anybody.post("/live/enter", json={"key": key})
        moved = anybody.get(f"/ui?api_key={key}")
        anybody.get(f"/runs?api_key={key}&limit=3").raise_for_status()
    plain = httpx.post(f"{facility.direct[0]}/live/enter", json={"key": key})

    for answer in (entered, moved):
        assert "; Secure" in answer.headers["set-cookie"]
    assert "; Secure" not in plain.headers["set-cookie"]
    access = facility.root / "offbragg.log"
    wait_until(lambda: '"GET /runs"' in access.read_text(), 10.0, "a line of the log")
    for log in facility.root.glob("*.log"):
        assert key not in log.read_text(), log


def wrong(client: httpx.Client, count: int, **headers: str) -> set[int]:
    asked = [client.post("/live/enter", json={"key": "x"}, headers=headers) for _ in range(count)]
    return {answer.status_code for answer in asked}


def test_wrong_keys_are_counted_by_the_clients_address(facility: Facility, https: httpx.Client):
    context = ssl.create_default_context(cafile=str(facility.authority))

    def client(address: str) -> httpx.Client:
        transport = httpx.HTTPTransport(verify=context, local_address=address)
        return httpx.Client(base_url=facility.url, transport=transport)

    with client("127.0.0.41") as guesser, client("127.0.0.42") as other:
        wrong(guesser, TRIES + 1)

        for i in range(3):  # whatever it claims to be
            assert wrong(guesser, 1, **{"X-Forwarded-For": f"10.0.0.{i}"}) == {429}
        assert wrong(other, 1) == {401}


def test_whoever_is_not_a_trusted_proxy_speaks_for_itself(server: Server):
    transport = httpx.HTTPTransport(local_address="127.0.0.43")
    with httpx.Client(base_url=server.url, transport=transport) as guesser:
        for i in range(TRIES + 1):
            last = wrong(guesser, 1, **{"X-Forwarded-For": f"10.0.0.{i}"})
        entered = guesser.post(
            "/live/enter", json={"key": server.key}, headers={"X-Forwarded-Proto": "https"}
        )

    assert last == {429}
    assert "; Secure" not in entered.headers["set-cookie"]


def test_a_link_lets_one_browser_in_and_readers_have_no_forms(facility: Facility):
    for _ in range(5):
        token = create_token(facility.root / "catalog")
        answers: list[int] = []

        def enter(url: str, token: str = token, answers: list[int] = answers) -> None:
            answers.append(httpx.post(f"{url}/live/enter", json={"token": token}).status_code)

        threads = [threading.Thread(target=enter, args=(url,)) for url in facility.direct * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sorted(answers) == [204, 401] + [421] * 4  # two readers, each asked twice


def test_a_link_is_printed_with_the_address_of_the_proxy(facility: Facility):
    asked = [sys.executable, "-m", "offbragg", "key", "--link", "--beamline", str(facility.toml)]
    made = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=True)

    assert re.match(rf"{re.escape(facility.url)}/live#enter=\S+$", made.stdout)


def test_the_page_in_a_browser_through_nginx(facility: Facility, run: PublishedRun, key: str):
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    from web.browser import chromium

    token = create_token(facility.root / "catalog")
    with sync_api.sync_playwright() as playwright:
        browser = chromium(playwright, CHROMIUM)
        # the browser has a list of authorities of its own; the client above has verified ours
        context = browser.new_context(base_url=facility.url, ignore_https_errors=True)
        page = context.new_page()
        errors: list[Any] = []
        sockets: list[str] = []
        page.on("pageerror", lambda error: errors.append(error))
        page.on("websocket", lambda socket: sockets.append(socket.url))
        page.goto(f"/live#enter={token}")
        page.wait_for_url(re.compile(r"/live(?!.*enter=)"))
        page.goto("/live#/runs")
        named = page.get_by_text(run.start["sample"]["name"]).locator("visible=true")
        named.first.wait_for(timeout=60_000)
        page.goto("/live#/now")
        wait_until(lambda: page.wait_for_timeout(50) or bool(sockets), 20.0, "a websocket")
        (cookie,) = context.cookies()
        browser.close()

    assert (cookie["secure"], cookie["httpOnly"]) == (True, True)
    assert all(url.startswith(facility.url.replace("https", "wss")) for url in sockets)
    assert not errors


# -- processes that end, and that may not start; last, as they end some ------------------------


def test_a_second_one_that_writes_is_refused(facility: Facility):
    with (
        pytest.raises(CatalogError, match="another process serves this database"),
        writing(facility.database),
    ):
        pass


def test_the_one_that_writes_takes_its_lock_again(facility: Facility, https: httpx.Client):
    """As after a restart of the database, which ends all connections."""
    holder = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted"
    with dbapi.connect(facility.database, autocommit=True) as connection:

        def ask(text: str) -> list[int]:
            with connection.cursor() as cursor:
                cursor.execute(text)
                return [row[0] for row in cursor.fetchall()]

        (before,) = ask(holder)
        ask(f"SELECT pg_terminate_backend({before})")
        wait_until(lambda: ask(holder) not in ([], [before]), 30.0, "the lock is held again")

    with pytest.raises(CatalogError, match="another process"), writing(facility.database):
        pass
    assert https.get("/runs").status_code == 200


def test_one_whose_lock_another_has_taken_ends(facility: Facility, monkeypatch):
    """Its connection breaks, and another process is faster."""
    ended = threading.Event()
    monkeypatch.setattr(several_processes, "_LOOK", 0.05)
    monkeypatch.setattr(several_processes.os, "kill", lambda *_: ended.set())
    broken = dbapi.connect(facility.database, autocommit=True)
    broken.close()

    several_processes._keep(facility.database, broken, threading.Event())

    assert ended.is_set()  # the process of `facility` has the lock


def test_a_reader_that_dies_is_not_missed(
    facility: Facility, https: httpx.Client, run: PublishedRun
):
    facility.kill("reader 0")
    statuses = {https.get("/runs").status_code for _ in range(30)}
    facility.kill("writer")
    without = {https.get(f"/runs/{run.uid}").status_code for _ in range(10)}
    refused = https.post("/api/v1/metadata/raw", json={}, headers=header(facility.key))
    with writing(facility.database):  # however the one before has ended
        pass

    assert statuses == {200}
    assert without == {200}
    assert refused.status_code == 502


def test_a_catalog_in_sqlite_has_one_process(tmp_path: Path):
    with pytest.raises(CatalogError, match="Several processes need PostgreSQL"):
        await_tables("")


def test_a_reader_does_not_wait_for_ever(tmp_path: Path):
    with pytest.raises(CatalogError, match="Start the process that writes first"):
        await_tables(f"postgresql://nobody@/none?host={tmp_path}", timeout=0.1)
