"""The watchdog of a beamline, with its thresholds and its command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offbragg.alarms.watchdog import Watchdog
from offbragg.beamline.config import Beamline


def make_watchdog(
    config: Beamline, *, side: str, looks: Sequence[Callable[[], Any]] = ()
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
    """
    from offbragg.alarms.board_file import ACQUISITION, OnceForBoth
    from offbragg.alarms.hook import Hook
    from offbragg.alarms.watchdog import Watchdog

    hook = None
    if config.alarms.command:
        hook = Hook(config.alarms.command, timeout=config.alarms.timeout)
        if side == ACQUISITION:
            hook.is_told = OnceForBoth(config.paths.journal)
    return Watchdog(
        dict(config.paths), config.thresholds, side=side, journal=config.paths.journal,
        beamline=config.beamline_id, hook=hook, looks=looks,
    )  # fmt: skip
