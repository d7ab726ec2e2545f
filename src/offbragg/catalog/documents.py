"""Export runs as Bluesky documents: JSON, one document per line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from bluesky_tiled_plugins.exporters import json_seq_exporter

from offbragg.catalog.exact import restored

_SEPARATOR = "\x1e"  # before each record (RFC 7464)


async def export_documents(
    mimetype: str, adapter: Any, metadata: dict[str, Any], filter_for_access: Callable[..., Any]
) -> AsyncIterator[str]:
    """Export a run as a JSON text sequence; a run that has not ended has no stop document.

    Parameters
    ----------
    mimetype, adapter, metadata, filter_for_access
        As Tiled passes them to an exporter.
    """
    async for record in json_seq_exporter(mimetype, adapter, metadata, filter_for_access):
        document = json.loads(record.lstrip(_SEPARATOR))
        if document["name"] == "stop" and not document["doc"]:
            continue
        if document["name"] == "descriptor":
            document["doc"] = restored(document["doc"])
            record = f"{_SEPARATOR}{json.dumps(document)}\n"
        yield record
