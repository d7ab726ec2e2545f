"""The view Now: canvas and numbers are those of the files, and what happens is seen at once."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from matplotlib import colormaps
from runs import wait_until
from web.beamline import MISSING, N, series_of

from offbragg.lattice import q_to_hkl

pytestmark = pytest.mark.web

PANEL = "document.querySelector('.now-frame .image-panel').panel"
SHOWN = """([index]) => document.querySelector(".now-frame .image-canvas")
  ?.getAttribute("aria-label").startsWith(`Frame ${index} of`)"""
READ = f"""(points) => {{
  const panel = {PANEL};
  const {{canvas}} = panel;
  const {{width, height}} = canvas;
  const {{data}} = canvas.getContext("2d").getImageData(0, 0, width, height);
  return points.map(([x, y]) => {{
    const on = panel.toScreen(x + 0.5, y + 0.5);
    const [left, top] = on.map((at) => Math.floor(at * devicePixelRatio));
    return [...data.slice(4 * (top * width + left)).slice(0, 4)];
  }});
}}"""
"""Colours on the canvas at the centres of pixels."""


def look(page, run, index=None, **query):
    """Open a frame of a run without rings, and wait until it is drawn."""
    query = {"rings": "0", **({} if index is None else {"frame": index}), **query}
    text = "&".join(f"{name}={value}" for name, value in query.items())
    page.goto(f"/live#/now/{run.uid}?{text}")
    page.wait_for_function(SHOWN, arg=[N - 1 if index is None else index])


def points_of(counts, n=300):
    """Pixels in sight and away from the cross at the beam: columns and rows."""
    rng = np.random.default_rng(5)
    rows, columns = counts.shape
    points = rng.integers([0, 0], [columns, rows], size=(n, 2))
    centre = np.array([48, 101])  # of the simulated 100K, near enough
    return points[np.abs(points - centre).max(axis=1) > 16]


def expected_colours(counts, points, *, low, high, scale, palette):
    values = counts[points[:, 1], points[:, 0]].astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        place = (
            np.where(values > 0, np.log(values / low) / np.log(high / low), 0.0)
            if scale == "log"
            else (values - low) / (high - low)
        )
    table = colormaps[palette](np.arange(256), bytes=True)[:, :3]
    return table[np.clip(np.floor(place * 256), 0, 255).astype(int)], values >= 0


def test_the_canvas_has_the_counts_of_the_file(page, catalog):
    run = catalog.runs[0]
    counts = run.sweep.counts[2]
    points = points_of(counts)
    page.watched.expect("willReadFrequently")  # it is read here only
    for scale, palette, low, high in (
        ("log", "magma", 0.5, 60), ("linear", "viridis", 2, 30), ("log", "cividis", 1, 5),
    ):  # fmt: skip
        look(page, run, 2, scale=scale, palette=palette, low=low, high=high)
        page.wait_for_function(f"() => {PANEL}.shown.palette === '{palette}'")

        seen = np.array(page.evaluate(READ, points.tolist()))[:, :3]

        colours, valid = expected_colours(
            counts, points, low=low, high=high, scale=scale, palette=palette
        )
        apart = np.abs(seen[valid].astype(int) - colours[valid]).max(axis=1)
        assert np.ptp(colours[valid], axis=0).max() > 100
        assert np.mean(apart <= 2) > 0.995  # a place at the edge of two colours may be either
        assert apart.max() <= 12


def test_pixels_that_do_not_count_are_hatched(page, catalog):
    run = catalog.runs[0]
    counts = run.sweep.counts[2]
    rows, columns = np.nonzero(counts < 0)
    assert len(rows)
    look(page, run, 2)
    page.evaluate(f"{PANEL}.zoomBy(30, {{x: {columns[0]} + 0.5, y: {rows[0]} + 0.5}})")
    page.wait_for_timeout(100)

    (seen,) = page.evaluate(READ, [[int(columns[0]), int(rows[0])]])

    grounds = page.evaluate(
        """() => import("/live/js/colours.js").then(({token}) =>
             [token("--hatch"), token("--hatch-ground")]
               .map((colour) => colour.match(/[0-9.]+/g).map(Number)))"""
    )
    low, high = np.min(grounds, axis=0)[:3], np.max(grounds, axis=0)[:3]
    assert (np.array(seen[:3]) >= low - 2).all()
    assert (np.array(seen[:3]) <= high + 2).all()


def test_the_pointer_reads_counts_q_and_hkl(page, catalog):
    run = catalog.runs[0]
    counts = run.sweep.counts[2]
    row, column = np.unravel_index(np.argmax(counts), counts.shape)
    look(page, run, 2)

    left, top = page.evaluate(f"{PANEL}.toScreen({column} + 0.5, {row} + 0.5)")
    box = page.locator(".now-frame canvas.image-canvas").bounding_box()
    page.mouse.move(box["x"] + left, box["y"] + top)
    text = page.locator(".now-frame .readout").inner_text().replace("−", "-")

    # where the pointer is, to a fraction of a pixel
    at = page.evaluate(f"{PANEL}.toData({left}, {top})")
    q = run.sweep.geometry.q(at["x"], at["y"], run.sweep.sweep.midpoints[2])
    hkl = q_to_hkl(q, run.sweep.UB)
    size = np.linalg.norm(q)
    assert f"{counts[row, column]} counts" in text
    words = text.replace("\u202f", " ").split()
    assert float(words[words.index("Q") + 1]) == pytest.approx(2 * np.pi * size, abs=2e-2)
    assert float(words[words.index("d") + 1]) == pytest.approx(1 / size, abs=2e-2)
    found = [float(word) for word in words[words.index("hkl") + 1 :][:3]]
    np.testing.assert_allclose(found, hkl, atol=2e-2)


@pytest.mark.slow
def test_keys_step_through_frames_and_the_address_follows(page, catalog):
    run = catalog.runs[0]
    look(page, run, 2)

    page.keyboard.press("ArrowRight")
    page.wait_for_function(SHOWN, arg=[3])
    assert f"#/now/{run.uid}" in page.url
    assert "frame=3" in page.url
    assert page.get_by_role("heading", name="Frame 3").is_visible()
    page.keyboard.press("Home")
    page.wait_for_function(SHOWN, arg=[0])
    page.keyboard.press("End")
    page.wait_for_function(SHOWN, arg=[N - 1])
    assert "frame=" not in page.url
    page.keyboard.press("l")
    assert "scale=linear" in page.url
    assert "run.frames[-1]" in page.locator("#python").inner_text()


def test_a_frame_that_is_missing_says_why_and_shows_no_other_one(page, catalog):
    run = catalog.runs[1]
    page.watched.expect("404")
    look(page, run, 2)

    page.keyboard.press("ArrowRight")
    page.get_by_text(f"Frame {MISSING} is not there").wait_for()

    assert "was not there 5 s after it was due" in page.locator(".frame-notice").inner_text()
    page.wait_for_function(f"() => {PANEL}.valueAt(10, 10) === -1")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(SHOWN, arg=[MISSING + 1])
    assert page.locator(".frame-notice").inner_text() == ""


@pytest.mark.slow
def test_typed_limits_hold_and_are_in_the_address(page, catalog):
    look(page, catalog.runs[0], 2)
    field = page.get_by_label("Upper end of the colours")
    field.fill("123")
    field.press("Enter")

    page.wait_for_function("() => location.hash.includes('high=123')")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(SHOWN, arg=[3])
    assert field.input_value() == "123"


# ---- what happens now ------------------------------------------------------------------------


def engine_of(run, done, **more):
    """A RunEngine's word about a run."""
    return {
        "run": {"uid": run.uid, "scan_id": run.scan_id, "sample": run.sample,
                "temperature": run.temperature, "purpose": "data", "sweep": 2, "sweeps": 3,
                "done": done, "n": N, "left": 252.0},
        "series": {"uid": "s", "done": 1, "n": 3, "left": 13200.0}, **more,
    }  # fmt: skip


def test_what_is_measured_is_seen_as_it_comes(open_page, growing, screenshot):
    page = open_page(growing)
    run = growing.run(sample="LSMO-140", temperature=90.0, began=time.time() - 30,
                      series=series_of("live", 0, (1, 3), "LSMO-140"), sweep_of=(1, 3))  # fmt: skip
    run.take(0, 1)
    growing.publish([run])
    wait = "settling: 0.08 K from 90 K, 41 s of 60 s inside ± 0.2 K"
    growing.says("measuring", waits=[wait], **engine_of(run, 2))
    page.goto("/live#/now?rings=0")
    page.wait_for_function(SHOWN, arg=[1])

    headline = page.locator(".headline")
    headline.get_by_text("Measuring").wait_for()
    assert "4:12" in headline.inner_text()
    assert "3 h 40 min" in headline.inner_text()
    assert "90.08\u202fK" in headline.inner_text()
    page.get_by_text(wait).wait_for()
    run.take(2)
    began = time.monotonic()
    page.wait_for_function(SHOWN, arg=[2])
    took = time.monotonic() - began
    values = page.evaluate(
        f"[...Array(40).keys()].map((i) => {PANEL}.valueAt(3 * i + 0.5, 2 * i + 0.5))"
    )

    assert values == [int(run.sweep.counts[2][2 * i, 3 * i]) for i in range(40)]
    assert took < 10.0  # 2 s where nothing else runs
    page.keyboard.press("r")
    page.wait_for_function("() => !location.hash.includes('rings')")
    screenshot(page, "now")
    growing.says("suspended", waits=["beam: ring current 0.4 mA, below 10 mA"], **engine_of(run, 3))
    page.get_by_text("ring current 0.4 mA").wait_for()
    headline.get_by_text("Suspended").wait_for()
    growing.is_gone()
    wait_until(lambda: "No session" in headline.inner_text())


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_a_beamline_without_runs_says_what_will_happen(open_page, catalog, size):
    page = open_page(catalog, size=size)
    nothing = {"time": time.time(), "beamline": "new", "frames": None, "alarms": [], "disks": [],
               "stacker": True, "backlog": {"runs": 0, "frames": 0}, "catalog": {"runs": 0},
               "engine": {"state": "idle", "run": None, "series": None, "waits": [],
                          "values": {}, "age": 1.0, "since": time.time()}}  # fmt: skip
    body = json.dumps(nothing)
    page.route_web_socket("**/now/socket", lambda ws: ws.send(body))
    page.route(
        f"{catalog.url}/now", lambda r: r.fulfill(content_type="application/json", body=body)
    )
    none = json.dumps({"runs": [], "total": 0, "more": False})
    page.route("**/runs?*", lambda r: r.fulfill(content_type="application/json", body=none))
    page.goto("/live#/now")

    page.get_by_text("The first frame that is stored appears here.").wait_for()
    assert "Nothing runs" in page.locator(".waits").inner_text()
