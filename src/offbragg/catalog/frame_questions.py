"""What may be asked about the frames of a run, as its address states it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from offbragg.catalog.palettes import PALETTES
from offbragg.catalog.parameters import choice, number, read_parameters
from offbragg.catalog.sent import Refusal
from offbragg.printable import printable

_RANGE = re.compile(r"([0-9]{1,9})?:([0-9]{1,9})?(?::([0-9]{1,9}))?|([0-9]{1,9})")
_MOST_SIZE = 4096  # pixels of a picture
_PICTURE = ("low", "high", "scale", "palette", "size", "bin")


@dataclass(frozen=True, slots=True)
class PictureQuestion:
    """How a frame is drawn."""

    low: float | None
    high: float | None
    scale: str
    palette: str
    size: int
    bin: str


@dataclass(frozen=True, slots=True)
class OneFrame:
    """One frame."""

    index: int | None
    """None: the last one that is stored."""
    format: str
    picture: PictureQuestion | None

    @classmethod
    def parse(cls, index: str, query: str) -> OneFrame:
        """Read the address of one frame.

        Raises
        ------
        Refusal
            Naming what is wrong.
        """
        if index != "last" and not re.fullmatch(r"-?[0-9]{1,9}", index):
            raise Refusal(
                400, f"The frame is {printable(index[:40])}: it must be an index, or last."
            )
        given = read_parameters(query, ("format", *_PICTURE), "a frame")
        form = choice(given, "format", ("png", "int32", "npy", "bytes"))
        if form != "png" and (wrong := [name for name in _PICTURE if name in given]):
            raise Refusal(400, f"{wrong[0]} is for pictures only: format is {form}.")
        which = None if index == "last" else int(index)
        return cls(which, form, _picture(given) if form == "png" else None)


def _picture(given: dict[str, str]) -> PictureQuestion:
    scale = choice(given, "scale", ("log", "linear"))
    low, high = number(given, "low"), number(given, "high")
    if scale == "log" and any(end is not None and end <= 0 for end in (low, high)):
        raise Refusal(400, "low and high must be above 0 on a logarithmic scale.")
    if low is not None and high is not None and low >= high:
        raise Refusal(400, f"low is {low:g} and high is {high:g}: low must be below high.")
    size = number(given, "size") if "size" in given else 800
    assert size is not None
    if not 16 <= size <= _MOST_SIZE or size != int(size):
        raise Refusal(400, f"size is {size:g}: it must be 16 to {_MOST_SIZE} pixels.")
    palette, how = choice(given, "palette", PALETTES), choice(given, "bin", ("mean", "max"))
    return PictureQuestion(low, high, scale, palette, int(size), how)


@dataclass(frozen=True, slots=True)
class Span:
    """Whole numbers from ``first`` to below ``stop``, None for the ends of what there is."""

    first: int | None
    stop: int | None
    step: int

    @classmethod
    def parse(cls, name: str, text: str) -> Span:
        """Read a span as ``a:b``, ``a:b:step``, or one number."""
        found = _RANGE.fullmatch(text.strip())
        step = 1 if found is None or found[3] is None else int(found[3])
        if found is None or not step:
            form = "a:b or a:b:step, from a to below b, or one number; none of them below 0"
            raise Refusal(400, f"{name} has {printable(text[:40])}: it must be {form}.")
        if found[4] is not None:
            return cls(int(found[4]), int(found[4]) + 1, 1)
        first, stop = (None if part is None else int(part) for part in found.groups()[:2])
        return cls(first, stop, step)

    def within(self, count: int, name: str, unit: str) -> range:
        """Return the numbers.

        Raises
        ------
        Refusal
            If there are none, or not all of them exist.

        Examples
        --------
        >>> Span(None, None, 3).within(10, "index", "frames")
        range(0, 10, 3)
        """
        first = 0 if self.first is None else self.first
        stop = count if self.stop is None else self.stop
        if not first < stop <= count:
            there = (
                f"there are {count} {unit}, 0 to {count - 1}" if count else f"there are no {unit}"
            )
            raise Refusal(400, f"{name} {first}:{stop} is not a part of them: {there}.")
        return range(first, stop, self.step)


@dataclass(frozen=True, slots=True)
class ManyFrames:
    """A part of several frames."""

    index: Span
    rows: Span
    columns: Span
    format: str

    @classmethod
    def parse(cls, query: str) -> ManyFrames:
        """Read the parameters of a request for a part of several frames.

        Raises
        ------
        Refusal
            Naming what is wrong.
        """
        given = read_parameters(query, ("index", "roi", "format"), "frames")
        rows, comma, columns = given.get("roi", ":,:").partition(",")
        if not comma:
            raise Refusal(400, f"roi is {printable(rows)}: it must be rows, columns, as 0:9,20:29.")
        return cls(
            Span.parse("index", given.get("index", ":")),
            Span.parse("roi", rows),
            Span.parse("roi", columns),
            choice(given, "format", ("npy", "int32", "bytes", "json", "sum")),
        )
