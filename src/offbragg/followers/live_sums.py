"""The sums of a volume that follow a record: what differs is added, or taken away exactly.

A record says which frames count, with which flux, and which pixels. While sweeps grow it changes
from moment to moment; at their end it is the one that ``offbragg reduce`` builds. Sums are whole
numbers, so those that followed it all the way are those that are made from the last record alone,
to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ReductionError
from offbragg.files.scan_file import ScanFile
from offbragg.reduction.accumulator import Accumulator
from offbragg.reduction.binning import Binner
from offbragg.reduction.reduce import ReductionSetup, add_frames
from offbragg.stack import Stack
from offbragg.workflows.record import ReductionRecord, SweepInput
from offbragg.workflows.sums import sweep_setup
from offbragg.workflows.sweeps import opened

Array = NDArray[np.float64]
Pixels = NDArray[np.bool_]
OneMore = Callable[[], None]

_FEW = 4  # pixels that are read faster one by one, each out of its block, than whole frames
_SAME = {
    "binned": "the grid",
    "fold": "the fold",
    "weight_exponent": "the unit of the weights",
    "background_exponents": "the unit of the background",
    "background_scale": "the scale of the background",
    "corrections": "the corrections",
    "oversample": "the oversampling",
    "mask": "the mask",
}


@dataclass(slots=True)
class Change:
    """What was done to sums so that they follow a record."""

    again: str = ""
    """Why they were summed from the first frame on; empty if they were not."""
    added: int = 0
    subtracted: int = 0
    pixels: int = 0
    """Hot pixels that were taken out of frames added before, or put back."""
    left: int = 0
    """Frames that are still to be added."""

    def __bool__(self) -> bool:
        return bool(self.again or self.added or self.subtracted or self.pixels)

    def __str__(self) -> str:
        parts = [f"{self.added} frame{'' if self.added == 1 else 's'} added"]
        if self.subtracted:
            parts.append(f"{self.subtracted} subtracted")
        if self.pixels:
            parts.append(f"hot pixels corrected in frames added before: {self.pixels}")
        if self.again:
            parts.append(f"summed from the first frame on: {self.again} changed")
        return ", ".join(parts)


@dataclass(slots=True, eq=False)
class _Binned:
    """What of a sweep is in the sums."""

    each: SweepInput
    setup: ReductionSetup
    binner: Binner
    flux: Array
    """Of each frame, as it was added; 0 for those that were not."""
    angles: Array
    crc64: NDArray[Any]
    mask: Pixels
    """Pixels that are excluded, but for the hot ones."""
    hot: Pixels
    factor: NDArray[np.float32]
    """Weight of each pixel for a flux of one, of those that are hot, too."""

    def mask_hot(self, hot: Pixels) -> None:
        """Exclude these hot pixels, and no others, from the frames that are added next."""
        self.hot = hot
        self.setup = replace(self.setup, mask=self.mask | hot)
        self.binner.factor = np.where(hot, np.float32(0), self.factor)


class LiveSums:
    """Sums that `follow` brings to a record.

    Parameters
    ----------
    threads
        The result does not depend on their number.
    """

    def __init__(self, *, threads: int | None = None) -> None:
        self.sums: Accumulator | None = None
        self._record: ReductionRecord | None = None
        self._binned: dict[str, _Binned] = {}
        self._threads = threads

    @property
    def frames(self) -> int:
        """Number of frames in the sums."""
        return sum(int(np.count_nonzero(each.flux)) for each in self._binned.values())

    def frames_of(self, run: str) -> int:
        """Return how many frames of a run are in the sums."""
        known = self._binned.get(run)
        return 0 if known is None else int(np.count_nonzero(known.flux))

    def drop(self) -> None:
        """Free their memory; they are summed again when a record is followed."""
        self.sums, self._record = None, None
        self._binned.clear()

    def follow(
        self, record: ReductionRecord, *, most: int | None = None, one_more: OneMore = lambda: None
    ) -> Change:
        """Bring the sums to a record.

        Parameters
        ----------
        record
            With absolute paths, and the selection of each sweep.
        most
            Number of frames to add in this call; None: all.
        one_more
            Called after each frame; what it raises ends the work.

        Raises
        ------
        DamagedFrame
            If a frame that counts is not what was stored; the sums are empty then.
        """
        change = Change()
        try:
            if why := self._why_again(record):
                change.again = why if self._record is not None else ""
                self.drop()
            self._record = record
            for each in record.inputs:
                with opened(Path(each.file)) as scan:
                    self._follow_sweep(each, record, scan, change, most, one_more)
        except BaseException:  # also DamagedFrame: part of what was asked for is in the sums
            self.drop()
            raise
        if self.sums is not None:
            self.sums.sample = record.sample
            if change.subtracted or change.pixels:
                self.sums.forget_empty()
        return change

    def _why_again(self, record: ReductionRecord) -> str:
        """Return what of a record needs other sums from the first frame on; empty if nothing."""
        before = self._record
        if before is None or self.sums is None:
            return "all"
        for name, what in _SAME.items():
            if getattr(before, name) != getattr(record, name):
                return what
        if record.fold and before.symmetry != record.symmetry:
            return "the symmetry"
        if self._binned.keys() - {each.run for each in record.inputs}:
            return "the sweeps"
        for each in record.inputs:
            if (known := self._binned.get(each.run)) is None:
                continue
            name = Path(each.file).name
            if not np.array_equal(known.each.UB, each.UB):
                return f"the orientation of {name}"
            if known.each.geometry != each.geometry:
                return f"the geometry of {name}"
            if known.each.background != each.background:
                return f"the background of {name}"
            assert each.selection is not None
            hot = each.selection.hot_mask(known.hot.shape)
            # what the air adds is rounded in parts of the highest rate of a pixel that counts
            if each.background is not None and not np.array_equal(known.hot, hot):
                return f"the hot pixels of {name}, which has a background,"
            with opened(Path(each.file)) as scan:
                if not np.array_equal(_fixed_mask(each, record, scan), known.mask):
                    return f"the pixels of {name} that count"
                values, there = scan.frame_values(), known.flux > 0
            if np.any(values["status"][there] != "stored") or np.any(
                _crc64(values)[there] != known.crc64[there]
            ):
                return f"the stored frames of {name}"
        return ""

    def _follow_sweep(
        self,
        each: SweepInput,
        record: ReductionRecord,
        scan: ScanFile,
        change: Change,
        most: int | None,
        one_more: OneMore,
    ) -> None:
        assert each.selection is not None
        assert record.weight_exponent is not None
        known = self._binned.get(each.run)
        if known is None:
            setup, mask = sweep_setup(each, record, scan), _fixed_mask(each, record, scan)
            hot = each.selection.hot_mask(scan.shape)
            setup = replace(
                setup, threads=self._threads, mask=mask if each.background is None else mask | hot
            )  # fmt: skip
            known = self._binned[each.run] = _Binned(
                each, setup, binner := setup.binner(), np.zeros(scan.n_frames),
                np.zeros(scan.n_frames), np.full(scan.n_frames, "", object), mask,
                np.zeros(scan.shape, np.bool_), binner.factor,
            )  # fmt: skip
            known.mask_hot(hot)
        if self.sums is None:
            self.sums = known.setup.accumulator(
                record.weight_exponent, background=record.background_exponents
            )
        stack, values = scan.stack, scan.frame_values()
        flux, angles = np.zeros(scan.n_frames), np.zeros(scan.n_frames)
        flux[: len(stack)] = each.selection.flux[: len(stack)]
        measured = values["angle"][: len(stack)]
        angles[: len(stack)] = np.where(np.isfinite(measured), measured, stack.angles)
        wrong = (known.flux > 0) & ((known.flux != flux) | (known.angles != angles))
        if np.any(wrong):
            change.subtracted += self._change(known, stack, wrong, one_more, subtract=True)
        self._follow_hot(known, each.selection.hot_mask(scan.shape), stack, change, one_more)
        new = np.flatnonzero((flux > 0) & (known.flux == 0))
        room = new.size if most is None else max(most - change.added, 0)
        change.left += max(new.size - room, 0)
        new = new[:room]
        known.angles[new], known.crc64[new] = angles[new], _crc64(values)[new]
        change.added += self._change(known, stack, new, one_more, flux=flux)

    def _change(
        self,
        known: _Binned,
        stack: Stack,
        which: NDArray[Any],
        one_more: OneMore,
        *,
        flux: Array | None = None,
        subtract: bool = False,
    ) -> int:
        """Add frames with this flux, or subtract them with the flux that they were added with."""
        wanted = np.zeros(known.flux.size)
        wanted[which] = (known.flux if flux is None else flux)[which]
        numbers = np.flatnonzero(wanted)

        def done(count: int, _: int) -> None:
            number = numbers[count - 1]
            known.flux[number] = 0.0 if subtract else wanted[number]
            one_more()

        assert self.sums is not None
        n = len(stack)
        add_frames(
            stack, known.setup, wanted[:n], self.sums, angles=known.angles[:n],
            binner=known.binner, subtract=subtract, progress=done,
        )  # fmt: skip
        return numbers.size

    def _follow_hot(
        self, known: _Binned, hot: Pixels, stack: Stack, change: Change, one_more: OneMore
    ) -> None:
        """Take pixels out of the frames that were added, or put them back, and only these."""
        assert self.sums is not None
        if np.array_equal(known.hot, hot):
            return
        n = len(stack)
        for changed, subtract in ((hot & ~known.hot, True), (known.hot & ~hot, False)):
            pixels = np.argwhere(changed & ~known.mask)
            if pixels.size and np.any(known.flux):
                few = replace(stack, counts=_Few(stack.counts, pixels))  # type: ignore[arg-type]
                add_frames(
                    few if len(pixels) <= _FEW else stack, known.setup, known.flux[:n], self.sums,
                    angles=known.angles[:n], binner=known.binner.of_pixels(pixels, known.factor),
                    subtract=subtract, progress=lambda done, total: one_more(),
                )  # fmt: skip
                change.pixels += len(pixels)
        known.mask_hot(hot)


class _Few:
    """Frames of which only some pixels are read; the others are whatever is in the buffer."""

    def __init__(self, counts: Any, pixels: NDArray[np.intp]) -> None:
        self.shape: tuple[int, ...] = counts.shape
        self._counts, self._pixels = counts, pixels.tolist()

    def __getitem__(self, number: int) -> NDArray[np.int32]:
        return self.read_into(number, np.full(self.shape[1:], -1, np.int32))

    def read_into(self, number: int, out: NDArray[np.int32]) -> NDArray[np.int32]:
        """Read the pixels of a frame into a buffer of its shape."""
        for row, column in self._pixels:
            out[row, column] = self._counts[number, row, column]
        return out


def _fixed_mask(each: SweepInput, record: ReductionRecord, scan: ScanFile) -> Pixels:
    """Return the pixels that are excluded, but for the hot ones."""
    assert each.selection is not None
    selection = replace(each.selection, hot=np.zeros(0, np.intp))
    mask = sweep_setup(replace(each, selection=selection), record, scan).mask
    if mask is None:  # pragma: no cover  a scan file always has one
        raise ReductionError(f"{scan.path} has no mask")
    return mask


def _crc64(values: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """Return the checksum of each stored frame; empty in files of earlier versions."""
    found = values.get("crc64")
    return np.full(values["status"].size, "", object) if found is None else found.astype(object)
