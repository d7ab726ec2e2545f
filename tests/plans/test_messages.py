"""Messages of our own in a RunEngine that does not know them."""

import bluesky.plan_stubs as bps
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

from offbragg.plans.messages import PLAN_DEFAULTS, always, ask


def test_a_run_engine_that_does_not_know_a_command_goes_on_also_after_a_pause():
    RE = RunEngine({}, context_managers=[])
    answers = []

    def plan():
        yield from bps.checkpoint()
        answers.append((yield from ask(PLAN_DEFAULTS)))
        yield from bps.pause()
        answers.append((yield from ask(PLAN_DEFAULTS)))

    with pytest.raises(RunEngineInterrupted):
        RE(plan())
    RE.resume()

    assert answers == [None, None]


def test_a_run_engine_that_knows_a_command_answers():
    RE = RunEngine({}, context_managers=[], call_returns_result=True)
    RE.register_command(PLAN_DEFAULTS, always("a beamline's"))

    assert RE(ask(PLAN_DEFAULTS)).plan_result == "a beamline's"
