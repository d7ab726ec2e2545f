"""Ask a catalog which runs it has complete, without Tiled's client, whose import takes seconds."""

from __future__ import annotations

import http.client
import json
from collections.abc import Collection
from urllib.parse import quote

from offbragg.errors import CatalogError

_CONTAINER = "raw"
_PAGE = 100


def unpublished(
    host: str, port: int, key: str, uids: Collection[str], *, timeout: float = 1.0
) -> tuple[int, list[str]]:
    """Return the number of runs in a catalog, and which of these it lacks or has incomplete.

    Parameters
    ----------
    host, port
        Address of the server.
    key
        A key that may read.
    uids
        Uids of runs that have ended.
    timeout
        Time limit for each answer, s.

    Raises
    ------
    CatalogError
        If the catalog does not answer, or refuses the key.
    """
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        page = _ask(
            connection, key,
            f"search/{_CONTAINER}?page[limit]={_PAGE}&sort=-start.time&fields=metadata"
            "&select_metadata=stop.uid",
        )  # fmt: skip
        runs = page or {"data": [], "meta": {"count": 0}}
        ended = {node["id"]: _selected(node) for node in runs["data"]}
        for uid in set(uids) - ended.keys():  # older than the newest page, or absent
            answer = _ask(
                connection, key,
                f"metadata/{_CONTAINER}/{quote(uid, safe='')}?fields=metadata"
                "&select_metadata=stop.uid",
            )  # fmt: skip
            ended[uid] = None if answer is None else _selected(answer["data"])
        return int(runs["meta"]["count"]), [uid for uid in uids if not ended[uid]]
    except (OSError, http.client.HTTPException) as error:
        reason = (
            f"it does not answer within {timeout:g} s" if isinstance(error, TimeoutError) else error
        )
        raise CatalogError(
            f"the catalog at http://{host}:{port} is away: {reason}\n"
            "Is it running? Start it with: offbragg serve"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise CatalogError(
            f"what answers at http://{host}:{port} is not the catalog ({error!r})\n"
            "Is [catalog] port in beamline.toml that of offbragg serve?"
        ) from error
    finally:
        connection.close()


def _ask(connection: http.client.HTTPConnection, key: str, path: str) -> dict | None:
    connection.request("GET", f"/api/v1/{path}", headers={"Authorization": f"Apikey {key}"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status == 404:
        return None
    if answer.status != 200:
        refused = " refused the key" if answer.status in (401, 403) else " cannot answer"
        raise CatalogError(
            f"the catalog at http://{connection.host}:{connection.port}{refused} "
            f"({answer.status})\n"
            "The key is the content of the file 'key' in the catalog's directory."
        )
    return json.loads(content)


def _selected(node: dict) -> object:
    return (node["attributes"]["metadata"] or {}).get("selected")
