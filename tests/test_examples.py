"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "sweep",
        "geometry",
        "lattice",
        "ledger",
        "stack",
        "grid",
        "volume",
        "files.planes",
        "reduction.corrections",
        "reduction.symmetry",
        "files.cbf",
        "files.scan_folders",
        "files.superblock",
    ],
)
def test_examples_run(name: str):
    module = importlib.import_module(f"offbragg.{name}")

    result = doctest.testmod(module)

    assert result.attempted > 0
    assert result.failed == 0
