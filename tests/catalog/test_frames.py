"""Frames of a run over HTTP: one, a part of several, as a picture; and its ledger."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import matplotlib
import numpy as np
import pytest
from PIL import Image
from runs import SHAPE, counts_of

from offbragg.catalog.background import NICE, background_threads
from offbragg.catalog.frame_pictures import draw_frame
from offbragg.catalog.frame_questions import OneFrame
from offbragg.catalog.kept import Kept
from offbragg.catalog.palettes import colours
from offbragg.files.digest import digest_path
from offbragg.files.frame_chunks import places_of_chunks
from offbragg.files.scan_file import ScanFile
from offbragg.frame import Frame


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


def test_a_run_is_found_by_the_beginning_of_its_uid_or_its_scan_id(http, whole):
    assert http.get(f"/runs/{whole.uid[:8]}/ledger").json()["n"] == 10
    # of all runs of this number it is the newest, which another test may have damaged
    newest = http.get("/runs?scan_id=1&limit=1").json()["runs"][0]["uid"]
    numbered, named = (http.get(f"/runs/{name}/ledger") for name in ("1", newest))
    assert (numbered.status_code, numbered.json()) == (named.status_code, named.json())


# -- a part of several frames ---------------------------------------------------------------------


def test_a_part_of_frames_is_what_was_stored_and_minus_one_where_nothing_is(http, whole):
    answer = http.get(f"/runs/{whole.uid}/frames?index=2:9:2&roi=4:40:3,480:487")
    counts, known = np.load(io.BytesIO(answer.content)), described(answer)
    expected = np.stack([counts_of(n)[4:40:3, 480:487] for n in (2, 4, 6, 8)])

    np.testing.assert_array_equal(counts, expected)
    assert known["shape"] == [4, 12, 7]
    assert known["panel"] == list(SHAPE)
    assert known["n"] == 10
    missing = http.get(f"/runs/{whole.uid}/frames?index=3&roi=0:2,0:2&format=json").json()
    assert missing["counts"] == [[[-1, -1], [-1, -1]]]
    assert missing["not_stored_index"] == [3]


def test_without_a_part_all_of_all_frames_is_meant(http, whole):
    answer = http.get(f"/runs/{whole.uid}/frames?format=bytes")
    known = described(answer)
    planes = np.frombuffer(answer.content, np.uint8).reshape(known["width"], -1)
    counts = np.ascontiguousarray(planes.T).view("<i4").reshape(known["shape"])

    assert counts.shape == (10, *SHAPE)
    np.testing.assert_array_equal(counts[5], counts_of(5))
    assert (counts[[3, 7]] == -1).all()


def test_sums_leave_out_what_does_not_count(http, whole):
    answer = http.get(f"/runs/{whole.uid}/frames?index=0:5&roi=8:12,0:487&format=sum").json()
    parts = [counts_of(n)[8:12].astype(np.int64) for n in range(5)]

    assert answer["index"] == [0, 1, 2, 3, 4]
    assert answer["counts"] == [
        None if n == 3 else int(part[part >= 0].sum()) for n, part in enumerate(parts)
    ]
    assert answer["pixels"] == 3 * 487  # row 10 is a gap
    assert answer["angle"] == pytest.approx(
        [whole.start["sweep"]["start"] + whole.start["sweep"]["step"] * (n + 0.5) for n in range(5)]
    )


# -- pictures -------------------------------------------------------------------------------------


def drawn(answer: httpx.Response) -> np.ndarray:
    """Return the shade of each pixel, 0 where it is transparent."""
    assert answer.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.mode == "P"
    assert picture.info["transparency"] == 0
    return np.asarray(picture)


def test_a_picture_has_the_counts_of_the_file(http, whole):
    answer = http.get(f"/runs/{whole.uid}/frames/4?size=487&low=1&high=100&palette=grey")
    shades, known = drawn(answer), described(answer)
    counts = counts_of(4).astype(float)
    expected = np.log(np.clip(counts, 1, 100)) / np.log(100) * 62

    assert shades.shape == SHAPE
    assert known["bin"] == 1
    assert (known["low"], known["high"]) == (1, 100)
    np.testing.assert_array_equal(shades == 0, counts < 0)
    there = counts >= 0
    assert np.abs(shades[there] - 1 - np.minimum(expected[there], 61)).max() <= 1.01


@pytest.mark.parametrize(("how", "statistic"), [("mean", np.nanmean), ("max", np.nanmax)])
def test_a_picture_is_binned_by_what_is_asked_for(http, whole, how, statistic):
    where = f"/runs/{whole.uid}/frames/4?size=244&scale=linear&low=0&high=62&bin={how}"
    shades, known = drawn(answer := http.get(where)), described(answer)
    counts = np.where(counts_of(4) < 0, np.nan, counts_of(4).astype(float))
    padded = np.full((196, 488), np.nan)
    padded[:195, :487] = counts
    expected = statistic(padded.reshape(98, 2, 244, 2), axis=(1, 3))

    assert known["bin"] == 2
    assert known["picture"] == [98, 244]
    np.testing.assert_array_equal(shades, np.minimum(np.floor(expected), 61) + 1)


def test_colours_are_from_the_first_percentile_to_almost_the_largest(http, whole):
    known = described(http.get(f"/runs/{whole.uid}/frames/4?size=487"))
    counts = counts_of(4)

    assert known["low"] == pytest.approx(np.percentile(counts[counts > 0], 1), abs=1)
    assert known["high"] == pytest.approx(np.percentile(counts[counts >= 0], 99.5), abs=1)


@pytest.mark.parametrize("name", ["magma", "viridis", "cividis"])
def test_palettes_are_the_public_tables(name):
    table = matplotlib.colormaps[name](np.arange(256))[:, :3]

    np.testing.assert_array_equal(colours(name, 256), np.rint(255 * table))


def test_a_frame_of_zeros_and_one_of_gaps_are_drawn():
    for value in (0, -1):
        for scale in ("log", "linear"):
            asked = OneFrame.parse("0", f"scale={scale}").picture
            picture = draw_frame(np.full((20, 30), value, np.int32), asked)
            shades = np.asarray(Image.open(io.BytesIO(picture.png)))

            assert (shades == 0).all() if value else (shades > 0).all()
            assert picture.low < picture.high


# -- who asks again, and while it is measured -----------------------------------------------------


@pytest.mark.parametrize(
    "what", ["ledger", "frames/4", "frames/last?format=npy", "frames?roi=0:9,0:9"]
)
def test_what_a_client_has_is_not_sent_again(http, whole, what):
    first = http.get(f"/runs/{whole.uid}/{what}")
    again = http.get(f"/runs/{whole.uid}/{what}", headers={"If-None-Match": first.headers["etag"]})

    assert (first.status_code, again.status_code) == (200, 304)
    assert again.content == b""


def test_who_takes_no_gzip_gets_it_plain(http, whole):
    answer = http.get(
        f"/runs/{whole.uid}/frames/4?format=int32", headers={"Accept-Encoding": "identity"}
    )

    assert "content-encoding" not in answer.headers
    assert answer.content == counts_of(4).astype("<i4").tobytes()


def test_a_run_that_was_just_opened_has_a_ledger_and_then_frames(http, make_run):
    one = make_run(n_frames=6)
    one.begin()
    one.open()
    one.feed()

    ledger = http.get(f"/runs/{one.uid}/ledger").json()
    none_yet = http.get(f"/runs/{one.uid}/frames/last")

    assert ledger["status"] == [["pending", 6]]
    assert none_yet.status_code == 404
    assert none_yet.headers["retry-after"] == "1"

    one.create_scan_file()
    one.store(0)
    one.feed()
    for number in (1, 2):
        one.store(number)  # the catalog need not hear of it
        stored = time.monotonic()
        answer = http.get(f"/runs/{one.uid}/frames/last?format=npy")

        assert described(answer)["index"] == number
        np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), counts_of(number))
        assert time.monotonic() - stored < 2.0
        ledger = http.get(f"/runs/{one.uid}/ledger").json()
        assert ledger["status"] == [["stored", number + 1], ["pending", 5 - number]]
        assert ledger["complete"] is False

    pending = http.get(f"/runs/{one.uid}/frames/4")
    assert pending.status_code == 404
    assert pending.json()["detail"] == "Frame 4 is pending."
    assert pending.headers["retry-after"] == "1"


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "status", "why"),
    [
        ("frames/3", 404, "Frame 3 is missing: x_00003.cbf was not there"),
        ("frames/7", 404, "Frame 7 is rejected: x_00007.cbf"),
        ("frames/10", 404, "there are 10, 0 to 9"),
        ("frames/x", 400, "must be an index, or last"),
        ("frames/4?format=tiff", 400, "must be one of png, int32, npy, bytes"),
        ("frames/4?form=png", 400, "did you mean 'format'"),
        ("frames/4?size=1", 400, "must be 16 to 4096"),
        ("frames/4?size=0", 400, "must be 16 to 4096"),
        ("frames/4?size=٤٠٠", 400, "must be a finite number"),
        ("frames/٤", 400, "must be an index, or last"),
        ("frames?index=٣:٤", 400, "must be a:b"),
        ("frames/4?low=5&high=2", 400, "low must be below high"),
        ("frames/4?low=0", 400, "above 0"),
        ("frames/4?format=npy&size=99", 400, "for pictures only"),
        ("frames/4?palette=jet", 400, "magma, viridis, cividis, grey"),
        ("frames?index=4:2", 400, "there are 10 frames, 0 to 9"),
        ("frames?index=4:12", 400, "there are 10 frames"),
        ("frames?index=-3:", 400, "none of them below 0"),
        ("frames?index=0:9:0", 400, "none of them below 0"),
        ("frames?roi=5", 400, "rows, columns"),
        ("frames?roi=0:196,0:1", 400, "there are 195 rows"),
        ("frames?format=json", 400, "at most 100,000"),
        ("frames?format=png", 400, "npy, int32, bytes, json, sum"),
        ("ledger?x=1", 400, "x is unknown"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_with_the_reason(http, whole, what, status, why):
    answer = http.get(f"/runs/{whole.uid}/{what}")

    assert answer.status_code == status
    assert why in answer.json()["detail"]


def test_who_has_no_key_or_writes_is_refused(server, http, whole):
    where = f"/runs/{whole.uid}/frames/4"

    assert httpx.get(server.url + where).status_code == 401
    assert http.post(where).status_code in (403, 405)
    assert http.get("/runs/0000000000/frames/4").status_code == 404


def test_a_frame_that_is_damaged_is_named_and_the_others_are_sent(http, make_run):
    one = stored_run(make_run)
    path = one.scan.path
    with ScanFile.open(path) as scan:
        offset, size = places_of_chunks(scan.dataset)[2]
    with path.open("r+b") as file:
        file.seek(offset + size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))

    answers = {n: http.get(f"/runs/{one.uid}/frames/{n}?format=npy") for n in (1, 2)}
    part = http.get(f"/runs/{one.uid}/frames?roi=0:1,0:1")

    assert answers[1].status_code == 200
    assert answers[2].status_code == part.status_code == 503
    assert "Frame 2 is damaged" in answers[2].json()["detail"]


def test_a_file_that_is_replaced_gone_or_leads_out_is_never_mistaken(http, make_run, tmp_path):
    one, other = stored_run(make_run), stored_run(make_run, first=3)
    where, path = f"/runs/{one.uid}/frames/0?format=npy", one.scan.path
    before = http.get(where)
    shutil.copy(other.scan.path, beside := path.with_name("new"))
    beside.replace(path)

    replaced = http.get(where, headers={"If-None-Match": before.headers["etag"]})
    ledger = http.get(f"/runs/{one.uid}/ledger")
    node = f"raw/{one.uid}/primary"
    others = [http.get(f"/files/{one.uid}{name}") for name in ("", f"/{path.name}")]
    others += [http.get(f"/api/v1/{what}/{node}/{key}?{more}") for what, key, more in (
        ("table/full", "internal", ""), ("array/full", "pilatus_image", "slice=0:1"),
        ("asset/bytes", "internal", f"id={asset_of(http, f'{node}/internal')}"))]  # fmt: skip
    path.unlink()
    gone = http.get(where)
    shutil.copy(other.scan.path, outside := tmp_path / "f1.h5")
    path.symlink_to(outside)
    out = http.get(where)

    assert replaced.status_code == ledger.status_code == 410
    assert "is the scan file of another run" in replaced.json()["detail"]
    assert other.uid not in replaced.text
    assert [each.status_code for each in others] == [410] * 5, [each.text for each in others]
    assert not any(other.uid in each.text for each in others)
    assert gone.status_code == 410
    assert out.status_code == 403


def asset_of(http: Any, node: str) -> int:
    asked = http.get(f"/api/v1/metadata/{node}?include_data_sources=true").json()
    return asked["data"]["attributes"]["data_sources"][0]["assets"][0]["id"]


def stored_run(make_run: Any, first: int = 0) -> Any:
    """Return a run of three frames that has ended; their counts are those of ``first`` and on."""
    one = make_run(n_frames=3)
    one.begin()
    one.create_scan_file()
    for number in range(3):
        frame = Frame(number=number, counts=counts_of(first + number), header={})
        one.scan.write_frame(frame, source=f"x_{number}.cbf", time=one.began + number)
    one.announce(3)
    one.finish()
    one.open()
    assert one.feed()
    return one


# -- what is kept ---------------------------------------------------------------------------------


def test_an_answer_is_made_once_for_all_who_ask():
    kept, made, begun = Kept(100), [], threading.Event()

    def make() -> bytes:
        begun.wait(10)
        made.append(1)
        return b"answer"

    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(kept.get, "a", make) for _ in range(5)]
        begun.set()
        assert {answer.result() for answer in answers} == {b"answer"}
    assert len(made) == 1


def test_the_oldest_answers_make_room_and_failures_are_not_kept():
    kept = Kept(10)

    def fail() -> bytes:
        raise OSError

    with pytest.raises(OSError):
        kept.get("a", fail)
    assert kept.get("a", lambda: b"12345") == b"12345"
    assert kept.get("b", lambda: b"12345") == b"12345"
    assert kept.get("a", lambda: b"other") == b"12345"
    assert kept.get("c", lambda: b"12345") == b"12345"
    assert kept.get("b", lambda: b"again") == b"again"
    assert kept.get("d", lambda: bytes(11)) == bytes(11)
    assert kept.get("c", lambda: b"again") == b"again"


# -- over a slow network --------------------------------------------------------------------------


def bytes_on_the_wire(http: httpx.Client, where: str, **headers: str) -> int:
    with http.stream("GET", where, headers=headers) as answer:
        assert answer.status_code == 200
        return sum(len(piece) for piece in answer.iter_raw())


def test_a_part_takes_no_more_of_the_network_than_its_noise_has(http, whole):
    """A code cannot be shorter than the entropy; Tiled's are of whole words of four bytes."""
    part = np.stack([counts_of(n)[20:120, 50:150] for n in range(10) if n not in (3, 7)])
    fraction = np.bincount(part.ravel()) / part.size
    fraction = fraction[fraction > 0]
    entropy = -(fraction * np.log2(fraction)).sum() * part.size / 8  # bytes

    where = f"/runs/{whole.uid}/frames?roi=20:120,50:150"
    ours = bytes_on_the_wire(http, f"{where}&format=bytes")
    tiled = f"/api/v1/array/full/raw/{whole.uid}/primary/pilatus_image?slice=:,20:120,50:150"
    plain, packed = (
        bytes_on_the_wire(
            http, f"{tiled}&format=application/octet-stream", **{"accept-encoding": accepted}
        )
        for accepted in ("identity", "gzip, deflate, zstd, blosc2")
    )

    assert entropy * 0.9 < ours < 1.1 * entropy + 500
    assert bytes_on_the_wire(http, f"{where}&format=sum") < 500
    assert plain > 5 * ours
    assert packed > 1.5 * ours


@pytest.mark.parametrize(
    ("what", "most"),
    [
        ("ledger", 700),
        ("frames/4", 75_000),
        ("frames/4?size=244", 25_000),
        ("frames/4?format=bytes", 40_000),
        ("frames/4?format=npy", 90_000),
        ("frames/4?format=int32", 100_000),
    ],
)
def test_answers_are_small(http, whole, what, most):
    assert most / 4 < bytes_on_the_wire(http, f"/runs/{whole.uid}/{what}") <= most


def test_what_is_drawn_is_no_larger_than_its_noise():
    counts = np.random.default_rng(0).poisson(1.0, (1679, 1475)).astype(np.int32)
    for module in range(1, 8):
        counts[module * 212 - 17 : module * 212] = -1
    for module in range(1, 3):
        counts[:, module * 494 - 7 : module * 494] = -1
    sizes = {
        how: len(draw_frame(counts, OneFrame.parse("0", f"bin={how}").picture).png)
        for how in ("mean", "max")
    }

    assert sizes["max"] <= 155_000
    assert sizes["mean"] <= 250_000


def test_a_file_with_any_damage_is_an_answer_and_not_a_failure(http, make_run):
    one = stored_run(make_run)
    path, random = one.scan.path, np.random.default_rng(3)
    whole, seen = path.read_bytes(), set[int]()
    digest = digest_path(path)
    for number in range(24):
        damaged = bytearray(whole)
        if number < 4:
            damaged = damaged[: len(whole) * number // 4]
        else:
            at = int(random.integers(0, len(whole) // (1 + 50 * (number % 2))))
            damaged[at : at + 64] = random.bytes(64)
        beside = path.with_name("new")
        beside.write_bytes(damaged)
        beside.replace(path)
        digest.unlink(missing_ok=True)
        for what in ("ledger", "frames/last", "frames/1?format=npy", "frames?format=sum"):
            answer = http.get(f"/runs/{one.uid}/{what}")
            seen.add(answer.status_code)
            assert answer.status_code in (200, 403, 404, 503), (number, what, answer.text)
    assert {200, 403} <= seen


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_answers_are_made_by_threads_that_let_others_come_first():
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    with background_threads("test") as pool:
        theirs = pool.submit(
            lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        ).result()

    assert theirs == max(mine, NICE)
    assert os.getpriority(os.PRIO_PROCESS, 0) == mine
