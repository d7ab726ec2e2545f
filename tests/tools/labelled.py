"""A device that takes a number for a text."""

from ophyd import Component as Cpt
from ophyd import Device, EpicsSignalRO


class Label(Device):
    text = Cpt(EpicsSignalRO, "current", string=True)
