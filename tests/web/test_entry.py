"""How a browser gets in: a key or a one-time link becomes a cookie, and the files need none."""

from __future__ import annotations

import json
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner
from web.beamline import ShownBeamline
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from offbragg.catalog.authentication import reading_key, right_of
from offbragg.catalog.one_time import FOLDER, consume, create_link, create_token, describe_page
from offbragg.cli import app as cli

ROOT = Path(__file__).parents[2]
WEB = ROOT / "src" / "offbragg" / "web"


@pytest.fixture
def http(catalog):
    with httpx.Client(base_url=catalog.url, timeout=60) as client:
        yield client


def test_the_files_of_the_page_are_public_and_strict(http):
    answer = http.get("/live")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-encoding"] == "gzip"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert http.get("/live/").content == answer.content
    same = {"if-none-match": answer.headers["etag"]}
    assert http.get("/live", headers=same).status_code == 304
    assert http.get("/live/js/main.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize(
    "path",
    ["/live/../page.py", "/live/%2e%2e/page.py", "/live/__init__.py", "/live/js", "/live/none.js",
     "/live//etc/passwd.txt", "/live/js/..%2f..%2f..%2f__init__.py", "/live/.hidden.js"],
)  # fmt: skip
def test_nothing_else_is_a_file_of_the_page(http, path):
    assert http.get(path).status_code in (401, 404)


def test_a_key_becomes_a_cookie_that_only_reads(catalog, http):
    entered = http.post("/live/enter", json={"key": f" {catalog.key} "})

    assert entered.status_code == 204
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Path=/;" in cookie
    assert "Secure" not in cookie
    assert catalog.key not in cookie
    assert right_of(http.cookies["tiled_api_key"], catalog.key, now=time.time()) == "reading"
    assert http.get("/api/v1/search/raw").status_code == 200
    assert http.delete(f"/api/v1/metadata/raw/{catalog.runs[0].uid}").status_code == 403


def test_the_cookie_suffices_for_every_way_of_reading(catalog, http):
    uid, volume = catalog.runs[0].uid, catalog.volumes[0]
    paths = ["/api/v1/search/raw", f"/api/v1/metadata/raw/{uid}", f"/volumes/{volume}/plane",
             f"/api/v1/array/full/raw/{uid}/primary/pilatus_image?slice=0&format=image/png",
             "/now", f"/zarr/v3/volumes/{volume}/zarr.json"]  # fmt: skip
    before = {path: http.get(path).status_code for path in paths}
    http.post("/live/enter", json={"key": catalog.reading_key})
    after = {path: http.get(path).status_code for path in paths}

    assert set(before.values()) == {401}
    assert set(after.values()) == {200}
    assert http.post("/live/leave").status_code == 204
    assert http.get("/api/v1/search/raw").status_code == 401


def test_a_read_only_key_is_kept_as_long_as_it_is_valid(catalog, http):
    ends = time.time() + 500
    cookie = http.post("/live/enter", json={"key": reading_key(catalog.key, ends=ends)}).headers[
        "set-cookie"
    ]

    age = int(cookie.partition("Max-Age=")[2].partition(";")[0])
    assert 400 < age <= 500


def test_behind_a_proxy_with_https_the_cookie_is_secure(catalog, http):
    asked = {"x-forwarded-proto": "https"}
    cookie = http.post("/live/enter", json={"key": catalog.key}, headers=asked)

    assert "; Secure" in cookie.headers["set-cookie"]


def test_a_wrong_key_is_refused_with_the_reason(catalog, http):
    expired = reading_key(catalog.key, ends=time.time() - 10)

    wrong = http.post("/live/enter", json={"key": "nonsense"})
    ended = http.post("/live/enter", json={"key": expired})

    assert (wrong.status_code, ended.status_code) == (401, 401)
    assert "wrong" in wrong.json()["detail"]
    assert "expired" in ended.json()["detail"]
    assert "set-cookie" not in wrong.headers


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [(b"{}", "application/json", 400), (b"[1]", "application/json", 400),
     (b'{"key": 1}', "application/json", 400), (b'{"key": "a"', "application/json", 400),
     (b'{"key": "a"}', "text/plain", 415), (b"[" * 5000, "application/json", 413),
     (b'{"key": "a", "token": "b"}', "application/json", 400),
     (rb'{"key": "\ud800"}', "application/json", 401)],
)  # fmt: skip
def test_another_body_is_refused(http, body, kind, status):
    answer = http.post("/live/enter", content=body, headers={"content-type": kind})

    assert answer.status_code == status
    assert http.get("/live/enter").status_code == 405


def test_a_link_lets_one_browser_in(catalog, http):
    link = catalog.link()
    page, _, token = link.partition("#enter=")

    answers = [http.post("/live/enter", json={"token": token}) for _ in range(2)]

    assert page == f"{catalog.url}/live"
    assert [answer.status_code for answer in answers] == [204, 401]
    assert "once" in answers[1].json()["detail"]


def test_however_many_use_a_link_at_once_one_gets_in(tmp_path):
    for _ in range(20):
        token = create_token(tmp_path)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _, token=token: consume(tmp_path, token), range(8)))
        assert sum(ends is not None for ends in found) == 1


def test_an_old_link_lets_nobody_in_and_is_removed(tmp_path):
    assert consume(tmp_path, create_token(tmp_path, minutes=-0.1)) is None
    create_token(tmp_path, minutes=-100)
    create_link(tmp_path, "http://here", minutes=5)

    assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_a_token_is_not_in_the_folder_that_has_it(tmp_path):
    token = create_token(tmp_path)

    (file,) = (tmp_path / FOLDER).iterdir()
    assert token not in file.name + file.read_text()
    assert file.stat().st_mode & 0o77 == 0


def test_a_command_makes_a_link_for_as_long_as_asked(tmp_path):
    beamline = ShownBeamline.create(tmp_path)
    beamline.config.paths.catalog.mkdir()
    (beamline.config.paths.catalog / "key").write_text("0123")
    command = ["key", "--link", "--days", "2", "--beamline", str(beamline.config.file)]

    made = CliRunner().invoke(cli, command)
    printed = json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout)

    page, _, token = made.stdout.strip().partition("#enter=")
    assert page == "http://127.0.0.1:0/live"
    ends = consume(beamline.config.paths.catalog, token)
    assert ends == pytest.approx(time.time() + 2 * 86400, abs=60)
    assert printed["ends"] == pytest.approx(time.time() + 600, abs=60)
    assert consume(beamline.config.paths.catalog, printed["link"].partition("#enter=")[2])


def test_a_link_is_printed_for_a_terminal_only(tmp_path):
    file = tmp_path / "beamline.toml"
    shown = describe_page(tmp_path, "http://here", beamline=file, terminal=True)
    kept = describe_page(tmp_path, "http://here", beamline=file, terminal=False)
    cannot = describe_page(tmp_path / "none", "http://here", beamline=file, terminal=True)

    assert "http://here/live#enter=" in shown
    assert kept == cannot
    assert "#" not in kept
    assert f"offbragg key --link --beamline {file}" in kept


def test_every_file_of_the_page_is_packed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["offbragg.web"]
    packed = {path for pattern in patterns for path in WEB.glob(pattern) if path.is_file()}
    there = {
        path for path in WEB.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }

    assert packed == there


@pytest.mark.parametrize("token", ["", "..", "../key", "\ud800", "x" * 4000])
def test_no_token_leads_to_another_file(tmp_path, token):
    (tmp_path / "key").write_text("99999999999 99999999999")

    assert consume(tmp_path, token) is None


@pytest.mark.parametrize(
    ("query", "more"),
    [("", {}), ("?api_key=", {}), ("?x=api_key=", {}), ("", {"Authorization": "Basic x"})],
)
def test_a_page_of_another_origin_opens_no_websocket_with_the_cookie(catalog, query, more):
    address = catalog.url.replace("http", "ws") + f"/now/socket{query}"
    headers = {"Cookie": f"tiled_api_key={catalog.reading_key}", **more}

    with connect(address, additional_headers=headers, origin=catalog.url) as socket:
        assert socket.recv(timeout=10)
    with (
        pytest.raises(InvalidStatus),
        connect(address, additional_headers=headers, origin="http://127.0.0.1:1"),
    ):
        pass


@pytest.mark.parametrize("origin", ["http://127.0.0.1:1", "null"])
def test_a_page_of_another_origin_takes_no_key_away(catalog, http, origin):
    answer = http.post("/live/leave", headers={"origin": origin})

    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert http.post("/live/leave", headers={"origin": catalog.url}).status_code == 204
