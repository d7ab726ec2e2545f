"""From frames to S(Q): index, correct, bin, symmetrise; `Stack` in, `Volume` out."""

from __future__ import annotations

from offbragg.reduction.corrections import Corrections
from offbragg.reduction.reduce import ReductionSetup, reduce
from offbragg.reduction.symmetry import Laue, symmetrise

__all__ = ["Corrections", "Laue", "ReductionSetup", "reduce", "symmetrise"]
