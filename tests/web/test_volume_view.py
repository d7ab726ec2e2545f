"""A plane of S(Q) on the page: its pixels, cuts and cells are those of the file; it grows."""

from __future__ import annotations

import csv
import io
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from web.beamline import ShownBeamline
from web.browser import violations

from offbragg.catalog.containers import GROWING
from offbragg.catalog.volumes import publish_volume
from offbragg.files.cuts import cut_between, cut_box, cut_plane
from offbragg.files.planes import Plane
from offbragg.files.volume_file import VolumeFile
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.reduction.symmetry import Laue
from offbragg.sample import Sample
from offbragg.volume import Volume

pytestmark = [pytest.mark.web, pytest.mark.slow]  # some of them: test_views.py
sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
expect = sync_api.expect

LOW, HIGH = 1.0, 100.0
RANGE = f"range={LOW:g}:{HIGH:g}"
SETTLED = """level => {
  const {layers} = view.image;
  return layers.length > 0 && layers[layers.length - 1].level === level
    && !view.timers.has("settle") && document.querySelector(".plane-note").textContent === "";
}"""
DRAWN = """async () => {
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  const {canvas, layers} = view.image;
  const raster = layers[layers.length - 1];
  const {data, width} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const ratio = canvas.width / canvas.clientWidth;
  const found = [];
  for (let i = 0; i < raster.nu; i++) for (let j = 0; j < raster.nv; j++) {
    const [u, v] = [raster.u0 + (i + 0.5) * raster.du, raster.v0 + (j + 0.5) * raster.dv];
    const [x, y] = view.image.toScreen(u, v);
    const inside = x > 56 && y > 44 && x < canvas.clientWidth - 66 && y < canvas.clientHeight - 48;
    const at = 4 * (Math.floor(y * ratio) * width + Math.floor(x * ratio));
    found.push(inside ? [data[at], data[at + 1], data[at + 2]] : null);
  }
  return {found, nu: raster.nu, nv: raster.nv, u: raster.cut.axes[0], v: raster.cut.axes[1],
    at: raster.cut.at, values: [...raster.values].map(x => (Number.isNaN(x) ? null : x))};
}"""


def volume_path(catalog, n=0) -> Path:
    return catalog.runs[n].scan.path.with_name("volume-f1.h5")


def open_view(page, where) -> None:
    """Go to an address of the view, and let scripts call it ``view``."""
    page.watched.expect("willReadFrequently")  # the tests read the canvas, the page does not
    page.goto(f"/live/#/volume{where}")
    page.evaluate('async () => { window.view = (await import("./js/views/volume.js")).view; }')


def go(page, key, query="", level=1):
    open_view(page, f"/{key}?{query}")
    page.wait_for_function(SETTLED, arg=level)


def wait_for_address(page, text, *, there=True):
    page.wait_for_function(
        "([text, there]) => location.hash.includes(text) === there", arg=[text, there]
    )


def as_array(drawn) -> np.ndarray:
    values = [np.nan if x is None else x for x in drawn["values"]]
    return np.reshape(values, (drawn["nu"], drawn["nv"])).astype(np.float32)


def check_pixels(drawn, intensity) -> None:
    """Compare each cell that is seen with its colour in the table, and what was not measured."""
    viridis = np.array(pytest.importorskip("matplotlib").colormaps["viridis"].colors)
    table = np.floor(255 * viridis + 0.5).astype(int)
    seen = np.array([pixel is not None for pixel in drawn["found"]])
    pixels = np.array([pixel or (0, 0, 0) for pixel in drawn["found"]])[seen]
    cells = intensity.reshape(-1)[seen]
    known = np.isfinite(cells)
    place = np.log(np.clip(cells[known], LOW, HIGH) / LOW) / np.log(HIGH / LOW)
    shade = np.clip(np.floor(256 * place), 0, 255).astype(int)
    # an intensity on the edge of two shades may have either
    near = [table[np.clip(shade + step, 0, 255)] for step in (-1, 0, 1)]
    apart = np.min([np.abs(colours - pixels[known]).sum(axis=1) for colours in near], axis=0)
    hatched = np.abs(table[None] - pixels[~known][:, None]).sum(axis=2).min(axis=1)

    assert seen.sum() > min(500, 0.9 * len(seen))
    assert apart.max() <= 3  # the last bit of a table may be rounded
    assert hatched.size == 0 or hatched.min() > 3


@pytest.mark.parametrize(
    "name", ["hk-0.5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("h0l", "hhl"))]
)
def test_the_pixels_are_the_cells_of_the_file(page, catalog, name):
    go(page, catalog.volumes[0], f"plane={name}&{RANGE}&level=1")

    drawn = page.evaluate(DRAWN)

    with VolumeFile(volume_path(catalog)) as file:
        cut = cut_plane(file, Plane.parse(name))
    np.testing.assert_array_equal(as_array(drawn), cut.intensity)
    assert drawn["at"] == pytest.approx(cut.at)
    check_pixels(drawn, cut.intensity)


@pytest.mark.slow
def test_the_finest_cells_come_also_where_the_server_is_slow(page, catalog):
    page.route("**/plane?*", lambda route: (time.sleep(0.3), route.continue_()))

    go(page, catalog.volumes[0], "plane=hhl&level=1")

    assert page.evaluate("view.image.layers.map(layer => layer.level)") == [8, 1]


def test_a_symmetrised_plane_is_that_of_the_symmetrised_volume(page, catalog):
    go(page, catalog.volumes[0], f"plane=hk-0.5&{RANGE}&level=1")

    page.keyboard.press("s")
    expect(page.get_by_role("button", name="symmetrise")).to_have_attribute("aria-pressed", "true")
    wait_for_address(page, "symmetry=sample")
    page.wait_for_function(SETTLED, arg=1)
    drawn = page.evaluate(DRAWN)

    with VolumeFile(volume_path(catalog)) as file:
        laue = Laue.of(file.sample.space_group, file.sample.lattice)
        cut = cut_plane(file, Plane.parse("hk-0.5"), operations=laue.operations)
        plain = cut_plane(file, Plane.parse("hk-0.5"))
    assert np.isfinite(cut.intensity).sum() > np.isfinite(plain.intensity).sum()
    np.testing.assert_array_equal(as_array(drawn), cut.intensity)


def test_a_dragged_cut_has_the_cells_of_the_file(page, catalog):
    with VolumeFile(volume_path(catalog)) as file:
        plane = cut_plane(file, Plane.parse("hk-0.5"))
        row = int(np.isfinite(plane.intensity).sum(axis=0).argmax())
        h0, h1, k = (float(plane.axes[0][5]), float(plane.axes[0][-5]), float(plane.axes[1][row]))
        cut = cut_between(file, [(h0, k, -0.5), (h1, k, -0.5)], sigma=True)
    go(page, catalog.volumes[0], f"plane=hk-0.5&{RANGE}&level=1")
    place = """([u, v]) => {
      const {x, y} = view.image.canvas.getBoundingClientRect();
      const [a, b] = view.image.toScreen(u, v); return [x + a, y + b]; }"""
    start, end = (page.evaluate(place, point) for point in ([h0, k], [h1 + 0.02, k + 0.03]))

    page.keyboard.press("c")
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=3)
    page.mouse.up()

    rows = page.locator(".cut tbody tr")
    expect(rows).to_have_count(len(cut.axes[0]))
    wait_for_address(page, f"cut={h0:.5g},{k:.5g},-0.5:{h1:.5g},{k:.5g},-0.5")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    text = Path(download.value.path()).read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    table = list(csv.DictReader(io.StringIO("\n".join(lines))))
    measured = np.isfinite(cut.intensity)
    assert [float(row["h"]) for row in table] == pytest.approx((h0 + cut.axes[0]).tolist())
    assert [float(row["k"]) for row in table] == pytest.approx([k] * len(table))
    assert {row["l"] for row in table} == {"-0.5"}
    assert [row["intensity"] != "" for row in table] == measured.tolist()
    for name, values in (("intensity", cut.intensity), ("sigma", cut.sigma)):
        found = [float(row[name]) for row in table if row[name]]
        np.testing.assert_allclose(found, values[measured], rtol=1e-6)
    assert measured.any()
    page.keyboard.press("c")
    page.keyboard.press("Escape")
    expect(page.locator(".cut-table")).to_be_hidden()
    wait_for_address(page, "cut=", there=False)


@pytest.mark.slow
def test_a_cell_says_what_made_it(page, catalog):
    with VolumeFile(volume_path(catalog)) as file:
        weight = file.volume().weight
        h, k, l = file.grid.h, file.grid.k, file.grid.l  # noqa: E741
        i, j, n = (int(x) for x in np.argwhere(weight == weight.max())[0])
        point = (float(h[i]), float(k[j]), float(l[n]))
        box = ",".join(f"{x - 0.01}:{x + 0.01}" for x in point)
        one = cut_box(file, box, sigma=True)
    hkl = ",".join(f"{x:.5g}" for x in point)
    why = page.request.get(f"/volumes/{catalog.volumes[0]}/why?hkl={hkl}").json()

    go(page, catalog.volumes[0], f"plane=hk{point[2]:.5g}&{RANGE}&cell={hkl}&level=1")

    fact = page.locator(".why [data-fact]")
    expect(fact.and_(page.locator("[data-fact=frames]"))).to_be_visible(timeout=30_000)
    frames = {(p["file"], p["frame"]) for p in why["pixels"] if p["state"] == "counted"}
    shown = page.locator("[data-fact=frames]").inner_text()
    assert int(shown.split()[0]) == len(frames) > 0
    value = re.fullmatch(r"([\d.]+)\((\d+)\)", page.locator("[data-fact=intensity]").inner_text())
    sigma = int(value[2]) * 10.0 ** -len(value[1].partition(".")[2])
    assert sigma == pytest.approx(float(one.sigma.flat[0]), rel=0.35)
    assert float(value[1]) == pytest.approx(float(one.intensity.flat[0]), abs=0.6 * sigma)
    assert page.locator(".why tbody tr").count() >= len(frames)


def test_an_address_is_the_whole_view(page, catalog):
    key = catalog.volumes[1]
    query = (
        "plane=h0.5l&at=0.2,0.5,-0.3&level=1&range=2:50&scale=linear&palette=magma&thickness=0.3"
    )
    go(page, key, query)

    assert page.locator("#volume-value").input_value() == "0.5"
    assert page.locator("#volume-thickness").input_value() == "0.3"
    assert [field.input_value() for field in page.locator(".limit").all()] == ["50", "2"]
    assert page.get_by_label("Colour map").input_value() == "magma"
    page.get_by_role("button", name="auto", exact=True).click()
    wait_for_address(page, "range=", there=False)
    page.locator("#volume-value").fill("0.7")
    page.locator("#volume-value").press("Enter")
    wait_for_address(page, "plane=h0.7l")
    expect(page.locator("#python")).to_contain_text(f'volume("{key}")')
    expect(page.locator("#python")).to_contain_text('plane("h0.7l", thickness=0.3, level=1)')


@pytest.mark.slow
def test_the_keys_move_the_plane_and_the_temperature(page, catalog):
    go(page, catalog.volumes[0], "plane=hk0&level=1")
    expect(page.locator(".volume-marks span")).to_have_count(3)

    page.keyboard.press("ArrowUp")
    wait_for_address(page, "plane=hk0.1")
    page.keyboard.press("l")
    wait_for_address(page, "scale=linear")
    page.keyboard.press("x")
    wait_for_address(page, "plane=0kl")
    page.keyboard.press("ArrowRight")
    wait_for_address(page, catalog.volumes[1])
    expect(page.locator(".volume-kelvin")).to_contain_text("140")
    page.keyboard.press("Shift+ArrowRight")
    wait_for_address(page, "cell=")
    page.wait_for_function(SETTLED, arg=1)
    drawn = page.evaluate(DRAWN)

    with VolumeFile(volume_path(catalog, 1)) as file:
        cut = cut_plane(file, Plane.parse("0kl"))
    np.testing.assert_array_equal(as_array(drawn), cut.intensity)


def test_of_an_oblique_plane_nothing_is_shown_beyond_the_grid(page, catalog):
    go(page, catalog.volumes[0], f"plane=hhl&{RANGE}&level=8", level=8)

    shown = page.evaluate(
        """async () => {
          await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
          const {image, volume: {grid}} = view;
          const {first, shape, per_unit: per} = grid;
          const {canvas, layers: [{cut}]} = image;
          const context = canvas.getContext("2d");
          const found = [];
          for (let x = 60; x < canvas.clientWidth - 70; x += 3)
            for (let y = 46; y < canvas.clientHeight - 50; y += 3) {
              const [u, v] = image.toPlane(x, y);
              // how far a point is inside the grid, cells; below 0: outside
              const depth = Math.min(...[0, 1, 2].flatMap(i => {
                const at = cut.at[i] + u * cut.axes[0].direction[i] + v * cut.axes[1].direction[i];
                const cell = at * per[i] - first[i];
                return [cell + 0.5, shape[i] - 0.5 - cell]; }));
              if (Math.abs(depth) < 0.5) continue;
              const ratio = canvas.width / canvas.clientWidth;
              const [, , , alpha] = context.getImageData(x * ratio, y * ratio, 1, 1).data;
              found.push([depth > 0, alpha > 0, image.cell(u, v) !== null]);
            }
          return found; }"""
    )

    inside, drawn, read = np.array(shown).T
    assert inside.any()
    assert not inside.all()
    assert not (drawn & ~inside).any()
    assert not (read & ~inside).any()
    assert read[inside].mean() > 0.9


def test_the_field_has_the_plane_that_is_shown(page, catalog):
    go(page, catalog.volumes[0], f"plane=hk0&{RANGE}&level=1")
    field = page.locator("#volume-value")
    toast = page.locator("#toast")

    for text, shown, words in (
        ("-1/2", "−0.5", None), ("0.512", "0.5", None), ("−½", "−0.5", None), ("0,2", "0.2", None),
        ("abc", "0.2", "“abc” is not a number"), ("1/0", "0.2", "“1/0” is not a number"),
        ("99", "0.2", "outside the volume"),
    ):  # fmt: skip
        field.fill(text)
        field.press("Enter")
        expect(field).to_have_value(shown)
        if words:
            expect(toast).to_contain_text(words)
        wait_for_address(page, f"plane=hk{shown.replace('−', '-')}&")
    field.press("ArrowUp")
    expect(field).to_have_value("0.3")
    field.fill("7")
    field.press("Escape")
    expect(field).to_have_value("0.3")


@pytest.mark.slow
def test_scrolling_through_temperature_blocks_the_page_for_no_frame(page, catalog):
    go(page, catalog.volumes[0], "plane=hk-0.5")
    expect(page.locator(".volume-marks span")).to_have_count(3)
    page.wait_for_timeout(600)  # the neighbours are fetched before
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def script() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(each["value"] for each in metrics if each["name"] == "ScriptDuration")

    before, steps = script(), 12
    for n in range(steps):
        page.keyboard.press("ArrowRight" if n % 4 < 2 else "ArrowLeft")
        page.wait_for_timeout(40)

    assert (script() - before) / steps < 0.05


@pytest.mark.slow
def test_what_cannot_be_shown_is_said(page, catalog):
    page.watched.expect("404", "400")
    page.goto("/live/#/volume/no-such-volume")
    expect(page.get_by_role("alert")).to_contain_text("does not exist")
    page.get_by_role("link", name="Show the newest volume").click()
    expect(page.locator(".plane-box")).to_be_visible()

    page.goto(f"/live/#/volume/{catalog.volumes[0]}?plane=h,h,h&scale=nonsense")

    expect(page.locator(".plane-message")).to_contain_text("not a plane")
    expect(page.locator("#toast")).to_contain_text("scale=nonsense")


@pytest.mark.parametrize("dark", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_view_is_accessible(open_page, catalog, dark, screenshot):
    page = open_page(catalog, dark=dark)
    go(page, catalog.volumes[0], "plane=hk0&cut=-1,0.5,0:1,0.5,0", level=1)
    expect(page.locator(".cut tbody tr").first).to_be_visible()

    found = violations(page)

    assert not found, found


GRID = Grid((-150, -20, -4), (301, 41, 9), (40, 8, 8))


def grown(share: float) -> Volume:
    """A hexagonal crystal's volume of which the first rows were measured."""
    h, k, l = np.meshgrid(GRID.h, GRID.k, GRID.l, indexing="ij")  # noqa: E741
    weight = np.where(k < -2.5 + 5.0 * share, 2.0, 0.0)
    counts = np.round(weight * (20 + 15 * np.cos(2 * h) * np.cos(3 * k) + 4 * l))
    sample = Sample(
        name="SnS2", label="flake", space_group="P -3 m 1", lattice=(3.6, 3.6, 5.9, 90, 90, 120)
    )
    return Volume(counts, weight, GRID, sample=sample)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A beamline without a run and without a volume."""
    made = ShownBeamline.create(tmp_path_factory.mktemp("empty"))
    made.begin()
    made.wait()
    yield made
    made.end()


def publish(beamline: ShownBeamline, path: Path) -> str:
    host, port = beamline.url.rpartition("/")[2].split(":")
    return publish_volume(path, host=host, port=int(port), key=beamline.key, timeout=60.0)


def replace(path: Path, volume: Volume, record: dict) -> Path:
    part = path.with_name("part.h5")
    write_volume(part, volume, record)
    part.replace(path)
    return path


@pytest.mark.slow
def test_a_volume_is_seen_from_its_first_frames_on_and_grows(open_page, empty):
    page = open_page(empty)
    open_view(page, f"?{RANGE}")
    expect(page.get_by_role("status").filter(has_text="No volume yet")).to_be_visible()
    path = empty.config.paths.experiment / "live.h5"
    growing = {GROWING: {"f1.h5": {"frames": 3, "run": "4c1e"}}}

    key = publish(empty, replace(path, grown(0.3), growing))

    expect(page.locator(".volume-state")).to_contain_text("growing", timeout=15_000)
    page.wait_for_function(SETTLED, arg=1)
    few = np.isfinite(as_array(page.evaluate(DRAWN))).sum()
    replace(path, grown(0.6), growing)
    page.wait_for_function(
        """few => {
          const values = view.image.layers[0]?.values ?? [];
          const now = [...values].filter(x => x === x).length;
          return view.image.layers.length === 2 && now > few / 4 * 1.5; }""",
        arg=int(few), timeout=20_000,
    )  # fmt: skip
    replace(path, grown(1.0), {"inputs": []})
    expect(page.locator(".volume-state")).to_contain_text("finished", timeout=20_000)
    page.wait_for_function(SETTLED, arg=1)

    drawn = page.evaluate(DRAWN)

    assert page.evaluate("location.hash").startswith(f"#/volume/{key}?plane=hk0")
    np.testing.assert_array_equal(as_array(drawn), grown(1.0).intensity[:, :, 4].astype("f4"))
    # the lattice is hexagonal: k* is 60 degrees from h*, and cells are drawn so
    angle = page.evaluate(
        """() => {
          const [o, u, v] = [[0, 0], [1, 0], [0, 1]].map(p => view.image.toScreen(...p));
          return Math.atan2(o[1] - v[1], v[0] - o[0]) * 180 / Math.PI; }"""
    )
    assert angle == pytest.approx(60.0, abs=0.1)


@pytest.mark.slow
def test_of_a_part_that_is_zoomed_the_finest_cells_are_fetched(open_page, empty):
    path = empty.config.paths.experiment / "live.h5"
    key = publish(empty, replace(path, grown(1.0), {"inputs": []}))
    page = open_page(empty)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    go(page, key, f"plane=hk0.25&{RANGE}&part=0.5:1.5,-1:0")

    drawn = page.evaluate(DRAWN)

    assert [url for url in asked if "/box?" in url]
    assert not [url for url in asked if "/plane?plane=hk" in url and "level=" not in url]
    h = (drawn["u"]["first"] * 40 + 150 + np.arange(drawn["nu"])).round().astype(int)
    k = (drawn["v"]["first"] * 8 + 20 + np.arange(drawn["nv"])).round().astype(int)
    expected = grown(1.0).intensity[np.ix_(h, k, [6])][..., 0].astype("f4")
    assert drawn["nu"] * drawn["nv"] < 0.6 * 301 * 41
    np.testing.assert_array_equal(as_array(drawn), expected)
    check_pixels(drawn, expected)


@pytest.mark.slow
def test_the_plane_stays_while_the_server_is_away_and_the_next_one_comes_with_it(open_page, empty):
    path = empty.config.paths.experiment / "live.h5"
    key = publish(empty, replace(path, grown(1.0), {"inputs": []}))
    page = open_page(empty)
    page.watched.expect("ERR_", "WebSocket", "503")
    go(page, key, f"plane=hk0&{RANGE}")

    empty.end()
    for _ in range(4):  # two of them were fetched before
        page.keyboard.press("ArrowUp")
    expect(page.locator(".plane-message")).to_contain_text("hk0.5 is fetched once it is back")
    empty.restart()

    expect(page.locator(".plane-message")).to_be_hidden(timeout=60_000)
    page.wait_for_function(SETTLED, arg=1)
    assert page.evaluate(DRAWN)["at"] == [0, 0, 0.5]


@pytest.mark.slow
def test_a_volume_that_is_deleted_while_it_is_shown_is_said_to_be(open_page, empty):
    path = empty.config.paths.experiment / "deleted.h5"
    key = publish(empty, replace(path, grown(1.0), {"inputs": []}))
    page = open_page(empty)
    page.watched.expect("410", "404")
    go(page, key, f"plane=hk0&{RANGE}")
    expect(page.locator(".volume-state .mark-ok")).to_be_visible()

    path.unlink()
    page.keyboard.press("x")

    expect(page.locator(".plane-message")).to_contain_text("was deleted", timeout=30_000)
    expect(page.locator(".volume-state .mark-bad")).to_be_visible()


PEROVSKITE = Grid((-60, -60, -60), (121, 121, 121), (20, 20, 20))


def perovskite(temperature: float) -> Volume:
    """Diffuse scattering around Bragg peaks, and superlattice peaks below 150 K."""
    axis = PEROVSKITE.h
    h, k, l = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)  # noqa: E741
    waves = sum(np.cos(2 * np.pi * x) for x in (h, k, l))
    between = sum(np.cos(np.pi * x) ** 2 for x in (h, k, l))
    squared = h**2 + k**2 + l**2
    order = max(1 - temperature / 150.0, 0.0) ** 0.65
    expected = 2 + squared * 0.02 * temperature / (3.1 - waves)
    expected = expected + 4000 * order * np.exp(-between / 0.02)
    weight = np.where((squared > 0.2) & (squared < 8.8) & (np.abs(h * k * l) < 3.2), 3.0, 0.0)
    counts = np.random.default_rng(3).poisson(weight * expected).astype(float)
    sample = Sample(
        name="KMnF3", label="crystal1", space_group="P m -3 m",
        lattice=(4.19, 4.19, 4.19, 90, 90, 90),
    )  # fmt: skip
    return Volume(counts, weight, PEROVSKITE, sample=sample)


@pytest.mark.skipif(
    not os.environ.get("OFFBRAGG_SCREENSHOTS"), reason="makes a picture of the docs"
)
def test_the_picture_of_the_docs(open_page, empty, screenshot):
    keys = {
        kelvin: publish(
            empty,
            replace(
                empty.config.paths.experiment / f"{kelvin}K.h5", perovskite(kelvin),
                {"inputs": [], "temperature": float(kelvin)},
            ),
        )
        for kelvin in (90, 110, 130, 145, 170)
    }  # fmt: skip
    cut = "cut=-2,0.5,0.5:2,0.5,0.5"
    page = open_page(empty)
    go(page, keys[90], f"plane=hk0.5&at=0.5,0.5,0.5&{cut}")
    expect(page.locator(".volume-marks span")).to_have_count(5)
    page.wait_for_timeout(500)
    screenshot(page, "volume")
