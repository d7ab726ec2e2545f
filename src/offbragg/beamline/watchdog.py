"""The watchdog of a beamline, with its thresholds and its command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offbragg.alarms.watchdog import Watchdog
from offbragg.beamline.config import Beamline


def make_watchdog(
    config: Beamline,
    *,
    side: str,
    looks: Sequence[Callable[[], Any]] = (),
    is_paused: Callable[[], bool] = lambda: False,
) -> Watchdog:
    """Make what looks at disks, frames and clocks, and tells of alarms.

    Parameters
    ----------
    config
        What `load` gave.
    side
        "acquisition" in the RunEngine's process, "data" beside the stacker.
    looks
        More to look at.
    is_paused
        Returns whether measuring is paused: then no frames are expected.
    """
    from offbragg.alarms.board_file import ACQUISITION, OnceForBoth
    from offbragg.alarms.hook import Hook
    from offbragg.alarms.watchdog import Watchdog

    hook = None
    if config.alarms.command:
        skip = OnceForBoth(config.paths.journal) if side == ACQUISITION else None
        hook = Hook(config.alarms.command, timeout=config.alarms.timeout, skip=skip)
    return Watchdog(
        dict(config.paths), config.thresholds, side=side, journal=config.paths.journal,
        beamline=config.beamline_id, hook=hook, looks=looks, is_paused=is_paused,
    )  # fmt: skip
