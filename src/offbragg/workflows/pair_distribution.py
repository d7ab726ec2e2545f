"""From a volume's file to a three-dimensional difference pair distribution function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offbragg.files.pair_distribution_file import write_pdf
from offbragg.reduction.pair_distribution import PairDistribution


def save(path: Path | str, pdf: PairDistribution, record: Mapping[str, Any]) -> Path:
    """Write a pair distribution into an HDF5 file that NeXpy plots."""
    result = {name: getattr(pdf, name) for name in ("residual", "filled", "unmeasured", "q_max")}
    axes = (pdf.x, pdf.y, pdf.z)
    return write_pdf(path, pdf.values, axes, pdf.lattice, {**record, **result})
