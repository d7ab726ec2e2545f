"""Publish volumes while they grow, in a thread: whoever makes them never waits for the catalog."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from offbragg.printable import printable

_PAUSE, _LONGEST = 5.0, 60.0  # s between two attempts while the catalog is away

_log = logging.getLogger(__name__)


class VolumeOffers:
    """Publishes the volumes that are offered, as soon as the catalog takes them.

    Parameters
    ----------
    publish
        Publishes one volume; whatever it raises, the volume is published later.
    pause
        Time between two attempts, s; it is doubled each time, up to a minute.
    """

    def __init__(self, publish: Callable[[Path], object], *, pause: float = _PAUSE) -> None:
        self._publish, self._pause = publish, pause
        self._offered: dict[Path, None] = {}
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="volume-offers", daemon=True)
        self._thread.start()

    def offer(self, path: Path) -> None:
        """Publish a volume soon; return at once."""
        with self._changed:
            self._offered[path] = None
            self._changed.notify()

    def close(self, *, timeout: float = 10.0) -> None:
        """End, once what is offered was tried to be published, or after a time limit, s."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        pause, reason = self._pause, ""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._offered or self._ended)
                offered = list(self._offered)
                self._offered.clear()
            later: list[Path] = []
            for path in offered:
                try:
                    self._publish(path)
                except Exception as error:  # whatever it is, the volume is made
                    first = printable(str(error).partition("\n")[0]) or type(error).__name__
                    if first != reason:
                        _log.warning("%s is not published yet: %s", path, first)
                    reason = first
                    later.append(path)
            with self._changed:
                if self._ended:
                    return
                if not later:
                    pause, reason = self._pause, ""
                    continue
                self._offered = dict.fromkeys([*later, *self._offered])
                self._changed.wait_for(lambda: self._ended, pause)
                pause = min(2 * pause, _LONGEST)
