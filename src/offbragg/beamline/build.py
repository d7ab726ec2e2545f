"""Devices from ``beamline.toml``: made, connected and found by name."""

from __future__ import annotations

import copy
import importlib
import inspect
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal, get_type_hints

from pydantic import TypeAdapter, ValidationError

from offbragg.beamline.agreements import check_device
from offbragg.beamline.config import Beamline
from offbragg.beamline.tables import ChannelAccess, DeviceConfig
from offbragg.errors import ConfigError, DeviceError
from offbragg.protocols import (
    Attenuator,
    Connectable,
    Detector,
    Flyer,
    Permit,
    Positioned,
    SampleEnvironment,
    Shutter,
    meets,
)

log = logging.getLogger(__name__)

_BY_NAME = {
    "frames": "paths.frames", "geometry": "geometry", "reserve": "limits.free_disk",
    "limits": "limits.temperature",
}  # fmt: skip
"""What a class without ``from_beamline`` still gets, by the names of its parameters."""


def set_environment(config: Beamline) -> None:
    """Set the Channel Access environment; must come before ophyd is imported.

    Raises
    ------
    ConfigError
        If Channel Access has started already with another setting.
    """
    set_channel_access(config.channel_access, str(config.file))


def set_channel_access(access: ChannelAccess, whose: str) -> None:
    """Set the environment that says how IOCs are found, for the file ``whose``.

    Raises
    ------
    ConfigError
        If Channel Access has started already with another setting.
    """
    wanted = access.environment()
    differing = [key for key, value in wanted.items() if os.environ.get(key) != value]
    ca = sys.modules.get("epics.ca")
    # libca reads its environment when it is loaded
    if differing and ca is not None and ca.libca is not None:
        raise ConfigError(
            f"{differing[0]} cannot become {wanted[differing[0]]!r}: Channel Access runs already "
            f"with {os.environ.get(differing[0])!r}\n"
            f"Start a new process for {whose}."
        )
    os.environ.update(wanted)


def build_devices(
    config: Beamline,
    names: Sequence[str] | None = None,
    *,
    beside: Mapping[str, Any] | None = None,
    timeout: float = 10.0,
) -> dict[str, Any]:
    """Make the devices of a beamline and wait until they are connected.

    Parameters
    ----------
    config
        What `load` gave.
    names
        Only these; all when not given.
    beside
        Devices that there are already, for those that are made of others.
    timeout
        For all records of a device to connect, s.

    Raises
    ------
    ConfigError
        For a class that cannot be imported, an unknown parameter or one of the wrong type.
    DeviceError
        If a device is not what plans would take it for (`offbragg.protocols`): the member and the
        nearest right name. If records do not answer: their names.
    """
    set_environment(config)
    from offbragg.devices.ca_messages import log_messages

    log_messages()
    _require_stopped_moves()
    offered = {
        "paths.frames": str(config.paths.frames),
        "geometry": config.make_geometry(),
        "limits.free_disk": config.limits.free_disk,
        "limits.temperature": config.limits.temperature,
    }
    devices: dict[str, Any] = {}
    for name in config.devices if names is None else names:
        others = {**(beside or {}), **devices}
        devices[name] = _make(config, name, config.devices[name], offered, others)
        for doubt in check_device(devices[name], roles_of(config, name)).doubts:
            log.warning("%s", doubt)
    for device in devices.values():
        _connect(device, timeout)
    return devices


def destroy_devices(devices: Mapping[str, Any]) -> None:
    """Disconnect devices from their records: what looks at others goes before them."""
    for device in reversed(list(devices.values())):
        if hasattr(device, "destroy"):
            device.destroy()


def roles_of(config: Beamline, name: str) -> dict[str, type]:
    """Return what a device is to be, as the configuration uses it: where → protocol."""
    defaults = config.defaults
    uses = [
        ("[defaults] detector", defaults.detector, Detector),
        ("[defaults] axis", defaults.axis, Positioned),
        ("[defaults] temperature", defaults.temperature, SampleEnvironment),
        *(("[defaults] flyers", flyer, Flyer) for flyer in defaults.flyers),
        ("[defaults] shutter", defaults.shutter, Shutter),
        ("[defaults] permit", defaults.permit, Permit),
        ("[defaults] attenuator", defaults.attenuator, Attenuator),
        ("[suspend] shutter", config.suspend and config.suspend.shutter, Shutter),
    ]
    geometry = config.make_geometry()
    for axis in geometry.axes if geometry is not None else ():
        uses.append(("[[geometry.axes]]", axis.name, Positioned))
    roles: dict[type, list[str]] = {}
    for where, used, protocol in uses:
        if used == name:
            roles.setdefault(protocol, []).append(where)
    return {" and ".join(where): protocol for protocol, where in roles.items()}


def _make(
    config: Beamline,
    name: str,
    device: DeviceConfig,
    offered: Mapping[str, Any],
    made: Mapping[str, Any],
) -> Any:
    module, _, cls_name = device.class_.partition(":")
    where = f"devices.{name}"
    try:
        cls = getattr(importlib.import_module(module), cls_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{where}.class {device.class_!r} in {config.file} cannot be imported: {error}"
        ) from error
    if device.records:
        cls = _with_records(cls, device.records, f"{where}.records", config.file)
    known = {
        key: parameter
        for key, parameter in inspect.signature(cls.__init__).parameters.items()
        if key not in ("self", "prefix", "name") and parameter.kind is not parameter.VAR_KEYWORD
    }
    hints = get_type_hints(cls.__init__)
    parameters = {
        key: offered[source]
        for key, source in _from_beamline(cls, known, device.parameters).items()
    }
    for key, value in device.parameters.items():
        if key not in known:
            raise ConfigError(
                f"{where}.{key} is unknown in {config.file}; {cls_name} has "
                f"{', '.join(['class', 'prefix', *known])}"
            )
        if isinstance(value, dict) and value.keys() == {"device"}:
            if value["device"] not in made:
                raise ConfigError(
                    f"{where}.{key} is the device {value['device']!r} in {config.file}: it must be "
                    f"one of those before it, {', '.join(made) or 'of which there are none'}"
                )
            value = made[value["device"]]
        elif key in hints:
            try:
                # strict but for sequences: TOML knows arrays only
                strict = not isinstance(value, list)
                value = TypeAdapter(hints[key]).validate_python(value, strict=strict)
            except ValidationError as error:
                reason = error.errors()[0]["msg"].removeprefix("Input ")
                raise ConfigError(
                    f"{where}.{key} is {value!r} in {config.file}: it {reason}"
                ) from (None)
        parameters[key] = value
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in parameters:
            raise ConfigError(f"{where}.{key} is missing in {config.file}")
    if "prefix" in inspect.signature(cls.__init__).parameters:  # a permit has no records
        return cls(device.prefix, name=name, **parameters)
    return cls(name=name, **parameters)


def _from_beamline(cls: type, known: Iterable[str], given: Mapping[str, Any]) -> Mapping[str, str]:
    """Return which parameters of a class other tables of beamline.toml fill: name → key there."""
    sources: Mapping[str, str] | None = getattr(cls, "from_beamline", None)
    wanted = _BY_NAME if sources is None else sources
    filled = {key: source for key, source in wanted.items() if key in known and key not in given}
    if filled and sources is None:
        log.warning(
            "%s gets %s from beamline.toml by name, which will end: give the class "
            "from_beamline = %s", cls.__qualname__, ", ".join(filled), filled,
        )  # fmt: skip
    return filled


def _with_records(
    cls: Any, records: Mapping[str, str | list[str] | Literal[False]], where: str, file: Path | None
) -> Any:
    """Make the class of a device whose signals have other records than the class says."""
    changed: dict[str, Any] = {"__module__": cls.__module__, "__doc__": cls.__doc__}
    for signal, names in records.items():
        if signal not in cls.component_names:
            raise ConfigError(
                f"{where}.{signal} is unknown in {file}; {cls.__name__} has the signals "
                f"{', '.join(cls.component_names)}"
            )
        if names is False:
            changed[signal] = None  # so ophyd leaves it out
            continue
        read, *write = [names] if isinstance(names, str) else names or [""]
        if not read or len(write) > 1:
            raise ConfigError(
                f"{where}.{signal} is {names!r} in {file}: it must be the record's name after the "
                "prefix, or two: [read, write]"
            )
        component = copy.copy(getattr(cls, signal))
        component.suffix = read
        component.kwargs = {**component.kwargs, **({"write_pv": write[0]} if write else {})}
        changed[signal] = component
    return type(cls.__name__, (cls,), changed)


def _require_stopped_moves() -> None:
    """Refuse to build motors whose stopped moves would be taken for successes."""
    from offbragg.devices.motor import self_test

    part = self_test()
    if not part.active:
        raise DeviceError(f"motors are not built without what guards their moves\n{part}")


def _connect(device: Any, timeout: float) -> None:
    if not meets(device, Connectable):  # it has no records
        return
    from offbragg.devices.connection import unconnected, wait_until_connected

    try:
        wait_until_connected(device, timeout)
    except TimeoutError:
        dead = [getattr(signal, "pvname", signal.name) for signal in unconnected(device)]
        silent = f"{len(dead)} of its records do not answer, first {', '.join(dead[:3])}"
        if not dead:
            silent = "all of its records answered, but late"
        raise DeviceError(
            f"{device.name} is not connected within {timeout:g} s: {silent}\n"
            "Is the IOC running, and do prefix and [channel_access] in beamline.toml fit it?\n"
            f"Searched at {_searched() or 'no address at all'}."
        ) from None


def _searched() -> str:
    from caproto import get_client_address_list

    return ", ".join(sorted({f"{host}:{port}" for host, port in get_client_address_list()}))


def find(devices: Mapping[str, Any], path: str, *, config: Beamline) -> Any:
    """Find a device or signal by a dotted name, as "cryostream.temperature".

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    first, *rest = path.split(".")
    try:
        return reduce(getattr, rest, devices[first])
    except (KeyError, AttributeError):
        raise ConfigError(
            f"{path} in {config.file} names no device or signal; there are {', '.join(devices)}"
        ) from None
