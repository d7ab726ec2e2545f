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

from offbragg.cli.terminal import say
from offbragg.errors import ConfigError

if TYPE_CHECKING:
    from offbragg.host.services import Service

Beamline = Annotated[
    Path | None,
    typer.Option(
        "--beamline",
        metavar="FILE",
        help="The beamline.toml; else the one that $OFFBRAGG_BEAMLINE names.",
    ),
]
Only = Annotated[
    str | None,
    typer.Option("--only", metavar="NAMES", help="Only these services: stack,serve"),
]


def add_up_commands(app: typer.Typer) -> None:
    """Add them to the command line; what they need is imported when one is run."""
    app.command(name="up")(up)
    app.command(name="units")(units)


def up(
    beamline: Beamline = None,
    only: Only = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print each change as one line of JSON to stdout, for machines."
        ),
    ] = False,
) -> None:
    """Run everything that a beamline's host runs: stack and serve, as children of one command.

    A service that crashes, or is ended by somebody else, is started again: after 1 s, then 2, 4, …
    up to 60 s; after a minute without a crash it is 1 s again. It goes on where the files say it
    was, so nothing is lost. One that ends with an error in the command or the configuration (exit
    code 2 or 3) is named and not started again: mend it, then start this command again.

    The status line and the services' logs, with their names in front, go to stderr; the logs also
    to NAME.log in the folder paths.log, which are moved to NAME.log.1 above 20 MB.

    Ctrl-C, SIGTERM or a closed terminal ends all of them: each has 15 s for it, and is killed then
    or by a second Ctrl-C. If this command is killed itself, the services end within seconds. Exit
    code 0: it ended as it was asked to; else that of a service that was not started again.
    """
    from offbragg.beamline.config import load
    from offbragg.host.screen import Screen
    from offbragg.host.supervisor import Supervisor

    services = _chosen(only)
    config = load(beamline)
    logs = config.paths.log
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"paths.log, {logs}, cannot be made: {error.strerror}\nin {config.file}"
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
    ) as screen:
        code = Supervisor(commands, logs, changed=screen.changed).run(stop, at_once)
    if code:
        raise typer.Exit(code)


def units(
    beamline: Beamline = None,
    only: Only = None,
    user: Annotated[
        str | None,
        typer.Option(
            "--user",
            metavar="NAME",
            help="User of the services; has to own the files of the beamline.",
            show_default="yourself",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Write the files into this folder."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, for machines.")
    ] = False,
) -> None:
    """Print systemd units and a Containerfile that run what offbragg up runs.

    One unit for each service, and a target for all of them: systemd restarts what crashes, and what
    ends with an error in the configuration not. The container runs offbragg up, with the versions
    of all packages with which offbragg was tested: --output writes them into constraints.txt, too.
    Files that this command wrote before are replaced, others never.
    """
    from offbragg.beamline.config import load
    from offbragg.host import units as made

    services = _chosen(only)
    config = load(beamline)
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


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # it has no name on this host
        return str(os.geteuid())


def _chosen(only: str | None) -> list[Service]:
    from offbragg.host.services import chosen

    try:
        return chosen(None if only is None else [name.strip() for name in only.split(",")])
    except ConfigError as error:
        raise typer.BadParameter(str(error).replace("\n", ". "), param_hint="--only") from None


def _signals() -> tuple[threading.Event, threading.Event]:
    """Return what the first and the second request to end set."""
    first, second = threading.Event(), threading.Event()

    def end(*_: object) -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup lets a closed terminal be ignored; Ctrl-C is never: a shell hands that on to what it
        # runs in the background
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)
    return first, second
