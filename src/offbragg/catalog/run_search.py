"""Find runs in the catalog's searched table: the parameters of ``/runs``, and the rows."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    column,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)

from offbragg.catalog.parameters import decimal, read_parameters
from offbragg.catalog.search_tables import Dialect
from offbragg.catalog.searched import RUNS, WORDS
from offbragg.catalog.sent import Refusal
from offbragg.catalog.viewers import seen_runs
from offbragg.printable import printable

RUNNING = "running"
MOST_ROWS = 500
_ROWS = 50
_NEAR = 0.5  # K: temperatures this close are one temperature
_MOST_WORDS = 20
_WORD = re.compile(r"[^\W_]+")


_PARAMETERS = (
    "sample", "temperature", "since", "until", "purpose", "scan_id", "series", "plan", "status",
    "text", "proposal", "limit", "before",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunSearch:
    """What runs are asked for.

    Parameters
    ----------
    given
        Parameters and their values, checked.
    limit
        Largest number of rows.
    before
        Uid of the run after which the list goes on; empty for the newest.
    """

    given: Mapping[str, Any]
    limit: int = _ROWS
    before: str = ""

    @classmethod
    def parse(cls, query: str) -> RunSearch:
        """Read the parameters of a request.

        Raises
        ------
        Refusal
            Naming the one that is wrong.
        """
        given = asked(query, _PARAMETERS, "/runs")
        found = {
            name: _READERS[name](name, value) if name in _READERS else value
            for name, value in given.items()
            if name not in ("limit", "before")
        }
        return cls(found, limit_of(given), given.get("before", ""))

    def condition(self, dialect: Dialect) -> ColumnElement[bool]:
        """Return the condition that the runs meet; who asks must see them, too."""
        return and_(
            seen_runs(), *(_CONDITIONS[name](value, dialect) for name, value in self.given.items())
        )

    def rows(self, dialect: Dialect, after: tuple[float, int] | None) -> Select[Any]:
        """Select one row more than are listed, newest first.

        Parameters
        ----------
        dialect
            Of the database.
        after
            Time and node of the run after which they begin.
        """
        found = select(RUNS).where(self.condition(dialect))
        if after is not None:
            found = found.where(tuple_(RUNS.c.time, RUNS.c.node_id) < tuple_(*map(literal, after)))
        return found.order_by(RUNS.c.time.desc(), RUNS.c.node_id.desc()).limit(self.limit + 1)

    def total(self, dialect: Dialect) -> Select[Any]:
        """Select the number of runs."""
        return select(func.count()).select_from(RUNS).where(self.condition(dialect))


def asked(query: str, known: Sequence[str], what: str) -> dict[str, str]:
    """Read the parameters of a request; those without a value are not given."""
    given = {k: v for k, v in read_parameters(query, known, what).items() if v}
    if wrong := [name for name, value in given.items() if "\0" in value]:
        raise Refusal(400, f"{wrong[0]} holds a character that no text has.")
    return given


def limit_of(given: Mapping[str, str]) -> int:
    """Return the largest number of rows that is asked for."""
    limit = _number("limit", given.get("limit", str(_ROWS)))
    if not (limit.is_integer() and 1 <= limit <= MOST_ROWS):
        raise Refusal(400, f"limit is {limit:g}: it must be a number from 1 to {MOST_ROWS}.")
    return int(limit)


def temperature_range(name: str, value: str) -> tuple[float, float]:
    """Read ``90`` or ``80:120``, K; a single one holds half a kelvin to both sides."""
    low, colon, high = value.partition(":")
    if not colon:
        return _number(name, low) - _NEAR, _number(name, low) + _NEAR
    return (
        _number(name, low) if low else -math.inf,
        _number(name, high) if high else math.inf,
    )


def exact_or_pattern(column: Any, value: str) -> ColumnElement[bool]:
    """Return the condition that a text is this one, or fits it where it has an asterisk."""
    if "*" not in value:
        return column == value
    escaped = re.sub(r"([\\%_])", r"\\\1", value).replace("*", "%")
    return func.lower(column).like(escaped.lower(), escape="\\")


def between(column: Any, ends: tuple[float, float]) -> ColumnElement[bool]:
    """Return the condition that a number lies between two, which belong to it."""
    limits = [column >= ends[0]] * math.isfinite(ends[0]) + [column <= ends[1]] * math.isfinite(
        ends[1]
    )
    return and_(column.is_not(None), *limits)


def _number(name: str, value: str) -> float:
    try:
        number = decimal(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise Refusal(400, f"{name} is {printable(value)}: it must be a finite number.")
    return number


def _time(name: str, value: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(seconds := decimal(value)):
            return seconds
    try:
        return datetime.fromisoformat(value.replace(" ", "+")).timestamp()
    except (ValueError, OverflowError, OSError):
        raise Refusal(
            400,
            f"{name} is {printable(value)}: it must be POSIX seconds, or a time like 2026-11-29 or "
            "2026-11-29T03:00+01:00; without a zone it is that of the beamline.",
        ) from None


def _words(name: str, value: str) -> tuple[str, ...]:
    words = tuple(word.lower() for word in _WORD.findall(value))
    if not words or len(words) > _MOST_WORDS:
        raise Refusal(400, f"{name} has {len(words)} words: it must have from 1 to {_MOST_WORDS}.")
    return words


def _has_words(words: tuple[str, ...], dialect: Dialect) -> ColumnElement[bool]:
    """Return the condition that a start document has words that begin so."""
    if dialect == "sqlite":
        query = " AND ".join(f'"{word}"*' for word in words)
        found = select(WORDS.c.rowid).where(WORDS.c.words.op("MATCH")(query))
        return RUNS.c.node_id.in_(found)
    query = " & ".join(f"'{word}':*" for word in words)
    return column("words").op("@@")(func.to_tsquery(literal_column("'simple'::regconfig"), query))


def _has_status(value: str, dialect: Dialect) -> ColumnElement[bool]:
    return RUNS.c.status.is_(None) if value == RUNNING else RUNS.c.status == value


_READERS = {
    "temperature": temperature_range, "scan_id": _number, "since": _time, "until": _time,
    "text": _words,
}  # fmt: skip
_CONDITIONS: dict[str, Any] = {
    "sample": lambda value, _: exact_or_pattern(RUNS.c.sample, value),
    "temperature": lambda ends, _: between(RUNS.c.temperature, ends),
    "since": lambda value, _: RUNS.c.time >= value,
    "until": lambda value, _: RUNS.c.time <= value,
    "scan_id": lambda value, _: RUNS.c.scan_id == value,
    "purpose": lambda value, _: RUNS.c.purpose == value,
    "series": lambda value, _: RUNS.c.series == value,
    "plan": lambda value, _: exact_or_pattern(RUNS.c.plan, value),
    "status": _has_status,
    "text": _has_words,
    "proposal": lambda value, _: RUNS.c.proposal == value,
}


def run_row(found: Mapping[str, Any], counts: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Return the row of a run, as ``/runs`` has it.

    Parameters
    ----------
    found
        A row of the searched table.
    counts
        Frames of each status, of a run that is being measured.
    """
    n_frames = _whole(found["n_frames"])
    ended = found["stored"] is not None
    if ended:
        counts = {name: int(found[name] or 0) for name in ("stored", "missing", "rejected")}
    frames: dict[str, int] | None = None
    if n_frames is not None:
        counts = counts or {}
        frames = {name: counts.get(name, 0) for name in ("stored", "missing", "rejected")}
        frames["pending"] = max(n_frames - sum(frames.values()), 0)
    status = found["status"] or RUNNING
    complete = status != RUNNING and (frames is None or frames["pending"] == 0)
    sweep = _whole(found["sweep"])
    row = {
        "uid": found["uid"],
        "scan_id": _whole(found["scan_id"]),
        "time": found["time"],
        "stop_time": found["stop_time"],
        "exit_status": status,
        "reason": found["reason"] or "",
        "sample": found["sample"],
        "label": found["label"],
        "proposal": found["proposal"],
        "formula": found["formula"],
        "temperature": found["temperature"],
        "temperature_measured": found["measured"],
        "purpose": found["purpose"],
        "plan": found["plan"],
        "series": found["series"],
        "point": _whole(found["point"]),
        "sweep": None if sweep is None else sweep + 1,
        "sweeps": _whole(found["sweeps"]),
        "axis": found["axis"],
        "n_frames": n_frames,
        "frames": frames,
        "complete": complete,
    }
    return {**row, "what": _in_words(row)}


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _in_words(row: Mapping[str, Any]) -> str:
    """Describe a run in one line."""
    parts: list[str] = [row["sample"] or "no sample"]
    if row["temperature"] is not None:
        parts[0] += f" at {row['temperature']:g} K"
    if row["purpose"] not in (None, "data"):
        parts.append(str(row["purpose"]))
    if row["sweep"] is not None:
        of = f" of {row['sweeps']}" if row["sweeps"] else ""
        parts.append(f"sweep {row['sweep']}{of}")
    if (frames := row["frames"]) is not None:
        parts.append(f"{frames['stored']} of {row['n_frames']} frames")
        parts += [f"{frames[name]} {name}" for name in ("missing", "rejected") if frames[name]]
    elif row["plan"]:
        parts.append(row["plan"])
    if row["exit_status"] != "success":
        parts.append(row["exit_status"])
    text = ", ".join(parts)
    return f"{text}: {row['reason'].splitlines()[0]}" if row["reason"].strip() else text


def begins_so(uid: str) -> ColumnElement[bool]:
    """Return the condition that the uid of a run begins so; an index finds it."""
    after = uid[:-1] + chr(ord(uid[-1]) + 1)
    return and_(RUNS.c.uid >= uid, RUNS.c.uid < after)
