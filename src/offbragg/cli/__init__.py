"""The command line: verbs for people at a beamline, ``--json`` for machines.

Exit codes: 0 done; 1 something was found wrong; 2 the command was not understood; 3 and up
one for each kind of error (see :mod:`offbragg.errors`).
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import logging
import os
import sys
import threading

from offbragg.cli.app import app
from offbragg.cli.terminal import say
from offbragg.errors import ConfigError, DeviceError, OffbraggError
from offbragg.extras import describe_absent

# isort: split
# each adds its commands, in the order in which the help lists them
from offbragg.cli import (  # noqa: F401, I001
    instruments, up, stacking, adopting, data, archiving, tokens, people, export, publish, live,
    reduction, volumes, panels, transfer,
)  # fmt: skip


_INTERRUPTED = 130  # as a shell reports SIGINT
_NO_THREAD = "can't start new thread"  # what Python says without memory for one, or at a limit


def main() -> None:
    """Run the command line; an error that a user can correct is one message and an exit code."""
    before = threading.enumerate()
    try:
        app()
        code: int | str | None = 0
    except SystemExit as end:
        code = end.code
    except OffbraggError as error:
        say(f"offbragg: {error}", file=sys.stderr)
        code = error.exit_code
    except ModuleNotFoundError as error:
        if not (absent := describe_absent(error)):
            raise
        say(f"offbragg: {absent}", file=sys.stderr)
        code = ConfigError.exit_code
    except KeyboardInterrupt:  # before typer listens for one
        code = _INTERRUPTED
    except BrokenPipeError:  # the reader of the output has ended
        code = 1
    except TimeoutError as error:  # ophyd's, for a record that answered too late, is one
        say(
            f"offbragg: no answer in time: {error}\nEither the IOC is down, or this host is "
            "overloaded: check its load and try again. offbragg doctor shows which IOC answers.",
            file=sys.stderr,
        )
        code = DeviceError.exit_code
    except (OSError, MemoryError) as error:
        say(f"offbragg: {_plainly(error)}", file=sys.stderr)
        code = 1
    except RuntimeError as error:
        if _NO_THREAD not in str(error):
            raise
        say(f"offbragg: not enough memory: {error}", file=sys.stderr)
        code = 1
    try:
        _leave(code, before)
    except KeyboardInterrupt:  # one more, while it ends
        _leave(_INTERRUPTED, before)


def _plainly(error: OSError | MemoryError) -> str:
    """Describe an error of the system: another user's file, a full disk, too little memory."""
    if isinstance(error, MemoryError):
        return f"not enough memory: {error or 'none is left'}"
    if error.strerror is None:
        return str(error)
    where = "" if error.filename is None else f"{error.filename}: "
    user = (
        ""
        if error.errno not in (errno.EACCES, errno.EPERM)
        else (f"\nThis process runs as user {getpass.getuser()}: ask the owner of the file.")
    )
    return f"{where}{error.strerror}{user}"


def _leave(code: int | str | None, before: list[threading.Thread]) -> None:
    """End the process, also while threads are in HDF5, and at once after an interrupt.

    At a normal exit HDF5 closes its library under them: the process crashes, or waits for ever. On
    a busy host it also takes seconds in which all modules are freed, and one interrupt more is a
    traceback.
    """
    running = [thread for thread in threading.enumerate() if thread not in before]
    if running or code == _INTERRUPTED:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)
