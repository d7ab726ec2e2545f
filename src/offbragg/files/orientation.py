"""``orientation.json``: how a crystal lay, as it was found in a sweep, beside its scan file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from offbragg.errors import GeometryError, MetadataError, OrientationError
from offbragg.files.draft import draft
from offbragg.geometry import Geometry
from offbragg.sample import Row, Sample

NAME = "orientation.json"
_KEYS = ("UB", "lattice", "source", "residuals", "geometry")


def _nothing() -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a crystal lies, and where that is from.

    Parameters
    ----------
    UB
        Å⁻¹ without 2π, rows; as in `Sample`.
    lattice
        a, b, c in Å and alpha, beta, gamma in degree.
    source
        What found it, when, in which scan files (with SHA-256 and run), by which version.
    residuals
        How well it explains the peaks; plain JSON types.
    geometry
        Beam, panel and axes as refined; None if they were not.
    """

    UB: tuple[Row, Row, Row]
    lattice: tuple[float, float, float, float, float, float]
    source: Mapping[str, Any] = field(default_factory=_nothing)
    residuals: Mapping[str, Any] = field(default_factory=_nothing)
    geometry: Geometry | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return as plain JSON types."""
        document: dict[str, Any] = {
            "UB": [list(row) for row in self.UB],
            "lattice": list(self.lattice),
            "source": dict(self.source),
            "residuals": dict(self.residuals),
        }
        if self.geometry is not None:
            document["geometry"] = self.geometry.to_dict()
        return document

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any]) -> Orientation:
        """Read what `to_dict` wrote.

        Raises
        ------
        OrientationError
            Naming what is missing or wrong.
        """
        for key in ("UB", "lattice"):
            if key not in mapping:
                raise OrientationError(f"it lacks {key!r}")
        for key in mapping:
            if key not in _KEYS:
                raise OrientationError(f"it has {key!r}, which is unknown")
        try:
            # the same rules as for a sample: numbers, finite, not singular, a possible cell
            sample = Sample.from_dict(
                {"name": "x", "label": "x", "UB": mapping["UB"], "lattice": mapping["lattice"]}
            )
            geometry = mapping.get("geometry")
            refined = None if geometry is None else Geometry.from_dict(geometry)
        except (MetadataError, GeometryError) as error:
            raise OrientationError(str(error).replace("sample.", "")) from error
        if sample.UB is None or sample.lattice is None:
            raise OrientationError("its UB or lattice is empty")
        (a, b, c), (d, e, f), (g, h, i) = sample.UB
        if a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) < 0:
            raise OrientationError(f"its UB is left-handed: {sample.UB}")
        source: Mapping[str, Any] = mapping.get("source") or {}
        residuals: Mapping[str, Any] = mapping.get("residuals") or {}
        return cls(sample.UB, sample.lattice, source, residuals, refined)


def read_orientation(path: Path | str) -> Orientation:
    """Read an ``orientation.json``.

    Raises
    ------
    OrientationError
        If it is not there, or cannot be used: why.
    """
    path = Path(path)
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OrientationError(f"{path} is not there\nFind it with: offbragg index FILE") from None
    except (OSError, ValueError, RecursionError) as error:
        raise OrientationError(f"{path} cannot be read as an orientation: {error}") from error
    if not isinstance(mapping, dict):
        raise OrientationError(f"{path} is not an orientation: it does not hold a mapping")
    try:
        return Orientation.from_dict(cast(dict[str, Any], mapping))
    except OrientationError as error:
        raise OrientationError(f"{path} cannot be used as an orientation: {error}") from error


def write_orientation(path: Path | str, orientation: Orientation) -> Path | None:
    """Write an ``orientation.json``, whole or not at all; one that is there keeps its content.

    Returns
    -------
    kept
        The name that an earlier one has now (``orientation_1.json`` …), or None if there was none.

    Raises
    ------
    OrientationError
        If it cannot be written.
    """
    path = Path(path)
    text = json.dumps(orientation.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    kept: Path | None = None
    try:
        with draft(path) as made:
            made.write(text.encode())
            try:
                made.place()  # never in place of one that is just being written
            except FileExistsError:
                kept = keep_earlier(path)
                made.place(replace=True)
    except OSError as error:
        raise OrientationError(
            f"{path} cannot be written: {error.strerror}\nGive another place with --out."
        ) from error
    return kept


def keep_earlier(path: Path) -> Path:
    """Link a file to a second name, ``stem_1`` and so on, before another takes its place."""
    number = 1
    while True:
        kept = path.with_name(f"{path.stem}_{number}{path.suffix}")
        try:
            os.link(path, kept)
        except FileExistsError:
            number += 1
            continue
        return kept


def newest_orientation(experiment: Path | str, name: str, label: str) -> Path | None:
    """Find the newest orientation of a mount in its experiment tree.

    All its labels are looked at (``xtal1``, ``xtal1_orient`` …). Newest is the one whose sweep was
    measured last; of one sweep, the one that was found last.
    """
    found: list[tuple[float, str, Path]] = []
    for folder in sorted((Path(experiment) / name).glob(f"{label}*")):
        if folder.name != label and not folder.name.startswith(f"{label}_"):
            continue
        if folder.name != label and folder.name.removeprefix(f"{label}_") not in _PURPOSES:
            continue
        for path in sorted(folder.glob(f"*/{NAME}")):
            try:
                source = read_orientation(path).source
            except OrientationError:
                continue
            files: list[dict[str, Any]] = source.get("files") or [{}]
            found.append((float(files[0].get("time") or 0), str(source.get("when", "")), path))
    return max(found)[2] if found else None


_PURPOSES = ("data", "orient", "background", "dark", "calibration")
