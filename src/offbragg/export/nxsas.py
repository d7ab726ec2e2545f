"""Runs as NeXus files with the interface and the layout of suitcase-nxsas.

::

    /bluesky/start/…                            the start document, one dataset for each entry
    /bluesky/descriptors/<stream>/…             further ones of a stream: <stream>_2 …
    /bluesky/events/<stream>/data/<key>         one row for each event
    /bluesky/events/<stream>/timestamps/<key>
    /bluesky/stream_resources/<uid>/…           stream documents, unknown to suitcase-nxsas
    /bluesky/stream_data/<uid>/{indices,seq_nums}
    /bluesky/stop/…

Frames that stream documents refer to are not copied: ``events/<stream>/data/<key>`` is an
external link to the array in an HDF5 file, or a list of file names if each frame is a file. What
``start["md"]["techniques"]`` (or ``start["techniques"]``) describes is built beside ``/bluesky``,
with links into it.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import h5py
import hdf5plugin  # noqa: F401  the stack's filter, for readers in this process that follow the links
import numpy as np
from event_model import (
    EventDescriptor,
    EventPage,
    NumpyEncoder,
    RunStart,
    RunStop,
    StreamDatum,
    StreamResource,
)

from offbragg.errors import ScanFileError
from offbragg.export.artifacts import fill_prefix, target
from offbragg.export.serializer import RunSerializer, write_run
from offbragg.files.scan_file import ScanFile

log = logging.getLogger(__name__)

_TEXT = h5py.string_dtype()
_DTYPES = {"string": _TEXT, "number": np.dtype("f8"), "integer": np.dtype("i8"),
           "boolean": np.dtype("?")}  # fmt: skip
_LINK = re.compile(r"#bluesky/(?P<path>[^@]+)(@(?P<attribute>.+))?")


def export(
    gen: Iterable[tuple[str, Any]],
    directory: Any,
    file_prefix: str = "{uid}-",
    *,
    scan_file: str | Path | None = None,
    **kwargs: Any,
) -> dict[str, list[Any]]:
    """Write one run's documents into a NeXus file.

    Parameters
    ----------
    gen
        ``(name, document)`` pairs of one run.
    directory
        Directory for the file (created if missing), or a manager as in suitcase-utils.
    file_prefix
        Beginning of the file's name, filled from the start document, as ``"{uid}-"``.
    scan_file
        The run's scan file, if there is one: the frames link to it, and its per-frame columns
        become rows of ``primary``.
    kwargs
        For ``h5py.File``.

    Returns
    -------
    artifacts
        ``{"stream_data": [path]}``, or the manager's.

    Raises
    ------
    OffbraggError
        If the file cannot be created, or the documents are not those of one whole run.
    """
    return write_run(Serializer(directory, file_prefix, scan_file=scan_file, **kwargs), gen)


class Serializer(RunSerializer):
    """Write one run's documents into a NeXus file as they come; parameters as for `export`."""

    def __init__(
        self,
        directory: Any,
        file_prefix: str = "{uid}-",
        *,
        scan_file: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(directory, file_prefix, scan_file)
        self._options = kwargs
        self._file: Any = None
        self._begun: dict[str, Any] = {}
        self._path: Path | None = None
        self._names: dict[str, str] = {}  # descriptor → stream
        self._resources: dict[str, StreamResource] = {}
        self._datums: defaultdict[str, list[StreamDatum]] = defaultdict(list)

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
        super().close()

    # -- documents -------------------------------------------------------------------------

    def start(self, doc: RunStart) -> None:
        """Create the file."""
        postfix = f"{fill_prefix(self._prefix, doc)}.h5"
        where = target(self._manager, "stream_data", postfix)
        self._path = where if isinstance(where, Path) else None
        self._begun = dict(doc)
        try:
            # a buffer in memory has no exclusive mode
            self._file = h5py.File(where, "x" if self._path else "w", **self._options)
        except OSError as error:
            raise ScanFileError(f"{where} cannot be created: {error}") from error
        bluesky = self._file.create_group("bluesky", track_order=True)
        write_mapping(bluesky.create_group("start"), doc)
        for name in ("descriptors", "events", "stop"):
            bluesky.create_group(name)

    def descriptor(self, doc: EventDescriptor) -> None:
        """Write a descriptor, and create the groups of its events."""
        bluesky = self._group
        stream = doc.get("name", "primary")
        self._names[doc["uid"]] = stream
        others = sum(name == stream for name in self._names.values())
        group = bluesky["descriptors"].create_group(stream if others == 1 else f"{stream}_{others}")
        write_mapping(group, doc)
        for kind in ("data", "timestamps"):
            bluesky["events"].require_group(f"{stream}/{kind}")

    def event_page(self, doc: EventPage) -> Any:
        """Append rows; a single event is a page of one."""
        stream = self._names[doc["descriptor"]]
        events = self._group["events"][stream]
        for key, values in doc["data"].items():
            filled = doc.get("filled", {}).get(key, True)
            if filled is False or (isinstance(filled, Sequence) and not all(filled)):
                raise ValueError(
                    f"data_key {key} of stream {stream} must be filled: its values are elsewhere"
                )
            _append(events["data"], key, self._array(doc["descriptor"], key, values))
            _append(
                events["timestamps"],
                key,
                np.asarray(doc["timestamps"][key], dtype="f8").reshape(-1),
            )

    def stream_resource(self, doc: StreamResource) -> None:
        """Write where frames are."""
        self._resources[doc["uid"]] = doc
        write_mapping(self._group.require_group("stream_resources").create_group(doc["uid"]), doc)

    def stream_datum(self, doc: StreamDatum) -> None:
        """Keep the frame ranges until the run ends."""
        self._datums[doc["stream_resource"]].append(doc)

    def stop(self, doc: RunStop) -> None:
        """Write the end, the links to the frames, and the groups of the techniques."""
        write_mapping(self._group["stop"], doc)
        for uid, datums in self._datums.items():
            self._link_frames(self._resources[uid], datums)
        if self._scan_file is not None:
            self._write_columns(self._scan_file)
        md = self._begun.get("md")
        asked = md.get("techniques") if isinstance(md, Mapping) else None
        for technique in asked or self._begun.get("techniques") or ():
            write_nexus(self._file, technique["nxsas"])
        self.close()

    # -- parts -----------------------------------------------------------------------------

    @property
    def _group(self) -> Any:
        if self._file is None:
            raise ScanFileError("documents of a run that has not begun, or has ended")
        return self._file["bluesky"]

    def _array(self, descriptor: str, key: str, values: Sequence[Any]) -> np.ndarray:
        data_key = self.get_descriptor({"descriptor": descriptor})["data_keys"].get(key, {})
        dtype = _DTYPES.get(data_key.get("dtype", "array"))
        try:
            array = np.asarray(values)
            if dtype is not None and (array.dtype.kind not in "OUS" or dtype == _TEXT):
                array = np.asarray(values, dtype=dtype)
        except (ValueError, TypeError) as error:
            raise ScanFileError(
                f"{key} has rows of different shape and cannot be one dataset: {error}"
            ) from error
        return array.astype(_TEXT) if array.dtype.kind in "OUS" else array

    def _link_frames(self, resource: StreamResource, datums: list[StreamDatum]) -> None:
        bluesky = self._group
        rows = bluesky.require_group("stream_data").create_group(resource["uid"])
        for what in ("indices", "seq_nums"):
            spans = [[datum[what]["start"], datum[what]["stop"]] for datum in datums]
            rows.create_dataset(what, data=np.array(spans, dtype="i8"))
        rows.create_dataset("uid", data=[datum["uid"] for datum in datums], dtype=_TEXT)
        stream = self._names[datums[0]["descriptor"]]
        data, key = bluesky["events"][stream]["data"], resource["data_key"]
        parameters = resource.get("parameters", {})
        path = Path(unquote(urlparse(resource["uri"]).path))
        if self._scan_file is not None and "image" in resource["mimetype"]:
            data[key] = self._external(self._scan_file, "/entry/data/data")
        elif resource["mimetype"] == "application/x-hdf5" and "dataset" in parameters:
            data[key] = self._external(path, parameters["dataset"])
        elif "template" in parameters:
            numbers = [
                number
                for datum in datums
                for number in range(datum["indices"]["start"], datum["indices"]["stop"])
            ]
            names = [str(path / _fill(parameters["template"], number)) for number in numbers]
            files = data.create_dataset(key, data=names, dtype=_TEXT)
            files.attrs["mimetype"] = resource["mimetype"]

    def _external(self, path: Path, dataset: str) -> h5py.ExternalLink:
        if self._path is not None:
            path = Path(os.path.relpath(path.resolve(), self._path.resolve().parent))
        return h5py.ExternalLink(str(path), dataset)

    def _write_columns(self, path: Path) -> None:
        """Write the per-frame values of the scan file as rows of ``primary``."""
        with ScanFile.open(path) as scan:
            values = scan.frame_values()
        events = self._group["events"].require_group("primary")
        for name, column in values.items():
            if name in events.require_group("data"):
                continue
            kind = _TEXT if column.dtype.kind in "OUS" else column.dtype
            events["data"].create_dataset(name, data=column.astype(kind), dtype=kind)
            when = events.require_group("timestamps")
            when.create_dataset(name, data=np.asarray(values["time"], dtype="f8"))


def _append(group: h5py.Group, key: str, rows: np.ndarray) -> None:
    """Append rows to a dataset, created with the first."""
    name = _name(key)
    if name not in group:
        dtype = _TEXT if rows.dtype.kind == "O" else rows.dtype
        chunks = (1, *(max(n, 1) for n in rows.shape[1:])) if rows.ndim > 1 else (1024,)
        room = (None, *rows.shape[1:])
        group.create_dataset(name, data=rows, dtype=dtype, chunks=chunks, maxshape=room)
        return
    dataset: Any = group[name]
    if dataset.shape[1:] != rows.shape[1:]:
        raise ScanFileError(
            f"{key} has rows of shape {rows.shape[1:]} after rows of {dataset.shape[1:]}: "
            "they cannot be one dataset"
        )
    dataset.resize(dataset.shape[0] + rows.shape[0], axis=0)
    dataset[-rows.shape[0] :] = rows


def _fill(template: str, number: int) -> str:
    """Return a file's name from either kind of template, ``x_{:05d}.cbf`` or ``x_%05d.cbf``."""
    return template % number if "%" in template else template.format(number)


def _name(key: object) -> str:
    """Return a valid name of one HDF5 object."""
    text = str(key).replace("/", "_")
    return f"_{text}" if text in ("", ".", "..") else text


def write_mapping(group: h5py.Group, mapping: Mapping[str, Any]) -> None:
    """Write a document: a group for each mapping, a dataset for each value.

    None becomes ``"None"``, as in suitcase-nxsas; values without an HDF5 type become JSON.
    """
    for key, value in mapping.items():
        name = _name(key)
        if isinstance(value, Mapping):
            write_mapping(group.create_group(name), value)
        elif value is None:
            group.create_dataset(name, data="None", dtype=_TEXT)
        elif isinstance(value, bytes):
            group.create_dataset(name, data=value.decode("utf-8", "replace").replace("\0", ""))
        elif isinstance(value, str):
            group.create_dataset(name, data=value.replace("\0", ""), dtype=_TEXT)
        else:
            data, dtype = _storable(value)
            group.create_dataset(name, data=data, dtype=dtype)


def _storable(value: Any) -> tuple[Any, Any]:
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different length
        array = np.asarray(None)
    if array.dtype.kind in "biuf" and array.size:
        return array, array.dtype
    flat = isinstance(value, Sequence) and all(isinstance(item, str) for item in value)
    if flat:
        return np.array(list(value), dtype=object), _TEXT
    return json.dumps(value, cls=NumpyEncoder, default=str), _TEXT


def write_nexus(group: h5py.Group, nexus: Mapping[str, Any]) -> None:
    """Build the groups of a technique.

    Parameters
    ----------
    group
        Where.
    nexus
        Name → mapping (a group), value (a dataset) or ``"#bluesky/…"`` (a link to a document's
        entry; ``@name`` at its end takes that attribute). ``_attributes`` are the attributes of
        the group or dataset; ``_dataset`` (or ``_data``) and ``_link`` give a dataset or link
        that has attributes.
    """
    for key, value in nexus.items():
        if key in ("_dataset", "_data", "_link"):
            continue
        if key == "_attributes":
            for name, attribute in value.items():
                group.attrs[name] = attribute
        elif isinstance(value, Mapping):
            _write_part(group, _name(key), value)
        elif isinstance(value, str) and value.startswith("#bluesky"):
            _link(group, _name(key), value)
        else:
            data, dtype = (value, _TEXT) if isinstance(value, str) else _storable(value)
            group.create_dataset(_name(key), data=data, dtype=dtype)


def _write_part(group: h5py.Group, name: str, part: Mapping[str, Any]) -> None:
    content = part.get("_link", part.get("_dataset", part.get("_data")))
    if content is None:
        write_nexus(group.require_group(name), part)
        return
    attributes = part.get("_attributes", {})
    write_nexus(group, {name: content})
    item: Any = group.get(name)
    if item is None or item.file.filename != group.file.filename:
        return  # a link that leads nowhere, or into another file, which must not be changed
    for attribute, value in attributes.items():
        item.attrs[attribute] = value


def _link(group: h5py.Group, name: str, link: str) -> None:
    match = _LINK.fullmatch(link)
    if match is None:
        raise ScanFileError(f"{link!r} is not a link: links look like #bluesky/start/sample/name")
    path = "/bluesky/" + re.sub(r"^desc/", "descriptors/", match["path"])
    if group.file.get(path) is None:
        log.warning("%s of %s leads nowhere: the run has no %s", name, group.name, path)
    elif match["attribute"]:
        group.create_dataset(name, data=group.file[path].attrs[match["attribute"]])
    else:
        group[name] = h5py.SoftLink(path)
