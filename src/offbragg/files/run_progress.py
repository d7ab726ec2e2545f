"""How far a run is: one answer for the stacker, the watchdog and the status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class RunProgress:
    """How many frames of a run there are to be, should be there by now, and are decided.

    Examples
    --------
    >>> progress = RunProgress(n_frames=10, decided=3)
    >>> progress.add("stream_datum", {"indices": {"start": 0, "stop": 5}})
    >>> progress.due, progress.all_announced
    (2, False)
    """

    n_frames: int
    announced: int = 0
    """Frames that should be there by now."""
    decided: int = 0
    """Frames that are stored, missing or rejected."""

    @classmethod
    def of_documents(
        cls, n_frames: int, documents: Iterable[tuple[str, Mapping[str, Any]]]
    ) -> RunProgress:
        """Make it from the documents of a run; nothing is decided yet."""
        progress = cls(n_frames)
        for name, doc in documents:
            progress.add(name, doc)
        return progress

    def add(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take one document of the run."""
        if name == "stream_datum":
            self.announced = max(self.announced, int(doc["indices"]["stop"]))

    @property
    def due(self) -> int:
        """Frames that should be there by now and are not decided."""
        return max(self.announced - self.decided, 0)

    @property
    def all_announced(self) -> bool:
        """Whether no more frames are to come."""
        return self.announced >= self.n_frames
