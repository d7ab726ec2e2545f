"""Both ends in network namespaces, over a link that loses packets and is cut."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from far_host import Ends, Far
from lossy_link import FAR, lossy_link
from runs import MeasuredRun, wait_until
from streams import generated

from offbragg.files.abandoned import close_all_abandoned
from sim_iocs.cbf import encode_cbf

RATE = 20.0  # Mbit/s
N_FRAMES = 30
TAKE = f"""
import socket, time
with socket.create_server(("{FAR}", 5555)) as server:
    print("up", flush=True)
    taken, size, began = server.accept()[0], 0, None
    while piece := taken.recv(1 << 20):
        size += len(piece)
        if began is None and size > 1e6:  # as for the frames: without the first
            size, began = 0, time.monotonic()
print(8e-6 * size / (time.monotonic() - began))
"""
GIVE = f"""
import socket, sys
with socket.create_connection(("{FAR}", 5555)) as there:
    there.sendall(bytes(int(sys.argv[1])))
"""


def measured(near: Path, n_frames: int, *, large: bool = False) -> MeasuredRun:
    run = MeasuredRun(near, n_frames=n_frames).begin()
    if large:
        frame = generated()
        header = ["Exposure_time 0.1 s", "Start_angle 0000.0 deg."]
        contents = [
            encode_cbf(np.where(frame < 0, frame, np.roll(np.maximum(frame, 0), 7 * n, axis=1)),
                       name="x", header=header)
            for n in range(8)
        ]  # fmt: skip
        for number in range(n_frames):
            angle = f"Start_angle {number:06.1f}".encode()
            content = contents[number % 8].replace(b"Start_angle 0000.0", angle)
            run.path(number).write_bytes(content)
    else:
        run.write(*range(n_frames))
    run.announce(n_frames)
    run.end()
    return run


@pytest.mark.parametrize(
    "cuts",
    [3, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_nothing_is_lost_when_link_and_ends_are_cut(far: Far, tmp_path: Path, cuts: int, capsys):
    """Cut in turns: the link, the sender, the receiver; at any moment, mostly within a piece."""
    chance = random.Random(19)
    large = cuts > 10
    near = tmp_path / "near"
    # so much that it is never all there before the last cut
    runs = [measured(near, cuts if large else 30, large=large) for _ in range(2)]
    frames = far.folder / "frames"
    within = 0
    with lossy_link(mbit=10 if large else 4, round_trip=0.02, loss=0.01) as link:
        ends = Ends(far, near, link)
        logs = [(tmp_path / f"{end}.log").open("a") for end in ("receive", "send")]
        receiver, sender = ends.receive(stderr=logs[0]), ends.send(stderr=logs[1])
        try:
            for cut in range(cuts):
                n = _files(frames)
                wait_until(lambda n=n: _files(frames) > n, timeout=120)
                time.sleep(0.1 * chance.random())
                within += any(frames.rglob("*.part"))
                if cut % 20 == 0:
                    with capsys.disabled():
                        print(f"\n{cut} cuts, {_files(frames)} files", flush=True)
                if cut % 3 == 0:
                    link.tell("cut")
                    long = large and cut % 30 == 0  # beyond the patience of both ends
                    time.sleep(25 if long else 0.2 + chance.random())
                    link.tell("mend")
                elif cut % 3 == 1:
                    sender.kill()
                    sender.wait()
                    sender = ends.send(stderr=logs[1])
                else:
                    receiver.kill()
                    receiver.wait()
                    assert close_all_abandoned(far.folder / "journal").runs == ()
                    receiver = ends.receive(stderr=logs[0])
            assert sum(1 for _ in frames.rglob("*.cbf")) < sum(run.n_frames for run in runs)
            sender.kill()
            sender.wait()
            done = ends.send("--once", stdout=subprocess.PIPE)
            answer, _ = done.communicate(timeout=600)
            assert done.returncode == 0
            assert json.loads(answer)["refused"] == 0
        finally:
            for process in (sender, receiver):
                process.kill()
                process.wait()
            for log in logs:
                log.close()
        counts = link.counts()
    with capsys.disabled():
        print(f"\n{cuts} cuts, {within} with a file half there; the link: {counts}")
    for run in runs:
        far.check(run, *range(run.n_frames))
    assert counts["lost"] > 0
    assert within > 0


def _files(frames: Path) -> int:
    return sum(1 for _ in frames.rglob("*.cbf"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("congestion", ["", "reno"])
def test_part_of_the_link_that_is_used(tmp_path: Path, congestion: str, capsys):
    """``pytest -m slow -n 0 tests/transfer/test_link.py -k part`` prints a table.

    Without a name the congestion control is the kernel's own. Beside it what a plain TCP connection
    uses of the same link, for as long: on a busy machine that is not all of it either.
    """
    run = measured(tmp_path / "near", N_FRAMES, large=True)
    lines = []
    for round_trip in (0.01, 0.05, 0.1):
        for loss in (0.0, 0.01, 0.02):
            far = Far(_new(tmp_path / f"{round_trip}-{loss}"))
            with lossy_link(
                mbit=RATE, round_trip=round_trip, loss=loss, congestion=congestion
            ) as link:
                used, counts = _throughput(Ends(far, tmp_path / "near", link), far, link)
                plain = _plain(link)
            far.check(run, *range(N_FRAMES))
            lines.append(
                f"| {congestion} | {1e3 * round_trip:.0f} | {100 * loss:.0f} | {used:.2f} | "
                f"{plain:.2f} | "
                f"{counts['lost']} of {counts['packets']} |"
            )
            with capsys.disabled():
                print(lines[-1])


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _plain(link) -> float:
    """Return the part of the link that a TCP connection uses."""
    taking = subprocess.Popen(
        link.command(link.far, sys.executable, "-c", TAKE), stdout=subprocess.PIPE, text=True
    )
    assert taking.stdout is not None
    taking.stdout.readline()
    size = str(int(RATE * 1e6 / 8 * 8))  # as much as the link takes in 8 s
    subprocess.run(link.command(link.near, sys.executable, "-c", GIVE, size), check=True)
    return float(taking.communicate(timeout=120)[0]) / RATE


def _throughput(ends: Ends, far: Far, link) -> tuple[float, dict[str, int]]:
    """Return the part of the link that frames took, from the first that is there to the last."""
    frames = far.folder / "frames"
    receiver = ends.receive()
    sender = ends.send("--once", stdout=subprocess.PIPE)
    try:
        wait_until(lambda: _files(frames) > 1, timeout=60)
        began, first = time.monotonic(), _files(frames)
        link.counts()
        wait_until(lambda: _files(frames) == N_FRAMES, timeout=300)
        took = time.monotonic() - began
        counts = link.counts()
        answer = json.loads(sender.communicate(timeout=60)[0])
    finally:
        for process in (sender, receiver):
            process.kill()
            process.wait()
    size = answer["link_bytes"] * (N_FRAMES - first) / N_FRAMES
    return 8e-6 * size / took / RATE, counts
