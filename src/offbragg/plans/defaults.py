"""What plans use where they are given nothing: the beamline's own, so that a sweep is enough."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from bluesky.utils import MsgGenerator

from offbragg.errors import ConfigError, SweepError
from offbragg.plans.messages import PLAN_DEFAULTS, ask
from offbragg.plans.triggers import gives_pulses, waits_for_pulses
from offbragg.spelling import did_you_mean

Plan = TypeVar("Plan", bound=Callable[..., Any])
More = Callable[[Mapping[str, Any], "Defaults"], MsgGenerator[Mapping[str, Any]]]

_DEVICES = ("detector", "axis", "cryostream")
"""Parameters that come first in a plan and may be left out."""

_FILLED = {"cryostream": "temperature"}
"""Of parameters that are called otherwise in [defaults]: its key."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """The devices of a beamline, and those that plans use unless they are given others.

    Parameters
    ----------
    devices
        All, by name.
    detector, axis, temperature, shutter, permit, attenuator, flyers
        As [defaults] of ``beamline.toml`` names them.
    file
        That file, for messages.
    past
        Gives the runs of a series as mappings that ``PastRun`` takes, called with ``series=``.
    lacks
        Returns what frames lack on the disks, in words, or nothing; called with ``n_frames=``,
        ``detector=`` as in a start document, and ``what=`` they are.
    """

    devices: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    detector: Any = None
    axis: Any = None
    temperature: Any = None
    shutter: Any = None
    permit: Any = None
    attenuator: Any = None
    flyers: tuple[Any, ...] = ()
    file: str = "beamline.toml"
    past: Callable[..., list[dict[str, Any]]] | None = None
    lacks: Callable[..., str] | None = None

    def find(self, path: str) -> Any:
        """Find a device or signal by the name that `name_of` gives.

        Raises
        ------
        ConfigError
            If there is none.
        """
        first, *rest = path.split(".")
        try:
            return functools.reduce(getattr, rest, self.devices[first])
        except (KeyError, AttributeError):
            raise ConfigError(
                f"{path} is not a device or signal of this beamline; there are "
                f"{', '.join(self.devices) or 'none'}\nIs {self.file} still the one of that time?"
            ) from None

    def fill(
        self, parameters: Sequence[str], given: Mapping[str, Any], *, still: bool = False
    ) -> dict[str, Any]:
        """Add to what a plan was given what it was not given.

        Parameters
        ----------
        parameters
            Names of the plan's parameters.
        given
            Those that it was given, also if that is None.
        still
            Whether nothing turns: nothing that gives pulses flies along.
        """
        known = dict(given)
        for name in parameters:
            if name in given:
                continue
            if name == "axis" and not still and (turning := _axis_of(given)) in self.devices:
                known["axis"] = self.devices[turning]
            elif name == "flyers":
                detector = known.get("detector")
                if detector is self.detector:  # those of another detector are not known
                    silent = still or not waits_for_pulses(detector)
                    known["flyers"] = [
                        flyer for flyer in self.flyers if not (silent and gives_pulses(flyer))
                    ]
            elif name in (*_DEVICES, "shutter", "permit", "attenuator"):
                default = getattr(self, _FILLED.get(name, name))
                if default is not None:
                    known[name] = default
        return known


def with_defaults(*needs: str, still: bool = False, more: More | None = None) -> Any:
    """Let a plan be called without what the beamline knows: ``rotation_scan(sweep)``.

    Devices that come first (detector, axis, cryostream) may be left out; so may whatever else
    [defaults] has. What is given overrides, None included.

    Parameters
    ----------
    needs
        Parameters that must be known in the end.
    still
        Whether the plan records stills.
    more
        Called with what was given and the defaults; a plan that gives more, which goes before
        the defaults.
    """

    def decorate(plan: Plan) -> Plan:
        parameters = list(inspect.signature(plan).parameters)

        @functools.wraps(plan)
        def whole(*args: object, **kwargs: object) -> MsgGenerator[Any]:
            given = bind(plan, args, kwargs)
            defaults = (yield from ask(PLAN_DEFAULTS)) or Defaults()
            if more is not None:
                given = {**(yield from more(given, defaults)), **given}
            known = defaults.fill(parameters, given, still=still)
            for name in needs:
                if known.get(name) is None:
                    raise _missing(plan, name, defaults)
            return (yield from plan(**known))

        return whole  # type: ignore[return-value]

    return decorate


def bind(
    plan: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Find out which parameters of a plan were given, devices that come first being optional.

    Raises
    ------
    SweepError
        If there are too many, one is unknown, or one is given twice: named.
    """
    name = getattr(plan, "__name__", "the plan")
    signature = inspect.signature(plan).parameters
    for key in kwargs:
        if key not in signature:
            raise SweepError(
                f"{name} has no parameter {key!r}{did_you_mean(key, signature)}: "
                f"it has {', '.join(signature)}\nIt is called as {usage(plan)}."
            )
    order = [
        key for key, each in signature.items() if each.kind is each.POSITIONAL_OR_KEYWORD
    ]  # fmt: skip
    given: dict[str, Any] = {}
    rest = list(args)
    if len(rest) < len(order):
        for key in [key for key in order if key in _DEVICES and key not in kwargs]:
            if rest and is_device(rest[0]):
                given[key] = rest.pop(0)
        order = [key for key in order if key not in _DEVICES]
    if len(rest) > len(order):
        raise SweepError(
            f"{name} was given {len(args)} things in a row\nIt is called as {usage(plan)}."
        )
    given |= dict(zip(order, rest, strict=False))
    for key in kwargs:
        if key in given:
            raise SweepError(f"{name} was given {key!r} twice\nIt is called as {usage(plan)}.")
    return {**given, **kwargs}


def usage(plan: Callable[..., Any]) -> str:
    """Return how a plan is called, short and in full.

    Examples
    --------
    >>> def rotation_scan(detector, axis, sweep, *, md=None): ...
    >>> usage(rotation_scan)
    'rotation_scan(sweep) or rotation_scan(detector, axis, sweep)'
    """
    name = getattr(plan, "__name__", "plan")
    order = [
        key
        for key, each in inspect.signature(plan).parameters.items()
        if each.kind is each.POSITIONAL_OR_KEYWORD
    ]
    short = ", ".join(key for key in order if key not in _DEVICES)
    return f"{name}({short}) or {name}({', '.join(order)})"


def is_device(thing: object) -> bool:
    """Return whether something that was given in a row is a device, and not a sweep or a number."""
    return isinstance(getattr(thing, "name", None), str)


def name_of(device: object) -> str | None:
    """Return the name by which `Defaults.find` finds a device or signal again.

    What has no name (a permit needs none) is not found again: its class says what it was, as None
    would say that there was nothing.
    """
    if device is None:
        return None
    root = getattr(device, "root", device)
    name = str(getattr(root, "name", type(root).__name__))
    dotted = getattr(device, "dotted_name", "")
    return f"{name}.{dotted}" if dotted else name


def _missing(plan: Callable[..., Any], name: str, defaults: Defaults) -> SweepError:
    what = getattr(plan, "__name__", "the plan")
    key = _FILLED.get(name, name)
    advice = (
        f"Give {usage(plan)}, or set [defaults] {key} in {defaults.file}."
        if hasattr(defaults, key)
        else f"It is called as {usage(plan)}."
    )
    return SweepError(f"{what} was given no {name}, and there is no default\n{advice}")


def _axis_of(given: Mapping[str, Any]) -> str:
    """Return which axis the sweeps that were given turn; what is wrong with them is said later."""
    sweeps = given.get("sweep", given.get("sweeps"))
    if isinstance(sweeps, Sequence) and not isinstance(sweeps, str) and sweeps:
        sweeps = sweeps[0]
    axis = sweeps.get("axis") if isinstance(sweeps, Mapping) else getattr(sweeps, "axis", None)
    return str(getattr(axis, "name", axis))
