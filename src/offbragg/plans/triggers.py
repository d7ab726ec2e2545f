"""Who starts the exposures: the detector itself, or pulses that somebody has to give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from offbragg.errors import SweepError
from offbragg.protocols import (
    FillsColumns,
    GivesPulses,
    PulsedElsewhere,
    Triggered,
    TriggeredPerSweep,
    meets,
)
from offbragg.sweep import Sweep


def waits_for_pulses(detector: Any) -> bool:
    """Return whether a detector waits for pulses in a sweep that turns."""
    return meets(detector, Triggered) and detector.trigger_mode != "internal"


def gives_pulses(flyer: Any) -> bool:
    """Return whether a flyer arms what triggers a detector: it says so, or it has the angles."""
    if meets(flyer, GivesPulses):
        return bool(flyer.gives_pulses)
    return meets(flyer, FillsColumns) and "angle" in flyer.per_frame


def gets_stray_pulses(detector: object, sweep: Sweep) -> bool:
    """Return whether pulses of something unknown may come while the axis turns to its start.

    It is not disarmed meanwhile: a detector that is armed by then takes such a pulse for the
    first one of the sweep.
    """
    return is_pulsed_elsewhere(detector) and _trigger_of(detector, sweep) != "internal"


def is_pulsed_elsewhere(detector: Any) -> bool:
    """Return whether something that offbragg does not know may trigger a detector."""
    return meets(detector, PulsedElsewhere) and bool(detector.pulsed_elsewhere)


def check_triggers(detector: Any, sweep: Sweep, flyers: Sequence[Any]) -> None:
    """Refuse a sweep whose detector would wait for pulses that no device gives; nothing has moved.

    Raises
    ------
    SweepError
        With the trigger, and who could give it.
    """
    mode = _trigger_of(detector, sweep)
    if mode == "internal" or is_pulsed_elsewhere(detector):
        return
    if any(gives_pulses(flyer) for flyer in flyers):
        return
    along = ", ".join(flyer.name for flyer in flyers) or "nothing"
    raise SweepError(
        f"{detector.name} waits for pulses (trigger {mode!r}) and no device would give any: "
        f"{along} flies along\n"
        "Let a position compare fly along, flyers=[compare], or name it in [defaults] flyers of "
        f"beamline.toml. Is something armed that offbragg does not know, set pulsed_elsewhere = "
        f"true in [devices.{detector.name}]."
    )


def _trigger_of(detector: Any, sweep: Sweep) -> str:
    if meets(detector, TriggeredPerSweep):
        return str(detector.trigger_of(sweep))
    return str(detector.trigger_mode) if meets(detector, Triggered) else "internal"
