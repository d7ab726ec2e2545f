"""The way from a volume to neuroglancer; test_neuroglancer.py looks at it in a browser."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import httpx
import numpy as np
import pytest
from tiled.utils import BrokenLink

from offbragg.catalog import viewer
from offbragg.catalog.authentication import WrongKeys, reading_key
from offbragg.catalog.door import Authentication
from offbragg.catalog.named_keys import NamedKeys
from offbragg.catalog.page import Page
from offbragg.catalog.viewer import Viewer, view_state
from offbragg.grid import Grid

KEY = "0123"
READING = reading_key(KEY, ends=4e9)
GRID = Grid((-20, -18, -16), (41, 37, 33), (10, 10, 5))
CELLS = np.array([[[np.nan, -1.0, 0.0, 10.0, 1000.0]]])


class Array:
    def __init__(self, cells: Any) -> None:
        self._cells = cells

    def read(self) -> Any:
        if self._cells is None:
            raise BrokenLink("the volume file is missing: v.h5")
        return self._cells


class Tree:
    """Three volumes of a catalog."""

    def __init__(self) -> None:
        metadata: Any = {"grid": GRID.to_dict(), "levels": [1, 2]}
        self._nodes: dict[tuple[str, ...], Any] = {}
        for key, cells in (("v-1", CELLS), ("dark-2", CELLS[..., :3]), ("gone-3", None)):
            self._nodes["volumes", key] = SimpleNamespace(metadata=lambda: metadata)
            self._nodes["volumes", key, "levels", "2"] = Array(cells)

    async def lookup_adapter(self, segments: list[str]) -> Any:
        return self._nodes[tuple(segments)]


def ask(path: str, **headers: str) -> httpx.Response:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError(scope["path"])

    async def answer() -> httpx.Response:
        wrong = WrongKeys()
        keyed = Authentication(Viewer(app, Tree()), KEY, wrong)
        served: Any = Page(
            keyed, key=KEY, directory=(at := Path("nowhere")), wrong=wrong, named=NamedKeys(at, KEY)
        )
        transport = httpx.ASGITransport(app=served)
        async with httpx.AsyncClient(transport=transport, base_url="http://catalog:80") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(answer())


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "client"
    directory.mkdir()
    (directory / "index.html").write_text("neuroglancer")
    (tmp_path / "secret").write_text("secret")
    monkeypatch.setattr(viewer, "client_directory", lambda: directory)
    return directory


def state_of(answer: httpx.Response) -> Any:
    return json.loads(unquote(answer.headers["location"].partition("#!")[2]))


def test_the_key_in_the_address_of_a_view_becomes_the_cookie(client):
    answer = ask(f"/view/v-1?api_key={READING}")

    assert answer.status_code == 200
    assert 'content="0; url=/view/v-1"' in answer.text
    assert READING not in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "no-referrer"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"tiled_api_key={READING};")
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert KEY not in ask(f"/view/v-1?api_key={KEY}").headers["set-cookie"]
    wrong = ask("/view/v-1?api_key=wrong")
    assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)


def test_no_address_of_a_view_is_markup(client):
    answer = ask(f"/view/%22%3E%3Cscript%3E?api_key={READING}")

    assert "<script>" not in answer.text


def test_the_cookie_opens_the_next_view(client):
    answer = ask("/view/v-1", cookie=f"tiled_api_key={READING}")

    assert answer.status_code == 302
    assert answer.headers["location"].startswith("/view/v/v-1/#!")
    assert "set-cookie" not in answer.headers
    (layer,) = state_of(answer)["layers"]
    assert layer["source"] == "http://catalog/zarr/v3/volumes/v-1/|zarr3:"
    assert ask("/view/v-1").status_code == 401


def test_a_view_begins_in_the_middle_with_one_unit_for_each_index():
    state = view_state("v", GRID, address="http://catalog", low=0.0, high=3.0)

    assert state["dimensions"] == {"h": [0.1, ""], "k": [0.1, ""], "l": [0.2, ""]}
    assert state["position"] == [0.0, 0.0, 0.0]
    odd = Grid((3, 0, 0), (2, 1, 1), (1, 1, 1))
    assert view_state("v", odd, address="", low=0.0, high=1.0)["position"] == [3.5, 0.0, 0.0]


@pytest.mark.parametrize(("key", "low", "high"), [("v-1", "1.8", "3.0"), ("dark-2", "0.0", "1.0")])
def test_the_colours_are_those_of_what_was_measured(client, key, low, high):
    shader = state_of(ask(f"/view/{key}", cookie=f"tiled_api_key={READING}"))["layers"][0]["shader"]

    assert f"default={low})" in shader.split("\n")[0]
    assert f"default={high})" in shader.split("\n")[1]


@pytest.mark.parametrize(
    ("path", "status", "why"),
    [
        ("/view/other", 404, "key of a volume"), ("/view/", 404, "key of a volume"),
        ("/view/v-1/levels", 404, "key of a volume"), ("/view/gone-3", 410, "missing"),
        ("/view/v/v-1/nothing.js", 404, "Not Found"), ("/view/v/v-1/../secret", 404, ""),
        ("/view/v/v-1/%2e%2e/secret", 404, ""), ("/view/v/v-1//etc/passwd", 404, ""),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused(client, path, status, why):
    answer = ask(path, authorization=f"Apikey {READING}")

    assert (answer.status_code, why in answer.text) == (status, True), answer.text
    assert "secret" not in answer.text


def test_the_client_is_served_below_the_token(client):
    answer = ask("/view/v/v-1/", authorization=f"Apikey {READING}")

    assert (answer.status_code, answer.text) == (200, "neuroglancer")
    assert ask("/view/v/v-1/").status_code == 401


def test_a_stream_of_events_stays_open_until_the_browser_leaves(client):
    sent: list[Any] = []
    received = iter([{"type": "http.request"}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        assert sent[-1]["more_body"]
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    app: Any = None
    scope = {"type": "http", "method": "GET", "path": "/view/events/v-1", "headers": []}
    asyncio.run(Viewer(app, Tree())(scope, receive, send))

    assert (b"content-type", b"text/event-stream") in sent[0]["headers"]
    assert not sent[-1].get("more_body")


def test_without_neuroglancer_the_way_to_it_is_named(monkeypatch):
    monkeypatch.setattr(viewer, "client_directory", lambda: None)

    answer = ask("/view/v-1", cookie=f"tiled_api_key={READING}")

    assert (answer.status_code, "pip install neuroglancer" in answer.text) == (404, True)
