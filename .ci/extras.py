#!/usr/bin/env python3
"""Install the small one and then each extra in a new environment, and import what it is for.

Each extra contains those before it, so one environment grows. Exit code: 0 each suffices for its
layer of the house, 1 one lacks something.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = str(Path(sys.executable).with_name("uv"))

LAYERS = {  # in the order in which they contain each other; Dask's needs the small one alone
    "": "errors json_values frame geometry stack volume bricks kernels files reduction workflows "
    "plots cli recovery.verify catalog.client",
    "dask": "workflows.dask",
    "tiled": "catalog.client catalog.clients catalog.pieces",
    "catalog": "catalog followers recovery alarms host status export beamline.config",
    "transfer": "transfer",
    "beamline": "plans devices callbacks beamline shell demo doctor",
}
"""Extra → modules of offbragg, with all below them; each also has what those before it import."""

IMPORT = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    module = importlib.import_module("offbragg." + name)
    for each in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        importlib.import_module(each.name)
"""


def run(*command: str) -> None:
    """Run a command in an empty directory; what it prints is seen only if it fails."""
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(command, cwd=empty, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[:8])} …\n{done.stdout}{done.stderr}")


def main() -> None:
    """Install and import them all."""
    constraints = str(ROOT / ".ci/constraints.txt")
    with tempfile.TemporaryDirectory() as work:
        run(UV, "build", "--quiet", "--wheel", "-o", work, str(ROOT))
        (wheel,) = Path(work).glob("*.whl")
        python = f"{work}/new/bin/python"
        run(UV, "venv", "--quiet", "--python", sys.executable, str(Path(python).parents[1]))
        for extra, modules in LAYERS.items():
            began = time.monotonic()
            what = f"offbragg{f'[{extra}]' if extra else ''} @ {wheel.as_uri()}"
            run(UV, "pip", "install", "--quiet", "--python", python, "-c", constraints, what)
            installed = time.monotonic() - began
            run(python, "-c", IMPORT, *modules.split())
            print(
                f"{what.partition(' ')[0]:20} installed in {installed:.1f} s, imported", flush=True
            )


if __name__ == "__main__":
    main()
