"""Lines, progress bars and typed options of the command line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typer import Context
from offbragg.printable import printable


def say(text: object, *, file: Any = None) -> None:
    """Print our own lines; whatever names and messages hold is shown, and not acted upon."""
    print(printable(text, lines=True), file=file)


@contextlib.contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Any]:
    """Draw a bar at a terminal; gives what is told how much is done, and of how much."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def typed_options(context: Context) -> dict[str, str]:
    """Tell which parameters of a command were typed, and the flag of each, as ``--monitor``."""
    return {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if parameter.name is not None
        and (source := context.get_parameter_source(parameter.name)) is not None
        and source.name == "COMMANDLINE"
    }
