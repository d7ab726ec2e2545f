"""What became of every expected frame of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from offbragg.errors import ScanFileError


class Status(StrEnum):
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
        As many; empty where nothing is wrong.

    Examples
    --------
    >>> ledger = Ledger.of(["stored", "missing", "stored", "pending"], ["", "not there", "", ""])
    >>> ledger.settled()
    3
    >>> ledger.problems()
    [(1, <Status.MISSING: 'missing'>, 'not there')]
    """

    statuses: tuple[Status, ...]
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
        words = {status.value: status for status in Status}
        try:
            known = tuple(words[word] for word in statuses)
        except KeyError as error:
            raise ScanFileError(
                f"{error.args[0]!r} is no frame status: one of {', '.join(words)}"
            ) from None
        return cls(known, tuple(reasons) if reasons is not None else ("",) * len(known))

    @property
    def n_frames(self) -> int:
        """How many frames the sweep was to have."""
        return len(self.statuses)

    def counts(self) -> dict[str, int]:
        """How many frames have each status; every status is a key."""
        return {status.value: self.statuses.count(status) for status in Status}

    def settled(self) -> int:
        """How many frames from 0 on are decided without a gap: the first pending number."""
        try:
            return self.statuses.index(Status.PENDING)
        except ValueError:
            return self.n_frames

    def problems(self) -> list[tuple[int, Status, str]]:
        """Frames that are missing or rejected: (number, status, reason)."""
        return [
            (number, status, reason)
            for number, (status, reason) in enumerate(zip(self.statuses, self.reasons, strict=True))
            if status in (Status.MISSING, Status.REJECTED)
        ]


def ranges(numbers: Sequence[int]) -> str:
    """Return frame numbers as text, neighbours as ranges.

    Examples
    --------
    >>> ranges([3, 4, 5, 9])
    '3–5, 9'
    """
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{p[0]}–{p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts)
