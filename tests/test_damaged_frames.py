"""Frames whose chunks have changed since they were stored: named, left out or refused, never used.

HDF5 decodes most flipped bits without a word, so every reader compares a chunk with its CRC-64.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from measured import AS_SIMULATED, Measured
from typer.testing import CliRunner

from offbragg.cli.app import app
from offbragg.errors import DamagedFrame, ReductionError, ScanFileError
from offbragg.files import scan_layout
from offbragg.files.hdf5 import LIBVER
from offbragg.files.scan_file import ScanFile
from offbragg.files.stored_sweep import places_of_chunks
from offbragg.files.volume_file import VolumeFile
from offbragg.reduction.reduce import ReductionSetup
from offbragg.workflows.choices import Choices
from offbragg.workflows.reduce import reduce_files
from offbragg.workflows.reproduce import reproduce

CHOICES = Choices(step=0.1, corrections=AS_SIMULATED, background="none")
TYPED = ["--grid", "-3:1:0.1,-1:2:0.1,-3:1:0.1", "--background", "none"]


@pytest.fixture(scope="module")
def sweep() -> Measured:
    return Measured(n_frames=8, step=2.0, temperature=100.0)


@pytest.fixture
def path(tmp_path, sweep) -> Path:
    return sweep.write(tmp_path / "perovskite" / "c1" / "100K")


def flip(path: Path, *frames: int, at: float = 0.5) -> None:
    """Flip one bit in the chunks of some frames."""
    with ScanFile.open(path) as scan:
        places = places_of_chunks(scan._get(scan_layout.DATA))
    with path.open("r+b") as file:
        for offset, size in (places[n] for n in frames):
            where = offset + int(size * at)
            file.seek(where)
            (octet,) = file.read(1)
            file.seek(where)
            file.write(bytes([octet ^ 1]))


def same_counts(one, other) -> bool:
    return np.array_equal(one.counts, other.counts) and np.array_equal(one.weight, other.weight)


def test_a_stack_raises_for_the_damaged_frame_and_reads_the_others(path, sweep):
    flip(path, 3)
    with ScanFile.open(path) as scan:
        stack = scan.stack

        np.testing.assert_array_equal(stack.counts[2], sweep.counts[2])
        np.testing.assert_array_equal(stack.counts[4:7, 3], sweep.counts[4:7, 3])
        np.testing.assert_array_equal(stack[4:6].counts[-1, ..., 5], sweep.counts[5, :, 5])
        for asked in (3, slice(2, 5), slice(None), (slice(1, None, 2), 0), (3, 1, 1), ...):
            with pytest.raises(DamagedFrame, match=r"frame 3 of .*f1\.h5") as raised:
                _ = stack.counts[asked]
            assert raised.value.number == 3
        assert list(scan.damage().frames) == [3]


def test_a_damaged_frame_is_left_out_of_a_volume_and_named(path, tmp_path, sweep):
    flip(path, 3, 6, at=0.3)
    messages: list[str] = []

    volume = reduce_files(path, CHOICES, out=tmp_path / "v.h5", say=messages.append)

    intact = sweep.write(tmp_path / "intact", without=(3, 6))
    assert same_counts(volume, reduce_files(intact, CHOICES))
    (warning,) = (line for line in messages if "WARNING" in line)
    assert "2 of 8 stored frames are damaged and left out: 3, 6" in warning
    with VolumeFile(tmp_path / "v.h5") as file:
        assert file.record["inputs"][0]["damaged"] == [3, 6]
        assert file.record["inputs"][0]["frames"] == 6
    assert reproduce(tmp_path / "v.h5").same


def test_python_warns_without_being_asked(path):
    flip(path, 1)

    with pytest.warns(UserWarning, match="1 of 8 stored frames is damaged and left out: 1"):
        reduce_files(path, CHOICES)
    with pytest.raises(ReductionError, match="1 of 8 stored frames is damaged: 1"):
        reduce_files(path, replace(CHOICES, refuse_damaged=True))


def test_frames_of_the_background_are_checked_too(path, tmp_path, sweep):
    air = Measured(n_frames=6, step=2.0, crystal_in=False, series=1)
    air_path = air.write(path.parent, name="air.h5")
    expected = reduce_files(path, replace(CHOICES, background=str(air_path)))
    flip(air_path, 2)
    messages: list[str] = []

    volume = reduce_files(path, replace(CHOICES, background=str(air_path)), say=messages.append)

    assert any(
        "air.h5: WARNING: 1 of 6 stored frames is damaged and left out: 2" in s for s in messages
    )
    assert np.array_equal(volume.counts, expected.counts)
    assert not np.array_equal(volume.background, expected.background)
    with pytest.raises(ReductionError, match=r"air\.h5: 1 of 6"):
        reduce_files(path, replace(CHOICES, background=str(air_path), refuse_damaged=True))


def test_at_the_command_line(path):
    flip(path, 5)
    runner = CliRunner()

    done = runner.invoke(app, ["reduce", str(path), *TYPED])
    asked = runner.invoke(app, ["reduce", str(path), *TYPED, "--refuse-damaged"])

    assert done.exit_code == 0, done.output
    assert "f1.h5: WARNING: 1 of 8 stored frames is damaged and left out: 5" in done.output
    assert isinstance(asked.exception, ReductionError)
    assert "offbragg stack --once --repair" in str(asked.exception)


def test_a_file_without_one_intact_frame_is_refused(path):
    flip(path, *range(8))

    with pytest.raises(ReductionError, match="none of 8 stored frames is intact"):
        reduce_files(path, CHOICES, say=lambda text: None)


def test_what_changed_outside_the_frames_is_reported(path):
    """An angle, or the monitor of a frame, has no checksum of its own: the file's digest has."""
    with ScanFile.open(path) as scan:
        where = scan._column("monitor").id.get_offset() + 8 * 4 + 6
    with path.open("r+b") as file:
        file.seek(where)
        (octet,) = file.read(1)
        file.seek(where)
        file.write(bytes([octet ^ 1]))

    with pytest.warns(UserWarning, match="changed since it was closed, outside its frames"):
        reduce_files(path, CHOICES)
    with pytest.raises(ReductionError, match="outside its frames"):
        reduce_files(path, replace(CHOICES, refuse_damaged=True))


def test_an_intact_file_gives_no_warning_also_without_checksums_or_digest(path, tmp_path, sweep):
    volume = reduce_files(path, CHOICES)
    path.with_name("f1.h5.digest").unlink()
    (tmp_path / "old").mkdir()
    old = tmp_path / "old" / "f1.h5"
    shutil.copyfile(path, old)
    with h5py.File(old, "r+", libver=LIBVER) as file:
        del file["entry/frames/crc64"], file["entry/frames"].attrs["columns"]
    messages: list[str] = []

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_counts(reduce_files(path, CHOICES), volume)
        assert same_counts(reduce_files(old, CHOICES, say=messages.append), volume)
    assert any("8 frames were written by a version without stored checksums" in s for s in messages)


def test_one_that_is_damaged_while_it_is_reduced_is_not_used(path, monkeypatch):
    """It is compared as it is read, not only before."""
    made = ReductionSetup.binner

    def damaging(self):
        flip(path, 4)
        return made(self)

    monkeypatch.setattr(ReductionSetup, "binner", damaging)

    with pytest.raises(ScanFileError, match="frame 4 of"):
        reduce_files(path, CHOICES)


def test_any_bit_of_a_chunk_is_noticed(path, sweep):
    """Also those in LZ4's literals, which decode to other counts without an error."""
    rng = np.random.default_rng(15)
    with ScanFile.open(path) as scan:
        offset, size = places_of_chunks(scan._get(scan_layout.DATA))[2]
    whole = path.read_bytes()
    silent = 0
    for _ in range(60):
        where, bit = offset + int(rng.integers(size)), int(rng.integers(8))
        raw = bytearray(whole)
        raw[where] ^= 1 << bit
        path.write_bytes(raw)
        with ScanFile.open(path) as scan:
            with pytest.raises(DamagedFrame):
                _ = scan.stack.counts[2]
            with contextlib.suppress(OSError):
                silent += not np.array_equal(scan._get(scan_layout.DATA)[2], sweep.counts[2])
    assert silent > 30  # what HDF5 alone would have given


def test_peaks_are_not_looked_for_in_a_damaged_frame(tmp_path):
    from test_orient import scan_file

    from offbragg.errors import OrientationError
    from offbragg.workflows.index import find_orientation

    path = scan_file(tmp_path / "KMnF3" / "x1" / "300K")
    flip(path, 20, 40)
    runner = CliRunner()

    done = runner.invoke(app, ["index", str(path), "--no-picture", "--json"])

    assert done.exit_code == 0, done.output
    warnings = json.loads(done.output)["residuals"]["warnings"]
    assert "f1.h5: 2 of 59 stored frames are damaged and left out: 20, 40" in warnings
    with pytest.raises(OrientationError, match="2 of 59 stored frames are damaged: 20, 40"):
        find_orientation([path], picture=False, refuse_damaged=True)
