"""What a sender counts, for people and for the report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Sent:
    """What a sender has sent since it was started."""

    files: int = 0
    """That are on the far disk."""
    bytes: int = 0
    """Of frame files that were sent, with what was sent again."""
    link_bytes: int = 0
    """What they took of the link: pieces go compressed."""
    runs: int = 0
    """That are whole there, with those that were there before."""
    waiting: int = 0
    """Frames that are known and not there."""
    absent: int = 0
    """Of them, those whose files are not here either."""
    refused: int = 0
    unreadable: int = 0
    """Frames whose files are here and cannot be read."""
    damaged: int = 0
    """Runs whose journals cannot be read: they are not sent."""
    connected: bool = False
