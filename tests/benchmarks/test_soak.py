"""A long measurement costs each frame the same: a whole beamline, fast-forwarded.

``pytest -m slow -s tests/benchmarks/test_soak.py``, about ten minutes on a quiet machine; with
``OFFBRAGG_SOAK_FRAMES=500000`` of more frames, which takes hours. Each look goes to soak.jsonl in
the folder that is printed first.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from benchmarks.soak import Look, Process, Soak, rows, verdict

from offbragg.files.scan_file import ScanFile

FRAMES = int(os.environ.get("OFFBRAGG_SOAK_FRAMES", "20000"))


@pytest.mark.slow
@pytest.mark.ioc
@pytest.mark.timeout(6 * 3600)
def test_a_long_measurement_is_flat(tmp_path):
    print(f"\n{tmp_path}")
    root = tmp_path / "beamline"

    def note(look: Look) -> None:
        with (tmp_path / "soak.jsonl").open("a") as file:
            file.write(json.dumps(look.to_dict()) + "\n")

    looks = Soak(root, FRAMES, min(10_000, FRAMES // 10), note).run()

    for row in rows(looks):
        print("  ".join(f"{k} {v:.4g}" for k, v in row.items()))
    found = verdict(looks)
    for name, (mean, slope, flat) in found.items():
        print(f"{name:22s} {mean:9.3f} {slope:+9.3f} in 10 000 {'flat' if flat else 'NOT FLAT'}")
    stored = 0
    for path in (root / "offbragg-data" / "experiment").rglob("f*.h5"):
        with ScanFile.open(path) as scan:
            stored += scan.ledger.counts()["stored"]
    print(f"{stored} frames stored of {looks[-1].frames} that were measured")
    assert stored > 0.9 * looks[-1].frames  # the last sweep may just be stacked
    if len(looks) >= 10 and FRAMES >= 100_000:  # before that, caches fill
        assert all(flat for _, _, flat in found.values())


@pytest.mark.parametrize(
    ("grows", "name"),
    [({}, ""), ({"memory": 3.0}, "live, MB"), ({"descriptors": 1}, "live, descriptors")],
)
def test_what_grows_is_seen(grows, name):
    looks = []
    for n in range(12):
        steady = Process(1, 100.0 + (7.0 if n == 6 else 0.0), 100.0, 9, 4, 20.0 * n)
        live = replace(steady, **{k: getattr(steady, k) + v * n for k, v in grows.items()})
        looks.append(Look(10_000 * n, n, 100.0 * n, {"stack": steady, "live": live}, {}, {}))

    found = verdict(looks)

    assert [each for each, (_, _, flat) in found.items() if not flat] == ([name] if name else [])
    assert found["stack, CPU"][0] == pytest.approx(2.0)
