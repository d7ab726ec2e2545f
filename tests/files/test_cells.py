"""Boxes of an array are read as HDF5 reads them, through our own decoder or through HDF5."""

from __future__ import annotations

import h5py
import hdf5plugin
import numpy as np
import pytest
from volumes import sparse_volume

from offbragg import kernels
from offbragg.errors import ReductionError
from offbragg.files import cells
from offbragg.files.volume_file import VolumeFile
from offbragg.files.volume_writer import write_volume

BOXES = [
    (slice(0, 96), slice(0, 100), slice(0, 70)),
    (slice(40, 41), slice(0, 100), slice(0, 70)),
    (slice(0, 96), slice(33, 34), slice(0, 70)),
    (slice(0, 96), slice(0, 100), slice(69, 70)),
    (slice(31, 65), slice(20, 33), slice(10, 12)),
]


@pytest.fixture
def path(tmp_path):
    return write_volume(tmp_path / "v.h5", sparse_volume((70, 100, 96), sums=5), {"inputs": []})


@pytest.fixture(params=["by our decoder", "by HDF5"])
def decoder(request, monkeypatch):
    """Whether what is ours must be decoded by the kernels, or cannot be."""
    if request.param == "by HDF5":
        monkeypatch.setattr(kernels, "compiled", False)
    else:
        monkeypatch.setattr(cells, "check_part", lambda *_: pytest.fail("read by HDF5"))


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("name", ["volume/counts", "data/intensity", "transform/v"])
def test_a_box_is_what_hdf5_reads(path, box, name, decoder):
    with h5py.File(path) as file:
        data = file["entry"][name]
        read = cells.StoredArray(data).read(box)

        assert read.dtype == data.dtype
        np.testing.assert_array_equal(read, data[box])


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"chunks": (16, 32, 32)},
        {"chunks": (32, 32, 32), "compression": "gzip"},
        {"chunks": (32, 32, 32), **hdf5plugin.Bitshuffle(cname="lz4")},
        {"chunks": (32, 32, 32), "fletcher32": True, **hdf5plugin.Bitshuffle(cname="none")},
        {"chunks": (32, 32, 32), "fletcher32": True, **hdf5plugin.Bitshuffle(cname="zstd")},
    ],
)
def test_what_others_made_is_read(tmp_path, how):
    array = np.random.default_rng(0).random((40, 50, 60))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("x", data=array, **how)
        file.flush()  # into chunks
        box = (slice(3, 40), slice(0, 33), slice(59, 60))

        np.testing.assert_array_equal(cells.StoredArray(data).read(box), array[box])


def test_a_chunk_that_was_damaged_is_an_error_wherever_it_is_read(path):
    with h5py.File(path) as file:
        info = file["entry/volume/weight"].id.get_chunk_info_by_coord((64, 64, 32))
    raw = bytearray(path.read_bytes())
    raw[info.byte_offset + info.size // 2] ^= 1
    path.write_bytes(raw)

    with VolumeFile(path) as file:
        with pytest.raises(ReductionError, match=r"v\.h5 is damaged: /entry/volume/weight"):
            file.volume()
        with pytest.raises(ReductionError, match=r"v\.h5 is damaged: /entry/volume/weight"):
            file.bricks().brick(2, 2, 1)
        assert file.bricks().brick(2, 2, 0) is not None
