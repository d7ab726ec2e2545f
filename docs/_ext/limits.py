"""The page of limits: the numbers come from the code, what they mean from ``limits.toml``."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

TOML = Path(__file__).with_name("limits.toml")


def limits(source: str, table: Callable[[Iterable[str], Iterable[Iterable[object]]], list[str]]):
    """Return the lines of the page.

    Parameters
    ----------
    source
        Package that has the modules.
    table
        Makes a Markdown table.
    """
    lines: list[str] = []
    for group in tomllib.loads(TOML.read_text())["group"]:
        rows = [
            (shown(value_of(source, each["constant"]), each["unit"]), each["what"],
             each["beyond"], f"`{each['constant']}`")
            for each in group["limits"]
        ]  # fmt: skip
        lines += [f"## {group['title']}", ""]
        lines += table(["limit", "of", "beyond it", "in the code"], rows)
    return lines


def value_of(source: str, constant: str) -> float:
    """Return the value of a constant, as ``frames._KEPT``."""
    module, _, name = constant.partition(".")
    return getattr(importlib.import_module(f"{source}.{module}"), name)


def shown(value: float, unit: str) -> str:
    """Write a limit with its unit."""
    if unit == "bytes":
        for factor, name in ((1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")):
            if value >= factor:
                return f"{value / factor:.3g} {name}"
    number = f"{value:,.10g}" if value < 1e12 else f"2^{value.bit_length() - 1}"
    return f"{number} {unit}".strip()
