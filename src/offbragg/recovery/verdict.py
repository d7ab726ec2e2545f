"""What `verify` found in one scan file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Verdict:
    """What :func:`verify` found.

    ``frames`` counts the frames by status; ``checked`` the stored frames that were compared with
    a checksum, ``unchecked`` those that have none; ``differ`` has the numbers of those that are not
    what was stored.
    """

    path: str
    run: str
    complete: bool
    frames: dict[str, int]
    checked: int = 0
    unchecked: int = 0
    differ: list[int] = field(default_factory=list)
    listed: list[dict[str, Any]] = field(default_factory=list)  # missing and rejected frames
    refused: list[dict[str, Any]] = field(default_factory=list)
    """Files that were refused and are kept beside it: ``number``, ``file``, ``reason``."""
    digest: str = "none"
    """agrees, differs, damaged; none; not yet (the sweep is not finished)."""
    angles: dict[str, Any] = field(default_factory=dict)
    """How many angles come from where, their largest offset and their uncertainty, degree."""
    sources: dict[str, int] = field(default_factory=dict)  # there, gone
    catalog: str = "not asked"
    """agrees, differs; or why it was not compared."""
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # to be known, and no problem
    ended: str = ""
    """How the run ended, and what its stop document has to say of it, if anything."""
    size: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the file holds what was measured, as far as all that was asked says."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {**asdict(self), "ok": self.ok}
