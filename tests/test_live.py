"""The volume that grows with its sweeps, and what `reduce` makes of them afterwards."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from growing import CHOICES, Growing, N, check_equal, live, measured
from measured import AS_SIMULATED, Measured

from offbragg.errors import ReductionError
from offbragg.files.orientation import Orientation, read_orientation, write_orientation
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.files.volume_file import VolumeFile
from offbragg.geometry import Geometry
from offbragg.workflows.choices import Choices
from offbragg.workflows.record import GROWING
from offbragg.workflows.reproduce import reproduce


@pytest.fixture
def run(tmp_path) -> Growing:
    return Growing(tmp_path, measured())


def test_it_grows_and_is_what_reduce_makes(run, tmp_path):
    following = live(tmp_path)
    volume = run.path.with_name("live-f1.h5")
    grown = []

    for n in range(N):
        run.store(n)
        following.run(once=True)
        with VolumeFile(volume) as file:
            grown.append(file.record[GROWING]["f1.h5"]["frames"])
    with pytest.raises(ReductionError, match="its sweeps had not ended"):
        reproduce(volume)
    run.end()
    following.run(once=True)

    assert grown == list(range(1, N + 1))
    check_equal(volume, [run.path])


def test_nothing_is_summed_twice(run, tmp_path, caplog):
    caplog.set_level("INFO", "offbragg")
    following = live(tmp_path)

    run.store(*range(N))
    following.run(once=True)
    run.end()
    following.run(once=True)
    following.run(once=True)

    closed = [line for line in caplog.messages if "is closed" in line]
    assert len(closed) == 1
    assert "8 of them while they grew; then 0 frames added;" in closed[0]


def test_late_missing_and_dark_frames(run, tmp_path, caplog):
    """What was binned and does not count in the end is subtracted; what came late is added."""
    caplog.set_level("INFO", "offbragg")
    following = live(tmp_path)

    run.store(0, 1, 2, 4, 6)
    following.run(once=True)
    run.store(3, monitor=False)
    following.run(once=True)
    run.values("weight", [1], [0.0])  # there was no beam
    run.values("monitor", [2, 3], [80.0, 90.0])
    run.store(7)
    following.run(once=True)
    run.values("weight", [4], [0.0])
    path = run.end(missing=[5])
    following.run(once=True)

    (closed,) = [line for line in caplog.messages if "is closed" in line]
    assert "1 subtracted" in closed
    assert "summed from" not in closed
    check_equal(path.with_name("live-f1.h5"), [path])


@pytest.mark.parametrize(
    ("looks", "then"),
    [
        (range(N), "0 frames added;"),
        ([1], "6 frames added, hot pixels corrected in frames added before: 1;"),
    ],
)
def test_hot_pixels(tmp_path, caplog, looks, then):
    """They are looked for while it grows; what is only known at the end is corrected then."""
    caplog.set_level("INFO", "offbragg")
    sweep = measured()
    sweep.counts[:, 20, 30] = 5000
    sweep.counts[3:, 100, 300] = 9000  # only in what is stored later: it is not hot
    run = Growing(tmp_path, sweep)
    following = live(tmp_path)

    for n in range(N):
        run.store(n)
        if n in looks:
            following.run(once=True)
    path = run.end()
    following.run(once=True)

    (closed,) = [line for line in caplog.messages if "is closed" in line]
    assert f"then {then}" in closed
    check_equal(path.with_name("live-f1.h5"), [path])


def test_restarted_at_any_moment(run, tmp_path):
    for n in range(N):
        run.store(n)
        if n % 3 == 0:
            live(tmp_path).run(once=True)
    path = run.end()
    live(tmp_path).run(once=True)
    volume = path.with_name("live-f1.h5")
    before = volume.stat()
    live(tmp_path).run(once=True)

    assert (volume.stat().st_ino, volume.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    check_equal(volume, [path])


def test_started_again_with_other_options(run, tmp_path):
    run.store(*range(N))
    path = run.end()
    live(tmp_path).run(once=True)
    other = replace(CHOICES, hot=False, symmetry="mmm")

    live(tmp_path, other).run(once=True)

    check_equal(path.with_name("live-f1.h5"), [path], other)


def test_what_reduce_refuses_is_no_volume(run, tmp_path, caplog):
    following = live(tmp_path)
    run.store(*range(4))
    following.run(once=True)
    volume = run.path.with_name("live-f1.h5")
    assert volume.exists()
    run.values("weight", range(4), [0.0] * 4)
    path = run.end(missing=range(4, N))

    following.run(once=True)

    assert not volume.exists()
    assert any("none of 4 stored frames has flux" in line for line in caplog.messages)
    with pytest.raises(ReductionError, match="none of 4 stored frames has flux"):
        check_equal(volume, [path])


def test_sweeps_of_one_folder_merge_as_they_come(tmp_path):
    following = live(tmp_path)
    runs = []

    for number, chi in enumerate((0.0, 30.0, 60.0)):
        run = Growing(tmp_path, measured(number, chi=chi))
        runs.append(run)
        run.store(*range(4))
        following.run(once=True)
        following._next_look = 0.0
        run.store(*range(4, N))
        following.run(once=True)
        run.end()
        following.run(once=True)
        check_equal(run.path.with_name("live-f1.h5"), [each.path for each in runs])

    assert [each.path.name for each in runs] == ["f1.h5", "f2.h5", "f3.h5"]
    live(tmp_path).run(once=True)
    assert [each.name for each in runs[0].path.parent.glob("live-*")] == ["live-f1.h5"]


def test_a_sweep_that_does_not_merge_has_its_own_volume(tmp_path):
    UB = measured().UB
    turned = {"sample": {**measured().start["sample"], "UB": (UB[[1, 2, 0]]).tolist()}}
    one = Growing(tmp_path, measured())
    one.store(*range(N))
    one.end()
    other = Growing(tmp_path, measured(1, start_more=turned))
    other.store(*range(N))
    other.end()

    live(tmp_path).run(once=True)

    check_equal(one.path.with_name("live-f1.h5"), [one.path])
    check_equal(one.path.with_name("live-f2.h5"), [other.path])
    live(tmp_path).run(once=True)  # takes both over
    check_equal(one.path.with_name("live-f2.h5"), [other.path])


def test_sweeps_of_two_proposals_share_no_volume(tmp_path):
    runs, following = [], live(tmp_path)
    for number, (chi, proposal) in enumerate(((0.0, "A"), (30.0, "B"), (60.0, "A"))):
        run = Growing(tmp_path, measured(number, chi=chi, start_more={"proposal": proposal}))
        runs.append(run.path)
        run.store(*range(N))
        run.end()
        following._next_look = 0.0
        following.run(once=True)

    for each in (following, live(tmp_path)):  # also one that takes both over
        each.run(once=True)
        check_equal(runs[0].with_name("live-f1.h5"), [runs[0], runs[2]])
        check_equal(runs[0].with_name("live-f2.h5"), [runs[1]])


def test_another_orientation_makes_it_again(run, tmp_path):
    following = live(tmp_path)
    run.store(*range(N))
    path = run.end()
    following.run(once=True)
    with ScanFile.open(path) as scan:
        lattice, UB = scan.sample.lattice, np.array(scan.sample.UB) * 1.0005
    rows: Any = tuple(tuple(float(x) for x in row) for row in UB)
    assert lattice is not None
    write_orientation(path.with_name("orientation.json"), Orientation(rows, lattice, {}, {}))

    following.run(once=True)

    volume = path.with_name("live-f1.h5")
    with VolumeFile(volume) as file:
        assert file.record["inputs"][0]["orientation"].endswith("orientation.json")
    check_equal(volume, [path])


@pytest.mark.parametrize(
    "place", [pytest.param("same", marks=pytest.mark.slow), "moved", "other crystal"]
)
def test_the_orientation_of_an_earlier_sweep_of_the_mount(tmp_path, caplog, place):
    """It is copied beside the sweep, so that `reduce` takes the same; the user may replace it."""
    caplog.set_level("INFO", "offbragg")
    whole = measured()
    sample = {k: v for k, v in whole.start["sample"].items() if k != "UB"}
    run = Growing(tmp_path, measured(start_more={"sample": sample}))
    lattice, rows = sample["lattice"], whole.UB
    geometry = Geometry.from_dict(whole.start["geometry"])
    if place == "moved":
        panel = replace(geometry.panel, origin=tuple(np.add(geometry.panel.origin, (0, 0, 50))))
        geometry = replace(geometry, panel=panel)
    if place == "other crystal":
        lattice, rows = [1.1 * x for x in lattice[:3]] + lattice[3:], rows / 1.1
    earlier = run.path.parents[1] / "300K" / "orientation.json"
    earlier.parent.mkdir()
    UB: Any = tuple(map(tuple, rows.tolist()))
    write_orientation(earlier, Orientation(UB, tuple(lattice), {"files": []}, {}, geometry))
    following = live(tmp_path)

    run.store(*range(N))
    following.run(once=True)
    path = run.end()
    following.volumes[0]._next_try = 0.0
    following.run(once=True)

    volume, beside = path.with_name("live-f1.h5"), path.with_name("orientation.json")
    log = " ".join(caplog.messages)
    if place == "other crystal":
        assert not beside.exists()
        assert "is not taken: this is the orientation of another crystal" in log
        return
    assert f"orientation of an earlier sweep of this mount: {earlier}" in log
    assert ("without its panel: its panel is 50 mm away" in log) == (place == "moved")
    assert read_orientation(beside).source["copied_from"] == str(earlier)
    check_equal(volume, [path])


@pytest.mark.parametrize("fold", [False, True])
def test_symmetry_and_background(tmp_path, fold):
    choices = Choices(
        step=0.1, corrections=AS_SIMULATED, symmetry="m-3m", fold=fold,
        oversample=CHOICES.oversample,
    )  # fmt: skip
    air = Measured(
        n_frames=4, step=2.0, temperature=100.0, crystal_in=False, series=50,
        start_more={"uid": "air"},
    )  # fmt: skip
    air.write(scan_directory(tmp_path / "experiment", air.start))
    run = Growing(tmp_path, measured())
    following = live(tmp_path, choices)

    run.store(*range(5))
    following.run(once=True)
    run.store(*range(5, N))
    path = run.end()
    following.run(once=True)

    with VolumeFile(path.with_name("live-f1.h5")) as file:
        assert file.record["inputs"][0]["background"]["run"] == "air"
    check_equal(path.with_name("live-f1.h5"), [path], choices)


def test_a_background_is_subtracted_while_it_grows(tmp_path, caplog):
    """Frames are added and subtracted with their background; nothing is summed twice."""
    caplog.set_level("INFO", "offbragg")
    choices = Choices(step=0.1, corrections=AS_SIMULATED)
    air = Measured(
        n_frames=4, step=2.0, temperature=100.0, crystal_in=False, series=50,
        start_more={"uid": "air"},
    )  # fmt: skip
    air.write(scan_directory(tmp_path / "experiment", air.start))
    run = Growing(tmp_path, measured())
    following = live(tmp_path, choices)

    run.store(0, 1, 2, 4, 5)
    following.run(once=True)
    with VolumeFile(run.path.with_name("live-f1.h5")) as file:
        assert "background" in file.names
    run.values("weight", [1], [0.0])
    run.store(6, 3)
    following.run(once=True)
    run.values("weight", [4], [0.0])
    path = run.end(missing=[7])
    following.run(once=True)

    (closed,) = [line for line in caplog.messages if "is closed" in line]
    assert "1 subtracted" in closed
    assert "summed from" not in closed
    check_equal(path.with_name("live-f1.h5"), [path], choices)


def test_damaged_and_repeated_frames_and_a_brighter_beam(tmp_path):
    """What the whole sweep says: a repeat of an earlier frame that comes late, a new unit."""
    sweep = measured(beam=[1.0, 1.0, 1.01, 1.02, 1.03, 9.0, 9.0, 1.0])
    sweep.counts[2] = sweep.counts[6]  # 6 comes after 2, and repeats it
    run = Growing(tmp_path, sweep)
    following = live(tmp_path)

    for n in range(N):
        run.store(n)
        following.run(once=True)
    path = run.end()
    following.run(once=True)
    check_equal(path.with_name("live-f1.h5"), [path])

    with ScanFile.open(path) as scan:
        part = scan.chunks()[3]
    with path.open("r+b") as file:
        file.seek(part.offset + part.size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 0x55]))
    following.run(once=True)

    with VolumeFile(path.with_name("live-f1.h5")) as volume:
        assert volume.record["inputs"][0]["damaged"] == [3]
    check_equal(path.with_name("live-f1.h5"), [path])


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))]
)
def test_any_order_any_fate_any_moment(tmp_path, seed):
    """Frames and values come in any order, are lost, dark or dim, and it looks now and then."""
    rng = np.random.default_rng(seed)
    run = Growing(tmp_path, measured())
    following = live(tmp_path)
    missing = set(rng.permutation(N)[: rng.integers(0, 3)].tolist())
    todo = [("frame", n) for n in range(N) if n not in missing]
    todo += [("monitor", n) for n in range(N)]
    todo += [("dark", n) for n in range(N) if rng.random() < 0.3]

    for number in rng.permutation(len(todo)).tolist():
        what, n = todo[number]
        if what == "frame":
            run.store(n, monitor=False)
        elif what == "monitor":
            run.values("monitor", [n], [100.0 + 10 * n])
        else:
            run.values("weight", [n], [0.0])
        if rng.random() < 0.4:
            following = live(tmp_path) if rng.random() < 0.3 else following
            following.run(once=True)
    path = run.end(missing=sorted(missing))
    following.run(once=True)

    check_equal(path.with_name("live-f1.h5"), [path])


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 10, 200])
def test_many_frames_are_lost_late_dark_or_rejected(tmp_path, count, caplog):
    """The volume is that of the sweep as it was at its end, without a sum from the first frame."""
    caplog.set_level("INFO", "offbragg")
    start = {"uid": "long", "time": time.time()}
    sweep = Measured(n_frames=240, step=0.25, temperature=100.0, start_more=start)
    run = Growing(tmp_path, sweep)
    following = live(tmp_path)
    numbers = np.random.default_rng(count).permutation(240)[:count].tolist()
    fates = {n: ("missing", "late", "dark", "rejected")[i % 4] for i, n in enumerate(numbers)}

    def of(fate: str) -> list[int]:
        return [n for n, each in fates.items() if each == fate]

    for begin in range(0, 240, 30):
        now = range(begin, begin + 30)
        run.store(*(n for n in now if fates.get(n, "dark") == "dark"))
        for n in now:
            if fates.get(n) == "rejected":
                run.scan.mark(n, "rejected", "it is not what was measured")
        following.run(once=True)
    run.store(*of("late"))
    following.run(once=True)
    run.values("weight", of("dark"), [0.0] * len(of("dark")))
    path = run.end(missing=of("missing"))
    following.run(once=True)

    check_equal(path.with_name("live-f1.h5"), [path])
