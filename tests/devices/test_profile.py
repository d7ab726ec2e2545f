"""What a scientist finds in the shell."""

from __future__ import annotations

import runpy

import pytest

from offbragg.beamline import config as beamline
from offbragg.beamline.build import build_devices
from offbragg.errors import DeviceError

pytestmark = pytest.mark.ioc


def test_the_shell_starts_with_devices_plans_and_a_run_engine(config, monkeypatch):
    monkeypatch.setenv(beamline.VARIABLE, str(config.file))
    startup = beamline.profile_directory() / "startup" / "00-beamline.py"

    names = runpy.run_path(str(startup))

    assert len(startup.read_text().splitlines()) <= 30
    assert names["phi"].connected
    assert names["pilatus"].frames == config.paths.frames
    assert names["RE"].state == "idle"
    assert [type(s).__name__ for s in names["RE"].suspenders] == ["BeamSuspender"]
    assert {"rotation_scan", "temperature_series", "estimate", "Sweep", "sample"} <= set(names)


def test_a_record_that_does_not_answer_is_named(config, monkeypatch):
    wrong = config.devices["shutter"].model_copy(update={"prefix": "NOWHERE:shutter:"})
    other = config.model_copy(update={"devices": {"shutter": wrong}})

    with pytest.raises(DeviceError, match="NOWHERE:shutter:open"):
        build_devices(other, timeout=1.0)
