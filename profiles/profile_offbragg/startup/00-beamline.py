"""Devices, RunEngine, plans and catalog of the beamline that OFFBRAGG_BEAMLINE names.

What a beamline adds of its own (plans, shortcuts) goes into further files beside this one.
"""

from IPython import get_ipython

from offbragg.shell.session import sit_down

globals().update(sit_down(get_ipython()))
