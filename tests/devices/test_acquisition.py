"""Starting and ending acquisitions: one put per channel, and whose series is whose."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from offbragg.devices import background
from offbragg.devices.background import put
from offbragg.devices.ca_messages import Box
from offbragg.devices.claim import DetectorClaim
from offbragg.devices.frame_folder import describe_access, folder_mode, make_folder
from offbragg.errors import ConfigError, DeviceError


class Record:
    """A record of a server that completes puts on command, and counts those under way."""

    setpoint_pvname = "X:slow"

    def __init__(self):
        self.calls = []
        self.pending = 0
        self.most = 0

    def put(self, value, *, use_complete, callback):
        assert use_complete
        self.pending += 1
        self.most = max(self.most, self.pending)
        self.calls.append((value, callback))

    def complete(self):
        self.pending -= 1
        self.calls[-1][1]()


@pytest.fixture(autouse=True)
def _fresh():
    background._pending.clear()


def test_a_second_put_waits_for_the_first_on_its_channel():
    record = Record()
    with pytest.raises(DeviceError, match=r"X:slow did not take 1 in 0\.05 s"):
        put(record, 1, timeout=0.05)

    second = threading.Thread(target=put, args=(record, 2), kwargs={"timeout": 20.0})
    second.start()
    time.sleep(0.2)
    assert [value for value, _ in record.calls] == [1]
    record.complete()
    deadline = time.monotonic() + 10
    while len(record.calls) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    record.complete()
    second.join(10)

    assert [value for value, _ in record.calls] == [1, 2]
    assert record.most == 1


def test_a_put_that_cannot_wait_longer_says_so_and_puts_nothing():
    record = Record()
    with pytest.raises(DeviceError):
        put(record, 1, timeout=0.05)

    with pytest.raises(DeviceError, match=r"X:slow was not set to 2: a put .* has not completed"):
        put(record, 2, timeout=0.1)

    assert record.most == 1


def test_a_put_that_the_server_has_given_up_is_forgotten(monkeypatch):
    record = Record()
    with pytest.raises(DeviceError):
        put(record, 1, timeout=0.05)
    monkeypatch.setattr(background, "GIVEN_UP", 0.0)

    with pytest.raises(DeviceError, match="did not take 2"):
        put(record, 2, timeout=0.05)

    assert [value for value, _ in record.calls] == [1, 2]


# -- whose series it is ------------------------------------------------------------------------

HOLD = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from offbragg.devices.claim import DetectorClaim
    claim = DetectorClaim(Path(sys.argv[1]), "X:cam1:")
    claim.take()
    print("taken", flush=True)
    time.sleep(60)
""")


def test_a_claim_outlives_its_process_and_says_that_it_is_dead(tmp_path):
    claim = DetectorClaim(tmp_path, "X:cam1:")
    assert claim.holder() is None
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    child.stdout.readline()

    alive = claim.holder()
    child.kill()
    child.wait(10)
    child.stdout.close()
    dead = claim.holder()

    assert alive is not None
    assert dead is not None
    assert (alive.process, alive.alive, dead.alive) == (child.pid, True, False)
    assert dead.left_behind(time.time())
    assert not dead.left_behind(time.time() - 3600.0)  # somebody's who began at another time
    assert not alive.left_behind(time.time())


def test_a_claim_that_was_given_back_is_nobodys(tmp_path):
    claim = DetectorClaim(tmp_path, "X:cam1:")
    claim.take()
    held = claim.holder()
    assert held is not None
    assert (held.process, held.alive) == (os.getpid(), True)

    claim.release()

    assert claim.holder() is None


@pytest.mark.parametrize("content", ["", "not json", "[]", json.dumps({"host": "a"})])
def test_a_claim_that_cannot_be_read_is_nobodys(tmp_path, content):
    claim = DetectorClaim(tmp_path, "X:cam1:")
    claim.path.write_text(content)

    assert claim.holder() is None


# -- folders -----------------------------------------------------------------------------------


def test_a_folder_has_its_mode_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        make_folder(tmp_path / "frames", folder_mode("2775"))
    finally:
        os.umask(before)

    assert (tmp_path / "frames").stat().st_mode & 0o7777 == 0o2775
    assert describe_access(tmp_path / "frames").endswith("mode 2775")


@pytest.mark.parametrize("wrong", ["", "0x1ff", "2577", "999", "75", "rwx"])
def test_a_mode_that_is_none_or_keeps_the_owner_out_is_refused(wrong):
    with pytest.raises(ConfigError, match=f"directory_mode is '{wrong}'"):
        folder_mode(wrong)


# -- messages of the Channel Access library ----------------------------------------------------


def test_a_box_of_the_library_becomes_one_line_of_the_log(caplog):
    box = Box()
    with caplog.at_level(logging.DEBUG):
        for piece in (
            "CA.Client.Exception" + 20 * "." + "\n",
            '    Warning: "Virtual circuit disconnect"\n',
            '    Context: "', "localhost:5064", '"\n', 20 * "." + "\n", "a line\n",
        ):  # fmt: skip
            box.add(piece)

    ((_, usual, text), (_, other, line)) = caplog.record_tuples
    assert text == 'Warning: "Virtual circuit disconnect"; Context: "localhost:5064"'
    assert (usual, other, line) == (logging.DEBUG, logging.WARNING, "a line")


WATCH = textwrap.dedent("""
    import os, sys, time
    import ophyd
    from offbragg.devices.ca_messages import log_messages
    log_messages()
    signal = ophyd.EpicsSignal("SIM:cam1:AcquireTime", name="time")
    signal.wait_for_connection(timeout=30)
    signal.get()
    time.sleep(1.0)  # ophyd asks for limits meanwhile: a kill then resets the circuit
    print("connected", flush=True)
    while signal.connected:
        time.sleep(0.05)
    time.sleep(0.5)
""")


@pytest.mark.ioc
def test_an_ioc_that_dies_leaves_the_prompt_alone(serve):
    process, ready = serve("--port", "0")
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WATCH], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, **ready["environment"]},
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "connected\n"
    process.kill()

    output = "".join(child.communicate(timeout=60))

    assert "CA.Client" not in output
    assert "circuit" not in output
