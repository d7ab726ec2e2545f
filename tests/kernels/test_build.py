"""The project installs with and without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("compiler", [None, "/bin/false"], ids=["compiler", "none"])
def test_a_wheel_is_built_with_the_kernels_or_without(tmp_path, compiler):
    if compiler is None and shutil.which("cc") is None:
        pytest.skip("there is no compiler")
    source = tmp_path / "source"
    shutil.copytree(
        PROJECT, source, ignore=shutil.ignore_patterns(".*", "*.so", "build", "_build", "tests")
    )
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path)]

    subprocess.run(
        [*command, str(source)], check=True,
        env=os.environ | ({"CC": compiler} if compiler else {}),
    )  # fmt: skip

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        names = [n for n in files.namelist() if n.startswith("offbragg/kernels/_kernels.")]
    assert ("offbragg/kernels/_kernels.abi3.so" in names) == (compiler is None)
    assert "offbragg/kernels/_kernels.pyi" in names
