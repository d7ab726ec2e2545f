"""Publish volume files: nodes of the catalog beside the runs, in the container ``volumes``.

A node holds what is searched for, and where the arrays are; nothing is copied. Its structure is in
the catalog's database, so a listing opens no file, and none can break it.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse

import numpy as np

from offbragg.bricks import LEVELS
from offbragg.catalog.containers import FINISHED, GROWING, VOLUME_ARRAY, VOLUMES
from offbragg.catalog.exact import storable
from offbragg.catalog.ome_zarr import ome_metadata
from offbragg.errors import CatalogError, OffbraggError
from offbragg.files.scan_file import ScanFile
from offbragg.files.volume_file import VolumeFile
from offbragg.printable import printable

SPEC = "OffbraggVolume"
_MOST_RECORD = 1_000_000  # bytes of a record that is sent; its file has it anyway
_ARRAYS = {
    "intensity": "data/intensity",
    "sigma": "data/intensity_errors",
    "weight": "volume/weight",
}
_MISSING, _THERE = 404, 409
_CHUNK = 128  # cells along each edge of what a client of Tiled asks for at once: 8 MB


def volume_key(path: Path) -> str:
    """Return the key of a volume file's node: the same for a file that replaces it.

    Examples
    --------
    >>> volume_key(Path("/data/LSMO/volume-f1.h5"))
    'volume-f1-55fc9cf9'
    """
    plain = re.sub(r"[^A-Za-z0-9_.+-]", "_", path.stem)[:60]
    return f"{plain}-{hashlib.sha256(str(path).encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True)
class VolumeNode:
    """What a catalog holds of a volume file.

    Parameters
    ----------
    key
        Of the node in `VOLUMES`.
    metadata
        What is searched for.
    children
        What lies in the node, and where in it: bodies of requests to register.
    """

    key: str
    metadata: dict[str, Any]
    children: list[tuple[str, dict[str, Any]]]

    def holds_the_same(self, metadata: Mapping[str, Any]) -> bool:
        """Return whether the arrays are those of a node that has this metadata."""
        grid: Any = metadata.get("grid") or {}
        return (
            grid.get("shape") == self.metadata["grid"]["shape"]
            and metadata.get("levels") == self.metadata["levels"]
            and metadata.get("file") == self.metadata["file"]
            and metadata.get("ome") == self.metadata["ome"]  # earlier nodes have other arrays
        )

    @property
    def container(self) -> dict[str, Any]:
        """Body of the request that makes the node; its grid comes last, after the arrays."""
        metadata = {name: value for name, value in self.metadata.items() if name != "grid"}
        return _container(self.key, metadata, [SPEC])


def describe_volume(
    file: VolumeFile, *, written: float, series: Mapping[str, Any] | None = None
) -> VolumeNode:
    """Return the node of a volume file.

    Parameters
    ----------
    file
        Open; its path is real.
    written
        When it was last written, POSIX s.
    series
        Series of its runs, if all are of one.

    Raises
    ------
    OffbraggError
        If it is not a volume file, or its name cannot be an address.
    """
    record, path = file.record, file.path
    inputs = inputs_of(record)
    sample = file.sample
    UB = next((each["UB"] for each in inputs if "UB" in each), None)
    if UB is None and sample is not None and sample.UB is not None:
        UB = [list(row) for row in sample.UB]
    metadata: dict[str, Any] = {
        "file": str(path),
        "state": GROWING if GROWING in record else FINISHED,
        "written": written,
        "frames": sum(n for each in inputs if isinstance(n := each.get("frames"), int)),
        "sample": None if sample is None else sample.to_dict(),
        "temperature": record.get("temperature"),
        "series": None if series is None else dict(series),
        "runs": [str(each.get("run")) for each in inputs],
        "completeness": file.completeness,
        "symmetry": file.symmetry,
        "grid": file.grid.to_dict(),
        "UB": UB,
        "levels": [1, *(level for level in LEVELS if _level(file, level) is not None)],
        "record": record if len(json.dumps(record)) <= _MOST_RECORD else None,
    }
    metadata["ome"] = ome_metadata(path.stem, file.grid, metadata["levels"])
    return VolumeNode(volume_key(path), storable(metadata), list(_children(file)))


def inputs_of(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a record has of each sweep; while it grows, that is less."""
    growing = record.get(GROWING)
    if isinstance(growing, Mapping):
        each = [{"file": name, **what} for name, what in growing.items() if isinstance(what, dict)]
        return list(each)
    return [each for each in record.get("inputs") or () if isinstance(each, Mapping)]


def publish_volume(path: Path, *, host: str, port: int, key: str, timeout: float = 5.0) -> str:
    """Publish a volume file; one of the same path that was published before is brought up to date.

    Parameters
    ----------
    path
        The file; it lies below a root of the catalog.
    host, port
        Address of the catalog's server.
    key
        The catalog's own key.
    timeout
        Time limit for each answer, s.

    Returns
    -------
    key
        Of its node in `VOLUMES`.

    Raises
    ------
    CatalogError
        If the catalog does not answer, or refuses it.
    OffbraggError
        If it is not a volume file.
    """
    path = path.resolve()  # the catalog's roots are real paths
    with VolumeFile(path) as file:
        node = describe_volume(
            file, written=path.stat().st_mtime, series=_series(path, inputs_of(file.record))
        )
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        _publish(node, _Catalog(connection, key))
    except (OSError, http.client.HTTPException) as error:
        reason = f"no answer within {timeout:g} s" if isinstance(error, TimeoutError) else error
        raise CatalogError(f"the catalog at http://{host}:{port} is away: {reason}") from error
    finally:
        connection.close()
    return node.key


def _publish(node: VolumeNode, catalog: _Catalog) -> None:
    place = f"{VOLUMES}/{quote(node.key)}"
    there = catalog.ask("GET", f"metadata/{place}", but=_MISSING)
    if there is None or not node.holds_the_same(there["data"]["attributes"]["metadata"]):
        catalog.ask("DELETE", f"metadata/{place}?recursive=true", but=_MISSING)
        # what is there already was made by the server, which has seen the file, or by another one
        catalog.ask("POST", f"metadata/{VOLUMES}", node.container, but=_THERE)
        for below, child in node.children:
            verb = "register" if child["data_sources"] else "metadata"
            catalog.ask("POST", f"{verb}/{place}{below}", child, but=_THERE)
        try:
            one = f"array/full/{place}/intensity?slice=0:1,0:1,0:1"
            catalog.ask("GET", f"{one}&format=application/octet-stream")
        except CatalogError:  # nobody shall find what cannot be read
            catalog.ask("DELETE", f"metadata/{place}?recursive=true", but=_MISSING)
            raise
    catalog.ask("PUT", f"metadata/{place}?drop_revision=true", {"metadata": node.metadata})


class _Catalog:
    def __init__(self, connection: http.client.HTTPConnection, key: str) -> None:
        self._connection = connection
        self._headers = {"Authorization": f"Apikey {key}", "Content-Type": "application/json"}

    def ask(self, method: str, path: str, body: object = None, *, but: int | None = None) -> Any:
        """Send one request and return its answer; None if its status is a certain other one."""
        content = None if body is None else json.dumps(body).encode()
        self._connection.request(method, f"/api/v1/{path}", content, self._headers)
        answer = self._connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
        if answer.status < 300:
            is_json = (answer.getheader("content-type") or "").startswith("application/json")
            return json.loads(text) if is_json else text
        if answer.status == but:
            return None
        hint = "\nRestart offbragg serve: it is of an earlier version." * (answer.status == 404)
        raise CatalogError(
            f"the catalog refuses a volume: {method} {path.partition('?')[0]} was answered with "
            f"{answer.status}: {printable(text[:200])}{hint}"
        )


def _container(key: str, metadata: Mapping[str, Any], specs: list[str]) -> dict[str, Any]:
    return {
        "id": key,
        "structure_family": "container",
        "metadata": metadata,
        "data_sources": [],
        "specs": [{"name": spec, "version": "1.0"} for spec in specs],
    }


def _children(file: VolumeFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where each array of a volume file is registered, and its node."""
    for key, name in _ARRAYS.items():
        yield "", _array(file.path, key, f"/entry/{name}", file.dataset(f"entry/{name}"))
    yield "", _container("levels", {}, [])
    for level in LEVELS:
        if (data := _level(file, level)) is not None:
            name = f"/entry/levels/{level}/intensity"
            yield "/levels", _array(file.path, str(level), name, data)


def _level(file: VolumeFile, level: int) -> Any:
    return file.dataset(f"entry/levels/{level}/intensity")


def _array(path: Path, key: str, name: str, data: Any) -> dict[str, Any]:
    kind = np.dtype(data.dtype)
    chunks = [[min(_CHUNK, n - at) for at in range(0, n, _CHUNK)] for n in data.shape]
    structure = {
        "data_type": {"endianness": "little", "kind": kind.kind, "itemsize": kind.itemsize},
        "shape": list(data.shape),
        "chunks": chunks,
        "dims": ["l", "k", "h"],
        "resizable": False,
    }
    source = {
        "structure_family": "array",
        "structure": structure,
        "mimetype": VOLUME_ARRAY,
        "parameters": {"dataset": name},
        "assets": [
            {"data_uri": _uri(path),
             "is_directory": False, "parameter": "data_uris", "num": 0}
        ],
        "management": "external",
    }  # fmt: skip
    return {
        "id": key, "structure_family": "array", "metadata": {}, "specs": [],
        "data_sources": [source],
    }  # fmt: skip


def _uri(path: Path) -> str:
    """Return the address of a file as Tiled reads it: with nothing quoted."""
    uri = f"file://localhost{path}"
    if urlparse(uri).path != str(path) or not str(path).isprintable():
        raise CatalogError(
            f"{printable(str(path))} cannot be published: a name with ? # or control characters "
            "is not an address\nRename the file or its folder."
        )
    return uri


def _series(path: Path, inputs: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the series of the runs, if all are of one; their scan files say which."""
    found: list[Any] = []
    for each in inputs:
        try:
            with ScanFile.open(path.parent / str(each.get("file"))) as scan:
                found.append(scan.start.get("series"))
        except (OffbraggError, OSError, ValueError):
            return None
    uids = {each.get("uid") if isinstance(each, Mapping) else None for each in found}
    return dict(found[0]) if len(uids) == 1 and None not in uids else None
