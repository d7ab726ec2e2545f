"""Devices, RunEngine and plans of the beamline that OFFBRAGG_BEAMLINE names."""

import os

from offbragg import beamline

os.environ.setdefault(beamline.VARIABLE, str(beamline.profile_directory() / "beamline.toml"))
config = beamline.load()
beamline.make_paths(config)
devices = beamline.build_devices(config)
RE = beamline.make_run_engine(config, devices)
globals().update(devices)

import bluesky.plan_stubs as bps
import bluesky.plans as bp

from offbragg.beamline import sample
from offbragg.plans import estimate, rotation_scan, temperature_series
from offbragg.sweep import Sweep
