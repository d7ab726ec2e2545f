"""Describe our files to the catalog, in the process that publishes: rows, stacks, CBF.

The adapters that read them belong to Tiled's server, and take a second to import (`adapters`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa
from bluesky_tiled_plugins.writing.consolidators import (
    CONSOLIDATOR_REGISTRY,
    HDF5Consolidator,
    MultipartRelatedConsolidator,
)
from event_model.documents import EventDescriptor, StreamDatum, StreamResource
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import Asset, DataSource, Management
from tiled.structures.table import TableStructure

from offbragg.files.frame_columns import PUBLISHED_TEXT

STACK_MIMETYPE = "application/x-offbragg-stack"
"""Frames in a scan file, while they are published; in the catalog they are plain HDF5."""
FRAMES_MIMETYPE = "application/x-offbragg-frames"
CBF_MIMETYPE = "multipart/related;type=image/x-cbf"


def frames_structure(columns: Sequence[str]) -> TableStructure:
    """Describe the table of a sweep: one row per frame.

    Parameters
    ----------
    columns
        The data keys, in order; ``seq_num``, ``time`` and a ``ts_`` column for each are added.
    """
    fields = [pa.field("seq_num", pa.int64()), pa.field("time", pa.float64())]
    fields += [pa.field(c, pa.string() if c in PUBLISHED_TEXT else pa.float64()) for c in columns]
    fields += [pa.field(f"ts_{c}", pa.float64()) for c in columns]
    return TableStructure.from_schema(pa.schema(fields))


class FramesConsolidator:
    """Describe the rows of a sweep, from a stream resource that points at its scan file."""

    supported_mimetypes: ClassVar[set[str]] = {FRAMES_MIMETYPE}

    def __init__(self, stream_resource: Mapping[str, Any], descriptor: Mapping[str, Any]) -> None:
        self.data_key: str = stream_resource["data_key"]
        self.metadata: dict[str, Any] = {}
        self._uri: str = stream_resource["uri"]
        self._parameters = dict(stream_resource["parameters"])
        self._columns: list[str] = self._parameters.pop("columns")

    def consume_stream_datum(self, doc: Mapping[str, Any]) -> None:
        """Do nothing: the rows are read from the scan file."""

    def get_data_source(self) -> DataSource[TableStructure]:
        """Describe the table to Tiled."""
        return DataSource(
            structure_family=StructureFamily.table,
            mimetype=FRAMES_MIMETYPE,
            structure=frames_structure(self._columns),
            parameters=self._parameters,
            management=Management.external,
            assets=[Asset(data_uri=self._uri, is_directory=False, parameter="data_uri")],
        )


class GrowingStackConsolidator(HDF5Consolidator):
    """Name the dimensions of a stack that grows.

    Rows and pixels are two requests, so while the sweep lasts the rows may be some frames
    ahead; a stack that shared their dimension ``time`` could then not be read together with them
    (`run["primary"].read()`). Its dimension is ``frame`` until it is complete, then ``time``.
    """

    supported_mimetypes = {STACK_MIMETYPE}  # noqa: RUF012  as the base class has it

    def __init__(self, stream_resource: StreamResource, descriptor: EventDescriptor) -> None:
        super().__init__(stream_resource, descriptor)
        self.mimetype = "application/x-hdf5"
        self._n_frames: int | None = self._sres_parameters.get("n_frames")
        self._name_dimensions()

    def consume_stream_datum(self, doc: StreamDatum) -> Any:
        """Add frames to the stack."""
        patch = super().consume_stream_datum(doc)
        self._name_dimensions()
        return patch

    def _name_dimensions(self) -> None:
        if self._n_frames is not None:
            complete = self._num_rows >= self._n_frames
            self.dims = ("time" if complete else "frame", "slow", "fast")


class CBFConsolidator(MultipartRelatedConsolidator):
    """Describe a sequence of CBF files, one frame each."""

    supported_mimetypes = {CBF_MIMETYPE}  # noqa: RUF012  as the base class has it


def register_consolidators() -> None:
    """Register our own mimetypes in this process, in addition to the existing ones."""
    CONSOLIDATOR_REGISTRY[FRAMES_MIMETYPE] = FramesConsolidator  # type: ignore[assignment]
    CONSOLIDATOR_REGISTRY[CBF_MIMETYPE] = CBFConsolidator
    CONSOLIDATOR_REGISTRY[STACK_MIMETYPE] = GrowingStackConsolidator
