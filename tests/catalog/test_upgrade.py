"""A catalog that an older version has written opens, and nothing is lost.

``tests/data/old_catalog/make.py`` says how it was made.
"""

from __future__ import annotations

import sqlite3
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from catalog.served import Server
from runs import SHAPE, counts_of, wait_until

from offbragg.catalog.client import connect

CATALOG = Path(__file__).parents[1] / "data" / "old_catalog" / "catalog.tar.xz"
MADE_AT = "/tmp/offbragg-old"
UIDS = [str(uuid.UUID(int=n, version=4)) for n in range(1, 4)]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The catalog, served by this version from another place than where it was made."""
    root = tmp_path_factory.mktemp("old") / "moved"
    with tarfile.open(CATALOG) as tar:
        tar.extractall(root, filter="data")
    with sqlite3.connect(root / "catalog" / "catalog.db") as database:
        for table, column in (("assets", "data_uri"), ("nodes", "metadata")):
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (MADE_AT, str(root))
            )
    database.close()
    server = Server.start(root / "catalog", root / "experiment")
    yield server
    server.end()


@pytest.fixture(scope="module")
def http(old: Server) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Apikey {old.key}"}
    with httpx.Client(base_url=old.url, headers=headers, timeout=60) as client:
        yield client


def test_its_key_is_still_the_key(old: Server):
    with tarfile.open(CATALOG) as tar:
        file = tar.extractfile("./catalog/key")
        assert file is not None
        assert file.read().decode().strip() == old.key


def test_its_runs_are_all_there(old: Server, http: httpx.Client):
    runs: dict[str, Any] = {row["uid"]: row for row in http.get("/runs").json()["runs"]}

    assert len(runs) == 4
    assert [runs[uid]["temperature"] for uid in UIDS] == [90.0, 95.0, 120.0]
    assert all(runs[uid]["frames"]["stored"] == 2 for uid in UIDS)
    (found,) = http.get("/runs?text=walrus").json()["runs"]
    assert found["scan_id"] == 7


def test_its_frames_rows_and_columns_are_the_same(old: Server, http: httpx.Client):
    cat = connect(old.url, old.key)
    (count,) = (run for run in cat.values() if run.start["plan_name"] == "count")

    frame = np.load(_file(http.get(f"/runs/{UIDS[1]}/frames/2?format=npy").content))
    rows = cat[UIDS[1]]["primary"].read(["status", "monitor"])
    x = count["primary"]["x"].read()

    np.testing.assert_array_equal(frame, counts_of(2, SHAPE))
    assert [str(each) for each in np.asarray(rows["status"])].count("stored") == 2
    np.testing.assert_array_equal(np.asarray(rows["monitor"])[[0, 2]], [1000.0, 1002.0])
    np.testing.assert_array_equal(x, [1.0, 2.0, 3.5])


def test_its_volume_is_cut(http: httpx.Client):
    (volume,) = http.get("/volumes").json()["volumes"]
    cut = wait_until(
        lambda: (
            (a := http.get(f"/volumes/{volume['key']}/plane?plane=hk0&format=npy")).is_success and a
        )
    )

    assert (volume["runs"], volume["temperature"]) == ([UIDS[0]], 90.0)
    expected = np.arange(9.0**3).reshape(9, 9, 9)[:, :, 4]
    np.testing.assert_array_equal(np.sort(np.load(_file(cut.content)).ravel()), expected.ravel())


def test_what_is_new_can_be_used_with_it(old: Server, http: httpx.Client):
    sorted_by = http.get("/runs?sample=LSMO-140&temperature=80:100&limit=1").json()

    assert sorted_by["total"] >= 1
    assert http.get("/series").json()["series"]


def _file(content: bytes) -> Any:
    import io

    return io.BytesIO(content)
