"""Scan files and volumes go home whole, in pieces, and with a digest."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest

from offbragg.catalog import downloads
from offbragg.catalog.authentication import reading_key
from offbragg.catalog.downloads import Downloads
from offbragg.catalog.readable import Readable
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.volume import Volume


@pytest.fixture(scope="module")
def key(server) -> str:
    return reading_key(server.key, ends=time.time() + 3600)


@pytest.fixture(scope="module")
def http(server, key):
    with httpx.Client(
        base_url=server.url, headers={"Authorization": f"Apikey {key}"}, timeout=60
    ) as client:
        yield client


@pytest.fixture(scope="module")
def scan(whole) -> Path:
    """The finished scan file on the beamline's disk."""
    return whole.scan.path


@pytest.fixture(scope="module")
def address(whole, scan) -> str:
    return f"/files/{whole.uid}/{scan.name}"


def volume_of(path: Path, *runs: str) -> Path:
    grid = Grid((0, 0, 0), (2, 2, 2), (1, 1, 1))
    ones = np.ones((2, 2, 2))
    return write_volume(path, Volume(ones, ones, grid=grid), {"inputs": [{"run": r} for r in runs]})


def test_the_scan_file_is_the_one_on_the_disk_and_says_its_digest(http, scan, address):
    answer = http.get(address)

    right = hashlib.sha256(scan.read_bytes())
    assert answer.status_code == 200
    assert answer.content == scan.read_bytes()
    coded = base64.b64encode(right.digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{coded}:"
    assert answer.headers["content-disposition"] == f'attachment; filename="{scan.name}"'
    assert http.get(f"{address}.sha256").text == f"{right.hexdigest()}  {scan.name}\n"
    head = http.head(address)
    assert head.headers["content-length"] == str(scan.stat().st_size)
    assert head.headers["etag"] == answer.headers["etag"]
    assert head.content == b""


@pytest.mark.parametrize(
    ("asked", "first", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=100-", 100, None), ("bytes=-7", -7, None),
     ("bytes=5-99999999999", 5, None), ("bytes=1000-1999", 1000, 2000)],
)  # fmt: skip
def test_a_range_is_that_part(http, scan, address, asked, first, stop):
    raw = scan.read_bytes()

    answer = http.get(address, headers={"Range": asked})

    assert answer.status_code == 206
    assert answer.content == raw[first:stop]
    begin = len(raw) + first if first < 0 else first
    end = begin + len(answer.content) - 1
    assert answer.headers["content-range"] == f"bytes {begin}-{end}/{len(raw)}"


@pytest.mark.parametrize(
    "asked",
    ["bytes=9-3", "bytes=0-1,5-6", "bytes=x-", "lines=1-2", "bytes=-",
     *(f"bytes={sign}{'9' * 5000}{end}" for sign, end in (("", "-"), ("0-", ""), ("-", "")))],
    ids=lambda asked: asked[:20],
)  # fmt: skip
def test_a_range_that_is_not_one_gives_the_whole_file(http, scan, address, asked):
    answer = http.get(address, headers={"Range": asked})

    assert answer.status_code == 200
    assert answer.content == scan.read_bytes()


def test_a_range_behind_the_end_says_where_that_is(http, scan, address):
    size = scan.stat().st_size

    answer = http.get(address, headers={"Range": f"bytes={size}-"})

    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{size}"


def test_what_is_resumed_is_of_the_same_file_or_begins_again(http, scan, address):
    etag = http.head(address).headers["etag"]
    part = {"Range": "bytes=10-"}

    same = http.get(address, headers=part | {"If-Range": etag})
    another = http.get(address, headers=part | {"If-Range": '"of an earlier file"'})

    assert same.status_code == 206
    assert another.status_code == 200
    assert another.content == scan.read_bytes()
    assert http.get(address, headers={"If-None-Match": etag}).status_code == 304
    assert http.get(address, headers={"If-Match": '"of an earlier file"'}).status_code == 412


@pytest.mark.skipif(shutil.which("curl") is None, reason="without curl")
def test_curl_resumes_what_broke_off(server, key, scan, address, tmp_path):
    (tmp_path / scan.name).write_bytes(scan.read_bytes()[:1234])

    for _ in range(2):  # the second one finds nothing left to do
        subprocess.run(
            ["curl", "--silent", "--fail", "-C", "-", "-O", "-H", f"Authorization: Apikey {key}",
             f"{server.url}{address}"],
            cwd=tmp_path, check=False, timeout=60,
        )  # fmt: skip

    assert (tmp_path / scan.name).read_bytes() == scan.read_bytes()


def test_the_list_has_the_scan_file_its_digest_and_the_volumes_made_of_it(
    http, scan, whole, tmp_path
):
    ours = volume_of(scan.with_name("volume-f1.h5"), whole.uid, "another")
    volume_of(scan.with_name("volume-f2.h5"), "another")
    scan.with_name("else.h5").write_bytes(b"no HDF5")
    scan.with_name("link.h5").symlink_to(volume_of(tmp_path / "outside.h5", whole.uid))

    files = http.get(f"/files/{whole.uid}").json()["files"]

    assert [one["name"] for one in files] == [scan.name, f"{scan.name}.digest", ours.name]
    assert all(one["whole"] for one in files)
    for one in files:
        assert one["size"] == scan.with_name(one["name"]).stat().st_size
        assert http.get(one["address"]).content == scan.with_name(one["name"]).read_bytes()


def test_a_volume_with_an_enormous_record_is_left_out_and_takes_no_memory(
    server, http, scan, whole
):
    """60 MB of JSON would be 1.3 GB in the memory of the server."""
    path = volume_of(scan.with_name("volume-enormous.h5"), whole.uid)
    record = b'{"inputs": [{"run": "%s"}], "x": [%s0]}' % (whole.uid.encode(), b"[]," * 20_000_000)
    with h5py.File(path, "r+") as file:
        del file["entry/process/record"]
        file["entry/process/record"] = np.array(record)
    try:
        before = memory(server.process.pid)
        files = http.get(f"/files/{whole.uid}").json()["files"]
        answer = http.get(f"/files/{whole.uid}/{path.name}")
        grown = memory(server.process.pid) - before
    finally:
        path.unlink()

    assert path.name not in [one["name"] for one in files]
    assert answer.status_code == 404
    assert grown < 60e6


@pytest.mark.parametrize(
    "name",
    ["else.h5", "volume-f2.h5", "../f1.h5", "..%2f..%2fkey", "%2fetc%2fpasswd", "f1.h5%00",
     ".f1.h5.writer", "f1.h5.sha256.sha256", "link.h5"],
)  # fmt: skip
def test_nothing_else_is_sent(http, whole, name):
    answer = http.get(f"/files/{whole.uid}/{name}")

    assert answer.status_code in (401, 404)
    assert answer.json()["detail"]


def test_who_has_no_key_gets_nothing(server, address):
    assert httpx.get(f"{server.url}{address}").status_code == 401
    assert (
        httpx.get(f"{server.url}{address}", headers={"Authorization": "Apikey no"}).status_code
        == 401
    )


def test_a_file_is_only_read(http, address):
    for method in ("PUT", "DELETE", "PATCH"):
        assert http.request(method, address).status_code in (403, 405)


def test_tileds_own_client_exports_the_scan_file(cat, whole, scan, tmp_path):
    (path,) = cat[whole.uid]["primary"]["pilatus_image"].raw_export(tmp_path)

    assert path.name == scan.name
    assert path.read_bytes() == scan.read_bytes()


def test_a_slice_is_exported_as_hdf5(cat, whole, tmp_path):
    image = cat[whole.uid]["primary"]["pilatus_image"]

    image.export(str(tmp_path / "x.h5"), slice=(slice(0, 2),))

    with h5py.File(tmp_path / "x.h5") as file:
        np.testing.assert_array_equal(file["data"][()], image[0:2])


def test_a_file_that_grows_is_refused_in_words_until_it_is_whole(http, make_run):
    run = make_run()
    run.begin()
    run.create_scan_file()
    run.announce(10)
    run.store(*range(5))
    run.open()
    run.feed()
    address = f"/files/{run.uid}/{run.scan.path.name}"

    growing, listed = http.get(address), http.get(f"/files/{run.uid}").json()["files"][0]

    assert growing.status_code == 409
    assert "still being written" in growing.json()["detail"]
    assert not listed["whole"]
    run.store(*range(5, 10))
    run.finish()
    run.feed()
    assert http.get(address).content == run.scan.path.read_bytes()


def test_a_run_that_is_not_there_is_missed_in_words(http):
    answer = http.get("/files/3f2b8c1e")

    assert answer.status_code == 404
    assert "whole uid" in answer.json()["detail"]


def test_a_file_that_changes_while_it_is_sent_is_not_taken_for_whole(tmp_path, monkeypatch):
    (path := tmp_path / "f1.h5").write_bytes(bytes(3 * downloads._PIECE))
    app = Downloads(None, None, Readable([tmp_path]))  # type: ignore[arg-type]
    sent: list[Any] = []
    monkeypatch.setattr(downloads, "_check_whole", lambda file: {"a run"})

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("body") and len(sent) == 2:
            with path.open("r+b") as file:
                file.write(b"changed")
            os.utime(path, ns=(1, 1))

    async def receive() -> Any:
        await asyncio.sleep(3600)

    scope = {"type": "http", "method": "GET", "headers": [], "query_string": b""}
    with pytest.raises(Exception, match="changed while it was sent"):
        asyncio.run(app._send_file(path, "a run", scope, receive, send))

    assert sum(len(message.get("body", b"")) for message in sent) < 3 * downloads._PIECE


@pytest.mark.slow
def test_five_gigabytes_are_sent_in_flat_memory(server, key, whole, scan):
    size = 5_000_000_000
    big = volume_of(scan.with_name("volume-big.h5"), whole.uid)
    os.truncate(big, size)  # HDF5 does not mind what lies behind
    try:
        before = memory(server.process.pid)
        request = urllib.request.Request(
            f"{server.url}/files/{whole.uid}/{big.name}", headers={"Authorization": f"Apikey {key}"}
        )
        digest, began = hashlib.sha256(), time.monotonic()
        with urllib.request.urlopen(request) as answer:
            while piece := answer.read(1 << 20):
                digest.update(piece)
            took = time.monotonic() - began
        grown = memory(server.process.pid) - before
        print(f"{size / took / 1e6:.0f} MB/s, {grown / 1e6:.1f} MB more at its peak")
        with urllib.request.urlopen(
            urllib.request.Request(
                f"{server.url}/files/{whole.uid}/{big.name}.sha256", headers=dict(request.headers)
            )
        ) as answer:
            assert answer.read().decode().split()[0] == digest.hexdigest()
        assert grown < 60e6
    finally:
        with contextlib.suppress(OSError):
            big.unlink()


def memory(pid: int) -> int:
    """Most bytes that a process has had in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    raise AssertionError(json.dumps(pid))
