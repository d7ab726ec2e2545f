"""An orientation for sweeps that have none: found in what is stored, and refused while not sure."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from offbragg.errors import OffbraggError, ReductionError
from offbragg.files.orientation import NAME
from offbragg.workflows.index import find_orientation
from offbragg.workflows.sweeps import opened

log = logging.getLogger(__name__)

_LEAST = 20.0  # degree of stored frames before the first attempt
_MORE = 1.4  # times as much before the next one: all attempts together cost a few times the last


class LiveOrientation:
    """Tries to index some sweeps, again as they grow."""

    def __init__(self) -> None:
        self._tried = 0.0  # degree
        self._why = ""

    def find(self, paths: Sequence[Path], *, complete: bool) -> None:
        """Write ``orientation.json`` beside the sweeps if they have no orientation.

        Parameters
        ----------
        paths
            Scan files of one mount.
        complete
            Whether there will be no more frames.

        Raises
        ------
        ReductionError
            If there is none yet: with the numbers of the last attempt.
        """
        if (paths[0].parent / NAME).exists():
            return
        turn, known = 0.0, True
        for path in paths:
            with opened(path) as scan:
                known &= scan.sample.UB is not None
                turn += scan.ledger.counts()["stored"] * abs(scan.sweep.step)
        if known:
            return
        if not (turn >= max(_LEAST, _MORE * self._tried) or (complete and turn > self._tried)):
            raise ReductionError(
                self._why or f"no orientation: {turn:.4g} of at least {_LEAST:g} degrees are stored"
            )
        self._tried = turn
        try:
            found = find_orientation(paths, picture=False)
        except OffbraggError as error:
            self._why = f"no orientation from {turn:.4g} degrees: {error}"
            raise ReductionError(self._why) from error
        numbers = found.orientation.residuals
        log.info(
            "orientation found in the first %.4g degrees: %d of %d peaks indexed; %s",
            turn, numbers["indexed"], numbers["peaks"], found.path,
        )  # fmt: skip
