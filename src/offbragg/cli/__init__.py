"""The command line: verbs for people at a beamline, ``--json`` for machines.

Exit codes: 0 done; 1 something was found wrong; 2 the command was not understood; 3 and up
one for each kind of error (see :mod:`offbragg.errors`).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
from typing import Any

from offbragg.cli import data, instruments, stacking  # noqa: F401  they add their commands
from offbragg.cli.app import app
from offbragg.cli.reduction import add_reduction_commands
from offbragg.cli.terminal import say
from offbragg.cli.up import add_up_commands
from offbragg.errors import DeviceError, OffbraggError

add_reduction_commands(app)


add_up_commands(app)


def main() -> None:
    """Run the command line; each error that a user can mend is one message and an exit code."""
    before = threading.enumerate()
    try:
        app()
        code: Any = 0
    except SystemExit as end:
        code = end.code
    except OffbraggError as error:
        say(f"offbragg: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:  # before typer listens for one
        code = 130
    except BrokenPipeError:  # whoever read the output has ended
        code = 1
    except TimeoutError as error:  # ophyd's, of a record that answered too late, is one
        say(
            f"offbragg: no answer in time: {error}\nEither the IOC is away, or this host is too "
            "busy: look at its load, and try again. offbragg doctor says which IOC answers.",
            file=sys.stderr,
        )
        code = DeviceError.exit_code
    except (OSError, MemoryError) as error:
        say(f"offbragg: {_plainly(error)}", file=sys.stderr)
        code = 1
    _leave(code, before)


def _plainly(error: OSError | MemoryError) -> str:
    """Say of another user's file, a full disk or a lack of memory what it is."""
    if isinstance(error, MemoryError):
        return f"there is not enough memory: {error or 'it could not be had'}"
    if error.strerror is None:
        return str(error)
    where = "" if error.filename is None else f"{error.filename}: "
    user = (
        ""
        if error.errno not in (errno.EACCES, errno.EPERM)
        else (f"\nThis process runs as user {os.geteuid()}: ask the owner of the file.")
    )
    return f"{where}{error.strerror}{user}"


def _leave(code: Any, before: list[threading.Thread]) -> None:
    """End the process, also while threads are in HDF5.

    An ordinary end lets HDF5 close its library under them: the process crashes, or waits for ever.
    """
    running = [thread for thread in threading.enumerate() if thread not in before]
    if running:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)
