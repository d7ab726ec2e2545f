"""Lines, progress bars, typed options and names of new files on the command line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from offbragg.errors import ReductionError
from offbragg.printable import printable

if TYPE_CHECKING:
    from typer import Context


def say(text: object, *, file: IO[str] | None = None) -> None:
    """Print lines of our own; control characters in names and messages are escaped."""
    print(printable(text, lines=True), file=file)


@contextlib.contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar at a terminal; yield a function that takes how much is done, and of how much."""
    with progress_of_steps(what, quiet=quiet) as (step,):
        yield step


@contextlib.contextmanager
def progress_of_steps(*names: str, quiet: bool) -> Iterator[tuple[Callable[[int, int], None], ...]]:
    """Draw a bar for each of several steps, once it has begun; yield a function for each."""
    if quiet or not sys.stderr.isatty():
        yield tuple(lambda done, total: None for _ in names)
        return
    from rich.console import Console
    from rich.progress import Progress

    def step(task: Any) -> Callable[[int, int], None]:
        return lambda done, total: bar.update(task, completed=done, total=total, visible=True)

    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield tuple(step(bar.add_task(n, total=None, visible=n == names[0])) for n in names)


def typed_options(context: Context) -> dict[str, str]:
    """Return the parameters of a command that were typed, and their flags, as ``--monitor``."""
    return {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if parameter.name is not None
        and (source := context.get_parameter_source(parameter.name)) is not None
        and source.name == "COMMANDLINE"
    }


def check_free(target: Path) -> None:
    """Raise for a name that is taken, before an hour of work and not after."""
    if target.exists():
        raise ReductionError(
            f"{target} is there already: it is not overwritten\nChoose another name with --out."
        )
