"""What is done after a sweep, whatever comes in between."""

from __future__ import annotations

from functools import partial

import pytest
from bluesky.utils import FailedStatus, Msg, RequestAbort, RequestStop

from offbragg.plans.rotation import _each


def drive(plan, **thrown):
    """Run a plan; throw an exception into the message of that name, once."""
    done = []
    try:
        message = next(plan)
        while True:
            (name,) = message.args
            if name in thrown:
                message = plan.throw(thrown.pop(name))
            else:
                done.append(name)
                message = plan.send(None)
    except StopIteration:
        return done, None
    except Exception as error:
        return done, error


def step(name):
    yield Msg("null", None, name)


def steps(*names):
    return [(partial(step, name), ()) for name in names]


@pytest.mark.parametrize("request_of_people", [RequestAbort, RequestStop])
@pytest.mark.parametrize("failed", [False, True])
def test_a_request_to_end_is_obeyed_after_everything_is_tidy(request_of_people, failed):
    """An abort that was swallowed here once let a paused sweep begin again."""
    plan = _each(steps("shutter", "detector", "axis"), because_it_failed=failed)

    done, error = drive(plan, detector=request_of_people())

    assert done == ["shutter", "detector", "axis"]
    assert isinstance(error, request_of_people)


def test_a_step_that_a_failed_status_hits_is_taken_again():
    done, error = drive(_each(steps("shutter", "axis")), shutter=FailedStatus())

    assert done == ["shutter", "axis"]
    assert error is None
