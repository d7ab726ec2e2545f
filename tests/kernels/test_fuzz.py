"""Hostile bytes under sanitizers: no byte outside the buffers is touched, all levels agree."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from offbragg import kernels

HERE = Path(__file__).parent
SOURCES = Path(kernels.__file__).parent
FLAGS = ["-g", "-O1", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]
SECONDS = 660


def build(directory: Path) -> list[str]:
    """Command that fuzzes for ever: libFuzzer where clang has it, else mutations at random."""
    program = directory / "fuzz"
    files = [HERE / "fuzz.c", *(p for p in SOURCES.glob("*.c") if p.name != "module.c")]
    for compiler, options in (
        ("clang", ["-fsanitize=fuzzer,address,undefined"]),
        ("gcc", ["-fsanitize=address,undefined", "-DOWN_MAIN"]),
        ("clang", ["-fsanitize=address,undefined", "-DOWN_MAIN"]),
    ):
        if shutil.which(compiler) is None:
            continue
        command = [compiler, *FLAGS, *options, f"-I{SOURCES}", *map(str, files), "-o", str(program)]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return [str(program)] + (
                [f"{SECONDS}"]
                if "-DOWN_MAIN" in options
                else [f"-max_total_time={SECONDS}", "-max_len=20000", "-print_final_stats=1"]
            )
    pytest.skip("there is no compiler with AddressSanitizer")


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.skipif(not (SOURCES / "module.c").exists(), reason="the C sources are not here")
def test_eleven_minutes_of_hostile_bytes(tmp_path):
    command = build(tmp_path)

    ran = subprocess.run(
        ["nice", "-n", "19", *command], capture_output=True, text=True, cwd=tmp_path
    )

    output = ran.stdout[-1000:] + ran.stderr[-3000:]
    print(output)
    assert ran.returncode == 0, output
