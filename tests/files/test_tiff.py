from __future__ import annotations

import bz2
import gzip
import struct
import zlib

import fabio
import numpy as np
import pytest
import tifffile

from offbragg.errors import FrameError, IncompleteFrame, RejectedFrame
from offbragg.files import read_frame, read_head


@pytest.fixture
def read(tmp_path):
    def read(raw: bytes, *, number: int = 0, shape=None):
        path = tmp_path / "x_00000.tif"
        path.write_bytes(raw)
        return read_frame(path, number=number, shape=shape)

    return read


def test_pixels_and_header_of_a_file(read, make_tiff, make_counts):
    frame = read(make_tiff(make_counts(2)), number=2, shape=(20, 30))

    np.testing.assert_array_equal(frame.counts, make_counts(2))
    assert frame.counts.dtype == np.int32
    assert frame.md5 is None
    assert not frame.verified
    assert frame.header["wavelength"] == 0.6889


def test_what_fabio_writes_is_read(tmp_path, make_counts):
    path = tmp_path / "fabio.tif"
    fabio.tifimage.TifImage(data=make_counts(1)).write(str(path))

    np.testing.assert_array_equal(read_frame(path, number=0).counts, make_counts(1))


def test_fabio_reads_what_these_tests_call_a_tiff(tmp_path, make_tiff, make_counts):
    path = tmp_path / "camserver.tif"
    path.write_bytes(make_tiff(make_counts(1)))

    np.testing.assert_array_equal(fabio.open(str(path)).data, make_counts(1))


def test_a_file_cut_anywhere_is_incomplete(read, make_tiff, make_counts):
    raw = make_tiff(make_counts(0))

    for length in range(0, len(raw), 7):
        with pytest.raises(IncompleteFrame):
            read(raw[:length])


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"bits": 16}, "2400 bytes in piece 0 of the pixels: 1200 are expected"),
        ({"bits": 12}, "bits per pixel 12"),
        ({"bits": 64}, "bits per pixel 64"),
        ({"compression": 7}, "compression 7"),
        ({"compression": 8}, "cannot be read by tifffile"),
        ({"compression": 5}, "cannot be read by tifffile|imagecodecs"),
        ({"samples": 3}, "samples per pixel 3"),
        ({"format": 3}, "sample format 3"),
        ({"bytes": 10}, "10 bytes in 1 strips"),
        ({"bytes": 4_000_000_000}, "4000000000 bytes"),
        ({"width": 0}, "0 pixels"),
        ({"width": 4_000_000_000, "length": 4_000_000_000}, "not believed"),
    ],
)
def test_what_is_no_pilatus_frame_is_rejected_by_name(read, make_tiff, make_counts, tags, message):
    with pytest.raises(RejectedFrame, match=message):
        read(make_tiff(make_counts(0), **tags))


def test_another_shape_is_rejected(read, make_tiff, make_counts):
    with pytest.raises(RejectedFrame, match="expected 30 × 20"):
        read(make_tiff(make_counts(0)), shape=(30, 20))


def test_another_kind_of_file_is_rejected(read):
    with pytest.raises(RejectedFrame, match="is not a TIFF file"):
        read(b"###CBF" * 100)


def test_random_damage_never_crashes(read, make_tiff, make_counts):
    raw = make_tiff(make_counts(0))
    rng = np.random.default_rng(1)

    for _ in range(400):
        damaged = bytearray(raw)
        for position in rng.integers(0, 150, 4):
            damaged[position] = rng.integers(0, 256)
        try:
            frame = read(bytes(damaged), shape=(20, 30))
        except FrameError:
            continue
        assert frame.shape == (20, 30)


KINDS = {
    "8 bit": ("u1", {}),
    "signed 8 bit": ("i1", {}),
    "16 bit": ("u2", {}),
    "signed 16 bit": ("i2", {}),
    "big-endian 16 bit": (">u2", {"byteorder": ">"}),
    "deflate": ("i4", {"compression": "zlib"}),
    "deflate of differences": ("u2", {"compression": "zlib", "predictor": True}),
    "big-endian deflate of differences": (
        ">i4",
        {"compression": "zlib", "predictor": True, "byteorder": ">"},
    ),
    "LZW": ("u2", {"compression": "lzw"}),
    "LZW of differences": ("i4", {"compression": "lzw", "predictor": True}),
    "tiles": ("i4", {"tile": (16, 16)}),
    "deflated tiles": ("u2", {"tile": (32, 16), "compression": "zlib", "predictor": True}),
    "short strips": ("u2", {"rowsperstrip": 7, "compression": "zlib"}),
    "unsigned 32 bit": ("u4", {"compression": "zlib"}),
    "BigTIFF": ("i4", {"bigtiff": True}),
    "big-endian BigTIFF": (">i4", {"bigtiff": True, "byteorder": ">"}),
    "deflated BigTIFF tiles": ("i2", {"bigtiff": True, "tile": (16, 32), "compression": "zlib"}),
}


def pixels_of(kind: str) -> np.ndarray:
    information = np.iinfo(np.dtype(kind))
    low, high = max(information.min, -2), min(information.max, 2**31 - 1)
    counts = np.random.default_rng(3).integers(low, high, (45, 70), endpoint=True)
    counts[0, :2] = low, high
    return counts.astype(kind)


@pytest.mark.parametrize("name", KINDS)
def test_tiff_files_of_the_world_are_what_other_programs_read(tmp_path, name):
    kind, options = KINDS[name]
    if "lzw" in options.values():
        pytest.importorskip("imagecodecs")
    path = tmp_path / "x_1.tif"
    tifffile.imwrite(
        path, pixels_of(kind), photometric="minisblack", metadata=None,
        description="# Exposure_time 0.5 s", datetime="2016:03:05 09:01:45", **options,
    )  # fmt: skip

    frame = read_frame(path, number=0, shape=(45, 70))

    assert frame.counts.dtype == np.int32
    np.testing.assert_array_equal(frame.counts, pixels_of(kind).astype(np.int64))
    np.testing.assert_array_equal(frame.counts, tifffile.imread(path))
    head = read_head(path)
    assert head.shape == (45, 70)
    assert (head.header["exposure_time"], head.header["date"]) == (0.5, "2016:03:05 09:01:45")
    few = np.dtype(kind).itemsize < 4
    assert head.most_counts == (np.iinfo(np.dtype(kind)).max if few else None)
    with pytest.raises(RejectedFrame, match="expected 70 × 45"):
        read_frame(path, number=0, shape=(70, 45))


@pytest.mark.parametrize("kind", ["u1", "u2", "i2", "i4", "u4"])
def test_tiff_files_of_fabio_are_what_fabio_reads(tmp_path, kind):
    path = tmp_path / "x_1.tif"
    fabio.tifimage.TifImage(data=pixels_of(kind)).write(str(path))

    found = read_frame(path, number=0).counts

    np.testing.assert_array_equal(found, np.asarray(fabio.open(str(path)).data).astype(np.int32))
    np.testing.assert_array_equal(found, pixels_of(kind).astype(np.int64))


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        ("f4", {}, "sample format 3"),
        ("i8", {}, "bits per pixel 64"),
        ("u2", {"compression": "lzma"}, "compression"),
    ],
)
def test_a_tiff_that_holds_no_counts_is_rejected_by_name(tmp_path, kind, options, why):
    path = tmp_path / "x_1.tif"
    tifffile.imwrite(path, np.zeros((20, 30), kind), photometric="minisblack", **options)

    with pytest.raises(RejectedFrame, match=why):
        read_frame(path, number=0)


@pytest.mark.parametrize("kind", ["i4", "u2"])
def test_a_tiff_of_several_images_or_colours_is_rejected(tmp_path, kind):
    several, colours = tmp_path / "x_1.tif", tmp_path / "x_2.tif"
    tifffile.imwrite(several, np.zeros((2, 20, 30), kind), photometric="minisblack", metadata=None)
    tifffile.imwrite(colours, np.zeros((20, 30, 3), kind), photometric="rgb")

    with pytest.raises(RejectedFrame, match="more than one image"):
        read_frame(several, number=0)
    with pytest.raises(RejectedFrame, match="samples per pixel 3"):
        read_frame(colours, number=0)


def bomb(pixels: bytes, rows: int = 20, columns: int = 30) -> bytes:
    """A deflated TIFF whose one strip unpacks to other bytes than it should."""
    packed = zlib.compress(pixels)
    entries = [
        (256, columns), (257, rows), (258, 32), (259, 8), (273, 200), (277, 1), (278, rows),
        (279, len(packed)), (339, 2),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return (b"II*\0" + struct.pack("<I", 8) + directory + bytes(4)).ljust(200, b"\0") + packed


def test_a_strip_that_unpacks_to_gigabytes_is_not_unpacked(read, make_counts):
    counts = make_counts(1)
    np.testing.assert_array_equal(read(bomb(counts.tobytes())).counts, counts)

    with pytest.raises(RejectedFrame, match="to more than 2400 bytes"):
        read(bomb(bytes(64 << 20)))
    with pytest.raises(RejectedFrame, match="to 2399 instead of 2400 bytes"):
        read(bomb(bytes(2399)))


@pytest.mark.parametrize(
    "options", [{"compression": "zlib"}, {"tile": (16, 16)}, {"bigtiff": True}]
)
def test_an_unusual_tiff_that_is_damaged_or_cut_short_is_refused(read, tmp_path, options):
    path = tmp_path / "y_1.tif"
    tifffile.imwrite(path, pixels_of("u2"), photometric="minisblack", metadata=None, **options)
    raw = path.read_bytes()
    rng = np.random.default_rng(1)

    for length in range(0, len(raw) - 20, len(raw) // 40):
        with pytest.raises(FrameError):
            read(raw[:length])
    for _ in range(150):
        damaged = bytearray(raw)
        for position in rng.integers(0, 250, 4):
            damaged[position] = rng.integers(0, 256)
        try:
            frame = read(bytes(damaged), shape=(45, 70))
        except FrameError:
            continue
        assert frame.shape == (45, 70)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_packed_tiff_is_read(tmp_path, make_tiff, make_counts, pack):
    path = tmp_path / f"x_1.tif.{'gz' if pack is gzip.compress else 'bz2'}"
    path.write_bytes(pack(make_tiff(make_counts(1))))

    np.testing.assert_array_equal(read_frame(path, number=0).counts, make_counts(1))
    assert read_head(path).header["wavelength"] == 0.6889
