"""Devices, RunEngine, plans and catalog of the beamline that OFFBRAGG_BEAMLINE names."""

import logging
import os

from IPython import get_ipython

from offbragg import beamline

os.environ.setdefault(beamline.VARIABLE, str(beamline.profile_directory() / "beamline.toml"))
config = beamline.load()
beamline.make_paths(config)
devices = beamline.build_devices(config)
RE = beamline.make_run_engine(config, devices)
beamline.make_interactive(RE, config, get_ipython())
globals().update(devices)

import bluesky.plan_stubs as bps
import bluesky.plans as bp

from offbragg.beamline import sample
from offbragg.errors import CatalogError
from offbragg.plans import estimate, rotation_scan, temperature_series
from offbragg.sweep import Sweep

try:
    cat = config.connect_catalog()
    db = cat.v1
except CatalogError as error:  # one can measure without it
    logging.getLogger("offbragg").warning("no cat, no db: %s", error)
