"""Pages of other origins that may read the catalog: none, unless its configuration names them.

A browser lets a page read only from the origin that the page came from: scheme, host and port.
CORS is how a server lets in pages of others. They still need a key.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware

from offbragg.catalog.authentication import App

_SENT = ("Authorization", "Range", "If-None-Match", "If-Match", "If-Range")
_SEEN = ("ETag", "Content-Range", "Retry-After", "Repr-Digest", "X-Offbragg-Cut")


def with_origins(app: App, origins: Sequence[str]) -> App:
    """Let pages of some origins read what an app answers.

    It goes around the check of keys: a browser asks without a key first whether it may ask at all,
    and a page must see why it was refused.

    Parameters
    ----------
    app
        The app.
    origins
        Such as ``http://127.0.0.1:9000``; none: nothing is changed.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,  # pyright: ignore[reportArgumentType]
        allow_origins=list(origins),
        allow_credentials=True,
        allow_methods=["GET", "HEAD"],
        allow_headers=_SENT,
        expose_headers=_SEEN,
    )
