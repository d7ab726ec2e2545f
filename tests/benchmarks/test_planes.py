"""What a plane takes: to open, to cut and to draw, CPU time; and all of it from far away.

``poe bench`` takes a volume of 1001 × 1001 × 33 cells, the whole suite a small one, and no server.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from catalog.served import Server
from slow_network import slow_network

from offbragg import kernels
from offbragg.catalog.pictures import draw
from offbragg.catalog.volumes import publish_volume
from offbragg.files.cuts import cut_plane
from offbragg.files.planes import Plane
from offbragg.files.volume_file import VolumeFile
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.volume import Volume

pytestmark = pytest.mark.skipif(not kernels.compiled, reason="the kernels are not compiled")

TARGETS = {1: (1.0, 0.7), 2: (0.3, 0.2)}  # by level: s from far away, MB


@pytest.fixture(scope="module")
def path(request, tmp_path_factory) -> Path:
    """Bragg peaks, diffuse scattering, noise, and cells that were not measured."""
    per_unit = 50 if request.config.getoption("benchmark_only") else 5
    n = 10 * per_unit
    grid = Grid((-n, -n, -16), (2 * n + 1, 2 * n + 1, 33), (per_unit,) * 3)
    random = np.random.default_rng(0)
    h, k, l = grid.h[:, None, None], grid.k[None, :, None], grid.l[None, None]  # noqa: E741
    apart = sum((x - np.rint(x)) ** 2 for x in (h, k, l))
    mean = 3 + 2 * np.cos(2 * np.pi * h) * np.cos(2 * np.pi * k) + 2000 * np.exp(-apart / 0.001)
    weight = random.integers(2**20, 2**23, grid.shape) / 2**20
    weight[h**2 + k**2 + 0 * l > 95] = 0.0
    volume = Volume(random.poisson(mean * weight).astype(float), weight, grid)
    return write_volume(tmp_path_factory.mktemp("planes") / "v.h5", volume, {})


def timed(benchmark: Any, work: Any) -> Any:
    """Time something; CPU time of all its threads stands beside the wall clock."""
    cpu: list[float] = []

    def once() -> Any:
        begun = time.process_time()
        made = work()
        cpu.append(time.process_time() - begun)
        return made

    made = benchmark.pedantic(once, rounds=5, warmup_rounds=1)
    benchmark.extra_info["CPU, ms"] = round(1e3 * min(cpu), 1)
    return made


def test_open(benchmark, path):
    timed(benchmark, lambda: VolumeFile(path).close())


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("name", ["hk0", "h0l", "0kl", "hhl"])
def test_cut(benchmark, path, name, level):
    with VolumeFile(path) as file:
        made = timed(benchmark, lambda: cut_plane(file, Plane.parse(name), level=level))

    assert np.isfinite(made.intensity).any()


@pytest.mark.parametrize("level", [1, 2])
def test_cut_with_sigma(benchmark, path, level):
    with VolumeFile(path) as file:
        made = timed(
            benchmark, lambda: cut_plane(file, Plane.parse("hk0"), level=level, sigma=True)
        )

    assert np.isfinite(made.sigma).any()


@pytest.mark.parametrize("level", [1, 2])
def test_draw(benchmark, path, level):
    with VolumeFile(path) as file:
        cut = cut_plane(file, Plane.parse("hk0"), level=level)

    picture = timed(benchmark, lambda: draw(cut))

    benchmark.extra_info["MB"] = round(len(picture.png) / 1e6, 3)
    assert picture.png.startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def served(path, request, tmp_path_factory) -> Any:
    """Address of the volume, and the key, on a server of its own."""
    if not request.config.getoption("benchmark_only"):
        pytest.skip("tests/catalog/test_plane_speed.py does it")
    server = Server.start(tmp_path_factory.mktemp("served") / "catalog", path.parent)
    port = int(server.url.rpartition(":")[2])
    key = publish_volume(path, host="127.0.0.1", port=port, key=server.key, timeout=60)
    yield port, key, {"Authorization": f"Apikey {server.key}"}
    server.end()


@pytest.mark.parametrize("level", [1, 2], ids=["1000", "500"])
@pytest.mark.parametrize("connection", ["new", "kept"])
def test_from_far_away(benchmark, served, level, connection):
    """At 10 Mbit/s and 50 ms to the server and back; each time another plane."""
    port, key, headers = served
    target, most = TARGETS[level]
    places = iter(range(-15, 16))
    with slow_network(port) as slow:
        address = f"http://127.0.0.1:{slow}"
        shared = httpx.Client(base_url=address, headers=headers, timeout=60)

        def ask(http: httpx.Client) -> httpx.Response:
            query = f"plane=hk&value={next(places) / 50}&level={level}"
            return http.get(f"/volumes/{key}/plane?{query}").raise_for_status()

        def once() -> httpx.Response:
            if connection == "kept":
                return ask(shared)
            with httpx.Client(base_url=address, headers=headers, timeout=60) as http:
                return ask(http)

        answer = benchmark.pedantic(once, rounds=5, warmup_rounds=1)
        shared.close()

    size = len(answer.content) / 1e6
    benchmark.extra_info |= {"MB": round(size, 3), "target, s": target, "target, MB": most}
    assert size <= most
