"""What a catalog has as NeXus groups: values are those of the files, and nothing more is sent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from nexusformat.nexus import NXfield
from remote.home import GRID, SAMPLE, TEMPERATURES, N, ordered
from runs import wait_until

from offbragg.errors import CatalogError
from offbragg.nexpy import arrays
from offbragg.nexpy.arrays import MOST_BYTES, RemoteArray, remote_field
from offbragg.nexpy.scan import scan
from offbragg.nexpy.tree import Growth, as_root, grow, positions, root_name

# NeXpy may have an environment of its own, with offbragg in it
PYTHON = os.environ.get("OFFBRAGG_NEXPY", sys.executable if find_spec("nexpy") else "")
DRIVER = Path(__file__).parents[1] / "programs" / "drive_nexpy.py"


@pytest.fixture(scope="module")
def coldest(home, catalog):
    return as_root([run for run in catalog.runs() if run.temperature == TEMPERATURES[0]])


def test_frames_are_those_of_the_file(home, coldest):
    signal = coldest["f1/data"].nxsignal

    assert signal.shape == (N, *home.runs[0].sweep.counts.shape[1:])
    part = signal[2:5, 10:20, -7:]
    assert np.array_equal(part.nxdata, home.runs[0].sweep.counts[2:5, 10:20, -7:])
    assert coldest["f1/sample/temperature"].nxdata == TEMPERATURES[0]
    assert str(coldest["f1/sample/name"]) == SAMPLE


def test_cells_are_those_of_the_volume(coldest):
    made = ordered(TEMPERATURES[0])
    whole = made.intensity.transpose(2, 1, 0).astype(np.float32)
    data = coldest["entry/transform"]

    assert np.array_equal(data["v"][7].nxdata, whole[7], equal_nan=True)
    assert np.array_equal(data["v"][3:9:2, -4:, 5].nxdata, whole[3:9:2, -4:, 5], equal_nan=True)
    assert np.allclose(data["Qh"].nxdata, GRID.h)
    by_position = data[0.5, -0.5:1.0, 0.0:1.0]  # as NeXpy slices a plot
    found = [np.flatnonzero(np.isclose(GRID.l, 0.5))[0]]
    found += [
        np.flatnonzero((axis > low - 1e-9) & (axis < 1 + 1e-9))
        for axis, low in ((GRID.k, -0.5), (GRID.h, 0.0))
    ]
    expected = whole[found[0]][np.ix_(found[1], found[2])]
    assert np.array_equal(by_position["v"].nxdata, expected, equal_nan=True)


@pytest.mark.parametrize("level", [2, 4])
def test_the_last_coarse_cell_is_found_although_it_holds_fewer(home, coldest, catalog, level):
    volume = catalog.latest(temperature=TEMPERATURES[0]).volume
    data = coldest[f"entry/transform_{level}"]["v"]
    box = volume.box((-9, 9), (-9, 9), (-9, 9), level=level).intensity.transpose(2, 1, 0)

    assert data.shape == box.shape == tuple(-(-n // level) for n in GRID.shape)
    assert np.array_equal(data[-1].nxdata, box[-1], equal_nan=True)
    assert len(positions(volume.row["grid"], 0, level)) == data.shape[2]


def test_a_copy_of_a_field_still_reads(coldest):
    from copy import deepcopy

    copied = deepcopy(coldest["f1/data/data"])

    assert np.array_equal(copied[1, 5:9, 5:9].nxdata, coldest["f1/data/data"][1, 5:9, 5:9].nxdata)


def test_only_the_slab_is_sent_and_that_once():
    asked: list[tuple[slice, ...]] = []
    values = np.arange(24.0).reshape(2, 3, 4)
    field = remote_field(
        RemoteArray(lambda part: asked.append(part) or values[part], values.shape, float), "data"
    )

    assert field[1, :, 2].nxdata.tolist() == [14.0, 18.0, 22.0]
    assert field[1, :, 2].nxdata.tolist() == [14.0, 18.0, 22.0]
    assert field[:, :, -1].shape == (2, 3)

    assert asked == [
        (slice(1, 2), slice(0, 3), slice(2, 3)), (slice(0, 2), slice(0, 3), slice(3, 4)),
    ]  # fmt: skip
    with pytest.raises(IndexError):
        field[2, 0, 0]


def test_what_is_too_large_is_refused_with_what_to_do():
    n = MOST_BYTES // 8 + 1
    field = RemoteArray(lambda part: np.zeros(1), (n,), float, advice="Take a plane.")

    with pytest.raises(CatalogError, match=r"256 MB, more than 256 MB at a time\nTake a plane\."):
        field[:]


def test_a_scan_is_the_mean_of_the_region_at_each_temperature(catalog):
    tree = {}
    for kelvin in TEMPERATURES[:3]:
        root = as_root([run for run in catalog.runs() if run.temperature == kelvin])
        tree[root.nxname] = root
    part = (slice(19, 22), slice(19, 22), slice(19, 22))

    found = scan(tree, "/entry/transform/v", part)

    expected = [float(np.nanmean(ordered(kelvin).intensity[part])) for kelvin in TEMPERATURES[:3]]
    assert found.nxaxes[0].nxdata.tolist() == list(TEMPERATURES[:3])
    assert found.nxsignal.nxdata == pytest.approx(expected, rel=1e-6)
    with pytest.raises(CatalogError, match="is open at 0 temperatures"):
        scan(tree, "/entry/nothing", part)


def test_a_run_that_is_measured_grows(home, catalog):
    run = home.open(4)
    run.take(0, 1)
    home.beamline.publish([run])
    found = catalog.runs[run.uid]
    root = as_root([found])
    assert root["f1/data/data"].shape[0] == 2
    assert root.nxname == root_name(SAMPLE, TEMPERATURES[4])

    run.take(2, 3)
    home.beamline.publish([run])
    wait_until(lambda: len(catalog.runs[run.uid].frames) == 4)
    entry = root["f1"]
    assert grow(entry, Growth.ask(catalog.runs[run.uid]))
    assert not grow(entry, Growth.ask(catalog.runs[run.uid]))
    run.take(4, 5, 6, 7)
    run.finish()
    home.beamline.publish([run])

    assert entry["data/data"].shape[0] == len(entry["data/angle"]) == 4
    assert np.array_equal(entry["data/data"][3].nxdata, run.sweep.counts[3])


def test_this_nexusformat_keeps_arrays_where_we_put_ours():
    """The one private name that is used: where it is another, fields would be empty."""
    assert "_memfile" in vars(NXfield(np.zeros(2)))
    assert arrays.array_behind(NXfield(np.zeros(2))) is None


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not PYTHON, reason="NeXpy is not installed: pip install 'nexpy[pyside6]'")
@pytest.mark.skipif(not shutil.which("xvfb-run"), reason="no xvfb-run: apt install xvfb")
def test_in_nexpy_itself(home, tmp_path):
    pictures = Path(os.environ.get("OFFBRAGG_PICTURES", tmp_path))
    pictures.mkdir(exist_ok=True)
    (tmp_path / "home").mkdir()
    program = subprocess.Popen(
        [
            "xvfb-run", "-a", "-s", "-screen 0 1400x900x24", PYTHON, str(DRIVER),
            home.beamline.url, str(pictures), root_name(SAMPLE, TEMPERATURES[4]), str(N),
        ],
        env={
            **os.environ, "HOME": str(tmp_path / "home"),
            "OFFBRAGG_KEY": home.beamline.reading_key,
        },
    )  # fmt: skip
    watch = threading.Timer(200, program.kill)
    watch.start()
    try:
        wait_until((pictures / "ready").exists, 150, "NeXpy shows what there is")
        run = home.open(4)
        for first in range(0, N, 2):
            run.take(first, first + 1)
            home.beamline.publish([run])
            threading.Event().wait(2.5)
        run.finish()
        home.beamline.publish([run])
        assert program.wait(150) == 0
    finally:
        watch.cancel()
        program.kill()
    seen = json.loads((pictures / "seen.json").read_text())

    assert seen["menu"]
    assert seen["listed"][SAMPLE] == [f"{kelvin:g} K" for kelvin in TEMPERATURES[:4]]
    assert len(seen["roots"]) == 4
    assert seen["temperatures"] == list(TEMPERATURES[:4])
    assert len(seen["grew"]) > 2
    assert seen["grew"][-1] == N
    assert seen["shown_frame"] == N - 1
    assert seen["shown_sum"] == int(run.sweep.counts[N - 1].clip(0).sum())
