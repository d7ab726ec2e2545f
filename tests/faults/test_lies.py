"""Files that lie about themselves are refused at once, before anything is allocated."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# In a process of its own: 300 MB more than what it has after its imports is all it can get.
CHILD = r"""
import json, resource, struct, sys, tempfile, time
from pathlib import Path
import numpy as np
if sys.argv[1] == "library":
    sys.modules["offbragg.kernels._kernels"] = None
from offbragg import kernels
from offbragg.errors import FrameError
from offbragg.files import read_frame
from offbragg.files.frame_pool import FramePool
from faults.stacking import small_cbf
from sim_iocs.cbf import MAGIC
from sim_iocs.tiff import encode_tiff

SHAPE = (40, 50)
good = small_cbf(0)
tiff = encode_tiff(np.ones(SHAPE, np.int32), model="x", header=[], taken=0.0)
head, _, rest = good.partition(MAGIC)

def says(**words):
    new = head
    for key, value in words.items():
        name = key.replace("_", "-").encode()
        before, _, after = new.partition(b"X-Binary-" + name + b": ")
        after = after[after.index(b"\r"):]
        new = before + b"X-Binary-" + name + b": " + str(value).encode() + after
    return new + MAGIC + rest

def tag(number, value, count=1):
    at = tiff.index(struct.pack("<HHI", number, 4, 1)) if count else 0
    return tiff[:at] + struct.pack("<HHII", number, 4, count, value) + tiff[at + 12:]

huge = dict(Number_of_Elements=10**12, Size_Fastest_Dimension=10**6, Size_Second_Dimension=10**6)
lies = {
    "size.cbf": says(Size=10**14), "small size.cbf": says(Size=3), "size 0.cbf": says(Size=0),
    "negative.cbf": says(Size=-1), "long number.cbf": says(Size="9" * 5000),
    "elements.cbf": says(Number_of_Elements=10**12), "bomb.cbf": says(**huge),
    "large bomb.cbf": says(**huge, Size=10**12),
    "believable.cbf": says(Number_of_Elements=2**26, Size_Fastest_Dimension=2**13,
                           Size_Second_Dimension=2**13, Size=2**26),
    "zero.cbf": says(Size_Fastest_Dimension=0, Number_of_Elements=0),
    "columns.cbf": says(Size_Fastest_Dimension=2**31, Number_of_Elements=2**31 * 40),
    "header.cbf": b"###CBF" + b"x" * 5_000_000,
    "no pixels.cbf": good[:6] + b"\r\n" * 9_000_000,
    "overflow.cbf": (head.replace(b"Content-MD5", b"Content-MDx") + MAGIC
                     + (b"\x80\x00\x80\xff\xff\xff\x7f" * 2000)[:len(rest)] + rest[-4200:]),
    "long steps.cbf": (head.replace(b"Content-MD5", b"Content-MDx") + MAGIC
                       + (b"\x80\x00\x80\x00\x00\x00\x80" + b"\xff" * 8) * 300 + rest[-4200:]),
    "width.tif": tag(256, 2**32 - 1), "length.tif": tag(257, 2**32 - 1),
    "strip.tif": tag(279, 2**32 - 1), "offset.tif": tag(273, 2**32 - 1),
    "strips.tif": tag(273, 8, 2**30), "directory.tif": tiff[:4] + b"\xf0\xff\xff\xff" + tiff[8:],
    "loop.tif": tiff[:4] + struct.pack("<I", 8) + b"\xff\xff" + tiff[10:],
}
folder = Path(tempfile.mkdtemp(dir=sys.argv[2]))
for name, content in lies.items():
    (folder / name).write_bytes(content)
(folder / "good.cbf").write_bytes(good)
(folder / "good.tif").write_bytes(tiff)
sparse = folder / "sparse.cbf"
sparse.write_bytes(says(**huge, Size=10**12))
with sparse.open("r+b") as file:
    file.truncate(10**12)

def memory():
    return int(Path("/proc/self/statm").read_text().split()[0]) * 4096

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def library(path):
    return read_frame(path, number=0, shape=SHAPE)

pool = FramePool(SHAPE, threads=1) if kernels.compiled else None
def pooled(path):
    pool.offer(0, path)
    pool.send()
    with pool.take(20.0) as judged:
        (one,) = judged
        if one.error is not None:
            raise one.error
        return one.frame

read = library if pool is None else pooled
read(folder / "good.cbf")
read(folder / "good.tif")
limit = memory() + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before, found = peak(), {}
for name in sorted([*lies, "sparse.cbf"]):
    began, was = time.perf_counter(), peak()
    try:
        read(folder / name)
        verdict = "stored"
    except FrameError as error:
        verdict = f"{type(error).__name__}: {error}"
    found[name] = (verdict, time.perf_counter() - began, peak() - was)
good_again = read(folder / "good.cbf") is not None
print(json.dumps({"found": found, "grown": peak() - before, "good": good_again}))
"""


@pytest.mark.parametrize("route", ["pool", "library"])
def test_lies_are_refused_by_name_soon_and_without_memory(route, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, route, str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    if route == "pool" and result["grown"] == 0 and not result["found"]:
        pytest.skip("the kernels are not compiled")

    for name, (verdict, seconds, grown) in result["found"].items():
        assert verdict.startswith(("RejectedFrame: ", "IncompleteFrame: ")), (name, verdict)
        assert f"frame 0: {name}" in verdict, (name, verdict)
        assert len(verdict) < 500
        assert seconds < 0.5, name  # ten times what is allowed
        assert grown < 50 << 20, name
    assert result["grown"] < 100 << 20
    assert result["good"]
    slowest = max(result["found"].items(), key=lambda item: item[1][1])
    print(f"{route}: {len(result['found'])} lies, slowest {1e3 * slowest[1][1]:.1f} ms "
          f"({slowest[0]}), {result['grown'] / 2**20:.0f} MB more in all")  # fmt: skip
