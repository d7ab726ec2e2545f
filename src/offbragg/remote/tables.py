"""Rows as tables and pictures in a notebook, and as columns for Python."""

from __future__ import annotations

import base64
import html
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def html_table(rows: Sequence[Mapping[str, Any]], *, more: int = 0) -> str:
    """Return rows as a table in HTML, whatever they hold.

    Parameters
    ----------
    rows
        All with the same names.
    more
        Number of rows that are not shown.
    """
    if not rows:
        return "<i>nothing</i>"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(x))}</td>" for x in row.values()) + "</tr>"
        for row in rows
    )
    rest = f"<p>and {more} more</p>" if more else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"


def html_picture(png: bytes | None) -> str:
    """Return a picture as a part of HTML; nothing for None."""
    if png is None:
        return ""
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe(*parts: Any) -> str:
    """Join what is known: a number is a temperature, K.

    Examples
    --------
    >>> describe("LSMO-140", 90.0053, None, "hk0.5")
    'LSMO-140, 90.01 K, hk0.5'
    """
    known = (p for p in parts if p is not None)
    return ", ".join(f"{round(p, 2):g} K" if isinstance(p, float | int) else p for p in known)


def clock(seconds: float | None) -> str:
    """Return a time as it is here, to the minute; empty for None."""
    if seconds is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def columns(table: Mapping[str, Sequence[Any]]) -> dict[str, NDArray[Any]]:
    """Return columns of JSON as arrays; None is NaN among numbers.

    Examples
    --------
    >>> columns({"angle": [0.5, None], "status": ["stored", "missing"]})["angle"]
    array([0.5, nan])
    """
    return {name: _column(values) for name, values in table.items()}


def _column(values: Sequence[Any]) -> NDArray[Any]:
    known = [x for x in values if x is not None]
    if all(isinstance(x, int | float) and not isinstance(x, bool) for x in known):
        if len(known) == len(values):
            return np.array(values, None if values else np.float64)
        return np.array([np.nan if x is None else x for x in values], np.float64)
    if len(known) == len(values) and all(isinstance(x, str | bool) for x in known):
        return np.array(values)
    array = np.empty(len(values), object)
    array[:] = list(values)
    return array


def as_table(table: Mapping[str, Sequence[Any]], index: str) -> Any:
    """Return columns as a `pandas.DataFrame`, or arrays by name where pandas is not installed."""
    arrays = columns(table)
    try:
        import pandas as pd
    except ImportError:
        return arrays
    # pandas wants one dimension a column
    flat = {name: list(a) if a.ndim > 1 else a for name, a in arrays.items()}
    frame = pd.DataFrame(flat)
    return frame.set_index(index) if index in frame else frame
