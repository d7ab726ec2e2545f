"""The program ``offbragg``, also as ``python -m offbragg``."""

from __future__ import annotations

import signal


def main() -> None:
    """Import the command line and run it; an interrupt while it is imported just ends the process.

    Python's own way, a traceback through the imports of other packages, is of no use to people.
    """
    listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if listens:  # else a shell that started it in the background has it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from offbragg.cli import main as run

    if listens:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
