"""What somebody at home types, against a real server over HTTP."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import pytest
from remote.home import MISSING, REJECTED, SAMPLE, TEMPERATURES, Home, N

import offbragg
from offbragg.errors import CatalogError, NoSuchEntry
from offbragg.remote import downloads
from offbragg.remote.connection import Connection
from offbragg.remote.frames import NoFrameYet
from offbragg.remote.link import CatalogAway
from offbragg.remote.live_curve import LiveCurve
from offbragg.remote.run import Run

PNG = b"\x89PNG\r\n"


@pytest.fixture
def faulty(home: Home, catalog: Connection) -> Run:
    """The run at 120 K, of which two frames are not stored."""
    return catalog.runs[home.runs[1].uid]


@pytest.fixture
def asked(catalog: Connection, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the server."""
    paths: list[str] = []
    get = catalog.link._http.get

    def noted(path: str, **more: Any) -> Any:
        paths.append(path)
        return get(path, **more)

    monkeypatch.setattr(catalog.link._http, "get", noted)
    return paths


# -- connect --------------------------------------------------------------------------------------


def test_address_and_key_are_found_in_the_environment(home, monkeypatch):
    monkeypatch.setenv("OFFBRAGG_CATALOG", home.beamline.url)
    monkeypatch.setenv("OFFBRAGG_KEY", home.beamline.reading_key)

    catalog = offbragg.connect()

    assert len(catalog.runs) >= 4
    catalog.close()


@pytest.mark.parametrize("what", ["address", "key"])
def test_what_is_missing_is_named(home, monkeypatch, what):
    for name in ("OFFBRAGG_CATALOG", "OFFBRAGG_KEY"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(CatalogError, match=f"the catalog's {what} is missing\n.*OFFBRAGG_"):
        offbragg.connect(home.beamline.url if what == "key" else None, None)


def test_the_key_is_seen_nowhere(home, catalog, faulty):
    key = home.beamline.reading_key
    with_key = offbragg.connect(f"{home.beamline.url}?api_key={key}")
    shown = [repr(each) for each in (catalog, catalog.link, with_key, with_key.link, faulty)]
    shown += [catalog._repr_html_(), with_key.address, repr(catalog.link._http.headers)]
    for wrong, asked in (("/nothing", {}), ("/runs", {"x": key[:9]}), ("/volumes/no/plane", {})):
        with pytest.raises(CatalogError) as refused:
            with_key.link.json(wrong, **asked)
        shown.append(str(refused.value))
    with_key.close()

    assert not [text for text in shown if key in text]


def test_a_wrong_key_and_a_server_that_is_away_are_explained(home):
    with pytest.raises(CatalogError, match=r"refused the key \(401\): This key is wrong"):
        offbragg.connect(home.beamline.url, "wrong")
    with pytest.raises(CatalogAway, match=r"is away: GET /runs failed.*\nIs the tunnel open"):
        offbragg.connect("http://127.0.0.1:1", "key", timeout=0.3)
    with pytest.raises(CatalogError, match="is not the address of a catalog\nIt begins with http"):
        offbragg.connect("127.0.0.1:8000", "key")


def test_the_same_runs_are_reached_with_the_client_of_tiled(home, catalog):
    run = catalog.tiled[home.runs[0].uid]

    assert run.start["scan_id"] == 1
    assert catalog.tiled is catalog.tiled


# -- runs -----------------------------------------------------------------------------------------


def test_runs_are_found_by_what_was_measured(home, catalog):
    found = catalog.runs(sample=f"{SAMPLE[:2]}*", temperature=(100, 150), since="2020-01-01")

    assert [run.temperature for run in found] == [120.0, 150.0]
    assert (found[0].uid, found[-1].uid) == (home.runs[1].uid, home.runs[2].uid)
    assert [run.uid for run in found[::-1]] == [home.runs[2].uid, home.runs[1].uid]
    assert home.runs[1].uid in found
    assert home.runs[0].uid not in found
    assert len(catalog.runs(temperature=120)) == 1
    assert len(catalog.runs(purpose="dark")) == 0
    assert "120" in found._repr_html_()
    assert list(found.table()["temperature"]) == [120.0, 150.0]
    assert catalog.latest(temperature=(None, 130)).uid == home.runs[1].uid
    with pytest.raises(NoSuchEntry, match="no run with purpose='dark'"):
        catalog.latest(purpose="dark")
    with pytest.raises(CatalogError, match=r"samples is unknown \(did you mean 'sample'\?\)"):
        len(catalog.runs(samples="LSMO"))


def test_a_long_list_is_asked_for_page_by_page_from_the_newest(catalog, asked, monkeypatch):
    monkeypatch.setattr("offbragg.remote.runs._SHOWN", 1)
    found = catalog.runs(temperature=(0, 171))

    assert asked == []
    assert found[-1].temperature == 170.0
    assert asked == ["/runs"]
    assert [run.temperature for run in found] == list(TEMPERATURES[:4])
    assert len(asked) == 2


def test_a_run_is_named_by_its_uid_the_start_of_it_or_its_scan_id(home, catalog, monkeypatch):
    monkeypatch.setattr("offbragg.remote.runs._JUST_OPENED", 0.1)
    uid = home.runs[0].uid

    found = [catalog.runs[uid], catalog.runs[uid[:8]], catalog.runs[1], catalog.runs["1"]]

    assert [run.uid for run in found] == [uid] * 4
    assert found[0].start["sample"]["name"] == SAMPLE
    assert found[0].stop["exit_status"] == "success"
    with pytest.raises(NoSuchEntry, match="has no run 'nowhere'; the newest are #"):
        catalog.runs["nowhere"]


# -- frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        0, -1, np.int64(2), slice(None), slice(1, 3), slice(None, None, 3), slice(6, 1, -2),
        slice(2, 100), slice(5, 5), ..., (0, 10), (2, -1, -1), (..., 7), (0, ..., slice(2, 5)),
        (slice(0, 2), slice(20, 10, -3), slice(-5, None)), (slice(None), 0, slice(None, None, 50)),
    ],
)  # fmt: skip
def test_frames_are_indexed_as_numpy_does(home, faulty, key):
    expected = home.runs[1].sweep.counts.copy()
    expected[[MISSING, REJECTED]] = -1

    found = faulty.frames[key]

    assert found.dtype == np.int32
    assert np.shape(found) == expected[key].shape
    np.testing.assert_array_equal(found, expected[key])


def test_an_index_that_numpy_refuses_is_refused_in_words(faulty):
    for key, why in [
        (N, "frame 8 is outside: there are 8"),
        ((0, 195), "row 195 is outside: there are 195"),
        ((0, 0, 0, 0), "4 indices are given: there are 3 axes"),
        ("last", "str is not an index of a frame"),
        (([0, 1], 0), "list is not an index of a frame"),
        ((..., ...), "one ellipsis"),
    ]:
        with pytest.raises(IndexError, match=why):
            faulty.frames[key]


def test_what_is_not_asked_for_does_not_cross_the_wire(faulty, asked):
    assert len(faulty.frames) == N
    asked.clear()

    region = faulty.frames[0:N, 90:110:2, 200:220]
    sums = faulty.frames.sums[:N, 90:110, 200:220]

    assert asked == [f"/runs/{faulty.uid}/frames"] * 2
    answer = faulty._link.get(asked[0], index="0:8", roi="90:110:2,200:220", format="bytes")
    assert len(answer.content) <= region.nbytes / 2  # before it is compressed
    counted = np.where(region < 0, 0, region).sum(axis=(1, 2))
    assert len(sums) == N
    assert np.isnan(sums.counts[[MISSING, REJECTED]]).all()
    assert (sums.counts[[0, 7]] >= counted[[0, 7]]).all()
    assert sums.angle[0] == pytest.approx(1.0)
    assert sums._repr_png_().startswith(PNG)


def test_more_than_one_question_may_hold_is_asked_for_in_parts(home, faulty, monkeypatch, asked):
    monkeypatch.setattr("offbragg.remote.frames._MOST_BYTES", 3 * 195 * 487 * 4)
    assert faulty.frames.shape == (N, 195, 487)
    asked.clear()

    found = np.asarray(faulty.frames)

    assert len(asked) == 3
    np.testing.assert_array_equal(found[4], home.runs[1].sweep.counts[4])


def test_the_last_frame_is_the_newest_stored_and_has_a_picture(home, faulty):
    last = faulty.frames.last

    assert (last.index, last.status, last.angle) == (N - 1, "stored", 15.0)
    np.testing.assert_array_equal(
        last[90:110, 200:210], home.runs[1].sweep.counts[-1, 90:110, 200:210]
    )
    assert last.counts.shape == (195, 487)
    assert last.sum(slice(90, 110)) > 0
    assert last._repr_png_().startswith(PNG)
    assert faulty.frames.header(0)["angle"] == pytest.approx(1.0)
    assert faulty._repr_png_().startswith(PNG)


VERBS = {  # questions, and kB that cross the network at most
    "latest()": (lambda catalog, run: catalog.latest(), 1, 2),
    "runs()": (lambda catalog, run: list(catalog.runs()), 1, 4),
    "runs[uid]": (lambda catalog, run: catalog.runs[run.uid], 1, 3),
    "run.ledger": (lambda catalog, run: run.ledger, 1, 1),
    "run.table()": (lambda catalog, run: run.table(), 1, 3),
    "run.frames[-1]": (lambda catalog, run: run.frames[-1], 2, 45),
    "run.frames.last, its picture": (lambda catalog, run: run.frames.last.picture(), 2, 75),
    "run.frames[:500, 90:110, 200:220]": (
        lambda catalog, run: run.frames[:500, 90:110, 200:220], 2, 4,
    ),
    "run.frames.sums[:500, 90:110, 200:220]": (
        lambda catalog, run: run.frames.sums[:500, 90:110, 200:220], 2, 2,
    ),
    "run.volume.plane()": (lambda catalog, run: run.volume.plane("hk0.5"), 2, 9),
    "run.volume.cut()": (lambda catalog, run: run.volume.cut((0, 0, 0), (1, 1, 0)), 2, 3),
    "series.order_parameter()": (lambda catalog, run: catalog.series().order_parameter(), 2, 5),
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_asks_few_questions_of_few_bytes(home, catalog, monkeypatch, verb):
    ask, questions, most = VERBS[verb]
    run = catalog.runs[home.runs[1].uid]
    sent: list[int] = []
    get = catalog.link._http.get

    def counted(*args: Any, **more: Any) -> Any:
        answer = get(*args, **more)
        sent.append(answer.num_bytes_downloaded)
        return answer

    monkeypatch.setattr(catalog.link._http, "get", counted)
    ask(catalog, run)

    assert len(sent) == questions
    assert most / 8 < sum(sent) / 1000 < most


# -- ledger and table -----------------------------------------------------------------------------


def test_the_ledger_has_what_became_of_each_frame(faulty):
    ledger = faulty.ledger

    assert ledger.counts() == {"pending": 0, "stored": N - 2, "missing": 1, "rejected": 1}
    assert ledger.reasons[MISSING] == "x_00003.cbf was not there 5 s after it was due"
    assert ledger.complete
    assert ledger.axis == "phi"
    np.testing.assert_allclose(ledger.angles, 2.0 * np.arange(N) + 1.0)
    html = ledger._repr_html_()
    assert html.count("<rect") == 5
    assert "x_00003.cbf was not there" in html
    assert ledger._repr_png_().startswith(PNG)


def test_the_table_has_one_row_for_each_frame(faulty, monkeypatch):
    rows = faulty.table()
    monkeypatch.setitem(sys.modules, "pandas", None)  # not installed
    arrays = faulty.table()

    assert list(rows.index) == list(range(1, N + 1))
    assert list(rows["status"])[MISSING] == "missing"
    np.testing.assert_allclose(rows["angle"], 2.0 * np.arange(N) + 1.0)
    assert set(arrays) == {"seq_num", *rows.columns}
    assert arrays["angle"].dtype == np.float64
    with pytest.raises(NoSuchEntry, match="no table 'nothing'; its streams are primary"):
        faulty.table("nothing")


# -- volumes and series ---------------------------------------------------------------------------


def test_planes_cuts_and_boxes_are_those_of_the_volume(catalog, faulty):
    volume = faulty.volume
    whole = volume.box((-1, 2), (-1, 2), (-1, 2))

    plane = volume.plane("hk0.5", sigma=True)
    diagonal = volume.cut((0, 0, 0.5), (1, 1, 0.5))
    along = volume.line("h,0.5,0.5")

    assert volume.state == "finished"
    assert (whole.intensity.shape, plane.intensity.shape) == ((41, 41, 41), (41, 41))
    np.testing.assert_array_equal(plane.intensity, whole.intensity[:, :, 20])
    np.testing.assert_array_equal(diagonal.intensity, plane.intensity.diagonal()[10:31])
    np.testing.assert_array_equal(along.intensity, plane.intensity[:, 20])
    assert diagonal.sigma is not None
    assert diagonal.intensity.argmax() == 10  # at ½ ½ ½
    assert volume.plane("hk0.5", level=2).intensity.shape == (21, 21)
    assert f"{SAMPLE}, 120 K, hk0.5: 41 × 41 cells" in repr(plane)
    for shown in (volume, plane, diagonal, whole):
        assert shown._repr_png_().startswith(PNG)
        assert "data:image/png;base64,iVBOR" in shown._repr_html_()
    assert plane.picture().startswith(PNG)  # where there is no matplotlib
    assert volume.key in volume._repr_html_()
    assert len(catalog.volumes(temperature=(None, 100))) == 1
    assert catalog.volume(volume.key).key == volume.key
    assert len(catalog.volumes(sample=SAMPLE, temperature=(100, 160))) == 2
    with pytest.raises(CatalogError, match="'no' is not a plane: write hk0"):
        volume.plane("no")
    with pytest.raises(CatalogError, match="directions have whole numbers"):
        volume.cut((0, 0, 0), (1, 0.13, 0))
    with pytest.raises(CatalogError, match=r"hkl is inf.*: it must be a point in the cell"):
        volume.why(np.inf, 0, 0)


def test_a_series_has_a_table_volumes_and_an_order_parameter(home, catalog):
    series = catalog.series(home.series)

    table = series.table()
    found = series.order_parameter((0.5, 0.5, 0.5))

    assert catalog.series().uid == home.series
    assert list(table["temperature"])[:4] == list(TEMPERATURES[:4])
    assert list(table["completeness"])[:2] == [1.0, pytest.approx(0.75)]
    assert list(table["missing"])[:2] == [0, 1]
    assert [run.uid for run in series.runs][:4] == [run.uid for run in home.runs][:4]
    assert series.volume(100).temperature == 90.0
    assert "4 of 5 temperatures" in repr(series) or "5 of 5" in repr(series)
    assert "KMnF3" in series._repr_html_()
    assert series._repr_png_().startswith(PNG)
    assert list(found.temperature) == list(TEMPERATURES[:4])
    assert found.intensity[0] > 3 * found.intensity[-1] > 0
    assert "at least 5 temperatures" in found.why
    assert (found.sigma > 0).all()
    assert found._repr_png_().startswith(PNG)
    assert catalog.all_series()[0]["uid"] == home.series


# -- what is being measured -----------------------------------------------------------------------


@contextmanager
def beside(work: Any) -> Iterator[None]:
    """Do something while a test waits for it."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(60)
    assert not failed, failed


def test_a_run_that_was_just_opened_is_waited_for_and_says_no_frame_yet(home, catalog):
    run = home.open(4)
    with beside(lambda: (time.sleep(0.3), home.beamline.publish([run]))):
        found = catalog.runs[run.uid]

    try:
        assert found.state == "running"
        assert (len(found.frames), found.frames[:].shape) == (0, (0, 195, 487))
        assert found.ledger.counts()["pending"] == N
        for ask in (lambda: found.frames[0], lambda: found.frames[-1], lambda: found.frames.last):
            with pytest.raises(NoFrameYet, match=r"^no frame yet: run .* none of its 8 frames"):
                ask()
        assert found._repr_png_() is None
        assert "running" in repr(found)
        with pytest.raises(CatalogError, match=r"has no volume in the catalog yet\noffbragg live"):
            found.volume  # noqa: B018
        with pytest.raises(CatalogError):
            found.download()
        assert found.stop is None
        assert list(found.follow(timeout=0.1)) == []
    finally:
        measure(home, run)


def measure(home: Home, run: Any, *, pause: float = 0.0, restart: bool = False) -> None:
    """Take the frames of a run, a few at a time, and end it."""
    for first in range(0, N, N // 2):
        run.take(*range(first, first + N // 2))
        home.beamline.publish([run])
        time.sleep(pause)
        if restart and not first:
            home.beamline.restart()
    run.finish()
    home.beamline.publish([run])


@pytest.mark.slow
def test_each_frame_comes_once_although_the_connection_breaks(home, catalog, monkeypatch):
    run = home.open(4)
    home.beamline.publish([run])
    get, asked = catalog.link._http.get, itertools.count()

    def breaks(path: str, **more: Any) -> Any:
        """Every third question is not answered."""
        if next(asked) % 3 == 2:
            raise httpx.ConnectError("no route to host")
        return get(path, **more)

    monkeypatch.setattr(catalog.link._http, "get", breaks)
    with beside(lambda: measure(home, run, pause=0.2)):
        frames = [(f.run.uid, f.index, f.status) for f in catalog.follow(timeout=30)]

    assert frames == [(run.uid, n, "stored") for n in range(N)]
    assert next(asked) > 10


@pytest.mark.slow
def test_each_frame_comes_once_although_the_server_is_started_again(home, catalog):
    run = home.open(4)
    home.beamline.publish([run])

    with beside(lambda: measure(home, run, pause=0.2, restart=True)):
        frames = [(f.index, f[0, 0]) for f in catalog.follow(timeout=60)]

    assert frames == [(n, run.sweep.counts[n, 0, 0]) for n in range(N)]


def test_the_sweeps_of_a_series_come_as_they_begin_and_end_with_it(home, catalog):
    series = catalog.series(home.series)

    sweeps = list(series.follow("sweeps", timeout=20))

    assert [run.uid for run in sweeps] == [run.uid for run in home.runs]
    assert [run.temperature for run in sweeps][:5] == list(TEMPERATURES)
    with pytest.raises(CatalogError, match="'volumes' cannot be followed"):
        next(series.follow("volumes"))


def test_a_frame_that_was_missing_comes_once_more_when_it_is_stored(faulty):
    frames, complete = faulty.decided({})
    given = {frame.index: frame.status for frame in frames}

    again, _ = faulty.decided(given)
    late, _ = faulty.decided({**given, 0: "missing"})

    assert complete
    assert [frame.index for frame in frames] == list(range(N))
    assert (again, [frame.index for frame in late]) == ([], [0])


def test_a_curve_grows_where_it_is_shown(monkeypatch):
    curve = LiveCurve("angle (degree)", "counts")
    monkeypatch.setattr("offbragg.remote.live_curve._EVERY", 0.0)

    for i in range(3):
        curve.add(i, i * i, label="90 K")

    assert curve.points == {"90 K": ([0.0, 1.0, 2.0], [0.0, 1.0, 4.0])}
    assert curve._repr_png_().startswith(PNG)


# -- the notebook ---------------------------------------------------------------------------------

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tutorials" / "from-home.ipynb"


def shown_by(
    cells: dict[str, str], env: dict[str, str], meanwhile: dict[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Run cells in a kernel, and something beside some; return what each shows, by media type."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager()
    manager.kernel_spec.argv[0] = sys.executable  # not the one of another environment
    manager.start_kernel(env={**os.environ, **env})
    client = manager.blocking_client()
    client.start_channels()
    shown: dict[str, list[dict[str, Any]]] = {name: [] for name in cells}
    try:
        client.wait_for_ready(timeout=120)
        for name, cell in cells.items():

            def note(message: Any, name: str = name) -> None:
                content = message["content"]
                assert message["msg_type"] != "error", "\n".join(content["traceback"])
                if "data" in content:
                    shown[name].append(content["data"])

            with beside(meanwhile.get(name, lambda: None)):
                reply = client.execute_interactive(cell, timeout=60, output_hook=note)
            assert reply["content"]["status"] == "ok"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return shown


def test_the_notebook_shows_what_it_says_in_three_lines_each(home, monkeypatch):
    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    notebook = json.loads(NOTEBOOK.read_text())
    cells = {
        cell["id"]: "".join(cell["source"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
    }
    run = home.open(4)

    def go_on() -> None:
        time.sleep(0.3)
        home.beamline.publish([run])
        measure(home, run, pause=0.3)

    environment = {
        "OFFBRAGG_CATALOG": home.beamline.url, "OFFBRAGG_KEY": home.beamline.reading_key,
    }  # fmt: skip
    shown = shown_by(cells, environment, {"live": go_on})

    lines = {name: len(list(filter(None, cell.splitlines()))) for name, cell in cells.items()}
    assert max(lines.values()) <= 3
    assert list(cells) == ["connect", "last", "region", "order", "plane", "live"]
    assert "text/html" in shown["connect"][-1]
    for name in ("last", "region", "order", "plane"):
        assert shown[name][-1]["image/png"], name
    assert len(shown["live"]) >= 2  # it was drawn again as frames came
    assert f"{N} points" in shown["live"][-1]["text/plain"]


# -- download -------------------------------------------------------------------------------------


def test_a_download_is_resumed_and_checked(home, faulty, tmp_path, monkeypatch):
    whole = home.runs[1].scan.path.read_bytes()
    breaks = iter([True, False])

    def broken(link: Any, address: str, part: Path, name: str, *more: Any) -> None:
        if name == "f1.h5" and next(breaks):
            part.write_bytes(whole[: len(whole) // 2])
            raise CatalogAway("the catalog is away")
        receive(link, address, part, name, *more)

    receive = downloads._receive
    monkeypatch.setattr(downloads, "_receive", broken)
    with pytest.raises(CatalogAway):
        faulty.download(tmp_path / "data", progress=None)
    seen: list[tuple[str, int, int]] = []

    paths = faulty.download(tmp_path / "data", progress=lambda *how: seen.append(how))

    assert {path.name for path in paths} == {"f1.h5", "f1.h5.digest", "volume-f1.h5"}
    assert (tmp_path / "data" / "f1.h5").read_bytes() == whole
    assert min(have for name, have, _ in seen if name == "f1.h5") > len(whole) // 2
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == sorted(
        path.name for path in paths
    )
    assert faulty.download(tmp_path / "data", progress=None) == paths


def test_what_arrives_damaged_is_fetched_again_and_never_gets_the_name(
    home, faulty, tmp_path, monkeypatch
):
    (tmp_path / "f1.h5.part").write_bytes(b"of another file")

    paths = faulty.download(tmp_path, progress=None)

    assert paths[0].read_bytes() == home.runs[1].scan.path.read_bytes()
    paths[0].write_bytes(b"mine")
    with pytest.raises(CatalogError, match="exists, and differs from the file of run"):
        faulty.download(tmp_path, progress=None)
    assert paths[0].read_bytes() == b"mine"
    for bad in ("../f1.h5", ".bashrc", "a\\b", "c:d"):
        with pytest.raises(CatalogError, match="is not the name of a file"):
            downloads._fetch(faulty._link, faulty.uid, {"name": bad, "size": 1}, tmp_path, None)
