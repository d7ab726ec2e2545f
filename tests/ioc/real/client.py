"""What the clients of the tests have in common; each is a process with a libca of its own."""

import json
import sys
import time
from typing import Any

from epics import PV

given: dict[str, Any] = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {"parts": {}}
parts: dict[str, str] = given["parts"]
found: dict[str, Any] = {}
completed: dict[str, float] = {}
_pvs: dict[str, PV] = {}


def pv(part: str) -> PV:
    """Connect to a record by the part that it plays."""
    if part not in _pvs:
        _pvs[part] = PV(parts.get(part, part), auto_monitor=False, form="time")
    assert _pvs[part].wait_for_connection(timeout=10), part
    return _pvs[part]


def get(part: str) -> Any:
    """Ask the server."""
    return pv(part).get(use_monitor=False, timeout=90)


def timed(part: str) -> float:
    """Ask the server; returns how long that took, s."""
    began = time.monotonic()
    assert get(part) is not None
    return time.monotonic() - began


def send(part: str, value: Any) -> None:
    """Put without completion."""
    pv(part).put(value)


def begin(part: str, value: Any, name: str) -> None:
    """Put with completion, and do not wait: ``completed[name]`` is how long it took, s."""
    began = time.monotonic()
    pv(part).put(value, callback=lambda **_: completed.setdefault(name, time.monotonic() - began))


def put(part: str, value: Any) -> None:
    """Put and wait for the completion."""
    assert pv(part).put(value, wait=True, timeout=60) == 1, part


def until(condition: Any, seconds: float = 90.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.01)


def busy_for(seconds: float) -> None:
    """Prepare the busy record to be busy for this many seconds."""
    if "folder" in parts:
        for name, value in {
            "FilePath": parts["folder"], "FileName": "x", "FileTemplate": "%s%s_%d.cbf",
        }.items():  # fmt: skip
            put(f"SIM:cam1:{name}", value.encode() + b"\0")
        put("SIM:cam1:NumImages", 1)
    put("seconds", seconds)


def slow_by(seconds: float) -> None:
    """Let the driver of the slow record need this many seconds."""
    put("delay", seconds)
