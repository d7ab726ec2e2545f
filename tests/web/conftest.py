"""A beamline made from files, its catalog, and a headless Chromium that looks at its page.

Where there is no Chromium, or no playwright, these tests are skipped with the reason. Screenshots
for the documentation are written with ``OFFBRAGG_SCREENSHOTS=1``.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from web.beamline import ShownBeamline, whole_beamline
from web.browser import Watched, chromium

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShownBeamline]:
    """A series of 3 temperatures, a second sample, faults and volumes; served. Change nothing."""
    beamline = whole_beamline(tmp_path_factory.mktemp("page"))
    yield beamline
    beamline.close()


@pytest.fixture(scope="session")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShownBeamline]:
    """Another one, to which tests add runs that grow; the first test finds it without runs."""
    beamline = ShownBeamline.create(tmp_path_factory.mktemp("growing"))
    beamline.begin()
    beamline.wait()
    yield beamline
    beamline.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium with nothing remembered; of one file, as playwright's loop runs while it lives."""
    if PROGRAM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with sync_api.sync_playwright() as playwright:
        started = chromium(playwright, PROGRAM)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open pages of a beamline's catalog: ``open_page(beamline, key=True, **context)``.

    At the end of the test there must have been no error in the console, and no request that left
    the origin, except what ``page.watched.expect(text)`` has named.
    """
    made: list[Watched] = []

    def opened(beamline: ShownBeamline, *, key: bool = True, **more: Any) -> Any:
        watched = Watched.open(browser, beamline, key=key, **more)
        made.append(watched)
        return watched.page

    yield opened
    for watched in made:
        watched.close()
    for watched in made:
        watched.check()


@pytest.fixture
def page(open_page: Callable[..., Any], catalog: ShownBeamline) -> Any:
    """A page of `catalog` that has its cookie; ``page.goto("/live#/runs")``."""
    return open_page(catalog)


@pytest.fixture
def screenshot() -> Callable[[Any, str], None]:
    """Write ``docs/images/page-NAME.png`` if asked for: ``screenshot(page, "runs")``."""

    def write(page: Any, name: str) -> None:
        if os.environ.get("OFFBRAGG_SCREENSHOTS"):
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            # 256 colours: half the bytes, and no difference that is seen
            how = {"method": Image.Quantize.MAXCOVERAGE, "kmeans": 4, "dither": Image.Dither.NONE}
            picture = picture.quantize(256, **how)
            picture.save(IMAGES / f"page-{name}.png", optimize=True)

    return write
