"""An orientation for sweeps that have none: that of an earlier sweep of the mount, or found live.

What is found in the stored frames is refused while it is not certain.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from offbragg.errors import OffbraggError, ReductionError
from offbragg.files.orientation import (
    NAME,
    newest_orientation,
    read_orientation,
    write_orientation,
)
from offbragg.workflows.index import find_orientation
from offbragg.workflows.orientation import check_same_lattice, why_not_refined
from offbragg.workflows.sweeps import opened

log = logging.getLogger(__name__)

_LEAST = 20.0  # degree of stored frames before the first attempt
_EXPERIMENT = 3  # which of the parents of <experiment>/<sample>/<label>/<scan>/f1.h5
_MORE = 1.4  # times as much before the next one: all attempts together cost a few times the last


class LiveOrientation:
    """Takes the orientation of an earlier sweep, else tries to index, again as the sweeps grow."""

    def __init__(self) -> None:
        self._tried = 0.0  # degree
        self._why = self._refused = ""

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
        if known or self._take_earlier(paths[0]):
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

    def _take_earlier(self, path: Path) -> bool:
        """Copy the newest orientation of this mount beside a sweep; return whether there is one.

        Of another place of the detector, its refined panel is left out.
        """
        with opened(path) as scan:
            sample, own = scan.sample, scan.geometry
        earlier = newest_orientation(path.parents[_EXPERIMENT], sample.name, sample.label)
        if earlier is None:
            return False
        try:
            found = read_orientation(earlier)
            check_same_lattice(path, sample, found, str(earlier), log.warning)
        except OffbraggError as error:
            why = f"{earlier} is not taken: {str(error).partition(chr(10))[0]}"
            if why != self._refused:
                log.warning("%s: %s", path, why)
            self._refused = why
            return False
        geometry, panel = found.geometry, ""
        if geometry is not None and (why := why_not_refined(own, geometry)):
            geometry, panel = None, f", without its panel: {why}"
        source = {**found.source, "copied_from": str(earlier)}
        write_orientation(path.parent / NAME, replace(found, source=source, geometry=geometry))
        log.info(
            "%s: orientation of an earlier sweep of this mount: %s%s; for another one replace %s",
            path.name, earlier, panel, path.parent / NAME,
        )  # fmt: skip
        return True
