"""A chunk that would become more than it says is refused before it does."""

from __future__ import annotations

import zlib

import h5py
import hdf5plugin
import numpy as np
import pytest

from offbragg.errors import OffbraggError, ScanFileError
from offbragg.files import nexus, scan_layout
from offbragg.files.examine import Examiner
from offbragg.files.filters import check_filters, check_part
from offbragg.files.hdf5 import LIBVER
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_writer import ScanWriter
from offbragg.recovery.verify import verify
from offbragg.workflows.choices import Choices
from offbragg.workflows.reduce import reduce_files

SHAPE = (4, 256, 256)
BOMB = 30_000_000  # bytes of zeros


def deflated(size: int) -> bytes:
    packer = zlib.compressobj(9)
    pieces = [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*pieces, packer.compress(bytes(size % (1 << 20))), packer.flush()])


def of_two_filters() -> h5py.h5p.PropDCID:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((1, *SHAPE[1:]))
    plist.set_deflate(9)
    plist.set_filter(h5py.h5z.FILTER_SHUFFLE, 0)
    plist.set_deflate(9)
    return plist


def put(file: h5py.File, name: str, how: str) -> h5py.Dataset:
    """A dataset whose second chunk is made by hand."""
    chunks = (1, *SHAPE[1:])
    if how == "twice":
        space = h5py.h5s.create_simple(SHAPE)
        made = h5py.h5d.create(
            file.id, name.encode(), h5py.h5t.STD_I32LE, space, dcpl=of_two_filters()
        )
        data = h5py.Dataset(made)
        data.id.write_direct_chunk((1, 0, 0), zlib.compress(deflated(BOMB)))
    elif how == "deflate":
        data = file.create_dataset(name, SHAPE, "<i4", chunks=chunks, compression="gzip")
        data.id.write_direct_chunk((1, 0, 0), deflated(BOMB))
    elif how in ("bitshuffle", "lz4"):
        options = nexus.COMPRESSED if how == "bitshuffle" else hdf5plugin.LZ4()
        data = file.create_dataset(name, SHAPE, "<i4", chunks=chunks, **options)
        data[1] = 7
        _, chunk = data.id.read_direct_chunk((1, 0, 0))
        data.id.write_direct_chunk((1, 0, 0), BOMB.to_bytes(8, "big") + chunk[8:])
    return data


@pytest.mark.parametrize("how", ["twice", "deflate", "bitshuffle", "lz4"])
def test_a_bomb_is_refused_with_its_size(tmp_path, how):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = put(file, "data", how)

        with pytest.raises(ScanFileError, match=r"filters|becomes"):
            check_part(data)
        with pytest.raises(ScanFileError, match="/data is not read"):
            check_part(data, (slice(1, 2), slice(0, 3), slice(None)))
        if how != "twice":
            check_part(data, (slice(2, 4), slice(0, 3), slice(None)))  # the others are good


@pytest.mark.parametrize(
    "options",
    [
        {}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True, "fletcher32": True},
        {"fletcher32": True, **nexus.COMPRESSED}, dict(nexus.COMPRESSED),
        dict(hdf5plugin.LZ4()),  # of many Eigers
    ],
)  # fmt: skip
def test_what_was_written_in_usual_ways_is_read(tmp_path, options):
    counts = np.random.default_rng(0).poisson(2.0, (5, 33, 30)).astype("<i4")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("some", data=counts, chunks=(2, 16, 30), **options)
        file.create_dataset("none", (5, 3), "<i4", chunks=(2, 3), **options)
        file["one"] = 7

        for name in file:
            check_part(file[name])


def test_other_filters_are_refused_by_number(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("data", SHAPE, "<i4", compression="lzf")

        with pytest.raises(ScanFileError, match="32000"):
            check_filters(data)


@pytest.fixture(scope="module")
def examiner():
    with Examiner() as examiner:
        yield examiner


@pytest.mark.parametrize(
    "where", [scan_layout.DATA, scan_layout.MASK, f"{scan_layout.FRAMES}/status"]
)
def test_a_scan_file_with_a_bomb_is_refused_by_every_reader(tmp_path, start, where, examiner):
    with ScanWriter.create(tmp_path, start=start) as scan:
        path = scan.path
    with h5py.File(path, "r+", libver=LIBVER) as file:
        old = file[where]
        shape = (6, *old.shape[1:]) if where == scan_layout.DATA else old.shape
        kind, chunk = old.id.get_type(), (1, *shape[1:]) if where == scan_layout.DATA else shape
        file[f"{scan_layout.FRAMES}/status"][:] = b"stored"
        del file[where]
        plist = of_two_filters()
        plist.set_chunk(chunk)
        space = h5py.h5s.create_simple(shape)
        made = h5py.h5d.create(file.id, where.encode(), kind, space, dcpl=plist)
        made.write_direct_chunk((0,) * len(shape), zlib.compress(deflated(BOMB)))

    problems: list[str] = []
    try:
        problems = verify(path, examiner=examiner).problems
    except ScanFileError as error:
        problems = [str(error)]
    assert any("filters" in problem for problem in problems), problems
    with pytest.raises(ScanFileError, match="filters"), ScanFile.open(path) as scan:
        _ = scan.pixel_mask(), scan.frame_values(), scan.stack
    with pytest.raises(OffbraggError):
        reduce_files(path, Choices(step=0.25, background="none"))
