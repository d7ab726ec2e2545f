"""What made a cell, over HTTP: the answer of `offbragg why`, of files below the roots only."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
from catalog.test_volumes import published, volume_of
from measured import AS_SIMULATED, Measured
from typer.testing import CliRunner

from offbragg.catalog.authentication import reading_key
from offbragg.cli.app import app
from offbragg.errors import CatalogError
from offbragg.files.volume_file import read_volume
from offbragg.files.volume_writer import write_volume
from offbragg.workflows.choices import Choices
from offbragg.workflows.reduce import reduce_files

_GROWING = {"f1.h5": {"run": "uid-1", "frames": 3, "orientation": "start document"}}


@pytest.fixture(scope="module")
def http(server):
    key = reading_key(server.key, ends=time.time() + 3600)
    headers = {"Authorization": f"Apikey {key}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def path(server) -> Path:
    """A volume of one sweep, with a mask that lies elsewhere."""
    sweep = Measured(n_frames=12, step=1.0, temperature=100.0)
    choices = Choices(step=0.1, corrections=AS_SIMULATED)
    scan = sweep.write(server.root / "why" / "100K")
    path = scan.with_name("volume-f1.h5")
    mask = sweep.mask_file(server.root / "masks")
    reduce_files(scan, replace(choices, mask=mask), out=path)
    return path


@pytest.fixture(scope="module")
def key(server, path) -> str:
    return published(server, path)


def cells_of(path: Path, count: int, *, seed: int = 1) -> np.ndarray:
    volume = read_volume(path)
    assert volume.grid is not None
    rng = np.random.default_rng(seed)
    found = rng.permutation(np.argwhere(volume.weight > 0))[:count]
    return (np.array(volume.grid.first) + found) / np.array(volume.grid.per_unit)


def text_of(point: Any) -> str:
    return ",".join(repr(float(x)) for x in point)


def test_it_is_the_answer_of_the_command(http, cat, path, key):
    (point,) = cells_of(path, 1)

    answer = http.get(f"/volumes/{key}/why?hkl={text_of(point)}")
    typed = CliRunner().invoke(app, ["why", str(path), text_of(point), "--json"])

    assert answer.status_code == 200, answer.text
    assert answer.json() == json.loads(typed.output)
    found = answer.json()
    assert found["exact"]
    counted = [pixel for pixel in found["pixels"] if pixel["state"] == "counted"]
    assert sum(pixel["counts"] for pixel in counted) == found["stored_counts"] > 0
    total = sum(pixel["weight"] for pixel in found["pixels"]) * found["weight_unit"]
    assert total == found["stored_weight"]
    assert {pixel["file"] for pixel in found["pixels"]} == {str(path.with_name("f1.h5"))}
    assert cat.volumes[key].why(*point) == found
    etag = answer.headers["etag"]
    again = http.get(answer.url, headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.slow
def test_many_cells_at_once(http, path, key):
    points = cells_of(path, 40, seed=2)

    def ask(point: Any) -> dict[str, Any]:
        while (answer := http.get(f"/volumes/{key}/why?hkl={text_of(point)}")).status_code == 429:
            assert answer.headers["retry-after"] == "10"
            time.sleep(0.2)
        return answer.json()

    with ThreadPoolExecutor(12) as viewers:
        found = list(viewers.map(ask, points))

    assert all(each["exact"] and each["stored_counts"] >= 0 for each in found)


@pytest.mark.parametrize(
    ("query", "status", "why"),
    [
        ("", 400, "hkl is : it must be a point"),
        ("hkl=1,2", 400, "must be a point"),
        ("hkl=nan,0,0", 400, "must be a point"),
        ("hkl=inf,0,0", 400, "must be a point"),
        ("hkl=1e300,0,0", 400, "must be a point"),
        ("hkl=1e5,0,0", 400, "must be a point"),
        ("hkl=-90,0,0", 400, "is outside h"),
        ("hkl=--json,0,0", 400, "must be a point"),
        ("hkl=0,0,0;rm", 400, "must be a point"),
        ("hkl=" + "9," * 3000, 400, "hkl has 6000 characters"),
        ("hkl=0,0,0&hkl=1,1,1", 400, "given twice"),
        ("point=0,0,0", 400, "why takes hkl"),
        ("hkl=0,0,0&format=png", 400, "why takes hkl"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(http, key, query, status, why):
    answer = http.get(f"/volumes/{key}/why?{query}")

    assert (answer.status_code, why in answer.text) == (status, True), answer.text


def named(path: Path, record: dict[str, Any], **names: Any) -> Path:
    """A copy of a volume whose record names other files."""
    changed = json.loads(json.dumps(record))
    if "scan" in names:
        changed["inputs"][0]["file"] = names["scan"]
    if "mask" in names:
        changed["mask"]["file"] = names["mask"]
    return write_volume(path, volume_of(), changed)


@pytest.mark.parametrize("outside", ["absolute", "link", "above", "far above", "device"])
@pytest.mark.parametrize("what", ["scan", "mask"])
def test_nothing_outside_the_roots_is_read(server, http, tmp_path, path, what, outside):
    secret = tmp_path / "secret.h5"
    secret.write_bytes(path.with_name("f1.h5").read_bytes())
    name = {
        "absolute": str(secret),
        "link": "led.h5",
        "above": os.path.relpath(secret, path.parent),
        "far above": "../" * 60 + str(secret)[1:],
        "device": os.path.relpath("/dev/zero", path.parent),
    }[outside]
    link = path.with_name("led.h5")
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    with h5py.File(path) as file:
        record = json.loads(file["entry/process/record"][()])
    hostile = named(path.with_name(f"hostile-{what}-{outside}.h5"), record, **{what: name})

    answer = http.get(f"/volumes/{published(server, hostile)}/why?hkl=0,0,0")

    assert (answer.status_code, "is not read" in answer.text) == (403, True), answer.text


def test_a_volume_that_cannot_be_traced_says_why(server, http, cat, path):
    growing = write_volume(path.with_name("live-f1.h5"), volume_of(), {"growing": _GROWING})
    early = write_volume(path.with_name("early.h5"), volume_of(), {"inputs": []})
    with h5py.File(path) as file:
        record = json.loads(file["entry/process/record"][()])
    gone = named(path.with_name("gone.h5"), record, scan="f9.h5")
    keys = [published(server, each) for each in (growing, early, gone)]

    answers = [http.get(f"/volumes/{key}/why?hkl=0,0,0") for key in keys]

    assert [each.status_code for each in answers] == [409, 409, 410]
    assert "This volume is growing" in answers[0].text
    assert "cannot be traced" in answers[1].text
    assert "f9.h5 does not exist any more" in answers[2].text
    with pytest.raises(CatalogError, match="This volume is growing"):
        cat.volumes[keys[0]].why(0, 0, 0)
