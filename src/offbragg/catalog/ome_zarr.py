"""Describe a volume as an OME-Zarr: which arrays are its levels, and where their cells lie.

Tiled serves each node as Zarr 3 below ``/zarr/v3`` and passes the metadata of a node on as the
attributes of its group. What stands here under ``ome`` (NGFF 0.5, ngff.openmicroscopy.org/0.5) is
therefore all that a viewer needs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from offbragg.grid import Grid

AXES = "lkh"
"""Axes of the arrays of a volume file, the slowest first."""


def ome_metadata(name: str, grid: Grid, levels: Iterable[int]) -> dict[str, Any]:
    """Return what NGFF 0.5 wants under ``ome``, for a node of the catalog.

    A cell of level n holds n × n × n cells, and its centre is the mean of theirs. Where an axis is
    not a multiple of n cells long, the last cell of a level holds fewer; its place is that of a
    whole one, since NGFF has one scale for all cells of a level.

    NGFF permits axes of type ``space`` without a unit: reciprocal-lattice units have no name there.
    It has no oblique axes either, so h, k and l are drawn at right angles.

    Parameters
    ----------
    name
        Of the image.
    grid
        Cells of level 1.
    levels
        1, 2, 4 … in this order.

    Examples
    --------
    >>> grid = Grid(first=(-2, 0, 0), shape=(5, 2, 1), per_unit=(4, 2, 1))
    >>> image = ome_metadata("S(Q)", grid, [1, 2])["multiscales"][0]
    >>> image["datasets"][1]["path"]
    'levels/2'
    >>> [each for t in image["datasets"][1]["coordinateTransformations"] for each in t.items()]
    ... # doctest: +NORMALIZE_WHITESPACE
    [('type', 'scale'), ('scale', [2.0, 1.0, 0.5]),
     ('type', 'translation'), ('translation', [0.5, 0.25, -0.375])]
    """
    return {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": [{"name": axis, "type": "space"} for axis in AXES],
                "datasets": [_dataset(grid, level) for level in levels],
                "type": "mean",  # weighted by how long each cell was measured
            }
        ],
    }


def _dataset(grid: Grid, level: int) -> dict[str, Any]:
    steps = [level / n for n in reversed(grid.per_unit)]
    middle = (level - 1) / 2  # of the cells of level 1 in the first cell
    firsts = [
        (first + middle) / n
        for first, n in zip(reversed(grid.first), reversed(grid.per_unit), strict=True)
    ]
    return {
        "path": "intensity" if level == 1 else f"levels/{level}",
        "coordinateTransformations": [
            {"type": "scale", "scale": steps},
            {"type": "translation", "translation": firsts},
        ],
    }
