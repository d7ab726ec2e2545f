"""Parameters of a reduction."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ReductionError
from offbragg.grid import Grid
from offbragg.reduction.binning import Oversample
from offbragg.reduction.corrections import Corrections

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]
Say = Callable[[str], None]

START = "start document"
"""Source of an orientation that is not from a file."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Parameters of a reduction; what is used, defaults too, is written into the record.

    Parameters
    ----------
    grid
        The cells; None: all that the sweeps reach, in cells of at least 0.01 Å⁻¹.
    step
        Size of the cells of a grid that covers all, r.l.u.: one number, or one each for h, k, l.
    symmetry
        A Laue class, ``auto`` for that of the sample's space group, or ``none``.
    fold
        With a symmetry: keep the sums of the part of the box that it does not repeat, instead of
        those of all cells. It takes less memory, and the volume is the same.
    background
        ``auto`` for the air run with the same detector position and attenuation that is nearest in
        time, the uid or the path of one, or ``none``.
    background_scale
        Factor applied to the background (> 0), e.g. for the crystal's transmission.
    orientation
        JSON file with ``UB`` and ``lattice``, perhaps ``geometry``; None: ``orientation.json``
        beside the scan file, else the start document's.
    monitor
        Normalise to the monitor; False: the flux was constant.
    corrections
        Which corrections are applied.
    oversample
        Into how many parts pixels and frames are divided.
    mask
        File of masked pixels, as `read_mask` takes it: those that are not 0.
    invert_mask
        Mask the pixels that are 0 instead.
    mask_over_half
        Accept a mask that excludes more than half of the pixels: one that keeps a small region, not
        one of reversed polarity.
    hot
        Whether hot pixels are found and excluded.
    refuse_damaged
        Fail if a stored frame does not have its checksum, or the file has changed since it was
        closed; False: exclude such frames, with a warning.
    despite_headers
        Reduce also what the headers of frames contradict in what changes scattering vectors: the
        run is right, with a warning.
    """

    grid: Grid | None = None
    step: float | Sequence[float] | None = None
    symmetry: str = "none"
    fold: bool = False
    background: str = "auto"
    background_scale: float = 1.0
    orientation: Path | str | None = None
    monitor: bool = True
    corrections: Corrections = field(default_factory=Corrections)
    oversample: Oversample = field(default_factory=Oversample)
    mask: Path | str | None = None
    invert_mask: bool = False
    mask_over_half: bool = False
    hot: bool = True
    refuse_damaged: bool = False
    despite_headers: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.background_scale) and self.background_scale > 0):
            raise ReductionError(
                f"background_scale is {self.background_scale:g}: it must be a number above 0, as "
                "0.8\nTo subtract nothing: background none."
            )
