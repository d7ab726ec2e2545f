"""A PILATUS2 of several modules: gap fill, the shorter readout it has not, and how it stops."""

from __future__ import annotations

from typing import Any

import fabio
import numpy as np
import pytest

from sim_iocs.crystal import module_mask

pytestmark = pytest.mark.ioc

SCRIPT = """
import os, time
from epics import PV
folder, found, pvs = {folder!r}, dict(), dict()

def pv(name):
    if name not in pvs:
        pvs[name] = PV("G:" + name, auto_monitor=False)
        assert pvs[name].wait_for_connection(timeout=10), name
    return pvs[name]

def put(**values):
    for name, value in values.items():
        assert pv("cam1:" + name).put(value, wait=True, timeout=20) == 1, name

def get(name):
    return pv("cam1:" + name).get(use_monitor=False)

def text(name):
    return pv("cam1:" + name).get(use_monitor=False, as_string=True)

def until(condition):
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)

def series(name, ending="cbf", **settings):
    put(FileName=name, FileTemplate="%s%s." + ending, **settings)
    put(Acquire=1)
    return get("GapFill_RBV")

put(FilePath=folder, AcquireTime=0.05, AcquirePeriod=0.1, ImageFileTmot=5.0)
pv("shutter:open").put(1, wait=True)
found["model"] = text("Model_RBV")
found["fresh"] = series("fresh")
found["zero"] = series("zero", GapFill="0")
found["zero_tif"] = series("zero_tif", "tif")
found["minus"] = series("minus", "tif", GapFill="-1")
put(GapFill="0")
found["kept"] = series("kept", GapFill="N.A.")
pv("sim:camserver").put("Gone", wait=True)
pv("sim:camserver").put("Running", wait=True)
found["restarted"] = series("restarted", AcquireTime=0.06)

put(FileName="short", FileTemplate="%s%s_%3.3d.cbf", NumImages=2, AcquireTime=0.1,
    AcquirePeriod=0.102, ImageFileTmot=0.5)
armed = []
pv("cam1:Armed")
watched = PV("G:cam1:Armed", form="ctrl", callback=lambda value=0, **_: armed.append(value))
until(lambda: armed)
put(Acquire=1)
found["short"] = [text("DetectorState_RBV"), text("StatusMessage_RBV"),
                  text("StringFromServer_RBV"), 1 in armed]

put(FileName="kill", NumImages=5, AcquireTime=1.0, AcquirePeriod=1.1, ImageFileTmot=5.0)
pv("cam1:Acquire").put(1)
until(lambda: get("Armed") == 1)
put(Acquire=0)
until(lambda: os.path.exists(folder + "/kill_000.cbf"))
found["kill"] = sorted(name for name in os.listdir(folder) if name.startswith("kill"))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pilatus2")


@pytest.fixture(scope="module")
def found(folder, serve_for_all, elsewhere) -> dict[str, Any]:
    """What one session with the detector showed."""
    _, announced = serve_for_all("--prefix", "G:", "--detector", "300K", "--model", "PILATUS2")
    return elsewhere(announced, SCRIPT.format(folder=str(folder)))


@pytest.mark.parametrize(
    ("name", "readback", "filled"),
    [
        ("fresh.cbf", 65535, -1),  # nothing was sent: camserver's default
        ("zero.cbf", 1, 0),
        ("zero_tif.tif", 1, 0),
        ("minus.tif", 2, -1),
        ("kept.cbf", 65535, 0),  # nothing was sent: camserver keeps the earlier number
        ("restarted.cbf", 65535, -1),  # and with a restart it forgets that
    ],
)
def test_gap_fill_is_what_the_pixels_between_modules_read(found, folder, name, readback, filled):
    counts = fabio.open(str(folder / name)).data

    assert found[name.split(".")[0]] == readback
    assert np.all(counts[module_mask(counts.shape)] == filled)


def test_a_pilatus2_refuses_a_period_that_a_pilatus3_takes(found):
    state, message, answer, was_armed = found["short"]

    assert found["model"] == "PILATUS 300K"
    assert "ERR Exposure period" in answer
    assert "2.28 ms" in answer
    assert was_armed  # the driver does not notice
    assert (state, message) == ("Error", "Timeout waiting for file to be created")


def test_a_pilatus2_finishes_the_exposure_that_is_aborted(found):
    assert found["kill"] == ["kill_000.cbf"]
