"""Arrays of volume files, read without a server: any slice, of files that anybody may have made."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from fastapi import HTTPException
from tiled.ndslice import NDBlock, NDSlice
from tiled.structures.array import ArrayStructure
from tiled.structures.data_source import Asset, DataSource, Management
from tiled.utils import BrokenLink
from volumes import sparse_volume

from offbragg.catalog.containers import VOLUME_ARRAY
from offbragg.catalog.readable import Readable
from offbragg.catalog.volume_arrays import VolumeArrayAdapter
from offbragg.errors import CatalogError
from offbragg.files.volume_writer import write_volume

NAME = "/entry/data/intensity"


def adapter(path: Path, array: Any, *, dataset: str = NAME) -> Any:
    source: Any = DataSource(
        structure_family="array",
        structure=ArrayStructure.from_array(array, chunks=((40, 3), (40,), (32, 38))),
        mimetype=VOLUME_ARRAY,
        parameters={"dataset": dataset},
        management=Management.external,
        assets=[Asset(data_uri=path.as_uri(), is_directory=False, parameter="data_uris", num=0)],
    )
    node: Any = SimpleNamespace(metadata_={}, specs=[])
    bound = VolumeArrayAdapter.of(Readable([path.parent]))
    return bound.from_catalog(source, node, dataset=dataset)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_volume(tmp_path_factory.mktemp("v") / "v.h5", sparse_volume((70, 40, 43)), {})


@pytest.fixture(scope="module")
def stored(path: Path) -> Any:
    with h5py.File(path) as file:
        return file[NAME][()]


@pytest.mark.parametrize(
    "asked",
    [
        ..., (), 5, -1, (3, ..., 7), slice(2, 9), (slice(None), 8), (slice(None, None, 5), 8, ...),
        (slice(30, 2, -7), slice(None, None, -1), slice(1, 60, 11)), (1, 2, 3), (-1, -1, -1),
        (slice(9, 9), 4), (slice(None), slice(None, None, 3)), (slice(-5, None), slice(100, 200)),
    ],
)  # fmt: skip
def test_a_slice_is_that_of_the_array(path, stored, asked):
    asked = NDSlice(*asked) if isinstance(asked, tuple) else NDSlice(asked)

    read = adapter(path, stored).read(slice=asked)

    expected = stored[tuple(asked)]
    assert np.shape(read) == expected.shape
    np.testing.assert_array_equal(read, expected)


def test_a_block_is_that_of_the_array(path, stored):
    read = adapter(path, stored).read_block

    np.testing.assert_array_equal(read(NDBlock(1, 0, 1)), stored[40:, :, 32:])
    np.testing.assert_array_equal(read(NDBlock(0, 0, 0), NDSlice(3)), stored[3, :, :32])


def test_what_is_not_the_published_array_is_refused(path, stored, tmp_path):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file[NAME] = stored[1:]
        file["linked"] = h5py.ExternalLink(str(path), NAME)
        file.create_group("group")
    (tmp_path / "text.h5").write_text("text")

    with pytest.raises(HTTPException, match=r"has the shape \(42, 40, 70\) now"):
        adapter(other, stored).read()
    with pytest.raises(HTTPException, match="the shape None"):
        adapter(other, stored, dataset="group").read()
    with pytest.raises(CatalogError, match="is a link to another file"):
        adapter(other, stored, dataset="linked").read()
    with pytest.raises(CatalogError, match="is not there"):
        adapter(other, stored, dataset="nothing").read()
    with pytest.raises(CatalogError, match="it is not an HDF5 file"):
        adapter(tmp_path / "text.h5", stored).read()
    with pytest.raises(BrokenLink, match="missing"):
        adapter(tmp_path / "gone.h5", stored).read()


def test_a_damaged_chunk_is_refused_and_the_others_are_read(path, stored, tmp_path):
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(path.read_bytes())
    with h5py.File(damaged) as file:
        data: Any = file[NAME]
        place, size = next(
            (info.byte_offset, info.size)
            for info in map(data.id.get_chunk_info, range(data.id.get_num_chunks()))
            if info.chunk_offset == (32, 32, 64)
        )
    raw = bytearray(damaged.read_bytes())
    raw[place + size // 2] ^= 0xFF
    damaged.write_bytes(raw)

    with pytest.raises(HTTPException, match="damaged in its file") as refused:
        adapter(damaged, stored).read(slice=NDSlice(40))
    assert refused.value.status_code == 503
    np.testing.assert_array_equal(adapter(damaged, stored).read(slice=NDSlice(3)), stored[3])


def test_a_file_is_not_read_while_it_is_written_nor_written_while_it_is_read(
    path, stored, tmp_path
):
    grows = tmp_path / "grows.h5"
    grows.write_bytes(path.read_bytes())
    other = tmp_path / "other.h5"
    other.write_bytes(path.read_bytes())
    array = adapter(grows, stored)

    with grows.open("rb") as written:
        fcntl.flock(written, fcntl.LOCK_EX)
        written_over = threading.Timer(0.2, other.replace, [grows])
        written_over.start()
        read = array.read(slice=NDSlice(3))
        written_over.join()

    np.testing.assert_array_equal(read, stored[3])
    with array._opened(), grows.open("rb") as writer, pytest.raises(BlockingIOError):
        fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with grows.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(HTTPException, match="is being written"):
            array.read()
