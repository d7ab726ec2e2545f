"""Sweeps as a workflow opens them: what of them counts, and free names for what is made."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import OffbraggError, ReductionError
from offbragg.files.scan_file import ScanFile
from offbragg.reduction.corrections import frame_weights
from offbragg.reduction.hot_pixels import LEAST_TURN, Comparison, hot_pixels
from offbragg.workflows.choices import Array

Alike = dict[tuple[str, int, int], bool]

_BY_CHANCE = 30  # counts: frames with fewer may be the same by chance
_GLITCH = 32.0  # times the usual flux: from there on the documented rounding does not hold
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


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """What was found by comparing frames of a sweep, kept while it grows: few are read again.

    Parameters
    ----------
    hot
        The frames that were compared to find hot pixels.
    alike
        Whether frames hold the same pixels, by their checksum and both numbers.
    """

    hot: Comparison = field(default_factory=Comparison)
    alike: dict[tuple[str, int, int], bool] = field(
        default_factory=dict[tuple[str, int, int], bool]
    )


def select(
    scan: ScanFile,
    *,
    monitor: bool,
    hot: bool,
    damaged: Collection[int] = (),
    least_turn: float = LEAST_TURN,
    compared: Compared | None = None,
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
        What was found by comparing frames of this sweep before; it is added to.

    Raises
    ------
    ReductionError
        If the sweep has no monitor and the flux is not taken as constant.
    """
    values = scan.frame_values()
    compared = compared or Compared()
    repeated = repeats(scan, damaged, compared.alike)
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
                scan.stack,
                least_turn=least_turn,
                without=damaged,
                before=compared.hot,
                digests=digests,
            )
        )
    return Selection(flux, repeated, pixels)


def describe_glitch(name: str, chosen: Selection) -> str:
    """Return which frame has a flux by which the weights of others are rounded coarsely, if any."""
    there = chosen.flux[chosen.flux > 0]
    if not there.size or (times := float(there.max() / np.median(there))) <= _GLITCH:
        return ""
    return (
        f"WARNING: {name}: frame {np.argmax(chosen.flux)} has {times:.3g} times the flux of most "
        f"frames; the weights of the others are rounded to {times * 2.0**-26:.1g} of each\n"
        "Is its monitor right? If not: correct it, or exclude the frame (its weight is 0)."
    )


def temperature_of(start: Mapping[str, Any]) -> float | None:
    """Return the temperature of a run, K: the mean once it was settled, else the setpoint."""
    temperature: Mapping[str, Any] = start.get("temperature") or {}
    settled: Mapping[str, Any] = temperature.get("settled") or {}
    return settled.get("mean", temperature.get("setpoint"))


def repeats(
    scan: ScanFile,
    damaged: Collection[int] = (),
    alike: Alike | None = None,
) -> dict[int, int]:
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
    alike
        Which frames were found alike before (see `Compared`); only others are read.

    Returns
    -------
    repeats
        For each such frame, the first with these pixels.
    """
    values = scan.frame_values()
    by_digest: dict[tuple[str, str], list[int]] = {}
    for column in ("md5", "crc64"):
        for n in np.flatnonzero(values["status"] == "stored") if column in values else ():
            if digest := str(values[column][n]):
                by_digest.setdefault((column, digest), []).append(int(n))
    known = {} if alike is None else alike
    found: dict[int, int] = {}
    for (_, digest), (first, *others) in by_digest.items():
        if not others or all(n in found for n in others):
            continue
        intact = [n for n in (first, *others) if n not in damaged]
        new = [n for n in intact if n != first and (digest, intact[0], n) not in known]
        if new:
            for n, same in zip(new, _hold_the_same(scan, intact[0], new), strict=True):
                known[digest, intact[0], n] = same
        found |= {n: first for n in intact if n != first and known[digest, intact[0], n]}
    return found


def _hold_the_same(scan: ScanFile, first: int, others: Iterable[int]) -> Iterator[bool]:
    """Yield whether frames hold the pixels of the first, and enough that it is not by chance."""
    counts = scan.stack.counts
    pixels = np.asarray(counts[first])
    enough = pixels[pixels > 0].sum() >= _BY_CHANCE
    for n in others:
        yield bool(enough and np.array_equal(np.asarray(counts[n]), pixels))
