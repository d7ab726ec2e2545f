"""What of the benchmarks the whole suite runs: each thing once, as a test of what it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

ROWS = pytest.StashKey[list[tuple[str, str, str]]]()

Report = Callable[..., None]


@pytest.fixture
def report(pytestconfig: pytest.Config) -> Report:
    """Return what adds a row to the table at the end: what, the figure, its target if any."""

    def add(what: str, figure: str, target: str = "") -> None:
        pytestconfig.stash.setdefault(ROWS, []).append((what, figure, target))

    return add


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print what was measured against the targets."""
    rows = config.stash.get(ROWS, [])
    if rows:
        terminalreporter.section("measured")
        for what, figure, target in rows:
            terminalreporter.write_line(f"{what:52s} {figure:>36s}   {target}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the disk, the real frames, other numbers of threads and figures to ``poe bench``."""
    if config.getoption("benchmark_only"):
        return
    here = Path(__file__).parent
    left = [item for item in items if here in item.path.parents and not _is_plain(item)]
    items[:] = [item for item in items if item not in left]
    config.hook.pytest_deselected(items=left)


def _is_plain(item: pytest.Item) -> bool:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return (
        params.get("place", "memory") == "memory"
        and params.get("frames", "generated") == "generated"
        and "threads" not in params
        and "report" not in getattr(item, "fixturenames", ())
    )
