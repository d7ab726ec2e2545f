#!/usr/bin/env python3
"""Run the tests against the newest releases of everything, and print what broke.

A copy of the tree gets an environment of its own, without constraints and without the upper bounds
of pyproject.toml. uv installs it: pip asks for the pages of 180 packages one after the other, which
takes minutes where there are no constraints. Arguments go to pytest; without any the whole suite
runs. Exit code: 0 all passed, 1 tests failed or did not all run, 2 the newest releases cannot be
installed together.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def key(name: str) -> str:
    """Return a distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def copy_tree(target: Path) -> None:
    """Copy what git tracks, as it is now, without upper bounds."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, copy = ROOT / name, target / name
        if not os.path.lexists(source):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            copy.symlink_to(source.readlink())
        else:
            copy.write_bytes(source.read_bytes())
            copy.chmod(source.stat().st_mode)
    project = target / "pyproject.toml"
    head, begin, rest = project.read_text().partition("\ndependencies = [")
    wanted, end, tail = rest.partition("\n[project.scripts]")  # the extras are before it
    wanted = re.sub(r",<[\d.]+", "", wanted)  # "a>=1,<2"
    wanted = re.sub(r"<[\d.]+", "", wanted)  # "a<2"
    project.write_text(head + begin + wanted + end + tail)


def known_good() -> dict[str, str]:
    """Return the versions of constraints.txt by name."""
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    return {
        key(name): version
        for name, _, version in (line.partition("==") for line in lines)
        if version
    }


def installed(python: Path) -> dict[str, str]:
    """Return the installed versions by name."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return {key(package["name"]): package["version"] for package in json.loads(listed.stdout)}


def print_differences(known: dict[str, str], have: dict[str, str]) -> None:
    """Print the packages that are newer than the known good ones, older, or not among them."""
    newer: list[str] = []
    older: list[str] = []
    for name in sorted(known.keys() & have.keys()):
        if have[name] != known[name]:
            is_newer = Version(have[name]) > Version(known[name])
            (newer if is_newer else older).append(f"  {name} {known[name]} -> {have[name]}")
    new = sorted(have.keys() - known.keys() - {"offbragg", "pip", "setuptools", "uv"})
    print(f"\npackages newer than in .ci/constraints.txt: {len(newer)}", *newer, sep="\n")
    if older:
        print("older, as another package asks for it:", *older, sep="\n")
    if new:
        print("not in .ci/constraints.txt: " + ", ".join(f"{n} {have[n]}" for n in new))


def print_failures(report: Path) -> int:
    """Print the tests that failed, with the first line and the packages of each traceback.

    Returns
    -------
    ran
        The number of tests that ran.
    """
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = 0
    for case in cases:
        for kind in ("failure", "error"):
            if (found := case.find(kind)) is None:
                continue
            failed += 1
            name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
            print(f"  {kind}: {name}")
            text = found.text or ""
            error = re.search(r"^E +(.+)", text, re.M)  # of a module: not only "collection failure"
            print(f"    {error[1] if error else (found.get('message') or '').split(chr(10))[0]}")
            packages = set(re.findall(r"site-packages/([A-Za-z0-9_]+)", text))
            packages -= {"pytest", "_pytest", "pluggy", "xdist", "pytest_timeout"}
            if packages:
                print(f"    by way of {', '.join(sorted(packages))}")
    print(f"tests that broke: {failed} of {len(cases)}")
    return len(cases)


def variables() -> dict[str, str]:
    """Return the environment variables without what would hold packages back."""
    kept = {name: value for name, value in os.environ.items()
            if name not in ("PIP_CONSTRAINT", "UV_CONSTRAINT", "VIRTUAL_ENV")}  # fmt: skip
    if "PIP_INDEX_URL" in kept:
        kept.setdefault("UV_DEFAULT_INDEX", kept["PIP_INDEX_URL"])
    return kept | {"SETUPTOOLS_SCM_PRETEND_VERSION": "0.1.dev0"}  # the copy has no tags


def environment(tree: Path) -> Path | None:
    """Make an environment with the newest releases; return its Python, None if there cannot be."""
    subprocess.run([sys.executable, "-m", "venv", tree / ".venv"], check=True)
    python = tree / ".venv" / "bin" / "python"
    for install in (
        ["pip", "install", "-q", "uv"],
        ["uv", "pip", "install", "--python", str(python), "-e", ".[test]"],
    ):
        if subprocess.run(
            [python, "-m", *install], cwd=tree, env=variables(), check=False
        ).returncode:
            return None
    return python


def main(arguments: list[str]) -> int:
    """Return the exit code."""
    with tempfile.TemporaryDirectory(prefix="offbragg-newest-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        copy_tree(tree)
        python = environment(tree)
        if python is None:
            print("the newest releases cannot be installed together; the reason is above")
            return 2
        report = Path(folder) / "tests.xml"
        done = subprocess.run(
            [python, "-m", "pytest", f"--junitxml={report}", "--continue-on-collection-errors",
             *arguments], cwd=tree, env=variables(), check=False,
        )  # fmt: skip
        print_differences(known_good(), installed(python))
        ran = print_failures(report) if report.exists() else 0
        if done.returncode > 1 or not ran:  # an import of conftest.py, an option that is gone
            print(f"pytest did not run all tests: exit code {done.returncode}, its reason is above")
        return 1 if done.returncode else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
