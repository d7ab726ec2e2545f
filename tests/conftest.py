"""What many tests need."""

from __future__ import annotations

import pytest
from runs import MeasuredRun
from simulated import RE, config, devices, documents, ioc, simulator  # noqa: F401

# the search for doctests would import it once more, and so choose another port for the IOC
collect_ignore = ["simulated.py"]

LONGEST = ("test_ioc_alone", "test_demo", "test_main_path", "test_demo_replay", "test_shell")
"""Files that begin first, so that the processes of a whole run end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


@pytest.fixture
def run(tmp_path) -> MeasuredRun:
    """A run whose documents and frame files the test makes step by step."""
    measured = MeasuredRun(tmp_path)
    yield measured
    measured.journal.close()
