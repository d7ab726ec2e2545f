"""Frames that stay in the HDF5 files of others, read as those of a scan file."""

from __future__ import annotations

from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from measured import AS_SIMULATED, Measured

from offbragg.errors import DamagedFrame, ScanFileError
from offbragg.files.adopted import AdoptedCounts, Piece, path_in
from offbragg.files.adopted_datasets import DatasetFrames, as_counts, open_dataset
from offbragg.files.checked import Rows
from offbragg.files.frame_chunks import FrameChunks
from offbragg.files.nxrefine import write_wrapper
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_layout import ADOPTED
from offbragg.files.thin_scan_file import write_thin_scan_file
from offbragg.recovery.verify import verify
from offbragg.workflows.choices import Choices
from offbragg.workflows.reduce import reduce_to_file

SWEEP = Measured(n_frames=6, step=2.0)


def bare(path: Path, counts: np.ndarray, dataset: str = "/a/b") -> Path:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset(dataset, data=counts, chunks=(1, *counts.shape[1:]), compression=1)
    return path


def adopted(tmp_path: Path, *pieces: Piece) -> Path:
    out = tmp_path / "thin" / "f1.h5"
    pieces = pieces or (Piece("x.h5", "/a/b", 0, 6),)
    values = {"monitor": SWEEP.flux}
    write_thin_scan_file(out, SWEEP.start, tmp_path / "others", pieces, values=values)
    return out


def test_an_adopted_sweep_is_reduced_to_the_same_bits(tmp_path):
    raw = SWEEP.counts.astype(np.uint32)  # as an Eiger has them: −1 is 2³² − 1
    bare(tmp_path / "others" / "x.h5", raw)
    own, thin = SWEEP.write(tmp_path / "own"), adopted(tmp_path)
    volumes = []
    for path in (own, thin):
        out = tmp_path / f"{path.parent.name}-volume.h5"
        choices = Choices(step=0.1, corrections=AS_SIMULATED)
        reduce_to_file([path], choices, out, say=lambda text: None)
        with h5py.File(out) as file:
            volumes.append({n: file[f"entry/data/{n}"][()] for n in file["entry/data"]})
    assert volumes[0].keys() == volumes[1].keys()
    for name, values in volumes[0].items():
        np.testing.assert_array_equal(values, volumes[1][name], err_msg=name)
    with ScanFile.open(thin) as scan:
        assert scan.complete
        np.testing.assert_array_equal(scan.stack.counts[1:3, 5:9], SWEEP.counts[1:3, 5:9])
    assert thin.stat().st_size < own.stat().st_size


def test_a_changed_frame_is_damaged(tmp_path):
    x = bare(tmp_path / "others" / "x.h5", SWEEP.counts)
    thin = adopted(tmp_path)
    assert not verify(thin).problems
    with h5py.File(x, "r+") as file:
        file["/a/b"][3, 7, 7] += 1
    with ScanFile.open(thin) as scan:
        assert scan.damage().frames == (3,)
        with pytest.raises(DamagedFrame, match="frame 3 has changed"):
            scan.stack.counts[3]
    assert verify(thin).problems == ["adopted frame 3 has changed, or is gone"]


def test_verify_reads_a_thin_file_once(tmp_path, monkeypatch):
    bare(tmp_path / "others" / "x.h5", SWEEP.counts)
    thin = adopted(tmp_path)
    monkeypatch.setattr(ScanFile, "damage", None)
    verdict = verify(thin)
    assert (verdict.problems, verdict.checked, verdict.digest) == ([], 6, "agrees")


def test_verify_says_that_a_list_of_pieces_is_malformed(tmp_path):
    bare(tmp_path / "others" / "x.h5", SWEEP.counts)
    sweep = Measured(n_frames=2, step=2.0, start_more={ADOPTED: "2024"})
    verdict = verify(sweep.write(tmp_path / "own"))
    assert "names no adopted frames" in "".join(verdict.problems)
    assert verdict.differ == [0, 1]


def test_nxrefine_gets_no_wrapper_of_frames_that_lie_elsewhere(tmp_path):
    bare(tmp_path / "others" / "x.h5", SWEEP.counts)
    thin = adopted(tmp_path)
    with pytest.raises(ScanFileError, match="frames lie in files of others"):
        write_wrapper(thin)
    assert not list(tmp_path.rglob("*.nxs"))


def test_a_missing_file_makes_its_frames_missing(tmp_path):
    bare(tmp_path / "others" / "x.h5", SWEEP.counts[:3])
    thin = adopted(tmp_path, Piece("x.h5", "/a/b", 0, 3), Piece("y.h5", "/a/b", 3, 6))
    with ScanFile.open(thin) as scan:
        counts, problems = scan.ledger.counts(), scan.ledger.problems()
        assert (scan.stack.counts[4] == -1).all()
    assert (counts["stored"], counts["missing"]) == (3, 3)
    assert "y.h5 was not there" in str(problems)


@pytest.mark.parametrize("how", ["parent", "absolute", "symlink"])
def test_no_piece_leaves_its_folder(tmp_path, how):
    x = bare(tmp_path / "secret.h5", SWEEP.counts)
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "link.h5").symlink_to(x)
    name = {"parent": "../secret.h5", "absolute": str(x), "symlink": "link.h5"}[how]
    with pytest.raises(ScanFileError, match="leads out of the adopted folder"):
        path_in(tmp_path / "others", name)


def test_a_link_in_a_piece_is_refused(tmp_path):
    bare(tmp_path / "others" / "x.h5", SWEEP.counts)
    with h5py.File(tmp_path / "others" / "y.h5", "w") as file:
        file["link"] = h5py.ExternalLink("x.h5", "/a/b")
    with pytest.raises(ScanFileError, match="link to another file"):
        open_dataset(tmp_path / "others" / "y.h5", "link")


def test_a_thin_file_is_not_adopted_again(tmp_path):
    bare(tmp_path / "others" / "x.h5", SWEEP.counts)
    thin = adopted(tmp_path)
    with pytest.raises(ScanFileError, match="is a thin scan file"):
        open_dataset(thin, "/entry/data/data")


@pytest.mark.parametrize("chunks", [None, (1, 195, 487), (4, 195, 487), (5, 50, 100)])
@pytest.mark.parametrize("kind", ["<i4", "<u4", ">u4", "<u2", "<u8"])
def test_frames_are_the_same_however_they_are_stored(tmp_path, chunks, kind):
    (tmp_path / "others").mkdir()
    with h5py.File(tmp_path / "others" / "x.h5", "w") as file:
        packed = {} if chunks is None else {"chunks": chunks, **hdf5plugin.Bitshuffle()}
        raw = SWEEP.counts.astype(kind)
        file.create_dataset("/a/b", data=raw, **packed)
    thin = adopted(tmp_path)
    with ScanFile.open(thin) as scan:
        np.testing.assert_array_equal(scan.stack.counts[:], SWEEP.counts)


def test_damage_is_found_without_decoding(tmp_path, monkeypatch):
    """So a reduction, which looks for damage first, decodes each frame once."""
    bare(tmp_path / "others" / "x.h5", SWEEP.counts)
    thin = adopted(tmp_path)
    monkeypatch.setattr(DatasetFrames, "read", None)
    monkeypatch.setattr(FrameChunks, "decode", None)
    with ScanFile.open(thin) as scan:
        assert scan.damage().frames == ()


def test_what_is_served_reads_no_file_that_it_names(tmp_path):
    bare(tmp_path / "others" / "x.h5", SWEEP.counts)
    thin = adopted(tmp_path)
    with (
        thin.open("rb") as held,
        ScanFile.open(thin, descriptor=held.fileno()) as scan,
        pytest.raises(ScanFileError, match="which the catalog does not read"),
    ):
        _ = scan.stack


@pytest.mark.parametrize("kind", ["<u4", ">u4", "<u8", ">i8"])
def test_counts_beyond_int32_are_refused(kind):
    with pytest.raises(ScanFileError, match="1 pixels have counts beyond int32"):
        as_counts(np.array([2**31, 1], kind))


def test_a_key_of_a_user_adopts_nothing(tmp_path):
    sweep = Measured(n_frames=2, step=2.0, start_more={"adopted": "2024"})
    with ScanFile.open(sweep.write(tmp_path)) as scan:
        assert scan.start["adopted"] == "2024"
        np.testing.assert_array_equal(scan.stack.counts[:], sweep.counts)


@pytest.mark.parametrize(
    "value",
    ["2024", None, {"folder": "."}, {"folder": 1, "pieces": []}, {"folder": ".", "pieces": ["x"]}],
)
def test_a_malformed_list_of_pieces_is_an_error_in_words(value):
    with pytest.raises(ScanFileError, match="names no adopted frames"):
        AdoptedCounts({ADOPTED: value}, (1, 2, 2), Rows(np.array([b"stored"]), None))


def test_a_nul_in_a_name_is_an_error_in_words(tmp_path):
    with pytest.raises(ScanFileError, match=r"x\\x00.h5.* names no file"):
        path_in(tmp_path, "x\0.h5")
