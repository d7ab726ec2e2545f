"""Every number of the catalog's server is in the page of limits, or said to be none."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

import offbragg.catalog

FOLDER = Path(offbragg.catalog.__file__).parent
EXTENSION = Path(__file__).parents[1] / "docs" / "_ext"


def numbers() -> set[str]:
    """Return the constants of all modules of the catalog that are numbers."""
    found: set[str] = set()
    for path in FOLDER.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign):
                found |= {f"{path.stem}.{name}" for name in _named(node)}
    return found


def _named(node: ast.Assign) -> list[str]:
    (target,) = node.targets
    pairs = [(target, node.value)]
    if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
        pairs = list(zip(target.elts, node.value.elts, strict=True))
    return [
        name.id
        for name, value in pairs
        if isinstance(name, ast.Name) and name.id.isupper() and _is_number(value)
    ]


def _is_number(value: ast.expr) -> bool:
    if isinstance(value, ast.BinOp):
        return _is_number(value.left) and _is_number(value.right)
    if isinstance(value, ast.UnaryOp):
        return _is_number(value.operand)
    return isinstance(value, ast.Constant) and type(value.value) in (int, float)


def test_every_number_of_the_catalog_is_listed():
    listed = tomllib.loads((EXTENSION / "limits.toml").read_text())
    limits = [each["constant"] for group in listed["group"] for each in group["limits"]]
    others = [f"{module}.{name}" for module, names in listed["others"].items() for name in names]

    there = numbers()

    assert len({*limits, *others}) == len([*limits, *others])
    assert not (there - {*limits, *others}), "add these to docs/_ext/limits.toml"
    assert not ({*limits, *others} - there), "these are not there any more"


def test_the_page_has_the_numbers_of_the_code(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(EXTENSION)
    from offbragg_reference import PAGES

    from offbragg.catalog import request_limits

    monkeypatch.setattr(request_limits, "DOCUMENT", 12_000_000)
    page = "\n".join(PAGES["limits"]("offbragg.catalog"))

    assert "| 12 MB | body of a request | 413 | `request_limits.DOCUMENT` |" in page
    assert "| 30 wrong keys | from one address in a minute" in page
