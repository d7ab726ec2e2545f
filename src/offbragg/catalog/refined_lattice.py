"""The lattice of a sample at a temperature, where it was refined from the sweeps there."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from offbragg.catalog.readable import Readable
from offbragg.errors import CatalogError, OffbraggError
from offbragg.files.orientation import NAME, Orientation

_MOST = 1_000_000  # bytes of an orientation
_NAMES = ("a", "b", "c", "alpha", "beta", "gamma")


class RefinedLattices:
    """Reads lattices from the orientations beside scan files, each once.

    Parameters
    ----------
    readable
        Where files may be read.
    """

    def __init__(self, readable: Readable) -> None:
        self._readable = readable
        self._known: dict[Path, tuple[tuple[int, int], Orientation | None]] = {}

    def of(self, folder: Path, runs: Collection[str]) -> dict[str, list[float | None]] | None:
        """Return a, b, c, Å, and the angles, degree, each with its standard deviation.

        None if nothing was refined here, or from other runs than these: of another temperature.
        """
        path = folder / NAME
        try:
            stat = path.stat()
            which = stat.st_mtime_ns, stat.st_size
            if self._known.get(path, ((), None))[0] != which:
                self._known[path] = which, self._read(path)
        except (OSError, CatalogError):
            return None
        found = self._known[path][1]
        if found is None:
            return None
        files: Any = found.source.get("files")
        named = files if isinstance(files, list) else []
        of_runs = {each.get("run") for each in named if isinstance(each, Mapping)}
        if of_runs.isdisjoint(runs):
            return None
        esd: Any = found.residuals.get("esd")
        errors = esd if isinstance(esd, Mapping) else {}
        return {
            name: [value, _number(errors.get(name))]
            for name, value in zip(_NAMES, found.lattice, strict=True)
        }

    def _read(self, path: Path) -> Orientation | None:
        try:
            return Orientation.from_dict(json.loads(self._readable.read(path, most=_MOST)))
        except CatalogError:
            raise
        except (OffbraggError, ValueError, TypeError, RecursionError):
            return None


def _number(value: object) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None  # type: ignore[arg-type]
