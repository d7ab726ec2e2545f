"""What became of every expected frame of a sweep."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from offbragg.errors import ScanFileError


class FrameStatus(StrEnum):
    """What became of one frame."""

    PENDING = "pending"
    STORED = "stored"
    MISSING = "missing"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Ledger:
    """What became of every expected frame, by its number, with the reason if it is not there.

    Parameters
    ----------
    statuses
        One for each expected frame, in order.
    reasons
        One for each expected frame, in order; empty where nothing is wrong.

    Examples
    --------
    >>> ledger = Ledger.of(["stored", "missing", "stored", "pending"], ["", "not there", "", ""])
    >>> ledger.settled()
    3
    >>> ledger.problems()
    [(1, <FrameStatus.MISSING: 'missing'>, 'not there')]
    """

    statuses: tuple[FrameStatus, ...]
    reasons: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.statuses) != len(self.reasons):
            raise ScanFileError(
                f"a ledger of {len(self.statuses)} statuses has {len(self.reasons)} reasons: "
                "each frame has one of each"
            )

    @classmethod
    def of(cls, statuses: Sequence[str], reasons: Sequence[str] | None = None) -> Ledger:
        """Make a ledger from status words; without reasons, all are empty."""
        words = {status.value: status for status in FrameStatus}
        try:
            known = tuple(words[word] for word in statuses)
        except KeyError as error:
            raise ScanFileError(
                f"{error.args[0]!r} is not a frame status: one of {', '.join(words)}"
            ) from None
        return cls(known, tuple(reasons) if reasons is not None else ("",) * len(known))

    @property
    def n_frames(self) -> int:
        """How many frames the sweep was to have."""
        return len(self.statuses)

    def counts(self) -> dict[str, int]:
        """Return how many frames have each status; every status is a key."""
        return {status.value: self.statuses.count(status) for status in FrameStatus}

    def settled(self) -> int:
        """Return how many frames from 0 on are decided without a gap: the first pending number."""
        try:
            return self.statuses.index(FrameStatus.PENDING)
        except ValueError:
            return self.n_frames

    def problems(self) -> list[tuple[int, FrameStatus, str]]:
        """Frames that are missing or rejected: (number, status, reason)."""
        return [
            (number, status, reason)
            for number, (status, reason) in enumerate(zip(self.statuses, self.reasons, strict=True))
            if status in (FrameStatus.MISSING, FrameStatus.REJECTED)
        ]


_MOST_RANGES = 10


def ranges(numbers: Iterable[int], *, most: int | None = None) -> str:
    """Write frame numbers as ranges.

    Parameters
    ----------
    numbers
        In any order.
    most
        Limit on the number of ranges; None for all of them.

    Examples
    --------
    >>> ranges([3, 4, 5, 9])
    '3–5, 9'
    >>> ranges([1, 3, 5, 7], most=2)
    '1, 3, …'
    """
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    shown = [f"{p[0]}–{p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts[:most]]
    return ", ".join([*shown, *(["…"] if len(parts) > len(shown) else [])])


def describe_problems(problems: Iterable[tuple[int, str, str]]) -> list[str]:
    """Describe frames that are missing or rejected, one line for all with the same reason.

    Reasons are the same if they differ in numbers only; the line has that of the first frame.

    Parameters
    ----------
    problems
        (frame index, status, reason), as of `Ledger.problems`.

    Examples
    --------
    >>> describe_problems([(2, "missing", "x_2.cbf was not there"), (5, "rejected", "bad MD5"),
    ...                    (3, "missing", "x_3.cbf was not there")])
    ['2 frames missing, 2–3: x_2.cbf was not there', 'frame 5 rejected: bad MD5']
    """
    groups: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for number, status, reason in problems:
        groups.setdefault((str(status), re.sub(r"\d+", "#", reason)), []).append((number, reason))
    lines: list[str] = []
    for (status, _), frames in groups.items():
        numbers = [number for number, _ in frames]
        head = f"frame {numbers[0]} {status}"
        if len(frames) > 1:
            head = f"{len(frames)} frames {status}, {ranges(numbers, most=_MOST_RANGES)}"
        lines.append(f"{head}: {min(frames)[1]}")
    return lines
