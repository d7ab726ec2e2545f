"""Answers that are made once, whoever asks for them, and kept for those who ask later."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable


class Kept:
    """The answers that were asked for last, as bytes; any number of threads may use it.

    Parameters
    ----------
    most
        Bytes of answers that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._size = 0
        self._making: dict[Hashable, threading.Lock] = {}

    def get(self, which: Hashable, make: Callable[[], bytes]) -> bytes:
        """Return an answer: one that is kept, or that another thread is making, or a new one.

        Parameters
        ----------
        which
            Equal for equal answers only.
        make
            Makes it.
        """
        with self._lock:
            if which in self._kept:
                self._kept.move_to_end(which)
                return self._kept[which]
            making = self._making.setdefault(which, threading.Lock())
        with making:
            with self._lock:
                if which in self._kept:
                    return self._kept[which]
            try:
                made = make()
                self._keep(which, made)
            finally:
                with self._lock:
                    self._making.pop(which, None)
        return made

    def _keep(self, which: Hashable, made: bytes) -> None:
        with self._lock:
            self._kept[which] = made
            self._size += len(made)
            while self._size > self._most:
                self._size -= len(self._kept.popitem(last=False)[1])
