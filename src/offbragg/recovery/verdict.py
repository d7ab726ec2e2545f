"""What `verify` found in one scan file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from offbragg.files.examine import FileContents


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
    differ: list[int] = field(default_factory=list[int])
    listed: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Missing and rejected frames: ``number``, ``status``, ``reason``."""
    refused: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Files that were refused and are kept beside it: ``number``, ``file``, ``reason``."""
    digest: str = "none"
    """agrees, differs, damaged; none; not yet (the sweep is not finished)."""
    angles: dict[str, Any] = field(default_factory=dict[str, Any])
    """How many angles come from where, their largest offset and their uncertainty, degree."""
    sources: dict[str, int] = field(default_factory=dict[str, int])  # there, gone
    catalog: str = "not asked"
    """agrees, differs; or why it was not compared."""
    problems: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])  # good to know, not problems
    ended: str = ""
    """How the run ended, and the reason in its stop document; empty without a reason."""
    size: int = 0
    seconds: float = 0.0
    contents: FileContents | None = None
    """What HDF5 reads in the file; None if it does not read it."""

    @property
    def ok(self) -> bool:
        """Whether the file holds what was measured, by everything that was compared."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain types, for JSON; without the contents of the file."""
        facts = asdict(replace(self, contents=None))
        del facts["contents"]
        return {**facts, "ok": self.ok}
