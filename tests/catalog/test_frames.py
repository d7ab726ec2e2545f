"""Frames of a run over HTTP: one, a part of several, as a picture; and its ledger."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import httpx
import numpy as np
import pytest
from runs import SHAPE, counts_of

from offbragg.catalog.authentication import reading_key


@pytest.fixture(scope="module")
def http(server):
    key = reading_key(server.key, ends=time.time() + 3600)
    headers = {"Authorization": f"Apikey {key}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
        yield client


def described(answer: httpx.Response) -> Any:
    name = "x-offbragg-frame" + "s" * ("x-offbragg-frames" in answer.headers)
    return json.loads(answer.headers[name])


def test_the_ledger_is_that_of_the_scan_file(http, whole):
    answer = http.get(f"/runs/{whole.uid}/ledger").json()

    assert answer["n"] == 10
    assert answer["status"] == [
        ["stored", 3], ["missing", 1], ["stored", 3], ["rejected", 1], ["stored", 2],
    ]  # fmt: skip
    assert answer["counts"] == {"pending": 0, "stored": 8, "missing": 1, "rejected": 1}
    assert answer["reasons"]["3"].startswith("x_00003.cbf was not there")
    assert set(answer["reasons"]) == {"3", "7"}
    assert answer["complete"] is True
    assert answer["axis"] == whole.start["sweep"]["axis"]
    assert answer["panel"] == list(SHAPE)
    assert answer["last"] == 9


@pytest.mark.parametrize("form", ["int32", "npy", "bytes"])
def test_a_frame_is_what_was_stored(http, whole, form):
    answer = http.get(f"/runs/{whole.uid}/frames/4?format={form}")
    known = described(answer)
    body = answer.content
    if form == "int32":
        counts = np.frombuffer(body, "<i4").reshape(known["shape"])
    elif form == "npy":
        counts = np.load(io.BytesIO(body))
    else:
        planes = np.frombuffer(body, np.uint8).reshape(known["width"], -1)
        counts = np.ascontiguousarray(planes.T).view(f"<i{known['width']}")
        counts = counts.reshape(known["shape"])

    np.testing.assert_array_equal(counts, counts_of(4))
    assert answer.headers["content-encoding"] == "gzip"
    assert known["index"] == 4
    assert known["status"] == "stored"
    assert known["file"] == "x_00004.cbf"
    assert known["time"] == pytest.approx(whole.began + 0.4)


@pytest.mark.parametrize("name", [lambda run: run.uid[:8], lambda run: "1"])
def test_a_run_is_found_by_the_beginning_of_its_uid_or_its_scan_id(http, whole, name):
    assert http.get(f"/runs/{name(whole)}/ledger").json()["n"] == 10
