"""Messages of our own to the RunEngine: commands that `make_run_engine` registers.

A plan also runs in a RunEngine that knows none of them, as one of a test or of another beamline:
there nothing is checked, nothing is waited for, and nothing has a default.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import bluesky.plan_stubs as bps
from bluesky.utils import InvalidCommand, Msg, MsgGenerator

T = TypeVar("T")

ANNOUNCED_RUN = "announced_run"
"""``start``: start document of a run to come; refused if it must not be opened."""

HANDLES_BEAM_LOSS = "handles_beam_loss"
"""``begins``: whether the plan looks after the beam from now on and is not to be suspended."""

LACKING_ROOM = "lacking_room"
"""``n_frames``, ``detector``: answered with what they lack on the disks, or an empty string."""

PLAN_DEFAULTS = "plan_defaults"
"""Answered with the `Defaults` of the beamline."""

PAST_RUNS = "past_runs"
"""``uid`` of a run or ``series``, ``frames``: answered with what the journal knows of them."""


def ask(command: str, **facts: object) -> MsgGenerator[Any]:
    """Send a message and return the answer, None from a RunEngine that does not know the command.

    Parameters
    ----------
    command
        One of the above.
    facts
        What it carries.
    """
    try:
        return (yield Msg(command, None, **facts))
    except InvalidCommand:
        # else a RunEngine that is paused later repeats the message, and the plan fails there
        yield from bps.checkpoint()
        return None


def always(answer: T) -> Callable[[Msg], Awaitable[T]]:
    """Make a command that answers every message alike."""

    async def command(_: Msg) -> T:
        return answer

    return command
