"""The demo with real Pilatus 2M frames: what went in is what comes out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import run_demo

from offbragg.files.scan_file import ScanFile
from offbragg.lattice import q_to_hkl

pytestmark = [pytest.mark.ioc, pytest.mark.timeout(400)]

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "l-cysteine"


@pytest.fixture(scope="module")
def replayed(tmp_path_factory) -> dict[str, Any]:
    if not REAL.is_dir():
        pytest.skip("the real frames (../shared/data/l-cysteine) are not here")
    out = tmp_path_factory.mktemp("replay") / "out"
    return run_demo(out, "--replay", str(REAL), "--model", str(REAL / "model.json"))


def test_real_frames_come_through_bit_for_bit(replayed):
    expected = [
        pixels["sha256_int32_le"]
        for _, pixels in sorted(json.loads((REAL / "pixels.json").read_text()).items())
    ]

    assert "volumes" not in replayed  # of the simulated crystal only
    assert replayed["frames"] == {"stored": 45, "missing": 0, "rejected": 0}
    for run in replayed["runs"]:
        with ScanFile.open(run["scan_file"]) as scan:
            counts = scan.stack.counts
            found = [
                hashlib.sha256(np.asarray(counts[n]).astype("<i4").tobytes()).hexdigest()
                for n in range(15)
            ]
        assert found == expected


def test_the_geometry_in_the_file_puts_real_spots_on_their_hkl(replayed):
    spots = json.loads((REAL / "spots.json").read_text())["spots"]
    with ScanFile.open(replayed["runs"][0]["scan_file"]) as scan:
        geometry, sweep, UB = scan.geometry, scan.sweep, np.asarray(scan.sample.UB)

    for spot in spots:
        angle = sweep.start + spot["z"] * sweep.step
        hkl = q_to_hkl(geometry.q(spot["x"], spot["y"], angle), UB)
        np.testing.assert_allclose(hkl, spot["hkl"], atol=1e-3)
