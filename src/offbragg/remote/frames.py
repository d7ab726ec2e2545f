"""The frames of a run: NumPy's indexing, of which only the answer is sent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import CatalogError
from offbragg.ledger import FrameStatus
from offbragg.remote.indexing import Along, arranged, asked_along
from offbragg.remote.link import Link
from offbragg.remote.sent_ledger import SentLedger

_MOST_BYTES = 100_000_000  # that one question asks for; more is asked for in parts
_MOST_TOGETHER, _MOST_KEYS = 1_000_000, 8  # bytes; different parts of the same frames
_HEADER, _HEADERS = "x-offbragg-frame", "x-offbragg-frames"


class NoFrameYet(CatalogError, IndexError):  # noqa: N818  a state of the run
    """The run is open, and none of its frames has been stored yet."""


class Frames:
    """The frames of a run, int32, shape (frame, slow, fast); nothing is read before it is indexed.

    Negative values are no counts: −1 is a gap between modules or a frame that is not stored, −2 a
    dead pixel. While the run is measured the number of frames grows: those are counted that are
    decided, from the first on without a hole.

    Parameters
    ----------
    link
        To the server.
    uid
        Of the run.
    ledger
        Returns the ledger as it is now.
    """

    dtype = np.dtype(np.int32)
    ndim = 3

    def __init__(self, link: Link, uid: str, ledger: Callable[[], SentLedger]) -> None:
        self._link = link
        self._uid = uid
        self._ledger = ledger
        self._panel: tuple[int, int] | None = None
        self._count = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames that there are now, rows, columns."""
        ledger = self._ledger()
        self._count, self._panel = ledger.settled(), ledger.panel
        return (self._count, *self._panel)

    @property
    def sums(self) -> RegionSums:
        """Counts of a region, frame by frame, as ``run.frames.sums[0:500, 90:110, 200:220]``."""
        return RegionSums(self)

    @property
    def last(self) -> Frame:
        """The newest frame that is stored.

        Raises
        ------
        NoFrameYet
            If there is none.
        """
        ledger = self._ledger()
        stored = [n for n, each in enumerate(ledger.statuses) if each == FrameStatus.STORED]
        if not stored:
            raise self._none_yet(ledger)
        return self.frame(stored[-1], ledger)

    def frame(self, index: int, ledger: SentLedger | None = None) -> Frame:
        """Return one frame, of which nothing has been read yet."""
        ledger = ledger or self._ledger()
        return Frame(
            self, index, str(ledger.statuses[index]), ledger.reasons[index],
            float(ledger.first + ledger.step * index),
        )  # fmt: skip

    def picture(self, index: int, **parameters: Any) -> bytes:
        """Return a frame as PNG.

        Parameters
        ----------
        index
            Of the frame; negative from the last one back.
        parameters
            ``low``, ``high``: counts at the ends of the colours; ``scale``: ``log`` or ``linear``;
            ``palette``; ``size``: longest edge, pixels.
        """
        path = f"/runs/{self._uid}/frames/{self._place(index)}"
        return self._link.get(path, format="png", **parameters).content

    def header(self, index: int) -> dict[str, Any]:
        """Return angle, time, status and beam centre of a frame, as the server knows them."""
        path = f"/runs/{self._uid}/frames/{self._place(index)}"
        answer = self._link.get(path, format="png", size=16)
        return json.loads(answer.headers.get(_HEADER, "{}"))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        n, slow, fast = self.shape
        return f"<Frames of run {self._uid[:8]}: {n} × {slow} × {fast}, int32>"

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        for index in range(len(self)):
            yield self[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        values = self[:]
        return values if dtype is None else values.astype(dtype)

    def __getitem__(self, key: Any) -> NDArray[np.int32]:
        return self._values(self._asked(key))

    def between(self, first: int, stop: int, keys: tuple[Any, ...]) -> NDArray[np.int32]:
        """Return ``keys`` of frames first to before stop, also where one before is pending."""
        panel = self._panel or self.shape[1:]
        return self._values(asked_along((slice(first, stop), *keys), (stop, *panel)))

    def bytes_of(self, keys: tuple[Any, ...]) -> int:
        """Return how large a part of one frame is."""
        panel = self._panel or self.shape[1:]
        return 4 * math.prod(each.count for each in asked_along((0, *keys), (1, *panel)))

    def _values(self, asked: tuple[Along, ...]) -> NDArray[np.int32]:
        whole = tuple(each.count for each in asked)
        if 0 in whole:
            return arranged(np.empty(whole, np.int32), asked)
        frames, rows, columns = asked
        at_once = max(_MOST_BYTES // (4 * math.prod(whole[1:])), 1)
        parts = list(_parts(frames, at_once))
        values = np.concatenate([self._read(part, rows, columns) for part in parts])
        return arranged(values, asked)

    def _read(self, frames: Along, rows: Along, columns: Along) -> NDArray[np.int32]:
        answer = self._link.get(
            f"/runs/{self._uid}/frames", index=str(frames), roi=f"{rows},{columns}", format="bytes",
            timeout=120.0,
        )  # fmt: skip
        expected = (frames.count, rows.count, columns.count)
        try:
            width = int(json.loads(answer.headers[_HEADERS])["width"])
            return joined(answer.content, width).reshape(expected)
        except (KeyError, ValueError):
            raise CatalogError(
                f"frames {frames} of run {self._uid[:8]}: {math.prod(expected)} counts were asked "
                f"for, {len(answer.content)} bytes came\nThe server is of another version: restart "
                "offbragg serve."
            ) from None

    def _asked(self, key: Any) -> tuple[Along, ...]:
        """Read a key; the ledger is asked only where the frames known so far do not answer it."""
        if self._panel is not None and self._count and _is_within(key, self._count):
            return asked_along(key, (self._count, *self._panel))
        shape = self.shape
        if not shape[0] and not isinstance(_first(key), slice | type(Ellipsis)):
            raise self._none_yet(self._ledger())
        return asked_along(key, shape)

    def _place(self, index: int) -> int:
        """Return the index of a frame from the first one on; what it is the server knows."""
        return index if index >= 0 else self._asked((index,))[0].first

    def _none_yet(self, ledger: SentLedger) -> NoFrameYet:
        if ledger.complete:
            reasons = next((reason for reason in ledger.reasons if reason), "")
            return NoFrameYet(
                f"run {self._uid[:8]} has no frame: none of {ledger.n_frames} was stored\n{reasons}"
            )
        return NoFrameYet(
            f"no frame yet: run {self._uid[:8]} is open, and none of its {ledger.n_frames} frames "
            "has been stored\nAsk again in a moment, or iterate over run.follow(), which waits."
        )

    def _sums(self, key: Any) -> Sums:
        frames, rows, columns = self._asked(key)
        answer = self._link.json(
            f"/runs/{self._uid}/frames", index=str(frames), roi=f"{rows},{columns}", format="sum",
            timeout=120.0,
        )  # fmt: skip
        back = slice(None, None, -1 if frames.backwards else 1)
        counts, angle = (
            np.array([np.nan if x is None else x for x in answer[name]], np.float64)[back]
            for name in ("counts", "angle")
        )
        index = np.array(answer["index"], np.int64)[back]
        return Sums(index, angle, counts, answer.get("pixels"), self._uid)


class RegionSums:
    """Counts of a region in each frame, summed by the server: indexed like the frames."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames

    def __getitem__(self, key: Any) -> Sums:
        return self._frames._sums(key)


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Counts of a region, one number a frame; pixels that do not count are left out.

    Parameters
    ----------
    index
        Of the frames.
    angle
        Midpoint of each frame, degree.
    counts
        NaN for a frame that is not stored.
    pixels
        Number of pixels in the region that count.
    run
        Uid.
    """

    index: NDArray[np.int64]
    angle: NDArray[np.float64]
    counts: NDArray[np.float64]
    pixels: int | None = None
    run: str = ""

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"<Sums of {self.pixels} pixels in {len(self)} frames of run {self.run[:8]}>"

    def plot(self) -> Any:
        """Draw the counts against the angle, as a figure of matplotlib."""
        from offbragg.plots.figure import new_figure

        figure = new_figure(6.5, 3.5)
        panel: Any = figure.add_subplot()
        panel.errorbar(
            self.angle, self.counts, np.sqrt(np.maximum(self.counts, 1.0)), fmt=".-", lw=0.8,
            elinewidth=0.6, ecolor="0.6",
        )  # fmt: skip
        panel.set(xlabel="angle (degree)", ylabel="counts in the region")
        panel.set_title(f"run {self.run[:8]}", fontsize=10)
        return figure

    def _repr_png_(self) -> bytes | None:
        """Return the curve; None where matplotlib is not installed."""
        try:
            return self.plot()._repr_png_()
        except ImportError:
            return None


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One frame of a run; its counts are read when it is indexed, as ``frame[90:110, 200:220]``.

    Parameters
    ----------
    index
        From 0 on.
    status
        ``stored``, ``missing``, ``rejected`` or ``pending``.
    reason
        Why it is missing or rejected.
    angle
        As commanded, degree.
    run
        The run that it belongs to, where it came from `follow`.
    """

    _frames: Frames | FramesTogether = field(repr=False)
    index: int
    status: str
    reason: str
    angle: float
    run: Any = field(default=None, repr=False)

    @property
    def is_stored(self) -> bool:
        """Whether it has counts."""
        return self.status == FrameStatus.STORED

    @property
    def counts(self) -> NDArray[np.int32]:
        """All of it, shape (slow, fast)."""
        return self[...]

    def __getitem__(self, key: Any) -> NDArray[np.int32]:
        keys = key if isinstance(key, tuple) else (key,)
        return self._frames.between(self.index, self.index + 1, keys)[0]

    def sum(self, rows: slice = slice(None), columns: slice = slice(None)) -> float:
        """Return the counts of a region, without pixels that do not count; NaN if not stored."""
        if not self.is_stored:
            return math.nan
        return float(np.maximum(self[rows, columns], 0).sum(dtype=np.int64))

    def picture(self, **parameters: Any) -> bytes:
        """Return it as PNG; parameters as of `Frames.picture`."""
        return self._frames.picture(self.index, **parameters)

    def _repr_png_(self) -> bytes | None:
        return self.picture() if self.is_stored else None


class FramesTogether:
    """Frames that came at the same time: what is read of one is read of those after it, too.

    A network that takes long for each answer does not fall behind the detector so.

    Parameters
    ----------
    frames
        Of the run.
    stop
        Index behind the last one that came.
    """

    def __init__(self, frames: Frames, stop: int) -> None:
        self._frames = frames
        self._stop = stop
        self._known: dict[str, tuple[int, NDArray[np.int32]]] = {}

    def between(self, first: int, stop: int, keys: tuple[Any, ...]) -> NDArray[np.int32]:
        """Return ``keys`` of some frames; those of the next ones are kept for later questions."""
        name = repr(keys)
        begin, values = self._known.get(name, (0, np.empty(0, np.int32)))
        if not begin <= first < stop <= begin + len(values):
            at_once = _MOST_TOGETHER // max(self._frames.bytes_of(keys), 1)
            begin, last = first, max(stop, min(self._stop, first + at_once))
            values = self._frames.between(first, last, keys)
            if len(self._known) >= _MOST_KEYS:
                self._known.clear()
            self._known[name] = begin, values
        return values[first - begin : stop - begin]

    def picture(self, index: int, **parameters: Any) -> bytes:
        """Return a frame as PNG."""
        return self._frames.picture(index, **parameters)


def joined(content: bytes, width: int) -> NDArray[np.int32]:
    """Join counts of which the lowest bytes come first, then the next ones; they are signed.

    Most counts are small: sent so, the upper bytes are nearly all equal and take no room.

    Examples
    --------
    >>> joined(bytes([1, 255, 0, 255]), 2)
    array([ 1, -1], dtype=int32)
    """
    octets = np.frombuffer(content, np.uint8).reshape(width, -1)
    return np.ascontiguousarray(octets.T).view(f"<i{width}").ravel().astype(np.int32)


def _parts(along: Along, at_once: int) -> Iterator[Along]:
    """Divide what is asked for into parts of at most ``at_once`` places."""
    places = range(along.first, along.stop, along.step)
    for begin in range(0, len(places), at_once):
        part = places[begin : begin + at_once]
        yield Along(part[0], part[-1] + 1, along.step, along.is_number, along.backwards)


def _first(key: Any) -> Any:
    return key[0] if isinstance(key, tuple) and key else key


def _is_within(key: Any, count: int) -> bool:
    """Return whether a key means the same, whether or not more frames have come since."""
    first = _first(key)
    if isinstance(first, slice):
        ends = (first.start, first.stop)
        rising = first.step is None or first.step > 0
        inside = all(end is None or 0 <= end <= count for end in ends)
        return rising and first.stop is not None and inside
    return isinstance(first, int | np.integer) and bool(0 <= first < count)
