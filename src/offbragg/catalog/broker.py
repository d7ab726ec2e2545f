"""databroker's Broker over a catalog: a table opens the stream that it is of, and no other."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from databroker.v1 import Broker


def broker_of(catalog: Any, run_client: Any) -> Broker:
    """Return the Broker of a catalog.

    Parameters
    ----------
    catalog
        The runs.
    run_client
        Class of a run in it.
    """
    from databroker.v1 import Broker, Header

    class RunBroker(Broker):
        """Makes tables of one stream from a third of the requests."""

        def get_table(
            self, headers: Any, stream_name: str = "primary", *args: Any, **kwargs: Any
        ) -> Any:
            """Return one stream of one or more runs as a table."""
            listed: Iterable[Any] = [headers] if isinstance(headers, Header) else headers
            runs: dict[str, Any] = {}
            opened: list[Any] = []
            for header in listed:
                item, clients = header.v2.item, catalog.structure_clients
                run = run_client(catalog.context, item=item, structure_clients=clients)
                stream = run[stream_name]
                descriptor = {"name": stream_name, "data_keys": stream.metadata["data_keys"]}
                runs[header.start["uid"]] = {stream_name: stream}
                opened.append(SimpleNamespace(start=header.start, descriptors=[descriptor]))
            known = copy.copy(self)
            known._catalog = runs  # pyright: ignore  where a Broker finds them
            return Broker.get_table(known, opened, stream_name, *args, **kwargs)

    made = RunBroker(catalog)
    made._version = "1.0"  # pyright: ignore  as bluesky-tiled-plugins says it
    return made
