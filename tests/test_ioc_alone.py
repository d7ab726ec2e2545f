"""The simulated instruments are tested in a process of their own.

These tests hold records with plain pyepics that ophyd holds elsewhere, and libca does not give
one record to both in one process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.ioc
@pytest.mark.timeout(500)
def test_the_simulated_instruments_pass_their_tests():
    # most of their time they wait, each file for an IOC of its own
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=90", "-n", "2", str(HERE / "ioc")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=HERE.parent,
        timeout=480,
        check=False,
    )

    print(done.stdout[-20_000:])
    assert done.returncode == 0, done.stdout[-5000:]
