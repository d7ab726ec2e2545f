from __future__ import annotations

import bz2
import gzip
import resource
import struct
import time

import fabio
import numpy as np
import pytest

from offbragg.errors import FrameError, IncompleteFrame, RejectedFrame
from offbragg.files import read_frame
from offbragg.files.cbf import content_md5, declared_md5, parse_minicbf_header


@pytest.fixture
def read(tmp_path):
    def read(raw: bytes, *, number: int = 0, shape=None, name: str = "x_00000.cbf"):
        path = tmp_path / name
        path.write_bytes(raw)
        return read_frame(path, number=number, shape=shape)

    return read


def test_pixels_checksum_and_header_of_a_file(read, make_cbf, make_counts):
    counts = make_counts(3)
    raw = make_cbf(counts)

    frame = read(raw, number=3, shape=(20, 30))

    np.testing.assert_array_equal(frame.counts, counts)
    assert frame.counts.dtype == np.int32
    assert frame.number == 3
    assert frame.verified
    assert frame.md5 == content_md5(counts)
    assert frame.header["wavelength"] == 0.6889
    assert frame.header["distance"] == 160.0
    assert frame.header["beam_xy"] == [15.5, 10.25]
    assert frame.header["exposure_time"] == 0.097
    assert frame.header["exposure_period"] == 0.1
    assert frame.header["start_angle"] == 10.0
    assert frame.header["oscillation_axis"] == "PHI"
    assert frame.header["sensor_thickness"] == pytest.approx(0.45)
    assert frame.header["date"] == "2026-03-05T09:01:45.613"
    assert frame.header["pixel_size"] == pytest.approx([0.172, 0.172])


def test_what_fabio_writes_is_read(tmp_path, make_counts):
    path = tmp_path / "fabio.cbf"
    fabio.cbfimage.CbfImage(data=make_counts(1)).write(str(path))

    frame = read_frame(path, number=0)

    np.testing.assert_array_equal(frame.counts, make_counts(1))
    assert frame.verified


def test_extreme_counts_need_64_bit_steps(read, make_cbf):
    counts = np.array([[2**31 - 1, -(2**31)], [0, 2**31 - 1]], np.int32)

    np.testing.assert_array_equal(read(make_cbf(counts)).counts, counts)


def test_a_file_cut_anywhere_is_incomplete(read, make_cbf, make_counts):
    raw = make_cbf(make_counts(0))
    end_of_pixels = len(raw) - 4095 - 2 - len(b"--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n\r\n")

    for length in range(0, end_of_pixels):
        with pytest.raises(IncompleteFrame):
            read(raw[:length])

    assert read(raw[:end_of_pixels]).verified


def test_without_checksum_the_end_must_be_there(read, make_cbf, make_counts):
    raw = make_cbf(make_counts(0), md5=False)

    frame = read(raw)
    assert frame.md5 is None
    assert not frame.verified
    for cut in (40, 2000, 4100, 4200):
        with pytest.raises(IncompleteFrame):
            read(raw[:-cut])


def test_any_flipped_bit_of_the_pixels_is_rejected(read, make_cbf, make_counts):
    raw = make_cbf(make_counts(0))
    first = raw.index(b"\x0c\x1a\x04\xd5") + 4
    last = raw.index(bytes(4095))
    rng = np.random.default_rng(0)

    for position, bit in zip(rng.integers(first, last, 200), rng.integers(0, 8, 200), strict=True):
        damaged = bytearray(raw)
        damaged[position] ^= 1 << bit
        with pytest.raises(RejectedFrame, match="checksum"):
            read(bytes(damaged))


def test_a_file_filled_from_zeros_is_incomplete_until_its_end_is_there(read, make_cbf, make_counts):
    raw = make_cbf(make_counts(0))
    half = raw.index(b"\x0c\x1a\x04\xd5") + 100

    with pytest.raises(IncompleteFrame, match="being written"):
        read(raw[:half] + bytes(len(raw) - half))


@pytest.mark.parametrize("shape", [(30, 20), (20, 31), (1, 600), (195, 487)])
def test_another_shape_is_rejected_by_name(read, make_cbf, make_counts, shape):
    with pytest.raises(RejectedFrame, match=r"frame 5: x_00000\.cbf has 20 rows × 30 columns"):
        read(make_cbf(make_counts(0)), number=5, shape=shape)


@pytest.mark.parametrize(
    ("promises", "message"),
    [
        ({"Number_of_Elements": 10**12}, "claims 1000000000000 pixels"),
        (
            {
                "Number_of_Elements": 10**12,
                "Size_Fastest_Dimension": 10**6,
                "Size_Second_Dimension": 10**6,
            },
            "believed",
        ),
        ({"Number_of_Elements": 599}, "claims 599 pixels"),
        ({"Size_Fastest_Dimension": 0, "Number_of_Elements": 0}, "claims 0 pixels"),
        ({"Size_Fastest_Dimension": None}, "does not say"),
        ({"Size_Fastest_Dimension": "-30"}, "does not say"),
        ({"Size": 10**14}, "that cannot be"),
        ({"Size": 5}, "that cannot be"),
        ({"Size": "9" * 5000}, "does not say"),
        ({"Size": None}, "does not say"),
        ({"Element_Type": '"unsigned 16-bit integer"'}, "type"),
    ],
)
def test_lies_about_its_size_are_refused_before_allocation(
    read, make_cbf, make_counts, promises, message
):
    raw = make_cbf(make_counts(0), **promises)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()

    with pytest.raises(RejectedFrame, match=message):
        read(raw)

    assert time.perf_counter() - began < 0.5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize("md5", [True, False])
@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"\x01" * 599 + b"\x80", "600 pixels"),
        (b"\x01" * 601, "600 pixels"),
        (b"\x01" * 601 + b"\x80", "600 pixels"),
        (b"\x01" * 597 + b"\x80\x01", "600 pixels"),
        (b"\x01" * 598 + b"\x80\x00\x80\x01\x01", "600 pixels"),
        (b"\x80\x00\x80\xff\xff\xff\x7f" + b"\x7f" * 599, "32 bits"),
        (b"\x80\x00\x80\x00\x00\x00\x80" + struct.pack("<q", 2**40) + b"\x00" * 599, "32 bits"),
        (b"\x00" * 599 + b"\x80\x00\x80\x00\x00\x00\x80\x01", "32 bits|600 pixels"),
    ],
)
def test_pixels_that_do_not_decode_to_what_is_claimed_are_rejected(
    read, make_cbf, make_counts, stream, message, md5
):
    with pytest.raises(RejectedFrame, match=message):
        read(make_cbf(make_counts(0), stream=stream, md5=md5))


@pytest.mark.parametrize("declared", ["nonsense", "AAAA", "WJ+xxsiUxrAgcDo0PSzCoA==" * 9])
def test_a_checksum_that_is_none_is_rejected(read, make_cbf, make_counts, declared):
    with pytest.raises(RejectedFrame, match="MD5"):
        read(make_cbf(make_counts(0), md5=declared))


@pytest.mark.parametrize(
    "header",
    [
        "",
        "# Wavelength nan A\n# Detector_distance inf m\n# Beam_xy (nan, 1) pixels",
        "# Wavelength 1e400 A\n# Start_angle (nil)\n# Oscillation_axis (nil)",
        "# Wavelength  A\n# Beam_xy 1 2\n# Exposure_time\n# Tau = ",
        "# Detector: Pilatus d\xe9tecteur \xb5 \xff\n# Wavelength --1 A",
        "# Wavelength " + "9" * 5000 + " A",
        "#" * 100_000,
        "# x\n" * 1_300_000,
        ";\n_array_data.data\n;\n",
    ],
)
def test_a_nonsense_header_costs_its_fields_and_not_the_pixels(read, make_cbf, make_counts, header):
    frame = read(make_cbf(make_counts(0), header=header))

    np.testing.assert_array_equal(frame.counts, make_counts(0))
    assert frame.verified
    for key in ("wavelength", "distance", "beam_xy", "start_angle", "oscillation_axis"):
        assert key not in frame.header


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_line_ends_and_old_headers(read, make_cbf, make_counts, newline):
    header = "# Exposure_time: 0.5 s\n# Threshold_setting 9000 eV\n# Energy_range (0, 0) eV"

    frame = read(make_cbf(make_counts(0), header=header, newline=newline))

    assert frame.header["exposure_time"] == 0.5
    assert frame.header["threshold"] == 9.0
    assert frame.header["energy_range"] == [0.0, 0.0]


def test_nothing_is_invented():
    assert parse_minicbf_header("") == {}


@pytest.mark.parametrize("raw", [b"II*\0" + b"x" * 100, b"<html>404</html>", b"\0" * 10_000])
def test_another_kind_of_file_is_rejected(read, raw):
    with pytest.raises(RejectedFrame, match="is not a CBF file"):
        read(raw)


def test_a_header_without_end_is_refused(read):
    with pytest.raises(RejectedFrame, match="no pixels in its first"):
        read(b"###CBF: VERSION 1.5" + b"# \r\n" * 5_000_000)


def test_an_unknown_suffix_and_no_file(read, tmp_path):
    with pytest.raises(RejectedFrame, match=r"\.edf"):
        read(b"", name="x.edf")
    with pytest.raises(FileNotFoundError):
        read_frame(tmp_path / "not_there.cbf", number=0)


def test_random_damage_never_crashes(read, make_cbf, make_counts):
    raw = make_cbf(make_counts(0))
    rng = np.random.default_rng(1)

    for _ in range(300):
        damaged = bytearray(raw)
        for position in rng.integers(0, len(raw) - 4200, 5):
            damaged[position] = rng.integers(0, 256)
        try:
            frame = read(bytes(damaged), shape=(20, 30))
        except FrameError:
            continue
        assert not frame.verified or np.array_equal(frame.counts, make_counts(0))


def test_no_amount_of_text_hides_what_a_header_says():
    lines = "# Start_angle 12.5000 deg.\n# Angle_increment 0.1000 deg.\n# 2016/Mar/05 09:01:45.613"

    for text in ("# nothing\n" * 100_000, "_nothing 1\n" * 100_000, "#" * 1_000_000 + "\n"):
        header = parse_minicbf_header(text + lines)

        assert (header["start_angle"], header["angle_increment"]) == (12.5, 0.1)
        assert header["date"] == "2016/Mar/05 09:01:45.613"


def test_headers_with_the_same_lines_are_not_the_same_object():
    text = "# Beam_xy (730.00, 865.00) pixels\n# Pixel_size 172e-6 m x 172e-6 m"
    first = parse_minicbf_header(text)

    first["beam_xy"][0] = first["pixel_size"][1] = 0.0

    second = parse_minicbf_header(text)
    assert second["beam_xy"] == [730.0, 865.0]
    assert second["pixel_size"] == pytest.approx([0.172, 0.172])


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_packed_bomb_takes_no_memory(tmp_path, make_cbf, make_counts, pack):
    packing = "gz" if pack is gzip.compress else "bz2"
    whole, bomb = tmp_path / f"x_0.cbf.{packing}", tmp_path / f"x_1.cbf.{packing}"
    whole.write_bytes(pack(make_cbf(make_counts(0))))
    lie = make_cbf(
        make_counts(0), Number_of_Elements=1 << 26, Size_Fastest_Dimension=1 << 13,
        Size_Second_Dimension=1 << 13, Size=900 << 20,
    )  # fmt: skip
    bomb.write_bytes(pack(lie + bytes(100 << 20)))
    np.testing.assert_array_equal(read_frame(whole, number=0).counts, make_counts(0))
    assert declared_md5(whole) == content_md5(make_counts(0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(RejectedFrame, match="at most 268435456 are believed"):
        read_frame(bomb, number=1)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # kB
