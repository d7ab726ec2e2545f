"""What a person sees in a browser while `offbragg demo` runs: the picture of the README."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from runs import wait_until
from web.browser import Watched

from offbragg.catalog.authentication import reading_key

pytestmark = [pytest.mark.web, pytest.mark.slow]
sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
expect = sync_api.expect

LONGEST = 900_000  # ms, of the demo on a host that does other things, too


@dataclass
class Demo:
    """The catalog of a demo, as `Watched` needs it."""

    root: Path

    @property
    def url(self) -> str:
        return json.loads((self.root / "log" / "catalog.json").read_text())["url"]

    @property
    def reading_key(self) -> str:
        key = (self.root / "offbragg-data" / "catalog" / "key").read_text().strip()
        return reading_key(key, ends=time.time() + 3600)


@pytest.fixture
def demo(tmp_path):
    command = [sys.executable, "-m", "offbragg", "demo", "--keep", "--out", str(tmp_path / "demo")]
    with (tmp_path / "demo.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    ready = tmp_path / "demo" / "log" / "catalog.json"
    wait_until(lambda: ready.exists() or process.poll() is not None, 300.0, "the catalog")
    assert process.poll() is None, (tmp_path / "demo.txt").read_text()
    yield Demo(tmp_path / "demo")
    process.terminate()
    process.wait(timeout=60)


def test_the_board_fills_while_the_demo_measures(demo, browser, screenshot):
    watched = Watched.open(browser, demo, dark=bool(os.environ.get("OFFBRAGG_DARK")))
    watched.expect("404", "503")  # before the first run, and while a volume is replaced
    page = watched.page
    page.goto(f"{demo.url}/live/#/experiment?plane=hk0.5")

    measured = page.locator(".cell[data-state='measured'].pictured")
    growing = page.locator(".cell[data-state='measuring'].pictured")
    law = page.locator(".law").first

    def fills():
        return measured.count() + growing.count() >= 6 and "Tc = 1" in law.inner_text()

    wait_until(fills, LONGEST / 1000, "the sixth temperature")
    expect(page.locator(".stage-panel.waiting")).to_have_count(0)
    screenshot(page, "demo")
    expect(measured).to_have_count(6, timeout=LONGEST)
    expect(law).to_contain_text(
        re.compile(r"Tc = 1(49|50)\."), timeout=60_000
    )  # of the simulated crystal: 150 K
    page.goto(f"{demo.url}/live/#/runs/4")
    expect(page.locator("aside.run .thumb canvas")).to_have_count(5)
    screenshot(page, "runs")
    page.locator("aside.run .thumb", has_text="hk0.5").click()
    expect(page.locator(".view-volume canvas").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    screenshot(page, "volume")
    watched.close()
    watched.check()
