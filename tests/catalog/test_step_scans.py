"""A step scan of the simulated beamline, in the catalog: numbers to plot, frames to slice."""

from __future__ import annotations

import time

import bluesky.plans as bp
import numpy as np
import pytest

from offbragg.files import read_frame
from offbragg.followers.publisher import Publisher

pytestmark = pytest.mark.ioc


def test_a_step_scan_is_published(RE, devices, documents, server, cat, tmp_path):
    from offbragg.devices.pilatus import PilatusStep

    folder = server.root / "step-frames"
    folder.mkdir()
    step = PilatusStep(
        "SIM:cam1:", name="pilatus_step", frames=str(folder), model="PILATUS3 100K",
        sensor_material="Si", sensor_thickness=0.45,
    )  # fmt: skip
    step.wait_for_connection(all_signals=True, timeout=10)
    step.exposure.put(0.05)
    devices["shutter"].set("open").wait(10)
    (uid,) = RE(bp.scan([step], devices["phi"], 0.0, 1.0, 3))
    devices["shutter"].set("closed").wait(10)

    follower = Publisher(lambda: cat, tmp_path).open(documents.start())
    for name, doc in documents:
        follower(name, doc)
    deadline = time.monotonic() + 30
    while not follower.poll():
        assert time.monotonic() < deadline
        time.sleep(0.02)

    run = cat[uid]
    assert run.metadata["stop"]["exit_status"] == "success"
    images = run["primary"]["pilatus_step_image"].read()
    files = sorted(folder.glob("*/*.cbf"))
    written = np.stack([read_frame(f, number=n).counts for n, f in enumerate(files)])
    np.testing.assert_array_equal(images.reshape(written.shape), written)
    table = cat.v1[uid].table(fields=["phi", "pilatus_step_sum"])
    assert table["phi"].tolist() == pytest.approx([0.0, 0.5, 1.0], abs=1e-3)
    assert table["pilatus_step_sum"].tolist() == documents.rows("pilatus_step_sum")
