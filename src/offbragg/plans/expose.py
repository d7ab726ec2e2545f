"""Frames beside the data: stills, darks, powder, orientation, and the air without the crystal."""

# no "from __future__ import annotations": the queueserver reads the annotations as they are
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.protocols import Flyable, Movable, Readable
from bluesky.utils import MsgGenerator

from offbragg.errors import SweepError
from offbragg.plans.annotations import DEVICE_OR_SWEEP, OPTIONAL_MAPPING, from_json
from offbragg.plans.defaults import with_defaults
from offbragg.plans.rotation import record, rotation_scan
from offbragg.plans.start_document import about, announce, start_of
from offbragg.protocols import Attenuates, HasGeometry, Positioned, as_a, meets
from offbragg.sweep import Sweep

READOUT = 0.003
"""Time after each exposure where no period is given, s: more than any Pilatus needs."""


@with_defaults("detector", still=True)
def expose(
    detector: Flyable | None = None,
    n_frames: int = 1,
    exposure: float = 1.0,
    *,
    period: float | None = None,
    axis: Readable | None = None,
    flyers: Sequence[Flyable] = (),
    monitors: Sequence[Readable] = (),
    shutter: Movable | None = None,
    purpose: str = "data",
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Record frames with the crystal standing still, ``expose(5, 0.5)``; returns the run's uid.

    The detector takes its internal trigger, and gets back the mode that it had. What is not given
    is what [defaults] of beamline.toml names.

    Parameters
    ----------
    detector
        As for `rotation_scan`.
    n_frames
        How many.
    exposure
        Of each, s.
    period
        From one to the next, s; exposure + 3 ms if not given.
    axis
        The rotation axis, for the angle at which the frames are; it is not moved. Without it that
        of the geometry, which a session's RunEngine looks up.
    flyers, monitors, shutter, purpose, md
        As for `rotation_scan`.
    """
    name, angle = _standing(detector, axis)
    if period is None:  # what is not a number is refused by its name
        period = exposure + READOUT if isinstance(exposure, Real) else exposure
    still = Sweep(
        axis=name,
        start=angle,
        step=0.0,
        n_frames=n_frames,
        exposure=exposure,
        period=period,
    )
    more = about("expose", md)
    return (
        yield from record(
            detector, None, still, md=more, flyers=flyers, monitors=monitors, shutter=shutter,
            purpose=purpose,
        )
    )  # fmt: skip


@with_defaults("detector", still=True)
def dark(
    detector: Flyable | None = None,
    n_frames: int = 10,
    exposure: float = 1.0,
    *,
    period: float | None = None,
    axis: Readable | None = None,
    monitors: Sequence[Readable] = (),
    shutter: Movable | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Record frames with the shutter closed: noisy pixels show there; returns the run's uid.

    Parameters
    ----------
    detector, n_frames, exposure, period, axis, monitors, md
        As for `expose`.
    shutter
        Set to "closed"; without one that does, nothing is recorded.
    """
    if shutter is None:
        raise SweepError(
            "dark was given no shutter: nothing would keep the beam from these frames\n"
            "Give shutter=…; if something else blocks the beam, use expose(…, purpose='dark')."
        )
    more = about("dark", md)
    return (
        yield from expose(
            detector, n_frames, exposure, period=period, axis=axis, flyers=(), monitors=monitors,
            shutter=shutter, purpose="dark", md=more,
        )
    )  # fmt: skip


@with_defaults("detector", still=True)
def calibrate(
    detector: Flyable | None = None,
    calibrant: str = "CeO2",
    n_frames: int = 10,
    exposure: float = 1.0,
    *,
    axis: Readable | None = None,
    flyers: Sequence[Flyable] = (),
    monitors: Sequence[Readable] = (),
    shutter: Movable | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Record the rings of a powder standard, for the geometry; returns the run's uid.

    Parameters
    ----------
    detector
        At the position that is to be calibrated.
    calibrant
        The standard, as "CeO2" or "LaB6"; it is this run's sample.
    n_frames, exposure, axis, flyers, monitors, shutter, md
        As for `expose`.
    """
    more = {"sample": {"name": calibrant, "label": "powder"}, **about("calibrate", md)}
    return (
        yield from expose(
            detector, n_frames, exposure, axis=axis, flyers=flyers, monitors=monitors,
            shutter=shutter, purpose="calibration", md=more,
        )
    )  # fmt: skip


@from_json(detector=DEVICE_OR_SWEEP, sweep=OPTIONAL_MAPPING)
@with_defaults("detector", "axis", "sweep")
def orient_scan(
    detector: Flyable | None = None,
    axis: Flyable | None = None,
    sweep: Sweep | Mapping[str, Any] | None = None,
    *,
    attenuator: Movable | None = None,
    transmission: float = 0.01,
    both_ways: bool = True,
    flyers: Sequence[Flyable] = (),
    monitors: Sequence[Readable] = (),
    shutter: Movable | None = None,
    permit: Readable | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[tuple[str, ...]]:
    """Record an attenuated sweep, there and back, for centring and UB; returns the runs' uids.

    Bragg peaks are far brighter than what lies between them: attenuated, they stay below
    saturation. The attenuator is set back, whatever happens.

    Parameters
    ----------
    detector, axis, sweep
        As for `rotation_scan`; 180 degree are enough.
    attenuator
        Set to ``transmission``, if given; its ``attenuation``, read then, goes into the start
        documents.
    transmission
        Part of the beam that passes, above 0 to 1.
    both_ways
        Turn back as a second run: a lag of the axis shows as a difference.
    flyers, monitors, shutter, permit, md
        As for `rotation_scan`.
    """
    there = Sweep.of(sweep or {})
    back = replace(there, start=there.stop, step=-there.step)
    if not isinstance(transmission, Real) or not 0 < transmission <= 1:
        raise SweepError(f"transmission is {transmission!r}: it must be above 0 and at most 1")
    more = about("orient_scan", md)
    for each in (there, back):
        known = start_of(
            detector, axis, each, md=more, flyers=flyers, monitors=monitors, permit=permit,
            purpose="orient",
        )  # fmt: skip
        yield from announce(known)

    def inner() -> MsgGenerator[tuple[str, ...]]:
        uids: list[str] = []
        if attenuator is not None and "attenuation" not in (md or {}):  # filters come in steps
            filters = as_a(attenuator, Attenuates)
            more["attenuation"] = filters.attenuation if filters else 1.0 / transmission
        for each in (there, back) if both_ways else (there,):
            yield from bps.checkpoint()
            uids.append(
                (
                    yield from rotation_scan(
                        detector, axis, each, md=more, flyers=flyers, monitors=monitors,
                        shutter=shutter, permit=permit, purpose="orient",
                    )
                )
            )  # fmt: skip
        return tuple(uids)

    return (yield from _set_for_now(attenuator, transmission, inner))


@from_json(detector=DEVICE_OR_SWEEP, sweep=OPTIONAL_MAPPING)
@with_defaults("detector", "axis", "sweep", "translation", "out")
def air_scan(
    detector: Flyable | None = None,
    axis: Flyable | None = None,
    sweep: Sweep | Mapping[str, Any] | None = None,
    translation: Movable | None = None,
    out: float | None = None,
    *,
    every: int = 10,
    flyers: Sequence[Flyable] = (),
    monitors: Sequence[Readable] = (),
    shutter: Movable | None = None,
    permit: Readable | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Record what air and windows scatter, with the crystal out; returns the run's uid.

    The crystal is put back, whatever happens. The run belongs to the data that have its detector
    position and attenuation.

    Parameters
    ----------
    detector, axis
        As for `rotation_scan`.
    sweep
        Of the data; the same angles are turned in steps ``every`` times as large.
    translation
        Moves the crystal.
    out
        Where the crystal is out of the beam, in the translation's own unit.
    every
        Number of data frames per frame of air.
    flyers, monitors, shutter, permit, md
        As for `rotation_scan`.
    """
    data = Sweep.of(sweep or {})
    if isinstance(every, bool) or not isinstance(every, Integral) or every < 1:
        raise SweepError(f"every is {every!r}: it must be a whole number from 1")
    thinned = replace(data, step=data.step * every, n_frames=math.ceil(data.n_frames / every))
    more = about("air_scan", md)
    known = start_of(
        detector, axis, thinned, md=more, flyers=flyers, monitors=monitors, permit=permit,
        purpose="background",
    )  # fmt: skip
    yield from announce(known)

    def inner() -> MsgGenerator[str]:
        return (
            yield from rotation_scan(
                detector, axis, thinned, md=more, flyers=flyers, monitors=monitors,
                shutter=shutter, permit=permit, purpose="background",
            )
        )  # fmt: skip

    return (yield from _set_for_now(translation, out, inner))


def _set_for_now(device: Any, value: float | None, plan: Any) -> MsgGenerator[Any]:
    """Run a plan with a device set to a value, and set it back whatever happens."""
    if device is None:
        return (yield from plan())
    before = device.position if meets(device, Positioned) else None
    if before is None:
        before = yield from bps.rd(device)

    def inner() -> MsgGenerator[Any]:
        yield from bps.abs_set(device, value, wait=True)
        return (yield from plan())

    def back() -> MsgGenerator[None]:
        yield from bps.abs_set(device, before, wait=True)

    return (yield from bpp.finalize_wrapper(inner(), back))


def _standing(detector: Any, axis: Any) -> tuple[str, float]:
    """Name the axis at whose angle stills are taken, and the angle."""
    if axis is not None:
        return axis.name, float(axis.position)
    geometry = detector.geometry if meets(detector, HasGeometry) else None
    if geometry is None:
        raise SweepError(
            "cannot tell at which axis, and where, the frames stand: give axis=…, as axis=phi"
        )
    return geometry.scan_axis, next(a.angle for a in geometry.axes if a.name == geometry.scan_axis)
