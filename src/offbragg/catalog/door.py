"""The door of the server: each request brings a key, and is that of whoever has the key.

Tiled with a single user has one key, and does not ask for it everywhere: ``/zarr`` and
``/api/graphql`` answer anyone. So every request is checked here, before Tiled sees it. However the
key was sent, it is passed on as a header, and no address that Tiled might log holds it.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote_plus

from starlette.requests import cookie_parser

from offbragg.catalog.admission import Admission, Admissions
from offbragg.catalog.authentication import (
    COOKIE,
    PAGES,
    App,
    Message,
    Receive,
    Scope,
    Send,
    WrongKeys,
    is_of_another_page,
    refuse,
)
from offbragg.catalog.named_keys import NamedKeys
from offbragg.catalog.people import PeopleFile
from offbragg.catalog.viewers import NOBODY, SERVER, seen_by

_OPEN = frozenset({"/healthz", "/api/v1", "/api/v1/"})  # whether it is up, and which version
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_LONG = tuple(f"/api/v1/{kind}/" for kind in ("table", "container", "awkward"))
"""Paths where a POST only reads: the address would be too long for a GET."""
_NOTES = re.compile(r"/runs/[^/]+/notes")


class Authentication:
    """Passes on requests that have a key; answers 429 to an address that tries out many keys.

    Parameters
    ----------
    app
        The app that the key gives access to.
    key
        The catalog's key.
    wrong
        What counts wrong keys; shared with other ways in.
    named
        The catalog's named keys.
    people
        Its people; None: whoever has a key for reading sees everything.
    """

    def __init__(
        self,
        app: App,
        key: str,
        wrong: WrongKeys | None = None,
        named: NamedKeys | None = None,
        people: PeopleFile | None = None,
    ) -> None:
        self._app = app
        self._admissions = Admissions(key, named, people)
        self._wrong = wrong or WrongKeys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
        if scope["type"] == "lifespan":
            with seen_by(SERVER):  # its tasks look at everything
                await self._app(scope, receive, send)
            return
        if scope["path"] in _OPEN:
            with seen_by(NOBODY):
                await self._app(scope, receive, send)
            return
        given, by_cookie = _given(scope)
        admission = self._admissions.of(given)
        right = admission.right
        is_socket = scope["type"] == "websocket"
        if is_socket and by_cookie and right != "none" and is_of_another_page(scope):
            # browsers let any page open one, with the cookie of ours
            await send({"type": "websocket.close", "code": 1008})
        elif right == "everything" or (right == "reading" and only_reads(scope)):
            passed = self._while_valid(given, admission, send) if is_socket else send
            with seen_by(admission.viewer):
                await self._app(_with_key(scope, self._admissions.key), receive, passed)
        elif is_socket:
            self._wrong.count(scope)
            await send({"type": "websocket.close", "code": 1008})
        elif right == "reading":
            await refuse(send, 403, "This key is read-only.")
        elif wait := self._wrong.count(scope):
            await refuse(send, 429, "Too many wrong keys.", {"retry-after": str(wait)})
        else:
            await refuse(send, 401, admission.why, {"www-authenticate": "Apikey"})

    def _while_valid(self, given: str, admission: Admission, send: Send) -> Send:
        """Return what sends messages until the key permits something else, and then closes."""
        closed = False

        async def checked(message: Message) -> None:
            nonlocal closed
            if closed:
                return
            now = self._admissions.of(given)
            closed = (now.right, now.viewer) != (admission.right, admission.viewer)
            await send({"type": "websocket.close", "code": 1008} if closed else message)

        return checked


def _given(scope: Scope) -> tuple[str, bool]:
    """Find the key where Tiled does, in its order, and whether it is that of a cookie.

    An empty string if there is none.
    """
    for name, value in parse_qsl(scope["query_string"].decode("latin-1")):
        if name == "api_key":
            return value, False
    headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    kind, _, given = headers.get(b"authorization", "").partition(" ")
    if kind.lower() == "apikey":
        return given.strip(), False
    return cookie_parser(headers.get(b"cookie", "")).get(COOKIE, ""), True


def only_reads(scope: Scope) -> bool:
    """Return whether a request only reads."""
    path = scope["path"]
    if scope["type"] == "websocket":
        return True
    if path.startswith("/api/graphql"):
        return False
    if scope["method"] == "POST" and _NOTES.fullmatch(path):
        return True  # who may annotate is known where notes are written
    return scope["method"] in _READING or (scope["method"] == "POST" and path.startswith(_LONG))


def _with_key(scope: Scope, key: str) -> Scope:
    """Return the request with the catalog's key as a header, and without any key in its address.

    A cookie stays: where there is one, Tiled asks for its token against forged requests.
    """
    path = scope["path"]
    if path == "/" or path.startswith(PAGES):
        return scope
    pairs = scope["query_string"].split(b"&")
    kept = [pair for pair in pairs if not _is_key(pair)]
    others = [(name, value) for name, value in scope["headers"] if name.lower() != b"authorization"]
    header = (b"authorization", f"Apikey {key}".encode())
    return {**scope, "query_string": b"&".join(kept), "headers": [*others, header]}


def _is_key(pair: bytes) -> bool:
    return unquote_plus(pair.partition(b"=")[0].decode("latin-1")) == "api_key"


def key_of(scope: Scope) -> str:
    """Return the key with which a request comes, whatever it is worth; empty without one."""
    return _given(scope)[0]
