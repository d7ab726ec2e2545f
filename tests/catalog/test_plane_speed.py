"""A plane through a slow network: 10 Mbit/s, and 50 ms to the server and back."""

from __future__ import annotations

import time
from typing import Any

import httpx
import numpy as np
import pytest
from slow_network import slow_network

from offbragg.catalog.volumes import publish_volume
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.volume import Volume

GRID = Grid((-500, -500, -4), (1001, 1001, 9), (50, 50, 50))


@pytest.fixture(scope="module")
def large(server) -> Any:
    """A volume of a thousand cells a side, nine thick: Bragg peaks, diffuse scattering, noise."""
    random = np.random.default_rng(0)
    h, k, l = GRID.h[:, None, None], GRID.k[None, :, None], GRID.l[None, None]  # noqa: E741
    apart = sum((x - np.rint(x)) ** 2 for x in (h, k, l))
    mean = 3 + 2 * np.cos(2 * np.pi * h) * np.cos(2 * np.pi * k) + 2000 * np.exp(-apart / 0.001)
    weight = np.where(h**2 + k**2 + l**2 < 95, random.uniform(1, 8, GRID.shape), 0.0)
    volume = Volume(random.poisson(mean * weight).astype(float), weight, GRID)
    path = write_volume(server.root / "thousand.h5", volume, {})
    host, _, port = server.url.removeprefix("http://").partition(":")
    return publish_volume(path, host=host, port=int(port), key=server.key, timeout=60), int(port)


@pytest.mark.parametrize(
    ("level", "most", "seconds"), [(1, 700_000, 1.0), (2, 200_000, 0.3)], ids=["1000", "500"]
)
def test_a_plane_is_there_soon(server, large, level, most, seconds):
    key, port = large
    headers = {"Authorization": f"Apikey {server.key}"}
    with slow_network(port) as slow, httpx.Client(headers=headers, timeout=60) as http:
        begun = time.monotonic()
        answer = http.get(f"http://127.0.0.1:{slow}/volumes/{key}/plane?plane=hk0&level={level}")
        took = time.monotonic() - begun

    assert answer.status_code == 200
    assert most / 4 < len(answer.content) <= most
    assert 8e-7 * len(answer.content) < took < 10 * seconds  # on a busy machine


def test_a_network_is_as_slow_as_it_says(server, large):
    with slow_network(large[1], mbit=1.0, round_trip=0.1) as slow, httpx.Client(timeout=60) as http:
        times = []
        for _ in range(2):
            begun = time.monotonic()
            http.get(f"http://127.0.0.1:{slow}/healthz")
            times.append(time.monotonic() - begun)

    assert times[0] >= 0.2  # to connect, and to ask
    assert times[1] >= 0.1
