"""The order parameter of a series, from the volumes that the catalog has, also while they grow."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from offbragg.catalog.background import background_threads
from offbragg.catalog.containers import GROWING
from offbragg.catalog.kept import Kept
from offbragg.catalog.opened_runs import check_volume_seen
from offbragg.catalog.parameters import decimal
from offbragg.catalog.readable import Readable
from offbragg.catalog.sent import OpenFile, Refusal
from offbragg.catalog.volume_files import opened_volume
from offbragg.errors import CatalogError, OffbraggError, ReductionError
from offbragg.printable import printable
from offbragg.reduction.order_parameter import (
    Fit,
    Transition,
    box_around,
    fit_peak,
    fit_transition,
    peak_shape,
)
from offbragg.volume import Volume

Point = tuple[float, float, float]

_REACH = 0.2  # r.l.u., of the box around the point
_FURTHEST = 100.0  # r.l.u., of a point
_MOST_RUNNING = 20  # answers that are being made, or wait for it; one takes seconds
_KEPT, _BOXES, _FITS = 2_000_000, 500, 5000  # bytes of answers, boxes of volumes, fits


class SeriesOrder:
    """Follows a point of reciprocal space through the volumes of a series.

    Parameters
    ----------
    tree
        The root of Tiled's catalog, to ask who sees the runs of a volume.
    readable
        Where files may be read.
    """

    def __init__(self, tree: Any, readable: Readable) -> None:
        self._tree = tree
        self._readable = readable
        self._pool = background_threads("order")
        self._kept = Kept(_KEPT)
        self._boxes: OrderedDict[Any, Volume] = OrderedDict()
        self._fits: OrderedDict[Any, Any] = OrderedDict()
        self._running = 0

    async def find(
        self, board: Mapping[str, Any], volumes: Mapping[str, Path], at: Point, sample: str
    ) -> dict[str, Any]:
        """Return the points, and the law if one fits.

        Parameters
        ----------
        board
            Of the series, with the volume of each cell.
        volumes
            Where each volume is, by its key.
        at
            h, k, l.
        sample
            Crystal whose law is fitted; empty for the one with most points.
        """
        cells = [cell for cell in board["cells"] if cell["volume"] in volumes]
        if sample and sample not in board["samples"]:
            there = ", ".join(board["samples"])
            raise Refusal(400, f"sample is {printable(sample)}: it must be one of {there}.")
        if self._running >= _MOST_RUNNING:
            why = f"{_MOST_RUNNING} order parameters are being fitted or wait. Ask again later."
            raise Refusal(429, why, **{"retry-after": "5"})
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()

        def is_seen(file: OpenFile) -> bool:
            asked = check_volume_seen(self._tree, file)
            try:
                asyncio.run_coroutine_threadsafe(asked, loop).result()
            except (Refusal, CatalogError):
                return False
            return True

        made = loop.run_in_executor(
            self._pool,
            lambda: context.run(self._answer, cells, volumes, is_seen, at, sample),
        )
        self._running += 1
        made.add_done_callback(self._ended)  # also if the client has gone and it goes on
        return json.loads(await asyncio.shield(made))

    def _ended(self, made: asyncio.Future[bytes]) -> None:
        self._running -= 1
        if not made.cancelled():
            made.exception()  # seen, if nobody waits for it any more

    def _answer(
        self,
        cells: Sequence[Mapping[str, Any]],
        volumes: Mapping[str, Path],
        is_seen: Callable[[OpenFile], bool],
        at: Point,
        sample: str,
    ) -> bytes:
        with ExitStack() as stack:
            opened: list[tuple[Mapping[str, Any], OpenFile]] = []
            for cell in cells:
                try:
                    file = OpenFile.below(self._readable, volumes[cell["volume"]])
                    held = stack.enter_context(file)
                except (Refusal, CatalogError):
                    continue  # it is gone, or a growing one is just being replaced
                if is_seen(held):
                    opened.append((cell, held))
            what = tuple((cell["temperature"], *file.identity) for cell, file in opened)
            return self._kept.get((at, sample, what), lambda: self._made(opened, at, sample))

    def _made(
        self, opened: Sequence[tuple[Mapping[str, Any], OpenFile]], at: Point, sample: str
    ) -> bytes:
        found: dict[str, list[tuple[float, Volume, Mapping[str, Any], Any]]] = {}
        why: list[str] = []
        for cell, file in opened:
            kelvin = float(cell["temperature"])
            try:
                box = self._box(file, at)
                box_around(box, at)
            except OffbraggError as error:
                why.append(f"at {kelvin:g} K: {_first(error)}")
                continue
            found.setdefault(cell["sample"], []).append((kelvin, box, cell, file.identity))
        chosen = sample or max(found, key=lambda name: len(found[name]), default="")
        points: list[dict[str, Any]] = []
        law = None
        for name, boxes in found.items():
            boxes.sort(key=lambda each: each[0])
            _, lowest, _, first = boxes[0]
            fits: list[Fit] = []
            try:
                shape = self._remembered((first, at), functools.partial(peak_shape, lowest, at))
                for kelvin, box, _, identity in boxes:
                    fit = functools.partial(fit_peak, kelvin, box, at, shape)
                    fits.append(self._remembered((first, identity, kelvin, at), fit))
            except ReductionError as error:
                why.append(f"{name}: {_first(error)}")
                continue
            points += [
                _point(fit, name, cell) for fit, (_, _, cell, _) in zip(fits, boxes, strict=True)
            ]
            if name == chosen and lowest.sample is not None and lowest.sample.lattice is not None:
                try:
                    law = _law(fit_transition(fits, at, shape, lowest.sample.lattice))
                except ReductionError as error:
                    why.append(_first(error))
        answer = {
            "at": list(at), "sample": chosen, "points": points, "law": law,
            "why": "; ".join(dict.fromkeys(why)),
        }  # fmt: skip
        return json.dumps(answer).encode()

    def _remembered(self, which: Any, fit: Callable[[], Any]) -> Any:
        """Return what was found of the same volumes before, or find it."""
        if (kept := self._fits.get(which)) is None:  # other threads may remove it meanwhile
            kept = self._fits[which] = fit()
            while len(self._fits) > _FITS:
                self._fits.popitem(last=False)
        return kept

    def _box(self, file: OpenFile, at: Point) -> Volume:
        """Return the cells of a volume around a point."""
        which = file.identity, at
        if (kept := self._boxes.get(which)) is None:
            with opened_volume(file) as volume:
                part = volume.grid.around(at, _REACH)
                if any(cells.stop <= cells.start for cells in part):
                    raise ReductionError(f"{at} does not lie in the volume")
                kept = volume.part(part)
            file.check_unchanged()
            self._boxes[which] = kept
            while len(self._boxes) > _BOXES:
                self._boxes.popitem(last=False)
        return kept


def point_of(text: str) -> Point:
    """Read the point that is asked for."""
    try:
        h, k, l = (decimal(x) for x in text.split(","))  # noqa: E741
    except ValueError:
        h = k = l = math.nan  # noqa: E741
    if not all(abs(x) < _FURTHEST for x in (h, k, l)):  # nor NaN
        raise Refusal(400, f"at is {printable(text)}: it must be a point, r.l.u., as 0.5,0.5,0.5.")
    return h, k, l


def _point(fit: Fit, sample: str, cell: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "temperature": fit.temperature, "intensity": _finite(fit.peak),
        "sigma": _finite(fit.peak_error), "critical": _finite(fit.critical),
        "kappa": _finite(fit.kappa), "volume": cell["volume"], "sample": sample,
        "growing": cell["volume_state"] == GROWING,
    }  # fmt: skip


def _law(found: Transition) -> dict[str, float | None]:
    names = ("Tc", "Tc_error", "beta", "beta_error", "scale", "chi2")
    return {name: _finite(getattr(found, name)) for name in names}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _first(error: Exception) -> str:
    return printable(str(error).partition("\n")[0])
