"""Errors at the prompt, in words instead of a traceback."""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bluesky.utils import FailedStatus, RunEngineInterrupted, TransitionError  # pyright: ignore[reportPrivateImportUsage]
from ophyd.utils import LimitError

from offbragg.errors import OffbraggError
from offbragg.printable import printable
from offbragg.shell.magics import PAUSED
from offbragg.spelling import did_you_mean

if TYPE_CHECKING:
    from bluesky import RunEngine
    from IPython.core.interactiveshell import InteractiveShell

log = logging.getLogger(__name__)


_NOT_CALLED_SO = re.compile(
    r"([\w.<>]+)\(\) (?:got an unexpected keyword argument '(\w+)'|missing \d|takes |got multiple)"
)


def show_errors(shell: InteractiveShell, RE: RunEngine) -> None:
    """Show an error about what was typed as its message only; others keep their traceback.

    Parameters
    ----------
    shell
        The IPython shell.
    RE
        The RunEngine, whose state decides what can be done after an interruption.
    """

    def show(
        shell: InteractiveShell,
        kind: type[BaseException],
        error: BaseException,
        trace: TracebackType | None,
        tb_offset: int | None = None,
    ) -> None:
        text = describe_error(error, trace, RE, shell.user_ns)
        if text is None:
            shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
            return
        print(printable(text, lines=True), file=sys.stderr)
        log.debug("shown at the prompt", exc_info=error)
        sys.last_type, sys.last_value, sys.last_traceback = kind, error, trace  # for %tb
        # IPython formats a traceback for its history, too, which takes a second or more; after
        # the cell, %tb has the whole one
        error._render_traceback_ = lambda: [text]  # type: ignore[attr-defined]
        shown.append(error)

    def forget(*_: object) -> None:
        while shown:
            with contextlib.suppress(AttributeError):
                del shown.pop()._render_traceback_  # type: ignore[attr-defined]

    shown: list[BaseException] = []
    kinds = (OffbraggError, RunEngineInterrupted, LimitError, FailedStatus)
    shell.set_custom_exc((*kinds, TransitionError, RuntimeError, TypeError), show)
    shell.events.register("post_run_cell", forget)


def describe_error(
    error: BaseException, trace: TracebackType | None, RE: RunEngine, names: Mapping[str, Any]
) -> str | None:
    """Return the text to show for an error; None if its traceback is more useful.

    Parameters
    ----------
    error, trace
        What was raised.
    RE
        The RunEngine.
    names
        What can be typed at the prompt.
    """
    cause = error.__cause__ if isinstance(error, FailedStatus) else error
    if isinstance(cause, RunEngineInterrupted):
        return f"RunEngineInterrupted: {_interrupted(RE)}"
    if isinstance(cause, (OffbraggError, LimitError)):
        return f"{type(cause).__name__}: {str(cause).strip()}"
    if isinstance(cause, TransitionError) and RE.state == "idle":
        return "TransitionError: no plan is running or paused: nothing to resume or end"
    if isinstance(cause, RuntimeError) and "RunEngine is in a" in str(cause):
        if RE.state == "paused":
            return f"RuntimeError: a new plan cannot begin: {PAUSED}"
        return None
    if isinstance(cause, TypeError):
        return _wrong_call(cause, trace, names)
    return None


def _interrupted(RE: RunEngine) -> str:
    if RE.state == "paused":
        return PAUSED
    if RE.state == "panicked":
        return "the RunEngine is in an unknown state\nLeave the shell and start it again."
    return "the plan was ended"


def _wrong_call(
    error: TypeError, trace: TracebackType | None, names: Mapping[str, Any]
) -> str | None:
    """Return the signature of a function that the typed line itself called wrongly."""
    frames = []
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    match = _NOT_CALLED_SO.match(str(error))
    if match is None or not frames or frames[-1].f_globals is not names:
        return None
    called = next((w for w in reversed(match[1].split(".")) if not w.startswith(("_", "<"))), "")
    try:
        signature = inspect.signature(names[called])
    except (KeyError, TypeError, ValueError):
        return None
    text = f"TypeError: {error}"
    if match[2]:
        text += did_you_mean(match[2], signature.parameters)
    return f"{text}\nIt is called as {called}{_short(signature)}"


def _short(signature: inspect.Signature) -> str:
    """Write a signature without annotations."""
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
