"""The air run that belongs to a sweep."""

from __future__ import annotations

import math
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import numpy as np

from offbragg.errors import OffbraggError, ReductionError, ScanFileError
from offbragg.files.scan_file import ScanFile
from offbragg.workflows.sweeps import opened

_SAME_PLACE = 0.05  # mm, of the panel


def find_background(path: Path, scan: ScanFile, wanted: str) -> Path | None:
    """Find the air run that belongs to a sweep.

    Parameters
    ----------
    path, scan
        The sweep.
    wanted
        ``auto``, or the uid (or its first characters) or the path of an air run.

    Returns
    -------
    path
        Of its scan file; None if ``auto`` finds none.

    Raises
    ------
    ReductionError
        If the one that is named is not there, or was measured under other conditions.
    """
    if not wanted.strip():
        raise ReductionError("the background is '': say auto, none, or an air run's uid or file")
    if wanted != "auto" and Path(wanted).exists():
        with opened(Path(wanted)) as other:
            why = _no_air(scan, other) or _not_paired(scan, other)
        if why:
            raise ReductionError(f"{wanted} is not a background of {path}: {why}")
        return Path(wanted).absolute()
    found: list[tuple[float, Path]] = []
    near = ""
    for candidate in _candidates(path):
        try:
            with ScanFile.open(candidate) as other:
                is_air = other.start.get("purpose") == "background"
                named = wanted != "auto" and other.run.startswith(wanted)
                if not (named or (wanted == "auto" and is_air)):
                    continue
                why = _no_air(scan, other) or _not_paired(scan, other)
                apart = abs(other.start["time"] - scan.start["time"])
        except (OffbraggError, OSError):
            continue
        if why and named:
            raise ReductionError(f"run {wanted} is not a background of {path}: {why}")
        if why:
            near = f"{candidate}: {why}"
        else:
            found.append((apart, candidate))
    if not found and wanted != "auto":
        raise ReductionError(
            f"no run {wanted!r} is found near {path}" + (f" ({near})" if near else "")
            + "\nGive the path of its scan file, or --background none."
        )  # fmt: skip
    return min(found)[1] if found else None


def _candidates(path: Path) -> Iterator[Path]:
    """Return scan files near this one: in its folder, and where this experiment's air runs are."""
    seen: set[Path] = {path}
    parents = path.absolute().parents
    places = [(path.absolute().parent, "*.h5")]
    places += [(p, "*_background/*/f*.h5") for p in parents[1:4]]
    places += [(p, "*/*_background/*/f*.h5") for p in parents[2:4]]
    for place, pattern in places:
        # Path.glob fails if a folder is removed meanwhile
        for name in sorted(glob(pattern, root_dir=place)):  # noqa: PTH207
            candidate = place / name
            if candidate not in seen:
                seen.add(candidate)
                yield candidate


def _no_air(scan: ScanFile, other: ScanFile) -> str:
    """Return why the file that was named does not hold an air run; empty if it does."""
    if other.run == scan.run:
        return "it is the same run"
    purpose = other.start.get("purpose", "data")
    # frames that were stacked from a folder do not say what they were measured for
    if purpose != "background" and other.start.get("plan_name") != "from_files":
        return (
            f"its purpose is {purpose!r}, not 'background': there is a crystal in its beam, or no "
            "beam\nGive an air run, or --background none."
        )
    return ""


def _not_paired(scan: ScanFile, other: ScanFile) -> str:
    """Return why an air run does not belong to a sweep; empty if it does."""
    try:
        mine, its = scan.geometry, other.geometry
    except ScanFileError as error:
        return str(error)
    for name in ("origin", "fast", "slow"):
        a, b = np.array(getattr(mine.panel, name)), np.array(getattr(its.panel, name))
        apart = float(np.linalg.norm(a - b))
        if apart > (_SAME_PLACE if name == "origin" else 1e-3):
            return f"the panel's {name} is {apart:.3g} away"
    if mine.panel.shape != its.panel.shape:
        return f"its frames are {its.panel.shape}, not {mine.panel.shape}"
    if not math.isclose(mine.wavelength, its.wavelength, rel_tol=1e-3):
        return f"its wavelength is {its.wavelength:g} Å, not {mine.wavelength:g} Å"
    a, b = (float(s.start.get("attenuation") or 1.0) for s in (scan, other))
    if not math.isclose(a, b, rel_tol=0.01):
        return f"its attenuation is {b:g}, not {a:g}"
    if not other.ledger.counts()["stored"]:
        return "it holds no frame"
    return ""
