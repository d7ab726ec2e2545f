"""What many tests need."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator

# four test processes and what they start share two cores: threads of OpenBLAS would wait for each
# other in a loop, which takes a third of the processor (it looks once, when NumPy is imported)
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from runs import MeasuredRun
from simulated import (  # noqa: F401
    RE,
    RE_with_defaults,
    axes_put_back,
    config,
    devices,
    documents,
    ioc,
    simulator,
)

# the search for doctests would import the one once more, and so choose another port for the IOC,
# and run the other, which is a script
collect_ignore = ["simulated.py", "kernels/smoke.py"]

# by turns one that waits for instruments, and one that computes: processes that all wait leave the
# processors idle, and those that all compute wait for them
LONGEST_FIRST = (
    "test_demo.py", "test_indexing.py", "test_ioc_alone.py", "test_order.py",
    "test_recovery.py", "test_rebuild.py", "test_rotation.py", "test_publisher.py",
    "test_main_path.py", "test_stacker.py", "test_how_to.py", "test_along.py",
    "test_beam_loss.py", "test_watchdogs.py", "test_resume.py", "test_frame_files.py",
    "test_triggers.py", "test_live.py", "test_kit.py", "test_repair.py",
    "test_watch.py", "test_recipe.py", "test_doctor.py", "test_costly_requests.py",
    "test_temperature.py", "test_injection.py", "test_expose.py", "test_live_process.py",
    "test_angles.py", "test_demo_replay.py", "test_suspender.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest: else one process is busy with it when the others are done."""
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


# a handler that cannot print a record prints a traceback instead, and goes on: no one looks there
_unprinted: list[str] = []


def _handle_error(handler: logging.Handler, record: logging.LogRecord) -> None:
    _unprinted.append(
        f"{record.pathname}:{record.lineno}: {record.msg!r} with {record.args!r} cannot be printed "
        f"by {type(handler).__name__}: {sys.exc_info()[1]!r}"
    )


logging.Handler.handleError = _handle_error


class _Printed(logging.Handler):
    """Format everything as the log file does; what cannot be is an error of the test."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.format(record)
        except Exception:
            self.handleError(record)


@pytest.fixture(scope="session", autouse=True)
def _everything_is_printed() -> Iterator[None]:
    from offbragg.printable import PrintableFormatter

    handler = _Printed()
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    for name in ("offbragg", "sim_iocs"):
        logging.getLogger(name).addHandler(handler)
    yield
    for name in ("offbragg", "sim_iocs"):
        logging.getLogger(name).removeHandler(handler)


@pytest.fixture(autouse=True)
def unprinted() -> Iterator[list[str]]:
    """Fail a test in which something logged cannot be printed, in whatever thread."""
    _unprinted.clear()
    yield _unprinted
    if _unprinted:
        pytest.fail("\n".join(_unprinted), pytrace=False)


@pytest.fixture
def run(tmp_path) -> MeasuredRun:
    """A run whose documents and frame files the test makes step by step."""
    measured = MeasuredRun(tmp_path)
    yield measured
    measured.journal.close()
