"""Authentication: one key that opens everything, read-only keys that expire, and named keys.

Tiled with a single user has one key, and does not ask for it everywhere: ``/zarr`` and
``/api/graphql`` answer anyone. So every request is checked here, before Tiled sees it. However the
key was sent, it is passed on as a header, and no address that Tiled might log holds it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote_plus

from starlette.requests import cookie_parser

from offbragg.catalog.named_keys import NamedKeys
from offbragg.printable import printable

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Right = Literal["everything", "reading", "ended", "none"]

TRIES = 30  # wrong keys from one address in a minute; the right key is always accepted
_MINUTE = 60.0
_ADDRESSES = 10_000  # in a minute; all further addresses are counted as one
_OPEN = frozenset({"/healthz", "/api/v1", "/api/v1/"})  # whether it is up, and which version
COOKIE = "tiled_api_key"  # where a browser keeps the key
PAGES = ("/ui", "/static", "/view/")  # for browsers, with "/"; there the key becomes the cookie
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_LONG = tuple(f"/api/v1/{kind}/" for kind in ("table", "container", "awkward"))
"""Paths where a POST only reads: the address would be too long for a GET."""

_NEEDED = "A key is needed: Authorization: Apikey KEY"
_WRONG = (
    "This key is wrong: it was not copied completely, belongs to another catalog, or was "
    "revoked. Ask whoever gave it to you: offbragg key creates another one."
)
_EXPIRED = (
    "This key has expired: it ended on {}. Ask whoever gave it to you for another one: "
    "offbragg key creates it."
)

_log = logging.getLogger(__name__)


def reading_key(key: str, *, ends: float) -> str:
    """Create a read-only key that expires.

    It is signed with the catalog's own key and stored nowhere: a new catalog key revokes it.

    Parameters
    ----------
    key
        The catalog's key.
    ends
        When it expires, POSIX s.

    Examples
    --------
    >>> made = reading_key("0123", ends=2_000_000_000)
    >>> right_of(made, "0123", now=1_999_999_999), right_of(made, "0123", now=2_000_000_000)
    ('reading', 'ended')
    >>> right_of("read" + "f" * 10 + made[14:], "0123", now=0)
    'none'
    """
    until = f"{max(int(ends), 0):010x}"
    if len(until) > 10:
        raise ValueError(f"not a valid expiry time: {ends:g} s")
    return f"read{until}{_signature(key, until)}"


def right_of(given: str, key: str, *, now: float, named: NamedKeys | None = None) -> Right:
    """Return what a key permits.

    Parameters
    ----------
    given
        The key that a client has sent.
    key
        The catalog's key.
    now
        The time, POSIX s.
    named
        The catalog's named keys.
    """
    if named is not None and (found := named.find(given)) is not None:
        if now >= found.key.ends:
            return "ended"
        return "reading" if found.only_reads else "everything"
    sent = given.encode("utf-8", "replace")  # half of a surrogate pair is in no key
    if hmac.compare_digest(sent, key.encode()):
        return "everything"
    until = sent[4:14].decode("latin-1")
    if not hmac.compare_digest(f"read{until}{_signature(key, until)}".encode(), sent):
        return "none"
    return "reading" if now < int(until, 16) else "ended"


def _signature(key: str, until: str) -> str:
    return hmac.new(key.encode(), f"read until {until}".encode(), hashlib.sha256).hexdigest()[:40]


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
    """

    def __init__(
        self,
        app: App,
        key: str,
        wrong: WrongKeys | None = None,
        named: NamedKeys | None = None,
    ) -> None:
        self._app = app
        self._key = key
        self._wrong = wrong or WrongKeys()
        self._named = named

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
        if scope["type"] == "lifespan" or scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        given, by_cookie = _given(scope)
        right = self._right(given)
        is_socket = scope["type"] == "websocket"
        if is_socket and by_cookie and right != "none" and is_of_another_page(scope):
            # browsers let any page open one, with the cookie of ours
            await send({"type": "websocket.close", "code": 1008})
        elif right == "everything" or (right == "reading" and only_reads(scope)):
            passed = self._while_valid(given, send) if is_socket else send
            await self._app(_with_key(scope, self._key), receive, passed)
        elif is_socket:
            self._wrong.count(scope)
            await send({"type": "websocket.close", "code": 1008})
        elif right == "reading":
            await refuse(send, 403, "This key is read-only.")
        elif wait := self._wrong.count(scope):
            await refuse(send, 429, "Too many wrong keys.", {"retry-after": str(wait)})
        else:
            await refuse(
                send, 401, why_refused(given, right, self._named), {"www-authenticate": "Apikey"}
            )

    def _right(self, given: str) -> Right:
        return right_of(given, self._key, now=time.time(), named=self._named)

    def _while_valid(self, given: str, send: Send) -> Send:
        """Return what sends messages until the key has expired or is revoked, and then closes."""
        closed = False

        async def checked(message: Message) -> None:
            nonlocal closed
            if closed:
                return
            closed = self._right(given) not in ("everything", "reading")
            await send({"type": "websocket.close", "code": 1008} if closed else message)

        return checked


def why_refused(given: str, right: Right, named: NamedKeys | None = None) -> str:
    """Return why a key gives no access, and what to do."""
    if right == "ended":
        at = time.gmtime(ending_of(given, named))
        return _EXPIRED.format(time.strftime("%Y-%m-%d at %H:%M UTC", at))
    return _WRONG if given else _NEEDED


def ending_of(given: str, named: NamedKeys | None = None) -> int:
    """Return when a read-only or named key expires, POSIX s."""
    if named is not None and (found := named.find(given)) is not None:
        return int(found.key.ends)
    return int(given[4:14], 16)


class WrongKeys:
    """Counts wrong keys, by address and minute."""

    def __init__(self) -> None:
        self._wrong: Counter[str] = Counter()
        self._minute = time.monotonic()

    def count(self, scope: Scope) -> int:
        """Count a wrong key; after too many, return how long to wait, s; otherwise 0."""
        passed = time.monotonic() - self._minute
        if passed >= _MINUTE:
            self._wrong.clear()
            self._minute, passed = time.monotonic(), 0.0
        client = scope.get("client")
        address = client[0] if client else ""
        if address not in self._wrong and len(self._wrong) >= _ADDRESSES:
            address = ""
        self._wrong[address] += 1
        if self._wrong[address] == TRIES + 1:
            _log.warning(
                "%s tries out keys: %d wrong keys in a minute", printable(address), TRIES + 1
            )
        return int(_MINUTE - passed) + 1 if self._wrong[address] > TRIES else 0


async def refuse(
    send: Send, status: int, why: str, headers: MutableMapping[str, str] | None = None
) -> None:
    """Answer a request with an error, in the form of Tiled's own."""
    body = json.dumps({"detail": why}).encode()
    fields = {
        "content-type": "application/json", "content-length": str(len(body)), **(headers or {})
    }  # fmt: skip
    coded = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": coded})
    await send({"type": "http.response.body", "body": body})


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


def is_of_another_page(scope: Scope) -> bool:
    """Return whether a page of another origin asks; ports of one host share their cookies."""
    headers = {name.lower(): value for name, value in scope["headers"]}
    origin = headers.get(b"origin", b"")
    return bool(origin) and origin.partition(b"://")[2] != headers.get(b"host", b"")


def only_reads(scope: Scope) -> bool:
    """Return whether a request only reads."""
    path = scope["path"]
    if scope["type"] == "websocket":
        return True
    if path.startswith("/api/graphql"):
        return False
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
