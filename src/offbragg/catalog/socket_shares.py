"""Websockets that one key may have open, so that nobody alone takes all that there are."""

from __future__ import annotations

import hashlib
from collections import Counter

from offbragg.catalog.authentication import App, Receive, Scope, Send
from offbragg.catalog.door import key_of

SHARE = 40
"""Websockets that are open with one key, in one process."""

_OVERLOADED = 1013  # why a websocket is closed, RFC 6455's registry


class SocketShares:
    """Closes a websocket at once if its key has its share of them open.

    Parameters
    ----------
    app
        The app that answers the requests.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._open: Counter[bytes] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        key = hashlib.sha256(key_of(scope).encode("utf-8", "replace")).digest()
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
