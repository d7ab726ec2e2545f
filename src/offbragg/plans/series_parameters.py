"""What a series is asked for: sweeps, temperatures, their order."""

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal

from offbragg.errors import SweepError
from offbragg.sweep import Sweep

Order = Literal["given", "warming", "cooling"]


ORDERS = ("given", "warming", "cooling")


def as_sweeps(sweeps: Any) -> list[Sweep]:
    """Return the sweeps of a series, of which there may be one.

    Raises
    ------
    SweepError
        If there are none, or one does not turn.
    """
    if isinstance(sweeps, Sweep | Mapping):
        sweeps = [sweeps]
    if isinstance(sweeps, str) or not hasattr(sweeps, "__iter__"):
        raise SweepError(f"sweeps is {sweeps!r}: it must be a sweep, or a list of them, [sweep]")
    planned = [Sweep.of(sweep) for sweep in sweeps]
    if not planned or not all(sweep.step for sweep in planned):
        raise SweepError("sweeps is empty, or one has step 0: a series has sweeps that turn")
    return planned


def turned(planned: Sequence[Sweep], n_points: int, *, both_ways: bool) -> list[list[Sweep]]:
    """Return the sweeps at each of a number of temperatures, every other one backwards if asked."""
    return [
        [
            sweep.backwards() if both_ways and (i * len(planned) + j) % 2 else sweep
            for j, sweep in enumerate(planned)
        ]
        for i in range(n_points)
    ]


def in_order(
    temperatures: Sequence[float] | None, order: str = "given", reference: float | None = None
) -> list[float]:
    """Put temperatures into the order in which they are measured.

    Examples
    --------
    >>> in_order([300, 100, 200], "warming", reference=100)
    [100.0, 200.0, 300.0, 100.0]
    """
    if order not in ORDERS:
        raise SweepError(f"order is {order!r}: it must be one of {', '.join(ORDERS)}")
    if isinstance(temperatures, str | Mapping) or not hasattr(temperatures, "__iter__"):
        raise SweepError(f"temperatures is {temperatures!r}: it must be a list, K, as [300, 200]")
    asked: list[Any] = list(temperatures or ())
    for kelvin in asked if reference is None else [*asked, reference]:
        if not is_number(kelvin) or kelvin == 0:
            raise SweepError(f"temperature {kelvin!r} cannot be set: it must be a number above 0 K")
    points = [float(kelvin) for kelvin in asked]
    if not points:
        raise SweepError("temperatures is empty: a series has at least one, K")
    if order != "given":
        points.sort(reverse=order == "cooling")
    return points if reference is None else [*points, float(reference)]


def check_number(
    name: str, value: object, unit: str = "", *, least: float = 0, whole: bool = False
) -> None:
    """Refuse now what would fail in the middle of a series only."""
    if not is_number(value, least=least) or (whole and not isinstance(value, Integral)):
        wanted = f"a {'whole ' if whole else ''}number from {least:g}{f' {unit}' if unit else ''}"
        raise SweepError(f"{name} is {value!r}: it must be {wanted}")


def is_number(value: object, *, least: float = 0) -> bool:
    """Whether a value is a finite number, not below the least one."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    return least <= float(value) < math.inf
