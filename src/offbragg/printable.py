"""Escape control characters before text is printed or logged.

A sample's name, a header or a log record's message can hold escape sequences that move the cursor,
rename the window or hide a line. They are shown as Python writes them, so nothing is lost.
"""

from __future__ import annotations

import logging
from typing import Any, cast


def printable(text: object, *, lines: bool = False) -> str:
    r"""Write everything that a terminal would act upon as an escape.

    Parameters
    ----------
    text
        What is to be shown.
    lines
        Leave line ends (``\n``) and tabs as they are: for texts of several lines of our own.

    Examples
    --------
    >>> print(printable("LSMO\x1b[2J\nstored"))
    LSMO\x1b[2J\nstored
    """
    text = str(text)
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in kept else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


class PrintableFormatter(logging.Formatter):
    """Format a log record so that its message stays one line, and shows what it holds.

    The lines of a traceback are kept; our own errors go on in a second line, which is indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
        shown = logging.makeLogRecord(record.__dict__)
        arguments: Any = record.args
        if isinstance(arguments, tuple):
            shown.args = tuple(_argument(argument) for argument in cast(tuple[Any, ...], arguments))
        elif isinstance(arguments, dict):
            shown.args = {
                key: _argument(argument)
                for key, argument in cast(dict[Any, Any], arguments).items()
            }
        return printable(super().format(shown), lines=True)


def _argument(value: Any) -> Any:
    """Return what ``%`` formats: numbers and errors as they are, anything else as one line.

    A placeholder for a number takes whatever converts to one, a NumPy scalar as well as an int:
    so it is not the type that decides.
    """
    if isinstance(value, str) or not _is_number_or_error(value):
        return printable(value)
    return value


def _is_number_or_error(value: object) -> bool:
    numeric = any(hasattr(type(value), name) for name in ("__int__", "__float__", "__index__"))
    return numeric or isinstance(value, BaseException)
