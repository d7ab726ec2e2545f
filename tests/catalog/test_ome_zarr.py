"""Volumes in the catalog as OME-Zarr: zarr-python reads them, and any viewer finds their cells."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
import zarr
from catalog.test_volumes import published, written
from obstore.store import HTTPStore
from zarr.storage import ObjectStore

from offbragg.catalog.authentication import reading_key
from offbragg.catalog.ome_zarr import ome_metadata
from offbragg.grid import Grid
from offbragg.volume import Volume

ODD = Grid((-21, -9, 3), (43, 18, 1), (10, 8, 4))


# -- where cells lie ------------------------------------------------------------------------------


def transformed(dataset: dict[str, Any], index: tuple[int, ...]) -> list[float]:
    """Where NGFF puts the centre of a cell, in the order of the axes."""
    scale, translation = dataset["coordinateTransformations"]
    return [
        i * s + t for i, s, t in zip(index, scale["scale"], translation["translation"], strict=True)
    ]


@pytest.mark.parametrize("level", [1, 2, 4, 8])
def test_a_coarse_cell_lies_at_the_mean_of_its_cells(level):
    image = ome_metadata("v", ODD, [1, 2, 4, 8])["multiscales"][0]
    dataset = image["datasets"][[1, 2, 4, 8].index(level)]
    size = -(-ODD.shape[0] // level)

    for coarse in range(ODD.shape[0] // level):  # of whole cells; the last one may hold fewer
        inside = range(coarse * level, (coarse + 1) * level)
        labels = [Fraction(ODD.first[0] + i, ODD.per_unit[0]) for i in inside]
        mean = float(sum(labels) / level)
        assert transformed(dataset, (0, 0, coarse))[2] == pytest.approx(mean, abs=1e-12)
    assert size * level >= ODD.shape[0]


def test_the_axes_are_those_of_the_stored_array():
    image = ome_metadata("v", ODD, [1])["multiscales"][0]

    assert [axis["name"] for axis in image["axes"]] == ["l", "k", "h"]
    h, k, l = ODD.h[5], ODD.k[7], ODD.l[0]  # noqa: E741
    assert transformed(image["datasets"][0], (0, 7, 5)) == pytest.approx([l, k, h], abs=1e-12)


# -- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def headers(server) -> dict[str, str]:
    return {"Authorization": f"Apikey {reading_key(server.key, ends=time.time() + 3600)}"}


@pytest.fixture(scope="module")
def path(server) -> Path:
    return written(server.root / "as-zarr.h5")


@pytest.fixture(scope="module")
def key(server, path) -> str:
    return published(server, path)


def store(server: Any, key: str, headers: dict[str, str]) -> ObjectStore[HTTPStore]:
    options: Any = {"default_headers": headers, "allow_http": True}
    address = f"{server.url}/zarr/v3/volumes/{key}/"
    return ObjectStore(HTTPStore.from_url(address, client_options=options), read_only=True)


def test_zarr_reads_every_level_as_it_is_in_the_file(server, key, path, headers):
    group = zarr.open_group(store(server, key, headers), mode="r", zarr_format=3)
    datasets = group.attrs["ome"]["multiscales"][0]["datasets"]

    assert [each["path"] for each in datasets] == ["intensity", "levels/2", "levels/4", "levels/8"]
    with h5py.File(path) as file:
        for dataset in datasets:
            array: Any = group[dataset["path"]]
            name = dataset["path"].replace("intensity", "data")
            stored = file[f"entry/{name}/intensity"][()]
            assert array.metadata.dimension_names == ("l", "k", "h")
            np.testing.assert_array_equal(array[:].view("u4"), stored.view("u4"))
            np.testing.assert_array_equal(array[1, 2:4], stored[1, 2:4])
        for name, where in (("sigma", "data/intensity_errors"), ("weight", "volume/weight")):
            array = group[name]
            np.testing.assert_array_equal(array[:], file[f"entry/{where}"][()])


def test_it_is_an_ome_zarr_of_version_05(server, key, headers):
    models = pytest.importorskip("ome_zarr_models")
    from ome_zarr_models.v05 import Image

    image = models.open_ome_zarr(zarr.open_group(store(server, key, headers), mode="r"))

    assert isinstance(image, Image)
    (multiscale,) = image.ome_attributes.multiscales
    assert [axis.name for axis in multiscale.axes] == ["l", "k", "h"]
    assert {axis.unit for axis in multiscale.axes} == {None}
    assert len(multiscale.datasets) == 4


@pytest.mark.parametrize("name", ["levels/2/.zarray", "levels/2/.zattrs", "intensity/nothing"])
def test_what_an_array_does_not_hold_is_not_found(server, key, headers, name):
    """Readers that try both versions of Zarr take anything but 404 for a failing server."""
    answer = httpx.get(f"{server.url}/zarr/v3/volumes/{key}/{name}", headers=headers)

    assert answer.status_code == 404, answer.text


@pytest.mark.parametrize("chunk", ["v3 c/1/0/0", "v3 c/0/0/1000000000", "v2 0.100000.0"])
def test_a_chunk_behind_the_end_takes_no_memory(server, key, headers, chunk):
    """Tiled would fill it up with zeros, from the end of the array on."""
    version, name = chunk.split()
    address = f"{server.url}/zarr/{version}/volumes/{key}/levels/2/{name}"

    answer = httpx.get(address, headers=headers)

    assert (answer.status_code, "out of range" in answer.text) == (400, True), answer.text


@contextlib.contextmanager
def replaced_all_the_time(path: Path, contents: list[bytes]) -> Iterator[None]:
    """Replace a file by one content after the other, each at once, within the ``with``."""
    ended = threading.Event()

    def replace() -> None:
        number = 0
        while not ended.is_set():
            part = path.with_name(f".{path.name}.part")
            part.write_bytes(contents[number % len(contents)])
            part.replace(path)
            number += 1

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_chunk_of_a_volume_that_grows_is_of_one_file(server, headers):
    grid = Grid((0, 0, 0), (96, 64, 64), (10, 10, 10))
    weight = np.ones(grid.shape)
    contents = []
    for number in (1.0, 2.0):
        made = written(server.root / f"grown-{number:g}.h5", Volume(number * weight, weight, grid))
        contents.append(made.read_bytes())
    path = server.root / "grows.h5"
    path.write_bytes(contents[0])
    key = published(server, path)
    array: Any = zarr.open_array(
        store(server, key, headers), path="intensity", mode="r", zarr_format=3
    )

    with replaced_all_the_time(path, contents):
        seen = [sorted(set(array[:].ravel().tolist())) for _ in range(15)]

    assert {tuple(each) for each in seen} == {(1.0,), (2.0,)}
