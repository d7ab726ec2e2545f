"""Neuroglancer shows volumes of the catalog, in headless Chromium.

It needs Chromium (Debian's package) and ``pip install neuroglancer``; pictures of what was seen are
left in the test's directory.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalog.chromium import PROGRAM, Page, browser
from catalog.served import SERVE, Server
from catalog.test_volumes import published, written
from runs import wait_until

from offbragg.catalog.authentication import reading_key
from offbragg.catalog.viewer import client_directory
from offbragg.grid import Grid
from offbragg.volume import Volume

pytestmark = [
    pytest.mark.web,
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed"),
    pytest.mark.skipif(client_directory() is None, reason="neuroglancer is not installed"),
]

GRID = Grid((-60, -50, -40), (121, 101, 81), (20, 20, 20))
SETTLED = 60.0  # s
BOUNDS = """(() => {
  const space = viewer.coordinateSpace.value;
  return [space.names, [...space.bounds.lowerBounds], [...space.bounds.upperBounds]];
})()"""
FETCHED = """fetch({}, {{credentials: "include"}}).then(
  (answer) => answer.json().then((group) => group.node_type), (error) => "blocked")"""


def peaks() -> Volume:
    """A peak at each whole h, k, l, and a sheet of diffuse scattering where h is k."""
    h, k, l = np.meshgrid(GRID.h, GRID.k, GRID.l, indexing="ij")  # noqa: E741
    off = sum((x - np.round(x)) ** 2 for x in (h, k, l))
    intensity = 1 + 500 * np.exp(-off / 0.01) + 20 * np.exp(-((h - k) ** 2) / 0.02)
    weight = np.where(h**2 + k**2 + l**2 < 9, 10.0, 0.0)
    return Volume(np.round(intensity * weight), weight, GRID)


class Quiet(SimpleHTTPRequestHandler):
    """Serves a page, and logs nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two other origins from which pages come."""
    directory = tmp_path_factory.mktemp("pages")
    (directory / "index.html").write_text("<title>a page</title>")
    handler = functools.partial(Quiet, directory=str(directory))
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    for each in servers:
        threading.Thread(target=each.serve_forever, daemon=True).start()
    yield [f"http://127.0.0.1:{each.server_port}" for each in servers]
    for each in servers:
        each.shutdown()
        each.server_close()


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, pages: list[str]) -> Iterator[Server]:
    """A catalog that pages of the first origin may read."""
    base = tmp_path_factory.mktemp("viewed")
    (base / "data").mkdir()
    program = SERVE.replace("port=int(port)", f"port=int(port), allow_origins=[{pages[0]!r}]")
    started = Server.start(base / "catalog", base / "data", program=program)
    yield started
    started.end()


@pytest.fixture(scope="module")
def key(catalog: Server) -> str:
    return published(catalog, written(catalog.root / "peaks.h5", peaks()))


@pytest.fixture(scope="module")
def reading(catalog: Server) -> str:
    return reading_key(catalog.key, ends=time.time() + 3600)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with browser(tmp_path) as opened:
        yield opened


def settled(page: Page) -> None:
    """Wait until all that is in view is drawn."""
    ready = "typeof viewer !== 'undefined' && viewer.isReady()"
    wait_until(lambda: page.evaluate(ready) is True, SETTLED, "neuroglancer")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 500)))")


def first_panel(pixels: Any) -> Any:
    """The plane of h and k, without the names of the axes and the bar of the scale."""
    return pixels[60:340, 30:340]


def drawn(pixels: Any) -> tuple[float, float]:
    """Which parts of a picture are peaks (red), and what lies between them (blue)."""
    red, green, blue = np.moveaxis(pixels.astype(int), -1, 0)
    return (
        float(((red > 100) & (green < 60) & (blue < 60)).mean()),
        float(((blue > 100) & (red < 60)).mean()),
    )


def test_a_volume_is_drawn_with_the_key_in_a_cookie(page, catalog, key, reading, tmp_path):
    page.open(f"{catalog.url}/view/{key}?api_key={reading}")
    settled(page)
    pixels = first_panel(page.pixels(tmp_path / "same-origin.png"))

    assert reading not in page.evaluate("location.href")
    names, low, high = page.evaluate(BOUNDS)
    assert names == ["h", "k", "l"]
    # a cell reaches half a cell to each side of its label
    np.testing.assert_allclose(low, np.array(GRID.first) - 0.5)
    np.testing.assert_allclose(high, np.array(GRID.end) - 0.5)
    peaks_drawn, between = drawn(pixels)
    assert 0.03 < peaks_drawn < 0.4
    assert between > 0.2
    # the sheet of h = k rises to the right: its ends are in two corners only
    assert drawn_sheet(pixels)


def drawn_sheet(pixels: Any) -> bool:
    """Whether there is more green on the diagonal that rises than on the one that falls."""
    green = (pixels[..., 1].astype(int) > 120) & (pixels[..., 0] < 200)
    rows, columns = np.nonzero(green)
    across = (columns - columns.mean()) * (rows - rows.mean())
    return bool(across.mean() < -500)


def test_without_a_key_there_is_nothing_to_see(page, catalog, key):
    page.open(f"{catalog.url}/view/{key}")
    wait_until(
        lambda: "key is needed" in page.evaluate("document.body.innerText"), 20.0, "the reason"
    )


def test_a_page_of_another_origin_reads_only_where_it_is_configured(
    page, catalog, key, reading, pages
):
    address = json.dumps(f"{catalog.url}/zarr/v3/volumes/{key}/zarr.json")
    page.open(f"{catalog.url}/view/{key}?api_key={reading}")  # for the cookie
    settled(page)

    found = []
    for each in pages:
        page.open(f"{each}/")
        wait_until(lambda at=each: page.evaluate("location.origin") == at, 10.0, "the page")
        found.append(page.evaluate(FETCHED.format(address)))

    assert found == ["group", "blocked"]
