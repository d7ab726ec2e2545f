"""Errors without the places of files on the server: below its roots, a path begins at the root."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from offbragg.catalog.authentication import App, Message, Receive, Scope, Send

_LONGEST = 1_000_000  # bytes of an error; what is longer is none of ours


class HiddenPaths:
    """Removes the roots from the texts of errors, whoever has written them.

    Parameters
    ----------
    app
        The app that answers the requests.
    roots
        Directories whose places nobody needs to know.
    """

    def __init__(self, app: App, roots: Sequence[Path]) -> None:
        self._app = app
        # the longest first: one may lie below another
        ordered = sorted(map(str, roots), key=len, reverse=True)
        places = "|".join(re.escape(f"{root}/") for root in ordered if len(root) > 1)
        # only where a path begins: /entry/data does not begin with /data
        self._roots = re.compile(rf"(?:file://(?:localhost)?|(?<![\w./-]))(?:{places})".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = bytearray()

        async def changed(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and message["status"] >= 400:
                start = message  # kept until its length is known
                return
            if start is None:
                await send(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body") and len(body) < _LONGEST:
                return
            text = self.without_roots(bytes(body))
            headers = [
                (name, str(len(text)).encode() if name.lower() == b"content-length" else value)
                for name, value in start["headers"]
            ]
            await send({**start, "headers": headers})
            start = None
            await send({**message, "body": text})

        await self._app(scope, receive, changed)

    def without_roots(self, text: bytes) -> bytes:
        """Return a text in which paths begin at the roots."""
        return self._roots.sub(b"", text)
