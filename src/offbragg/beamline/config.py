"""The beamline: ``beamline.toml`` becomes paths, devices and a RunEngine.

The one place where things meet. Reading the configuration imports no control system, so the
catalog and the stacker read it too; devices and RunEngine are imported where they are made.
"""

from __future__ import annotations

import logging
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from offbragg.alarms.board import Thresholds
from offbragg.beamline.tables import (
    Alarms,
    Catalog,
    ChannelAccess,
    Column,
    DeviceConfig,
    Hooks,
    Limits,
    LoosePath,
    Paths,
    PlanDefaults,
    Receive,
    Records,
    Send,
    Suspend,
    Table,
)
from offbragg.errors import CatalogError, ConfigError, GeometryError
from offbragg.geometry import Geometry

log = logging.getLogger(__name__)


VARIABLE = "OFFBRAGG_BEAMLINE"


class Beamline(Table):
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
