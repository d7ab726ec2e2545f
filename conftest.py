"""What ``pytest`` alone, one file, or one test starts, wherever it is called from."""

from __future__ import annotations

import gc
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from _pytest.doctest import DoctestModule

HERE = Path(__file__).parent
ALONE = HERE / "tests" / "ioc"  # in a process of its own, see tests/test_ioc_alone.py
PROCESSES = 3  # of the whole suite: with four, instruments that start together answer too late

collect_ignore = [
    "src/offbragg/profile",  # IPython runs it
    *(f"src/offbragg/nexpy/{name}.py" for name in ("beamline", "dialogs", "follow")),
]
"""What imports programs that are not installed here."""


def _named(config: pytest.Config) -> list[Path]:
    """Return the files and folders that the command line names; none if it names nothing."""
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        return []
    folder = config.invocation_params.dir
    return [(folder / argument.split("::")[0]).resolve() for argument in config.args]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Share the suite or a folder among processes; a file or a test needs no other process."""
    named = _named(config)
    if config.option.keyword or (named and not any(path.is_dir() for path in named)):
        return 0
    return PROCESSES


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the tests out that need a process of their own, unless they are asked for by name."""
    if collection_path != ALONE:
        return None
    return None if any(path.is_relative_to(ALONE) for path in _named(config)) else True


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Collect no garbage among modules and tests, which stay: it takes a quarter of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path) -> Generator[None, list[pytest.Collector], Any]:
    """Look for examples in docstrings of what people import, not of tests.

    pytest would import each file of tests twice, and rewrite its assertions each time.
    """
    found = yield
    if not file_path.is_relative_to(HERE / "tests"):
        return found
    return [one for one in found if not isinstance(one, DoctestModule)]
