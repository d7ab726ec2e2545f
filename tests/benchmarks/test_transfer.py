"""Bytes and CPU time that a frame costs from host to host, compressed and as it is.

``pytest tests/benchmarks/test_transfer.py --benchmark-only -n 0 -s`` prints the table.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from far_host import Far
from runs import MeasuredRun
from streams import generated, real_files

from sim_iocs.cbf import encode_cbf

N_FRAMES = 120
SEND = """
import json, resource, sys, threading, time
from pathlib import Path
from offbragg.transfer import packing
from offbragg.transfer.keys import read_key
from offbragg.transfer.send import Sender
address, key, receiver, near, packed = sys.argv[1:]
if packed == "plain":
    packing.Packer.pack = lambda self, content: None
sender = Sender(address, read_key(Path(key)), receiver, journal=Path(near) / "journal",
                frames=Path(near) / "frames")
began, used = time.monotonic(), time.process_time()
sent = sender.run(threading.Event(), once=True)
print(json.dumps([sent.files, sent.bytes, sent.link_bytes, time.monotonic() - began,
                  time.process_time() - used]))
"""


def contents_of(source: str) -> list[bytes]:
    if source == "real":
        return [path.read_bytes() for path in real_files()]
    header = ["Exposure_time 0.1 s"]
    frame = generated()
    return [
        encode_cbf(np.where(frame < 0, frame, np.roll(np.maximum(frame, 0), 7 * n, axis=1)),
                   name="x", header=header)
        for n in range(8)
    ]  # fmt: skip


@pytest.mark.parametrize("frames", ["generated", "real"])
def test_a_frame_from_host_to_host(frames: str, tmp_path: Path, report, benchmark):
    contents = contents_of(frames)
    if not contents:
        pytest.skip("the real frames (../shared/data/l-cysteine) are not here")
    run = MeasuredRun(tmp_path / "near", n_frames=N_FRAMES).begin()
    for number in range(N_FRAMES):
        start = f"Start_angle {-145 + 0.1 * number:.4f}".encode()
        content = re.sub(rb"Start_angle [-0-9.]+", start, contents[number % len(contents)])
        run.path(number).write_bytes(content)
    run.announce(N_FRAMES)
    run.end()
    for way in ("plain", "packed"):
        (tmp_path / way).mkdir()
        far = Far(tmp_path / way)
        with far.receiving():
            before = time.process_time()
            command = [
                sys.executable, "-c", SEND, far.address, str(far.root / "near.key"),
                far.key.public, str(tmp_path / "near"), way,
            ]  # fmt: skip
            run_it = partial(subprocess.run, command, capture_output=True, text=True, check=True)
            done = benchmark.pedantic(run_it, rounds=1) if way == "packed" else run_it()
            there = time.process_time() - before
        files, size, on_link, took, here = json.loads(done.stdout)
        assert files == N_FRAMES
        far.check(run, *range(N_FRAMES))
        report(
            f"{frames}, {way}: MB of a frame, on the link",
            f"{size / files / 1e6:.2f}, {on_link / files / 1e6:.3f} ({size / on_link:.1f} ×)",
        )
        report(
            f"{frames}, {way}: CPU ms a frame, here and there; frames/s",
            f"{1e3 * here / files:.1f}, {1e3 * there / files:.1f}; {files / took:.0f}",
        )
