"""Parameters of addresses: read, and refused with the name of what is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl

from offbragg.catalog.sent import Refusal
from offbragg.printable import printable
from offbragg.spelling import did_you_mean

_LONGEST = 200  # characters of a value
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def read_parameters(query: str, known: Sequence[str], what: str) -> dict[str, str]:
    """Read the parameters of a request.

    Parameters
    ----------
    query
        What follows the question mark.
    known
        Names of parameters.
    what
        Whose they are, for the message.

    Raises
    ------
    Refusal
        Naming one that is unknown, with those that exist, given twice, or too long.
    """
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "api_key":
            continue  # a key may stand here, and is checked before
        if name not in known:
            near = did_you_mean(name, known)
            there = ", ".join(known)
            raise Refusal(400, f"{printable(name[:40])} is unknown{near}; {what} takes {there}.")
        if name in given:
            raise Refusal(400, f"{name} is given twice.")
        if len(value) > _LONGEST:
            raise Refusal(400, f"{name} has {len(value)} characters; {_LONGEST} are the limit.")
        given[name] = value
    return given


def number(given: Mapping[str, str], name: str) -> float | None:
    """Return a parameter as a finite number; None if it is not given."""
    if name not in given:
        return None
    try:
        value = decimal(given[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Refusal(400, f"{name} is {printable(given[name])}: it must be a finite number.")
    return value


def decimal(text: str) -> float:
    """Return a number that is written with the digits 0 to 9.

    Raises
    ------
    ValueError
        If it is something else; Python's float takes the digits of all alphabets, and ``1_0``.

    Examples
    --------
    >>> decimal("-1.5e2")
    -150.0
    >>> decimal("٣")
    Traceback (most recent call last):
    ValueError: not a decimal number: ٣
    """
    if not _DECIMAL.fullmatch(text.strip(" ")):
        raise ValueError(f"not a decimal number: {printable(text)}")
    return float(text)


def choice(given: Mapping[str, str], name: str, choices: Sequence[str]) -> str:
    """Return a parameter that is one of several words; the first one if it is not given."""
    value = given.get(name, choices[0])
    if value not in choices:
        there = ", ".join(choices)
        raise Refusal(400, f"{name} is {printable(value)}: it must be one of {there}.")
    return value
