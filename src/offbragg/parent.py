"""End with the parent process, however that one ends: nothing may be left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

_LOOK = 0.5  # how often the parent is looked for, s
_PATIENCE = 20.0  # for an orderly end after the parent's, s


def follow_parent(parent: int, end: Callable[[], object] | None = None) -> None:
    """Watch the parent process in a thread; when it is gone, end this process.

    A parent that was killed cannot end its children, so they have to look themselves. A child whose
    orderly end takes longer than 20 s is killed.

    Parameters
    ----------
    parent
        Process id of the parent. If it is not that already, it is gone.
    end
        What asks this process to end; left out, SIGTERM does.
    """

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        end() if end is not None else os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_PATIENCE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=follow, name="offbragg-parent", daemon=True).start()
