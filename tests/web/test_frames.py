"""The view Frames: strips, numbers and reasons are those of the ledger."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from web.beamline import MISSING, REJECTED, N, series_of

pytestmark = [pytest.mark.web, pytest.mark.slow]  # some of them: test_views.py

TICKS = """([uid, indices, n]) => {
  const canvas = document.querySelector(`.sweep[data-uid="${uid}"] canvas`);
  const {width, height} = canvas;
  const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
  const step = width / n;
  return indices.map((index) => Array.from({length: height}, (_, y) =>
    Array.from({length: Math.round(step)}, (_, x) => {
      const at = 4 * (y * width + Math.round(index * step) + x);
      return [...data.slice(at, at + 4)];
    })));
}"""
"""Pixels of ticks of a strip: rows of rgba."""


@pytest.fixture
def colour(page):
    def of(name):
        text = page.evaluate(
            """(name) => import("/live/js/colours.js").then(({token}) => token(name))""", name
        )
        return np.array([float(x) for x in text.strip("rgba()").replace(",", " ").split()[:3]])

    return of


def strips(page, series):
    page.goto(f"/live#/frames?series={series}")
    page.wait_for_function("() => document.querySelector('.strip')?.getAttribute('aria-valuetext')")


def has(pixels, colour):
    pixels = np.array(pixels, float)
    near = np.abs(pixels[..., :3] - colour).max(axis=-1) < 12
    return near & (pixels[..., 3] > 200)


def test_each_status_has_its_shape_and_colour(page, catalog, colour):
    run = catalog.runs[1]
    strips(page, run.series["uid"])
    page.wait_for_selector(f'.sweep[data-uid="{run.uid}"] canvas[aria-valuetext]')

    ticks = page.evaluate(TICKS, [run.uid, [0, MISSING, REJECTED], N])
    stored, missing, rejected = (np.array(tick, float) for tick in ticks)

    middle = slice(stored.shape[0] // 3, 2 * stored.shape[0] // 3)
    thin = has(stored, colour("--stored"))
    assert thin[middle].any()
    assert thin.any(axis=0).sum() <= 3  # px wide
    assert (missing[middle, :, 3] == 0).all()  # a gap
    foot = has(missing, colour("--bad"))
    assert foot[-6:].any()
    assert not foot[:-8].any()
    cross = has(rejected, colour("--warn"))
    columns = np.flatnonzero(cross.any(axis=0))
    rows = np.flatnonzero(cross.any(axis=1))
    assert 6 <= len(columns) <= 14
    centre = cross[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert centre[0, [0, -1]].any()
    assert centre[-1, [0, -1]].any()
    assert not centre[0, centre.shape[1] // 2]


def test_numbers_are_those_of_the_ledger(page, catalog):
    run = catalog.runs[1]
    strips(page, run.series["uid"])
    ledger = page.request.get(
        f"{catalog.url}/runs/{run.uid}/ledger", headers=catalog.headers
    ).json()

    row = page.locator(f'.sweep[data-uid="{run.uid}"]')
    row.get_by_text("1 missing").wait_for()
    text = row.inner_text()

    counts = ledger["counts"]
    assert f"{counts['stored']}" in text
    assert f"/ {N}" in text
    assert f"{counts['missing']} missing" in text
    assert f"{counts['rejected']} rejected" in text
    summary = page.locator(".frames-summary").inner_text()
    assert summary == (
        f"3 sweeps, {3 * N} frames expected: {3 * N - 2} stored, 1 missing, 1 rejected, 0 pending"
    )


def test_a_click_says_reason_file_and_time(page, catalog):
    run = catalog.runs[1]
    strips(page, run.series["uid"])
    canvas = page.locator(f'.sweep[data-uid="{run.uid}"] canvas')
    canvas.wait_for()
    page.wait_for_selector(f'.sweep[data-uid="{run.uid}"] canvas[aria-valuetext]')
    width = canvas.bounding_box()["width"]
    detail = page.locator(".detail")

    canvas.click(position={"x": (MISSING + 0.5) * width / N, "y": 14})
    assert f"Frame {MISSING} of #{run.scan_id}: missing" in detail.inner_text()
    assert "x_00003.cbf was not there 5 s after it was due" in detail.inner_text()
    canvas.click(position={"x": 0.5 * width / N, "y": 14})
    detail.locator("img").wait_for()

    text = detail.inner_text()
    assert "x_00000.cbf" in text
    assert time.strftime("%Y-%m-%d", time.gmtime(run.began)) in text
    assert time.strftime("%H:%M:%S", time.gmtime(run.began)) in text
    assert f"{run.sweep.sweep.midpoints[0]:.2f}°" in text
    assert f"run={run.uid}" in page.url
    detail.get_by_role("link", name="Look at it").click()
    page.wait_for_selector(".view-now:not([hidden])")
    assert page.url.endswith(f"#/now/{run.uid}?frame=0")


@pytest.mark.slow
def test_the_keyboard_finds_the_faults(page, catalog, screenshot):
    run = catalog.runs[1]
    strips(page, run.series["uid"])
    page.wait_for_selector(f'.sweep[data-uid="{run.uid}"] canvas[aria-valuetext]')
    heading = page.locator(".detail h3")

    page.keyboard.press("n")
    assert f"Frame {MISSING} of #{run.scan_id}" in heading.inner_text()
    page.keyboard.press("n")
    assert f"Frame {REJECTED} of #{run.scan_id}: rejected" in heading.inner_text()
    screenshot(page, "frames")
    page.keyboard.press("ArrowRight")
    assert f"Frame {REJECTED + 1} " in heading.inner_text()
    page.keyboard.press("p")
    assert f"Frame {REJECTED} " in heading.inner_text()
    page.reload()

    page.wait_for_function("() => document.querySelector('.detail h3')")
    assert f"Frame {REJECTED} of" in heading.inner_text()
    page.keyboard.press("x")
    assert page.locator(".sweep:visible").count() == 1


@pytest.mark.slow
def test_a_strip_grows_while_the_sweep_is_measured(open_page, growing):
    series = series_of("strip", 0, (0, 1), "LSMO-140")
    run = growing.run(temperature=100.0, began=time.time() - 30, series=series, sweep_of=(0, 1))
    run.take(0, 1)
    growing.publish([run])
    page = open_page(growing)
    page.goto("/live#/frames?series=strip")
    row = page.locator(f'.sweep[data-uid="{run.uid}"]')
    row.get_by_text(f"{N - 2} pending").wait_for()
    run.take(2)
    run.scan.mark(3, "missing", "x_00003.cbf was not there 5 s after it was due")

    row.get_by_text("1 missing").wait_for()

    assert f"{N - 4} pending" in row.inner_text()
    assert row.locator(".strip-stored").inner_text() == f"3 / {N}"


def test_backlog_disks_and_alarms_say_what_is_so(open_page, catalog):
    page = open_page(catalog)
    now = {
        "time": time.time(), "beamline": "simulated", "frames": None, "stacker": False,
        "backlog": {"runs": 2, "frames": 31}, "catalog": {"runs": 4},
        "engine": {"state": "idle", "run": None, "series": None, "waits": [], "values": {}},
        "disks": [{"paths": ["frames"], "free": 2.1e11, "rate": 2.9e7, "span": 60.0,
                   "full": time.time() + 7215}],
        "alarms": [{"what": "stacker", "severity": "major", "reason": "31 frames wait",
                    "since": time.time() - 300}],
    }  # fmt: skip
    body = json.dumps(now)
    page.route_web_socket("**/now/socket", lambda ws: ws.send(body))
    page.route(
        f"{catalog.url}/now", lambda r: r.fulfill(content_type="application/json", body=body)
    )
    page.goto("/live#/frames")
    page.get_by_text("31 frames wait").wait_for()

    text = page.locator(".health-row").inner_text().replace("\u202f", " ")

    assert "31 frames" in text
    assert "of 2 runs" in text
    assert "offbragg stack does not run" in text
    assert "210 GB free" in text
    assert "full in 2 h 00 min" in text
    assert "5 min ago" in text
    assert "1 alarm" in page.locator("#status-alarms").inner_text()


@pytest.mark.slow
def test_many_sweeps_of_many_frames_stay_fast(open_page, catalog):
    """75 strips of 3650 frames are drawn in a fraction of what one was allowed, 50 ms."""
    page = open_page(catalog)
    page.goto("/live#/frames")

    took = page.evaluate(
        """async () => {
          const {Ledger} = await import("/live/js/frames/ledger.js");
          const {drawStrip} = await import("/live/js/frames/strip.js");
          const context = new OffscreenCanvas(800, 28).getContext("2d");
          const some = [["stored", 47], ["missing", 1], ["stored", 1], ["rejected", 1]];
          const status = Array.from({length: 73}, () => some).flat();
          const began = performance.now();
          for (let i = 0; i < 75; i++) {
            drawStrip(context, new Ledger({n: 3650, status, counts: {}}), 800, 28);
          }
          return performance.now() - began;
        }"""
    )

    assert took < 75 * 50
