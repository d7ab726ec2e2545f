"""What many tests need."""

from __future__ import annotations

import os

# three test processes and what they start share two cores: threads of OpenBLAS would wait for each
# other in a loop, which takes a third of the processor (it looks once, when NumPy is imported)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from runs import MeasuredRun
from simulated import RE, config, devices, documents, ioc, simulator  # noqa: F401

# the search for doctests would import the one once more, and so choose another port for the IOC,
# and run the other, which is a script
collect_ignore = ["simulated.py", "kernels/smoke.py"]

LONGEST_FIRST = (
    "test_ioc_alone.py", "test_demo.py", "test_demo_replay.py", "test_main_path.py",
    "test_beam_loss.py", "test_resume.py", "test_shell.py", "test_suspender.py",
    "test_detector_trouble.py", "test_triggers.py", "test_rotation.py", "test_server.py",
    "test_kill.py", "test_injection.py", "test_registering.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: else one process is busy with it when the others are done."""
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.fixture
def run(tmp_path) -> MeasuredRun:
    """A run whose documents and frame files the test makes step by step."""
    measured = MeasuredRun(tmp_path)
    yield measured
    measured.journal.close()
