"""What ``poe newest`` prints, and what it installs."""

from __future__ import annotations

import importlib.util
import itertools
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("newest", ROOT / ".ci" / "newest.py")
assert spec is not None
assert spec.loader is not None
newest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(newest)


def test_the_copy_has_no_upper_bounds(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("the tree is not a checkout")
    newest.copy_tree(tmp_path)

    def bounds(root: Path) -> list[str]:
        project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"].values()
        wanted = map(Requirement, [*project["dependencies"], *itertools.chain(*extras)])
        return [str(one) for one in wanted if any("<" in s.operator for s in one.specifier)]

    assert bounds(ROOT)
    assert bounds(tmp_path) == []
    assert (tmp_path / "src/offbragg/known_good/constraints.txt").read_text()


def test_newer_and_older_packages_are_listed_apart(capsys):
    newest.print_differences(
        {"numpy": "2.9.0", "rich": "15.0", "tiled": "0.2.20", "h5py": "3.16"},
        {"numpy": "2.10.0", "rich": "14.0", "h5py": "3.16", "brand-new": "1.0", "pip": "26"},
    )

    assert capsys.readouterr().out.strip().splitlines() == [
        "packages newer than in .ci/constraints.txt: 1",
        "  numpy 2.9.0 -> 2.10.0",
        "older, as another package asks for it:",
        "  rich 15.0 -> 14.0",
        "not in .ci/constraints.txt: brand-new 1.0",
    ]


def test_the_report_names_what_broke_and_by_way_of_which_package(tmp_path, capsys):
    report = tmp_path / "tests.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.test_a" name="test_works"/>'
        '<testcase classname="tests.test_a" name="test_breaks">'
        '<failure message="TypeError: no&#10;x">'
        "/v/lib/python3.11/site-packages/tiled/client/base.py:3: TypeError</failure></testcase>"
        '<testcase classname="" name="tests.test_b"><error message="collection failure">'
        "E   ImportError: no name</error></testcase></testsuite></testsuites>"
    )

    assert newest.print_failures(report) == 3
    assert capsys.readouterr().out.splitlines() == [
        "  failure: tests.test_a::test_breaks",
        "    TypeError: no",
        "    by way of tiled",
        "  error: tests.test_b",
        "    ImportError: no name",
        "tests that broke: 2 of 3",
    ]
