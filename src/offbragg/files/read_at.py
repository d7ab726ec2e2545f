"""Read bytes at a place of an open file, from several threads at once."""

from __future__ import annotations

import io
import os
import threading

_ONE = threading.Lock()  # where reading moves the place that all threads share


def read_at(descriptor: int, room: memoryview, offset: int) -> int:
    """Read bytes into ``room`` from ``offset`` on; return how many there were."""
    length = 0
    while length < len(room) and (n := _read_some(descriptor, room[length:], offset + length)):
        length += n
    return length


def _read_some(descriptor: int, room: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [room], offset)
    with _ONE, io.FileIO(descriptor, closefd=False) as file:  # Windows
        file.seek(offset)
        return file.readinto(room)
