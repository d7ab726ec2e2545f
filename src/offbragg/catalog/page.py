"""The page at ``/live``: its files, and how a browser gets its cookie.

The files are public: they hold no data, and ask for a key. A key, or a one-time token, is exchanged
for a read-only key in a cookie that scripts cannot read and other sites cannot send. So no address
and no log has it; one that a browser finds in the address of a view is moved there. Everything else
that the page does is what any client may do.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import html
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from offbragg.catalog import one_time
from offbragg.catalog.admission import Admissions
from offbragg.catalog.authentication import (
    COOKIE,
    PAGES,
    App,
    Receive,
    Scope,
    Send,
    WrongKeys,
    is_of_another_page,
    reading_key,
    refuse,
)
from offbragg.catalog.named_keys import NamedKeys, for_browser
from offbragg.catalog.people import PeopleFile
from offbragg.catalog.sent import Refusal, begin, matches
from offbragg.printable import printable

PATH = "/live"
_TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8", ".json": "application/json",
    ".svg": "image/svg+xml", ".png": "image/png", ".txt": "text/plain; charset=utf-8",
}  # fmt: skip
_NAME = re.compile(r"/((?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/)*[A-Za-z0-9_-][A-Za-z0-9_.-]*)")
_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,255}")
STRICT = {
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin",
}  # fmt: skip
LEAD = (
    '<!doctype html><meta charset="utf-8"><title>offbragg</title>'
    '<meta http-equiv="refresh" content="0; url={}">'
)
_MOST = 4096  # bytes of a request to enter
_WAIT = 5.0  # s, for its body
_USED = (
    "This link was used already, or its time is over: it lets one browser in, once. "
    "offbragg key --link creates another one."
)
_OWN = (
    "The catalog's own key is not for browsers where it has people: log in, or use a key that "
    "offbragg token creates."
)
_NO_LINKS = "Links let nobody in where the catalog has people: log in."
_NO_ADDRESS = (
    "Where the catalog has people, no key is taken from an address: it could be another person's, "
    "and take the place of yours. Log in, or give the key at /live."
)


@dataclass(frozen=True, slots=True)
class _File:
    """One file of the page, and its state when it was read."""

    state: tuple[int, int]
    plain: bytes
    packed: bytes
    tag: str


class Page:
    """Answers requests for the page, and passes on all others.

    Parameters
    ----------
    app
        The app that answers all other requests.
    key
        The catalog's key.
    directory
        The catalog's directory, which has the one-time tokens.
    wrong
        Counts wrong keys.
    named
        The catalog's named keys.
    people
        Its people, if it has any.
    """

    def __init__(
        self,
        app: App,
        *,
        key: str,
        directory: Path,
        wrong: WrongKeys,
        named: NamedKeys,
        people: PeopleFile | None = None,
    ) -> None:
        self._app = app
        self._key = key
        self._directory = directory
        self._wrong = wrong
        self._named = named
        self._people = people
        self._admissions = Admissions(key, named, people)
        self._folder = Path(str(files("offbragg") / "web"))
        self._files: dict[str, _File] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        is_page = path == PATH or path.startswith(f"{PATH}/")
        given = _key_in_address(scope) if path == "/" or path.startswith(PAGES) else ""
        if scope["type"] != "http" or not (is_page or given):
            await self._app(scope, receive, send)
            return
        try:
            if given:
                await self._move_key(given, scope, send)
            elif path == f"{PATH}/enter":
                _only(scope, "POST")
                await self._enter(scope, receive, send)
            elif path == f"{PATH}/leave":
                _only(scope, "POST")
                if is_of_another_page(scope):  # a form may send this from anywhere
                    raise Refusal(403, "A page of another origin may not take the key away.")
                await _send(send, 204, {"set-cookie": cookie(scope, "", ends=0)})
            else:
                _only(scope, "GET", "HEAD")
                await self._send_file(path.removeprefix(PATH), scope, send)
        except Refusal as refusal:
            await refuse(send, refusal.status, str(refusal), refusal.headers)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = await read_body(scope, receive)
        if len(given) != 1 or not given.keys() <= {"key", "token"}:
            raise Refusal(400, 'The body is {"key": …} or {"token": …}, with text.')
        ((kind, text),) = given.items()
        if not isinstance(text, str):
            raise Refusal(400, f"{kind} must be text.")
        found = self._by_token(text) if kind == "token" else self._by_key(text.strip())
        await _send(send, 204, {"set-cookie": self._cookie(found, scope)})

    async def _move_key(self, given: str, scope: Scope, send: Send) -> None:
        """Move a key from the address into the cookie, and lead to the address without it.

        It leads there by a page: after a redirect that begins at another site, as at a link in a
        letter, a browser sends no strict cookie.
        """
        _only(scope, "GET", "HEAD")
        if self._people is not None:
            raise Refusal(403, _NO_ADDRESS)
        header = self._cookie(self._by_key(given), scope)
        body = LEAD.format(html.escape(quote(scope["path"]))).encode()
        headers = {"set-cookie": header, "content-type": _TYPES[".html"], **STRICT,
                   "content-security-policy": page_policy(""), "cache-control": "no-store",
                   "content-length": str(len(body))}  # fmt: skip
        await _send(send, 200, headers, body if scope["method"] == "GET" else b"")

    def _cookie(self, found: tuple[str, float] | str, scope: Scope) -> str:
        """Return the header with a cookie, or refuse with the reason."""
        if isinstance(found, str):
            if wait := self._wrong.count(scope):
                raise Refusal(429, "Too many wrong keys.", **{"retry-after": str(wait)})
            raise Refusal(401, found)
        key, ends = found
        return cookie(scope, key, ends=ends)

    def _by_token(self, token: str) -> tuple[str, float] | str:
        if self._people is not None:
            return _NO_LINKS
        ends = one_time.consume(self._directory, token)
        return _USED if ends is None else (reading_key(self._key, ends=ends), ends)

    def _by_key(self, key: str) -> tuple[str, float] | str:
        """Return what a browser gets for a key, and when that expires, POSIX s; or why nothing.

        It only reads, whoever sits there, and is revoked with the key.
        """
        admission = self._admissions.of(key)
        if admission.right in ("ended", "none"):
            return admission.why
        if admission.ends is None:  # the catalog's own
            if self._people is not None:
                return _OWN
            ends = time.time() + 86400 * one_time.DAYS
            return reading_key(self._key, ends=ends), ends
        named = self._named.find(key) is not None
        return for_browser(key) if named else key, admission.ends

    async def _send_file(self, name: str, scope: Scope, send: Send) -> None:
        name = "/index.html" if name in ("", "/") else name
        file = self._read(name)
        if file is None:
            raise Refusal(404, f"The page has no file {printable(name[:100])}.")
        sent = {k.decode().lower(): v.decode("latin-1") for k, v in scope["headers"]}
        packs = bool(file.packed) and "gzip" in sent.get("accept-encoding", "")
        etag = f'"{file.tag}{"-gz" if packs else ""}"'
        headers = {
            "etag": etag,
            "cache-control": "no-cache",
            "vary": "accept-encoding",
            "content-security-policy": page_policy(sent.get("host", "")),
            **STRICT,
        }
        if matches(sent.get("if-none-match", ""), etag):
            await _send(send, 304, headers)
            return
        headers["content-type"] = _TYPES[Path(name).suffix]
        if packs:
            headers["content-encoding"] = "gzip"
        body = file.packed if packs else file.plain
        headers["content-length"] = str(len(body))
        await _send(send, 200, headers, body if scope["method"] == "GET" else b"")

    def _read(self, name: str) -> _File | None:
        """Return a file of the page; None if it has none with this name."""
        named = _NAME.fullmatch(name)
        if named is None or Path(name).suffix not in _TYPES:
            return None
        path = self._folder / named[1]
        try:
            stat = path.stat()
            state = stat.st_mtime_ns, stat.st_size
            known = self._files.get(name)
            if known is None or known.state != state:
                plain = path.read_bytes()
                packed = gzip.compress(plain, 9, mtime=0)
                tag = hashlib.sha256(plain).hexdigest()[:32]
                known = _File(state, plain, packed if len(packed) < len(plain) else b"", tag)
                self._files[name] = known
            return known
        except OSError:
            return None


def cookie(scope: Scope, key: str, *, ends: float) -> str:
    """Return the header that gives a browser its key until it expires, or takes it away."""
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    age = max(int(ends - time.time()), 0)
    return f"{COOKIE}={key}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}"


def _key_in_address(scope: Scope) -> str:
    query = scope.get("query_string", b"").decode("latin-1")
    return next((value for name, value in parse_qsl(query) if name == "api_key"), "")


def page_policy(host: str) -> str:
    """Return what the page may do: nothing but with its own origin."""
    sockets = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        f"connect-src 'self'{sockets}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


def _only(scope: Scope, *methods: str) -> None:
    if scope["method"] not in methods:
        raise Refusal(405, f"Here: {' or '.join(methods)}.", allow=", ".join(methods))


async def read_body(scope: Scope, receive: Receive) -> dict[str, Any]:
    """Read a small JSON object; a page of another origin may not send that type."""
    kind = next((v for k, v in scope["headers"] if k.lower() == b"content-type"), b"")
    if kind.partition(b";")[0].strip().lower() != b"application/json":
        raise Refusal(415, "The content-type must be application/json.")
    body, more = b"", True
    try:
        async with asyncio.timeout(_WAIT):
            while more and len(body) <= _MOST:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
    except TimeoutError:
        raise Refusal(408, f"The body did not come within {_WAIT:g} s.") from None
    if len(body) > _MOST:
        raise Refusal(413, f"The body may have {_MOST} bytes.")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refusal(400, "The body must be a JSON object.")
    return found


async def _send(send: Send, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
    await begin(send, status, headers)
    await send({"type": "http.response.body", "body": body})
