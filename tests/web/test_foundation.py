"""What all views share: geometry, numbers, colours, keys, the way in, and a server that is away."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from web.browser import violations

import offbragg
from offbragg.geometry import Geometry
from offbragg.lattice import q_to_hkl

pytestmark = pytest.mark.web
WEB = Path(offbragg.__file__).parent / "web"
BUDGET = 300_000  # bytes as they are sent


@pytest.fixture(scope="module")
def blank(browser, catalog):
    """A page of the origin without anything of its own: modules are imported into it."""
    page = browser.new_context(base_url=catalog.url).new_page()
    page.goto("/live/css/icon.svg")
    yield page
    page.context.close()


def test_the_whole_page_is_small(catalog):
    files = [file for file in WEB.rglob("*") if file.is_file() and file.suffix != ".py"]
    sent = sum(len(gzip.compress(file.read_bytes())) for file in files if file.name != "LICENSE")

    assert sent < BUDGET


def test_geometry_in_the_browser_is_that_of_python(blank, catalog):
    rng = np.random.default_rng(1)
    oblique = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    fast, slow = np.array([-1.0, 0.06, 0.03]), np.array([0.0, -1.0, 0.08])
    fast /= np.linalg.norm(fast)
    slow -= fast * (slow @ fast)
    mapping = {
        "wavelength": 0.71,
        "panel": {
            "origin": [30.0, 40.0, 120.0], "fast": fast.tolist(),
            "slow": (slow / np.linalg.norm(slow)).tolist(),
            "pixel_size": [0.172, 0.19], "shape": [400, 300],
        },
        "axes": [{"name": name, "vector": oblique[i].tolist(), "angle": 17.0 * i - 8.0}
                 for i, name in enumerate(("phi", "chi", "omega"))],
        "scan_axis": "chi",
    }  # fmt: skip
    UB = rng.normal(size=(3, 3)) / 5
    points = rng.uniform([0, 0, -180], [300, 400, 180], size=(40, 3))
    geometry = Geometry.from_dict(mapping)

    seen = blank.evaluate(
        """async ([mapping, UB, points]) => {
          const {Geometry} = await import("/live/js/geometry.js");
          const geometry = new Geometry(mapping, UB);
          return {beam: geometry.beamCentre, ring: geometry.ring(1.7),
            at: points.map(([x, y, angle]) => geometry.at(x, y, angle))};
        }""",
        [mapping, UB.tolist(), points.tolist()],
    )

    x, y, angle = points.T
    q = geometry.q(x, y, angle)
    length = np.linalg.norm(q, axis=-1)
    np.testing.assert_allclose([each["Q"] for each in seen["at"]], 2 * np.pi * length, rtol=1e-9)
    np.testing.assert_allclose([each["d"] for each in seen["at"]], 1 / length, rtol=1e-9)
    two_theta = np.rad2deg(2 * np.arcsin(length * 0.71 / 2))
    np.testing.assert_allclose([each["twoTheta"] for each in seen["at"]], two_theta, rtol=1e-9)
    np.testing.assert_allclose([each["hkl"] for each in seen["at"]], q_to_hkl(q, UB), atol=1e-9)
    beam = geometry.direct_beam()
    assert beam is not None
    np.testing.assert_allclose(seen["beam"], beam[:2], rtol=1e-9)
    ring = np.array(seen["ring"], float)
    on_ring = np.linalg.norm(geometry.q(ring[:, 0], ring[:, 1], 0.0), axis=-1)
    np.testing.assert_allclose(1 / on_ring, 1.7, rtol=1e-9)


def test_numbers_are_written_as_a_scientist_writes_them(blank):
    expected = {
        "withError(90.02, 0.03)": "90.02(3)",
        "withError(90.024, 0.0149)": "90.024(15)",
        "withError(-0.5, 0.2)": "−0.5(2)",
        "withError(1234, 30)": "1230(30)",
        "withError(90.0, 0.0996)": "90.00(10)",
        "withError(1.5, null)": "1.5",
        "withError(null, 1)": "–",
        "counts(12345)": "1.23 × 10⁴",
        "counts(9999)": "9999",
        "counts(99999)": "1.00 × 10⁵",
        "quantity(90.0212, 'K')": "90.02\u202fK",
        "number(0.00001234)": "1.23 × 10⁻⁵",
        "number(-2)": "−2",
        "span(252)": "4:12",
        "span(3600 * 3 + 2400)": "3 h 40 min",
        "span(3600 * 52)": "2 d 4 h",
        "bytes(2100000)": "2.1\u202fMB",
        "bytes(0)": "0\u202fB",
        "plural(1, 'frame')": "1 frame",
        "plural(60, 'frame')": "60 frames",
        "since(1000, 1030)": "30 s ago",
    }

    # functions are called by name: the page's policy allows no evaluation of text
    found = blank.evaluate(
        """async (texts) => {
          const format = await import("/live/js/format.js");
          return texts.map((text) => {
            const [, name, list] = /^(\\w+)\\((.*)\\)$/.exec(text);
            const numbers = list.split(", ").map((each) => /^'/.test(each) ? each.slice(1, -1)
              : each.split("+").map((term) => term.includes("*")
                ? term.split("*").map(Number).reduce((a, b) => a * b) : JSON.parse(term))
                .reduce((a, b) => a + b));
            return format[name](...numbers);
          });
        }""",
        list(expected),
    )

    assert dict(zip(expected, found, strict=True)) == expected


def test_colour_maps_are_the_public_tables(blank):
    maps = blank.evaluate(
        """async () => {
          const {PALETTES} = await import("/live/js/colours.js");
          return Object.fromEntries(Object.entries(PALETTES).map(([k, v]) => [k, [...v]]));
        }"""
    )

    assert set(maps) == {"magma", "viridis", "cividis", "grey"}
    for name in ("magma", "viridis", "cividis"):
        table = colormaps[name](np.arange(256), bytes=True)[:, :3]
        np.testing.assert_array_equal(np.array(maps[name]).reshape(256, 3), table)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_counts_are_put_together_from_their_bytes(blank, width):
    counts = np.array([0, 1, -1, -2, 100, -128, 127] + [3000, -3000] * (width > 1), f"<i{width}")
    planes = counts.reshape(-1, 1).view(np.uint8).T

    found = blank.evaluate(
        """async ([bytes, width]) => {
          const {fromPlanes} = await import("/live/js/now/frames_of.js");
          return [...fromPlanes(new Uint8Array(bytes), width)];
        }""",
        [planes.ravel().tolist(), width],
    )

    assert found == counts.tolist()


@pytest.mark.slow
def test_limits_are_not_set_by_bragg_peaks(blank):
    rng = np.random.default_rng(3)
    values = rng.uniform(1.0, 100.0, 20_000).astype(np.float32)
    values[:50], values[50:1000] = 1e9, np.nan

    found = blank.evaluate(
        """async (values) => {
          const {limits} = await import("/live/js/colourbar.js");
          const of = Float32Array.from(values, (value) => value ?? NaN);
          return [limits(of, {scale: "log"}), limits(of, {scale: "linear"})];
        }""",
        [None if np.isnan(v) else float(v) for v in values],
    )

    seen = np.sort(values[~np.isnan(values)])
    for ends in found:
        assert ends["low"] == pytest.approx(np.percentile(seen, 1), rel=0.02)
        assert ends["high"] == pytest.approx(np.percentile(seen, 99.5), rel=0.02)


# ---- getting in ------------------------------------------------------------------------------


def test_without_a_key_the_page_asks_for_one_and_opens_with_it(open_page, catalog):
    page = open_page(catalog, key=False)
    page.watched.expect("401")
    page.goto("/live#/now")
    dialog = page.get_by_role("dialog", name="Key for reading")
    dialog.wait_for()

    dialog.get_by_label("Key", exact=True).fill("nonsense")
    dialog.get_by_role("button", name="Open").click()
    page.wait_for_function("() => document.getElementById('key-error').textContent !== ''")
    assert dialog.is_visible()
    dialog.get_by_label("Key", exact=True).fill(catalog.reading_key)
    dialog.get_by_role("button", name="Open").click()
    page.wait_for_selector(".frame-index:not([value='']), .now-frame canvas")
    dialog.wait_for(state="hidden")

    page.wait_for_function(
        "() => document.querySelector('.now-frame .image-panel').panel.valueAt(1, 1) !== null"
    )
    assert catalog.reading_key not in page.url
    cookie = page.context.cookies()[0]
    assert cookie["httpOnly"]
    assert cookie["sameSite"] == "Strict"
    assert "tiled_api_key" not in page.evaluate("document.cookie")


def test_a_one_time_link_lets_in_and_leaves_the_address(open_page, catalog):
    page = open_page(catalog, key=False)

    page.goto(catalog.link())
    page.wait_for_function(
        "() => document.querySelector('.now-frame .image-panel')?.panel.valueAt(1, 1) != null"
    )

    assert "enter" not in page.url
    assert "enter" not in page.evaluate("JSON.stringify(history.state) + location.href")


def test_who_leaves_takes_the_key_along(open_page, catalog):
    page = open_page(catalog, key=False)
    page.goto(catalog.link())
    page.wait_for_selector(".now-frame .image-panel canvas")
    page.watched.expect("401")  # what a page without a key is answered

    page.locator("#keys").click()
    page.get_by_role("button", name="Forget the key").click()

    # the page was loaded again: before that the same form is open
    page.get_by_role("button", name="Forget the key").wait_for(state="hidden")
    page.locator("#key-dialog[open]").wait_for()
    assert page.context.cookies() == []
    assert page.get_by_role("button", name="Forget the key").is_hidden()


# ---- keys and themes -------------------------------------------------------------------------


VIEWS = ("experiment", "now", "volume", "frames", "runs")


def opened(page, view):
    """Open a view without an id, as it follows the beamline, and wait for its lines."""
    page.goto("about:blank")
    page.goto(f"/live#/{view}")
    page.wait_for_function("() => document.getElementById('python').textContent !== ''")


def test_the_copied_lines_of_each_view_run(open_page, catalog, monkeypatch):
    page = open_page(catalog, permissions=["clipboard-read", "clipboard-write"])
    monkeypatch.setenv("OFFBRAGG_KEY", catalog.reading_key)

    for view in VIEWS:
        opened(page, view)
        page.get_by_role("button", name="Copy Python").click()
        exec(page.evaluate("navigator.clipboard.readText()"), {})  # as a person who pastes them


def test_a_copied_link_opens_what_is_shown_whatever_is_measured_next(open_page, catalog):
    page = open_page(catalog, permissions=["clipboard-read", "clipboard-write"])
    run = catalog.runs[-1]
    pinned = {
        "now": f"#/now/{run.uid}?frame=6",
        "experiment": f"#/experiment/{run.series['uid']}?plane=hk0",
        "frames": f"#/frames?series={run.series['uid']}",
        "volume": "#/volume/",
    }
    for view, link in pinned.items():
        opened(page, view)
        if view == "now":
            page.wait_for_function(FRAME, arg=7)
            page.keyboard.press("ArrowLeft")
            page.wait_for_function(FRAME, arg=6)
        if view == "volume":
            page.wait_for_function("() => location.hash.includes('plane=')")
        page.get_by_role("button", name="Copy link").click()

        copied = page.evaluate("navigator.clipboard.readText()")

        assert copied.startswith(f"{catalog.url}/live{link}")
        assert view == "volume" or run.uid not in page.url
        page.goto("about:blank")
        page.goto(copied)
        page.wait_for_function("() => document.getElementById('python').textContent !== ''")


FRAME = """(index) => document.querySelector(".now-frame .image-canvas")
  ?.getAttribute("aria-label").startsWith(`Frame ${index} of`)"""


@pytest.mark.slow
def test_keys_change_views_and_help_says_them(page):
    page.goto("/live#/now")
    page.wait_for_selector(".now-frame")

    for key, name in (("4", "frames"), ("2", "now"), ("5", "runs"), ("2", "now")):
        page.keyboard.press(key)
        page.wait_for_selector(f".view-{name}:not([hidden])")
        assert page.url.endswith(f"#/{name}") or f"#/{name}?" in page.url
        assert page.locator("nav a[aria-current]").inner_text().count(name.capitalize())
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard")
    assert "follow the last frame" in dialog.inner_text()
    page.keyboard.press("Escape")

    dialog.wait_for(state="hidden")


@pytest.mark.slow
def test_dark_and_light_are_remembered(page):
    page.goto("/live#/now")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Light or dark").click()
    dark = page.evaluate(ground)
    page.reload()

    assert light != dark
    assert page.evaluate(ground) == dark


@pytest.mark.slow
@pytest.mark.parametrize(("view", "size"), [("now", (1280, 800)), ("frames", (390, 844))])
def test_nothing_overflows_and_nothing_shifts(open_page, catalog, view, size):
    page = open_page(catalog, size=size)
    page.add_init_script(
        "window.shifts = 0; new PerformanceObserver((list) => { for (const entry of"
        " list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value; })"
        ".observe({type: 'layout-shift', buffered: true});"
    )
    page.goto(f"/live#/{view}")
    page.wait_for_timeout(800)

    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.evaluate("shifts") < 0.1


@pytest.mark.parametrize(("view", "dark"), [("now", True), ("frames", False)])
def test_axe_finds_nothing_serious(open_page, catalog, view, dark):
    page = open_page(catalog, dark=dark)
    page.goto(f"/live#/{view}")
    page.wait_for_selector(".now-frame" if view == "now" else ".strip")

    assert violations(page) == []


# ---- the server away -------------------------------------------------------------------------


def test_the_page_says_since_when_the_server_is_away_and_goes_on(open_page, catalog):
    page = open_page(catalog)
    page.watched.expect("ERR_", "WebSocket")
    sockets = []
    is_away = False
    now = json.dumps({
        "time": 0, "beamline": "mine", "engine": {"state": "idle", "waits": [], "values": {}},
        "frames": None, "alarms": [],
    })  # fmt: skip

    def socket(ws):
        sockets.append(ws)
        ws.close() if is_away else ws.send(now)

    def answer(route):
        route.abort() if is_away else route.fulfill(content_type="application/json", body=now)

    page.route_web_socket("**/now/socket", socket)
    page.route(f"{catalog.url}/now", answer)
    page.goto("/live#/now")
    page.wait_for_function(
        "() => document.getElementById('status-line').textContent.includes('idle')"
    )
    is_away = True
    sockets[-1].close()

    page.get_by_text("The server is away since").wait_for()
    assert page.locator("body.stale").count() == 1
    is_away = False
    page.wait_for_function("() => document.getElementById('banner').hidden")
    assert page.locator("body.stale").count() == 0


def test_a_view_that_was_not_opened_comes_when_the_server_is_back(open_page, catalog):
    page = open_page(catalog)
    page.watched.expect("ERR_", "WebSocket", "dynamically imported")
    page.goto("/live#/experiment")
    page.wait_for_selector(".view-experiment .board-host")
    page.route(f"{catalog.url}/**", lambda route: route.abort())

    page.keyboard.press("5")
    page.locator(".view-runs").get_by_text("The server is away").wait_for()
    page.unroute(f"{catalog.url}/**")

    page.wait_for_selector(".view-runs .runs tbody tr")
    assert page.locator(".view-runs").count() == 1


def test_a_catalog_that_serves_no_beamline_says_so_and_shows_what_it_has(open_page, catalog):
    page = open_page(catalog)
    page.watched.expect("404")
    why = "This catalog serves no beamline: offbragg serve --beamline does."
    page.route(
        f"{catalog.url}/now",
        lambda route: route.fulfill(
            status=404, content_type="application/json", body=json.dumps({"detail": why})
        ),
    )
    page.goto("/live#/frames")

    page.get_by_text(why).wait_for()
    page.wait_for_selector(".strip[aria-valuetext]")
    assert page.locator("body.stale").count() == 0
    page.keyboard.press("2")
    page.wait_for_function("() => document.querySelector('.image-panel')?.panel.shown !== null")


def test_an_address_that_was_cut_off_opens_its_view(page):
    page.watched.expect("404")
    page.goto("/live#/frames/%E0%A4%A")

    page.wait_for_selector(".view-frames:not([hidden])")


def test_a_name_neither_is_markup_nor_turns_a_number_around(blank):
    shown = blank.evaluate(
        """async () => {
            const {el} = await import("/live/js/dom.js");
            return el("p", {}, "<b>\\u202eName\\u0007", "90 K").innerHTML;
        }"""
    )

    assert shown == "&lt;b&gt;\ufffdName\ufffd90 K"
