"""The holds on private parts of Tiled's client: which class opens a node, and errors at once.

None of them guards. Without the first, runs are opened by the classes of bluesky-tiled-plugins.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from offbragg.errors import CatalogError
from offbragg.private_parts import PrivatePart, examine

if TYPE_CHECKING:
    import httpx

_log = logging.getLogger(__name__)


def own_clients() -> Any:
    """Return the table that says which client class opens which node, as one that can be copied.

    ``cat.v1`` and ``cat.v2`` copy it and change the copy, and so, with Tiled's table, whose
    copies share their content, turn every client of the process into one of version 2.

    Returns
    -------
    clients
        ``"numpy"``, Tiled's own table, if this version of Tiled has no such table.
    """
    part = self_test()
    if part.active:
        return _clients()
    _log.warning("%s", part)
    return "numpy"


def self_test() -> PrivatePart:
    """Return whether runs can be opened by our own classes, with this version of Tiled."""
    return examine("tiled", "our own classes for runs and streams", _try_table)


def _try_table() -> None:
    clients = _clients()
    copied = clients.__copy__()
    copied.set("BlueskyRun", lambda: int)
    if clients["BlueskyRun"] is int or copied["BlueskyRun"] is not int:
        raise ValueError("a copy of its table shares its content")
    if clients["container"] is None:
        raise KeyError("container")


def _clients() -> Any:
    from tiled.client.container import DEFAULT_STRUCTURE_CLIENT_DISPATCH, Container
    from tiled.utils import OneShotCachedMap

    from offbragg.catalog.clients import Catalog, Run, Stream

    class Clients(OneShotCachedMap):
        def __copy__(self) -> Clients:
            copied = Clients()
            copied.__setstate__(dict(self.__getstate__()))
            return copied

    Container.discover_clients_from_entrypoints()
    clients = Clients()
    clients.__setstate__(dict(DEFAULT_STRUCTURE_CLIENT_DISPATCH["numpy"].__getstate__()))
    clients.set("CatalogOfBlueskyRuns", lambda: Catalog)
    clients.set("BlueskyRun", lambda: Run)
    clients.set("BlueskyEventStream", lambda: Stream)
    return clients


def fail_fast(http: httpx.Client) -> None:
    """Turn what Tiled's client would retry for a minute into an error at once."""
    import httpx

    send = http.send

    def send_once(request: httpx.Request, **kwargs: Any) -> httpx.Response:
        where = f"{request.method} {request.url.copy_with(query=None)}"
        try:
            response = send(request, **kwargs)
        except httpx.TransportError as error:
            raise CatalogError(
                f"the catalog is away: {where} failed with {error!r}\n"
                f"Nothing is lost; what it missed is published when it is back."
            ) from error
        if response.status_code >= 500 or response.status_code == 403:
            response.read()
            did = "refused" if response.status_code == 403 else "failed"
            refused = CatalogError(
                f"the catalog {did}: {where} answered {response.status_code}: {response.text[:500]}"
            )
            refused.status = response.status_code
            raise refused
        return response

    http.send = send_once  # type: ignore[method-assign]
