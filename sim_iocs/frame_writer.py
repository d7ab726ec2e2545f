"""The process that makes frames and writes their files.

Channel Access is answered by the parent; here a frame is evaluated, counted, encoded and written,
so neither waits for the other's interpreter lock. One JSON object per line comes in on stdin and
goes out on stdout; when stdin closes, the parent is gone and so is this process.

In: ``{"frame": ..}`` (see ``Worker.write``). Out: ``{"ready": ..}`` once, then one
``{"written": name}`` or ``{"failed": name, "why": ..}`` per frame.
"""

from __future__ import annotations

import json
import os
import pwd
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .cbf import MAGIC, encode_cbf
from .crystal import GAP, Crystal, Exposure
from .replay import Replay
from .tiff import encode_tiff

MEASURED = (0.01, 0.1)  # s, exposures
MEASURING = 0.1  # s, for each of them: the best of many is what a quiet host can do


class Worker:
    """Writes the frames that are requested, one after the other."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.replay: Replay | None = None
        self.crystal: Crystal | None = None
        self._last: bytes | None = None
        if options.get("replay"):
            self.replay = Replay.open(Path(options["replay"]))
        else:
            self.crystal = Crystal(options["detector"], seed=options["seed"])

    def measure(self) -> dict[str, Any]:
        """Make some frames, and say how much of a processor's time one takes.

        Counts are drawn the slower, the more of them there are: there are ``seconds`` for each of
        the exposures ``at`` (s), between which it may be interpolated.
        """
        if self.crystal is None:
            assert self.replay is not None
            times = []
            for _ in range(10):
                began = time.process_time()
                self.replay.read(0)
                times.append(time.process_time() - began)
            # writing takes as long again, and the disk has its moods
            return {"at": [0.0], "seconds": [max(3.0 * min(times), 0.002)]}
        best = []
        for seconds in MEASURED:
            times = []
            while len(times) < 2 or sum(times) < MEASURING:
                number = len(times)
                began = time.process_time()
                angles = self.crystal.typical_angles(number)
                counts = self.crystal.count(Exposure(number, angles, seconds))
                encode_cbf(counts, name="measure", header=[])
                times.append(time.process_time() - began)
            best.append(min(times))
        return {"at": list(MEASURED), "seconds": best}

    def write(self, task: dict[str, Any]) -> None:
        """Make one frame and write its file.

        The task has ``path``, ``number`` (from 0 in its series), ``header`` (lines), ``taken``
        (POSIX s), ``exposure`` (fields of ``Exposure``), ``gap_fill`` (what the pixels between
        modules read) and ``fault`` (None, "drop", "flip", "truncate", "resize", "oversize"
        or "duplicate": the frame before once more).
        """
        path = Path(task["path"])
        fault = task.get("fault")
        if fault == "drop":
            return
        content = self.content(task, path)
        if fault == "duplicate" and self._last is not None:
            content = self._last
        self._last = content
        if fault == "flip":
            content = flip_bit(content)
        elif fault == "truncate":
            content = content[: len(content) // 2]
        path.write_bytes(content)

    def content(self, task: dict[str, Any], path: Path) -> bytes:
        """Make the bytes of a frame file."""
        if self.replay is not None:
            return self.replay.read(task["number"])
        assert self.crystal is not None
        counts = self.crystal.count(Exposure(**task["exposure"]))
        if task["gap_fill"] != GAP:
            counts[self.crystal.gaps] = task["gap_fill"]
        if task.get("fault") == "resize":
            counts = counts[:-1]
        elif task.get("fault") == "oversize":
            counts = np.vstack([counts, counts[-1:]])
        if path.suffix.lower() == ".cbf":
            return encode_cbf(counts, name=path.stem, header=task["header"])
        return encode_tiff(counts, model=task["model"], header=task["header"], taken=task["taken"])


def flip_bit(content: bytes) -> bytes:
    """Flip one bit in the middle of the pixels; the declared MD5 stays as it was."""
    start = max(content.find(MAGIC), 0)
    damaged = bytearray(content)
    damaged[start + 4 + (len(content) - start - 4) // 3] ^= 0x04
    return bytes(damaged)


def become(name: str) -> None:
    """Go on as another user, who may write where that one may."""
    user = pwd.getpwnam(name)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def main() -> None:
    """Serve until stdin closes."""
    options = json.loads(sys.stdin.readline())

    def say(**message: Any) -> None:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()

    worker = Worker(options)
    if options.get("user"):
        become(options["user"])
    say(ready=worker.measure())
    for line in sys.stdin:
        task = json.loads(line)
        try:
            worker.write(task)
        except (OSError, ValueError) as problem:
            say(failed=task["path"], number=task["number"], why=str(problem))
        else:
            say(written=task["path"], number=task["number"])


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(0)
