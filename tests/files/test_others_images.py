"""Image files of others, adopted where they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from runs import counts_of

from offbragg.catalog.readable import Readable
from offbragg.errors import CatalogError, ConfigError, DamagedFrame, ScanFileError
from offbragg.files.adopted import Piece, Pieces
from offbragg.files.adopted_images import name_of
from offbragg.files.scan_file import ScanFile
from offbragg.recovery.verify import verify
from offbragg.workflows.adopt import adopt
from sim_iocs.cbf import encode_cbf

SHAPE = (40, 50)
COUNTS = np.stack([counts_of(n, SHAPE) for n in range(6)])
GIVEN = {"oscillation_axis": "phi", "start_angle": 0.0, "angle_increment": 0.1}


def header(start: float) -> list[str]:
    return [
        "Exposure_time 0.0970000 s", "Exposure_period 0.1000000 s", "Oscillation_axis PHI, CW",
        f"Start_angle {start:.4f} deg.", "Angle_increment 0.1000 deg.",
    ]  # fmt: skip


def stack_of_qm2(folder: Path) -> Path:
    """A temperature of QM2: ``stack1_1`` is its first rotation, frames from 0 on."""
    folder.mkdir(parents=True)
    for n, counts in enumerate(COUNTS):
        raw = encode_cbf(counts, header=header(0.1 * n), name=f"x_{n:04d}")
        (folder / f"x_{n:04d}.cbf").write_bytes(raw)
    return folder


def test_a_folder_of_cbf_is_adopted_with_what_its_headers_say(tmp_path):
    folder = stack_of_qm2(tmp_path / "100" / "stack1_1")
    (folder / "x_0003.cbf").unlink()
    out = tmp_path / "f1.h5"
    adopt(folder, out, sample="x")
    with ScanFile.open(out) as scan:
        sweep = scan.sweep
        assert (sweep.axis, sweep.step, sweep.exposure, sweep.n_frames) == ("phi", 0.1, 0.097, 6)
        assert scan.ledger.counts()["missing"] == 1
        assert scan.ledger.reasons[3].startswith("x_0003.cbf was not there")
        assert scan.frame_row(4)["source"] == "x_0004.cbf"
        np.testing.assert_array_equal(scan.stack.counts[4:], COUNTS[4:])
        assert scan.damage().frames == ()
    assert verify(out).problems == []
    (folder / "x_0005.cbf").write_bytes((folder / "x_0004.cbf").read_bytes())
    (folder / "x_0001.cbf").unlink()
    with ScanFile.open(out) as scan:
        assert scan.damage().frames == (1, 5)
        with pytest.raises(DamagedFrame, match="frame 5 has changed"):
            scan.stack.counts[5]


def test_what_headers_of_tiff_do_not_say_is_asked_for(tmp_path):
    folder = tmp_path / "tiffs"
    folder.mkdir()
    for n, counts in enumerate(COUNTS):
        tifffile.imwrite(folder / f"y{n + 7}_a.tif", counts.astype(np.int32))
    with pytest.raises(ConfigError, match="--axis, --start, --step, --exposure, --sample"):
        adopt(folder, tmp_path / "f1.h5")
    adopt(folder, tmp_path / "f1.h5", sample="x", given={**GIVEN, "exposure_time": 0.1})
    with ScanFile.open(tmp_path / "f1.h5") as scan:
        np.testing.assert_array_equal(scan.stack.counts[:], COUNTS)


@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}, {"bigtiff": True}])
@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_the_pages_of_a_tiff_are_frames(tmp_path, how, kind):
    counts = np.clip(COUNTS, 0, 60000).astype(kind)
    with tifffile.TiffWriter(tmp_path / "x.tif", bigtiff=how.get("bigtiff", False)) as file:
        for one in counts:
            file.write(one, contiguous=False, compression=how.get("compression"), metadata=None)
    out = tmp_path / "f1.h5"
    adopt(tmp_path / "x.tif", out, sample="x", given={**GIVEN, "exposure_time": 0.1})
    with ScanFile.open(out) as scan:
        np.testing.assert_array_equal(scan.stack.counts[:], counts)
        assert scan.damage().frames == ()
        assert scan.start["detector"].get("saturation") == (65535 if kind is np.uint16 else None)


@pytest.mark.parametrize("kind", ["files", "pages"])
def test_a_server_reads_images_below_its_roots_only(tmp_path, kind):
    folder = tmp_path / "others" / "a"
    if kind == "files":
        stack_of_qm2(folder)
        piece = Piece("x_{:04d}.cbf", "", 0, 6, 0, "files")
    else:
        folder.mkdir(parents=True)
        tifffile.imwrite(folder / "x.tif", COUNTS, photometric="minisblack")
        piece = Piece("x.tif", "", 0, 6, 0, "pages")
    room = np.empty(SHAPE, np.int32)
    Pieces(folder, [piece], SHAPE, Readable([tmp_path / "others"]).open).read(4, room)
    np.testing.assert_array_equal(room, COUNTS[4])
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(CatalogError, match="leads out of what may be served"):
        Pieces(folder, [piece], SHAPE, Readable([tmp_path / "elsewhere"]).open).read(4, room)


@pytest.mark.parametrize("template", ["x.cbf", "{}", "x_{:04d}_{:04d}.cbf", "{0.__class__}{:04d}"])
def test_a_template_is_a_name_with_one_number(template):
    with pytest.raises(ScanFileError, match="has not one number"):
        name_of(template, 1)


def test_a_folder_has_no_datasets(tmp_path):
    folder = stack_of_qm2(tmp_path / "a")
    with pytest.raises(ConfigError, match="is not an HDF5 file"):
        adopt(folder, tmp_path / "f1.h5", dataset="/a/b", sample="x")


def test_files_of_two_sweeps_are_refused(tmp_path):
    folder = stack_of_qm2(tmp_path / "a")
    raw = encode_cbf(COUNTS[5], header=header(77.0), name="x_0005")
    (folder / "x_0005.cbf").write_bytes(raw)
    with pytest.raises(ConfigError, match=r"1 of 6 files .* are of another sweep"):
        adopt(folder, tmp_path / "f1.h5", sample="x")
