"""The documents that every suitcase is measured by."""

from __future__ import annotations

import pytest

suitcase = pytest.importorskip("suitcase.utils.tests.conftest", reason="suitcase-utils is not here")

detector_list = suitcase.detector_list
event_type = suitcase.event_type
plan_type = suitcase.plan_type
file_prefix_list = suitcase.file_prefix_list
generate_data = suitcase.generate_data
example_data = suitcase.example_data


@pytest.fixture
def RE():
    """A RunEngine without a beamline; suitcase-utils brings two that differ in what they return."""
    from bluesky import RunEngine

    RE = RunEngine({}, context_managers=[])
    yield RE
    RE.loop.call_soon_threadsafe(RE.loop.stop)
    RE._th.join()
    RE.loop.close()
