"""Our devices on a real EPICS server, and on the simulator's."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.ioc

AXIS = """
import copy
from ophyd import EpicsSignal
from ophyd.signal import EpicsSignalBase
from offbragg.devices.goniometer import RotationAxis

EpicsSignalBase.set_defaults(connection_timeout=10.0)

def separate(kind):
    '''Return a class whose fields of the motor record are records of their own.'''
    components = {}
    for name, component in kind._sig_attrs.items():
        if component.suffix and component.suffix.startswith("."):
            components[name] = copy.copy(component)
            components[name].suffix = (":" + component.suffix[1:]).replace(":VAL", "")
    return type(kind.__name__, (kind,), components)

axis = (RotationAxis if given["motor"] else separate(RotationAxis))(parts["axis"], name="phi")
axis.wait_for_connection(timeout=20)
put("VELO", 20.0)
axis.set(0.0).wait(30)
"""


def test_an_axis_turns_through_a_sweep_and_its_read_backs_have_the_time_of_their_angle(witness):
    found = witness.run(
        AXIS
        + """
from offbragg.sweep import Sweep

readings = []
axis.user_readback.subscribe(
    lambda value=None, timestamp=None, **_: readings.append((timestamp, value)), run=False)
sweep = Sweep(axis="phi", start=5.0, step=0.5, n_frames=10, exposure=0.09, period=0.1)
axis.prepare(sweep).wait(60)
axis.kickoff().wait(60)
axis.complete().wait(60)
found["readings"] = readings
found["speed"] = get("VELO")
"""
    )

    assert found["speed"] == pytest.approx(20.0)  # as before the sweep
    times, angles = np.array(found["readings"]).T
    turning = (angles > 5.0) & (angles < 10.0)
    assert turning.sum() >= 5
    slope = np.polyfit(times[turning] - times[0], angles[turning], 1)
    assert slope[0] == pytest.approx(5.0, rel=0.1)  # degree/s
    assert np.diff(times[turning]).min() > 0.0


def test_an_axis_that_is_stopped_in_a_move_stands_and_can_move_again(witness):
    found = witness.run(
        AXIS
        + """
put("VELO", 5.0)
status = axis.set(60.0)
until(lambda: get("RBV") > 1.0)
axis.stop()
until(lambda: status.done)
until(lambda: not axis.moving)
found["at"] = get("RBV")
put("VELO", 100.0)
axis.set(0.0).wait(30)
found["end"] = get("RBV")
"""
    )

    assert 1.0 < found["at"] < 50.0
    assert found["end"] == pytest.approx(0.0)


def test_an_exposure_is_aborted_by_a_plain_put_of_a_signal(witness):
    found = witness.run("""
from ophyd import EpicsSignal
from ophyd.signal import EpicsSignalBase

EpicsSignalBase.set_defaults(connection_timeout=10.0)
busy_for(30.0)
acquire = EpicsSignal(parts["busy"], name="acquire")
acquire.wait_for_connection(timeout=20)
ended = []
acquire.put(1, wait=False, use_complete=True, callback=lambda **_: ended.append(time.monotonic()))
until(lambda: get("busy_RBV") == 1)
began = time.monotonic()
acquire.put(0, wait=False)
until(lambda: ended)
found["seconds"] = ended[0] - began
""")

    assert found["seconds"] < 15.0
