"""Virtual datasets and links of others: each frame is found where it lies, in the folder or not."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from offbragg.errors import ConfigError, ScanFileError
from offbragg.files.others import find_frames
from offbragg.files.scan_file import ScanFile
from offbragg.workflows.adopt import adopt

SHAPE = (4, 5)
COUNTS = np.arange(10 * 20, dtype=np.uint32).reshape(10, *SHAPE)
GIVEN = {
    "oscillation_axis": "omega",
    "start_angle": 0.0,
    "angle_increment": 0.5,
    "exposure_time": 0.1,
}


def part(path: Path, counts: np.ndarray, dataset: str = "data") -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset(dataset, data=counts, chunks=(1, *SHAPE))


def nexgen(folder: Path, *, name: str = "x_{:06d}.h5", offset: int = 0) -> Path:
    """Write what nexgen 0.11 writes: links to data files, and a virtual dataset of these links."""
    for i in range(3):
        part(folder / f"x_{i + 1:06d}.h5", COUNTS[4 * i : 4 * i + 4])
    layout = h5py.VirtualLayout((10 - offset, *SHAPE), np.uint32)
    for i, (first, stop) in enumerate([(0, 4), (4, 8), (8, 10)]):
        source = h5py.VirtualSource(
            ".", f"/entry/data/data_{i + 1:06d}", shape=(stop - first, *SHAPE)
        )
        begin = max(first, offset)
        if begin < stop:
            layout[begin - offset : stop - offset] = source[begin - first :]
    path = folder / "x.nxs"
    with h5py.File(path, "w") as file:
        for i in range(3):
            file[f"/entry/data/data_{i + 1:06d}"] = h5py.ExternalLink(name.format(i + 1), "data")
        file.create_virtual_dataset("/entry/data/data", layout)
        turn = file.create_dataset("/entry/data/omega", data=10.0 + 0.5 * np.arange(10 - offset))
        turn.attrs.update({"transformation_type": "rotation", "units": "deg"})
        file["/entry/instrument/detector/count_time"] = 0.1
    return path


def adopted(path: Path, dataset: str | None = None, **more) -> np.ndarray:
    out = path.parent / "thin" / "f1.h5"
    adopt(path, out, dataset=dataset, sample="x", **more)
    with ScanFile.open(out) as scan:
        assert scan.damage().frames == ()
        return scan.stack.counts[:]


@pytest.mark.parametrize("offset", [0, 3, 5])
@pytest.mark.parametrize("dataset", [None, "/entry/data/data"])
def test_what_nexgen_writes_is_adopted(tmp_path, dataset, offset):
    if dataset is None and offset:
        pytest.skip("the links have all frames")
    path = nexgen(tmp_path, offset=offset)
    found = find_frames(path, dataset)
    assert found.header["oscillation_axis"] == "omega"
    assert (found.header["start_angle"], found.header["angle_increment"]) == (10.0, 0.5)
    np.testing.assert_array_equal(adopted(path, dataset), COUNTS[offset:])


def test_frames_of_two_writers_that_took_turns_are_put_in_order(tmp_path):
    """As Odin writes them: each process has every other frame."""
    layout = h5py.VirtualLayout((10, *SHAPE), np.uint32)
    for i in range(2):
        part(tmp_path / f"w{i}.h5", COUNTS[i::2], "/entry/data")
        layout[i::2] = h5py.VirtualSource(f"w{i}.h5", "/entry/data", shape=(5, *SHAPE))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_virtual_dataset("/entry_0000/measurement/data", layout)
    np.testing.assert_array_equal(adopted(tmp_path / "x.h5", given=GIVEN), COUNTS)


def test_what_no_file_holds_is_missing_and_not_zero(tmp_path):
    """HDF5 reads it as zeros."""
    layout = h5py.VirtualLayout((12, *SHAPE), np.uint32)
    for i, file in enumerate(("a.h5", "b.h5")):
        part(tmp_path / file, COUNTS[5 * i : 5 * i + 5])
        layout[6 * i : 6 * i + 5] = h5py.VirtualSource(file, "data", shape=(5, *SHAPE))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_virtual_dataset("/1.1/measurement/eiger", layout)
    (tmp_path / "b.h5").unlink()
    read = adopted(tmp_path / "x.h5", "/1.1/measurement/eiger", given=GIVEN)
    np.testing.assert_array_equal(read[:5], COUNTS[:5])
    assert (read[5:] == -1).all()
    with ScanFile.open(tmp_path / "thin" / "f1.h5") as scan:
        assert scan.ledger.counts()["missing"] == 7
        assert scan.ledger.reasons[5] == "no adopted file holds it"
        assert scan.ledger.reasons[6].startswith("b.h5 was not there")
        assert scan.ledger.reasons[11] == "no file holds it"


@pytest.mark.parametrize("source", ["../secret.h5", "link.h5"])
def test_no_source_leaves_the_folder(tmp_path, source):
    (tmp_path / "others").mkdir()
    part(tmp_path / "secret.h5", COUNTS)
    (tmp_path / "others" / "link.h5").symlink_to(tmp_path / "secret.h5")
    layout = h5py.VirtualLayout(COUNTS.shape, np.uint32)
    layout[:] = h5py.VirtualSource(source, "data", shape=COUNTS.shape)
    with h5py.File(tmp_path / "others" / "x.h5", "w") as file:
        file.create_virtual_dataset("/entry/data/data", layout)
    with pytest.raises(ScanFileError, match="leads out of the adopted folder"):
        find_frames(tmp_path / "others" / "x.h5")


def test_links_in_circles_are_refused(tmp_path):
    for one, other in ("ab", "ba"):
        with h5py.File(tmp_path / f"{one}.h5", "w") as file:
            file["/entry/data/data"] = h5py.ExternalLink(f"{other}.h5", "/entry/data/data")
    with pytest.raises(ScanFileError, match="leads in circles"):
        find_frames(tmp_path / "a.h5")


def test_a_virtual_dataset_of_parts_of_frames_is_refused(tmp_path):
    part(tmp_path / "a.h5", COUNTS)
    layout = h5py.VirtualLayout((10, 8, 5), np.uint32)
    for i in range(2):
        layout[:, 4 * i : 4 * i + 4] = h5py.VirtualSource("a.h5", "data", shape=COUNTS.shape)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_virtual_dataset("/entry/data/data", layout)
    with pytest.raises(ScanFileError, match="not made of whole frames"):
        find_frames(tmp_path / "x.h5")


def test_a_virtual_dataset_of_very_many_frames_is_refused_before_they_are_listed(tmp_path):
    n = 3_000_000
    layout = h5py.VirtualLayout((n, *SHAPE), np.uint32)
    layout[:] = h5py.VirtualSource("a.h5", "data", shape=(n, *SHAPE))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_virtual_dataset("/entry/data/data", layout)

    tracemalloc.start()
    try:
        with pytest.raises(ScanFileError, match=r"3,000,000 frames or more: at most 1,000,000"):
            find_frames(tmp_path / "x.h5")
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_two_axes_that_turn_are_asked_for(tmp_path):
    path = nexgen(tmp_path)
    with h5py.File(path, "r+") as file:
        turn = file.create_dataset("/entry/sample/transformations/phi", data=np.arange(10.0))
        turn.attrs.update({"transformation_type": "rotation", "units": "deg"})
    with pytest.raises(ConfigError, match=r"--axis, --start, --step\."):
        adopt(path, tmp_path / "f1.h5", sample="x")
