"""The beamline: ``beamline.toml`` becomes paths, devices and a RunEngine.

The one place where things meet. Reading the configuration imports no control system, so the
catalog and the stacker read it too; devices and RunEngine are imported where they are made.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from offbragg.alarms.board import Thresholds
from offbragg.errors import CatalogError, ConfigError, GeometryError
from offbragg.geometry import Geometry

if TYPE_CHECKING:
    pass


log = logging.getLogger(__name__)


VARIABLE = "OFFBRAGG_BEAMLINE"


LoosePath = Annotated[Path, Field(strict=False)]


Range = Annotated[tuple[float, float], Field(strict=False)]


_ORIGIN = r"^https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$"


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
        """Return the environment variables of libca that these settings stand for."""
        automatic = self.auto_address_list
        variables = {
            "EPICS_CA_ADDR_LIST": self.address_list,
            "EPICS_CA_AUTO_ADDR_LIST": None if automatic is None else ("NO", "YES")[automatic],
            "EPICS_CA_SERVER_PORT": self.server_port,
            "EPICS_CA_REPEATER_PORT": self.repeater_port,
            "EPICS_CA_MAX_ARRAY_BYTES": self.max_array_bytes,
        }
        return {name: str(value) for name, value in variables.items() if value is not None}


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
        return {each["device"] for each in given if isinstance(each, dict) and "device" in each}


class Column(_Table):
    """A signal that is recorded through every run and joined to the frames by time."""

    signal: str = Field(pattern=r"^\w+(\.\w+)*$", description='"device.signal"')
    units: str = Field(default="", description="as the signal gives it")


class Catalog(_Table):
    """Where the catalog listens."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    allow_origins: list[Annotated[str, Field(pattern=_ORIGIN)]] = Field(
        default_factory=list,
        description="origins, as http://127.0.0.1:9000, whose pages may read the catalog in a "
        "browser; they need a key like anybody",
    )
    adopted: list[LoosePath] = Field(
        default_factory=list,
        description="folders of others' data, whose adopted frames the catalog reads where they "
        "lie; nothing else of them is served",
    )
    database: str = Field(
        default="",
        pattern=r"^(postgresql://\S+)?$",
        description="PostgreSQL database of the catalog, as postgresql://offbragg@host/catalog; "
        "without: SQLite. A password is read from ~/.pgpass",
    )
    people: LoosePath | None = Field(
        default=None,
        description="file of the people who may log in and of their proposals "
        "(see how-to/people-and-proposals); without: whoever has a key for reading sees all runs",
    )
    address: str = Field(
        default="",
        pattern=r"^(https?://[^\s/?#@]+)?$",
        description="where people reach the catalog, as https://diffuse.example.org, if a proxy is "
        "before it: links and the lines for Python have it; without: host and port",
    )
    trusted_proxies: list[str] = Field(
        default_factory=list,
        description="addresses of proxies, as 127.0.0.1, that say for whom they ask and whether by "
        "TLS (X-Forwarded-For, X-Forwarded-Proto); from others these headers are ignored",
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, value: list[str]) -> list[str]:
        for each in value:
            try:
                ipaddress.ip_network(each)
            except ValueError:
                raise ValueError(
                    f"{each} is not an address, as 127.0.0.1, nor a network, as 10.1.2.0/24"
                ) from None
        return value


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
    """What raises an alarm, and whom it reaches (see how-to/alarms)."""

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


class Creator(_Table):
    """Somebody who made the data, as a record names people."""

    name: str = Field(min_length=1, description='"Family, Given"')
    orcid: str = Field(
        default="",
        pattern=r"^(\d{4}-\d{4}-\d{4}-\d{3}[\dX])?$",
        description="16 digits, as 0000-0002-1825-0097",
    )
    affiliation: str = ""


class Records(_Table):
    """What exported records hold and no file does (see how-to/hand-over-records)."""

    title: str = Field(default="", description="of the data")
    creators: list[Creator] = Field(default_factory=list, description="of the data, in order")
    publisher: str = Field(default="", description="who publishes the data")
    publication_year: str = Field(default="", pattern=r"^(\d{4})?$")
    license: str = Field(default="", description="SPDX identifier or URL")
    doi: str = Field(default="", pattern=r"^(10\.\d{4,9}/\S+)?$", description="if it has one")
    description: str = Field(default="", description="without: sample, runs and beamline")
    owner: str = Field(default="", description="of a SciCat dataset")
    owner_group: str = Field(default="", description="whose members may read it in SciCat")
    contact_email: str = Field(default="", description="for questions about a SciCat dataset")
    principal_investigator: str = Field(default="", description="of a SciCat dataset")
    location: str = Field(default="", description='"/site/facility/instrument", for SciCat')


class Hooks(_Table):
    """Commands of the beamline's own (see how-to/hand-over-records)."""

    on_stored: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list,
        description="program and arguments, without a shell: run by offbragg stack when a run is "
        "whole on disk, with JSON on its standard input; none without",
    )
    timeout: float = Field(default=300.0, gt=0, description="time limit of the command, s")
    tries: int = Field(default=3, ge=1, le=20, description="how often a failing command is run")


class Send(_Table):
    """Where `offbragg send` sends runs and frames (see how-to/send-to-another-host)."""

    to: str = Field(
        pattern=r"^\S+:[0-9]{1,5}$", description="where offbragg receive listens, host:port"
    )
    key: LoosePath = Field(description="key of this side, as offbragg send --make-key wrote it")
    receiver: str = Field(
        pattern=r"^[0-9a-fA-F]{64}$", description="public key of the receiver, 64 digits"
    )
    rate: float | None = Field(
        default=None, gt=0, description="limit for frames on the link, MB/s; none without"
    )


class Receive(_Table):
    """How `offbragg receive` fills `paths.frames` and `paths.journal`, which lie in one folder."""

    listen: str = Field(
        default="127.0.0.1:5599",
        pattern=r"^\S+:[0-9]{1,5}$",
        description="address:port; *:5599 listens on all",
    )
    key: LoosePath = Field(description="key of this side, as offbragg receive --make-key wrote it")
    senders: LoosePath = Field(description="list of who may send")


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
    records: Records = Records()
    hooks: Hooks = Hooks()
    send: Send | None = None
    receive: Receive | None = None
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

    @property
    def public_url(self) -> str:
        """Where people find the catalog."""
        return self.catalog.address or self.catalog_url

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
        from offbragg.catalog.client import connect

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

    def receiving_folder(self) -> Path:
        """Return the folder that `offbragg receive` fills: it holds ``frames`` and ``journal``.

        Raises
        ------
        ConfigError
            If the two are not in one folder, or have other names.
        """
        frames, journal = self.paths.frames, self.paths.journal
        if (frames.name, journal.name) != ("frames", "journal") or frames.parent != journal.parent:
            raise ConfigError(
                "with [receive], paths.frames and paths.journal must be the folders frames and "
                f"journal of one folder; they are {frames} and {journal}\nin {self.file}"
            )
        return frames.parent

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
    here = Path(__file__).resolve().parent
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
        value = os.environ.get(VARIABLE)
        if not value:
            raise ConfigError(
                f"no beamline is configured: {VARIABLE} is not set\n"
                f"Set it to a beamline.toml. The simulated one is {profile_directory()}."
            )
        path = value
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
    config.make_geometry()  # refuse a wrong one now, not when a sweep begins
    more: dict[str, Any] = {"paths": Paths(**paths)}
    in_catalog: dict[str, Any] = {
        "adopted": [_from(file, folder) for folder in config.catalog.adopted]
    }
    if config.catalog.people is not None:
        in_catalog["people"] = _from(file, config.catalog.people)
    more["catalog"] = config.catalog.model_copy(update=in_catalog)
    if config.send is not None:
        more["send"] = config.send.model_copy(update={"key": _from(file, config.send.key)})
    if config.receive is not None:
        there = config.receive
        files = {"key": _from(file, there.key), "senders": _from(file, there.senders)}
        more["receive"] = there.model_copy(update=files)
    config = config.model_copy(update=more)
    if config.receive is not None:
        config.receiving_folder()  # refuse it now
    return config


def _from(file: Path, path: Path) -> Path:
    return (file.parent / path.expanduser()).absolute()


def _explain(error: ValidationError, file: Path) -> str:
    """Return what is wrong with a configuration, one line per key."""
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
