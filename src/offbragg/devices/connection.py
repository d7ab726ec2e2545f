"""Wait until the records of a device are connected, also where a notification was lost.

Signals of one record share a channel of pyepics, as the readback of an axis and the header record
that copies it do. `epics.get_pv` looks whether the channel is connected, and if not adds the
signal to those that will be notified. While a thread that has notified the others has not yet noted
that the channel is connected, it is too late for that: the signal never hears of it, and never
connects, although the record answers. The same holds for one whose first reading failed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

_REPEATED = 1.0  # s after which notifications are repeated first; then after twice that, and so on


def wait_until_connected(device: Any, timeout: float) -> None:
    """Wait for all signals of a device, and repeat notifications that they may have missed.

    Parameters
    ----------
    device
        With ``wait_for_connection``, as ophyd's devices have it.
    timeout
        For all of them, s.

    Raises
    ------
    TimeoutError
        If some are not connected.
    """
    end = time.monotonic() + timeout
    patience = _REPEATED if hasattr(device, "walk_signals") else timeout
    while True:
        left = end - time.monotonic()
        try:
            device.wait_for_connection(all_signals=True, timeout=min(left, patience))
            return
        except TimeoutError:
            if left <= patience:
                raise
        for signal in unconnected(device):
            _notify(signal)
        patience *= 2


def unconnected(device: Any) -> Iterator[Any]:
    """Return the signals of a device that are not connected."""
    for item in device.walk_signals() if hasattr(device, "walk_signals") else ():
        if not item.item.connected:
            yield item.item


def _notify(signal: Any) -> None:
    """Notify all signals of a channel that it is connected, once more; if it is."""
    from ophyd import get_cl

    layer = get_cl()
    if layer.name != "pyepics":
        return
    names = (getattr(signal, "pvname", None), getattr(signal, "setpoint_pvname", None))
    for name in filter(None, dict.fromkeys(names)):
        channel = layer.get_pv(name)  # the one that they share
        if channel.connected:
            for notify in list(channel.connection_callbacks):
                notify(pvname=channel.pvname, conn=True, pv=channel)
            for notify in list(channel.access_callbacks):
                notify(channel.read_access, channel.write_access, pv=channel)
