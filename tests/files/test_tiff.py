from __future__ import annotations

import fabio
import numpy as np
import pytest

from offbragg.errors import FrameError, IncompleteFrame, RejectedFrame
from offbragg.files import read_frame


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
        ({"bits": 16}, "bits per pixel 16"),
        ({"compression": 5}, "compression 5"),
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
    with pytest.raises(RejectedFrame, match="no TIFF file"):
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
