"""What the tests of faults share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from faults.stacking import WaitingRun

from offbragg import kernels
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker


@pytest.fixture(params=["pool", "library"])
def each_route(request, monkeypatch) -> str:
    """Stack with the compiled kernels, and as it is done where there was no compiler."""
    if request.param == "library":
        monkeypatch.setattr("offbragg.kernels.compiled", False)
    elif not kernels.compiled:
        pytest.skip("the kernels are not compiled")
    return request.param


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Let a follower in this process notice soon that nothing is left to do."""
    monkeypatch.setattr("offbragg.followers.follow._LOOK_FOR_ABANDONED", 0.05)


@pytest.fixture
def waiting(tmp_path) -> Callable[..., WaitingRun]:
    """Make a run with small frames."""
    made: list[WaitingRun] = []

    def make(**how) -> WaitingRun:
        made.append(WaitingRun(tmp_path / f"run-{len(made)}", **how))
        return made[-1]

    yield make
    for run in made:
        run.journal.close()


def stack_once(run: WaitingRun, late: float = 0.2) -> Path:
    """Finish a run in this process; gives its scan file."""
    failed = follow(
        run.journal_directory, [Stacker(run.experiment, late=late, frames=run.frames.parent)],
        once=True,
    )  # fmt: skip
    assert failed == {"stack": []}
    return run.scan_file()
