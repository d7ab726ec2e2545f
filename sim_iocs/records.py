"""Records: Channel Access values made from a data table, with a hook on a client's put.

A table row (``cam1.json``, ``motor.json``, ``cryostream.json``) says a record's type, element
count, enum labels, units, precision and fresh value. ``Record.post`` stores and publishes from
inside; ``Record.on_put`` is awaited when a client puts. A hook that has more to do than can be done
at once returns what the completion of the put waits for.

A record whose ``asynchronous`` is set behaves as one with asyn's device support does: it takes the
value at once, so that a get shows it, and processes in its own time. The monitors follow when the
driver has done what it was asked for; a put that comes meanwhile is processed afterwards, and of
several only the last.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from importlib import resources
from typing import Any

import caproto as ca

MONITOR_TIME = 0.003  # s; monitors of what a put has changed go out before its completion

COMMON_FIELDS: dict[str, dict[str, Any]] = {
    "DESC": {"type": "string"}, "EGU": {"type": "string"}, "RTYP": {"type": "string"},
    "PREC": {"type": "short"}, "DISA": {"type": "short"}, "DISV": {"type": "short", "value": 1},
    "SEVR": {"type": "enum", "enums": ["NO_ALARM", "MINOR", "MAJOR", "INVALID"]},
}  # fmt: skip

ILLEGAL = "Illegal Value"
"""Label of an mbbi record for a value outside its choices; its index is 65535."""

Completion = Callable[[], Awaitable[Any]]
"""Waits for what a put's completion waits for after the record has taken the value."""

Hook = Callable[[Any], Awaitable[Completion | None]]

log = logging.getLogger(__name__)


class Common:
    """What all fields of one record share, as the fields of ``dbCommon`` are.

    ``put_callback`` is held by the put-callback that the record is busy with: the others, whatever
    the field and the client, wait for their turn. ``scan`` is held while a put is taken.
    """

    def __init__(self, *, stamped_by_posts: bool = True) -> None:
        self.put_callback = asyncio.Lock()
        self.scan = asyncio.Lock()
        self.clock_offset = 0.0
        """Time by which the clock of this record's IOC is ahead of this host's, s."""
        self.stamped_by_posts = stamped_by_posts
        self._stamp = time.time()

    def stamp_now(self, moment: float | None = None) -> None:
        """Set the time stamp of the record's processing: now, or a moment (POSIX s)."""
        self._stamp = time.time() if moment is None else moment

    @property
    def stamp(self) -> float:
        """When the record processed last, by its IOC's clock (POSIX s)."""
        return self._stamp + self.clock_offset


class Record:
    """Mixin of every record, before caproto's channel data."""

    on_put: Hook | None = None
    asynchronous = False
    writable = True
    """False for a field that no client may write (SPC_NOMOD)."""
    field_records: Mapping[str, ca.ChannelData] = {}

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.common = Common()
        self._processing: asyncio.Task[Completion | None] | None = None
        self._again = False
        self._completion: Completion | None = None

    @property
    def epics_timestamp(self) -> Any:
        """The stamp of the record, which all its fields show."""
        return ca.TimeStamp.from_flexible_value(self.common.stamp)

    @property
    def timestamp(self) -> float:
        """The stamp of the record, POSIX s."""
        return self.common.stamp

    def check_access(self, hostname: str | None, username: str | None) -> ca.AccessRights:
        """Return what a client may do."""
        return (
            ca.AccessRights.READ | ca.AccessRights.WRITE if self.writable else ca.AccessRights.READ
        )

    async def put_by_client(self, data: Any, data_type: Any, metadata: Any) -> Completion | None:
        """Process a client's put; return what its completion waits for."""
        async with self.common.scan:
            self._completion = None
            await self.write_from_dbr(data, data_type, metadata)  # type: ignore[attr-defined]
            completion, self._completion = self._completion, None
            return completion

    async def write(self, value: Any, *, verify_value: bool = True, **keywords: Any) -> None:
        """Process a client's put: the hook decides what is stored; without one, the value is."""
        if not verify_value:
            await super().write(value, verify_value=False, **keywords)  # type: ignore[misc]
            return
        value = self.python(value)
        if self.on_put is None:
            await self.post(value)
        elif not self.asynchronous:
            self._completion = await self.on_put(value)
        else:
            self.preset(value)
            if self.processing:
                self._again = True  # RPRO
            else:
                self._processing = asyncio.create_task(self._process(value))
            assert self._processing is not None
            self._completion = partial(self._processed, self._processing)

    @property
    def processing(self) -> bool:
        """Whether the driver is still processing a put (PACT)."""
        return self._processing is not None and not self._processing.done()

    async def until_free(self) -> None:
        """Wait until the record is not processing."""
        while self.processing and self._processing is not None:
            await asyncio.wait([self._processing])

    async def _process(self, value: Any) -> Completion | None:
        """Do what a put asks for, and then what the last one asks for that came meanwhile."""
        assert self.on_put is not None
        while True:
            try:
                completion = await self.on_put(value)
            except Exception:
                log.exception("a put could not be processed")
                completion = None
            if not self._again:
                return completion
            self._again = False
            value = self.value  # type: ignore[attr-defined]

    @staticmethod
    async def _processed(processing: asyncio.Task[Completion | None]) -> None:
        await asyncio.wait([processing])
        completion = processing.result()
        if completion is not None:
            await completion()

    async def subscribe(self, *arguments: Any, **keywords: Any) -> None:
        """Start a new monitor with the present value and stamp, not with those last posted."""
        self._content.clear()  # type: ignore[attr-defined]
        await super().subscribe(*arguments, **keywords)  # type: ignore[misc]

    def preset(self, value: Any) -> None:
        """Set the value that the record has before anything is served."""
        self._data["value"] = value  # type: ignore[attr-defined]

    async def post(self, value: Any, *, moment: float | None = None) -> None:
        """Store a value and publish it to every monitor, with the stamp of now or of a moment."""
        if self.common.stamped_by_posts:
            self.common.stamp_now(moment)
        if self._again:
            value = self.value  # type: ignore[attr-defined]  # a newer put is yet to be processed
        await self.write(value, verify_value=False)

    async def post_if_new(self, value: Any) -> None:
        """Store and publish only a change, as a record with MDEL = 0 does."""
        if value != self.value:  # type: ignore[attr-defined]
            await self.post(value)

    def python(self, value: Any) -> Any:
        """Turn a value off the wire into a plain Python one."""
        value = self.preprocess_value(value)  # type: ignore[attr-defined]
        return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value

    def get_field(self, name: str) -> ca.ChannelData:
        """Return ``record.NAME``; VAL is the record itself."""
        if name in ("", "VAL"):
            return self  # type: ignore[return-value]
        if name not in self.field_records and name in COMMON_FIELDS:
            self.field_records = {**self.field_records, name: self._common_field(name)}
        return self.field_records[name]

    def _common_field(self, name: str) -> ca.ChannelData:
        """Make one of the fields that every record has; few clients look at them."""
        row: dict[str, Any] = dict(COMMON_FIELDS[name])
        record: Any
        if name == "RTYP":
            row["value"] = self.reported_record_type  # type: ignore[attr-defined]
        elif name in ("EGU", "PREC"):
            row["value"] = getattr(self, {"EGU": "units", "PREC": "precision"}[name], None)
        record = make_record(row)
        record.common = self.common
        record.writable = name not in ("RTYP", "SEVR")
        return record


class Number(Record, ca.ChannelDouble):
    """A double (ai, ao, calc)."""


class Single(Record, ca.ChannelFloat):
    """A float."""


class Whole(Record, ca.ChannelInteger):
    """A 32-bit integer (longin, longout), or an array of them."""


class Tiny(Record, ca.ChannelInteger):
    """An 8-bit integer that is a number, no text."""

    data_type = ca.ChannelType.CHAR


class Short(Record, ca.ChannelShort):
    """A 16-bit integer."""


class Text(Record, ca.ChannelString):
    """A string of up to 40 characters (stringin, stringout)."""

    def python(self, value: Any) -> str:
        """Decode a string off the wire."""
        value = super().python(value)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class LongText(Record, ca.ChannelChar):
    """A char waveform that holds a string, such as a path."""

    def python(self, value: Any) -> str:
        """Decode a string off the wire; what follows a NUL is not part of it."""
        value = self.preprocess_value(value)
        if isinstance(value, list):
            value = value[0] if value else ""
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        return str(value).split("\0", 1)[0]

    async def write_from_dbr(
        self, data: Any, data_type: Any, metadata: Any, **keywords: Any
    ) -> None:
        """Return the value of a put; caproto cannot read an empty text, which begins with a NUL."""
        if not len(data) or not data[0]:
            await self.write("", **keywords)
        else:
            await super().write_from_dbr(data, data_type, metadata, **keywords)


class Labels(tuple[str, ...]):
    """The labels of a record whose value may be none of its choices."""

    def index(self, label: Any, *where: Any) -> int:
        """Return the number of a label, or that of no choice."""
        return 65535 if label == ILLEGAL else super().index(label, *where)

    def __contains__(self, label: object) -> bool:
        """Return whether a record can hold this value."""
        return label == ILLEGAL or super().__contains__(label)


class Choice(Record, ca.ChannelEnum):
    """One of a few labels (bo, bi, mbbo, mbbi, busy); ``index`` is its number."""

    def python(self, value: Any) -> str:
        """Turn an index or a label into the label."""
        value = super().python(value)
        if isinstance(value, str):
            if value in self.enum_strings:
                return value
        elif 0 <= int(value) < len(self.enum_strings):
            return self.enum_strings[int(value)]
        raise ca.CaprotoValueError(
            f"{value!r} is none of the choices {', '.join(self.enum_strings)}"
        )

    async def post(self, value: Any, *, moment: float | None = None) -> None:
        """Store a label, or the label of an index."""
        if isinstance(value, int) and 0 <= value < len(self.enum_strings):
            value = self.enum_strings[value]
        await super().post(value, moment=moment)

    def allow_illegal(self) -> None:
        """Add ``ILLEGAL`` to the values that the record can have."""
        self._data["enum_strings"] = Labels(self.enum_strings)

    @property
    def index(self) -> int:
        """The number of the present label."""
        return self.enum_strings.index(self.value)


def make_record(row: Mapping[str, Any]) -> Any:
    """Make one record from a row of a table."""
    kind, count = row["type"], row.get("count", 1)
    common: dict[str, Any] = {"reported_record_type": row.get("record", "ai")}
    value = row.get("value")
    if kind == "enum":
        # ADCore leaves the labels of some commands empty; a put by label needs them to differ
        labels = [label or f"{i}" for i, label in enumerate(row.get("enums", ["0", "1"]))]
        known = (value or 0) < len(labels)
        choice = Choice(
            enum_strings=labels,
            value=labels[value or 0] if known else ILLEGAL,
            **common,
        )
        if not known:
            choice.allow_illegal()
        return choice
    if kind == "string":
        return Text(value=value or "", string_encoding="utf-8", **common)
    if kind == "char" and count > 1:
        return LongText(value=value or "", max_length=count, string_encoding="utf-8", **common)
    if count > 1:
        common["max_length"] = count
        value = value or [0]
    numbers = {"double": Number, "float": Single, "long": Whole, "short": Short, "char": Tiny}
    if kind in ("double", "float"):
        common["precision"] = row.get("precision", 0)
    return numbers[kind](
        value=value or 0,
        units=row.get("units", ""),
        lower_ctrl_limit=row.get("low", 0),
        upper_ctrl_limit=row.get("high", 0),
        **common,
    )


def read_table(name: str) -> dict[str, dict[str, Any]]:
    """Read a table of records that ships with the package."""
    return json.loads(resources.files("sim_iocs").joinpath(name).read_text())


class Records:
    """A named set of records under one prefix; ``records["Acquire"]`` is the record itself."""

    def __init__(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        self._records = {name: make_record(row) for name, row in rows.items()}

    def __getitem__(self, name: str) -> Any:
        return self._records[name]

    def __contains__(self, name: object) -> bool:
        return name in self._records

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def value(self, name: str) -> Any:
        """Return the present value of a record."""
        return self._records[name].value

    async def post(self, **values: Any) -> None:
        """Store and publish several records in the order given."""
        for name, value in values.items():
            await self._records[name].post(value)

    def named(self, prefix: str) -> dict[str, ca.ChannelData]:
        """Return the records under their full names, as a server needs them."""
        return {f"{prefix}{name}": record for name, record in self._records.items()}
