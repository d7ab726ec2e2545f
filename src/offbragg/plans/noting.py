"""Take note of what a plan does, without changing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bluesky.utils import Msg, MsgGenerator


def noting(
    plan: MsgGenerator[Any],
    *,
    answered: Callable[[Msg, Any], None] = lambda msg, answer: None,
    failed: Callable[[], None] = lambda: None,
) -> MsgGenerator[Any]:
    """Run a plan, and take note of the answers to its messages and of errors thrown into it.

    Parameters
    ----------
    plan
        The plan.
    answered
        Called with each message and its answer; it must neither fail nor take long.
    failed
        Called when anything is thrown into the plan.
    """
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            msg = plan.send(answer) if error is None else plan.throw(error)
        except StopIteration as end:
            return end.value
        answer = error = None
        try:
            answer = yield msg
        except GeneratorExit:
            plan.close()
            raise
        except BaseException as thrown:
            failed()
            error = thrown
        else:
            answered(msg, answer)
