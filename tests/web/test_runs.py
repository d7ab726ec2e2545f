"""The table of runs: what is found, how an address keeps it, and what one run opens to."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from web.beamline import N, series_of
from web.browser import violations

import offbragg

pytestmark = [pytest.mark.web, pytest.mark.slow]  # some of them: test_views.py
sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
expect = sync_api.expect
expect.set_options(timeout=20_000)

IN_WORDS = """async ([text, now]) => {
  const {readFilters, asQuery} = await import("/live/js/board/words.js");
  const {query, phrases} = readFilters(text, {samples: ["LSMO-140"], now: new Date(now)});
  return [decodeURIComponent(asQuery(query)), phrases];
}"""
NOW = "2026-11-28T15:30:00"  # a Saturday; pages are in UTC
MIDNIGHT = 1795824000


@pytest.fixture
def table(page):
    page.goto("/live/#/runs")
    expect(page.locator(".runs tbody tr")).to_have_count(4)
    return page


def numbers(page):
    return page.locator(".runs tbody th").all_inner_texts()


WORDS = [
    ("sample LSMO, 80–120 K, today", f"sample=LSMO*&temperature=80:120&since={MIDNIGHT}"),
    ("lsmo-140 above 100 K", "sample=LSMO-140&temperature=100:"),
    ("#42", "scan_id=42"),
    ("failed background 120-80K", "status=fail&purpose=background&temperature=80:120"),
    ("yesterday", f"since={MIDNIGHT - 86400}&until={MIDNIGHT}"),
    ("last 3 hours", f"since={MIDNIGHT + 45000}"),
    ("since 14:00", f"since={MIDNIGHT + 50400}"),
    ("27 Nov", f"since={MIDNIGHT - 86400}&until={MIDNIGHT}"),
    ("friday", f"since={MIDNIGHT - 86400}&until={MIDNIGHT}"),
    ("90 K vacuum leak", "temperature=90&text=vacuum+leak"),
    ("data-set dark", "purpose=dark&text=data-set"),
]


def test_words_become_parameters(table):
    for text, query in WORDS:
        found, phrases = table.evaluate(IN_WORDS, [text, NOW])

        assert set(found.split("&")) == set(query.split("&")), text
        assert len(phrases) == len(query.split("&")) - query.count("until="), text


def test_the_rows_are_those_of_the_route_newest_first(table, catalog):
    rows = table.request.get("/runs").json()["runs"]

    assert numbers(table) == [f"#{row['scan_id']}" for row in rows] == ["#4", "#3", "#2", "#1"]
    for row, line in zip(rows, table.locator(".runs tbody tr").all(), strict=True):
        assert f"{row['frames']['stored']}/{N}" in line.inner_text()
        for name in ("missing", "rejected"):
            assert line.locator(f".tally-{name}").count() == (row["frames"][name] > 0)


def test_filters_in_words_are_in_the_address(table, open_page, catalog):
    table.get_by_label("Search runs").fill("sample LSMO, 80–150 K")
    expect(table.locator(".runs tbody tr")).to_have_count(3)
    expect(table).to_have_url(re.compile(r"#/runs\?q=sample"))
    other = open_page(catalog)
    other.goto(table.url)

    expect(other.locator(".runs tbody tr")).to_have_count(3)
    assert numbers(other) == ["#4", "#2", "#1"]
    assert other.locator(".phrase").all_inner_texts() == ["sample LSMO*", "80–150 K"]
    assert other.get_by_label("Search runs").input_value() == "sample LSMO, 80–150 K"


def test_nothing_found_is_explained(table):
    table.get_by_label("Search runs").fill("below 10 K")

    table.get_by_text("No run is like this").wait_for()
    assert "below 10 K" in table.locator(".runs-notice").inner_text()


def test_a_row_opens_to_its_ledger_its_pictures_and_its_files(table, catalog):
    run = catalog.runs[1]
    table.locator(".runs tbody tr").nth(2).click()
    expect(table).to_have_url(re.compile(f"#/runs/{run.uid}"))
    panel = table.locator("aside.run")
    ledger = table.request.get(f"/runs/{run.uid}/ledger").json()

    expect(panel.locator(".ledger-counts")).to_have_text(
        f"{ledger['counts']['stored']} stored · 1 missing · 1 rejected of {N} frames"
    )
    assert panel.locator(".reasons li").all_inner_texts() == [
        f"frame {index} {reason}" for index, reason in ledger["reasons"].items()
    ]
    expect(panel.locator(".thumb canvas")).to_have_count(5)
    assert "140 K" in panel.locator(".facts").inner_text()
    with table.expect_download() as download:
        panel.get_by_role("link", name=run.scan.path.name, exact=True).click()
    assert Path(download.value.path()).read_bytes() == run.scan.path.read_bytes()


def test_the_copied_lines_read_the_run(open_page, catalog, monkeypatch):
    page = open_page(catalog, permissions=["clipboard-read", "clipboard-write"])
    run = catalog.runs[0]
    page.goto(f"/live/#/runs/{run.uid}")
    page.locator("aside.run .copy-lines").click()
    page.get_by_text("Python lines copied").wait_for()
    lines = page.evaluate("navigator.clipboard.readText()")
    monkeypatch.setenv("OFFBRAGG_KEY", catalog.reading_key)
    names: dict[str, object] = {}

    assert len(lines.splitlines()) == 3
    exec(lines, names)  # as a person who pastes them

    assert names["run"].uid == run.uid
    assert (names["image"] == run.sweep.counts[N - 1]).all()
    assert offbragg.__version__


def test_a_run_that_lacks_frames_is_not_complete(table, catalog):
    row = table.locator(f'tr[data-uid="{catalog.runs[1].uid}"]')

    expect(row.locator(".exit")).to_have_text("1 missing, 1 rejected")
    expect(row.locator(".exit .mark-warn")).to_be_visible()
    expect(table.locator(".exit .mark-ok")).to_have_count(3)
    row.click()
    expect(table.locator("aside.run header .mark-warn")).to_be_visible()


def test_each_column_has_a_head_above_it(table):
    edges = table.evaluate(
        """() => ["thead tr", "tbody tr"].map(line => [...document.querySelector(
          `.runs ${line}`).children].map(cell => Math.round(cell.getBoundingClientRect().right)))"""
    )

    assert edges[0] == edges[1]
    assert table.locator("thead th").all_inner_texts()[5] == "Sweep"


def test_a_run_that_is_not_there_is_named(page):
    page.watched.expect("404")
    page.goto("/live/#/runs/nosuchrun")

    page.get_by_text("This run is not here").wait_for()
    expect(page.locator(".runs tbody tr")).to_have_count(4)


@pytest.mark.slow
def test_arrows_go_from_run_to_run_and_escape_closes(table, catalog):
    table.locator(".runs tbody tr").first.click()
    expect(table.locator("aside.run header h2")).to_contain_text("#4")
    table.locator("aside.run header").click()
    table.keyboard.press("Escape")
    expect(table.locator("aside.run")).to_be_hidden()
    table.locator(".runs tbody tr").first.click()
    expect(table.locator("aside.run")).to_be_visible()
    table.locator("body").press("ArrowDown")

    expect(table.locator("aside.run header h2")).to_contain_text("#3")
    expect(table).to_have_url(re.compile(catalog.runs[2].uid))


def test_all_runs_found_are_written_as_csv(table):
    with table.expect_download() as download:
        table.locator(".runs-head").get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))

    assert [row["scan_id"] for row in rows] == ["4", "3", "2", "1"]
    assert rows[2]["missing"] == rows[2]["rejected"] == "1"


def test_a_field_of_a_table_is_no_formula(table):
    written = table.evaluate("""async () => {
      const {writeCsv} = await import("/live/js/board/csv.js");
      return writeCsv(["a", "b"], [["=1+1", -2], ['say "x", y', null]]);
    }""")

    assert written == 'a,b\r\n\'=1+1,-2\r\n"say ""x"", y",\r\n'


def rows_of(first, count):
    return [
        {"uid": f"uid-{n:05d}", "scan_id": n, "time": 1795824000.0 + 60 * n, "stop_time": None,
         "exit_status": "success", "sample": "LSMO-140", "temperature": 90.0, "purpose": "data",
         "plan": "", "series": None, "sweep": 1, "sweeps": 1, "n_frames": 365, "what": "",
         "frames": {"stored": 365, "missing": 0, "rejected": 0, "pending": 0}, "complete": True}
        for n in range(first, first - count, -1)
    ]  # fmt: skip


@pytest.mark.slow
def test_pages_come_without_a_jump(page):
    newest = [1200]

    def answer(route):
        before = re.search(r"before=uid-(\d+)", route.request.url)
        first = int(before[1]) - 1 if before else newest[0]
        count = min(50, first)
        route.fulfill(json={"runs": rows_of(first, count), "total": newest[0],
                            "more": first > count})  # fmt: skip

    page.route("**/runs?*", answer)
    page.goto("/live/#/runs")
    expect(page.locator(".runs-count")).to_have_text("1200 runs")
    page.evaluate("""() => {
      window.shifts = 0;
      new PerformanceObserver(list => { for (const each of list.getEntries())
        window.shifts += each.value; }).observe({type: "layout-shift", buffered: false});
    }""")
    scroll = page.locator(".runs-scroll")
    scroll.evaluate("box => box.scrollTo(0, 1500)")
    expect(page.locator("tr[data-uid=uid-01120]")).to_be_attached()
    place = page.locator("tr[data-uid=uid-01160]").bounding_box()["y"]
    newest[0] = 1203  # three more are measured
    expect(page.locator("tr[data-uid=uid-01203]")).to_be_attached()

    assert page.locator("tr[data-uid=uid-01160]").bounding_box()["y"] == place
    assert page.evaluate("window.shifts") == 0
    assert numbers(page)[:2] == ["#1203", "#1202"]


@pytest.mark.slow
def test_a_run_is_seen_to_grow(open_page, growing):
    page = open_page(growing)
    run = growing.run(temperature=111.0, series=series_of("grows", 0, (0, 0), "LSMO-140"))
    run.take(0)
    growing.publish([run])
    page.goto("/live/#/runs?q=111 K")
    expect(page.locator(".tally-count")).to_have_text(f"1/{N}")

    run.take(1, 2)
    run.publish()

    expect(page.locator(".tally-count")).to_have_text(f"3/{N}")
    assert page.locator("td.exit").inner_text() == "measuring"


@pytest.mark.parametrize(
    ("size", "dark"),
    [((1280, 800), False), pytest.param((390, 844), True, marks=pytest.mark.slow)],
)
def test_the_runs_can_be_read_by_everybody(open_page, catalog, size, dark):
    page = open_page(catalog, size=size, dark=dark)
    page.goto(f"/live/#/runs/{catalog.runs[1].uid}")
    expect(page.locator("aside.run .thumb canvas")).to_have_count(5)

    assert violations(page) == []
    assert page.evaluate("document.scrollingElement.scrollWidth - innerWidth") <= 0
