"""A fresh install lets nobody in, and tells its key to nobody."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from runs import wait_until
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as connect_websocket

from offbragg.beamline.config import load, profile_directory
from offbragg.beamline.tables import Catalog
from offbragg.catalog.authentication import TRIES, reading_key
from offbragg.errors import CatalogError


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Iterator[tuple[Path, subprocess.Popen[bytes], str]]:
    """``offbragg serve`` as somebody types it first, with nothing but paths configured."""
    root = tmp_path_factory.mktemp("fresh")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (root / "beamline.toml").write_text(
        'beamline_id = "fresh"\n[paths]\nexperiment = "experiment"\nframes = "frames"\n'
        'journal = "journal"\ncatalog = "catalog"\nlog = "log"\n'
        f"[catalog]\nport = {port}\n"
    )
    with (root / "output").open("wb") as output:
        serving = subprocess.Popen(
            [sys.executable, "-m", "offbragg", "serve", "--beamline", str(root / "beamline.toml"),
             "--ready", str(root / "ready")],
            stdout=output, stderr=output, umask=0o000,
        )  # fmt: skip
    wait_until(lambda: (root / "ready").exists() or serving.poll() is not None, 90, "the catalog")
    assert serving.poll() is None, (root / "output").read_text()
    yield root, serving, f"http://127.0.0.1:{port}"
    serving.terminate()
    serving.wait(30)


def listening(pid: int) -> set[str]:
    """Addresses, as the kernel writes them, at which a process listens."""
    inodes = set()
    for name in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(name.readlink()))
        except FileNotFoundError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                found.add(words[1].partition(":")[0])
    return found


def test_the_default_is_loopback():
    assert Catalog().host == "127.0.0.1"
    assert load(profile_directory() / "beamline.toml").catalog.host == "127.0.0.1"


def test_a_fresh_catalog_listens_on_the_loopback_interface_only(fresh):
    assert listening(fresh[1].pid) == {"0100007F"}


@pytest.mark.parametrize("path", ["metadata/", "metadata/raw", "search/raw", "array/full/raw/x"])
def test_a_fresh_catalog_wants_a_key(fresh, path):
    _, _, url = fresh

    assert httpx.get(f"{url}/api/v1/{path}").status_code == 401
    assert httpx.get(f"{url}/api/v1/{path}?api_key=wrong").status_code == 401


def test_whatever_the_umask_key_and_databases_are_their_owners(fresh):
    catalog = fresh[0] / "catalog"

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in catalog.iterdir()}

    assert modes["key"] == 0o600
    assert stat.S_IMODE(catalog.stat().st_mode) & 0o077 == 0, "nobody else looks in"


def test_the_key_is_in_no_log_no_process_list_and_no_message(fresh):
    root, serving, url = fresh
    key = (root / "catalog" / "key").read_text().strip()
    assert httpx.get(f"{url}/api/v1/metadata/raw?api_key={key}").status_code == 200
    httpx.get(f"{url}/api/v1/no/such/{key}?api_key={key}")
    (root / "journal").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "offbragg", "status", "--no-devices",
         "--beamline", str(root / "beamline.toml")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip

    assert "catalog   0 runs" in done.stdout
    for text in (done.stdout, done.stderr, (root / "output").read_text(),
                 (root / "ready").read_text()):  # fmt: skip
        assert key not in text
    for pid in (serving.pid, os.getpid()):
        assert key not in Path(f"/proc/{pid}/cmdline").read_text()
    assert key not in Path(f"/proc/{serving.pid}/environ").read_text()


def test_an_error_of_a_client_does_not_hold_the_key(fresh):
    root, _, url = fresh
    config = load(root / "beamline.toml")
    key = config.key_file.read_text().strip()
    runs = config.connect_catalog()

    with pytest.raises((CatalogError, KeyError, httpx.HTTPError)) as failed:
        runs["no such run"]

    assert key not in repr(failed.value)
    assert key not in str(failed.value)
    assert key not in repr(runs)
    assert key not in repr(config)
    runs.context.http_client.close()
    assert url in config.catalog_url


def routes(url: str, key: str) -> list[tuple[str, str]]:
    """Every method and address that the server has, as it says itself."""
    paths = httpx.get(f"{url}/openapi.json", headers=bearing(key)).json()["paths"]
    found = [
        (method.upper(), re.sub(r"\{\w+\}", "raw", path))
        for path, methods in paths.items()
        for method in methods
        if path not in ("/healthz", "/api/v1/")
    ]
    assert len(found) > 50
    return found


def bearing(key: str) -> dict[str, str]:
    return {"Authorization": f"Apikey {key}"}


@pytest.fixture(scope="module")
def key(fresh) -> str:
    """Of the fresh catalog."""
    return (fresh[0] / "catalog" / "key").read_text().strip()


def test_a_key_for_reading_reads_and_changes_nothing(fresh, key):
    root, _, url = fresh
    made = subprocess.run(
        [sys.executable, "-m", "offbragg", "key", "--days", "2", "--json",
         "--beamline", str(root / "beamline.toml")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    document = json.loads(made.stdout)
    assert abs(document["ends"] - time.time() - 2 * 86400) < 60

    with httpx.Client(base_url=url, headers=bearing(document["key"])) as reader:
        assert reader.get("/api/v1/metadata/raw").status_code == 200
        assert reader.get("/zarr/v2/raw/.zgroup").status_code == 200
        assert reader.post("/api/v1/table/full/none", json=["a"]).status_code == 404
        tried = [
            (m, p)
            for m, p in routes(url, key)
            if m not in ("GET", "HEAD")
            and not (m == "POST" and re.match("/api/v1/(table|container|awkward)/", p))
        ]
        assert len(tried) > 20
        answers = {(m, p): reader.request(m, p, content=b"{}").status_code for m, p in tried}

    print(f"{len(tried)} addresses that change something refuse a key for reading")
    assert answers == dict.fromkeys(answers, 403)


@pytest.mark.parametrize("changed", ["ended", "later", "cut", "of another catalog"])
def test_a_key_for_reading_that_has_ended_or_is_changed_opens_nothing(fresh, key, changed):
    past = reading_key(key, ends=time.time() - 1)
    given = {
        "ended": past,
        "later": past[:4] + f"{int(time.time()) + 1000:010x}" + past[14:],
        "cut": reading_key(key, ends=time.time() + 1000)[:-1],
        "of another catalog": reading_key("0" * 64, ends=time.time() + 1000),
    }[changed]

    answer = httpx.get(f"{fresh[2]}/api/v1/metadata/raw", headers=bearing(given))

    assert answer.status_code == 401
    assert ("ended" in answer.text) == (changed == "ended")


def test_a_key_in_an_address_is_not_given_back(fresh, key):
    for path in ("/zarr/v2/raw", "/api/v1/metadata/raw", "/api/v1/search/"):
        answer = httpx.get(f"{fresh[2]}{path}?a=b&api_key={key}&api_key=other")
        assert answer.status_code == 200
        assert key not in answer.text + repr(answer.headers)
    with httpx.Client(base_url=fresh[2]) as browser:
        if browser.get(f"/?api_key={key}").status_code == 200:  # Tiled came with its pages
            assert key not in repr(browser.cookies.jar)  # a browser only reads
            assert browser.get("/").status_code == 200
            assert browser.get("/api/v1/metadata/raw").status_code == 200
            answer = browser.delete("/api/v1/metadata/raw")  # by somebody else's page
            assert answer.status_code == 403
            assert "read-only" in answer.text


def test_who_tries_out_keys_is_soon_told_to_wait_and_the_right_key_still_works(fresh, key):
    root, _, url = fresh
    answers: Counter[int] = Counter()
    with httpx.Client(base_url=url) as thief, httpx.Client(base_url=url) as friend:
        began = time.monotonic()
        for number in range(1000):
            answer = thief.get("/api/v1/metadata/raw", headers=bearing(f"{number:064x}"))
            answers[answer.status_code] += 1
            if answer.status_code == 429:
                assert 1 <= int(answer.headers["retry-after"]) <= 61
            if number % 200 == 0:
                assert friend.get("/api/v1/metadata/raw", headers=bearing(key)).status_code == 200
        seconds = time.monotonic() - began
        # whatever bytes it is: a key that is not text is a wrong one
        strange = {"Authorization": b"Apikey \xff\xfe"}
        assert thief.get("/api/v1/metadata/raw", headers=strange).status_code == 429

    print(f"1000 wrong keys in {seconds:.1f} s: {dict(answers)}")
    assert set(answers) == {401, 429}
    assert answers[401] <= TRIES * (2 + int(seconds / 60))
    assert answers[429] >= 1000 - TRIES * (2 + int(seconds / 60))
    load(root / "beamline.toml").connect_catalog().context.http_client.close()
    output = (root / "output").read_text()
    assert "tries out keys" in output
    assert f"{7:064x}" not in output


@pytest.mark.parametrize("given", [None, "wrong"])
def test_nothing_answers_without_a_key(fresh, key, given):
    _, _, url = fresh
    headers = {} if given is None else bearing(given)
    with httpx.Client(base_url=url, headers=headers) as nobody:
        answers = Counter(nobody.request(*route).status_code for route in routes(url, key))
        print(f"without a key: {dict(answers)}")

        assert set(answers) <= {401, 429}
    with pytest.raises(InvalidStatus) as refused:
        connect_websocket(f"ws{url[4:]}/api/v1/stream/single/raw", additional_headers=headers)
    assert refused.value.response.status_code == 403


def test_a_named_key_changes_nothing_through_any_route_and_opens_none_once_revoked(fresh, key):
    root, _, url = fresh
    command = [sys.executable, "-m", "offbragg", "token", "Ada"]
    at = ["--beamline", str(root / "beamline.toml")]
    made = subprocess.run([*command, *at], capture_output=True, text=True, check=True, timeout=60)
    given = made.stdout.strip()
    walked = routes(url, key)
    changing = [
        (m, p)
        for m, p in walked
        if m not in ("GET", "HEAD")
        and not (m == "POST" and re.match("/api/v1/(table|container|awkward)/", p))
    ]

    with httpx.Client(base_url=url, headers=bearing(given)) as ada:
        assert ada.get("/api/v1/metadata/raw").status_code == 200
        answers = {(m, p): ada.request(m, p, content=b"{}").status_code for m, p in changing}
        subprocess.run([*command, "--revoke", *at], check=True, timeout=60)
        after = {(m, p): ada.request(m, p, content=b"{}").status_code for m, p in walked}

    assert answers == dict.fromkeys(changing, 403)
    assert set(after.values()) <= {401, 429}, after  # wrong keys were tried out before
    assert given not in (root / "output").read_text()
