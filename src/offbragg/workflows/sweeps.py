"""Sweeps as a workflow opens them: what of them counts, and free names for what is made."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import OffbraggError, ReductionError
from offbragg.files.scan_file import ScanFile
from offbragg.reduction.corrections import frame_weights
from offbragg.reduction.hot_pixels import LEAST_TURN, Comparison, hot_pixels
from offbragg.workflows.choices import Array

_BY_CHANCE = 30  # counts: frames with fewer may be the same by chance
_SHOWN = 3  # contradictions in an error


def next_free(directory: Path, stem: str, suffix: str = ".h5") -> Path:
    """Return a path that is not taken: ``stem.h5``, ``stem_2.h5`` and so on."""
    path, number = directory / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = directory / f"{stem}_{number}{suffix}"
    return path


@contextmanager
def opened(path: Path) -> Generator[ScanFile]:
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


def header_contradictions(
    scan: ScanFile, *, despite: bool, error: type[OffbraggError] = ReductionError
) -> tuple[str, ...]:
    """Return in what headers of a sweep contradict its run so that scattering vectors differ.

    Parameters
    ----------
    scan
        The sweep.
    despite
        The run is right, and the headers are wrong.
    error
        Raised if there is a contradiction and ``despite`` is false: it has both numbers.
    """
    found = scan.header_findings.get("contradictions", [])
    if found and not despite:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise error(
            f"{scan.path}: headers and run contradict each other, and with one of them q is wrong: "
            f"{'; '.join(found[:_SHOWN])}{more}\n"
            "If the run is right and camserver had other settings: add --despite-headers. If the "
            "headers are right, stack the frames again: offbragg stack-files FOLDER --model FILE. "
            "offbragg verify lists all that differs."
        )
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """What of a sweep counts; found once by `select`, then reported and used.

    Parameters
    ----------
    flux
        On the crystal during each frame, shape (n_frames,); 0 for frames that do not count.
    repeats
        Frames that hold the pixels of an earlier one, and which; they do not count.
    hot
        Flat indices of the hot pixels, which do not count.
    """

    flux: Array
    repeats: Mapping[int, int]
    hot: NDArray[np.intp]

    @property
    def frames(self) -> int:
        """Number of frames that count."""
        return int(np.count_nonzero(self.flux > 0))

    def hot_mask(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the hot pixels as a mask of this shape, (slow, fast)."""
        mask = np.zeros(shape, np.bool_)
        mask.flat[self.hot] = True
        return mask


def select(
    scan: ScanFile,
    *,
    monitor: bool,
    hot: bool,
    damaged: Collection[int] = (),
    least_turn: float = LEAST_TURN,
    compared: Comparison | None = None,
) -> Selection:
    """Find which frames and pixels of a sweep count.

    Parameters
    ----------
    scan
        The sweep.
    monitor
        False: the flux was constant.
    hot
        Whether hot pixels are excluded.
    damaged
        Stored frames that do not have their checksum: they are not used for anything.
    least_turn
        As for `hot_pixels`, degree.
    compared
        The frames of this sweep that were compared when hot pixels were looked for before.

    Raises
    ------
    ReductionError
        If the sweep has no monitor and the flux is not taken as constant.
    """
    values = scan.frame_values()
    repeated = repeats(scan, damaged)
    flux = frame_weights(
        scan.n_frames,
        values.get("monitor"),
        exposure=scan.sweep.exposure,
        weight=values.get("weight"),
        transmission=values.get("transmission"),
        use_monitor=monitor,
        attenuation=float(scan.start.get("attenuation") or 1.0),
    )
    flux = np.where(values["status"] == "stored", flux, 0.0)
    flux[[*damaged, *repeated]] = 0.0
    pixels = np.zeros(0, np.intp)
    if hot:
        digests = [str(each) for each in values["crc64"]] if "crc64" in values else None
        pixels = np.flatnonzero(
            hot_pixels(
                scan.stack, least_turn=least_turn, without=damaged, before=compared, digests=digests
            )
        )
    return Selection(flux, repeated, pixels)


def temperature_of(start: Mapping[str, Any]) -> float | None:
    """Return the temperature of a run, K: the mean once it was settled, else the setpoint."""
    temperature: Mapping[str, Any] = start.get("temperature") or {}
    settled: Mapping[str, Any] = temperature.get("settled") or {}
    return settled.get("mean", temperature.get("setpoint"))


def repeats(scan: ScanFile, damaged: Collection[int] = ()) -> dict[int, int]:
    """Find frames that hold the pixels of an earlier one, under a number of their own.

    A detector that repeats itself sends what it counted at another angle. Two exposures never
    agree in every pixel, unless next to nothing was counted in them: so a frame that does was not
    measured at its angle, and must not count.

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
