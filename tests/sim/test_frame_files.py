"""CBF and TIFF files of the simulator, read back by programs that are not ours."""

from __future__ import annotations

import base64
import hashlib
import re

import fabio
import numpy as np
import pytest

from sim_iocs.cbf import MAGIC, encode_byte_offset, encode_cbf
from sim_iocs.crystal import module_mask
from sim_iocs.frame_writer import Worker, flip_bit
from sim_iocs.replay import Replay, ReplayRefused
from sim_iocs.tiff import encode_tiff


def decode(binary: bytes) -> list[int]:
    """The format's definition, one difference at a time."""
    counts, value, at = [], 0, 0
    while at < len(binary):
        for width in (1, 2, 4, 8):
            step = int.from_bytes(binary[at : at + width], "little", signed=True)
            at += width
            if step != -(2 ** (8 * width - 1)):
                break
        value += step
        counts.append(value)
    return counts


@pytest.mark.parametrize(
    ("counts", "size"),
    [
        ([0, 127, 0, -127], 4),
        ([128], 3),
        ([0, -128, 0], 1 + 3 + 3),
        ([32767, 0, 32768], 3 + 3 + 7),
        ([-32768], 7),
        ([1048500, -1, -2, 1048500], 7 + 7 + 1 + 7),
        ([2**31 - 1, -(2**31)], 7 + 15),
        ([], 0),
    ],
)
def test_a_difference_takes_1_3_7_or_15_bytes(counts, size):
    binary = encode_byte_offset(np.array(counts, np.int32))

    assert len(binary) == size
    assert decode(binary) == counts


def test_any_counts_survive_the_compression():
    rng = np.random.default_rng(1)
    for reach in (3, 200, 40_000, 2**20, 2**31 - 1):
        counts = rng.integers(-reach, reach, size=3000).astype(np.int32)

        assert decode(encode_byte_offset(counts)) == counts.tolist()


@pytest.fixture
def counts():
    rng = np.random.default_rng(2)
    counts = rng.poisson(3.0, (195, 487)).astype(np.int32)
    counts[10, 10:13] = (1048500, 0, 40000)
    counts[:, 200] = -1
    counts[0, 0] = -2
    return counts


def test_fabio_reads_the_cbf_and_its_md5_is_that_of_the_binary_section(counts, tmp_path):
    content = encode_cbf(counts, name="x_00001", header=["Detector: PILATUS", "Wavelength 0.7 A"])
    (tmp_path / "x_00001.cbf").write_bytes(content)

    image = fabio.open(str(tmp_path / "x_00001.cbf"))

    np.testing.assert_array_equal(image.data, counts)
    assert "# Wavelength 0.7 A" in image.header["_array_data.header_contents"]
    size = int(re.search(rb"X-Binary-Size: (\d+)", content)[1])
    binary = content.split(MAGIC, 1)[1][:size]
    declared = re.search(rb"Content-MD5: (\S+)\r\n", content)[1]
    assert base64.b64decode(declared) == hashlib.md5(binary).digest()


def test_fabio_reads_the_tiff(counts, tmp_path):
    content = encode_tiff(counts, model="PILATUS3 100K", header=["Wavelength 0.7 A"], taken=0.0)
    (tmp_path / "x.tif").write_bytes(content)

    image = fabio.open(str(tmp_path / "x.tif"))

    np.testing.assert_array_equal(image.data, counts)
    assert len(content) == 4096 + counts.nbytes


def test_a_folder_is_replayed_in_name_order_with_its_bytes(counts, tmp_path):
    for i in (2, 1, 3):
        content = encode_cbf(counts + i, name=f"x{i}", header=[])
        (tmp_path / f"x{i}.cbf").write_bytes(content)

    replay = Replay.open(tmp_path)

    assert replay.shape == (195, 487)
    assert [f.name for f in replay.files] == ["x1.cbf", "x2.cbf", "x3.cbf"]
    assert replay.read(2) == (tmp_path / "x3.cbf").read_bytes()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (flip_bit, "declares"),
        (lambda content: content[:5000], "cut off"),
        (lambda content: content[:100], "is not a CBF"),
        (lambda content: b"GIF89a" + content, "is not a CBF"),
        (lambda content: content.replace(b"X-Binary-Size:", b"X-Nothing:"), "X-Binary-Size"),
    ],
)
def test_a_broken_frame_in_the_folder_is_refused_by_its_name(counts, tmp_path, damage, says):
    content = encode_cbf(counts, name="x", header=[])
    (tmp_path / "a.cbf").write_bytes(content)
    (tmp_path / "b.cbf").write_bytes(damage(content))

    with pytest.raises(ReplayRefused, match=says) as refused:
        Replay.open(tmp_path)

    assert str(tmp_path / "b.cbf") in str(refused.value)


def test_frames_of_two_sizes_are_refused(counts, tmp_path):
    (tmp_path / "a.cbf").write_bytes(encode_cbf(counts, name="a", header=[]))
    (tmp_path / "b.cbf").write_bytes(encode_cbf(counts[:100], name="b", header=[]))

    with pytest.raises(ReplayRefused, match=r"b\.cbf: is 100 x 487"):
        Replay.open(tmp_path)


@pytest.mark.parametrize("ending", ["cbf", "tif"])
@pytest.mark.parametrize("gap_fill", [0, -1])
def test_the_gaps_between_modules_are_filled_as_asked(ending, gap_fill, tmp_path):
    worker = Worker({"detector": "300K", "seed": 1})
    task = {
        "path": str(tmp_path / f"x.{ending}"), "number": 0, "taken": 0.0, "model": "PILATUS 300K",
        "header": ["Detector: PILATUS 300K"], "fault": None, "gap_fill": gap_fill,
        "exposure": {"seconds": 0.1},
    }  # fmt: skip
    gaps = module_mask((619, 487))

    worker.write(task)

    counts = fabio.open(task["path"]).data
    assert gaps.sum() == 2 * 17 * 487
    assert np.all(counts[gaps] == gap_fill)
    assert counts[~gaps].min() == -2  # bad pixels stay as they are
    assert counts[~gaps].max() > 0


def test_replayed_pixels_are_not_touched_by_a_gap_fill(counts, tmp_path):
    (tmp_path / "real").mkdir()
    content = encode_cbf(counts, name="a", header=[])
    (tmp_path / "real" / "a.cbf").write_bytes(content)
    worker = Worker({"replay": str(tmp_path / "real")})

    worker.write({"path": str(tmp_path / "x.cbf"), "number": 0, "gap_fill": 0})

    assert (tmp_path / "x.cbf").read_bytes() == content
