"""What runs on a beamline's host, as a table: ``offbragg up`` and ``offbragg units`` read it.

To add a service, write a command that ends at SIGTERM and takes ``--beamline FILE`` and
``--with-parent PID``, and add a line to `SERVICES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from offbragg.beamline.config import Beamline
from offbragg.errors import ConfigError
from offbragg.followers.backlog import read_backlog
from offbragg.followers.live_state import read_state
from offbragg.host.supervisor import Command
from offbragg.spelling import did_you_mean
from offbragg.transfer.backlog import describe_sending, read_sending


def _to_be_stacked(config: Beamline) -> str:
    backlog = read_backlog(config.paths.journal).get("stack", {})
    frames = int(backlog.get("frames", 0))
    return f"{int(backlog['decided'])} of {frames} frames" if frames else ""


def _to_be_sent(config: Beamline) -> str:
    return "; ".join(describe_sending(state) for state in read_sending(config.paths.journal))


def _in_volume(config: Beamline) -> str:
    state = read_state(config.paths.journal)
    return f"{state['state']}: {state['frames']} of {state['of']} frames" if state else ""


@dataclass(frozen=True, slots=True)
class Service:
    """One command of offbragg that runs as long as the beamline does."""

    name: str
    """Of the command, and of its log."""
    what: str
    """For people, a few words."""
    has_ready_file: bool = False
    """Whether the command takes ``--ready FILE``."""
    progress: Callable[[Beamline], str] = lambda config: ""
    """Returns a few words for the status line; called once a second."""
    unit: tuple[str, ...] = ()
    """More lines of the section [Service] of its systemd unit."""
    table: str = ""
    """Of ``beamline.toml``, without which it does not run; always if empty."""

    def arguments(self, config: Beamline) -> list[str]:
        """Return what follows ``python -m`` on any host.

        A link to a beamline's file stays one: its relative paths begin where the link is.
        """
        return ["offbragg", self.name, "--beamline", str(config.file)]

    def command(self, config: Beamline, parent: int) -> Command:
        """Return how it is run as a child of a process."""
        arguments = [*self.arguments(config), "--with-parent", str(parent)]
        ready: Path | None = None
        if self.has_ready_file:
            ready = (
                config.paths.log / f".{self.name}.ready.json"
            )  # with its pid: an old one is not believed
            arguments += ["--ready", str(ready)]
        return Command(self.name, arguments, ready)


SERVICES = {
    service.name: service
    for service in (
        Service(
            "stack",
            "stacks frames into scan files and publishes the runs",
            progress=_to_be_stacked,
        ),
        Service(
            "serve",
            "serves the catalog over HTTP",
            has_ready_file=True,
            # it alone listens on a network, and it starts nothing that would need more
            unit=("NoNewPrivileges=yes", "ProtectSystem=full"),
        ),
        Service(
            "live",
            "makes the volume while the crystal turns",
            progress=_in_volume,
            # a memory that runs short must not end the stacker instead
            unit=("Nice=10", "OOMScoreAdjust=500"),
        ),
        Service(
            "receive",
            "receives runs and frames of other hosts",
            unit=("NoNewPrivileges=yes", "ProtectSystem=full"),
            table="receive",
        ),
        Service(
            "send",
            "sends runs and frames to another host",
            progress=_to_be_sent,
            unit=("Nice=5",),
            table="send",
        ),
    )
}
"""In the order in which they are started: frames first."""


def chosen(names: Sequence[str] | None) -> list[Service]:
    """Return the services with these names, in the table's order; all of them for None.

    Raises
    ------
    ConfigError
        If a name is not in the table, or none is given.
    """
    if names is None:
        return list(SERVICES.values())
    for name in names:
        if name not in SERVICES:
            raise ConfigError(
                f"{name!r} is not a service{did_you_mean(name, SERVICES)}\n"
                f"The services are {', '.join(SERVICES)}."
            )
    if not names:
        raise ConfigError(f"no service is named\nThe services are {', '.join(SERVICES)}.")
    return [service for service in SERVICES.values() if service.name in names]


def configured(services: Sequence[Service], config: Beamline, *, named: bool) -> list[Service]:
    """Return those of the services that a beamline has.

    Parameters
    ----------
    services
        As `chosen` returned them.
    config
        The beamline.
    named
        Whether somebody asked for just these.

    Raises
    ------
    ConfigError
        If one that was named has no table in the beamline's file.
    """
    found = [each for each in services if not each.table or getattr(config, each.table) is not None]
    for each in services if named else ():
        if each not in found:
            raise ConfigError(
                f"the service {each.name} is not configured: there is no [{each.table}] in "
                f"{config.file}"
            )
    return found
