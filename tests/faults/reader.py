"""Somebody who reads a scan file while it is written: h5py and SHA-256, nothing of offbragg.

``python reader.py HOW EXPECTED.json PAUSE``: says ``ready``, takes the path of the file from its
standard input, and reads until SIGTERM; then it reads everything once more and says as JSON what it
saw. HOW is ``keeps`` (the file stays open) or ``reopens``. EXPECTED has the SHA-256 of each frame,
PAUSE is the time between two looks, s.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  the filter of the stack
import numpy as np


def main() -> None:
    how, expected, pause = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), sys.argv[3]
    report: dict[str, Any] = {"looks": 0, "reads": 0, "while_it_grew": 0, "problems": []}
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    print("ready", flush=True)
    path = sys.stdin.readline().strip()
    file, stored = None, set[int]()
    while True:
        last = bool(ended)
        try:
            file = file or h5py.File(path, "r", swmr=True, locking=False)
        except OSError:  # its writer has not begun SWMR
            time.sleep(0.005)
            continue
        try:
            stored = look(file, stored, expected, report, everything=last)
        except Exception as error:
            report["problems"].append(f"{how}: {error!r}")
        if how == "reopens":
            file.close()
            file = None
        if last or len(report["problems"]) > 20:
            break
        time.sleep(float(pause))
    report["stored"] = len(stored)
    print(json.dumps(report), flush=True)


def look(
    file: h5py.File, before: set[int], expected: list[str], report: dict, *, everything: bool
) -> set[int]:
    """Ask what is stored, and only then read it."""
    rows, data, problems = file["entry/frames"], file["entry/data/data"], report["problems"]
    status, source = rows["status"], rows["source"]
    status.refresh()
    stored = {n for n, word in enumerate(status[()].tolist()) if word == b"stored"}
    problems += [f"{n} was stored and is not" for n in sorted(before - stored)]
    data.refresh()
    source.refresh()
    length, names = data.shape[0], source[()].tolist()
    some = set(random.sample(sorted(stored), min(3, len(stored))))
    for n in sorted(stored if everything else (stored - before) | some):
        if n >= length:
            problems.append(f"{n} is stored and beyond the end, {length}")
            continue
        if names[n] != b"x_%05d.cbf" % n:
            problems.append(f"{n} has the row of {names[n]!r}")
        if (found := sha256(data[n])) != expected[n]:
            whose = expected.index(found) if found in expected else "nobody"
            problems.append(f"{n} has the pixels of {whose}")
    for n in sorted(set(range(length)) - stored)[:1]:
        counts = data[n]  # it may be stored by now
        if np.any(counts != -1) and sha256(counts) != expected[n]:
            problems.append(f"{n} is not stored and reads as something")
    report["looks"] += 1
    report["reads"] += len(stored if everything else (stored - before) | some)
    report["while_it_grew"] += 0 < len(stored) < len(expected)
    return stored


def sha256(counts: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(counts, "<i4")).hexdigest()


if __name__ == "__main__":
    main()
