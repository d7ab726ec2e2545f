"""The kernels against memcpy and the libraries: same frames, one run, ratios.

``poe bench`` times them well, holds them against the targets and writes
``.benchmarks/kernels.json``. In the whole suite each runs once and nothing is timed: a busy machine
says nothing.
"""

from __future__ import annotations

import hashlib
import json
import os

import h5py
import hdf5plugin
import numpy as np
import pytest
from fabio.compression import compByteOffset, decByteOffset
from streams import chunk_for, generated, real_files

from offbragg import kernels

COMPILED = [name for name in kernels.available() if name != "reference"]
LANES = 16

pytestmark = pytest.mark.skipif(not COMPILED, reason="the kernels are not compiled")


def real() -> np.ndarray | None:
    import fabio

    files = real_files()
    return fabio.open(files[0]).data.astype(np.int32) if files else None


@pytest.fixture(scope="module", params=["generated", "real"])
def frame(request):
    counts = generated() if request.param == "generated" else real()
    if counts is None:
        pytest.skip("the real frames (../shared/data/l-cysteine) are not here")
    return request.param, counts, bytes(compByteOffset(counts.reshape(-1)))


@pytest.fixture(scope="module")
def well(request) -> bool:
    return request.config.getoption("benchmark_only")


@pytest.fixture(scope="module")
def figures(request):
    """Best time in ms of what was timed, by frame; printed, and written, when all is done."""
    found: dict[str, dict[str, float]] = {}
    yield found
    if not found:
        return
    lines = []
    for name, times in found.items():
        lines.append(f"\n{name} 2M frame, one thread" + " " * 12 + "ms   speed-up")
        for what, ms in times.items():
            ratios = [
                f"{times[rival] / ms:6.1f} × {rival}"
                for rival in RIVALS.get(what.partition(",")[0], ())
                if rival in times
            ]
            lines.append(f"  {what:34s} {ms:8.3f} {''.join(ratios)}")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n".join(lines))
    out = request.config.rootpath / ".benchmarks" / "kernels.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"unit": "ms", "kernels": found}, indent=1))


RIVALS = {
    "decode": ("fabio",),
    "encode": ("bitshuffle wheel", "h5py + hdf5plugin"),
    "decode + encode": ("fabio + bitshuffle wheel",),
    "decode + encode + image": ("fabio + bitshuffle wheel",),
    "md5 of 16": ("hashlib",),
    "decode_chunk": ("bitshuffle wheel reads", "h5py + hdf5plugin reads"),
}


@pytest.fixture
def timed(benchmark, figures, frame, well):
    """Run something often and keep the best time, of each of ``n``; or run it once."""

    def run(what: str, work, *, n: int = 1) -> None:
        benchmark.pedantic(work, rounds=40 if well else 1, warmup_rounds=int(well))
        if well:
            figures.setdefault(frame[0], {})[what] = benchmark.stats.stats.min * 1e3 / n

    return run


@pytest.fixture
def wheel():
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return pytest.importorskip("bitshuffle")


def test_memcpy(timed, frame):
    out = np.empty_like(frame[1])
    timed("memcpy", lambda: np.copyto(out, frame[1]))


def test_fabio(timed, frame):
    timed("fabio", lambda: decByteOffset(frame[2], frame[1].size, "int32"))


def test_hashlib(timed, frame):
    timed("hashlib", lambda: hashlib.md5(frame[2], usedforsecurity=False).digest())


def test_bitshuffle_wheel(timed, frame, wheel):
    counts = frame[1].reshape(-1)
    timed("bitshuffle wheel", lambda: wheel.compress_lz4(counts))


def test_the_filter_itself(timed, frame, tmp_path):
    counts = frame[1]
    with h5py.File(tmp_path / "x.h5", "w", driver="core", backing_store=False) as file:
        data = file.create_dataset(
            "x", counts.shape, "<i4", chunks=counts.shape,
            **hdf5plugin.Bitshuffle(nelems=0, cname="lz4"),
        )  # fmt: skip

        def write() -> None:
            data[...] = counts
            file.flush()

        timed("h5py + hdf5plugin", write)


def test_fabio_and_bitshuffle_wheel(timed, frame, wheel):
    n = frame[1].size
    timed(
        "fabio + bitshuffle wheel",
        lambda: wheel.compress_lz4(decByteOffset(frame[2], n, "int32")),
    )


@pytest.mark.parametrize("level", COMPILED)
def test_decode(timed, frame, figures, level, well):
    name, counts, stream = frame
    out = np.empty_like(counts)

    timed(f"decode, {level}", lambda: kernels.decode(stream, out, level=level))

    np.testing.assert_array_equal(out, counts)
    if well and level == "avx512":
        ms = figures[name][f"decode, {level}"]
        assert ms <= figures[name]["fabio"] / 3
        assert ms <= 1.3 * figures[name]["memcpy"]


@pytest.mark.parametrize("level", COMPILED)
def test_encode(timed, frame, level):
    counts = frame[1]
    chunk = chunk_for(counts.size)
    timed(f"encode, {level}", lambda: kernels.encode(counts, chunk, level=level))


@pytest.mark.parametrize("keep", [False, True], ids=["blind", "image"])
@pytest.mark.parametrize("level", COMPILED)
def test_decode_and_encode(timed, frame, level, keep):
    _, counts, stream = frame
    chunk, image = chunk_for(counts.size), np.empty_like(counts) if keep else None
    timed(
        f"decode + encode{' + image' if keep else ''}, {level}",
        lambda: kernels.decode_encode(stream, counts.size, chunk, image=image, level=level),
    )


@pytest.mark.parametrize("level", COMPILED)
def test_md5(timed, frame, level):
    streams = [frame[2][i:] + bytes(i) for i in range(LANES)]
    timed(f"md5 of 16, {level}", lambda: kernels.md5(streams, level=level), n=LANES)


@pytest.mark.parametrize("level", COMPILED)
def test_crc64(timed, frame, level):
    chunk = kernels.encode(frame[1], chunk_for(frame[1].size))
    timed(f"crc64 of the chunk, {level}", lambda: kernels.crc64(chunk, level=level))


def test_bitshuffle_wheel_reads(timed, frame, wheel):
    counts = frame[1]
    chunk = kernels.encode(counts, chunk_for(counts.size))[12:].copy()
    timed("bitshuffle wheel reads", lambda: wheel.decompress_lz4(chunk, counts.shape, counts.dtype))


def test_the_filter_itself_reads(timed, frame, tmp_path):
    counts = frame[1]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset(
            "x", data=counts, chunks=counts.shape, **hdf5plugin.Bitshuffle(nelems=0, cname="lz4")
        )
        file.flush()
        timed("h5py + hdf5plugin reads", lambda: data[()])


@pytest.mark.parametrize("level", COMPILED)
def test_decode_chunk(timed, frame, figures, level, well):
    name, counts, _ = frame
    chunk, out = kernels.encode(counts, chunk_for(counts.size)).copy(), np.empty_like(counts)

    timed(f"decode_chunk, {level}", lambda: kernels.decode_chunk(chunk, out, level=level))

    np.testing.assert_array_equal(out, counts)
    if well and level != "portable":
        assert figures[name][f"decode_chunk, {level}"] < figures[name]["bitshuffle wheel reads"]


@pytest.mark.parametrize("level", COMPILED)
def test_tiles(timed, frame, level):
    timed(f"tiles, {level}", lambda: kernels.tiles(frame[1], level=level))
