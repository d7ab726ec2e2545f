"""Which routes a person may ask: those that show each what they may see. All others are for staff.

A route that is not listed here is refused, so one that is added later shows nothing until somebody
has thought of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from offbragg.catalog.authentication import App, Receive, Scope, Send, refuse
from offbragg.catalog.viewers import viewer

_STAFF = "This is for staff: the account has only what its proposals have."
_READS = ("GET", "HEAD", "OPTIONS")
_NAME = r"[^/]+"

RULES: Sequence[tuple[tuple[str, ...], str]] = (
    # the same for everybody
    (_READS, r"/"),
    (_READS, r"/(ui|static|view/v)(/.*)?"),
    (_READS, r"/(healthz|favicon\.ico|openapi\.json|docs(/oauth2-redirect)?|redoc)"),
    (_READS, r"/(tiled-ui-settings|api/v1/?)"),
    (_READS, rf"/view/events/{_NAME}"),
    # of Tiled: `separation` hides nodes
    (_READS, r"/api/v1/(search|search-deep|distinct|metadata|revisions)/.*"),
    (_READS, r"/api/v1/(array/(block|full)|ragged/full|table/(partition|full))/.*"),
    (_READS, r"/api/v1/((container|node)/full|awkward/(buffers|full)|asset/manifest)/.*"),
    (("POST",), r"/api/v1/(table/(partition|full)|container/full|awkward/buffers)/.*"),
    (_READS, r"/zarr/v[23]/.*"),
    # events of the container of the runs would be of all runs
    (("WEBSOCKET",), rf"/api/v1/stream/single/+(raw|volumes)/+{_NAME}(/.*)?"),
    # of ours: each asks with the conditions of `viewers`, or looks nodes up
    (_READS, r"/api/v1/asset/bytes/.*"),
    (_READS, rf"/runs(/{_NAME}(/(ledger|frames(/{_NAME})?)/?)?)?"),
    (("GET", "HEAD", "POST"), rf"/runs/{_NAME}/notes"),
    (_READS, rf"/series/?(/{_NAME}(/order)?/?)?"),
    (_READS, rf"/volumes/?(/{_NAME}/(plane|line|box|why))?"),
    (_READS, rf"/files/{_NAME}(/{_NAME})?"),
    (_READS, rf"/view/{_NAME}"),
    (_READS, r"/now(/history|/socket)?"),
    (("WEBSOCKET",), r"/now/socket"),
    (_READS, r"/me"),
)
_COMPILED = [(frozenset(methods), re.compile(path, re.DOTALL)) for methods, path in RULES]


def is_for_all(method: str, path: str) -> bool:
    """Return whether a person may ask this route.

    Examples
    --------
    >>> is_for_all("GET", "/api/v1/metadata/raw"), is_for_all("DELETE", "/api/v1/metadata/raw")
    (True, False)
    >>> is_for_all("GET", "/metrics")
    False
    """
    return any(method in methods and each.fullmatch(path) for methods, each in _COMPILED)


class RouteRules:
    """Passes on what who asks may ask.

    Parameters
    ----------
    app
        The app that answers.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or pass it on."""
        is_socket = scope["type"] == "websocket"
        method = "WEBSOCKET" if is_socket else scope.get("method", "")
        if (
            scope["type"] == "lifespan"
            or viewer().sees_everything
            or is_for_all(method, scope["path"])
        ):
            await self._app(scope, receive, send)
        elif is_socket:
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refuse(send, 403, _STAFF)
