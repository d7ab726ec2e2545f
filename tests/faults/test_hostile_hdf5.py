"""HDF5 files that lead out of the served directory, or nowhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from tiled.adapters.hdf5 import SWMR_DEFAULT, h5open
from tiled.structures.core import StructureFamily

from offbragg.catalog.guard import GuardedAdapter, check_hdf5, check_path
from offbragg.errors import CatalogError


@pytest.fixture
def places(tmp_path) -> tuple[Path, Path]:
    """A served directory with a file, and a secret beside it."""
    served, secret = tmp_path / "served", tmp_path / "secret"
    served.mkdir()
    secret.mkdir()
    (secret / "key").write_bytes(b"top secret" * 100)
    for place in (served, secret):
        with h5py.File(place / "good.h5", "w") as file:
            file["data"] = np.arange(10)
    return served, secret


def external_link(file, secret):
    file["data"] = h5py.ExternalLink(str(secret / "good.h5"), "/data")


def external_link_up(file, secret):
    file["data"] = h5py.ExternalLink("../secret/good.h5", "/data")


def external_link_in_a_group_behind_a_soft_link(file, secret):
    file["other/link"] = h5py.ExternalLink(str(secret / "good.h5"), "/")
    file["data"] = h5py.SoftLink("/other/link/data")


def external_storage(file, secret):
    file.create_dataset("data", (1000,), "u1", external=[(str(secret / "key"), 0, 1000)])


def external_storage_inside(file, secret):
    file.create_dataset("data", (10,), "u1", external=[("good.h5", 0, 10)])


def virtual(file, secret):
    layout = h5py.VirtualLayout((10,), "i8")
    layout[:] = h5py.VirtualSource(str(secret / "good.h5"), "data", (10,))
    file.create_virtual_dataset("data", layout)


def by_way_of_a_good_file(file, secret):
    with h5py.File(Path(file.filename).with_name("way.h5"), "w") as way:
        way["data"] = h5py.ExternalLink(str(secret / "good.h5"), "/data")
    file["data"] = h5py.ExternalLink("way.h5", "/data")


def through_a_symbolic_link(file, secret):
    Path(file.filename).with_name("innocent.h5").symlink_to(secret / "good.h5")
    file["data"] = h5py.ExternalLink("innocent.h5", "/data")


def soft_links_in_circles(file, secret):
    file["data"] = h5py.SoftLink("/other")
    file["other"] = h5py.SoftLink("/data")


def external_links_in_circles(file, secret):
    name = Path(file.filename).name
    file["data"] = h5py.ExternalLink(name, "/data")


@pytest.mark.parametrize(
    "make",
    [
        external_link, external_link_up, external_link_in_a_group_behind_a_soft_link,
        external_storage, external_storage_inside, virtual, by_way_of_a_good_file,
        through_a_symbolic_link, soft_links_in_circles, external_links_in_circles,
    ],
)  # fmt: skip
@pytest.mark.parametrize("asked", ["/data", "/"])
def test_what_leads_out_or_nowhere_is_refused_by_name(places, make, asked):
    served, secret = places
    with h5py.File(served / "bad\x1b[2J.h5", "w") as file:
        make(file, secret)

    with pytest.raises(CatalogError) as refused:
        check_hdf5(served / "bad\x1b[2J.h5", [served], names=[asked])

    assert ".h5" in str(refused.value)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    ("shape", "dtype", "chunks"),
    [((10**10,), "<i4", None), ((4 * 10**8,), "<i4", (4 * 10**8,)), ((10**12,), "u1", (1,)),
     ((1000, 10**6), "<f8", (1, 1)), ((200_000,), h5py.string_dtype(), (1000,))],
)  # fmt: skip
@pytest.mark.parametrize("asked", ["/data", "/"])
def test_what_cannot_be_read_in_parts_is_refused_by_name(places, shape, dtype, chunks, asked):
    served, _ = places
    with h5py.File(served / "absurd.h5", "w") as file:
        file.create_dataset("data", shape, dtype, chunks=chunks)

    with pytest.raises(CatalogError, match=r"absurd.h5: /data is not read: it (lies in|has) "):
        check_hdf5(served / "absurd.h5", [served], names=[asked])


@pytest.mark.parametrize("shape", [None, (), (0, 5), (3600, 4362, 4148)])
def test_what_is_empty_or_large_in_good_pieces_is_read(places, shape):
    served, _ = places
    with h5py.File(served / "good.h5", "w") as file:
        if shape is None:
            file["data"] = h5py.Empty("<i4")
        else:
            file.create_dataset("data", shape, "<u4", chunks=(1, *shape[1:]) if shape else None,
                                maxshape=(None, *shape[1:]) if shape else None)  # fmt: skip

    check_hdf5(served / "good.h5", [served], names=["/data"])


def test_a_group_that_holds_itself_is_refused(places):
    served, _ = places
    with h5py.File(served / "loop.h5", "w") as file:
        file["a/b/c"] = 1
        file["a/b/again"] = file["a"]

    with pytest.raises(CatalogError, match="circles"):
        check_hdf5(served / "loop.h5", [served])


def test_links_that_stay_inside_work(places):
    served, _ = places
    with h5py.File(served / "wrapper.nxs", "w") as file:
        file["entry/data"] = h5py.ExternalLink("good.h5", "/data")
        file["entry/same"] = h5py.SoftLink("/entry/data")
        file["entry/again"] = h5py.SoftLink("data")
        layout = h5py.VirtualLayout((10,), "i8")
        layout[:] = h5py.VirtualSource("good.h5", "data", (10,))
        file.create_virtual_dataset("entry/virtual", layout)

    check_hdf5(served / "wrapper.nxs", [served])
    for name in ("data", "same", "again", "virtual"):
        check_hdf5(served / "wrapper.nxs", [served], names=[f"/entry/{name}"])


@pytest.mark.parametrize("name", ["../secret/key", "out/key", "deep/../../secret/key", "loop/x"])
def test_a_path_that_leads_out_is_refused(places, name):
    served, secret = places
    (served / "out").symlink_to(secret)
    (served / "deep").mkdir()
    (served / "loop").symlink_to(served / "loop")

    with pytest.raises(CatalogError, match="is not read"):
        check_path(served / name, [served])


def test_a_symbolic_link_that_stays_inside_is_followed(places):
    served, _ = places
    (served / "link.h5").symlink_to(served / "good.h5")

    assert check_path(served / "link.h5", [served]) == served / "good.h5"


@pytest.mark.parametrize("locking", [None, False])
def test_a_file_that_the_process_reads_already_is_looked_at_in_the_same_way(places, locking):
    """HDF5 refuses a second opening that asks for other locks than the first one."""
    served, _ = places
    adapter = GuardedAdapter(Adapter, "application/x-hdf5", [served])
    path = served / "good.h5"

    with h5py.File(path, "r", libver="latest", swmr=True, locking=locking):
        made = adapter.from_catalog(Source(path), None, dataset="data", swmr=True, locking=locking)

    assert made.read() == "read"


def test_a_file_of_which_nobody_said_how_to_open_it_is_read_by_several_at_once(places):
    served, _ = places
    adapter = GuardedAdapter(Adapter, "application/x-hdf5", [served])
    path = served / "good.h5"

    with h5open(path, "data", swmr=SWMR_DEFAULT, libver="latest"):  # as Tiled has it open
        made = adapter.from_catalog(Source(path), None, dataset="data")

    assert made.read() == "read"


class Adapter:
    """What Tiled would read with."""

    structure_family = StructureFamily.container

    @classmethod
    def from_catalog(cls, source, node, **parameters):
        return cls()

    def structure(self):
        return None

    def read(self):
        return "read"


class Source:
    """What the catalog knows of a file."""

    def __init__(self, path):
        self.assets = [SimpleNamespace(data_uri=path.as_uri())]
