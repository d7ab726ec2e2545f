"""The application: its name, the options that its commands share, and how they end."""

from __future__ import annotations

import contextlib
import inspect
import logging
import re
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from offbragg.cli.numbers import Number
from offbragg.parent import follow_parent
from offbragg.printable import PrintableFormatter

if TYPE_CHECKING:
    from typer._click import Command, Context

_LINE_BREAK = re.compile(r"(?<!\n)\n(?!\n)")


class Verbs(TyperGroup):
    """The verbs, with help for a terminal of 80 columns.

    Typer keeps the line breaks of a docstring, which are those of an editor, and writes ``<bool>``
    beside each flag.
    """

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """Return a verb, its help wrapped and its flags bare."""
        command = super().get_command(ctx, cmd_name)
        if command is None:
            return None
        command.help = _LINE_BREAK.sub(" ", inspect.cleandoc(command.help or ""))
        for parameter in command.params:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return command


app = typer.Typer(
    name="offbragg",
    cls=Verbs,
    help="Single-crystal diffuse X-ray scattering: measure, stack, find and check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# headings of the help
SIMULATION, BEAMLINE = "Simulation", "Beamline"
DATA, REDUCTION = "Measured data", "Reduction"

Beamline = Annotated[
    Path | None,
    typer.Option(
        "--beamline",
        metavar="FILE",
        help="Configuration of the beamline; default: $OFFBRAGG_BEAMLINE.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Days = Annotated[
    float,
    typer.Option(
        "--days",
        metavar="N",
        help="Days until the key expires.",
        parser=Number(0, 3650, above=True, unit="days"),
    ),
]
Ready = Annotated[
    Path | None,
    typer.Option("--ready", metavar="FILE", help="JSON file to write once the server answers."),
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
    """Yield an event that SIGINT, SIGTERM or the end of a followed parent sets."""
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
