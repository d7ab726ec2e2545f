"""What many tests need."""

from __future__ import annotations

import pytest
from runs import MeasuredRun
from simulated import RE, config, devices, documents, ioc, simulator  # noqa: F401

# the search for doctests would import it once more, and so choose another port for the IOC
collect_ignore = ["simulated.py"]


@pytest.fixture
def run(tmp_path) -> MeasuredRun:
    """A run whose documents and frame files the test makes step by step."""
    measured = MeasuredRun(tmp_path)
    yield measured
    measured.journal.close()
