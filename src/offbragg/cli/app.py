"""The application: its name, the options that its commands share, and how they end."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from offbragg.cli.terminal import say as say
from offbragg.parent import follow_parent
from offbragg.printable import PrintableFormatter

app = typer.Typer(
    name="offbragg",
    help="Single-crystal diffuse X-ray scattering: measure, stack, find and check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Beamline = Annotated[
    Path | None,
    typer.Option(
        "--beamline",
        metavar="FILE",
        help="The beamline.toml; else the one that $OFFBRAGG_BEAMLINE names.",
    ),
]


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]


Ready = Annotated[
    Path | None,
    typer.Option("--ready", metavar="FILE", help="Write this JSON file once it serves."),
]


def _follow_parent(pid: int | None) -> int | None:
    if pid is not None:
        follow_parent(pid)  # from now on, also while the command is still being imported
    return pid


WithParent = Annotated[
    int | None,
    typer.Option("--with-parent", metavar="PID", hidden=True, callback=_follow_parent),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from offbragg import __version__

        print(f"offbragg {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """Single-crystal diffuse X-ray scattering: measure, stack, find and check."""


@contextlib.contextmanager
def until_stopped() -> Iterator[threading.Event]:
    """Give an event that SIGINT and SIGTERM set, and so the end of a parent that is followed."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    yield stop


def log_to_stderr() -> None:
    """Show warnings, and what offbragg itself reports, on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("offbragg").setLevel(logging.INFO)
