"""The one hold on private parts of bluesky-tiled-plugins: how a run is written to the catalog.

`TiledWriter` writes through ``_RunWriter``, of which `LiveRunWriter` is one that writes as things
come. `self_test` writes a run of two events to a client that only takes note of it.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any, cast
from uuid import NAMESPACE_URL, uuid5

import httpx
from bluesky_tiled_plugins.writing import tiled_writer  # pyright: ignore[reportMissingTypeStubs]
from bluesky_tiled_plugins.writing.tiled_writer import (  # pyright: ignore[reportMissingTypeStubs]
    RunNormalizer,
    _RunWriter,  # pyright: ignore[reportPrivateUsage]
)
from event_model import EventDescriptor, StreamDatum
from numpy.typing import NDArray
from tiled.client.container import Container  # pyright: ignore[reportMissingTypeStubs]
from tiled.structures.core import Spec  # pyright: ignore[reportMissingTypeStubs]

from offbragg.catalog.consolidators import (
    STACK_MIMETYPE,
    frames_structure,
    register_consolidators,
)
from offbragg.catalog.exact import Columns, storable, without_limits_of_nan
from offbragg.private_parts import PrivatePart, examine

ROWS = "internal"
"""The key that bluesky-tiled-plugins gives to the rows of a stream."""


def take_the_place() -> None:
    """Let the writer of this process write numbers as they are, and our own mimetypes.

    It makes 9007199254740991 of 1e300 and of 2**60, in every node that it writes.
    """
    register_consolidators()
    tiled_writer.truncate_json_overflow = storable


class LiveRunWriter(_RunWriter):
    """Write the events of a stream together, when `flush_one` is called.

    `TiledWriter` writes either every event alone, which takes 60 ms each, or nothing until
    there are 10 000 of them. And it sends an append again when the answer got lost, at the
    risk of double rows; here the run is published again instead.
    """

    def __init__(self, client: Container) -> None:
        super().__init__(client, batch_size=sys.maxsize)
        self._runs: Any = client
        self.ended = False
        """Whether the stop document is there."""
        self._flushed: dict[str, float] = {}  # stream → when
        self._to_close: deque[Any] = deque()
        self._columns: dict[str, Columns] = {}  # by stream
        self._provisional: dict[str, str] = {}  # stream → the uid of its descriptor until then

    def start(self, doc: Mapping[str, Any]) -> None:
        """Make the run's node, with an empty stop document until there is one."""
        doc = dict(doc)
        self.access_tags = doc.pop("tiled_access_tags", None)
        more: list[str | dict[str, Any]] = doc.pop("tiled_specs", None) or []
        self.root_node = self._runs.create_container(
            key=doc["uid"],
            metadata={"start": storable(doc), "stop": {}},
            specs=[
                *(Spec(spec) if isinstance(spec, str) else Spec(**spec) for spec in more),
                Spec("BlueskyRun", version="3.0"),
            ],
            access_tags=self.access_tags,
        )

    def descriptor(self, doc: Mapping[str, Any]) -> None:
        """Make the stream's node; a provisional one becomes what the journal has."""
        doc = without_limits_of_nan(doc)
        node: Any = self._desc_nodes.get(doc["name"])
        before = self._provisional.get(doc["name"])
        if node is None or before is None:
            if doc["uid"] == str(uuid5(NAMESPACE_URL, f"offbragg:{doc['run_start']}/primary")):
                self._provisional[doc["name"]] = doc["uid"]
            super().descriptor(cast(EventDescriptor, doc))
            return
        del self._provisional[doc["name"]]
        self.data_keys.update(doc.get("data_keys", {}))
        apart = ("name", "object_keys", "run_start")
        metadata = {key: value for key, value in doc.items() if key not in apart}
        node.replace_metadata(metadata=storable(metadata), drop_revision=True)
        self._desc_nodes[doc["uid"]] = node

    def write_no_rows(self, descriptor: Mapping[str, Any]) -> None:
        """Write a table without rows to a stream where nothing else will ever come."""
        keys: dict[str, dict[str, Any]] = descriptor["data_keys"]
        columns = [key for key, described in keys.items() if "external" not in described]
        node: Any = self._desc_nodes[descriptor["uid"]]
        structure: Any = frames_structure(columns)
        node.create_appendable_table(
            schema=structure.arrow_schema_decoded,
            key=ROWS,
            metadata=storable({key: keys[key] for key in columns}),
            access_tags=self.access_tags,
        )

    def _write_internal_data(self, data_cache: list[dict[str, Any]], desc_node: Any) -> None:
        """Write rows so that every value stays what it is, or raise."""
        stream: str = desc_node.item["id"]
        ragged = self._int_ragged_array_keys[stream]
        self._int_array_keys[stream].clear()  # those here are made of the values
        columns = self._columns.setdefault(stream, Columns())
        plain = [{key: row[key] for key in row if key not in ragged} for row in data_cache]
        rows, arrays = columns.split(plain, self.data_keys)
        for key, array in arrays.items():
            self._write_array(stream, key, array, desc_node)
        for row, whole in zip(rows, data_cache, strict=True):
            row.update({key: whole[key] for key in ragged & whole.keys()})
        super()._write_internal_data(rows, desc_node)

    def _write_array(self, stream: str, key: str, array: NDArray[Any], desc_node: Any) -> None:
        node: Any = self._internal_arrays.get(f"{stream}/{key}")
        if node is not None:
            node.patch(array, offset=node.shape[:1], extend=True)
            return
        described = dict[str, Any](self.data_keys.get(key) or ())
        described["dtype_numpy"] = str(array.dtype)
        self._internal_arrays[f"{stream}/{key}"] = desc_node.write_array(
            array,
            key=key,
            metadata=storable(described),
            dims=_distinct(self._internal_dims(stream, array.shape)),
            access_tags=self.access_tags,
        )

    def stream_datum(self, doc: StreamDatum) -> None:
        """Write at once."""
        self._write_external_data(doc)

    def _update_data_source_for_node(
        self, node: Any, data_source: Any, patch: Any | None = None
    ) -> None:
        if patch is not None:  # else nothing has changed that Tiled knows of
            cast(Any, super())._update_data_source_for_node(node, data_source, patch)

    def flush_one(self, interval: float) -> bool:
        """Write the events of a stream that was not written for ``interval`` s; False if none."""
        now = time.monotonic()
        for stream, rows in self._internal_data_cache.items():
            if rows and now - self._flushed.get(stream, -math.inf) >= interval:
                self._write_internal_data(rows, desc_node=self._desc_nodes[stream])
                rows.clear()
                self._flushed[stream] = now
                return True
        return False

    def stop(self, doc: Mapping[str, Any]) -> None:
        """Write the stop document; `close_one` closes the nodes for those who subscribed."""
        super().stop(storable(doc))
        self.ended = True

    def _close_stream_tree(self) -> None:
        nodes: tuple[Any, ...] = (
            *self._internal_arrays.values(),
            *self._internal_tables.values(),
            *self._sres_nodes.values(),
            *self._desc_nodes.values(),
            self.root_node,
        )
        self._to_close.extend({node.uri: node for node in nodes if node is not None}.values())

    def close_one(self) -> bool:
        """Close the next node for those who subscribed to it; return False if none is left."""
        if self._to_close:
            self._to_close.popleft().close_stream()
        return bool(self._to_close)

    def _append_with_retry(self, df_client: Any, table: Any, desc_name: str) -> None:
        df_client.append_partition(0, table)


def _distinct(dims: Sequence[str]) -> tuple[str, ...]:
    """Name the second of two equal dimensions otherwise, or xarray cannot tell them apart."""
    return tuple(
        name if name not in dims[:place] else f"{name}_{place}" for place, name in enumerate(dims)
    )


# -- whether it still holds ----------------------------------------------------------------------

_LARGE = {"integer": 2**60, "number": 1e300}  # what the writer itself would make another number of


def self_test() -> PrivatePart:
    """Return whether runs are written as they are, with this version of bluesky-tiled-plugins."""
    return examine("bluesky-tiled-plugins", "publishing runs", _write_a_run, guards=True)


def _write_a_run() -> None:
    """Write two events and a stack of one frame to a client that only takes note of it."""
    take_the_place()
    runs = _Note("raw", {})
    writer = LiveRunWriter(runs)  # type: ignore[arg-type]  it notes what a client would send
    normalizer: Any = RunNormalizer()
    normalizer.subscribe(writer)
    run, descriptor = {"uid": "run", "time": 0.0, **_LARGE}, "run-primary"
    keys: dict[str, dict[str, Any]] = {
        "value": {"source": "", "dtype": "integer", "shape": []},
        "image": {"source": "", "dtype": "array", "dtype_numpy": "<i4", "shape": [2, 3],
                  "external": "STREAM:"},
    }  # fmt: skip
    normalizer.start(dict(run))
    normalizer.descriptor({
        "uid": descriptor, "run_start": "run", "time": 0.0, "name": "primary", "data_keys": keys,
        "object_keys": {"device": list(keys)}, "configuration": {}, "hints": {},
    })  # fmt: skip
    for number in (1, 2):
        normalizer.event({
            "uid": f"event-{number}", "descriptor": descriptor, "seq_num": number, "time": 0.0,
            "data": {"value": number}, "timestamps": {"value": 0.0}, "filled": {},
        })  # fmt: skip
    resource = {
        "uid": "stack", "run_start": "run", "data_key": "image", "mimetype": STACK_MIMETYPE,
        "uri": "file://localhost/f1.h5",
        "parameters": {"dataset": "/data", "chunk_shape": [1, 2, 3], "n_frames": 1},
    }  # fmt: skip
    normalizer.stream_resource(resource)
    normalizer.stream_datum({
        "uid": "stack/0", "stream_resource": "stack", "descriptor": descriptor,
        "indices": {"start": 0, "stop": 1}, "seq_nums": {"start": 1, "stop": 2},
    })  # fmt: skip
    while writer.flush_one(0.0):
        pass
    normalizer.stop({"uid": "stop", "run_start": "run", "time": 1.0, "exit_status": "success"})
    while writer.close_one():
        pass
    whole = runs.inside["run"]
    stream = whole.inside["primary"]
    image = stream.inside["image"].sent["data_source"]
    for what, found, expected in (
        ("its start document", {key: whole.metadata["start"][key] for key in _LARGE}, _LARGE),
        ("its stop document", whole.metadata["stop"]["exit_status"], "success"),
        ("its rows", stream.inside[ROWS].rows, [1, 2]),
        ("its stack", image["mimetype"], "application/x-hdf5"),
        ("the names of its dimensions", image["structure"]["dims"], ["time", "slow", "fast"]),
        ("the end of its streams", (whole.closed, stream.closed), (True, True)),
    ):  # fmt: skip
        if found != expected:
            raise ValueError(f"a run that was written has {found} for {what}, not {expected}")


class _Note:
    """A node of a catalog that only takes note of what is written to it."""

    def __init__(self, key: str, metadata: Mapping[str, Any]) -> None:
        self.item = {"id": key}
        self.uri = f"http://catalog/api/v1/metadata/{key}"
        self.metadata = dict(metadata)
        self.inside: dict[str, _Note] = {}
        self.rows: list[int] = []
        self.sent: dict[str, Any] = {}
        self.closed = False
        self.context = self
        self.http_client = self
        self.server_info = self
        self.library_version = version("tiled")
        self.id = 1

    @property
    def base(self) -> _Note:
        return self

    def _add(self, key: str, metadata: Mapping[str, Any] | None = None, **_: Any) -> _Note:
        return self.inside.setdefault(key, _Note(key, metadata or {}))

    create_container = create_appendable_table = new = _add

    def append_partition(self, partition: int, table: Any) -> None:
        self.rows += table.column("value").to_pylist()

    def data_sources(self) -> list[_Note]:
        return [self]

    def put(self, uri: str, *, content: bytes, **_: Any) -> httpx.Response:
        """Stand for the request that tells how far a stack has grown."""
        self.sent = json.loads(content)
        return httpx.Response(200, request=httpx.Request("PUT", uri))

    def update_metadata(self, metadata: Mapping[str, Any], **_: Any) -> None:
        self.metadata.update(metadata)

    def close_stream(self) -> None:
        self.closed = True
