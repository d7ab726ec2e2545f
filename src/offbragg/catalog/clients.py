"""What a run is to who connects with `offbragg.catalog.server.connect`.

Tiled makes these of runs and their streams, instead of those of bluesky-tiled-plugins; they read
what any catalog of runs has, and add what those lack.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import numpy as np
from bluesky_tiled_plugins.clients.bluesky_event_stream import (
    DATAVALUES,
    BlueskyEventStreamV3,
)
from bluesky_tiled_plugins.clients.bluesky_run import BlueskyRunV3

from offbragg.catalog.exact import restored

_AT_ONCE = 8  # frames that one request reads


class Run(BlueskyRunV3):
    """A run whose documents can be filled."""

    def documents(self, fill: bool = False) -> Generator[tuple[str, Any], Any, None]:
        """Return the documents of the run, in order.

        Parameters
        ----------
        fill
            Whether an event has the values of external data, such as a frame, too. They are read
            while the documents are gone through, a few frames at a time.
        """
        if not fill:
            yield from super().documents()
            return
        documents = list(super().documents())  # sorted by time: events of monitors come first
        streams = {
            doc["uid"]: _Filled(self[doc["name"]], doc["data_keys"])
            for name, doc in documents
            if name == "descriptor"
        }
        for name, doc in documents:
            if name == "event":
                doc = streams[doc["descriptor"]].fill(doc)
            elif name in ("stream_resource", "stream_datum"):
                continue  # what they point at is in the events
            yield name, doc


class _Filled:
    """Reads the external data of a stream, some events at a time."""

    def __init__(self, stream: Any, data_keys: Any) -> None:
        there = set(stream)
        self._nodes = {
            key: stream[key]
            for key, told in data_keys.items()
            if told.get("external") and key in there
        }
        self._read: dict[str, tuple[int, Any]] = {}  # key → first index, values

    def fill(self, event: Any) -> Any:
        """Return an event with its external values."""
        index = event["seq_num"] - 1
        values = {key: self._value(key, index) for key in self._nodes}
        values = {key: value for key, value in values.items() if value is not None}
        return type(event)(
            {
                **event,
                "data": {**event["data"], **values},
                "timestamps": {**dict.fromkeys(values, event["time"]), **event["timestamps"]},
                "filled": dict.fromkeys(values, True),
            }
        )

    def _value(self, key: str, index: int) -> Any:
        first, values = self._read.get(key, (0, ()))
        if not first <= index < first + len(values):
            node = self._nodes[key]
            if index >= node.shape[0]:
                return None  # it is not there yet
            first, values = index, np.asarray(node[index : index + _AT_ONCE])
            self._read[key] = first, values
        return values[index - first]


class Stream(BlueskyEventStreamV3):
    """A stream whose configuration is as the devices gave it, and whose rows know their time."""

    @property
    def metadata(self) -> Any:
        """The descriptor of the stream."""
        told = super().metadata
        return type(told)(restored(told))

    def read(self, variables: Iterable[Any] = (DATAVALUES,), dim0: str | None = None) -> Any:
        """Read columns, each along ``time`` (POSIX s), as an xarray.Dataset."""
        wanted = list(variables)
        if "time" in set(self) and "time" not in wanted:
            wanted.append("time")
        return super().read(wanted, dim0=dim0)
