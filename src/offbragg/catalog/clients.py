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
from bluesky_tiled_plugins.clients.catalog_of_bluesky_runs import CatalogOfBlueskyRuns

from offbragg.catalog.exact import restored
from offbragg.errors import NoSuchEntry
from offbragg.spelling import did_you_mean

_AT_ONCE = 8  # frames that one request reads
_NEWEST = 100  # runs whose uid may be meant by a mistyped one
_LISTED = 20  # keys that are named


class Catalog(CatalogOfBlueskyRuns):
    """The runs; a key that names none is refused in words."""

    def __getitem__(self, key: Any) -> Any:
        """Return a run by its uid (or the start of it), its scan number, or as ``cat[-1]``."""
        try:
            return super().__getitem__(key)
        except NoSuchEntry:
            raise
        except (KeyError, ValueError) as error:
            why = "" if isinstance(error, KeyError) else f": {error}"
            raise NoSuchEntry(
                f"the catalog has no run {key!r}{why}", lambda: self._near(key)
            ) from None

    def _near(self, key: Any) -> str:
        runs: Any = self.values().tail(_NEWEST)
        # what else may lie in the catalog has no start document
        starts = [run.metadata["start"] for run in runs if "start" in run.metadata]
        if not starts:
            return ": it has no runs"
        meant = did_you_mean(str(key)[:8], [start["uid"][:8] for start in starts])
        newest = ", ".join(
            f"#{start.get('scan_id', '?')} {start['uid'][:8]}" for start in reversed(starts[-5:])
        )
        return f"{meant}; the newest are {newest}"


def _no_entry(node: Any, what: str, key: Any) -> NoSuchEntry:
    def near() -> str:
        there = [str(each) for each in node]
        listed = ", ".join(there[:_LISTED]) + (", …" if len(there) > _LISTED else "")
        return f"{did_you_mean(key, there)}; it has {listed or 'nothing yet'}"

    return NoSuchEntry(f"{what} has no {key!r}", near)


class Run(BlueskyRunV3):
    """A run whose documents can be filled."""

    def __getitem__(self, key: Any, *args: Any) -> Any:
        """Return a stream; what the run does not have is refused in words."""
        try:
            return super().__getitem__(key, *args)
        except NoSuchEntry:
            raise
        except KeyError:
            told: Any = self.metadata
            raise _no_entry(self, f"run {told['start']['uid'][:8]}", key) from None

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

    def __getitem__(self, key: Any, *args: Any) -> Any:
        """Return a column or an array; what the stream does not have is refused in words."""
        try:
            return super().__getitem__(key, *args)
        except NoSuchEntry:
            raise
        except KeyError:
            raise _no_entry(self, f"the stream {self.item['id']}", key) from None

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
