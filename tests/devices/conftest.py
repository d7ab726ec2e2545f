"""Another simulated beamline, for processes that cannot share this one's Channel Access."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest


@pytest.fixture
def serve(tmp_path):
    """Start an IOC as a child; gives the process and what its ready file says."""
    started = []

    def start(*arguments):
        ready = tmp_path / f"ready{len(started)}.json"
        with (tmp_path / f"output{len(started)}").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "sim_iocs", "--ready", str(ready), *arguments],
                stdout=output, stderr=output,
            )  # fmt: skip
        started.append(process)
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return process, json.loads(ready.read_text())

    yield start
    for process in started:
        process.terminate()
        process.wait(10)
