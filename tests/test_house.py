"""The page on the house, import-linter's contract and the tree are the same house."""

from __future__ import annotations

import ast
import graphlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"

LONGEST = 500  # lines of a module

LONG = {
    "devices/pilatus.py": "one flight of a detector, and every way in which it can fail",
    "protocols.py": "the agreements with devices: declarations, nearly no code",
}
"""Modules that are longer than that, and why. The list may only shrink."""

OUTSIDE = ["__main__", "profile", "known_good", "web"]
"""In no layer: the start of the program, and three folders of data."""


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted((SOURCE / "offbragg").rglob("*.py"))}


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs/explanations/the-house.md").read_text()


@pytest.fixture(scope="module")
def contract() -> dict[str, object]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return next(each for each in config["contracts"] if each["type"] == "layers")


def imported_when_loaded(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the modules of offbragg that are imported while a module is being imported."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from imported_when_loaded(node.orelse)
        else:
            for block in ("body", "orelse", "finalbody", "handlers"):
                yield from imported_when_loaded(getattr(node, block, []))


def packages_of(module: str) -> Iterator[str]:
    """Yield the packages that are imported with a module: their names up to each dot."""
    parts = module.split(".")
    yield from (".".join(parts[:length]) for length in range(1, len(parts)))


def test_the_page_draws_the_layers_of_the_contract(page: str, contract: dict[str, object]):
    drawing = re.search(r"^## Layers$.*?^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)

    assert drawing is not None
    assert [re.split(r"\s{2,}", line)[0] for line in drawing[1].splitlines()] == contract["layers"]


def test_pages_name_modules_that_are_there():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*/*.md"))]
    package = SOURCE / "offbragg"
    rooms = "|".join(path.name for path in package.iterdir() if path.is_dir())

    gone = [
        f"{path.name}: {name}"
        for path in pages
        for name in re.findall(rf"`((?:src/offbragg/)?(?:{rooms})/[\w/]+\.\w+)`", path.read_text())
        if not (package / name.removeprefix("src/offbragg/")).exists()
    ]
    gone += [
        f"{path.name}: {name}"
        for path in pages
        for name in re.findall(rf"\b(?<![/.-])offbragg\.(?:{rooms})(?:\.\w+)+", path.read_text())
        if not any(module in MODULES for module in (name, name.rpartition(".")[0]))
    ]

    assert not gone


def test_every_module_is_in_a_layer(contract: dict[str, object]):
    assert contract["exhaustive"] is True
    assert contract["exhaustive_ignores"] == OUTSIDE


def test_the_page_has_a_line_for_every_room(page: str, contract: dict[str, object]):
    rooms = re.search(r"^## Rooms$.*?^## ", page, re.MULTILINE | re.DOTALL)
    layers = contract["layers"]
    assert rooms is not None
    assert isinstance(layers, list)

    listed = [
        name
        for line in rooms[0].splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)(?:/|\.py)`", line.split(" | ")[0])
    ]

    assert sorted(listed) == sorted(room for layer in layers for room in layer.split(" | "))


def test_a_module_is_short_or_has_a_reason():
    lines = {
        path.relative_to(SOURCE / "offbragg").as_posix(): path.read_text().count("\n")
        for path in MODULES.values()
    }

    without_reason = {n: k for n, k in lines.items() if k > LONGEST and n not in LONG}
    needs_none = {n: lines.get(n, "gone") for n in LONG if lines.get(n, 0) <= LONGEST}

    assert (without_reason, needs_none) == ({}, {})


def test_no_module_is_imported_by_what_it_imports(trees: dict[str, ast.Module]):
    imports = {
        name: {
            loaded
            for other in imported_when_loaded(tree.body)
            for loaded in (other, *packages_of(other))
            if loaded in MODULES and not f"{name}.".startswith(f"{loaded}.")
        }
        for name, tree in trees.items()
    }

    list(graphlib.TopologicalSorter(imports).static_order())  # raises CycleError


def test_no_module_imports_in_a_function_what_imports_it(trees: dict[str, ast.Module]):
    """A circle of late imports loads, but none of its modules can be read or moved alone."""
    graph: dict[str, set[str]] = {}
    for name, tree in trees.items():
        found: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = (f"{node.module}.{alias.name}" for alias in node.names)
                found.update(each if each in trees else node.module for each in inner)
        graph[name] = {each for each in found if each in trees and each != name}

    list(graphlib.TopologicalSorter(graph).static_order())  # a CycleError names the circle


def test_no_private_name_crosses_a_module(trees: dict[str, ast.Module]):
    crossing = []
    for name, tree in trees.items():
        modules = set()  # names under which this module has modules of offbragg
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "offbragg"
            ):
                continue
            for alias in node.names:
                if f"{node.module}.{alias.name}" in MODULES:
                    modules.add(alias.asname or alias.name)
                elif re.match(r"_[^_]", alias.name) and node.module != name:
                    crossing.append(f"{name}: {node.module}.{alias.name}")
        crossing += [
            f"{name}:{node.lineno}: {node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in modules
            and re.match(r"_[^_]", node.attr)
        ]

    assert not crossing
