#!/usr/bin/env python3
"""Run the tests against the newest releases of everything, and print what broke.

A copy of the tree gets an environment of its own, without constraints and without the upper bounds
of pyproject.toml. Arguments go to pytest; without any the whole suite runs. Exit code: 0 all
passed, 1 tests failed, 2 the newest releases cannot be installed together.
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
    wanted, end, tail = rest.partition("\n]")
    wanted = re.sub(r",<[\d.]+", "", wanted)  # "a>=1,<2"
    wanted = re.sub(r"<[\d.]+", "", wanted)  # "a<2"
    project.write_text(head + begin + wanted + end + tail)


def print_differences(python: Path) -> None:
    """Print the packages whose version is not that of the constraints."""
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    known = dict(line.split("==") for line in lines if "==" in line)
    known = {key(name): version for name, version in known.items()}
    have = {key(package["name"]): package["version"] for package in json.loads(listed.stdout)}
    different = [n for n in sorted(have) if n in known and have[n] != known[n]]
    new = [n for n in sorted(have) if n not in known and n not in ("offbragg", "pip", "setuptools")]
    print(f"\n{len(different)} packages differ from .ci/constraints.txt")
    for name in different:
        print(f"  {name} {known[name]} -> {have[name]}")
    if new:
        print("not in .ci/constraints.txt: " + ", ".join(f"{n} {have[n]}" for n in new))


def print_failures(report: Path) -> None:
    """Print the tests that failed, with the first line and the packages of each traceback."""
    failed = 0
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        for kind in ("failure", "error"):
            if (found := case.find(kind)) is None:
                continue
            failed += 1
            print(f"  {kind}: {case.get('classname')}::{case.get('name')}")
            print(f"    {(found.get('message') or '').splitlines()[:1]}")
            packages = set(re.findall(r"site-packages/([A-Za-z0-9_]+)", found.text or ""))
            packages -= {"pytest", "_pytest", "pluggy", "xdist", "pytest_timeout"}
            if packages:
                print(f"    by way of {', '.join(sorted(packages))}")
    print(f"{failed} tests broke")


def main(arguments: list[str]) -> int:
    """Return the exit code."""
    with tempfile.TemporaryDirectory(prefix="offbragg-newest-") as folder:
        tree = Path(folder) / "tree"
        tree.mkdir()
        copy_tree(tree)
        subprocess.run([sys.executable, "-m", "venv", tree / ".venv"], check=True)
        python = tree / ".venv" / "bin" / "python"
        environment = os.environ | {"SETUPTOOLS_SCM_PRETEND_VERSION": "0.1.dev0"}
        for name in ("PIP_CONSTRAINT", "VIRTUAL_ENV"):
            environment.pop(name, None)
        installed = subprocess.run(
            [python, "-m", "pip", "install", "-q", "--upgrade", "--upgrade-strategy=eager",
             "-e", ".[test]"], cwd=tree, env=environment, check=False,
        )  # fmt: skip
        if installed.returncode:
            print("the newest releases cannot be installed together; pip's reason is above")
            return 2
        report = Path(folder) / "tests.xml"
        done = subprocess.run(
            [python, "-m", "pytest", f"--junitxml={report}", *arguments], cwd=tree,
            env=environment, check=False,
        )  # fmt: skip
        print_differences(python)
        if report.exists():
            print_failures(report)
        return 1 if done.returncode else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
