"""Named keys: one for each person or program; they expire and are revoked one by one."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from typing import Any

import httpx
import pytest

from offbragg.catalog.authentication import reading_key, right_of
from offbragg.catalog.door import Authentication
from offbragg.catalog.named_keys import FOLDER, NamedKeys, for_browser
from offbragg.errors import CatalogError

KEY = "0123456789abcdef"
LATER = 4e9


@pytest.fixture
def named(tmp_path) -> NamedKeys:
    return NamedKeys(tmp_path, KEY)


def right(named: NamedKeys, given: str, now: float = 1e9) -> str:
    return right_of(given, KEY, now=now, named=named)


@pytest.mark.parametrize(("scope", "opens"), [("read", "reading"), ("staff", "everything")])
def test_a_named_key_opens_what_its_scope_names_until_it_expires(named, scope, opens):
    key = named.create("Ada, at home", scope=scope, ends=2e9)

    assert right(named, key, now=2e9 - 1) == opens
    assert right(named, key, now=2e9) == "ended"
    assert right(named, for_browser(key), now=2e9 - 1) == "reading"
    assert right(named, for_browser(key), now=2e9) == "ended"
    assert right_of(key, KEY, now=1e9) == "none", "without its file it opens nothing"


def test_a_revoked_key_opens_nothing_and_the_others_still_do(named):
    ada, bob = (named.create(name, scope="staff", ends=LATER) for name in ("Ada", "Bob"))

    named.revoke("Ada")

    assert right(named, ada) == right(named, for_browser(ada)) == "none"
    assert right(named, bob) == "everything"
    assert [key.label for key in named.known()] == ["Bob"]
    assert right(named, named.create("Ada", scope="read", ends=LATER)) == "reading"


def test_neither_the_folder_nor_a_cookie_gives_the_key(named, tmp_path):
    key = named.create("Ada", scope="staff", ends=LATER)
    (file,) = (tmp_path / FOLDER).iterdir()

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    for secret in (key, key[5:], for_browser(key)[5:]):
        assert secret not in file.name + file.read_text()
    assert key[5:] not in for_browser(key)
    for guess in (file.name, f"named{file.name[:48]}", f"shown{file.name}"):
        assert right(named, guess) == "none"


def test_a_new_key_of_the_catalog_revokes_all(named, tmp_path):
    key = named.create("Ada", scope="staff", ends=LATER)
    rekeyed = NamedKeys(tmp_path, "fedcba9876543210")

    assert rekeyed.find(key) is None
    assert rekeyed.known() == []


def changed(content: dict[str, Any], **more: object) -> str:
    return json.dumps({**content, **more})


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: "",
        lambda whole: whole[:-5],
        lambda whole: "[1]",
        lambda whole: "null",
        lambda whole: "[" * 4000,
        lambda whole: "\x00\udcff" + whole,
        lambda whole: changed(json.loads(whole), scope="staff"),
        lambda whole: changed(json.loads(whole), ends=9e9),
        lambda whole: changed(json.loads(whole), label="Bob"),
        lambda whole: changed(json.loads(whole), signature=None),
        lambda whole: changed(json.loads(whole), signature="é"),
        lambda whole: changed(json.loads(whole), more=1),
        lambda whole: whole + " " * 5000 + "x",
    ],
)
def test_a_file_that_is_damaged_or_edited_opens_nothing(named, tmp_path, damage):
    key = named.create("Ada", scope="read", ends=LATER)
    (file,) = (tmp_path / FOLDER).iterdir()
    whole = file.read_text()
    spoilt = damage(whole).encode("utf-8", "surrogateescape")
    file.write_bytes(spoilt)

    opened = right(named, key)

    # what follows the largest size is not read, and changes nothing
    assert opened == ("reading" if spoilt.startswith(whole.encode()) else "none")
    assert [key.scope for key in named.known()] == (["read"] if opened == "reading" else [])


def test_the_file_of_another_key_opens_nothing(named, tmp_path):
    ada = named.create("Ada", scope="read", ends=LATER)
    (of_ada,) = (tmp_path / FOLDER).iterdir()
    named.create("Bob", scope="staff", ends=LATER)
    (of_bob,) = (file for file in (tmp_path / FOLDER).iterdir() if file != of_ada)
    of_ada.write_bytes(of_bob.read_bytes())

    assert right(named, ada) == "none"


@pytest.mark.parametrize(
    "given",
    ["", "named", "named../../key", "named" + "0" * 48, "shown" + "/" * 64, "shown" + "0" * 64,
     "named" + "\ud800" * 48, "named" + "٠" * 48, "shown" + "0" * 64 + "\n"],
)  # fmt: skip
def test_what_is_not_a_key_opens_nothing(named, given):
    named.create("Ada", scope="staff", ends=LATER)

    assert right(named, given) == "none"


@pytest.mark.parametrize("label", ["", " ", " Ada", "Ada\n", "a\x1b[2Jb", "x" * 61])
def test_what_is_not_a_label_is_refused(named, label):
    with pytest.raises(CatalogError, match="label"):
        named.create(label, scope="read", ends=LATER)

    assert named.known() == []


def test_a_label_is_one_keys_and_a_scope_is_one_of_two(named):
    named.create("Ada", scope="read", ends=LATER)

    with pytest.raises(CatalogError, match="has the label Ada already"):
        named.create("Ada", scope="staff", ends=LATER)
    with pytest.raises(CatalogError, match="no scope everything"):
        named.create("Bob", scope="everything", ends=LATER)  # type: ignore[arg-type]
    with pytest.raises(CatalogError, match="no key has the label Bob"):
        named.revoke("Bob")


def test_a_socket_gets_nothing_more_once_its_key_is_revoked(named):
    key = named.create("Ada", scope="read", ends=LATER)
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "before"})
        named.revoke("Ada")
        await send({"type": "websocket.send", "text": "after"})
        await send({"type": "websocket.send", "text": "after"})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/now/socket", "query_string": b"",
             "headers": [(b"authorization", f"Apikey {key}".encode())]}  # fmt: skip
    asyncio.run(Authentication(app, KEY, None, named)(scope, None, send))  # type: ignore[arg-type]

    assert [message["type"] for message in sent] == [
        "websocket.accept", "websocket.send", "websocket.close",
    ]  # fmt: skip
    assert sent[1]["text"] == "before"
    assert sent[2]["code"] == 1008


def test_a_server_obeys_a_named_key_at_once(server):
    named = NamedKeys(server.directory, server.key)
    reader = named.create("a reader", scope="read", ends=LATER)
    staff = named.create("staff", scope="staff", ends=LATER)
    past = named.create("past", scope="staff", ends=time.time() - 1)

    def status(method: str, key: str) -> int:
        headers = {"Authorization": f"Apikey {key}"}
        return httpx.request(
            method, f"{server.url}/api/v1/metadata/raw/none", headers=headers
        ).status_code

    assert [status(m, reader) for m in ("GET", "DELETE")] == [404, 403]
    assert [status(m, staff) for m in ("GET", "DELETE")] == [404, 404]
    assert [status(m, past) for m in ("GET", "DELETE")] == [401, 401]
    for label in ("a reader", "staff", "past"):
        named.revoke(label)
    assert [status("GET", key) for key in (reader, staff, past)] == [401, 401, 401]
    assert reader not in server.log
    assert staff not in server.log


def test_a_browser_reads_until_the_key_that_let_it_in_is_revoked(server):
    named = NamedKeys(server.directory, server.key)
    staff = named.create("a browser", scope="staff", ends=time.time() + 500)
    with httpx.Client(base_url=server.url) as browser:
        entered = browser.post("/live/enter", json={"key": staff})
        read, deleted = (
            browser.request(m, "/api/v1/metadata/raw").status_code for m in ("GET", "DELETE")
        )
        again = browser.post("/live/enter", json={"key": browser.cookies["tiled_api_key"]})
        named.revoke("a browser")
        after = browser.get("/api/v1/metadata/raw").status_code

    cookie = entered.headers["set-cookie"]
    assert staff not in cookie
    assert 400 < int(cookie.partition("Max-Age=")[2].partition(";")[0]) <= 500
    assert (read, deleted, after) == (200, 403, 401)
    assert again.headers["set-cookie"].partition(";")[0] == cookie.partition(";")[0]


def test_keys_that_have_no_name_are_as_before(named):
    assert right(named, KEY) == "everything"
    assert right(named, reading_key(KEY, ends=2e9)) == "reading"
    assert right(named, "wrong") == "none"
