"""The records of a Pilatus that are used, and the rules of its readout."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from ophyd import Component as Cpt
from ophyd import Device, EpicsSignal, EpicsSignalRO, EpicsSignalWithRBV, Kind
from ophyd.status import Status

from offbragg.devices.background import in_background, is_above_zero, put
from offbragg.errors import ConfigError, DeviceError, SweepError
from offbragg.sweep import Sweep

log = logging.getLogger(__name__)

MIMETYPES = {
    "cbf": "multipart/related;type=image/x-cbf",
    "tif": "multipart/related;type=image/tiff",
}
MAX_FRAMES = 65535  # camserver's NImages (manual)
GAP_FILL = 2  # "-1" in GapFill: what lies between modules has no valid count

TRIGGERS = {
    "internal": 0,  # the series starts at once and keeps its own time
    "ext_enable": 1,  # a gate for each frame; it is exposed as long as the gate
    "ext_trigger": 2,  # one pulse starts the series, which then keeps its own time
    "mult_trigger": 3,  # a pulse for each frame
}
"""Trigger modes by name, and their number in TriggerMode."""
PULSED_READOUT = 0.004  # s, PILATUS2 between external pulses (ADPilatus documentation)
STEADINESS = 2e-3  # pulses by position come early by as much as the axis is too fast


def readout(model: str, *, pulsed: bool = False) -> tuple[float, float]:
    """Return what a Pilatus needs between exposures.

    Parameters
    ----------
    model
        As Dectris writes it, e.g. "PILATUS 2M" or "PILATUS3 X 2M".
    pulsed
        Whether each frame waits for a pulse from outside.

    Returns
    -------
    readout, period
        Shortest dead time after an exposure and shortest period, s.

    Raises
    ------
    ConfigError
        If it is another detector.

    Examples
    --------
    >>> readout("PILATUS3 X 2M")
    (0.00095, 0.002)
    >>> readout("PILATUS 2M")
    (0.00228, 0.00228)
    """
    if not re.match(r"pilatus", model, re.IGNORECASE):
        raise ConfigError(
            f"model {model!r} is not a Pilatus: its readout time is not known\n"
            "Write it as Dectris does, e.g. 'PILATUS 2M' or 'PILATUS3 X 2M'."
        )
    if re.match(r"pilatus\s*3", model, re.IGNORECASE):
        return 0.00095, 0.002
    return (PULSED_READOUT if pulsed else 0.00228), 0.00228


def check_period(model: str, sweep: Sweep, *, trigger: str = "internal") -> None:
    """Refuse a sweep that this model cannot expose.

    With a pulse for each frame, the pulses come as unevenly as the axis turns (0.2 %), and a
    PILATUS2 wants 4 ms between an exposure and the next pulse.

    Raises
    ------
    SweepError
        If the period is shorter than exposure + readout or than the shortest period, or if there
        are more frames than camserver counts.
    """
    pulsed = trigger in ("mult_trigger", "ext_enable")
    dead, shortest = readout(model, pulsed=pulsed)
    uneven = STEADINESS if pulsed else 0.0
    needed = max(sweep.exposure + dead, shortest) * (1.0 + uneven)
    if sweep.period < needed * (1 - 1e-9):
        raise SweepError(
            f"period {sweep.period:g} s is shorter than the {model} allows: "
            f"exposure {sweep.exposure:g} s + readout {dead * 1e3:g} ms, "
            f"and at least {shortest * 1e3:g} ms\n"
            f"Set period to at least {needed:.5f} s, "
            f"or exposure to at most {max(sweep.period / (1.0 + uneven) - dead, 0):.5f} s."
        )
    if sweep.n_frames > MAX_FRAMES:
        raise SweepError(
            f"{sweep.n_frames} frames are more than the {model} takes in one series "
            f"({MAX_FRAMES})\nSplit the sweep."
        )


HEADER_FIELDS = {
    "EnergyLow": "energy_low", "EnergyHigh": "energy_high", "DetVOffset": "det_v_offset",
    "Flux": "flux", "FilterTransm": "filter_transmission", "Det2theta": "det_2theta",
    "Polarization": "polarization", "Alpha": "alpha", "Kappa": "kappa", "Phi": "phi",
    "Chi": "chi", "Omega": "omega", "Wavelength": "wavelength", "DetDist": "distance",
    "BeamX": "beam_x", "BeamY": "beam_y",
}  # fmt: skip
"""Header records that may be filled from other records, and the signal of each."""


class Applied(EpicsSignalWithRBV):
    """A setting that the detector needs seconds for: done at put completion, then read back.

    The read-back shows the demand at once, so only completion says that it was applied.

    Parameters
    ----------
    settle_timeout
        How long it may take, s: camserver allows 110 s for a threshold.
    """

    def __init__(self, *args: object, settle_timeout: float = 150.0, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.settle_timeout = settle_timeout

    def set(self, value: float, **kwargs: object) -> Status:
        """Apply a value, keV; done when camserver has answered and reads it back.

        Raises
        ------
        ConfigError
            If it is not an energy; nothing is written.
        """
        if not is_above_zero(value):
            raise ConfigError(f"{self.name} cannot be {value!r}: it must be above 0 keV")
        return in_background(self, self.apply, float(value))

    def apply(self, value: float) -> None:
        """Do what `set` does, and wait for it.

        Raises
        ------
        DeviceError
            If it takes too long or another value comes back.
        """
        put(self, value, timeout=self.settle_timeout)
        deadline = time.monotonic() + 2.0
        while True:
            read_back = float(self.get(use_monitor=False))
            if abs(read_back - value) <= 0.02 * abs(value) + 1e-9:
                return
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{self.pvname} is {read_back:g} keV after {value:g} keV was applied\n"
                    "Is it within the range of the trim files, is ThresholdAutoApply on, "
                    "and does camserver answer?"
                )
            time.sleep(0.02)


class _WithoutLimits:
    """A character waveform has no limits, though caproto gives it some (as bytes)."""

    def describe(self) -> Any:
        """Describe the text."""
        described = super().describe()  # type: ignore[misc]
        for key in described.values():
            for limit in ("lower_ctrl_limit", "upper_ctrl_limit"):
                key.pop(limit, None)
        return described


class Text(_WithoutLimits, EpicsSignalWithRBV):
    """A text that is written and read back."""


class FixedText(_WithoutLimits, EpicsSignalRO):
    """A text that is only read."""


class PilatusCam(Device):
    """Those of the 248 records of ADPilatus that are used; touching all costs half a minute."""

    acquire = Cpt(EpicsSignal, "Acquire", kind=Kind.omitted)
    acquiring = Cpt(EpicsSignalRO, "Acquire_RBV", auto_monitor=True, kind=Kind.omitted)
    armed = Cpt(EpicsSignalRO, "Armed", auto_monitor=True, kind=Kind.omitted)
    state = Cpt(EpicsSignalRO, "DetectorState_RBV", string=True, kind=Kind.omitted)
    message = Cpt(EpicsSignalRO, "StatusMessage_RBV", string=True, kind=Kind.omitted)
    reply = Cpt(FixedText, "StringFromServer_RBV", string=True, kind=Kind.omitted)
    frame_file = Cpt(FixedText, "FullFileName_RBV", string=True, kind=Kind.omitted)

    exposure = Cpt(EpicsSignalWithRBV, "AcquireTime", kind=Kind.config)
    period = Cpt(EpicsSignalWithRBV, "AcquirePeriod", kind=Kind.config)
    n_frames = Cpt(EpicsSignalWithRBV, "NumImages", kind=Kind.config)
    n_exposures = Cpt(EpicsSignalWithRBV, "NumExposures", kind=Kind.config)
    trigger_mode = Cpt(EpicsSignalWithRBV, "TriggerMode", kind=Kind.config)
    delay = Cpt(EpicsSignalWithRBV, "DelayTime", kind=Kind.config)
    callbacks = Cpt(EpicsSignalWithRBV, "ArrayCallbacks", kind=Kind.omitted)
    gap_fill = Cpt(EpicsSignalWithRBV, "GapFill", kind=Kind.config)
    threshold = Cpt(Applied, "ThresholdEnergy", kind=Kind.config)
    energy = Cpt(Applied, "Energy", kind=Kind.config)
    cut_off = Cpt(EpicsSignalRO, "PixelCutOff_RBV", kind=Kind.config)
    serial = Cpt(EpicsSignalRO, "SerialNumber_RBV", string=True, kind=Kind.config)
    # the IOC corrects what goes to its plugins, never the frame files
    n_bad_pixels = Cpt(EpicsSignalRO, "NumBadPixels", kind=Kind.config)
    bad_pixel_file = Cpt(FixedText, "BadPixelFile", string=True, kind=Kind.config)
    flat_field_valid = Cpt(EpicsSignalRO, "FlatFieldValid", kind=Kind.config)
    flat_field_file = Cpt(FixedText, "FlatFieldFile", string=True, kind=Kind.config)
    header_template = Cpt(FixedText, "CbfTemplateFile", string=True, kind=Kind.config)
    size_x = Cpt(EpicsSignalRO, "MaxSizeX_RBV", kind=Kind.omitted)
    size_y = Cpt(EpicsSignalRO, "MaxSizeY_RBV", kind=Kind.omitted)

    file_path = Cpt(Text, "FilePath", string=True, kind=Kind.config)
    file_path_exists = Cpt(EpicsSignalRO, "FilePathExists_RBV", kind=Kind.omitted)
    file_name = Cpt(Text, "FileName", string=True, kind=Kind.config)
    file_template = Cpt(Text, "FileTemplate", string=True, kind=Kind.omitted)
    file_number = Cpt(EpicsSignalWithRBV, "FileNumber", kind=Kind.omitted)
    auto_increment = Cpt(EpicsSignalWithRBV, "AutoIncrement", kind=Kind.omitted)
    file_timeout = Cpt(EpicsSignal, "ImageFileTmot", kind=Kind.omitted)

    # what camserver writes into each header; no _RBV exists for these
    header_text = Cpt(EpicsSignal, "HeaderString", kind=Kind.omitted)
    energy_low = Cpt(EpicsSignal, "EnergyLow", kind=Kind.omitted)
    energy_high = Cpt(EpicsSignal, "EnergyHigh", kind=Kind.omitted)
    det_v_offset = Cpt(EpicsSignal, "DetVOffset", kind=Kind.omitted)
    flux = Cpt(EpicsSignal, "Flux", kind=Kind.omitted)
    filter_transmission = Cpt(EpicsSignal, "FilterTransm", kind=Kind.omitted)
    det_2theta = Cpt(EpicsSignal, "Det2theta", kind=Kind.omitted)
    polarization = Cpt(EpicsSignal, "Polarization", kind=Kind.omitted)
    alpha = Cpt(EpicsSignal, "Alpha", kind=Kind.omitted)
    kappa = Cpt(EpicsSignal, "Kappa", kind=Kind.omitted)
    n_oscillations = Cpt(EpicsSignal, "NumOscill", kind=Kind.omitted)
    wavelength = Cpt(EpicsSignal, "Wavelength", kind=Kind.omitted)
    distance = Cpt(EpicsSignal, "DetDist", kind=Kind.omitted)
    beam_x = Cpt(EpicsSignal, "BeamX", kind=Kind.omitted)
    beam_y = Cpt(EpicsSignal, "BeamY", kind=Kind.omitted)
    start_angle = Cpt(EpicsSignal, "StartAngle", kind=Kind.omitted)
    angle_increment = Cpt(EpicsSignal, "AngleIncr", kind=Kind.omitted)
    phi = Cpt(EpicsSignal, "Phi", kind=Kind.omitted)
    phi_increment = Cpt(EpicsSignal, "PhiIncr", kind=Kind.omitted)
    chi = Cpt(EpicsSignal, "Chi", kind=Kind.omitted)
    chi_increment = Cpt(EpicsSignal, "ChiIncr", kind=Kind.omitted)
    omega = Cpt(EpicsSignal, "Omega", kind=Kind.omitted)
    omega_increment = Cpt(EpicsSignal, "OmegaIncr", kind=Kind.omitted)
    oscillation_axis = Cpt(EpicsSignal, "OscillAxis", kind=Kind.omitted)
