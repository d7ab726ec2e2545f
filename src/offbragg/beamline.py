"""The beamline: ``beamline.toml`` becomes paths, devices and a RunEngine.

The one place where things meet. Reading the configuration imports no control system, so the
catalog and the stacker read it too; devices and RunEngine are imported where they are made.
"""

from __future__ import annotations

import copy
import fcntl
import importlib
import inspect
import logging
import os
import shutil
import sys
import tomllib
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from offbragg.agreements import check_device
from offbragg.errors import (
    CatalogError,
    ConfigError,
    DeviceError,
    GeometryError,
)
from offbragg.geometry import Geometry
from offbragg.metadata import validate_start
from offbragg.protocols import (
    Attenuator,
    Connectable,
    Detector,
    Flyer,
    KeepsSpeed,
    Permit,
    Positioned,
    SampleEnvironment,
    Shutter,
    TakesComment,
    as_a,
    meets,
)
from offbragg.sample import Sample
from offbragg.sweep import Sweep
from offbragg.watch import Thresholds

if TYPE_CHECKING:
    from offbragg.callbacks.watchdog import Watchdog

log = logging.getLogger(__name__)

VARIABLE = "OFFBRAGG_BEAMLINE"

LoosePath = Annotated[Path, Field(strict=False)]
Range = Annotated[tuple[float, float], Field(strict=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Paths(_Table):
    """Where things are on this host; relative ones are relative to the file that says so."""

    experiment: LoosePath = Field(description="scan files go below it")
    frames: LoosePath = Field(
        description="frame files, as this host sees them; none is read from elsewhere"
    )
    journal: LoosePath = Field(description="one journal per run")
    catalog: LoosePath = Field(description="the catalog's databases and key")
    log: LoosePath = Field(description="log files")


class ChannelAccess(_Table):
    """How IOCs are found; what is not given is left to the environment."""

    address_list: str | None = Field(default=None, description="EPICS_CA_ADDR_LIST")
    auto_address_list: bool | None = Field(default=None, description="EPICS_CA_AUTO_ADDR_LIST")
    server_port: int | None = Field(default=None, description="EPICS_CA_SERVER_PORT")
    repeater_port: int | None = Field(default=None, description="EPICS_CA_REPEATER_PORT")
    max_array_bytes: int | None = Field(default=None, description="EPICS_CA_MAX_ARRAY_BYTES")

    def environment(self) -> dict[str, str]:
        """Give the environment variables that these settings stand for."""
        known: dict[str, str] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value is not None:
                text = ("NO", "YES")[value] if isinstance(value, bool) else str(value)
                known[str(field.description)] = text
        return known


class DeviceConfig(BaseModel):
    """One device: its class, its records and the class's own parameters."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, populate_by_name=True)

    class_: str = Field(alias="class", pattern=r"^[\w.]+:\w+$", description='"module:Class"')
    prefix: str = Field(default="", description="of its records")
    records: dict[str, str | list[str] | Literal[False]] = Field(
        default_factory=dict,
        description="signals whose records have other names than in the class: what follows the "
        "prefix, or [read, write], or false for one that is not there",
    )

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters of the class, as the file gives them."""
        return dict(self.model_extra or {})

    @property
    def made_of(self) -> set[str]:
        """Names of the other devices that it is made of."""
        given = self.parameters.values()
        return {told["device"] for told in given if isinstance(told, dict) and "device" in told}


class Column(_Table):
    """A signal that is recorded through every run and joined to the frames by time."""

    signal: str = Field(pattern=r"^\w+(\.\w+)*$", description='"device.signal"')
    units: str = Field(default="", description="as the signal gives it")


class Catalog(_Table):
    """Where the catalog listens."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)


class Limits(_Table):
    """What is refused before anything moves."""

    free_disk: float = Field(default=1.0, ge=0, description="space to leave on every disk, GB")
    temperature: Range = Field(default=(80.0, 500.0), description="lowest and highest, K")

    @field_validator("temperature")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError("must be the lowest and then the highest temperature")
        return value


class Alarms(_Table):
    """What is told at once, and to whom (see how-to/alarms)."""

    command: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list,
        description="program and arguments, without a shell: run when an alarm is raised or "
        "cleared, with the alarm as JSON on its standard input; none without",
    )
    timeout: float = Field(default=10.0, gt=0, description="time limit of the command, s")
    stall: float = Field(
        default=5.0,
        ge=1,
        description="alarm when no new frame file has come for this many periods (0.5 s at least)",
    )
    full: float = Field(
        default=2.0, ge=0, description="alarm when a disk will be full within this time, h"
    )
    backlog: float = Field(
        default=30.0, gt=0, description="alarm when the stacking backlog exceeds this, s"
    )
    catalog: float = Field(default=3.0, gt=0, description="time limit of the catalog's answer, s")
    clock: float = Field(
        default=1.0, gt=0, description="alarm when a clock jumps or differs by more, s"
    )


class PlanDefaults(_Table):
    """Which devices plans use unless they are given others: names of devices.

    The axis of a sweep is the one that it names; ``axis`` is where stills stand.
    """

    detector: str | None = None
    axis: str | None = None
    temperature: str | None = Field(default=None, description="what temperature_series sets")
    flyers: list[str] = Field(
        default_factory=list,
        description="count once per frame of that detector; what gives pulses flies along when the "
        "detector waits for them",
    )
    shutter: str | None = Field(default=None, description="open during a sweep")
    permit: str | None = Field(default=None, description="whether there is beam")
    attenuator: str | None = Field(default=None, description="for orient_scan")


class Suspend(_Table):
    """When plans wait for beam."""

    signal: str = Field(pattern=r"^\w+(\.\w+)*$", description='"device.signal", as "ring.current"')
    below: float = Field(description="lower limit of a beam, in the signal's units")
    resume: float | None = Field(default=None, description="beam again from here; below if absent")
    wait: float = Field(default=0.0, ge=0, description="time with beam before plans continue, s")
    shutter: str | None = Field(default=None, description="a device, closed meanwhile")


class Beamline(_Table):
    """Everything that ``beamline.toml`` says."""

    beamline_id: str = Field(min_length=1)
    paths: Paths
    channel_access: ChannelAccess = ChannelAccess()
    devices: dict[str, DeviceConfig] = Field(default_factory=dict)
    baseline: list[str] = Field(default_factory=list, description="read before and after a run")
    per_frame: dict[str, Column] = Field(default_factory=dict)
    defaults: PlanDefaults = PlanDefaults()
    suspend: Suspend | None = None
    geometry: dict[str, Any] | None = None
    catalog: Catalog = Catalog()
    limits: Limits = Limits()
    alarms: Alarms = Alarms()
    metadata: dict[str, Any] = Field(default_factory=dict, description="for every start document")
    file: LoosePath = Path("beamline.toml")

    @property
    def key_file(self) -> Path:
        """Where the catalog's server keeps its API key (mode 0600)."""
        return self.paths.catalog / "key"

    @property
    def thresholds(self) -> Thresholds:
        """From where on something is an alarm."""
        return Thresholds(
            reserve=self.limits.free_disk,
            hours=self.alarms.full,
            periods=self.alarms.stall,
            backlog=self.alarms.backlog,
            clock=self.alarms.clock,
        )

    @property
    def catalog_url(self) -> str:
        """Where clients on this host find the catalog."""
        return f"http://{self.catalog.host}:{self.catalog.port}"

    def connect_catalog(self, *, timeout: float = 5.0) -> Any:
        """Connect to the catalog; returns the Tiled client of its runs.

        Parameters
        ----------
        timeout
            How long to wait for a server that is still starting, s.

        Raises
        ------
        CatalogError
            If it is not there or refuses the key.
        """
        from offbragg.catalog.server import connect

        return connect(self.catalog_url, self.read_key(), timeout=timeout)

    def read_key(self) -> str:
        """Read the catalog's key.

        Raises
        ------
        CatalogError
            If it is not there, or not for us.
        """
        try:
            return self.key_file.read_text().strip()
        except OSError as error:
            raise CatalogError(
                f"the catalog's key cannot be read: {error.strerror}\n{self.key_file}\n"
                "The server makes it when it first starts: offbragg serve"
            ) from error

    def make_geometry(self) -> Geometry | None:
        """Read the [geometry] table.

        Raises
        ------
        ConfigError
            If it describes no instrument, or lacks the wavelength.
        """
        if self.geometry is None:
            return None
        table = dict(self.geometry)
        if "wavelength" not in table:
            raise ConfigError(f"geometry.wavelength is missing in {self.file}: Å")
        axes = table.get("axes", [])
        if isinstance(axes, list):
            table["axes"] = [
                {"angle": 0.0, **axis} if isinstance(axis, dict) else axis for axis in axes
            ]
            if axes and isinstance(axes[0], dict):
                table.setdefault("scan_axis", axes[0].get("name"))
        try:
            return Geometry.from_dict(table)
        except GeometryError as error:
            raise ConfigError(f"{error}\nin [geometry] of {self.file}") from error


def profile_directory() -> Path:
    """Find the IPython profile with the simulated beamline that comes with offbragg."""
    here = Path(__file__).resolve()
    for place in (here.parent / "profile", here.parents[2] / "profiles" / "profile_offbragg"):
        if (place / "beamline.toml").is_file():
            return place
    raise ConfigError(f"profile_offbragg does not lie beside {here.parent}: install offbragg again")


def load(path: str | Path | None = None) -> Beamline:
    """Read a ``beamline.toml``.

    Parameters
    ----------
    path
        The file; if not given, what the environment variable ``OFFBRAGG_BEAMLINE`` says.

    Raises
    ------
    ConfigError
        Naming the key, the file, and what is allowed there.
    """
    if path is None:
        told = os.environ.get(VARIABLE)
        if not told:
            raise ConfigError(
                f"no beamline is configured: {VARIABLE} is not set\n"
                f"Set it to a beamline.toml. The simulated one is {profile_directory()}."
            )
        path = told
    file = Path(path).expanduser().absolute()
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from error
    if "file" in content:
        raise ConfigError(f"file is unknown in {file}; there are {_allowed(Beamline, ())}")
    try:
        config = Beamline.model_validate({**content, "file": file})
    except ValidationError as error:
        raise ConfigError(_explain(error, file)) from None
    paths = {name: _from(file, value) for name, value in config.paths}
    config.make_geometry()  # a wrong one is told now, not when a sweep is to begin
    return config.model_copy(update={"paths": Paths(**paths)})


def _from(file: Path, path: Path) -> Path:
    return (file.parent / path.expanduser()).absolute()


def _explain(error: ValidationError, file: Path) -> str:
    """Say what is wrong with a configuration, one line per key."""
    lines = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        match item["type"]:
            case "extra_forbidden":
                lines.append(
                    f"{where} is unknown in {file}; "
                    f"there are {_allowed(Beamline, item['loc'][:-1])}"
                )
            case "missing":
                lines.append(f"{where} is missing in {file}")
            case _:
                reason = item["msg"].removeprefix("Input ")
                lines.append(f"{where} is {item['input']!r} in {file}: it {reason}")
    return "\n".join(lines)


def _allowed(model: type[BaseModel], loc: Sequence[str | int]) -> str:
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is None:
            continue
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return ", ".join(
        field.alias or name for name, field in model.model_fields.items() if name != "file"
    )


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
    geometry = config.make_geometry()
    offered = {
        "frames": str(config.paths.frames),
        "geometry": geometry,
        "reserve": config.limits.free_disk,
        "limits": config.limits.temperature,
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
    parameters = {key: value for key, value in offered.items() if key in known}
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


def _with_records(
    cls: Any, records: Mapping[str, str | list[str] | Literal[False]], where: str, file: Path | None
) -> Any:
    """Make the class of a device whose signals have other records than the class says."""
    changed: dict[str, Any] = {"__module__": cls.__module__, "__doc__": cls.__doc__}
    for signal, told in records.items():
        if signal not in cls.component_names:
            raise ConfigError(
                f"{where}.{signal} is unknown in {file}; {cls.__name__} has the signals "
                f"{', '.join(cls.component_names)}"
            )
        if told is False:
            changed[signal] = None  # so ophyd leaves it out
            continue
        read, *write = [told] if isinstance(told, str) else told or [""]
        if not read or len(write) > 1:
            raise ConfigError(
                f"{where}.{signal} is {told!r} in {file}: it must be the record's name after the "
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
    try:
        device.wait_for_connection(all_signals=True, timeout=timeout)
    except TimeoutError:
        dead = [
            getattr(item.item, "pvname", item.dotted_name)
            for item in (device.walk_signals() if hasattr(device, "walk_signals") else ())
            if not item.item.connected
        ]
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


def make_run_engine(config: Beamline, devices: Mapping[str, Any], **options: Any) -> Any:
    """Make a RunEngine that journals, checks every run before it opens, and records the beamline.

    Parameters
    ----------
    config, devices
        What `load` and `build_devices` gave.
    options
        More for ``bluesky.RunEngine``.
    """
    import bluesky
    import ophyd
    from bluesky.preprocessors import SupplementalData

    import offbragg
    from offbragg.callbacks.journal import Journal, close_all_abandoned
    from offbragg.callbacks.recall import Recall, speeds_left
    from offbragg.callbacks.watchdog import ACQUISITION
    from offbragg.plans.defaults import answering
    from offbragg.plans.meddling import noting_others
    from offbragg.plans.watch import room_keeper, watched

    RE = bluesky.RunEngine(
        {},
        md_validator=lambda md: check_start(config, md),
        scan_id_source=scan_ids(config.paths.journal),
        **options,
    )
    RE.md.update(
        {
            "beamline_id": config.beamline_id,
            "versions": {
                "offbragg": offbragg.__version__,
                "bluesky": bluesky.__version__,
                "ophyd": ophyd.__version__,
            },
            **config.metadata,
        }
    )
    for run in close_all_abandoned(config.paths.journal):
        log.warning("run %s had lost its RunEngine; its journal is closed", run)
    for name, (usual, left) in speeds_left(config.paths.journal).items():
        if axis := as_a(devices.get(name), KeepsSpeed):
            axis.mend_speed(usual, left=left)
    RE.subscribe(Journal(config.paths.journal))
    RE.register_command("recall", Recall(config.paths.journal, config.paths.experiment))
    columns = {
        name: (find(devices, column.signal, config=config), column.units)
        for name, column in config.per_frame.items()
    }
    watchdog = make_watchdog(config, side=ACQUISITION)
    watchdog.is_paused = lambda: RE.state != "running"
    RE.subscribe(watchdog)
    RE.preprocessors.append(answering(plan_defaults(config, devices)))
    RE.preprocessors.append(checker(config, RE))
    RE.preprocessors.append(room_keeper(partial(lacking_room, config)))
    RE.preprocessors.append(recorder(columns, devices))
    RE.preprocessors.append(noting_others(devices))
    RE.preprocessors.append(captioner(RE))
    RE.preprocessors.append(
        SupplementalData(baseline=[find(devices, name, config=config) for name in config.baseline])
    )
    RE.preprocessors.append(watched(watchdog))
    return RE


def plan_defaults(config: Beamline, devices: Mapping[str, Any]) -> Any:
    """Make the `Defaults` of plans from [defaults].

    Raises
    ------
    ConfigError
        If a name there is that of no device.
    """
    from offbragg.callbacks.recall import Recall
    from offbragg.plans.defaults import Defaults

    def named(key: str, name: str) -> Any:
        if name not in devices:
            raise ConfigError(
                f"defaults.{key} is {name!r} in {config.file}: it must be one of the devices, "
                f"{', '.join(devices)}"
            )
        return devices[name]

    defaults = config.defaults.model_dump(exclude_none=True)
    flyers = tuple(named("flyers", name) for name in defaults.pop("flyers"))
    chosen = {key: named(key, name) for key, name in defaults.items()}
    past = Recall(config.paths.journal, config.paths.experiment).runs
    lacks = partial(lacking_room, config)
    return Defaults(devices, flyers=flyers, file=str(config.file), past=past, lacks=lacks, **chosen)


def make_watchdog(
    config: Beamline, *, side: str, looks: Sequence[Callable[[], Any]] = ()
) -> Watchdog:
    """Make what looks at disks, frames and clocks, and tells of alarms.

    Parameters
    ----------
    config
        What `load` gave.
    side
        "acquisition" in the RunEngine's process, "data" beside the stacker.
    looks
        More to look at.
    """
    from offbragg.callbacks.alarm_hook import Hook
    from offbragg.callbacks.watchdog import ACQUISITION, OnceForBoth, Watchdog

    hook = None
    if config.alarms.command:
        hook = Hook(config.alarms.command, timeout=config.alarms.timeout)
        if side == ACQUISITION:
            hook.is_told = OnceForBoth(config.paths.journal)
    return Watchdog(
        dict(config.paths), config.thresholds, side=side, journal=config.paths.journal,
        beamline=config.beamline_id, hook=hook, looks=looks,
    )  # fmt: skip


def watch_data(config: Beamline, stacker: Any, *, catalog: bool) -> tuple[Watchdog, Any]:
    """Make the watchdog that runs beside a stacker, and what follows the journal for it.

    Parameters
    ----------
    config
        What `load` gave.
    stacker
        Whose ``backlog`` is looked at.
    catalog
        Whether runs are to be published: then the catalog has to be there.
    """
    from offbragg.callbacks.watchdog import DATA, CatalogLook, JournalWatch, backlog_look

    looks: list[Any] = [backlog_look(stacker.backlog, config.thresholds)]
    if catalog:
        where = config.catalog
        looks.append(CatalogLook(where.host, where.port, patience=config.alarms.catalog))
    watchdog = make_watchdog(config, side=DATA, looks=looks)
    return watchdog, JournalWatch(watchdog, config.paths.journal)


def install_suspender(RE: Any, config: Beamline, devices: Mapping[str, Any]) -> Any:
    """Let plans wait while there is no beam, as [suspend] says; give the suspender, or None.

    It is bluesky's: ``RE.suspenders`` has it, ``RE.remove_suspender(…)`` takes it away.

    Parameters
    ----------
    RE
        The RunEngine.
    config, devices
        What `load` and `build_devices` gave.
    """
    from offbragg.plans.beam import BeamSuspender, self_test

    told = config.suspend
    if told is None:
        return None
    try:
        suspender = BeamSuspender(
            find(devices, told.signal, config=config),
            told.below,
            resume=told.resume,
            wait=told.wait,
            shutter=told.shutter and find(devices, told.shutter, config=config),
        )
    except ConfigError as error:
        raise ConfigError(f"suspend: {error}\nin [suspend] of {config.file}") from None
    part = self_test()
    if not part.active:
        raise ConfigError(f"suspend: plans would go on without beam\n{part}")
    RE.preprocessors.append(suspender.preprocessor)
    RE.install_suspender(suspender)
    return suspender


def checker(config: Beamline, RE: Any) -> Callable[[Any], Any]:
    """Make a preprocessor that refuses runs when a plan announces them, before it moves anything.

    Parameters
    ----------
    config
        What `load` gave.
    RE
        The RunEngine, for its own metadata as it is then.
    """
    from bluesky.preprocessors import msg_mutator

    def check(msg: Any) -> Any:
        if msg.command == "null" and "would_open" in msg.kwargs:
            per_call = getattr(RE, "_metadata_per_call", {})  # of RE(plan, comment="…")
            check_start(config, {**RE.md, **msg.kwargs["would_open"], **per_call})
        return msg

    return lambda plan: msg_mutator(plan, check)


def recorder(
    columns: Mapping[str, tuple[Any, str]], devices: Mapping[str, Any]
) -> Callable[[Any], Generator[Any, Any, Any]]:
    """Make a preprocessor that records signals through every run and says so in its start.

    What the plan monitors itself is not monitored twice. It also writes where the goniometer's axes
    stand into the start document's geometry, and the angle of stills into their sweep, for the
    devices as for the document.

    Parameters
    ----------
    columns
        Name of the per-frame column → (signal, units).
    devices
        Where the axes are found by name.
    """
    from bluesky import plan_stubs as bps
    from bluesky.preprocessors import msg_mutator, plan_mutator

    def complete(msg: Any) -> Any:
        more: dict[str, Any] = {}
        if msg.command == "open_run" and "sweep" in msg.kwargs:
            more["sweep"] = _where_it_stands(msg.kwargs["sweep"], devices)
            more["per_frame"] = {
                **{name: _column(signal, units) for name, (signal, units) in columns.items()},
                **msg.kwargs.get("per_frame", {}),
            }
        if msg.command == "prepare" and msg.args and isinstance(msg.args[0], Sweep):
            if (geometry := getattr(msg.obj, "geometry", None)) and hasattr(msg.obj, "axes_at"):
                turning = replace(geometry, scan_axis=msg.args[0].axis).to_dict()
                stand = _where_axes_stand(turning, devices)["axes"]
                msg.obj.axes_at = {axis["name"]: axis["angle"] for axis in stand}
            told = _where_it_stands(msg.args[0].to_dict(), devices)
            return msg._replace(args=(Sweep.from_dict(told), *msg.args[1:]))
        if msg.command == "open_run" and "geometry" in msg.kwargs:
            more["geometry"] = _where_axes_stand(msg.kwargs["geometry"], devices)
        return msg._replace(kwargs={**msg.kwargs, **more}) if more else msg

    def watch(msg: Any) -> tuple[Any, Any]:
        if msg.command == "open_run" and columns:
            return None, monitors(
                {told["key"] for told in msg.kwargs.get("per_frame", {}).values()}
            )
        return None, None

    def monitors(plan_has: Set[str]) -> Generator[Any, Any, None]:
        for signal, _ in columns.values():
            if signal.name not in plan_has:
                yield from bps.monitor(signal, name=signal.name)

    return lambda plan: msg_mutator(plan_mutator(plan, watch), complete)


def captioner(RE: Any) -> Callable[[Any], Generator[Any, Any, Any]]:
    """Make a preprocessor that tells detectors, when they are staged, whose frames they will take.

    A detector with a ``comment`` writes it into every frame's header: the number of the run, if
    one is open already, then name and label of the sample.

    Parameters
    ----------
    RE
        The RunEngine, for its own metadata as it is then.
    """
    from bluesky import plan_stubs as bps
    from bluesky.preprocessors import plan_mutator

    def caption(plan: Any) -> Generator[Any, Any, Any]:
        open_run: dict[str, Any] = {}

        def tell(msg: Any) -> tuple[Any, Any]:
            if msg.command == "open_run":
                open_run.update(msg.kwargs, open=True)
            elif msg.command == "close_run":
                open_run.clear()
            elif msg.command == "stage" and meets(msg.obj, TakesComment):
                return told(msg), None
            return None, None

        def told(msg: Any) -> Generator[Any, Any, Any]:
            number = [f"#{RE.md['scan_id']}"] if open_run and "scan_id" in RE.md else []
            known = open_run.get("sample", RE.md.get("sample"))
            if isinstance(known, Mapping):
                words = [str(known[key]) for key in ("name", "label") if known.get(key)]
            else:
                words = [str(known)] if known else []
            yield from bps.abs_set(msg.obj.comment, " ".join(number + words), wait=True)
            return (yield msg)

        return plan_mutator(plan, tell)

    return caption


def _column(signal: Any, units: str) -> dict[str, str]:
    return {"key": signal.name, **({"units": units} if units else {})}


def _where_axes_stand(geometry: Mapping[str, Any], devices: Mapping[str, Any]) -> dict[str, Any]:
    known = Geometry.from_dict(geometry)
    axes = tuple(
        replace(axis, angle=float(devices[axis.name].position))
        if axis.name in devices and axis.name != known.scan_axis
        else axis
        for axis in known.axes
    )
    return replace(known, axes=axes).to_dict()


def _where_it_stands(sweep: Mapping[str, Any], devices: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give stills the angle at which their axis stands: a plan without it does not know."""
    if sweep.get("step") != 0 or sweep.get("axis") not in devices:
        return sweep
    return {**sweep, "start": float(devices[sweep["axis"]].position)}


def check_start(config: Beamline, md: Mapping[str, Any]) -> None:
    """Refuse a run that must not be opened: its metadata, its temperature, the disks.

    Raises
    ------
    MetadataError, ConfigError
        With the field or the path, and what to do.
    """
    validate_start(md)
    if "sweep" not in md:
        return
    low, high = config.limits.temperature
    kelvin = md.get("temperature", {}).get("setpoint")
    if kelvin is not None and not low <= kelvin <= high:
        raise ConfigError(
            f"temperature.setpoint {kelvin:g} K is outside {low:g} to {high:g} K\n"
            f"The range is [limits] temperature in {config.file}."
        )
    check_paths(config, n_frames=md["sweep"]["n_frames"], detector=md["detector"])


def check_paths(config: Beamline, **needs: Any) -> None:
    """Refuse directories that are not there, cannot be written, or have too little space.

    Parameters
    ----------
    config
        Whose [paths].
    needs
        As for `lacking_room`.

    Raises
    ------
    ConfigError
        Naming the path's key, the directory and the numbers.
    """
    if lack := lacking_room(config, **needs):
        raise ConfigError(lack)


def lacking_room(
    config: Beamline,
    *,
    n_frames: int = 0,
    detector: Mapping[str, Any] | None = None,
    what: str = "the sweep",
) -> str:
    """Say what a sweep lacks on the disks that its data cross; nothing if it fits.

    What shares a disk is added up. The catalog's disk can hold up nothing.

    Parameters
    ----------
    config
        Whose [paths].
    n_frames
        How many frames are to be measured.
    detector
        Its ``shape`` and ``format``, as in a start document, or its ``frame_bytes``.
    what
        The frames are of, in the message.
    """
    stacked = written = 0.0
    if detector and "shape" in detector:
        slow, fast = detector["shape"]
        stacked = slow * fast * 1.2
        # uncompressed, or about a byte a pixel
        written = slow * fast * (4.0 if detector.get("format") == "tif" else 1.2)
    written = float((detector or {}).get("frame_bytes", written))
    needs = {"frames": written, "experiment": stacked, "journal": 0.0}
    disks: dict[int, list[str]] = {}
    for name in needs:
        path: Path = getattr(config.paths, name)
        if not path.is_dir() or not os.access(path, os.W_OK):
            return (
                f"paths.{name} {path} is not there or cannot be written\n"
                f"Make it, or set [paths] {name} in {config.file}."
            )
        disks.setdefault(path.stat().st_dev, []).append(name)
    for names in disks.values():
        path = getattr(config.paths, names[0])
        room = sum(needs[name] for name in names) * n_frames / 1e9
        free = shutil.disk_usage(path).free / 1e9
        if free < room + config.limits.free_disk:
            keys = ", ".join(f"paths.{name}" for name in names)
            return (
                f"too little disk for {what}: {free:.2f} GB free in {path} ({keys}), "
                f"{room:.2f} GB needed and {config.limits.free_disk:g} GB to be left\n"
                f"Free some, or set [paths] in {config.file} to a larger disk."
            )
    return ""


def make_paths(config: Beamline) -> None:
    """Make the directories of [paths] that are not there yet.

    That of the frames gets the mode of the frame folders (``directory_mode`` of the detector):
    camserver may be another user than ours, with a common group.
    """
    for name, path in config.paths:
        try:
            new = not path.is_dir()
            # the catalog's databases are for nobody who has not its key
            path.mkdir(mode=0o700 if name == "catalog" else 0o777, parents=True, exist_ok=True)
            if new and name == "frames":
                path.chmod(_directory_mode(config))
        except OSError as error:
            raise ConfigError(
                f"paths.{name} {path} cannot be made: {error.strerror}\n"
                f"Set [paths] {name} in {config.file} to a directory that can be written."
            ) from error


def _directory_mode(config: Beamline) -> int:
    modes = [device.parameters.get("directory_mode") for device in config.devices.values()]
    mode = next((mode for mode in modes if isinstance(mode, str)), "2775")
    try:
        return int(mode, 8)
    except ValueError:
        raise ConfigError(
            f"directory_mode is {mode!r} in {config.file}: it must be octal digits, as '2775'"
        ) from None


def scan_ids(directory: Path) -> Callable[[Mapping[str, Any]], int]:
    """Make a source of scan numbers that goes on after a restart.

    The last number is kept in ``<directory>/scan_id``; two processes never get the same one.
    """

    def next_id(_: Mapping[str, Any]) -> int:
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "scan_id").open("a+", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read().strip()
            try:
                number = int(text or 0) + 1
            except ValueError:
                raise ConfigError(
                    f"{file.name} holds {text[:40]!r}, not the last scan's number\n"
                    "Write that number into it."
                ) from None
            file.seek(0)
            file.truncate()
            file.write(f"{number}\n")
            file.flush()
            os.fsync(file.fileno())
        return number

    return next_id


def sample(RE: Any, /, **known: Any) -> Sample:
    """Say which crystal is mounted; every run from now on has it in its start document.

    Parameters
    ----------
    RE
        The RunEngine.
    known
        name and label (they name folders); formula, composition, space_group, lattice (a, b, c in
        Å, alpha, beta, gamma in degree), UB (Å⁻¹ without 2π) as far as they are known.

    Raises
    ------
    MetadataError
        Naming the field that is wrong, unknown or missing; the sample stays what it was.
    """
    told = Sample.from_dict(known)
    RE.md["sample"] = told.to_dict()
    return told
