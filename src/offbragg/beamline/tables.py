"""The tables of ``beamline.toml``, one model each; `offbragg.beamline.config` reads the file."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

LoosePath = Annotated[Path, Field(strict=False)]


Range = Annotated[tuple[float, float], Field(strict=False)]


_ORIGIN = r"^https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$"


class Table(BaseModel):
    """A table: what is not known is refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Paths(Table):
    """Where things are on this host; relative ones are relative to the file that says so."""

    experiment: LoosePath = Field(description="scan files go below it")
    frames: LoosePath = Field(
        description="frame files, as this host sees them; none is read from elsewhere"
    )
    journal: LoosePath = Field(description="one journal per run")
    catalog: LoosePath = Field(description="the catalog's databases and key")
    log: LoosePath = Field(description="log files")


class ChannelAccess(Table):
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


class Column(Table):
    """A signal that is recorded through every run and joined to the frames by time."""

    signal: str = Field(pattern=r"^\w+(\.\w+)*$", description='"device.signal"')
    units: str = Field(default="", description="as the signal gives it")


class Catalog(Table):
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


class Limits(Table):
    """What is refused before anything moves."""

    free_disk: float = Field(default=1.0, ge=0, description="space to leave on every disk, GB")
    temperature: Range = Field(default=(80.0, 500.0), description="lowest and highest, K")

    @field_validator("temperature")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError("must be the lowest and then the highest temperature")
        return value


class Alarms(Table):
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


class Creator(Table):
    """Somebody who made the data, as a record names people."""

    name: str = Field(min_length=1, description='"Family, Given"')
    orcid: str = Field(
        default="",
        pattern=r"^(\d{4}-\d{4}-\d{4}-\d{3}[\dX])?$",
        description="16 digits, as 0000-0002-1825-0097",
    )
    affiliation: str = ""


class Records(Table):
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


class Hooks(Table):
    """Commands of the beamline's own (see how-to/hand-over-records)."""

    on_stored: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list,
        description="program and arguments, without a shell: run by offbragg stack when a run is "
        "whole on disk, with JSON on its standard input; none without",
    )
    timeout: float = Field(default=300.0, gt=0, description="time limit of the command, s")
    tries: int = Field(default=3, ge=1, le=20, description="how often a failing command is run")


class Send(Table):
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


class Receive(Table):
    """How `offbragg receive` fills `paths.frames` and `paths.journal`, which lie in one folder."""

    listen: str = Field(
        default="127.0.0.1:5599",
        pattern=r"^\S+:[0-9]{1,5}$",
        description="address:port; *:5599 listens on all",
    )
    key: LoosePath = Field(description="key of this side, as offbragg receive --make-key wrote it")
    senders: LoosePath = Field(description="list of who may send")


class PlanDefaults(Table):
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


class Suspend(Table):
    """When plans wait for beam."""

    signal: str = Field(pattern=r"^\w+(\.\w+)*$", description='"device.signal", as "ring.current"')
    below: float = Field(description="lower limit of a beam, in the signal's units")
    resume: float | None = Field(default=None, description="beam again from here; below if absent")
    wait: float = Field(default=0.0, ge=0, description="time with beam before plans continue, s")
    shutter: str | None = Field(default=None, description="a device, closed meanwhile")
