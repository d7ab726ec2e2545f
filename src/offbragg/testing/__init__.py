"""A test kit for devices of your own: whether they do what plans believe of them.

It is a pytest plugin that is loaded only where it is asked for, by a line in ``conftest.py``::

    pytest_plugins = ["offbragg.testing"]

Then a class with a fixture ``device`` has all tests of a role::

    from offbragg.testing import DetectorTests

    class TestCamera(DetectorTests):
        sweep = Sweep("phi", 0.0, 0.1, 5, exposure=0.09, period=0.1)
        bad_sweep = Sweep("phi", 0.0, 0.1, 5, exposure=0.001, period=0.002)

        @pytest.fixture
        def device(self, tmp_path):
            return Camera(name="camera", frames=str(tmp_path))

What the device flies with is a stand-in, unless the class has a fixture for it.
"""

from __future__ import annotations

from typing import Any

import pytest

from offbragg.testing.kit import (
    AxisTests,
    Documents,
    FlyerTests,
    PermitTests,
    SampleEnvironmentTests,
)
from offbragg.testing.kit_detector import DetectorTests
from offbragg.testing.stand_ins import StandInAxis, StandInDetector

__all__ = [
    "AxisTests",
    "DetectorTests",
    "Documents",
    "FlyerTests",
    "PermitTests",
    "SampleEnvironmentTests",
    "StandInAxis",
    "StandInDetector",
]


@pytest.fixture(scope="session")
def kit_run_engine() -> Any:
    """Return the RunEngine of the kit: Bluesky's, with nothing of a beamline."""
    from bluesky import RunEngine

    return RunEngine({})
