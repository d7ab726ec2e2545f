"""Frame files as a bad disk, network, detector or person may leave them."""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from faults.conftest import stack_once
from faults.judge import judge, reasons, statuses, stored
from faults.stacking import small_cbf, wait_until

from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from offbragg.recovery.verify import verify
from sim_iocs.cbf import MAGIC, encode_cbf
from sim_iocs.tiff import encode_tiff

pytestmark = pytest.mark.usefixtures("each_route")


def pixels_of(content: bytes) -> tuple[int, int]:
    """Where the compressed pixels are."""
    start = content.index(MAGIC) + len(MAGIC)
    size = int(content.partition(b"X-Binary-Size: ")[2].partition(b"\r")[0])
    return start, start + size


def flip(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.parametrize("n", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_as_many_flipped_bits_are_as_many_rejected_frames(waiting, n):
    run, rng = waiting(n_frames=n + 3).begin(), random.Random(1)
    for number in range(n):
        content = small_cbf(number)
        start, stop = pixels_of(content)
        run.path(number).write_bytes(flip(content, rng.randrange(8 * start, 8 * stop)))
    run.write(n, n + 1, n + 2)
    run.announce(n + 3)
    run.end()

    path = stack_once(run)

    assert statuses(path) == ["rejected"] * n + ["stored"] * 3
    for number, reason in enumerate(reasons(path)[:n]):
        assert f"x_{number:05d}.cbf does not have the checksum that it declares" in reason
    good = {number: run.path(number) for number in (n, n + 1, n + 2)}
    assert judge(path, good, over=True) == []


def test_a_bit_that_flips_in_the_header_changes_no_pixel(waiting, tmp_path):
    """Not every one can be seen: comments have no checksum. The pixels are right, or refused."""
    run, rng = waiting(n_frames=150).begin(), random.Random(2)
    good = tmp_path / "good"
    good.mkdir()
    for number in range(run.n_frames):
        content = small_cbf(number)
        (good / run.path(number).name).write_bytes(content)
        damaged = flip(content, rng.randrange(8 * (pixels_of(content)[0])))
        run.path(number).write_bytes(damaged)
    run.announce(run.n_frames)
    run.end()

    path = stack_once(run)

    with h5py.File(path, "r", swmr=True, locking=False) as file:
        for number, word in enumerate(statuses(path)):
            counts = file["/entry/data/data"][number]
            if word == "stored":
                digest = file["/entry/frames/md5"][number]
                assert digest in (b"", _md5(good / run.path(number).name))
                np.testing.assert_array_equal(counts, _counts(number))
            else:
                assert np.all(counts == -1)
                assert reasons(path)[number]
    assert "pending" not in statuses(path)


def _md5(path: Path) -> bytes:
    from faults.judge import _source_of

    return _source_of(path)[1].encode()


def _counts(number: int) -> np.ndarray:
    counts = np.random.default_rng(number).poisson(3.0, (40, 50)).astype(np.int32)
    counts[0, :2] = number, 1_000_000 + number
    counts[7] = -1
    return counts


def test_wrong_and_absent_checksums(waiting):
    run = waiting(n_frames=3).begin()
    run.write(0)
    run.write(1, damage=lambda c: c.replace(b"Content-MD5: ", b"Content-MD5: AAAA")[:-4])
    run.write(2, damage=lambda c: c.replace(b"Content-MD5", b"Content-MDx"))
    run.announce(3)
    run.end()

    path = stack_once(run)

    assert statuses(path) == ["stored", "rejected", "stored"]
    with h5py.File(path, "r", swmr=True, locking=False) as file:
        assert [len(d) for d in file["/entry/frames/md5"]] == [32, 0, 0]  # an empty one is the flag
    assert judge(path, {0: run.path(0), 2: run.path(2)}, over=True) == []


def test_a_file_cut_anywhere_is_no_frame_until_it_is_whole(waiting):
    content = small_cbf(0)
    lengths = sorted({*range(0, pixels_of(content)[1], 37), pixels_of(content)[1] - 1})
    run = waiting(n_frames=len(lengths)).begin()
    for number, length in enumerate(lengths):
        run.path(number).write_bytes(small_cbf(number)[:length])
    run.announce(run.n_frames)
    run.end()

    path = stack_once(run, late=0.3)

    assert set(statuses(path)) == {"missing"}
    assert all("was not complete" in reason for reason in reasons(path))
    run.write(*range(run.n_frames))
    stack_once(run)
    assert judge(path, run.sources, over=True) == []
    assert len(stored(path)) == run.n_frames


@pytest.mark.parametrize("suffix", ["cbf", "tif"])
def test_a_file_that_comes_drop_by_drop_is_stored_when_it_is_whole(waiting, suffix):
    """And soon; only what has no checksum must have rested for half a second first."""
    run = waiting(n_frames=1, suffix=suffix, late=3.0).begin()
    content = frame(0, suffix)
    run.announce(1)
    stop, done = threading.Event(), []

    def look() -> bool:
        return bool(run.scan_files()) and stored(run.scan_files()[0]) == {0}

    following = threading.Thread(
        target=follow, args=(run.journal_directory, [Stacker(run.experiment, late=3.0)]),
        kwargs={"stop": stop},
    )  # fmt: skip
    following.start()
    try:
        with run.path(0).open("wb", buffering=0) as file:
            drop = 1 + len(content) // 40
            for at in range(0, len(content), drop):
                file.write(content[at : at + drop])
                time.sleep(0.02)
                done.append(look())
        whole = time.monotonic()
        wait_until(look, 10, "the frame to be stored")
        seconds = time.monotonic() - whole
    finally:
        stop.set()
        following.join()
    # behind the pixels of a CBF with a checksum there is only padding
    needed = pixels_of(content)[1] if suffix == "cbf" else len(content)
    assert not any(done[: needed // drop])
    assert seconds < 5.0 + 5.0 * (suffix == "tif")
    assert judge(run.scan_file(), run.sources) == []
    print(f"{suffix}: stored {seconds:.2f} s after it was whole")
    run.end()


def frame(number: int, suffix: str) -> bytes:
    if suffix == "cbf":
        return small_cbf(number)
    return encode_tiff(_counts(number), model="test", header=["test"], taken=0.0)


@pytest.mark.parametrize("orders", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_in_whatever_order_frames_come_each_has_its_own_place(waiting, each_route, orders):
    """Runs of twelve frames, each in an order of its own, some frames never, some twice."""
    for seed in range(orders):
        rng = random.Random(seed)
        run = waiting(n_frames=12).begin()
        order = rng.sample(range(12), 12)
        gaps = set(rng.sample(range(12), seed % 3))
        stacker = Stacker(run.experiment, late=0.0)
        sweep = stacker.open(run.start)
        run.announce(12)
        run.monitor_counted(list(range(12)))
        for name, doc in _documents(run):
            sweep(name, doc)
        sweep.late = 60.0  # nothing is given up while frames come
        for number in order:
            if number not in gaps:
                run.write(number)
                if rng.random() < 0.3:
                    run.write(number)  # once more, the same
                if rng.random() < 0.5:
                    sweep.poll()
        sweep.late = 0.0
        sweep("stop", {"time": time.time(), "exit_status": "success"})
        wait_until(sweep.poll, 20, "the end of the sweep")
        sweep.close()

        path = run.scan_file()
        values = {"monitor": {n: 1000.0 + n for n in range(12)}}
        assert judge(path, run.sources, values=values, over=True) == []
        assert stored(path) == set(range(12)) - gaps
        shutil.rmtree(run.root / "frames")


def _documents(run) -> list:
    from offbragg.files.journal_file import read_journal

    return read_journal(run.journal_directory / f"{run.uid}.jsonl")[0]


def test_late_frames_fill_their_gaps(waiting):
    run = waiting(n_frames=9).begin()
    run.write(0, 2, 4, 8)
    run.announce(9)
    run.end()
    path = stack_once(run)
    assert stored(path) == {0, 2, 4, 8}
    assert judge(path, run.sources, over=True) == []

    run.write(7, 1)
    stack_once(run)
    assert stored(path) == {0, 1, 2, 4, 7, 8}
    run.write(3, 5, 6)
    stack_once(run)

    assert stored(path) == set(range(9))
    assert judge(path, run.sources, over=True) == []


def test_another_frame_of_a_stored_number_changes_nothing_and_is_kept_aside(waiting):
    """It came while no stacker ran: the next one knows the stored frame by its MD5 only."""
    run = waiting(n_frames=4).begin()
    run.write(0, 1, 2)
    run.announce(4)
    run.end()
    path = stack_once(run)
    kept = _data(path)

    run.path(1).write_bytes(small_cbf(77))
    run.write(0)  # the same once more
    run.write(3)
    stack_once(run)

    assert stored(path) == {0, 1, 2, 3}
    np.testing.assert_array_equal(_data(path)[:3], kept[:3])
    np.testing.assert_array_equal(_data(path)[1], _counts(1))
    rejected = path.with_name("f1.rejected")
    assert sorted(p.name for p in rejected.iterdir()) == ["x_00001.cbf", "x_00001.cbf.json"]
    assert (rejected / "x_00001.cbf").read_bytes() == small_cbf(77)
    verdict = verify(path, journal=run.journal_directory)
    assert [(one["number"], one["file"]) for one in verdict.refused] == [(1, "x_00001.cbf")]
    assert verdict.notes[:1] == [
        "frame 1: another file was refused and is kept in f1.rejected/x_00001.cbf: x_00001.cbf was "
        "changed after its frame had been stored, and holds other pixels than the frame that was "
        "stored"
    ]
    assert verdict.problems == [
        "frame 1 differs from its frame file: x_00001.cbf declares another MD5"
    ]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_link_in_place_of_a_stored_frame_is_not_followed_out_of_the_root(waiting, restarted):
    run = waiting(n_frames=3).begin()
    run.write(0, 1)
    run.announce(3)
    documents = _documents(run)
    stacker = Stacker(run.experiment, late=5.0, frames=run.frames.parent)
    sweep = stacker.open(run.start)
    for name, doc in documents:
        sweep(name, doc)
    wait_until(lambda: sweep.poll() or sweep.decided == 2, 20)
    secret = run.root / "secret.cbf"
    secret.write_bytes(small_cbf(77))
    run.path(1).unlink()
    run.path(1).symlink_to(secret)
    run.write(2)
    run.end()
    if restarted:
        sweep.close()
        sweep = stacker.open(run.start)
    for name, doc in _documents(run)[0 if restarted else len(documents) :]:
        sweep(name, doc)

    wait_until(sweep.poll, 20)

    sweep.close()
    assert stored(sweep.path) == {0, 1, 2}
    assert not sweep.path.with_name("f1.rejected").exists()


def test_the_same_pixels_under_two_numbers_are_two_frames(waiting):
    """A detector that repeats itself is not ours to judge: what each file says is kept."""
    run = waiting(n_frames=2).begin()
    run.path(0).write_bytes(small_cbf(0))
    run.path(1).write_bytes(small_cbf(0))
    run.announce(2)
    run.end()

    path = stack_once(run)

    assert stored(path) == {0, 1}
    np.testing.assert_array_equal(_data(path)[0], _data(path)[1])


def _data(path: Path) -> np.ndarray:
    with h5py.File(path, "r", swmr=True, locking=False) as file:
        return file["/entry/data/data"][()]


WRONG = {
    "too large": (lambda n: encode_cbf(np.full((41, 50), n, np.int32), name="x", header=[]), "41"),
    "transposed": (lambda n: encode_cbf(_counts(n).T.copy(), name="x", header=[]), "50 rows"),
    "one row": (lambda n: encode_cbf(_counts(n).reshape(1, -1), name="x", header=[]), "1 row"),
    "one pixel": (lambda n: encode_cbf(np.ones((1, 1), np.int32), name="x", header=[]), "1 row"),
    "16 bit": (
        lambda n: small_cbf(n).replace(b"signed 32-bit integer", b"signed 16-bit integer"),
        "16-bit",
    ),
    "float": (
        lambda n: small_cbf(n).replace(b"signed 32-bit integer", b"signed 32-bit real IEEE"),
        "real",
    ),
    "packed": (lambda n: small_cbf(n).replace(b"x-CBF_BYTE_OFFSET", b"x-CBF_PACKED"), "PACKED"),
    "a picture": (lambda n: b"\x89PNG\r\n\x1a\n" + bytes(20_000), "not a CBF file"),
    "HTML": (lambda n: b"<html>502 Bad Gateway</html>" * 900, "not a CBF file"),
}  # fmt: skip


def test_frames_of_another_kind_are_refused_by_name_and_the_others_are_stored(waiting):
    run = waiting(n_frames=2 * len(WRONG)).begin()
    for n, (make, _) in enumerate(WRONG.values()):
        run.write(2 * n)
        run.path(2 * n + 1).write_bytes(make(2 * n + 1))
    run.announce(run.n_frames)
    run.end()

    path = stack_once(run)

    assert statuses(path) == ["stored", "rejected"] * len(WRONG)
    for n, (what, (_, word)) in enumerate(WRONG.items()):
        assert f"x_{2 * n + 1:05d}.cbf" in reasons(path)[2 * n + 1], what
        assert word in reasons(path)[2 * n + 1], what
    good = {n: run.path(n) for n in range(0, run.n_frames, 2)}
    assert judge(path, good, over=True) == []


TIFF_WRONG: dict[str, Callable[[int], bytes]] = {
    "too large": lambda n: encode_tiff(
        np.full((41, 50), n, np.int32), model="x", header=[], taken=0.0
    ),
    "transposed": lambda n: encode_tiff(_counts(n).T.copy(), model="x", header=[], taken=0.0),
    "one row": lambda n: encode_tiff(_counts(n).reshape(1, -1), model="x", header=[], taken=0.0),
    "a picture": lambda n: b"\x89PNG\r\n\x1a\n" + bytes(20_000),
}


def test_tiff_files_of_another_kind_are_refused_by_name(waiting):
    run = waiting(n_frames=2 * len(TIFF_WRONG), suffix="tif").begin()
    for n, make in enumerate(TIFF_WRONG.values()):
        run.path(2 * n).write_bytes(frame(2 * n, "tif"))
        run.path(2 * n + 1).write_bytes(make(2 * n + 1))
    run.announce(run.n_frames)
    run.end()

    path = stack_once(run)

    assert statuses(path) == ["stored", "rejected"] * len(TIFF_WRONG)
    assert all(f"x_{n:05d}.tif" in reasons(path)[n] for n in range(1, run.n_frames, 2))
    good = {n: run.path(n) for n in range(0, run.n_frames, 2)}
    assert judge(path, good, over=True) == []


HEADERS: dict[str, bytes] = {
    "NaN": b"# Wavelength nan A\r\n# Detector_distance nan m\r\n# Start_angle nan deg.",
    "0": b"# Wavelength 0 A\r\n# Exposure_time 0 s\r\n# Angle_increment 0",
    "negative": b"# Wavelength -0.7 A\r\n# Detector_distance -1 m",
    "1e400": b"# Wavelength 1e400 A\r\n# Beam_xy (1e400, 1e400) pixels",
    "5 MB": b"# " + b"x" * 5_000_000,
    "5 MB of lines": b"# Phi 1\r\n" * 550_000,
    "Latin-1": "# Detector: Pilatus, S/N µ é ÿ\r\n# Wavelength 0.7 Å".encode("latin-1"),
    "bytes": bytes(range(1, 32)) + bytes(range(127, 256)),
    "escapes": b"# \x1b]0;owned\x07\x1b[2J Wavelength 0.7 A",
    "folded": b"# Wavelength\r\n   0.7 A\r\n# Oscillation_axis\r\n\tPHI",
    "no axis": b"# Wavelength 0.7 A",
    "nothing": b"",
    "CIF": b";\r\n_array_data.data\r\n;\r\nloop_\r\n",
}


@pytest.mark.parametrize("newline", [b"\r\n", b"\n"])
def test_whatever_its_header_says_the_pixels_are_kept(waiting, newline):
    run = waiting(n_frames=len(HEADERS)).begin()
    for number, header in enumerate(HEADERS.values()):
        content = small_cbf(number).replace(b"# test", header)
        head, magic, rest = content.partition(MAGIC)
        run.path(number).write_bytes(head.replace(b"\r\n", newline) + magic + rest)
    run.announce(run.n_frames)
    run.end()

    path = stack_once(run)

    assert statuses(path) == ["stored"] * run.n_frames, reasons(path)
    assert judge(path, run.sources, over=True) == []


@contextlib.contextmanager
def followed(run: Any, *, late: float) -> Iterator[None]:
    """Stack a run in a thread meanwhile."""
    stop = threading.Event()
    following = threading.Thread(
        target=follow, args=(run.journal_directory, [Stacker(run.experiment, late=late)]),
        kwargs={"stop": stop},
    )  # fmt: skip
    following.start()
    try:
        yield
    finally:
        stop.set()
        following.join()


def test_a_frames_directory_that_goes_and_comes_back(waiting):
    run = waiting(n_frames=8, late=0.5).begin()
    run.write(*range(8))
    run.announce(4)
    with followed(run, late=0.5):
        wait_until(lambda: run.scan_files() and len(stored(run.scan_file())) == 4, 20, "4 frames")
        away = run.root / "away"
        run.frames.rename(away)
        run.announce(8)
        run.monitor_counted(list(range(8)))
        wait_until(lambda: "missing" in statuses(run.scan_file()), 20, "them to be missed")
        away.rename(run.frames)
        run.end()
        wait_until(lambda: len(stored(run.scan_file())) == 8, 20, "all of them")

    stack_once(run)

    assert judge(run.scan_file(), run.sources, over=True) == []


def test_an_experiment_directory_that_goes_and_comes_back(waiting):
    run = waiting(n_frames=8).begin()
    run.write(*range(8))
    run.announce(4)
    with followed(run, late=5.0):
        wait_until(lambda: run.scan_files() and len(stored(run.scan_file())) == 4, 20, "4 frames")
        away = run.root / "away"
        run.experiment.rename(away)
        run.announce(8)
        run.monitor_counted(list(range(8)))
        time.sleep(0.5)  # it may write on in a file that has moved, or begin again
        if run.experiment.exists():
            shutil.rmtree(run.experiment)
        away.rename(run.experiment)
        run.end()

    stack_once(run)

    assert judge(run.scan_file(), run.sources, over=True) == []
    assert len(stored(run.scan_file())) == 8
