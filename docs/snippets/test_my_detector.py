# [kit]
import pytest
from my_detector import Camera

from offbragg.geometry import Geometry
from offbragg.instrument import Axis, Panel
from offbragg.sweep import Sweep
from offbragg.testing import DetectorTests


class TestCamera(DetectorTests):
    sweep = Sweep("phi", 0.0, 0.1, 5, exposure=0.049, period=0.05)
    bad_sweep = Sweep("phi", 0.0, 0.1, 5, exposure=0.001, period=0.002)

    @pytest.fixture
    def device(self, tmp_path):
        panel = Panel(
            origin=(8.0, 17.0, 100.0), fast=(-1.0, 0.0, 0.0), slow=(0.0, -1.0, 0.0),
            pixel_size=(0.172, 0.172), shape=(195, 487),
        )  # fmt: skip
        geometry = Geometry(
            wavelength=0.7, panel=panel, axes=(Axis("phi", (-1.0, 0.0, 0.0)),), scan_axis="phi"
        )
        return Camera(name="camera", frames=str(tmp_path), geometry=geometry)
