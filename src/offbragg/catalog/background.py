"""Threads of the server that make answers while everything else on the host comes first."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

THREADS, NICE = 2, 5


def background_threads(name: str) -> ThreadPoolExecutor:
    """Return a pool of two threads of low priority, which those that they start share."""
    return ThreadPoolExecutor(THREADS, thread_name_prefix=name, initializer=_come_last)


def _come_last() -> None:
    if sys.platform == "linux":  # where a thread has a priority of its own
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            nice = max(NICE, os.getpriority(os.PRIO_PROCESS, thread))
            os.setpriority(os.PRIO_PROCESS, thread, nice)
