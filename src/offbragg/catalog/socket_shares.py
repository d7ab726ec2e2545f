"""Websockets that one person may have open, so that nobody alone takes all that there are."""

from __future__ import annotations

import hashlib
from collections import Counter

from offbragg.catalog.admission import Admissions
from offbragg.catalog.authentication import App, Receive, Scope, Send
from offbragg.catalog.door import key_of

SHARE = 40
"""Websockets that are open for one person, or with one key, in one process."""

_OVERLOADED = 1013  # why a websocket is closed, RFC 6455's registry


class SocketShares:
    """Closes a websocket at once if who opens it has their share of them open.

    People are counted with all of their keys, where the catalog has people; otherwise each key is.

    Parameters
    ----------
    app
        The app that answers the requests.
    admissions
        Finds whose a key is.
    """

    def __init__(self, app: App, admissions: Admissions | None = None) -> None:
        self._app = app
        self._admissions = admissions
        self._open: Counter[bytes] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        key = self._counted(key_of(scope))
        if self._open[key] >= SHARE:
            await send({"type": "websocket.close", "code": _OVERLOADED})
            return
        self._open[key] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]

    def _counted(self, given: str) -> bytes:
        """Return as what a key is counted."""
        name = ""
        if self._admissions is not None and self._admissions.people is not None:
            name = self._admissions.of(given).viewer.name
        text = f"person {name}" if name else f"key {given}"
        return hashlib.sha256(text.encode("utf-8", "replace")).digest()
