"""The clients of runs and streams that `offbragg.catalog.client.connect` returns.

Tiled opens nodes with these classes instead of those of bluesky-tiled-plugins. They read any
catalog of runs, and add what those classes lack.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any

import numpy as np
from bluesky_tiled_plugins.clients.bluesky_event_stream import (
    DATAVALUES,
    BlueskyEventStreamV3,
)
from bluesky_tiled_plugins.clients.bluesky_run import BlueskyRunV3
from bluesky_tiled_plugins.clients.catalog_of_bluesky_runs import CatalogOfBlueskyRuns
from tiled.queries import Contains

from offbragg.catalog.broker import broker_of
from offbragg.catalog.containers import DAMAGED, MISSING
from offbragg.catalog.exact import restored
from offbragg.catalog.volume_client import volumes_of
from offbragg.errors import NoSuchEntry
from offbragg.spelling import did_you_mean

_AT_ONCE = 8  # frames per request
_NEWEST = 100  # runs whose uids are compared with a mistyped one
_LISTED = 20  # keys that an error lists
_SQ = "sq"
_VOLUMES = 20  # of one run that are compared


class RunCatalog(CatalogOfBlueskyRuns):
    """The runs; an unknown key is refused with the nearest right one."""

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

    @property
    def volumes(self) -> Any:
        """The volumes, which lie beside the runs; each can cut planes."""
        return volumes_of(self)

    @property
    def v1(self) -> Any:
        """The runs as a Broker of databroker."""
        if self._v1 is None:
            self._v1 = broker_of(self, CatalogRun)
        return self._v1

    def _near(self, key: object) -> str:
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


def _no_entry(node: Iterable[object], what: str, key: object) -> NoSuchEntry:
    def near() -> str:
        there = [str(each) for each in node]
        listed = ", ".join(there[:_LISTED]) + (", …" if len(there) > _LISTED else "")
        return f"{did_you_mean(key, there)}; it has {listed or 'nothing yet'}"

    return NoSuchEntry(f"{what} has no {key!r}", near)


class CatalogRun(BlueskyRunV3):
    """A run whose documents can be filled."""

    def __getitem__(self, key: str | tuple[str, ...], *args: str) -> Any:
        """Return a stream, or S(Q) as ``run["sq"]``; an unknown name is refused with all others."""
        if key == _SQ and not args:
            return self._sq()
        try:
            return super().__getitem__(key, *args)
        except NoSuchEntry:
            raise
        except KeyError:
            metadata: Any = self.metadata
            raise _no_entry(self, f"run {metadata['start']['uid'][:8]}", key) from None

    @property
    def volumes(self) -> Any:
        """The volumes that were reduced from this run, alone or with others."""
        metadata: Any = self.metadata
        uid: str = metadata["start"]["uid"]
        return volumes_of(self).search(Contains("runs", uid))

    def _sq(self) -> Any:
        """Return the volume of this run, growing or finished.

        If there are several, it is the one of the fewest runs, and of these the newest.
        """
        found = [
            (len(volume.metadata["runs"]), -volume.metadata.get("written", 0.0), volume)
            for volume in self.volumes.values().tail(_VOLUMES)
            if volume.metadata.get("state") not in (MISSING, DAMAGED)
        ]
        if not found:
            metadata: Any = self.metadata
            raise NoSuchEntry(
                f"run {metadata['start']['uid'][:8]} has no volume in the catalog yet",
                lambda: "; offbragg live and offbragg reduce make one, offbragg publish shows it",
            )
        return min(found, key=lambda each: each[:2])[2]

    def documents(self, fill: bool = False) -> Generator[tuple[str, Any], Any, None]:
        """Return the documents of the run, in order.

        Parameters
        ----------
        fill
            Whether events also have the values of external data, such as frames. These are read
            during the iteration, a few frames at a time.
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
    """Reads the external data of a stream, a few events at a time."""

    def __init__(self, stream: Any, data_keys: Mapping[str, Mapping[str, Any]]) -> None:
        there = set(stream)
        self._nodes = {
            key: stream[key]
            for key, data_key in data_keys.items()
            if data_key.get("external") and key in there
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
                return None  # not published yet
            first, values = index, np.asarray(node[index : index + _AT_ONCE])
            self._read[key] = first, values
        return values[index - first]


class Stream(BlueskyEventStreamV3):
    """A stream with the configuration as the devices gave it, and rows that have their time."""

    def __getitem__(self, key: str, *args: bool) -> Any:
        """Return a column or an array; an unknown name is refused with those that there are."""
        try:
            return super().__getitem__(key, *args)
        except NoSuchEntry:
            raise
        except KeyError:
            raise _no_entry(self, f"the stream {self.item['id']}", key) from None

    @property
    def metadata(self) -> Any:
        """The descriptor of the stream."""
        metadata = super().metadata
        return type(metadata)(restored(metadata))

    def read(self, variables: Iterable[Any] = (DATAVALUES,), dim0: str | None = None) -> Any:
        """Read columns, each along ``time`` (POSIX s), as an xarray.Dataset."""
        wanted = list(variables)
        if "time" in set(self) and "time" not in wanted:
            wanted.append("time")
        return super().read(wanted, dim0=dim0)
