"""Temperature series: the same sweeps at one settled temperature after the other."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import FailedStatus, MsgGenerator

from offbragg.errors import OffbraggError
from offbragg.plans.rotation import announce, rotation_scan, start_of
from offbragg.sweep import Sweep


def temperature_series(
    detector: Any,
    axis: Any,
    cryostream: Any,
    temperatures: Sequence[float],
    sweeps: Sequence[Sweep],
    *,
    md: Mapping[str, Any] | None = None,
    **scan: Any,
) -> MsgGenerator[tuple[str, ...]]:
    """Record every sweep at every temperature, one run each; returns the runs' uids.

    All runs share one ``series`` uid. A temperature is set once and its sweeps begin when it has
    settled. Everything is checked before the first temperature is set.

    Parameters
    ----------
    detector, axis
        As for `rotation_scan`.
    cryostream
        Any sample environment whose ``set`` is done when the sample has settled.
    temperatures
        K, in the order in which they are to be measured.
    sweeps
        What to measure at each.
    md
        More for the start documents.
    scan
        More for `rotation_scan`: flyers, monitors, shutter, purpose …
    """
    check_value = getattr(cryostream, "check_value", None)
    if check_value is not None:
        for kelvin in temperatures:
            check_value(kelvin)
    for kelvin in temperatures:
        for sweep in sweeps:
            would_be = {"temperature": {"setpoint": float(kelvin), "direction": "hold"}}
            would_be.update(md or {})
            yield from announce(start_of(detector, axis, sweep, md=would_be, **scan))
    series = {"uid": str(uuid.uuid4()), "kind": "temperature"}
    uids: list[str] = []
    before: float | None = getattr(cryostream, "position", None)
    for kelvin in temperatures:
        yield from bps.checkpoint()
        try:
            yield from bps.abs_set(cryostream, kelvin, wait=True)
        except FailedStatus as error:
            if isinstance(error.__cause__, OffbraggError):
                raise error.__cause__ from None
            raise
        temperature: dict[str, Any] = {
            "setpoint": float(kelvin),
            "direction": _direction(before, kelvin),
        }
        settled = getattr(cryostream, "settled", None)
        if settled:
            temperature["settled"] = dict(settled)
        for sweep in sweeps:
            yield from bps.checkpoint()
            more = {
                "plan_name": "temperature_series",
                "temperature": temperature,
                "series": {**series, "index": len(uids)},
                **(md or {}),
            }
            uids.append((yield from rotation_scan(detector, axis, sweep, md=more, **scan)))
        before = kelvin
    return tuple(uids)


def _direction(before: float | None, now: float) -> str:
    if before is None or abs(now - before) < 0.5:
        return "hold"
    return "warming" if now > before else "cooling"
