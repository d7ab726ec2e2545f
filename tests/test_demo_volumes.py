"""The demo's part that needs no beamline: the mask, and the wait for live volumes."""

from __future__ import annotations

import numpy as np
import pytest

from offbragg.demo import volumes
from offbragg.demo.scene import simulated_scene
from offbragg.demo.volumes import Reduction, shadow, show_volumes
from offbragg.errors import ReductionError
from offbragg.host.children import Children
from sim_iocs import crystal


def test_the_mask_covers_the_shadow_of_the_simulated_beamstop_and_little_more():
    scene = simulated_scene(crystal.truth("100K"))
    covered = crystal.Crystal("100K").correction == 0

    masked = shadow(scene)

    assert np.all(masked[covered])
    assert 0 < covered.sum() < masked.sum() < 1.3 * covered.sum()


def test_a_volume_that_does_not_come_is_an_error_that_says_what_to_read(tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "CLOSE_TIMEOUT", 0.0)
    scene = simulated_scene(crystal.truth("100K"))
    run = {"temperature": 90.0, "scan_file": str(tmp_path / "f1.h5")}

    class Quiet:
        def print(self, *_: object) -> None:
            """Print nothing."""

    with pytest.raises(ReductionError) as raised:
        show_volumes(
            None, scene, Reduction(tmp_path / "m.npy"), [run], Children(tmp_path), Quiet()
        )  # fmt: skip

    assert f"{tmp_path / 'live-f1.h5'} was not complete 0 s after" in str(raised.value)
    assert str(tmp_path / "live.log") in str(raised.value)
