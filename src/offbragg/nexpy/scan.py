"""The region that a plot shows, at every temperature that is open: one small request for each.

NeXpy's own scan panel joins files on this computer; what is open here has none.
"""

# pyright: reportArgumentType=false, reportOptionalMemberAccess=false, reportMissingImports=false
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from nexusformat.nexus import NXdata, NXfield, NXroot
from numpy.typing import NDArray

from offbragg.errors import CatalogError
from offbragg.nexpy.arrays import RemoteArray, array_behind

_AT_ONCE = 4  # requests
_TEMPERATURE = "entry/sample/temperature"


def scan(tree: Mapping[str, Any], path: str, part: tuple[slice, ...]) -> NXdata:
    """Return the mean of a region against the temperature, over all roots that have it.

    Parameters
    ----------
    tree
        Roots by name.
    path
        Of the signal, the same in each root.
    part
        The region, as indices.

    Raises
    ------
    CatalogError
        If fewer than two temperatures have it.
    """
    found: list[tuple[float, RemoteArray]] = []
    for root in tree.values():
        if isinstance(root, NXroot) and path in root and _TEMPERATURE in root:
            array = array_behind(root[path])
            if array is not None:
                found.append((float(root[_TEMPERATURE].nxdata), array))
    if len(found) < 2:
        raise CatalogError(
            f"{path} is open at {len(found)} temperature{'s' * (len(found) != 1)}\n"
            "Open the others, too: offbragg, Open from a Catalog…"
        )
    found.sort(key=lambda each: each[0])
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="offbragg-scan") as pool:
        means = list(pool.map(lambda each: _mean(each[1][part]), found))
    temperatures = NXfield([kelvin for kelvin, _ in found], name="temperature", units="K")
    signal = NXfield(means, name="mean", long_name="mean intensity of the region")
    return NXdata(signal, temperatures, title=f"{path}, {_describe(part)}")


def region_of(view: Any) -> tuple[slice, ...]:
    """Return the region that a plot window shows, as indices of its data."""
    drawn = {axis.dim: axis for axis in (view.xaxis, view.yaxis)}
    part: list[slice] = []
    for number in range(view.ndim):
        axis = drawn.get(number, view.axis[number])
        centres = np.asarray(axis.centers, float)
        low, high = sorted((float(axis.lo), float(axis.hi)))
        within = np.flatnonzero((centres >= low - 1e-9) & (centres <= high + 1e-9))
        if not within.size:
            within = np.array([np.argmin(np.abs(centres - low))])
        part.append(slice(int(within[0]), int(within[-1]) + 1))
    return tuple(part)


def _mean(values: NDArray[Any]) -> float:
    """Return the mean of what was measured; frames have negative values where nothing was."""
    measured = values[np.isfinite(values)] if values.dtype.kind == "f" else values[values >= 0]
    return float(measured.mean(dtype=float)) if measured.size else float("nan")


def _describe(part: tuple[slice, ...]) -> str:
    return ", ".join(f"{each.start}:{each.stop}" for each in part)
