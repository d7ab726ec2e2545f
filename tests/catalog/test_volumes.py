"""Volumes in the catalog: found beside the runs, and planes of them cut by the server."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tiled.queries import Contains, Key

from offbragg.catalog.volumes import publish_volume, volume_key
from offbragg.cli.publish import publish_made
from offbragg.errors import CatalogError
from offbragg.files.cuts import cut_plane
from offbragg.files.planes import Plane
from offbragg.files.volume_file import VolumeFile
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.sample import Sample
from offbragg.volume import Volume

GRID = Grid((-20, -18, -16), (41, 37, 33), (10, 10, 10))
UB = [[0.25, 0.0, 0.0], [0.0, 0.25, 0.0], [0.0, 0.0, 0.25]]


def volume_of(grid: Grid = GRID, *, seed: int = 1) -> Volume:
    random = np.random.default_rng(seed)
    weight = np.where(random.random(grid.shape) < 0.9, 1.5, 0.0)
    sample = Sample("LSMO-140", "crystal-2", lattice=(4.0, 4.0, 4.0, 90.0, 90.0, 90.0))
    return Volume(random.poisson(12 * weight).astype(float), weight, grid, sample=sample)


def written(path: Path, volume: Volume | None = None, *, temperature: float = 95.0) -> Path:
    record = {"temperature": temperature, "inputs": [{"run": "uid-1", "file": "f1.h5", "UB": UB}]}
    return write_volume(path, volume_of() if volume is None else volume, record)


def published(server: Any, path: Path) -> str:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return publish_volume(path, host=host, port=int(port), key=server.key)


@pytest.fixture(scope="module")
def path(server) -> Path:
    return written(server.root / "volume-f1.h5")


@pytest.fixture(scope="module")
def key(server, path) -> str:
    return published(server, path)


@pytest.fixture(scope="module")
def address(key) -> str:
    return f"/volumes/{key}"


@pytest.fixture
def volumes(cat, key) -> Any:
    return cat.volumes


# -- nodes ----------------------------------------------------------------------------------------


def test_a_volume_is_found_by_what_was_measured(volumes, key, path):
    found = volumes.search(Key("sample.name") == "LSMO-140").search(Key("temperature") < 100)

    assert key in list(found)
    metadata = found[key].metadata
    assert metadata["completeness"] == pytest.approx(0.9, abs=0.02)
    assert metadata["grid"] == GRID.to_dict()
    assert metadata["UB"] == UB
    assert metadata["record"]["temperature"] == 95.0
    assert metadata["runs"] == ["uid-1"]
    assert metadata["levels"] == [1, 2, 4, 8]
    assert metadata["file"] == str(path)
    assert key not in list(volumes.search(Key("completeness") > 0.95))


def test_the_volumes_of_a_run_are_found_by_its_uid(volumes, key):
    assert key in list(volumes.search(Contains("runs", "uid-1")))
    assert key not in list(volumes.search(Contains("runs", "uid-2")))


def test_its_arrays_are_those_of_the_file(volumes, key):
    node, volume = volumes[key], volume_of()

    assert set(node) == {"intensity", "sigma", "weight", "levels"}
    np.testing.assert_allclose(node["intensity"][:].T, volume.intensity, rtol=1e-6)
    np.testing.assert_allclose(node["sigma"][3].T, volume.sigma[:, :, 3], rtol=1e-6)
    np.testing.assert_array_equal(node["weight"][:, :4, :4].T, volume.weight[:4, :4])
    assert node["levels"]["2"].shape == (17, 19, 21)
    assert node["intensity"].dims == ("l", "k", "h")


def test_a_replaced_file_is_the_same_node_with_what_it_holds_now(server, volumes, http):
    path = written(server.root / "replaced.h5")
    key = published(server, path)
    before = http.get(f"/volumes/{key}/plane?format=npy")
    other = Grid((-5, -5, -5), (11, 11, 11), (5, 5, 5))
    path.unlink()
    written(path, volume_of(other), temperature=200.0)

    after = http.get(
        f"/volumes/{key}/plane?format=npy", headers={"If-None-Match": before.headers["etag"]}
    )

    assert after.status_code == 200
    assert np.load(io.BytesIO(after.content)).shape == (11, 11)
    assert published(server, path) == key
    assert volumes[key].metadata["temperature"] == 200.0
    assert volumes[key]["intensity"].shape == (11, 11, 11)


@pytest.mark.parametrize("name", ["..%2F..%2Fetc passwd", "é\N{SNOWMAN}'\"", "-rf *", "%00 & <b>;"])
def test_names_from_anywhere_are_published_under_plain_keys(server, http, name):
    key = published(server, path := written(server.root / f"{name}.h5"))

    assert key == volume_key(path)
    assert re.fullmatch("[A-Za-z0-9_.+-]+", key)
    assert http.get(f"/volumes/{key}/plane?level=2").status_code == 200


@pytest.mark.parametrize("name", ["a?b", "a#b", "a\nb", "a\x1b[2Jb"])
def test_names_that_are_no_address_are_refused(server, http, name):
    path = written(server.root / f"{name}.h5")

    with pytest.raises(CatalogError, match="Rename the file"):
        published(server, path)
    assert http.get(f"/api/v1/metadata/volumes/{volume_key(path)}").status_code == 404


def test_a_volume_outside_the_roots_is_not_published(server, tmp_path, http):
    path = written(tmp_path / "outside.h5")

    with pytest.raises(CatalogError, match="refuses a volume"):
        published(server, path)
    assert http.get(f"/volumes/{volume_key(path)}/plane").status_code == 404


def test_a_link_that_leads_out_is_refused_when_it_is_read(server, tmp_path, http):
    path = written(server.root / "led.h5")
    key = published(server, path)
    shutil.move(path, tmp_path / "led.h5")
    path.symlink_to(tmp_path / "led.h5")

    answer = http.get(f"/volumes/{key}/plane")

    assert (answer.status_code, "leads out" in answer.text) == (403, True)


def test_what_is_not_a_volume_file_any_more_is_refused(server, http):
    path = written(server.root / "garbage.h5")
    key = published(server, path)
    path.write_bytes(os.urandom(5000))

    answer = http.get(f"/volumes/{key}/plane")

    assert (answer.status_code, "not read" in answer.text) == (403, True)


# -- planes ---------------------------------------------------------------------------------------


def test_without_a_key_there_is_no_plane(server, address):
    for headers in ({}, {"Authorization": "Apikey 0123456789abcdef"}):
        assert httpx.get(f"{server.url}{address}/plane", headers=headers).status_code == 401


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("plane=hk0.5", "hk0.5"), ("plane=hk&value=0.5", "hk0.5"), ("plane=hk·&value=-1", "hk-1"),
        ("plane=h0l&value=1", "h1l"), ("plane=kl&value=0.2", "0.2kl"), ("plane=hhl", "hhl"),
        ("points=0,0,0;1,1,0;0,0,1", "hhl"), ("plane=h,k,-h-k", "h,k,-h-k"), ("", "hk0"),
    ],
)  # fmt: skip
def test_a_plane_is_that_of_the_file(http, address, path, query, name):
    answer = http.get(f"{address}/plane?{query}&format=npy".replace("?&", "?"))

    with VolumeFile(path) as file:
        right = cut_plane(file, Plane.parse(name)).intensity
    found = np.load(io.BytesIO(answer.content))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, right)
    described = json.loads(answer.headers["x-offbragg-cut"])
    assert described["shape"] == list(right.shape)


def test_raw_values_sigma_and_json_are_the_same_values(http, address, path):
    query = "plane=hk0&thickness=0.2&sigma=1"
    raw, npy, text = (
        http.get(f"{address}/plane?{query}&format={form}") for form in ("float32", "npy", "json")
    )

    values = np.load(io.BytesIO(npy.content))
    assert values.shape == (2, 41, 37)
    np.testing.assert_array_equal(np.frombuffer(raw.content, "<f4").reshape(values.shape), values)
    written_out = text.json()
    np.testing.assert_allclose(
        np.array(written_out["intensity"], float), values[0], rtol=1e-6, equal_nan=True
    )
    np.testing.assert_allclose(written_out["values"][0], GRID.h, atol=1e-12)


def test_a_picture_has_a_shade_for_each_cell_and_grey_where_nothing_was_measured(http, address):
    answer = http.get(f"{address}/plane?plane=h0l")

    assert answer.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.size == (41, 33)
    colours = np.asarray(picture.convert("RGB"))
    blank = np.isnan(volume_of().intensity[:, 18, :]).T[::-1]
    np.testing.assert_array_equal((colours == 204).all(axis=2), blank)
    described = json.loads(answer.headers["x-offbragg-cut"])
    assert 0 < described["low"] < described["high"]
    assert described["axes"][1]["direction"] == [0, 0, 1]


def test_lines_and_boxes_are_cut_the_same_way(http, address):
    volume = volume_of()

    line = http.get(f"{address}/line?line=h,0.5,0").json()
    box = http.get(f"{address}/box?box=-1:1,0:0.5,0:0&format=npy&sigma=true")

    np.testing.assert_allclose(
        np.array(line["intensity"], float), volume.intensity[:, 23, 16], rtol=1e-6
    )
    values = np.load(io.BytesIO(box.content))
    np.testing.assert_allclose(values[0], volume.intensity[10:31, 18:24, 16:17], rtol=1e-6)


def test_a_plane_that_a_client_has_is_not_sent_again(http, address):
    first = http.get(f"{address}/plane?plane=hk0.1")
    etag = first.headers["etag"]

    again = http.get(f"{address}/plane?plane=hk0.1", headers={"If-None-Match": etag})
    other = http.get(f"{address}/plane?plane=hk0.2", headers={"If-None-Match": etag})

    assert (again.status_code, again.content) == (304, b"")
    assert (other.status_code, other.headers["etag"] != etag) == (200, True)
    head = http.head(f"{address}/plane?plane=hk0.1")
    assert head.headers["etag"] == etag
    assert head.headers["content-length"] == str(len(first.content))


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("plane?plane=hkl", "is not a plane"),
        ("plane?plane=hk9", "outside the volume"),
        ("plane?plane=hk0&value=nan", "finite"),
        ("plane?plane=hhl&value=1", "one index stands still"),
        ("plane?plane=hk0&value=x", "value is x"),
        ("plane?thickness=-1", "thickness is -1"),
        ("plane?thickness=inf", "finite"),
        ("plane?level=3", "level is 3"),
        ("plane?level=2&sigma=1", "picture has no sigma"),
        ("plane?format=gif", "format is gif"),
        ("plane?sigma=1", "picture has no sigma"),
        ("plane?low=0", "above 0"),
        ("plane?plan=hk0", "plan is unknown (did you mean 'plane'?)"),
        ("plane?plane=hk0&plane=hk1", "given twice"),
        ("plane?points=0,0,0;1,0,0", "three points"),
        ("plane?points=a", "three points"),
        ("plane?points=0,0,0;1,0,0;0,1,0&plane=hk0", "not both"),
        ("plane?points=nan,0,0;1,0,0;0,1,0", "points must be three points"),
        ("plane?points=1e308,0,0;-1e308,0,0;0,1,0", "three numbers below"),
        ("plane?plane=" + "9" * 5000, "plane has 5000 characters; 200 are the limit"),
        ("plane?plane=%00%1b[2J", "is not a plane"),
        ("plane?plane=999999999999999999999hkl", "is not a plane"),
        ("plane?plane=99999999999999h,k,0", "is not a plane"),
        ("plane?plane=hh" + "9" * 99, "is not a plane"),
        ("line?line=h,0," + "9" * 150, "outside the volume"),
        ("box?box=1e308:1e308,0:1,0:1", "no cell has h"),
        ("line", "line is missing"),
        ("line?line=h,h,0", "not a line"),
        ("line?line=h,0,0&format=png", "format is png"),
        ("box?box=0:1", "not a box"),
        ("box?box=0:1,0:1,0:1&thickness=1", "thickness is unknown"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_words(http, address, query, why):
    answer = http.get(f"{address}/{query}")

    assert answer.status_code == 400, answer.text
    assert why in answer.json()["detail"]


@pytest.mark.parametrize(
    "name", ["nothing/plane", "../raw/plane", "%2e%2e%2f%2e%2e%2fetc/plane", "a/b/plane", "plane",
             "%00/plane", "x/slice", "%F0%9F/plane", "'; drop table nodes/plane"],
)  # fmt: skip
def test_what_is_not_a_volume_is_not_found(http, key, name):
    answer = http.get(f"/volumes/{name}")

    assert answer.status_code in (400, 404), answer.text


def test_volumes_are_read_only_at_this_address(http, address):
    assert http.post(f"{address}/plane").status_code in (403, 405)


def test_a_large_plane_is_not_written_out_as_text(http, server):
    grid = Grid((0, 0, 0), (401, 401, 1), (50, 50, 50))
    key = published(server, written(server.root / "large.h5", volume_of(grid)))

    answer = http.get(f"/volumes/{key}/plane?format=json")

    assert (answer.status_code, "as JSON" in answer.text) == (400, True)


def test_ten_viewers_at_once_all_see_their_planes(http, server, address, key, path):
    """Of one file, which is also read slice by slice and listed among files meanwhile."""
    volume = volume_of()
    places = [(name, n) for name in ("hk", "hl", "kl") for n in range(-8, 9, 2)] * 2

    def look(place):
        name, n = place
        with httpx.Client(headers=dict(http.headers), base_url=server.url, timeout=60) as client:
            answer = client.get(f"{address}/plane?plane={name}&value={n / 10}&format=npy")
            slices = client.get(
                f"/api/v1/array/full/volumes/{key}/intensity?slice={16 + n}",
                headers={"Accept": "application/octet-stream"},
            )
            assert (answer.status_code, slices.status_code) == (200, 200), answer.text
            return (
                np.load(io.BytesIO(answer.content)),
                np.frombuffer(slices.content, "<f4").reshape(37, 41),
            )

    with ThreadPoolExecutor(10) as viewers:
        seen = list(viewers.map(look, places))

    for (name, n), (plane, layer) in zip(places, seen, strict=True):
        fixed = {"hk": 2, "hl": 1, "kl": 0}[name]
        index = n - GRID.first[fixed]
        right = np.take(volume.intensity, index, axis=fixed)
        np.testing.assert_allclose(plane, right, rtol=1e-6)
        np.testing.assert_allclose(layer.T, volume.intensity[:, :, 16 + n], rtol=1e-6)


# -- in Python ------------------------------------------------------------------------------------


def test_three_lines_at_home_are_a_plane(volumes, key, path):
    volume = volumes.search(Key("sample.name") == "LSMO-140")[key]
    plane = volume.plane("hk0", value=0.5, sigma=True)

    with VolumeFile(path) as file:
        right = cut_plane(file, Plane.parse("hk0.5"), sigma=True)
    np.testing.assert_array_equal(plane.intensity, right.intensity)
    np.testing.assert_array_equal(plane.sigma, right.sigma)
    np.testing.assert_allclose(plane.axes[0], GRID.h, atol=1e-12)
    assert plane.at == (0.0, 0.0, 0.5)
    coarse = volume.plane("hk0", value=0.5, level=4, sigma=True)
    with VolumeFile(path) as file:
        right = cut_plane(file, Plane.parse("hk0.5"), level=4, sigma=True)
    np.testing.assert_array_equal(coarse.sigma, right.sigma)
    coarse = volume.plane("hhl", level=2)
    with VolumeFile(path) as file:
        right = cut_plane(file, Plane.parse("hhl"), level=2)
    np.testing.assert_array_equal(coarse.intensity, right.intensity)
    np.testing.assert_allclose(coarse.axes[1], right.axes[1])
    assert volume.plane(points=[(0, 0, 0), (1, 1, 0), (0, 0, 1)]).directions[0] == (1, 1, 0)
    assert volume.line("h,0.5,0", thickness=0.2).intensity.shape == (41,)
    assert volume.box("0:1,0:1,0:0").intensity.shape == (11, 11, 1)
    assert volume.picture("hk0", level=2).startswith(b"\x89PNG")


def test_a_coarse_axis_has_the_centres_also_where_its_last_cell_holds_fewer(volumes, key, path):
    sent = volumes[key].plane("hk0", level=8)

    with VolumeFile(path) as file:
        right = cut_plane(file, Plane.parse("hk0"), level=8)
    for axis, expected in zip(sent.axes, right.axes, strict=True):
        np.testing.assert_allclose(axis, expected, atol=1e-12)


def test_a_plane_that_is_refused_is_an_error_in_words(volumes, key):
    with pytest.raises(CatalogError, match="'hkl' is not a plane"):
        volumes[key].plane("hkl")
    with pytest.raises(KeyError, match="no volume 'nothing'"):
        _ = volumes["nothing"]


# -- from the command line ------------------------------------------------------------------------


def beamline(server: Any, monkeypatch: Any, *, url: str = "") -> None:
    host, _, port = (url or server.url).removeprefix("http://").partition(":")
    config = SimpleNamespace(
        catalog=SimpleNamespace(host=host, port=int(port)), read_key=lambda: server.key
    )
    monkeypatch.setattr("offbragg.beamline.config.load", lambda _: config)
    monkeypatch.setenv("OFFBRAGG_BEAMLINE", "beamline.toml")


def test_reduce_publishes_where_a_catalog_answers(server, volumes, whole, monkeypatch):
    beamline(server, monkeypatch)
    scan = whole.scan.path
    path = scan.with_name("made.h5")
    record = {"temperature": 95.0, "inputs": [{"run": whole.uid, "file": scan.name, "UB": UB}]}
    write_volume(path, volume_of(), record)

    key, message = publish_made(path, None)

    assert message == f"published as volumes/{key}"
    metadata = volumes[key].metadata
    assert metadata["runs"] == [whole.uid]
    assert metadata["series"] == whole.start.get("series")
    assert key in list(whole.node.volumes)


def test_a_volume_that_cannot_be_published_is_made_all_the_same(server, path, monkeypatch):
    beamline(server, monkeypatch, url="http://127.0.0.1:1")

    key, message = publish_made(path, None)

    assert key is None
    assert message.startswith("not published: the catalog at http://127.0.0.1:1 is away")


def test_without_a_beamline_nothing_is_published(path, monkeypatch):
    monkeypatch.delenv("OFFBRAGG_BEAMLINE", raising=False)

    assert publish_made(path, None) == (None, "")
    assert publish_made(path, Path("/nowhere.toml"))[1].startswith("not published: /nowhere.toml")


# -- hostile ------------------------------------------------------------------------------------

_NUMBERS = [
    "nan", "-inf", "1e300", "-1e300", "9" * 400, "", "inf", "1e-320", "0x10", "1_0", "\u0663", " ",
]  # fmt: skip
_HOSTILE = {
    "plane": ["plane", "value", "points", "thickness", "level", "low", "high", "sigma", "format"],
    "line": ["line", "thickness", "level", "sigma", "format"],
    "box": ["box", "level", "sigma", "format"],
    "why": ["hkl"],
}
_PATTERNS = [
    "{}", "h,{},0", "{}:{},0:1,0:1", "1:{},0:1,0:1", "0,0,0;{},1,0;0,0,1", "{},0,0", "{}h,k,0",
]  # fmt: skip


@pytest.mark.parametrize("kind", _HOSTILE)
def test_no_parameter_makes_the_server_fail(http, address, kind):
    """Each parameter with each number in each pattern: answered, or refused in words."""
    asked = [
        {name: pattern.format(number, number)}
        for name in _HOSTILE[kind]
        for pattern in (_PATTERNS if name in ("plane", "points", "line", "box", "hkl") else ["{}"])
        for number in (_NUMBERS if name == "value" else _NUMBERS[:5])
    ]
    also = {"line": {"line": "h,0,0"}, "box": {"box": "0:1,0:1,0:0"}}.get(kind, {})
    failed = []
    for query in asked:
        answer = http.get(f"{address}/{kind}", params=also | query)
        if answer.status_code == 400:
            assert len(answer.json()["detail"]) > 10
        elif answer.status_code != 200:
            failed.append((query, answer.status_code))

    assert not failed


@pytest.mark.slow
def test_more_cuts_at_once_than_can_wait_are_refused(http, server, address):
    """A client that leaves before its answer does not free the place of its question."""
    places = iter(range(10_000))

    def ask(_: int) -> int:
        url = f"{address}/plane?thickness=9&low={1 + next(places)}"
        with httpx.Client(headers=dict(http.headers), base_url=server.url) as client:
            try:
                return client.get(url, timeout=0.02).status_code
            except httpx.TimeoutException:
                return 0

    with ThreadPoolExecutor(20) as clients:
        answers = set(clients.map(ask, range(200)))

    assert answers <= {0, 200, 429}
    assert http.get(f"{address}/plane?level=2").status_code in (200, 429)
