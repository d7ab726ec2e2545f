"""The Python that the documentation shows does run."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky_tiled_plugins.queries import ScanID, TimeRange
from catalog.served import PublishedRun, Server
from tiled.queries import Key, Like

from offbragg.catalog.client import connect
from offbragg.catalog.volumes import publish_volume
from offbragg.files import scan_writer
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.sample import Sample
from offbragg.volume import Volume

DOCS = Path(__file__).parents[2] / "docs"
SNIPPETS = DOCS / "snippets"


def run(name: str) -> dict[str, Any]:
    return runpy.run_path(str(SNIPPETS / f"{name}.py"))


def queries_of_the_page() -> list[str]:
    page = (DOCS / "how-to" / "find-and-slice-from-home.md").read_text()
    return re.findall(r"^\| [^|]+ \| `(cat\.search\(.*?\))`", page, re.MULTILINE)


def names(cat: Any) -> dict[str, Any]:
    return {"cat": cat, "Key": Key, "Like": Like, "ScanID": ScanID, "TimeRange": TimeRange}


def test_every_snippet_is_run_here():
    here = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    tests = DOCS.parent / "tests"
    kit = (tests / "testing" / "test_kit.py").read_text()
    hook = (tests / "followers" / "test_on_stored.py").read_text()

    names = [path.stem for path in SNIPPETS.glob("*.py")]

    assert names
    for name in names:
        assert f'run("{name}")' in here or name in kit or f"{name}.py" in hook


def test_a_sweep_has_the_edges_and_midpoints_that_the_page_says():
    run("sweep")  # has asserts of its own


def test_a_scan_file_is_read_with_h5py_and_as_a_scan_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.syspath_prepend(DOCS / "_ext")
    monkeypatch.chdir(tmp_path)
    from offbragg_example import example_scan_file

    example_scan_file(scan_writer, tmp_path)
    sys.modules.pop("offbragg_example")
    run("read_scan_file")

    printed = capsys.readouterr().out
    assert "LSMO-140 stored 23" in printed
    assert "1 missing LSMO_00001.cbf was not there" in printed


def publish_a_volume(server: Server, root: Path, run: PublishedRun) -> str:
    grid = Grid((-10, -10, -10), (21, 21, 21), (5, 5, 5))
    ones = np.ones(grid.shape)
    sample = Sample("LSMO-140", "cut1", lattice=(3.9, 3.9, 3.9, 90.0, 90.0, 90.0))
    record = {"temperature": run.temperature, "inputs": [{"run": run.uid, "file": "f1.h5"}]}
    path = write_volume(root / "volume-f1.h5", Volume(ones, ones, grid, sample=sample), record)
    host, _, port = server.url.removeprefix("http://").partition(":")
    return publish_volume(path, host=host, port=int(port), key=server.key)


def test_a_run_is_found_read_and_sliced_from_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    root = tmp_path / "data"
    root.mkdir()
    server = Server.start(tmp_path / "catalog", root)
    clients = [connect(server.url, server.key)]
    try:
        one = PublishedRun(root / "run", client=clients[0], temperature=95.0)
        one.begin()
        one.create_scan_file()
        one.store(*(n for n in range(10) if n != 3))
        assert one.scan is not None
        one.scan.mark(3, "missing", "x_00003.cbf was not there 5 s after it was due")
        one.announce(10)
        one.finish()
        one.open()
        assert one.feed()
        monkeypatch.setenv("OFFBRAGG_CATALOG", server.url)
        monkeypatch.setenv("OFFBRAGG_KEY", server.key)
        key = publish_a_volume(server, root, one)
        monkeypatch.setenv("OFFBRAGG_VOLUME", key)
        (home := tmp_path / "home").mkdir()
        monkeypatch.chdir(home)
        (home / "data").mkdir()

        seen = run("from_home")
        clients.append(seen["cat"])
        opened = run("volume_as_zarr")
        typed = run("connect_from_home")

        assert [uid for uid, _ in seen["cold"].items()] == [one.uid]
        assert list(seen["rows"]["status"]).count("stored") == 9
        assert seen["rows"].index.name == "time"
        assert abs(seen["rows"].index[0].timestamp() - one.began) < 1
        assert "missing" in capsys.readouterr().out
        assert seen["image"].shape == (10, 195, 487)
        assert seen["region"].shape == (3, 50, 100)
        assert seen["one"][0, 0] == 2
        assert seen["name"] == key
        assert seen["intensity"].shape == (11, 11)
        assert len(seen["table"]) == 10
        assert [each.uid for each in typed["cold"]] == [one.uid]
        assert typed["region"].shape == (3, 50, 100)
        np.testing.assert_array_equal(typed["one"], seen["one"])
        assert (len(typed["sums"]), len(typed["every_tenth"])) == (10, 1)
        assert list(typed["rows"]["status"]).count("stored") == 9
        assert (typed["plane"].intensity.shape, len(typed["cut"].intensity)) == ((11, 11), 6)
        assert typed["box"].intensity.shape == (11, 11, 3)
        assert len(typed["progress"]) == 1
        assert typed["order"].law is None
        assert len(typed["curve"].points["95"][0]) == 10
        assert (home / "data" / "f1.h5").read_bytes() == one.scan.path.read_bytes()
        typed["catalog"].close()
        assert (opened["plane"] == 1).all()
        assert opened["plane"].shape == (11, 11)
        assert (opened["scale"], opened["translation"]) == ([0.2] * 3, [-2.0] * 3)
        assert opened["height"] == pytest.approx(0.1)
        assert len(seen["found"]) == 1
        found = {query: len(eval(query, names(seen["cat"]))) for query in queries_of_the_page()}
        assert len(found) >= 6
        assert found['cat.search(Key("sample.name") == "LSMO-140")'] == 1
        assert found['cat.search(Like("sample.formula", "La%"))'] == 1
        assert found['cat.search(Key("series.uid") == "…")'] == 0
        assert seen["cat"][-1].start["uid"] == one.uid
        assert seen["cat"][one.uid[:8]].start["uid"] == one.uid
        one.journal.close()
    finally:
        for client in clients:
            client.context.http_client.close()
        server.end()
