"""The holds on private parts of Tiled's client: our own classes for nodes, and errors at once.

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
    """Return a copyable table of the client classes that open nodes.

    ``cat.v1`` and ``cat.v2`` copy the table and change the copy. The copies of Tiled's own table
    share their content: changing one turns every client of the process into one of version 2.

    Returns
    -------
    clients
        ``"numpy"``, Tiled's own table, if this version of Tiled has no such table.
    """
    part = _own_classes()
    if part.active:
        return _clients()
    _log.warning("%s", part)
    return "numpy"


def self_test() -> list[PrivatePart]:
    """Return which of the two holds are active with these versions of Tiled and httpx."""
    return [_own_classes(), examine("httpx", "errors of the catalog raised at once", _try_failure)]


def _own_classes() -> PrivatePart:
    return examine("tiled", "our own classes for runs and streams", _try_table)


def _try_failure() -> None:
    """Ask a server that fails, in the way of Tiled's client."""
    import httpx

    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(500))) as http:
        fail_fast(http)
        try:
            http.get("http://127.0.0.1/")
        except CatalogError:
            return
    raise ValueError("an error is not raised at once")


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

    from offbragg.catalog.clients import CatalogRun, RunCatalog, Stream
    from offbragg.catalog.volume_client import VolumeCatalog, VolumeClient

    class Clients(OneShotCachedMap):
        def __copy__(self) -> Clients:
            copied = Clients()
            copied.__setstate__(dict(self.__getstate__()))
            return copied

    Container.discover_clients_from_entrypoints()
    clients = Clients()
    clients.__setstate__(dict(DEFAULT_STRUCTURE_CLIENT_DISPATCH["numpy"].__getstate__()))
    clients.set("CatalogOfBlueskyRuns", lambda: RunCatalog)
    clients.set("BlueskyRun", lambda: CatalogRun)
    clients.set("BlueskyEventStream", lambda: Stream)
    clients.set("OffbraggVolumes", lambda: VolumeCatalog)
    clients.set("OffbraggVolume", lambda: VolumeClient)
    return clients


def fail_fast(http: httpx.Client) -> None:
    """Raise an error at once where Tiled's client would retry for a minute."""
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
            verb = "refused" if response.status_code == 403 else "failed"
            refused = CatalogError(
                f"the catalog {verb}: {where} answered {response.status_code}: "
                f"{response.text[:500]}"
            )
            refused.status = response.status_code
            raise refused
        return response

    http.send = send_once  # type: ignore[method-assign]
