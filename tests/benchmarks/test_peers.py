"""The transform against what people use for it: `compare` in one run, and that all agree.

``poe bench`` times them; the whole suite only looks that the cells are the same. What is not
installed is skipped, by name.
"""

from __future__ import annotations

import shutil

import pytest
from benchmarks.compare import PEERS, Preparation, compare, different
from benchmarks.measurement import Measurement
from benchmarks.peers import (
    Cctw,
    Histogramdd,
    Meerkat,
    Transform,
    Xrayutilities,
    XrayutilitiesConverting,
)

from offbragg import kernels

AT_LEAST = {
    "histogramdd": (Histogramdd, 60.0),
    "xrayutilities": (Xrayutilities, 9.0 if kernels.level == "avx512" else 3.5),
    "xrayutilities, with q → hkl": (XrayutilitiesConverting, 9.0),
    "meerkat": (Meerkat, 80.0 if kernels.level == "avx512" else 15.0),
    "CCTW": (Cctw, 100.0 if kernels.level == "avx512" else 40.0),
}
"""Times as fast as each on one core. The targets are for AVX-512; else a floor of what there is."""

TARGET = {"xrayutilities": 9, "meerkat": 80, "CCTW": 150}


@pytest.fixture(scope="module")
def ours() -> Transform:
    return Transform(Measurement.of(32))


@pytest.fixture(params=list(AT_LEAST))
def peer(request) -> tuple[str, Preparation]:
    needed = request.param.partition(",")[0]
    if needed in ("xrayutilities", "meerkat"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: offbragg[bench]")
    if needed == "CCTW" and not shutil.which("cctw"):
        pytest.skip("there is no program cctw in PATH")
    return request.param, AT_LEAST[request.param][0]


def test_a_peer_fills_the_same_cells(peer, tmp_path):
    few = Measurement.of(2, half=50, coarser=8)

    differ, of = different(peer[1](few, tmp_path).cells(), Transform(few).cells())

    assert of > 5000
    # a pixel on an edge, but for rounding, may go either way
    assert differ <= 1e-4 * of


@pytest.mark.skipif(not kernels.compiled, reason="the kernels are not compiled")
def test_transform_is_faster_than(benchmark, peer, ours, tmp_path, report):
    name, prepare = peer
    frames = ours.measurement
    few = frames.first(PEERS[prepare])

    found = benchmark.pedantic(lambda: compare(prepare(few, tmp_path), ours), rounds=1)

    mpixels = frames.counts[0].size / found.ours / 1e6
    report(
        f"transform, one core: {mpixels:.0f} Mpixel/s",
        f"{found.ratio:.1f} × {name}",
        found.peer.version + (f"; target {TARGET[name]}" if name in TARGET else ""),
    )
    assert found.ratio > AT_LEAST[name][1]
