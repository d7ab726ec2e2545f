"""Sweeps of others in the catalog: adopted by the command, served from where their frames lie."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin
import httpx
import numpy as np
import pytest
from runs import SHAPE, counts_of, wait_until
from typer.testing import CliRunner

import offbragg
from offbragg.catalog.client import connect
from offbragg.catalog.containers import CONTAINER
from offbragg.cli import app
from offbragg.errors import OffbraggError
from offbragg.files.scan_layout import RUN
from offbragg.workflows.order_parameter import find_sweeps

pytestmark = pytest.mark.timeout(600)  # its first test has the start of the server, too

N, PER_FILE = 10, 4
GIVEN = [
    "--axis",
    "phi",
    "--start",
    "0",
    "--step",
    "0.5",
    "--exposure",
    "0.1",
    "--sample",
    "STO",
    "--series",
    "cool",
]
COUNTS = np.stack([counts_of(n, SHAPE) for n in range(N)])


@dataclass
class Done:
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


def typed(file: Path, *words: str | Path) -> Done:
    """Run a command in this process: to start one for each takes most of the time."""
    done = CliRunner().invoke(app, [*map(str, words), "--beamline", str(file)])
    if isinstance(done.exception, OffbraggError):
        return Done(done.exception.exit_code, done.stdout, str(done.exception))
    return Done(done.exit_code, done.stdout, done.stderr)


def master(folder: Path, counts: np.ndarray = COUNTS) -> Path:
    """Write an Eiger master and its data files, as the detector's file writer does."""
    folder.mkdir(parents=True)
    with h5py.File(folder / "x_master.h5", "w") as file:
        for i, first in enumerate(range(0, N, PER_FILE), 1):
            name = f"x_data_{i:06d}.h5"
            file[f"/entry/data/data_{i:06d}"] = h5py.ExternalLink(name, "/entry/data/data")
            with h5py.File(folder / name, "w") as part:
                part.create_dataset(
                    "/entry/data/data",
                    data=counts[first : first + PER_FILE].astype(np.uint32),
                    chunks=(1, *SHAPE), **hdf5plugin.Bitshuffle(),
                )  # fmt: skip
        file["/entry/instrument/detector/detectorSpecific/nimages"] = N
    return folder / "x_master.h5"


@dataclass
class Place:
    """A beamline of which only the catalog runs, and others' data beside it."""

    file: Path
    others: Path
    url: str
    key: str
    runs: dict[int, str]
    """Uids by temperature."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("place")
    others = tmp_path_factory.mktemp("others")
    file = root / "beamline.toml"
    for name in ("experiment", "frames", "journal"):
        (root / name).mkdir()
    names = ("experiment", "frames", "journal", "catalog", "log")
    head = ['beamline_id = "test"', "[paths]"]
    lines = [f'{name} = "{name}"' for name in names]
    file.write_text("\n".join([*head, *lines, "[catalog]", "port = 0"]) + "\n")
    refused = typed(file, "adopt", master(others / "100"), *GIVEN, "--temperature", "100")
    assert refused.returncode == 3, refused.stderr
    assert "[catalog] adopted = " in refused.stderr
    assert not list((root / "experiment").rglob("*.h5"))
    file.write_text(file.read_text() + f'adopted = ["{others}"]\n')
    runs: dict[int, str] = {}
    for kelvin in (100, 120):
        if kelvin == 120:
            master(others / "120")
            (others / "120" / "x_data_000002.h5").unlink()
        done = typed(
            file, "adopt", others / f"{kelvin}" / "x_master.h5", *GIVEN,
            "--temperature", f"{kelvin}", "--json",
        )  # fmt: skip
        assert done.returncode == (0 if kelvin == 100 else 5), done.stderr
        document = json.loads(done.stdout)
        runs[kelvin] = document["run"]
        assert document["file"].endswith(f"STO/adopted/{kelvin}K/f1.h5")
    again = typed(file, "adopt", others / "100" / "x_master.h5", *GIVEN, "--temperature", "100")
    assert "is adopted already" in again.stderr
    ready = root / "ready"
    server = subprocess.Popen(
        [sys.executable, "-m", "offbragg", "serve", "--beamline", file, "--ready", ready],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: ready.exists() or server.poll() is not None, 300.0, "the catalog")
        url = json.loads(ready.read_text())["url"]
        file.write_text(file.read_text().replace("port = 0", f"port = {url.rpartition(':')[2]}"))
        stacked = typed(file, "stack", "--once")
        assert stacked.returncode == 0, stacked.stderr
        yield Place(file, others, url, (root / "catalog" / "key").read_text().strip(), runs)
    finally:
        os.kill(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def http(place: Place) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=place.url, headers={"Authorization": f"Apikey {place.key}"}, timeout=60
    ) as client:
        yield client


def test_frames_are_those_of_the_source_over_tiled(place):
    run = connect(place.url, place.key)[place.runs[100]]
    image = run["primary"]["adopted_image"]
    assert image.shape == COUNTS.shape
    np.testing.assert_array_equal(image[3], COUNTS[3])
    np.testing.assert_array_equal(image[5:8, 9:12, 100:103], COUNTS[5:8, 9:12, 100:103])
    rows = run["primary"].read(["angle", "status"])
    np.testing.assert_allclose(rows["angle"], 0.25 + 0.5 * np.arange(N))
    assert run.metadata["stop"]["exit_status"] == "success"


def test_frames_are_those_of_the_source_from_anywhere(place):
    catalog = offbragg.connect(place.url, place.key)
    run = catalog.runs[place.runs[100]]
    np.testing.assert_array_equal(run.frames[4], COUNTS[4])
    np.testing.assert_array_equal(run.frames[2:9, 3:6, 7:9], COUNTS[2:9, 3:6, 7:9])
    assert {str(one.uid) for one in catalog.runs} == set(place.runs.values())


def test_a_picture_the_sum_of_a_part_and_the_ledger_are_answered(place, http):
    uid = place.runs[100]
    picture = http.get(f"/runs/{uid}/frames/last?format=png")
    assert picture.content.startswith(b"\x89PNG\r\n")
    summed = http.get(f"/runs/{uid}/frames?index=0:3&roi=20:30,40:60&format=sum").json()
    part = COUNTS[0:3, 20:30, 40:60]
    assert summed["counts"] == part.reshape(3, -1).sum(1).tolist()
    ledger = http.get(f"/runs/{uid}/ledger").json()
    assert ledger["counts"] == {"pending": 0, "stored": N, "missing": 0, "rejected": 0}
    listed = http.get("/runs?sample=STO&temperature=100").json()["runs"]
    assert [one["uid"] for one in listed] == [uid]
    series = http.get("/series").json()["series"]
    assert [one["uid"] for one in series] == ["cool"]


def test_a_data_file_that_is_not_there_is_missing_frames_with_their_reason(place, http):
    uid = place.runs[120]
    ledger = http.get(f"/runs/{uid}/ledger").json()
    assert ledger["status"] == [["stored", 4], ["missing", 4], ["stored", 2]]
    assert "x_data_000002.h5 was not there" in ledger["reasons"]["5"]
    answer = http.get(f"/runs/{uid}/frames/5")
    assert (answer.status_code, "x_data_000002.h5" in answer.text) == (404, True)
    run = offbragg.connect(place.url, place.key).runs[uid]
    assert (run.frames[5] == -1).all()
    np.testing.assert_array_equal(run.frames[8], COUNTS[8])
    image = connect(place.url, place.key)[uid]["primary"]["adopted_image"]
    np.testing.assert_array_equal(image[3:5], np.stack([COUNTS[3], np.full(SHAPE, -1)]))


@pytest.mark.parametrize("how", ["gone", "changed", "led away"])
def test_a_source_that_is_not_what_was_adopted_is_an_answer(place, http, how, tmp_path):
    uid, part = place.runs[100], place.others / "100" / "x_data_000003.h5"
    kept = tmp_path / "kept.h5"
    kept.write_bytes(part.read_bytes())
    try:
        if how == "changed":
            with h5py.File(part, "r+") as file:
                file["/entry/data/data"][1, 7, 7] += 1
        else:
            part.unlink()
        if how == "led away":
            part.symlink_to(kept)
        time.sleep(0.01)
        answers = [
            # another one each time: what was answered once is kept, and is what was adopted
            http.get(f"/runs/{uid}/frames?index=9:10&roi=0:{len(how)},0:9&format=npy"),
            http.get(f"/api/v1/array/full/{CONTAINER}/{uid}/primary/adopted_image?slice=9"),
        ]
        for answer in answers:
            assert answer.status_code == 410, answer.text
            assert "Frame 9 lies in a file of others" in answer.text
            assert str(tmp_path) not in answer.text
        assert http.get(f"/runs/{uid}/frames/2?format=int32").content == COUNTS[2].tobytes()
    finally:
        part.unlink(missing_ok=True)
        part.write_bytes(kept.read_bytes())
    assert http.get(f"/runs/{uid}/frames/9?format=int32").content == COUNTS[9].tobytes()


def test_what_lies_in_the_folder_of_others_is_not_served_otherwise(place, http, tmp_path):
    """A thin file that names a folder which the catalog may not read is refused."""
    master(tmp_path / "secret")
    thin = next((place.file.parent / "experiment").rglob("100K/f1.h5"))
    kept, other = thin.read_bytes(), thin.with_name("other.h5")
    other.write_bytes(kept)
    try:
        with h5py.File(other, "r+") as file:
            start = file[f"{RUN}/start"]
            document = json.loads(bytes(start[()]))
            document["offbragg_adopted"]["folder"] = str(tmp_path / "secret")
            name = start.name
            del file[name]
            file[name] = np.bytes_(json.dumps(document).encode())
        other.replace(thin)  # another file, as the server may have the first one open
        answer = http.get(f"/runs/{place.runs[100]}/frames?index=9:10&roi=0:2,0:3&format=npy")
        assert answer.status_code == 410, answer.text
    finally:
        thin.write_bytes(kept)


def test_a_lost_catalog_is_rebuilt_with_adopted_runs(place):
    uid = place.runs[120]
    client = connect(place.url, place.key)
    client.delete_contents(uid, recursive=True, external_only=False)
    done = typed(place.file, "rebuild", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["published"] == [uid]
    image = connect(place.url, place.key)[uid]["primary"]["adopted_image"]
    np.testing.assert_array_equal(image[9], COUNTS[9])


def test_a_run_whose_scan_file_is_lost_is_named(place, caplog):
    thin = next((place.file.parent / "experiment").rglob("120K/f1.h5"))
    kept = thin.rename(thin.with_name("kept"))
    try:
        done = typed(place.file, "stack", "--once")
        assert done.returncode == 1
        assert "Adopt them again" in caplog.text + done.stderr
        assert not list(thin.parent.glob("f*.h5"))
    finally:
        kept.rename(thin)


def test_a_series_is_found_by_its_name(place):
    found = find_sweeps([place.file.parent / "experiment"], "cool")
    assert [(kelvin, len(paths)) for kelvin, paths in found.items()] == [(100.0, 1), (120.0, 1)]


def test_verify_takes_adopted_runs(place):
    done = typed(place.file, "verify", place.runs[100][:8])
    assert done.returncode == 0, done.stdout + done.stderr
