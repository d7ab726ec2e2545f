"""What one can choose for a reduction."""

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
"""Where an orientation is from, if no file says it."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What one can choose; everything has a default that is written into the record.

    Parameters
    ----------
    grid
        The cells; None: all that the sweeps see, in cells of at least 0.01 Å⁻¹.
    step
        Of a grid that covers all, r.l.u.: one, or one each for h, k, l.
    symmetry
        A Laue class, ``auto`` for that of the sample's space group, or ``none``.
    background
        ``auto`` for the air run with the same detector position and attenuation that is nearest in
        time, the uid or the path of one, or ``none``.
    background_scale
        The background counts so much, e.g. for the crystal's transmission.
    orientation
        JSON file with ``UB`` and ``lattice``, perhaps ``geometry``; None: ``orientation.json``
        beside the scan file, else the start document's.
    monitor
        False: the flux was constant.
    corrections
        Which are made.
    oversample
        Into how many parts pixels and frames are divided.
    mask
        File with pixels that must not count, as `read_mask` takes it: what is not 0 there.
    invert_mask
        What is 0 there must not count, instead.
    mask_over_half
        Accept a mask that leaves out more than half of the pixels: the mask of a small region, and
        not one whose 0 and 1 are exchanged.
    hot
        Whether hot pixels are looked for.
    refuse_damaged
        Fail if a stored frame does not have its checksum, or the file has changed since it was
        closed; False: leave such frames out, with a warning.
    """

    grid: Grid | None = None
    step: float | Sequence[float] | None = None
    symmetry: str = "none"
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

    def __post_init__(self) -> None:
        if not (math.isfinite(self.background_scale) and self.background_scale > 0):
            raise ReductionError(
                f"background_scale is {self.background_scale:g}: it must be a number above 0, as "
                "0.8\nTo subtract nothing: background none."
            )
