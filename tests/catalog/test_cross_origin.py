"""Pages of other origins: a browser lets them read only what the configuration permits."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from offbragg.catalog.cross_origin import with_origins
from offbragg.catalog.door import Authentication

KEY = "0123"
VIEWER = "http://127.0.0.1:9000"
OTHER = "https://evil.example.org"


def ask(method: str, *origins: str, **headers: str) -> httpx.Response:
    """Ask a catalog in which these origins may read."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("cells", headers={"etag": '"1"'})(scope, receive, send)

    async def answer() -> httpx.Response:
        served: Any = with_origins(Authentication(app, KEY), origins)
        transport = httpx.ASGITransport(app=served)
        async with httpx.AsyncClient(transport=transport, base_url="http://catalog") as client:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, "/zarr", headers=sent)

    return asyncio.run(answer())


@pytest.mark.parametrize("origins", [(), (VIEWER,)])
def test_a_page_of_another_origin_reads_nothing(origins):
    answer = ask("GET", *origins, origin=OTHER, cookie=f"tiled_api_key={KEY}")

    assert answer.text == "cells"  # it is sent, and the browser keeps it from the page
    assert "access-control-allow-origin" not in answer.headers


def test_a_page_of_an_origin_that_may_reads_with_its_cookie():
    answer = ask("GET", VIEWER, origin=VIEWER, cookie=f"tiled_api_key={KEY}")

    assert answer.text == "cells"
    assert answer.headers["access-control-allow-origin"] == VIEWER
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "ETag" in answer.headers["access-control-expose-headers"]
    assert "Origin" in answer.headers["vary"]


def test_it_needs_a_key_and_sees_why_it_was_refused():
    answer = ask("GET", VIEWER, origin=VIEWER)

    assert (answer.status_code, "A key is needed" in answer.text) == (401, True)
    assert answer.headers["access-control-allow-origin"] == VIEWER


@pytest.mark.parametrize(
    ("origins", "origin", "method", "status"),
    [
        ((VIEWER,), VIEWER, "GET", 200), ((VIEWER,), VIEWER, "DELETE", 400),
        ((VIEWER,), OTHER, "GET", 400), ((), VIEWER, "GET", 401),
    ],
)  # fmt: skip
def test_a_browser_that_asks_first_learns_what_may_be_sent(origins, origin, method, status):
    wanted = {
        "access_control_request_method": method,
        "access_control_request_headers": "authorization",
    }

    answer = ask("OPTIONS", *origins, origin=origin, **wanted)

    assert answer.status_code == status
    if status == 200:
        assert "Authorization" in answer.headers["access-control-allow-headers"]
