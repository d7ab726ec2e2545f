"""Sweeps as a workflow opens them: repeated frames, flux, free names."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from offbragg.errors import ReductionError
from offbragg.files.scan_file import ScanFile
from offbragg.reduction.corrections import frame_weights
from offbragg.workflows.choices import Array

_BY_CHANCE = 30  # counts: frames with fewer may be the same by chance


def next_free(directory: Path, stem: str, suffix: str = ".h5") -> Path:
    """Find a name that is not taken: ``stem.h5``, ``stem_2.h5`` and so on."""
    path, number = directory / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = directory / f"{stem}_{number}{suffix}"
    return path


@contextmanager
def opened(path: Path) -> Iterator[ScanFile]:
    """Open the scan file of a sweep, or refuse what is not one, in words."""
    if not path.exists():
        raise ReductionError(f"{path} is not there")
    if path.is_dir():
        raise ReductionError(f"{path} is a folder\nGive a scan file, as {path / 'f1.h5'}.")
    try:
        scan = ScanFile.open(path)
    except OSError as error:
        raise ReductionError(f"{path} cannot be opened: {error.strerror or error}") from error
    with scan:
        yield scan


def repeats(scan: ScanFile, damaged: Collection[int] = ()) -> dict[int, int]:
    """Find frames that hold the pixels of an earlier one, under a number of their own.

    A detector that repeats itself gives what it counted at another angle. Two exposures never
    agree in every pixel, unless next to nothing was counted in them: so one that does is no
    measurement at its angle, and must not count.

    Parameters
    ----------
    scan
        The sweep.
    damaged
        Frames that cannot be compared; what has the checksum of one of them repeats it.

    Returns
    -------
    repeats
        For each such frame, the first with these pixels.
    """
    values = scan.frame_values()
    alike: dict[tuple[str, str], list[int]] = {}
    for column in ("md5", "crc64"):
        for n in np.flatnonzero(values["status"] == "stored") if column in values else ():
            if digest := str(values[column][n]):
                alike.setdefault((column, digest), []).append(int(n))
    found: dict[int, int] = {}
    counts = scan.stack.counts
    for first, *others in alike.values():
        if not others or all(n in found for n in others):
            continue
        intact = [n for n in (first, *others) if n not in damaged]
        pixels = np.asarray(counts[intact[0]]) if intact else np.zeros(0, np.int32)
        if pixels[pixels > 0].sum() < _BY_CHANCE:
            continue
        for n in intact:
            if n != first and np.array_equal(np.asarray(counts[n]), pixels):
                found[n] = first
    return found


def flux_of(scan: ScanFile, use_monitor: bool, damaged: Collection[int] = ()) -> Array:
    """Return the flux of each frame, shape (n_frames,); 0 for frames that do not count."""
    values = scan.frame_values()
    flux = frame_weights(
        scan.n_frames,
        values.get("monitor"),
        exposure=scan.sweep.exposure,
        weight=values.get("weight"),
        transmission=values.get("transmission"),
        use_monitor=use_monitor,
        attenuation=float(scan.start.get("attenuation") or 1.0),
    )
    flux = np.where(values["status"] == "stored", flux, 0.0)
    flux[[*damaged, *repeats(scan, damaged)]] = 0.0
    return flux
