"""The phase diagram: thumbnails are those of the files, counts those of the ledger; it grows."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from web.beamline import N, series_of
from web.browser import violations

from offbragg.files.cuts import cut_plane
from offbragg.files.planes import Plane
from offbragg.files.volume_file import VolumeFile

pytestmark = [pytest.mark.web, pytest.mark.slow]  # some of them: test_views.py
sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
expect = sync_api.expect
expect.set_options(timeout=20_000)

PIXELS = """canvas => { const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width,
  canvas.height); return {width: canvas.width, height: canvas.height, data: [...data]}; }"""


@pytest.fixture
def board(page, catalog):
    """The board of the series of three temperatures."""
    uid = catalog.runs[0].series["uid"]
    page.goto(f"/live/#/experiment/{uid}?plane=hk0.5")
    expect(page.locator(".cell.pictured")).to_have_count(3)
    return page


def cell(page, kelvin):
    return page.locator(f".cell[aria-label*='· {kelvin} K']")


def number(text):
    head, _, power = text.partition(" × 10")
    digits = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-")
    return float(head.translate(digits)) * 10.0 ** float(power.translate(digits) or 0)


def best_plane(file):
    """Return the plane of which most was measured: the crystal turned by 16 degrees only."""
    planes = {name: cut_plane(file, Plane.parse(name)) for name in ("hk0", "h0l", "0kl", "hhl")}
    return max(planes, key=lambda name: np.isfinite(planes[name].intensity).mean())


def test_the_thumbnails_are_the_planes_of_the_files_on_one_scale(board, catalog):
    viridis = pytest.importorskip("matplotlib").colormaps["viridis"]
    with VolumeFile(catalog.runs[0].scan.path.with_name("volume-f1.h5")) as file:
        plane = best_plane(file)
    board.get_by_label("Plane of S(Q)").fill(plane)
    board.keyboard.press("Enter")
    expect(board).to_have_url(re.compile(f"plane={plane}"))
    expect(board.locator(".cell.pictured")).to_have_count(3)
    low, high = (number(board.locator(f".scale span >> nth={n}").inner_text()) for n in (0, 1))

    for run, kelvin in zip(catalog.runs[:3], (90, 140, 200), strict=True):
        pixels = cell(board, kelvin).locator("canvas").evaluate(PIXELS)
        shown = np.reshape(pixels["data"], (pixels["height"], pixels["width"], 4))
        with VolumeFile(run.scan.path.with_name("volume-f1.h5")) as file:
            level = round(max(file.grid.shape) / pixels["width"])
            cut = cut_plane(file, Plane.parse(plane), level=level)
        intensity = cut.intensity.T[::-1]
        place = np.log(np.clip(intensity, low, high) / low) / np.log(high / low)
        expected = 255 * viridis(np.nan_to_num(place))[..., :3]
        measured = np.isfinite(intensity)

        assert shown.shape[:2] == intensity.shape
        np.testing.assert_array_equal(shown[..., 3] > 0, measured)
        # a picture has fewer shades where it is noise
        apart = np.abs(shown[..., :3] - expected)[measured]
        assert apart.max() <= 24
        assert apart.mean() <= 5


def test_the_counts_are_those_of_the_ledger(board, catalog):
    for run, kelvin in zip(catalog.runs[:3], (90, 140, 200), strict=True):
        ledger = board.request.get(f"/runs/{run.uid}/ledger").json()
        label = cell(board, kelvin).get_attribute("aria-label")

        counts = ledger["counts"]
        assert f"{counts['stored']} of {N} frames stored" in label
        for name in ("missing", "rejected"):
            assert (f"{counts[name]} frame {name}" in label) == (counts[name] > 0)
    assert cell(board, 140).locator(".mark-warn").is_visible()
    assert not cell(board, 90).locator(".mark-warn").count()


def test_the_keyboard_moves_through_the_cells_and_opens_one(board, catalog):
    cell(board, 90).focus()
    board.keyboard.press("ArrowRight")
    expect(board).to_have_url(re.compile("cell=LSMO-140"))

    assert board.locator(".cell.current").get_attribute("aria-label").startswith("LSMO-140 · 140 K")
    assert board.locator(".temperature-text").inner_text() == "LSMO-140 · 140\u202fK"
    board.keyboard.press("Enter")
    expect(board).to_have_url(re.compile(f"#/volume/{catalog.volumes[1]}"))


@pytest.mark.slow
def test_cells_are_compared_side_by_side_and_the_address_keeps_it(board, open_page, catalog):
    board.keyboard.press("c")
    cell(board, 90).click()
    cell(board, 140).click()
    expect(board).to_have_url(re.compile("compare=.*140"))
    other = open_page(catalog)
    other.goto(board.url)

    titles = other.locator(".stage-title")
    expect(titles).to_have_count(2)
    shown = {text.replace("\u202f", " ") for text in titles.all_inner_texts()}
    assert shown == {"LSMO-140 · 90 K", "LSMO-140 · 140 K"}


def test_the_slider_goes_through_temperature(board):
    board.locator("input.temperature").focus()
    board.keyboard.press("Home")

    expect(board.locator(".temperature-text")).to_contain_text("90")
    assert "90 K" in board.locator("input.temperature").get_attribute("aria-valuetext")
    panel = board.locator(".stage-panel canvas.image-canvas").first
    assert "90 K" in panel.get_attribute("aria-label")


def test_the_order_parameter_is_written_as_it_was_answered(page, catalog):
    points = [
        {"temperature": kelvin, "intensity": 10.5 * n, "sigma": 0.5, "volume": catalog.volumes[n],
         "sample": "LSMO-140", "growing": n == 2}
        for n, kelvin in enumerate((90.0, 140.0, 200.0))
    ]  # fmt: skip
    law = {"Tc": 149.723, "Tc_error": 0.174, "beta": 0.322, "beta_error": 0.0052, "scale": 20.0}
    answer = {"at": [0.5, 0.5, 0.5], "points": points, "law": law, "why": ""}
    page.route("**/order?*", lambda route: route.fulfill(json=answer))
    page.goto(f"/live/#/experiment/{catalog.runs[0].series['uid']}")
    chart = page.locator("section[aria-label='Order parameter']")
    expect(chart.locator(".law")).to_contain_text("Tc = 149.7(2)\u202fK, β = 0.322(5)")
    with page.expect_download() as download:
        chart.get_by_role("button", name="CSV").click()
    rows = list(csv.reader(Path(download.value.path()).read_text().splitlines()))

    assert rows[0][:4] == ["sample", "temperature_K", "intensity_at_0.5_0.5_0.5", "sigma"]
    assert [[float(x) for x in row[1:4]] for row in rows[1:]] == [
        [p["temperature"], p["intensity"], p["sigma"]] for p in points
    ]
    assert chart.locator(".chart-note").inner_text() == "1 of 3 points still grows"
    assert page.locator("th.after-transition").inner_text() == "200"


@pytest.mark.slow
def test_a_point_that_was_not_measured_is_explained(board, catalog):
    uid = catalog.runs[0].series["uid"]
    answered = board.request.get(f"/series/{uid}/order?at=0.5,0.5,0.5").json()

    if not answered["points"]:
        expect(board.locator(".chart-note").first).to_have_text(answered["why"])


@pytest.mark.slow
def test_a_wrong_plane_is_refused_where_it_was_typed(board):
    board.watched.expect("400")
    field = board.get_by_label("Plane of S(Q)")
    field.fill("hkl")
    field.press("Enter")

    board.locator(".plane-error").wait_for()
    assert "plane" in board.locator(".plane-error").inner_text()
    assert board.locator(".cell.pictured").count() == 0


@pytest.mark.slow
def test_the_board_fills_while_a_run_grows(open_page, growing):
    page = open_page(growing)
    page.watched.expect("404")
    nothing = {"detail": "The catalog has no runs yet."}
    page.route("**/series/latest", lambda route: route.fulfill(status=404, json=nothing))
    page.goto("/live/#/experiment")
    page.get_by_text("No runs yet").wait_for()
    page.unroute("**/series/latest")

    series = series_of("growing-series", 0, (0, 0), "LSMO-140")
    run = growing.run(temperature=90.0, series=series)
    run.take(0, 1)
    growing.publish([run])
    page.locator(".cell[data-state='measuring']").wait_for()
    expect(cell(page, 90)).to_have_attribute("aria-label", re.compile("2 of 8 frames stored"))
    assert page.locator(".cell[data-state='planned']").count() == 2

    run.take(2, 3, 4, 5, 6, 7)
    run.publish()
    page.locator(".cell[aria-label*='8 of 8 frames stored']").wait_for()
    run.finish()
    run.publish()
    growing.publish_volume(growing.reduce(run))
    page.locator(".cell[data-state='measured'].pictured").wait_for()


def many_cells(volume, rows=6, columns=25):
    """Return a series of many cells, all with the volume that is there."""
    temperatures = [10.0 * (n + 2) for n in range(columns)]
    samples = [f"LSMO-{140 + n}" for n in range(rows)]
    cells = [
        {"sample": sample, "temperature": kelvin, "state": "measured", "runs": ["abcdef"],
         "frames": {"stored": 1090, "missing": 5 * (n % 9 == 0), "rejected": 0, "pending": 0},
         "expected": 1095, "completeness": 1.0, "alarms": [], "volume": volume,
         "volume_state": "finished",
         "lattice": {"a": [5.4 + 1e-5 * kelvin, 0.0012], "b": [5.4 + 1e-5 * kelvin, 0.0012],
                     "c": [20.1, 0.004], "alpha": [90.0, None]}}
        for sample in samples for n, kelvin in enumerate(temperatures)
    ]  # fmt: skip
    return {"uid": "many", "state": "ended", "time": 0.0, "samples": samples, "left": None,
            "temperatures": temperatures, "cells": cells}  # fmt: skip


@pytest.mark.slow
def test_six_samples_at_25_temperatures_are_readable_and_quick(page, catalog):
    answer = many_cells(catalog.volumes[0])
    page.route("**/series/many", lambda route: route.fulfill(json=answer))
    page.route("**/series/many/order*", lambda route: route.fulfill(
        json={"at": [0.5, 0.5, 0.5], "points": [], "law": None, "why": "none"}))  # fmt: skip
    page.goto("/live/#/experiment/many?plane=hk0.5&cell=LSMO-141@20")
    expect(page.locator(".cell.pictured")).to_have_count(150, timeout=30_000)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent():
        metrics = session.send("Performance.getMetrics")["metrics"]
        return {each["name"]: each["value"] for each in metrics}["TaskDuration"]

    before = spent()
    steps = page.evaluate("""async () => {
      const slider = document.querySelector("input.temperature");
      for (let at = 0; at <= Number(slider.max); at++) {
        slider.value = at;
        slider.dispatchEvent(new Event("input", {bubbles: true}));
        await new Promise(requestAnimationFrame);
      }
      return Number(slider.max) + 1;
    }""")

    assert steps == 25
    assert (spent() - before) / steps < 0.050  # s of CPU time a step
    lattice = page.locator("section[aria-label='Lattice parameters']")
    assert lattice.locator("header button").all_inner_texts() == ["a = b", "c"]
    expect(lattice.locator(".law span")).to_have_text("a = b = 5.4026(12), c = 20.100(4)\u202fÅ")
    assert page.locator(".cell").first.bounding_box()["width"] >= 40
    wide = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
    assert wide <= 0


@pytest.mark.slow
def test_on_a_phone_the_board_scrolls_within_itself(open_page, catalog):
    page = open_page(catalog, size=(390, 844), dark=True)
    answer = many_cells(catalog.volumes[0])
    page.route("**/series/many", lambda route: route.fulfill(json=answer))
    page.route("**/series/many/order*", lambda route: route.fulfill(
        json={"at": [0.5, 0.5, 0.5], "points": [], "law": None, "why": "none"}))  # fmt: skip
    page.goto("/live/#/experiment/many")
    page.locator(".cell.pictured").first.wait_for()

    assert page.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0
    assert page.evaluate(
        "(b => b.scrollWidth > b.clientWidth)(document.querySelector('.board-scroll'))"
    )
    page.locator(".board-scroll").evaluate("b => b.scrollTo(600, 0)")
    name = page.get_by_role("rowheader", name="LSMO-140").bounding_box()
    assert 0 <= name["x"] < 40  # names stay


@pytest.mark.parametrize("dark", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_board_can_be_read_by_everybody(open_page, catalog, dark):
    page = open_page(catalog, dark=dark)
    page.goto(f"/live/#/experiment/{catalog.runs[0].series['uid']}?plane=hk0.5")
    expect(page.locator(".cell.pictured")).to_have_count(3)

    assert violations(page) == []


def test_the_python_line_makes_what_is_shown(board, catalog):
    lines = board.locator("#python")

    expect(lines).to_contain_text(catalog.url)
    expect(lines).to_contain_text(f'series("{catalog.runs[0].series["uid"]}")')


@pytest.mark.slow
def test_all_series_are_the_rows_of_one_board(page, catalog):
    page.goto("/live/#/experiment/all?plane=hk0")

    expect(page.locator("tbody th[scope=row]")).to_have_text(["LSMO-142", "LSMO-140"])
    expect(page.locator(".cell.pictured")).to_have_count(3)


@pytest.mark.slow
def test_of_two_cells_at_one_place_the_newer_one_is_shown(page):
    page.goto("/live/#/runs")
    board = page.evaluate("""async () => {
      const {merged} = await import("/live/js/board/series.js");
      const cell = (temperature, state, volume) => ({sample: "A", temperature, state, volume});
      return merged([
        {uid: "new", state: "running", time: 2, left: 60, samples: ["A"],
         cells: [cell(90, "measured", "new-90"), cell(140, "planned", null)]},
        {uid: "old", state: "ended", time: 1, left: null, samples: ["A"],
         cells: [cell(90, "measured", "old-90"), cell(140, "measured", "old-140")]},
      ]);
    }""")

    assert [c["volume"] for c in board["cells"]] == ["new-90", "old-140"]
    assert (board["state"], board["left"]) == ("running", 60)
