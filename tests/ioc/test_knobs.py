"""The simulator's own knobs: delays, a second IOC, other clocks, camserver's user, the witness."""

from __future__ import annotations

import os
import stat
import time

import numpy as np
import pytest

pytestmark = pytest.mark.ioc

DELAYS = {"arming_seconds": 0.0, "arming_jitter": 0.002, "prepare_seconds": 0.0,
          "shutter_seconds": 0.0}  # fmt: skip


@pytest.fixture
def knobs(client):
    """Put the knobs back."""
    yield client
    for name, value in DELAYS.items():
        client.put(f"sim:{name}", value)


# with a PV of the form that ophyd asks for, so in another process
ARMED = """
import time
from epics import PV

stamps = []
armed = PV(f"{prefix}cam1:Armed", form="time",
           callback=lambda value=0, timestamp=0.0, **_: value and stamps.append(timestamp))
armed.wait_for_connection(timeout=10)
began = time.time()
caput(f"{prefix}cam1:Acquire", 1, wait=True, timeout=60)
limit = time.monotonic() + 20
while not stamps:
    assert time.monotonic() < limit
    time.sleep(0.01)
first = float(caget(f"{prefix}sim:exposure_times")[0])
print(json.dumps({"waited": first - began, "late": stamps[0] - first}))
"""


def test_the_exposure_begins_when_camserver_acknowledges_and_armed_comes_after(
    knobs, client, camera, ioc, elsewhere
):
    camera(3)
    client.put("sim:arming_seconds", 0.6)
    client.put("sim:arming_jitter", 0.3)

    found = elsewhere(ioc, f"prefix = {ioc['prefix']!r}\n{ARMED}")

    assert found["waited"] > 0.6
    assert 0.021 <= found["late"] < 0.3 + 5.0  # at most the jitter, on a host that is not busy


def test_a_slow_driver_keeps_its_port_and_a_plain_put_does_not_wait(knobs, client, wait_until):
    client.put("cam1:AcquireTime", 0.1)
    client.put("sim:prepare_seconds", 0.5)

    began = time.monotonic()
    client.send("cam1:NumImages", 7)
    client.send("cam1:AcquireTime", 0.2)
    client.send("cam1:AcquireTime", 0.3)
    assert client.get("cam1:AcquireTime") == 0.3
    assert client.get("cam1:AcquireTime_RBV") == 0.1  # the port is locked by the first put
    wait_until(lambda: client.get("cam1:AcquireTime_RBV") == 0.3)

    assert time.monotonic() - began > 0.5


def test_a_slow_shutter_opens_when_its_put_completes(knobs, client, wait_until):
    client.put("shutter:open", 0)
    client.put("sim:shutter_seconds", 0.5)

    completed = client.start("shutter:open", 1)
    assert client.get("shutter:open") == 1
    assert client.get("shutter:open_RBV") == 0
    wait_until(completed)

    assert client.get("shutter:open_RBV") == 1


def test_the_simulator_knows_the_true_angle_of_each_frame(knobs, client, camera, wait_until):
    camera(5, period=0.1)
    client.put("phi.VELO", 20.0)
    client.put("phi", 0.0)
    client.put("phi.VELO", 2.0)
    moved = client.start("phi", 4.0)
    wait_until(lambda: client.get("phi.RBV") > 1.0)

    client.put("cam1:Acquire", 1)
    client.put("phi.VELO", 20.0)
    wait_until(moved)

    starts, middles = client.get("sim:angles"), client.get("sim:true_angles")
    np.testing.assert_allclose(middles - starts, 0.1, atol=1e-6)  # half a period at 2 degree/s
    np.testing.assert_allclose(np.diff(client.get("sim:exposure_times")), 0.1, atol=1e-3)


def test_an_err_reply_is_in_one_record_only(client, camera):
    camera(1)
    client.put("sim:err", 1)

    completed = client.start("cam1:Acquire", 1)
    deadline = time.monotonic() + 10.0
    while not client.text("cam1:StringFromServer_RBV").startswith("15 ERR"):
        assert time.monotonic() < deadline
        time.sleep(0.01)

    assert client.text("cam1:DetectorState_RBV") == "Acquire"
    assert not completed()
    client.send("cam1:Acquire", 0)
    while not completed():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_file_that_is_too_large_makes_an_error(client, camera):
    camera(4)
    client.put("sim:oversize", 2)

    client.put("cam1:Acquire", 1)

    assert client.text("cam1:DetectorState_RBV") == "Error"
    assert client.get("cam1:ArrayCounter_RBV") == 2


def test_the_motors_may_have_an_ioc_and_a_clock_of_their_own(serve, elsewhere):
    _, announced = serve("--clock", "-2", "--motor-clock", "30")
    script = """
from epics import PV
import time
stamps = {}
for name in ("SIM:phi.RBV", "SIM:cam1:AcquireTime"):
    pv = PV(name, form="time", auto_monitor=False)
    pv.wait_for_connection(timeout=10)
    caput(name.removesuffix(".RBV"), 1.0, wait=True)
    stamps[name] = pv.get_with_metadata(use_monitor=False)["timestamp"] - time.time()
    stamps[name + " host"] = pv.host
print(json.dumps(stamps))
"""

    found = elsewhere(announced, script)

    assert 20.0 < found["SIM:phi.RBV"] <= 30.0
    assert -12.0 < found["SIM:cam1:AcquireTime"] <= -2.0
    assert found["SIM:phi.RBV host"].endswith(f":{announced['motor_port']}")
    assert found["SIM:cam1:AcquireTime host"].endswith(f":{announced['port']}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give camserver another user")
def test_a_camserver_of_another_user_writes_only_where_it_may(serve, elsewhere, tmp_path):
    _, announced = serve("--camserver-user", "nobody")
    tmp_path.chmod(0o755)
    script = f"""
for name, value in {{"FilePath": {str(tmp_path)!r}, "FileName": "x", "FileTemplate": "%s%s_%d.cbf",
                    "NumImages": 2, "AcquireTime": 0.05, "AcquirePeriod": 0.1,
                    "ImageFileTmot": 1.0}}.items():
    caput("SIM:cam1:" + name, value.encode() + b"\\0" if name.startswith("File") else value,
          wait=True)
caput("SIM:cam1:Acquire", 1, wait=True, timeout=30)
print(json.dumps([caget("SIM:cam1:" + name, as_string=True) for name in
    ("FilePathExists_RBV", "StringFromServer_RBV", "StatusMessage_RBV", "DetectorState_RBV")]))
"""

    exists, reply, message, state = elsewhere(announced, script)

    assert exists == "Yes"  # in the IOC's own view
    assert reply.startswith("15 OK")
    assert message == "Timeout waiting for file to be created"
    assert state == "Error"
    assert list(tmp_path.glob("*.cbf")) == []
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
