"""Keys: one that opens everything, read-only keys that expire, and named keys.

Whose they are is in `admission`, and the door of the server that asks for them is `door`.
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
COOKIE = "tiled_api_key"  # where a browser keeps the key
PAGES = ("/ui", "/static", "/view/")  # for browsers, with "/"; there the key becomes the cookie
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

    def wait(self, scope: Scope) -> int:
        """Return how long an address that tried too many has to wait, s; otherwise 0."""
        address, passed = self._counted(scope)
        return int(_MINUTE - passed) + 1 if self._wrong[address] >= TRIES else 0

    def _counted(self, scope: Scope) -> tuple[str, float]:
        """Return as which address one is counted, and how much of the minute has passed, s."""
        passed = time.monotonic() - self._minute
        if passed >= _MINUTE:
            self._wrong.clear()
            self._minute, passed = time.monotonic(), 0.0
        client = scope.get("client")
        address = client[0] if client else ""
        if address not in self._wrong and len(self._wrong) >= _ADDRESSES:
            address = ""
        return address, passed

    def count(self, scope: Scope) -> int:
        """Count a wrong key; after too many, return how long to wait, s; otherwise 0."""
        address, passed = self._counted(scope)
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


def is_of_another_page(scope: Scope) -> bool:
    """Return whether a page of another origin asks; ports of one host share their cookies."""
    headers = {name.lower(): value for name, value in scope["headers"]}
    origin = headers.get(b"origin", b"")
    return bool(origin) and origin.partition(b"://")[2] != headers.get(b"host", b"")
