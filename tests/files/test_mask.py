"""Masks from the files of other programs: what is masked, and what is refused before it is read."""

from __future__ import annotations

import io

import fabio
import h5py
import numpy as np
import pytest
from fabio.cbfimage import CbfImage
from fabio.edfimage import EdfImage
from fabio.fit2dmaskimage import Fit2dMaskImage
from fabio.tifimage import TifImage
from PIL import Image

from offbragg.errors import ReductionError
from offbragg.files.mask import read_mask

SHAPE = (40, 64)


@pytest.fixture(scope="module")
def masked() -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[3:9, 10:20] = True
    mask[-1] = True
    return mask


def write(path, values: np.ndarray, how: str) -> str:
    """Write a mask as other programs do."""
    name = str(path / f"mask.{how.partition(' ')[0]}")
    if how.startswith("npy"):
        np.save(name, np.asfortranarray(values) if "fortran" in how else values)
    elif how.startswith("edf"):
        EdfImage(data=values).write(name)
    elif how == "cbf":
        CbfImage(data=values.astype(np.int32)).write(name)
    elif how == "msk":
        Fit2dMaskImage(data=values.astype(np.uint8)).write(name)
    elif how == "tif pillow":
        Image.fromarray(values).save(name)
    elif how == "tif deflated":
        Image.fromarray(values).save(name, compression="tiff_deflate")
    elif how == "tif one bit":
        Image.fromarray(values.astype(bool)).save(name)
    elif how == "tif":
        TifImage(data=values).write(name)
    else:
        with h5py.File(name, "w") as file:
            file["entry/other"] = np.arange(5)
            options = {"compression": "gzip"} if "gzip" in how else {}
            file.create_dataset("entry/mask", data=values, **options)
    return name


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("npy", bool), ("npy", np.uint8), ("npy fortran", np.float64), ("npy", np.int8),
        ("edf", np.uint8),
        ("edf", np.int32), ("edf", np.float32), ("cbf", np.int32), ("tif", np.int32),
        ("tif", np.uint8), ("tif", np.uint16), ("tif", np.float32), ("tif pillow", np.uint8),
        ("tif deflated", np.uint8), ("tif one bit", bool), ("h5", bool), ("h5 gzip", np.uint8),
        ("h5", np.uint32),
        ("msk", np.uint8),
    ],
)  # fmt: skip
def test_what_is_not_0_is_masked_in_every_format(tmp_path, masked, how, kind):
    value = {bool: 1, np.uint8: 255, np.int8: -1}.get(kind, 1) if how != "msk" else 1
    name = write(tmp_path, (masked * value).astype(kind), how)

    np.testing.assert_array_equal(read_mask(name), masked)
    np.testing.assert_array_equal(read_mask(name, inverted=True), ~masked)


@pytest.mark.parametrize("how", ["npy", "edf", "tif"])
@pytest.mark.parametrize("good", [0.0, 1.0])
def test_what_is_not_a_number_is_masked_whatever_the_others_are(tmp_path, masked, how, good):
    name = write(tmp_path, np.where(masked, np.nan, good).astype(np.float32), how)

    np.testing.assert_array_equal(read_mask(name), masked)


def test_a_picture_with_some_nan_does_not_say_what_it_masks(tmp_path, masked):
    values = np.where(masked, np.nan, np.arange(masked.size).reshape(SHAPE))

    with pytest.raises(ReductionError, match=r"does not say what it masks: 124 .* 0 to 2495"):
        read_mask(write(tmp_path, values, "npy"))


def test_a_dataset_is_named_or_the_only_one(tmp_path, masked):
    name = write(tmp_path, masked, "h5")
    with h5py.File(name, "a") as file:
        file["second"] = ~masked

    np.testing.assert_array_equal(read_mask(f"{name}::/second"), ~masked)
    with pytest.raises(ReductionError, match=r"mask\.h5::/entry/mask"):
        read_mask(name)
    with pytest.raises(ReductionError, match="no dataset /third"):
        read_mask(f"{name}::/third")
    with h5py.File(name, "a") as file:
        file["entry/instrument/detector/pixel_mask"] = masked.astype("<u4") * 2
    np.testing.assert_array_equal(read_mask(name), masked)


def npy_that_claims(shape, kind="<f8") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": kind, "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + bytes(100)


EDF = "{{\nDim_1 = {0} ;\nDim_2 = {0} ;\nDataType = UnsignedByte ;\n{1}}}\n"


def edf_that_claims(n: int) -> bytes:
    head = EDF.format(n, "")
    return EDF.format(n, " " * (512 - len(head))).encode() + bytes(100)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", npy_that_claims((10**6, 10**6))),
        ("b.npy", npy_that_claims((10**12,))),
        ("c.npy", npy_that_claims((5000, 5000))),
        ("d.npy", npy_that_claims((5, 5), "|O")),
        ("e.npy", b"\x93NUMPY\x09\x00"),
        ("f.npy", b""),
        ("g.edf", edf_that_claims(1_000_000)),
        ("h.tif", b"II*\0" + bytes(30)),
        ("i.png", b"not a picture"),
        ("j.h5", b"not HDF5"),
        ("k.msk", b"MASK"),
    ],
)
def test_what_cannot_be_a_mask_is_refused_before_it_is_read(tmp_path, name, content, monkeypatch):
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(np, "load", None)  # whatever would allocate

    with pytest.raises(ReductionError, match=f"mask .*{name} cannot be read"):
        read_mask(tmp_path / name)
    assert fabio  # the reader of most of them


def test_an_absurd_dataset_is_refused(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("mask", (10**6, 10**6), "u1", chunks=(1000, 1000))

    with pytest.raises(ReductionError, match="1000000"):
        read_mask(tmp_path / "m.h5")
