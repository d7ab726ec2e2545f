"""The verbs of a beamline's host: up, units; see :mod:`offbragg.cli`."""

from __future__ import annotations

import getpass
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offbragg.cli.app import BEAMLINE, AsJson, Beamline, app
from offbragg.cli.terminal import say
from offbragg.errors import ConfigError

if TYPE_CHECKING:
    from offbragg.beamline.config import Beamline as Config
    from offbragg.host.services import Service
    from offbragg.host.supervisor import ChildState

Only = Annotated[
    str | None,
    typer.Option(
        "--only",
        metavar="NAMES",
        help="Services to run: stack,serve,live,receive,send.",
        show_default="all that the beamline has",
    ),
]


@app.command(rich_help_panel=BEAMLINE)
def up(
    beamline: Beamline = None,
    only: Only = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print each change as one line of JSON, for machines."),
    ] = False,
) -> None:
    """Run the services of a beamline's host under one command.

    These are stack, serve and live; receive and send, too, if beamline.toml has their tables.

    A service that crashes or is ended from outside is restarted, after 1 s, then 2 s, 4 s, … up to
    60 s; after a minute without a crash the delay is 1 s again. It continues where its files end,
    so nothing is lost. A service that ends with an error in the command or the configuration (exit
    code 2 or 3) is named and not restarted: correct the error, then start this command again.

    The status line and the services' logs, each line with the service's name, go to stderr; the
    logs also to NAME.log in the folder paths.log, rotated to NAME.log.1 above 20 MB.

    Ctrl-C, SIGTERM or a closed terminal ends all services: each has 15 s, then it is killed; a
    second Ctrl-C kills it at once. If this command itself is killed, the services end within
    seconds.

    Exit code 0: ended on request; else that of a service that was not restarted.
    """
    from offbragg.beamline.config import load
    from offbragg.host.screen import Screen
    from offbragg.host.services import configured
    from offbragg.host.supervisor import Supervisor

    services = _chosen(only)
    config = load(beamline)
    services = configured(services, config, named=only is not None)
    logs = config.paths.log
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"paths.log, {logs}, cannot be created: {error.strerror}\nin {config.file}"
        ) from error
    progress = {service.name: service.progress for service in services}
    stop, at_once = _signals()
    commands = [service.command(config, os.getpid()) for service in services]
    say(f"beamline {config.beamline_id}: logs in {logs}; Ctrl-C ends all", file=sys.stderr)
    with Screen(
        [service.name for service in services],
        logs,
        progress=lambda name: progress[name](config),
        as_json=as_json,
        more=lambda state: _page_of(config, state),
    ) as screen:
        code = Supervisor(commands, logs, changed=screen.changed).run(stop, at_once)
    if code:
        raise typer.Exit(code)


@app.command(rich_help_panel=BEAMLINE)
def units(
    beamline: Beamline = None,
    only: Only = None,
    user: Annotated[
        str | None,
        typer.Option(
            "--user",
            metavar="NAME",
            help="User of the services, who must own the beamline's files.",
            show_default="yourself",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Folder to write the files into."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print systemd units and a Containerfile that run what offbragg up runs.

    One unit for each service, and a target for all: systemd restarts a service that crashes, but
    not one that ends with an error in the configuration. The container runs offbragg up with the
    package versions that offbragg was tested with; --output also writes them to constraints.txt.
    Only files that this command wrote earlier are replaced.
    """
    from offbragg.beamline.config import load
    from offbragg.host import units as made
    from offbragg.host.services import configured

    services = _chosen(only)
    config = load(beamline)
    services = configured(services, config, named=only is not None)
    files = made.units(config, services, user=user or _user())
    files["Containerfile"] = made.containerfile(config, services)
    if output is not None:
        written = made.write(files | {"constraints.txt": made.constraints()}, output)
        say(
            json.dumps({"files": [str(path) for path in written]})
            if as_json
            else "\n".join(map(str, written))
        )
    elif as_json:
        say(json.dumps({"files": files}))
    else:
        say("\n".join(f"# ===== {name}\n{text}" for name, text in files.items()))


def _page_of(config: Config, state: ChildState) -> str:
    """Return where the page is once the catalog answers; its log has the address without a link."""
    from offbragg.catalog.one_time import describe_page
    from offbragg.host.supervisor import ChildStatus

    url = state.ready.get("url")
    if state.name != "serve" or state.status is not ChildStatus.RUNNING or not url:
        return ""
    if not sys.stderr.isatty():
        return ""
    return describe_page(config.paths.catalog, url, beamline=config.file, terminal=True)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name on this host
        return str(os.geteuid())


def _chosen(only: str | None) -> list[Service]:
    from offbragg.host.services import chosen

    try:
        return chosen(None if only is None else [name.strip() for name in only.split(",")])
    except ConfigError as error:
        raise typer.BadParameter(str(error).replace("\n", ". "), param_hint="--only") from None


def _signals() -> tuple[threading.Event, threading.Event]:
    """Return the events that the first and the second request to end set."""
    first, second = threading.Event(), threading.Event()

    def end(*_: object) -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # under nohup a closed terminal is ignored; Ctrl-C never: a shell passes it on to what it
        # runs in the background
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)
    return first, second
