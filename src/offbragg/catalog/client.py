"""Connect to a catalog's server from anywhere."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any

from offbragg.catalog.containers import CONTAINER
from offbragg.certificates import trusted
from offbragg.errors import CatalogError
from offbragg.extras import describe_absent

if TYPE_CHECKING:
    import httpx
    from bluesky_tiled_plugins.clients.catalog_of_bluesky_runs import CatalogOfBlueskyRuns


_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


_POLL = 0.1  # s between two questions to a server that is starting


def connect(url: str, key: str, *, timeout: float = 60.0) -> CatalogOfBlueskyRuns:
    """Connect to a catalog and return its runs, waiting for a server that is still starting.

    The client fails at once, with a `CatalogError`, when the server goes away later; Tiled's
    own client would try for more than a minute.

    Parameters
    ----------
    url
        Address, as in the ready file, e.g. ``http://127.0.0.1:8000``.
    key
        The catalog's key.
    timeout
        Time limit for the server to answer, s.

    Raises
    ------
    CatalogError
        If the server does not answer in time, or refuses the key.
    """
    try:
        import httpx
        from bluesky_tiled_plugins.clients import catalog_of_bluesky_runs  # noqa: F401
        from tiled.client import from_uri

        from offbragg.catalog.tiled_client import fail_fast, own_clients
    except ModuleNotFoundError as error:
        raise CatalogError(describe_absent(error) or _broken(error)) from error
    except (Exception, SystemExit) as error:  # a broken package may raise anything
        raise CatalogError(_broken(error)) from error

    trust_env = httpx.URL(url).host not in _LOOPBACK  # no proxy on the way to our own host
    verify: Any = trusted(url)  # Tiled's annotation lacks what httpx takes
    deadline = time.monotonic() + timeout
    while True:
        try:
            with httpx.Client(trust_env=trust_env, verify=verify, timeout=5.0) as http:
                http.get(f"{url.rstrip('/')}/healthz").raise_for_status()
                answer = http.get(
                    f"{url.rstrip('/')}/api/v1/metadata/{CONTAINER}",
                    headers={"Authorization": f"Apikey {key}"},
                )
            break
        except httpx.HTTPError as error:
            if time.monotonic() >= deadline:
                raise CatalogError(
                    f"the catalog at {url} did not answer within {timeout:g} s: {error!r}\n"
                    f"Is it running? Start it with: offbragg serve"
                ) from error
            time.sleep(_POLL)
    if answer.status_code in (401, 403):
        raise CatalogError(
            f"the catalog at {url} refused the key ({answer.status_code}): {_detail(answer)}\n"
            f"The catalog's own key is in the file 'key' of its directory; offbragg key creates "
            f"read-only keys."
        )
    if answer.is_error:
        raise CatalogError(
            f"the catalog at {url} has no container {CONTAINER!r} ({answer.status_code})\n"
            f"Is it a catalog that 'offbragg serve' started?"
        )
    root = from_uri(
        f"{url.rstrip('/')}/api/v1/metadata/{CONTAINER}",
        structure_clients=own_clients(),
        api_key=key,
        trust_env=trust_env,
        verify=verify,
    )
    fail_fast(root.context.http_client)
    weakref.finalize(root.context, root.context.http_client.close)
    return root


def _broken(error: BaseException) -> str:
    first = str(error).partition("\n")[0]
    return (
        f"the catalog cannot be read: {type(error).__name__}: {first}\n"
        "A package that it needs is broken: pip install --upgrade 'offbragg[tiled]'"
    )


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
