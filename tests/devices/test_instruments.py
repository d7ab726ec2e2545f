"""Shutter and cryostream over real Channel Access."""

from __future__ import annotations

import time

import pytest

from offbragg.errors import ConfigError, DeviceError

pytestmark = pytest.mark.ioc


def test_a_shutter_is_open_when_its_read_back_says_so(devices):
    shutter = devices["shutter"]

    shutter.set("open").wait(10)
    assert shutter.state.get() == 1

    shutter.set("closed").wait(10)
    assert shutter.state.get() == 0


def test_a_shutter_is_set_by_words_only(devices):
    with pytest.raises(ConfigError, match="'open' or 'closed'"):
        devices["shutter"].set("Open")


def test_a_move_ends_although_the_limit_switches_did_not_answer(devices, monkeypatch):
    omega = devices["omega"]
    asked = []
    usual = omega.low_limit_switch.get, omega.high_limit_switch.get

    def silent_once(which):
        def get(**how):
            asked.append(which)
            if len(asked) == 1:
                raise TimeoutError("no answer")
            return usual[which](**how)

        return get

    monkeypatch.setattr(omega.low_limit_switch, "get", silent_once(0))
    monkeypatch.setattr(omega.high_limit_switch, "get", silent_once(1))
    start = omega.position

    omega.set(start + 1.0).wait(20)

    assert len(asked) == 2
    assert omega.position == pytest.approx(start + 1.0)
    monkeypatch.undo()
    omega.set(start).wait(20)


def test_a_set_temperature_is_reached_and_settled(devices):
    cryostream = devices["cryostream"]

    cryostream.set(295.0).wait(60)

    assert cryostream.position == pytest.approx(295.0, abs=0.5)
    assert cryostream.settled["mean"] == pytest.approx(295.0, abs=0.2)
    assert cryostream.settled["window"] == cryostream.settle.window


def test_another_temperature_ends_the_waiting_for_the_first(devices):
    cryostream = devices["cryostream"]
    first = cryostream.set(290.0)

    second = cryostream.set(295.0)

    with pytest.raises(DeviceError, match="another temperature was asked for"):
        first.wait(10)
    second.wait(60)


def test_asking_twice_for_the_same_temperature_is_one_waiting(devices):
    cryostream = devices["cryostream"]

    first = cryostream.set(294.0)

    assert cryostream.set(294.0) is first
    first.wait(60)


def test_a_temperature_out_of_range_is_refused_and_not_asked_for(devices):
    cryostream = devices["cryostream"]
    target = cryostream.target.get()

    with pytest.raises(ConfigError, match="10 K is outside 80 to 400 K"):
        cryostream.set(10.0)

    assert cryostream.target.get() == target


def test_one_that_was_overtaken_does_not_ask_after_the_other(devices, monkeypatch):
    cryostream = devices["cryostream"]
    asked, pauses = [], iter([0.5])
    ask, read = cryostream.ask, cryostream.read_temperature

    def slow_read():
        time.sleep(next(pauses, 0.0))
        return read()

    monkeypatch.setattr(cryostream, "read_temperature", slow_read)
    monkeypatch.setattr(cryostream, "ask", lambda kelvin: (asked.append(kelvin), ask(kelvin)))
    cryostream.set(290.0)
    cryostream.set(294.0).wait(60)

    assert asked == [294.0]
