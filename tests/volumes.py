"""Volumes, and what a file of one holds as it is computed from whole arrays, with NumPy."""

from __future__ import annotations

import math

import numpy as np

from offbragg.bricks import LEVELS
from offbragg.grid import Grid
from offbragg.lattice import direct_basis
from offbragg.sample import Sample
from offbragg.volume import Volume

LATTICES = [None, (4.0, 5.0, 6.0, 90.0, 90.0, 90.0), (4.0, 4.0, 6.0, 90.0, 90.0, 120.0),
            (4.0, 5.0, 6.0, 70.0, 80.0, 105.0)]  # fmt: skip


def sparse_volume(shape: tuple[int, int, int], *, sums: int = 2, lattice: int = 2) -> Volume:
    """Sums of a box around the origin, of which some bricks are empty."""
    rng = np.random.default_rng(sum(shape))
    grid = Grid(tuple(-n // 2 for n in shape), shape, (10, 10, 5))
    weight = rng.integers(1, 2**20, shape) / 2**18 * (rng.random(shape) > 0.3)
    weight[:, : shape[1] // 3, : shape[2] // 2] = 0.0
    counts = rng.poisson(20, shape) * (weight > 0.0)
    more = [rng.integers(0, 9, shape) * (weight > 0.0) for _ in range(3)]
    names = ["variance"] * (sums in (3, 5)) + ["background", "background_variance"] * (sums > 3)
    arrays = {name: array.astype(float) for name, array in zip(names, more, strict=False)}
    cell = LATTICES[lattice]
    sample = None if cell is None else Sample("LSMO", "c1", lattice=cell)
    return Volume(counts.astype(float), weight, grid, sample=sample, **arrays)


def whole_arrays(made: Volume) -> dict[str, np.ndarray]:
    """What each dataset holds, [l, k, h], from whole arrays."""
    above = made.counts if made.background is None else made.counts - made.background
    arrays = {"data/intensity": made.intensity, "data/intensity_errors": made.sigma,
              "transform/v": above, "transform/n": made.weight}  # fmt: skip
    for name in ("counts", "weight", "variance", "background", "background_variance"):
        if getattr(made, name) is not None:
            arrays[f"volume/{name}"] = getattr(made, name)
    for level in LEVELS:
        if max(made.counts.shape) >= 2 * level:
            count, time = above, made.weight
            for axis in range(3):
                blocks = np.arange(0, count.shape[axis], level)
                count = np.add.reduceat(count, blocks, axis=axis)
                time = np.add.reduceat(time, blocks, axis=axis)
            mean = np.full(count.shape, np.nan)
            np.divide(count, time, out=mean, where=time > 0)
            arrays[f"levels/{level}/intensity"] = mean
    return {name: array.T for name, array in arrays.items()}


def whole_shells(made: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Measured part of the cells in 40 shells, from the distance of each cell."""
    assert made.grid is not None
    metric = np.eye(3)
    if made.sample is not None and made.sample.lattice is not None:
        reciprocal = np.linalg.inv(direct_basis(made.sample.lattice)).T * 2 * math.pi
        metric = reciprocal.T @ reciprocal
    axes = made.grid.h, made.grid.k, made.grid.l
    h, k, l = np.meshgrid(*axes, indexing="ij")  # noqa: E741
    squared = (
        metric[0, 0] * h**2 + metric[1, 1] * k**2 + metric[2, 2] * l**2
        + 2 * (metric[0, 1] * h * k + metric[0, 2] * h * l + metric[1, 2] * k * l)
    )  # fmt: skip
    distance = np.sqrt(np.maximum(squared, 0.0))
    ends = [max(abs(axis[0]), abs(axis[-1])) for axis in axes]
    furthest = sum(math.sqrt(metric[i, i]) * end for i, end in enumerate(ends))
    edges = np.linspace(0.0, furthest, 41)
    cells = np.histogram(distance, edges)[0]
    seen = np.histogram(distance[made.weight > 0], edges)[0]
    known = cells > 0
    return (0.5 * (edges[1:] + edges[:-1]))[known], seen[known] / cells[known]
