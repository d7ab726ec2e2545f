"""Files appear whole or not at all, and nothing of them is left, whatever ends their maker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from faulty_disks import SmallDisk, needs_mount

from offbragg.files import draft as drafts
from offbragg.files.draft import draft, new_hdf5

WRITE = """
import os, sys
from pathlib import Path
import numpy as np
from offbragg.errors import ReductionError
from offbragg.files import draft
from offbragg.files.volume_writer import write_volume
from offbragg.volume import Grid, Volume
folder, how, *sizes = sys.argv[1:]
if "named" in how:
    del os.O_TMPFILE
if "killed" in how:
    def killed(made, **options):
        made.write(b"half")
        print(os.listdir(folder), flush=True)
        os.kill(os.getpid(), 9)
    draft.hdf5_in = killed
grid = Grid((0, 0, 0), (60, 60, 60), (10, 10, 10))
rng = np.random.default_rng(0)
volume = Volume(rng.random(grid.shape), rng.random(grid.shape), grid)
for size in map(int, sizes or ["0"]):
    ballast = Path(folder) / "ballast"
    if size:  # bytes to leave free
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_bsize
        ballast.write_bytes(bytes(free - size))
    try:
        write_volume(Path(folder) / "v.h5", volume, {"inputs": []})
        print("written")
        os.unlink(Path(folder) / "v.h5")
    except ReductionError as error:
        print(str(error).partition(chr(10))[0])
    ballast.unlink(missing_ok=True)
"""


def write(folder: Path, *how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WRITE, str(folder), *how], capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip


@needs_mount
def test_a_full_disk_is_an_error_and_hdf5_survives_it(tmp_path):
    """Wherever the space ends: HDF5 crashed at the end of the process."""
    sizes = [4096 * n for n in (1, 30, 500, 1200)]
    with SmallDisk(tmp_path, 64 << 20):
        done = write(tmp_path, "full", *map(str, [*sizes, 0]))
        left = list(tmp_path.iterdir())

    *failed, last = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(failed) == len(sizes)
    assert all("v.h5 cannot be written: No space left on device" in line for line in failed), failed
    assert last == "written"
    assert left == []
    assert done.stderr == ""


@pytest.mark.parametrize("how", ["killed", "killed named"])
def test_a_killed_maker_leaves_nothing(tmp_path, how):
    done = write(tmp_path, how)
    assert done.returncode == -signal.SIGKILL
    if "named" in how:  # as on NFS
        assert len(list(tmp_path.iterdir())) == 1
    else:
        assert list(tmp_path.iterdir()) == []

    with draft(tmp_path / "next") as made:
        made.write(b"whole")
        made.place()

    assert [path.name for path in tmp_path.iterdir()] == ["next"]
    assert (tmp_path / "next").read_bytes() == b"whole"


@pytest.fixture(params=["unnamed", "named"])
def way(request, monkeypatch) -> str:
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE")
    return request.param


def test_what_somebody_holds_is_not_swept(tmp_path, way):
    with draft(tmp_path / "a") as first, draft(tmp_path / "b") as second:
        drafts.sweep(tmp_path)
        first.write(b"1")
        second.write(b"2")
        first.place()
        second.place(replace=True)
        assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == ["a", "b"]

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_nothing_is_overwritten_unless_it_is_asked_for(tmp_path, way):
    (tmp_path / "a").write_bytes(b"old")

    with pytest.raises(FileExistsError), draft(tmp_path / "a") as made:
        made.place()
    assert (tmp_path / "a").read_bytes() == b"old"
    with draft(tmp_path / "a") as made:
        made.write(b"new")
        made.place(replace=True)
    assert (tmp_path / "a").read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError), new_hdf5(tmp_path / "b") as file:
        file["x"] = 1 / 0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_permissions_are_those_of_any_other_file(tmp_path, way):
    (tmp_path / "other").write_bytes(b"")
    with new_hdf5(tmp_path / "a.h5") as file:
        file["x"] = np.arange(3)

    assert (tmp_path / "a.h5").stat().st_mode == (tmp_path / "other").stat().st_mode
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["x"][2] == 2
