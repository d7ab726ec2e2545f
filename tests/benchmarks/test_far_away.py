"""Bytes and seconds of what is asked for from far away: 10 Mbit/s, 50 ms there and back, 1 % loss.

``pytest -m slow -s tests/benchmarks/test_far_away.py -n 0`` prints the table of the docs, once over
a network namespace, and once over a proxy that is as slow.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalog.served import PublishedRun, Server
from far_away import HOST, far_away
from slow_network import slow_network
from streams import SHAPE_2M, generated

from offbragg import kernels
from offbragg.catalog.client import connect
from offbragg.catalog.volumes import publish_volume
from offbragg.files.volume_writer import write_volume
from offbragg.frame import Frame
from offbragg.grid import Grid
from offbragg.volume import Volume

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not kernels.compiled, reason="the kernels are not compiled"),
]

N_FRAMES = 500
GRID = Grid((-250, -250, -8), (501, 501, 17), (25, 25, 25))
SERVE = """
import sys
from pathlib import Path
from offbragg.catalog.server import serve
directory, root, ready, parent, port = sys.argv[1:]
serve(Path(directory), [Path(root)], ready=Path(ready), parent=int(parent), host="{host}")
"""
ASK = """
import json, sys, time, httpx
url, key = sys.argv[1:3]
took = []
for path, accepted in json.loads(sys.stdin.read()):
    headers = {"Authorization": f"Apikey {key}"}
    headers |= {"Accept-Encoding": accepted} if accepted else {}
    begun = time.monotonic()
    with httpx.Client(base_url=url, headers=headers, timeout=300) as http:  # and to connect
        with http.stream("GET", path) as answer:
            size = sum(len(piece) for piece in answer.iter_raw())
    assert answer.status_code == 200, (path, answer.status_code)
    took.append([size, time.monotonic() - begun])
print(json.dumps(took))
"""
ROI = "index=0:500&roi=400:500,700:800"


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Path, str, str]:
    """A run of 500 frames of a 2M and a volume, in a catalog that is not served any more."""
    base = tmp_path_factory.mktemp("far")
    (base / "data").mkdir()
    server = Server.start(base / "catalog", base / "data")
    try:
        uid = publish_run(server)
        path = write_volume(base / "data" / "v.h5", volume_of_noise(), {})
        host, _, port = server.url.removeprefix("http://").partition(":")
        return base, uid, publish_volume(path, host=host, port=int(port), key=server.key)
    finally:
        server.end()


class LargeRun(PublishedRun):
    """A run of a 2M."""

    @property
    def start(self) -> dict[str, Any]:
        start = super().start
        start["geometry"]["panel"]["shape"] = start["detector"]["shape"] = list(SHAPE_2M)
        return start


def publish_run(server: Server) -> str:
    one = LargeRun(server.root / "run", client=connect(server.url, server.key), n_frames=N_FRAMES)
    one.begin()
    one.create_scan_file()
    frame = generated()
    for number in range(N_FRAMES):
        counts = np.where(frame < 0, frame, np.roll(np.maximum(frame, 0), 7 * number, axis=1))
        one.scan.write_frame(
            Frame(number=number, counts=counts, header={}),
            source=f"x_{number:05d}.cbf",
            time=one.began + number,
        )
    one.announce(N_FRAMES)
    one.finish()
    one.open()
    while not one.feed():
        pass
    one.journal.close()
    return one.uid


def volume_of_noise() -> Volume:
    random = np.random.default_rng(0)
    h, k, l = GRID.h[:, None, None], GRID.k[None, :, None], GRID.l[None, None]  # noqa: E741
    mean = 3 + 2 * np.cos(2 * np.pi * h) * np.cos(2 * np.pi * k) + 0 * l
    weight = random.uniform(1, 8, GRID.shape)
    return Volume(random.poisson(mean * weight).astype(float), weight, GRID)


@contextlib.contextmanager
def over_a_proxy(base: Path) -> Iterator[tuple[str, str, list[str]]]:
    server = Server.start(base / "catalog", base / "data")
    try:
        with slow_network(int(server.url.rpartition(":")[2]), loss=0.01) as port:
            yield f"http://127.0.0.1:{port}", server.key, []
    finally:
        server.end()


@contextlib.contextmanager
def over_a_namespace(base: Path) -> Iterator[tuple[str, str, list[str]]]:
    with far_away() as there:
        print(f"\n{there.link}")
        program = SERVE.format(host=HOST)
        server = Server.start(base / "catalog", base / "data", program=program)
        try:
            yield server.url, server.key, there.command()
        finally:
            server.end()


@pytest.mark.parametrize("network", [over_a_proxy, over_a_namespace])
def test_what_is_asked_for_from_far_away(measured, network):
    base, uid, key = measured
    run, volume = f"/runs/{uid}", f"/volumes/{key}"
    tiled = f"/api/v1/array/full/raw/{uid}/primary/pilatus_image?format=application/octet-stream"
    verbs: dict[str, tuple[str, str, int]] = {  # the path, what is accepted, bytes at most
        "last frame, PNG of 840 × 738": (f"{run}/frames/last", "", 300_000),
        "the same, the maximum of 2 × 2": (f"{run}/frames/last?bin=max", "", 250_000),
        "last frame, counts": (f"{run}/frames/last?format=bytes", "", 1_100_000),
        "100 × 100 pixels of 500 frames": (f"{run}/frames?{ROI}&format=bytes", "", 2_200_000),
        "the same, `npy`": (f"{run}/frames?{ROI}&format=npy", "", 3_500_000),
        "their sums": (f"{run}/frames?{ROI}&format=sum", "", 10_000),
        "100 × 100 × 500, Tiled, compressed": (
            f"{tiled}&slice=0:500,400:500,700:800", "gzip, deflate, zstd, blosc2", 20_000_000,
        ),
        "100 × 100 × 500, Tiled": (
            f"{tiled}&slice=0:500,400:500,700:800", "identity", 20_000_000,
        ),
        "ledger": (f"{run}/ledger", "", 2_000),
        "runs, the newest 50": ("/runs", "", 2_000),
        "one run": (run, "", 5_000),
        "plane of 501 × 501 cells, PNG": (f"{volume}/plane?plane=hk0", "", 200_000),
        "the same, `npy`, cells of 2³": (f"{volume}/plane?level=2&format=npy", "", 260_000),
        "line of 501 cells with σ": (f"{volume}/line?line=h,0.5,0&sigma=1", "", 30_000),
        "box of 21 × 21 × 9 cells": (
            f"{volume}/box?box=-0.4:0.4,-0.4:0.4,-0.16:0.16&format=npy", "", 20_000,
        ),
        "volumes": ("/volumes", "", 2_000),
    }  # fmt: skip
    with network(base) as (url, password, where):
        asked = json.dumps([(path, accepted) for path, accepted, _ in verbs.values()])
        answer = subprocess.run(
            [*where, sys.executable, "-c", ASK, url, password],
            input=asked, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert answer.returncode == 0, answer.stderr

    took: dict[str, Any] = dict(zip(verbs, json.loads(answer.stdout), strict=True))
    print(f"\n| {network.__name__.replace('_', ' ')} | bytes | s |\n| --- | --- | --- |")
    for name, (size, seconds) in took.items():
        print(f"| {name} | {size:,} | {seconds:.2f} |")
    for name, (_, _, most) in verbs.items():
        assert took[name][0] <= most, name
    ours, plain = took["100 × 100 pixels of 500 frames"], took["100 × 100 × 500, Tiled"]
    packed = took["100 × 100 × 500, Tiled, compressed"]
    assert plain[0] >= 5 * ours[0]
    assert plain[1] >= 5 * ours[1]
    assert packed[0] >= 1.5 * ours[0]
    assert packed[1] >= 2 * ours[1]
