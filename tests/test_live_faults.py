"""What happens to a live volume when something around it goes wrong."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from growing import CHOICES, Growing, N, check_equal, live, measured

from offbragg.errors import ReductionError, VolumeWriteError
from offbragg.files.growing_volume import GrowingVolume
from offbragg.files.scan_file import ScanFile
from offbragg.files.volume_file import VolumeFile
from offbragg.followers import live_file, live_volume
from offbragg.plots.planes import plot
from offbragg.workflows.record import GROWING
from offbragg.workflows.why import why


def damage(path: Path, number: int) -> None:
    with ScanFile.open(path) as scan:
        part = scan.chunks()[number]
    with path.open("r+b") as file:
        file.seek(part.offset + part.size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 0x55]))


def test_all_frames_are_added_though_no_file_changes(tmp_path, monkeypatch):
    """More are stored than are added at once, and the sweep stands."""
    monkeypatch.setattr(live_volume, "_AT_ONCE", 3)
    run, following = Growing(tmp_path, measured()), live(tmp_path)
    run.store(*range(N))

    following.run(once=True)

    with VolumeFile(run.path.with_name("live-f1.h5")) as file:
        assert file.record["cells"] == file.record[GROWING]["f1.h5"]["frames"] == N
    run.end()


def test_a_growing_volume_names_the_frames_that_are_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(live_volume, "_AT_ONCE", 3)
    run, following = Growing(tmp_path, measured()), live(tmp_path)
    run.store(*range(N))

    following.advance()

    with VolumeFile(run.path.with_name("live-f1.h5")) as file:
        assert file.record[GROWING]["f1.h5"]["frames"] == 3
    run.end()


def test_a_sweep_that_turns_out_bad_takes_no_volume_away(tmp_path, caplog):
    """The first one is closed, the second joins it, and all of its frames are dark."""
    following, first = live(tmp_path), Growing(tmp_path, measured(0))
    first.store(*range(N))
    path = first.end()
    following.run(once=True)
    second = Growing(tmp_path, measured(1, chi=30.0))
    second.store(0, 1)
    following._next_look = 0.0
    following.run(once=True)
    second.values("weight", [0, 1], [0.0, 0.0])
    second.end(missing=range(2, N))

    following.run(once=True)

    assert "without f2.h5" in caplog.text
    check_equal(path.with_name("live-f1.h5"), [path])


def test_a_disk_that_is_full_for_a_while(tmp_path, monkeypatch):
    run, following = Growing(tmp_path, measured()), live(tmp_path)
    run.store(*range(N))
    following.run(once=True)
    path = run.end()
    finish, full = GrowingVolume.finish, [True]

    def refused(growing, record):
        if full.pop():
            growing._begin()
            raise VolumeWriteError(f"{growing.path} cannot be written: No space left on device")
        finish(growing, record)

    full.insert(0, False)
    monkeypatch.setattr(GrowingVolume, "finish", refused)
    following.run(once=True)
    assert path.with_name("live-f1.h5").exists()
    time.sleep(live_volume._TRY_AGAIN)
    deadline = time.monotonic() + 30
    while not following.volumes[0].closed and time.monotonic() < deadline:
        following.advance()

    check_equal(path.with_name("live-f1.h5"), [path])


def test_a_scan_file_that_goes_away_ends_nothing(tmp_path):
    """And when it is back, the volume goes on."""
    run, following = Growing(tmp_path, measured()), live(tmp_path)
    run.store(*range(N - 1))
    following.run(once=True)
    away = run.path.with_name("away.h5")
    run.path.rename(away)

    following.run(once=True)
    assert "f1.h5" in following.volumes[0].why
    away.rename(run.path)
    run.store(N - 1)
    path = run.end()
    following.run(once=True)

    check_equal(path.with_name("live-f1.h5"), [path])


@pytest.mark.parametrize(("damaged", "count"), [(2, 5), (4, 6)])
def test_a_repeat_that_is_damaged_does_not_stop_the_others(tmp_path, damaged, count):
    sweep = measured()
    sweep.counts[4] = sweep.counts[2]
    run, following = Growing(tmp_path, sweep), live(tmp_path)
    run.store(0, 1, 2)
    following.run(once=True)
    run.store(3, 4, 5, 6)
    damage(run.path, damaged)

    following.run(once=True)

    assert following.volumes[0].frames == count
    run.store(7)
    path = run.end()
    following.run(once=True)
    check_equal(path.with_name("live-f1.h5"), [path])


def test_a_closed_volume_that_somebody_deletes_is_made_again(tmp_path):
    run, following = Growing(tmp_path, measured()), live(tmp_path)
    run.store(*range(N))
    path = run.end()
    following.run(once=True)
    path.with_name("live-f1.h5").unlink()

    following.run(once=True)

    check_equal(path.with_name("live-f1.h5"), [path])


def test_a_killed_writer_leaves_nothing_behind(tmp_path):
    """It was killed while the volume grew; the next one starts when the sweep has ended."""
    run = Growing(tmp_path, measured())
    killed = live(tmp_path)
    for numbers in (range(3), range(3, N)):
        run.store(*numbers)
        killed.run(once=True)
    path = run.end()
    assert [each.name for each in path.parent.glob(".live-*")] == [".live-f1.h5.next"]

    live(tmp_path).run(once=True)

    check_equal(path.with_name("live-f1.h5"), [path])
    assert not list(path.parent.glob(".live-*"))


def test_sweeps_whose_frames_come_in_any_order_are_one_volume(tmp_path):
    """The second one of a temperature has frames before the first one has any."""
    first, second = Growing(tmp_path, measured(0)), Growing(tmp_path, measured(1, chi=30.0))
    following = live(tmp_path)
    second.store(0, 1, 2)
    following.run(once=True)
    first.store(*range(N))
    following._next_look, following._next_place = 0.0, {}
    following.run(once=True)
    second.store(*range(3, N))
    paths = [first.end(), second.end()]

    following.run(once=True)

    assert [each.path.name for each in following.volumes] == ["live-f1.h5"]
    check_equal(paths[0].with_name("live-f1.h5"), paths)


def test_a_sweep_without_frames_does_not_hold_up_the_next(tmp_path):
    """It has ended, and there is nothing of it that another one could be merged with."""
    first, second = Growing(tmp_path, measured(0)), Growing(tmp_path, measured(1, chi=30.0))
    following = live(tmp_path)
    following.run(once=True)
    first.end(missing=range(N))
    second.store(*range(N))
    path = second.end()

    for _ in range(2):  # first it is seen that the other one has ended
        following._next_look, following._next_place = 0.0, {}
        following.run(once=True)

    check_equal(path.with_name("live-f2.h5"), [path])


def test_another_mask_makes_another_volume(tmp_path):
    """Started again with other options, it does not keep the volume of the ones before."""
    run, masks = Growing(tmp_path, measured()), []
    for number in range(2):
        mask = np.zeros(run.scan.shape, np.uint8)
        mask[60 * number : 60 * number + 60] = 1
        masks.append(tmp_path / f"m{number}.npy")
        np.save(masks[-1], mask)
    run.store(*range(N))
    path = run.end()

    for mask in masks:
        choices = replace(CHOICES, mask=mask)
        live(tmp_path, choices).run(once=True)
        check_equal(path.with_name("live-f1.h5"), [path], choices)


def test_what_grows_says_so(tmp_path, monkeypatch):
    """When it is looked at before its first cells are written."""
    monkeypatch.setattr(live_file, "_SLICE", 0.0)
    run, following = Growing(tmp_path, measured()), live(tmp_path)
    run.store(*range(N))
    following.advance()
    volume = run.path.with_name("live-f1.h5")

    with pytest.raises(ReductionError, match="not written yet: the volume has just begun to grow"):
        plot(volume, "hk0", out=tmp_path / "hk0.png")
    with pytest.raises(ReductionError, match="the volume still grows"):
        why(volume, (0, 0, 0))
    run.end()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--symmetry", "nonsense"], "nonsense"),
        (["--mask", "nothere.npy"], "nothere.npy"),
        (["--symmetry", "none", "--fold"], "--symmetry is none"),
    ],
)
def test_wrong_options_are_refused_at_the_start(tmp_path, options, message):
    paths = {
        name: str(tmp_path / name) for name in ("experiment", "frames", "journal", "log", "catalog")
    }
    for folder in paths.values():
        Path(folder).mkdir()
    file = tmp_path / "beamline.toml"
    content = {"beamline_id": "x", "baseline": [], "paths": paths, "devices": {}, "per_frame": {}}
    file.write_text(tomli_w.dumps(content))

    done = subprocess.run(
        [sys.executable, "-m", "offbragg", "live", "--once", "--beamline", str(file), *options],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
