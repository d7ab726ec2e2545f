"""Hostile bytes under sanitizers: no byte outside the buffers is touched, all levels agree."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from offbragg import kernels

HERE = Path(__file__).parent
SOURCES = Path(kernels.__file__).parent
FLAGS = [
    "-g", "-O1", "-ffp-contract=off", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all",
]  # fmt: skip
SANITIZERS = "address,undefined,float-cast-overflow"
NEEDS = {  # what a program needs of the kernels: few, soon compiled; all others need all
    "fuzz_cells": {"transform", "variance", "fold", "symmetry", "dispatch"},
    "fuzz_brick": {
        "brick", "chunk", "bitshuffle", "lz4_block", "lz4_runs", "fletcher32", "decode_chunk",
        "byte_offset", "dispatch",
    },
}  # fmt: skip
SECONDS = 660

pytestmark = pytest.mark.skipif(
    not (SOURCES / "module.c").exists(), reason="the C sources are not here"
)


def build(directory: Path, main: str, seconds: int) -> list[str]:
    """Command that fuzzes for some time: libFuzzer where clang has it, else bytes at random."""
    program = directory / main
    sources = [p for p in SOURCES.glob("*.c") if not p.name.startswith("module")]
    if main in NEEDS:
        sources = [p for p in sources if p.stem in NEEDS[main]]
    files = [HERE / f"{main}.c", *sources]
    for compiler, options in (
        ("clang", [f"-fsanitize=fuzzer,{SANITIZERS}"]),
        ("gcc", [f"-fsanitize={SANITIZERS}", "-DOWN_MAIN"]),
        ("clang", [f"-fsanitize={SANITIZERS}", "-DOWN_MAIN"]),
    ):
        if shutil.which(compiler) is None:
            continue
        command = [compiler, *FLAGS, *options, f"-I{SOURCES}", f"-I{HERE}", *map(str, files)]
        built = subprocess.run(
            [*command, "-lm", "-o", str(program)], capture_output=True, text=True
        )  # fmt: skip
        if built.returncode == 0:
            return [str(program)] + (
                [f"{seconds}"]
                if "-DOWN_MAIN" in options
                else [f"-max_total_time={seconds}", "-max_len=20000", "-print_final_stats=1"]
            )
        # a compiler without sanitizers cannot link; what does not compile is a mistake of ours
        assert "error:" not in built.stderr, built.stderr
    pytest.skip("there is no compiler with AddressSanitizer")


def fuzz(directory: Path, main: str, seconds: int) -> None:
    command = build(directory, main, seconds)

    ran = subprocess.run(
        ["nice", "-n", "19", *command], capture_output=True, text=True, cwd=directory
    )

    output = ran.stdout[-1000:] + ran.stderr[-3000:]
    print(output)
    assert ran.returncode == 0, output


@pytest.mark.parametrize("main", ["fuzz_brick", pytest.param("fuzz_cells", marks=pytest.mark.slow)])
def test_two_seconds_of_hostile_numbers(tmp_path, main):
    fuzz(tmp_path, main, 2)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize("main", ["fuzz", *NEEDS])
def test_eleven_minutes_of_hostile_bytes(tmp_path, main):
    fuzz(tmp_path, main, SECONDS)
