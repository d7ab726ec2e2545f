"""What of the benchmarks the whole suite runs: each thing once, as a test of what it does."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the disk, the real frames and other numbers of threads to ``poe bench``."""
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
    )
