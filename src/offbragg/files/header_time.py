"""When a frame was taken, as camservers and TIFF writers have written it over the years."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

_DATE = re.compile(
    r"(?P<year>\d{4})[-/:](?P<month>\w{1,3})[-/:](?P<day>\d{1,2})[T \t]+"
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2}):(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?"
    r"(?:[ \t]*(?P<zone>Z\b|[-+]\d{2}:?\d{2}))?",
    re.ASCII | re.IGNORECASE,
)
_TAG_LATE = 10.0  # s
_ZONES = 14.5 * 3600  # s
# in English, whatever the language of this computer is
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def header_time(header: Mapping[str, Any]) -> float | None:
    """Return when a frame was taken, POSIX s, in local time if its header names no zone.

    Returns
    -------
    time
        None if the header has no date, or one that is none.

    Examples
    --------
    >>> dates = "2016-03-05T09:01:45.5Z", "2016/Mar/05 09:01:45.5Z", "2016:03:05 10:01:45.5+01:00"
    >>> {header_time({"date": date}) for date in dates}
    {1457168505.5}
    """
    found = _DATE.match(str(header.get("date", "")).strip())
    if found is None:
        return None
    month = found["month"].lower()
    try:
        taken = datetime(
            int(found["year"]),
            _MONTHS.index(month) + 1 if month in _MONTHS else int(month),
            int(found["day"]),
            int(found["hour"]),
            int(found["minute"]),
            int(found["second"]),
            int((found["fraction"] or "0").ljust(6, "0")[:6]),
            tzinfo=_zone(found["zone"]),
        )
        return taken.timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def tag_difference(header: Mapping[str, Any]) -> str:
    """Return in what the date in a header differs from the file's own tag; empty if in nothing.

    A tag has no zone: whole quarters of an hour are no difference where the header names one. It
    may be that of the end of the exposure, or of writing.
    """
    tag, date = str(header.get("date_tag", "")), str(header.get("date", ""))
    if not tag or tag == date:
        return ""
    tagged, taken = header_time({"date": tag}), header_time(header)
    if tagged is None or taken is None:
        return ""
    apart = tagged - taken
    limit = _TAG_LATE + 2 * float(header.get("exposure_time", 0.0))
    found = _DATE.match(date.strip())
    if found is not None and found["zone"] and abs(apart) <= _ZONES:
        apart = (apart + 450.0) % 900.0 - 450.0
    if abs(apart) <= limit:
        return ""
    return f"its tag DateTime is {tag}, and its header says {date}"


def _zone(text: str | None) -> timezone | None:
    if text is None:
        return None
    if text.upper() == "Z":
        return UTC
    offset = timedelta(hours=int(text[1:3]), minutes=int(text[-2:]))
    return timezone(-offset if text[0] == "-" else offset)
