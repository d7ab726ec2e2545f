"""What is there is named, best first; without the C all of it works."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from offbragg import kernels

WITHOUT_C = """
import sys
sys.modules["offbragg.kernels._kernels"] = None
import numpy as np
from offbragg import kernels
assert not kernels.compiled and kernels.available() == ("reference",)
out = np.empty(2, np.int32)
kernels.decode(bytes([5, 255]), out)
chunk = kernels.encode(out, np.empty(kernels.chunk_bound(2), np.uint8))
print(kernels.level, out.tolist(), chunk.size, kernels.md5([b""])[0].hex()[:4])
"""


def test_the_best_level_is_taken_and_the_reference_is_always_there():
    assert kernels.available()[0] == kernels.level
    assert kernels.available()[-1] == "reference"
    assert kernels.compiled == ("portable" in kernels.available())


@pytest.mark.parametrize("name", ["fastest", "", "AVX2"])
def test_a_level_that_is_not_here_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"{name!r} does not run here: .*reference do"):
        kernels.decode(b"\0", np.empty(1, np.int32), level=name)


def test_without_the_compiled_module_the_reference_serves():
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_C], capture_output=True, text=True, check=True, timeout=60
    )

    assert run.stdout.split() == ["reference", "[5,", "4]", "20", "d41d"]
