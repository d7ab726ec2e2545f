"""What a Channel Access server does with puts: a real one, and the simulator's.

The real one is softioc's, a database and a server of EPICS base. So what the simulator imitates is
not believed but seen, each time.
"""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.ioc


def test_a_plain_put_is_taken_while_a_put_callback_is_pending(witness):
    found = witness.run("""
busy_for(8.0)
begin("busy", 1, "start")
until(lambda: get("busy_RBV") == 1)
send("busy", 0)
found["get"] = get("busy")  # the record has it, whatever the driver does
found["other"] = timed("RBV")
until(lambda: "start" in completed)
until(lambda: get("busy_RBV") == 0)
found["start"] = completed["start"]
""")

    assert found["get"] == 0
    assert found["other"] < 2.0
    assert found["start"] < 8.0


def test_a_second_put_callback_on_a_channel_blocks_the_whole_circuit(witness):
    found = witness.run("""
busy_for(4.0)
pv("RBV")
began = time.monotonic()
begin("busy", 1, "start")
until(lambda: get("busy_RBV") == 1)
begin("busy", 0, "abort")
found["other"] = timed("RBV")
found["elapsed"] = time.monotonic() - began
until(lambda: "start" in completed and "abort" in completed)
found["start"] = completed["start"]
""")

    assert found["start"] > 3.9  # the abort did not abort
    assert found["other"] > 1.0  # it was asked for early in the 4 s
    assert found["elapsed"] >= 3.9


def test_only_the_circuit_of_that_client_is_blocked(witness):
    found = witness.run("""
import subprocess
busy_for(6.0)
begin("busy", 1, "start")
until(lambda: get("busy_RBV") == 1)
begin("busy", 0, "abort")
ask = "import epics, sys; assert epics.caget(sys.argv[1]) is not None"
began = time.monotonic()
subprocess.run([sys.executable, "-c", ask, parts["RBV"]], check=True, capture_output=True)
found["started"] = "start" in completed
send("busy", 0)
until(lambda: "abort" in completed)
""")

    assert not found["started"]


def test_a_put_callback_on_another_field_waits_for_the_record(witness):
    found = witness.run("""
slow_by(1.5)
pv("held_other")
began = time.monotonic()
begin("held", 0.25, "first")
time.sleep(0.2)
begin("held_other", "7", "second")
found["get"] = timed("RBV")  # the circuit goes on: it is another channel
until(lambda: "second" in completed)
found["elapsed"] = time.monotonic() - began
slow_by(0.0)
""")

    assert found["get"] < 1.0
    assert found["elapsed"] >= 1.4


def test_a_record_shows_what_was_put_last_and_processes_only_that(witness):
    found = witness.run("""
slow_by(1.0)
seen = []
monitor = PV(parts["slow_RBV"], callback=lambda value=None, **_: seen.append(value))
until(lambda: seen)
seen.clear()
for value in (0.125, 0.5, 0.375, 0.75):
    send("slow", value)
found["get"] = get("slow")
until(lambda: seen and seen[-1] == 0.75)
found["seen"] = [v for i, v in enumerate(seen) if i == 0 or v != seen[i - 1]]
slow_by(0.0)
""")

    assert found["get"] == 0.75
    assert found["seen"] == [0.125, 0.75]


def test_commands_of_a_circuit_are_served_in_order(witness):
    found = witness.run("""
put("VELO", 5.0)
found["pairs"] = []
for value in (1.0, 2.0, 3.0):
    send("VELO", value)
    found["pairs"].append(get("VELO"))
put("VELO", 10.0)
""")

    assert found["pairs"] == [1.0, 2.0, 3.0]


STAMPS = """
put("idle", get("idle") + 0.5)
time.sleep(0.5)
events = []
field = PV(parts[given["field"]], form="time",
           callback=lambda value=None, timestamp=None, **_: events.append((value, timestamp)))
until(lambda: events)
before = pv("idle").get_with_metadata(use_monitor=False)["timestamp"]
put(given["field"], 2.0)
until(lambda: events[-1][0] == 2.0)
found["event"] = [stamp - before for value, stamp in events if value == 2.0][0]
found["get"] = pv("idle").get_with_metadata(use_monitor=False)["timestamp"] - before
"""


def test_a_field_that_does_not_make_the_record_process_keeps_its_old_stamp(witness):
    found = witness.run(STAMPS, field="idle_field")

    assert found["event"] == pytest.approx(0.0, abs=1e-3)
    assert found["get"] == pytest.approx(0.0, abs=1e-3)


def test_the_event_of_a_put_field_has_the_stamp_of_before_the_record_processes(witness):
    found = witness.run(STAMPS, field="processing_field")

    assert found["event"] == pytest.approx(0.0, abs=1e-3)  # half a second old
    assert found["get"] > 0.4


def test_what_the_database_definition_protects_cannot_be_written(witness):
    found = witness.run("""
found["read_only"] = pv("read_only").write_access
found["axis"] = pv("axis").write_access
""")

    assert found == {"read_only": False, "axis": True}


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_after_a_minute_the_first_put_callback_fails_and_the_second_has_its_turn(witness):
    found = witness.run("""
busy_for(75.0)
pv("RBV")
begin("busy", 1, "start")
until(lambda: get("busy_RBV") == 1)
begin("busy", 0, "abort")
found["other"] = timed("RBV")
until(lambda: get("busy_RBV") == 0)
""")

    assert 55.0 < found["other"] < 74.0
