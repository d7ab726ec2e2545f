"""Signals that missed the notification of their channel connect all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ioc

SCRIPT = """
import threading
import ophyd
from ophyd import Component, Device, EpicsSignal, EpicsSignalRO
import epics
from offbragg.devices.connection import unconnected, wait_until_connected

class First(Device):
    angle = Component(EpicsSignalRO, "chi.RBV", auto_monitor=True)
class Second(Device):
    angle = Component(EpicsSignalRO, "chi.RBV")
    there = Component(EpicsSignal, "chi.VAL")

between, go_on = threading.Event(), threading.Event()
read_rights = epics.PV.force_read_access_rights
def hold(channel):  # as a busy host does: all are notified, but it is not noted as connected yet
    read_rights(channel)
    if channel.pvname.endswith("RBV") and not between.is_set():
        between.set()
        go_on.wait(20)
epics.PV.force_read_access_rights = hold

first = First("SIM:", name="first")
assert between.wait(20)
second = Second("SIM:", name="second")
go_on.set()
wait_until_connected(first, 20)
try:
    second.wait_for_connection(all_signals=True, timeout=3)
except TimeoutError:
    print("without", *(signal.pvname for signal in unconnected(second)))
wait_until_connected(second, 20)
print("connected", second.angle.get() == first.angle.get())
absent = First("NOBODY:", name="absent")
try:
    wait_until_connected(absent, 2.5)
except TimeoutError:
    print("absent")
"""


def test_a_second_signal_of_a_channel_hears_that_it_is_connected(serve):
    _, settings = serve()
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root / "src"), str(root), os.environ.get("PYTHONPATH", "")])

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | settings["environment"] | {"PYTHONPATH": paths.rstrip(os.pathsep)},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    # the first line is pyepics' own fault: without it, this module can go
    assert done.stdout.splitlines() == ["without SIM:chi.RBV", "connected True", "absent"]
