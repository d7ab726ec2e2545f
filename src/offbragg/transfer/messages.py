"""The messages between a sender and a receiver."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from offbragg.errors import TransferError

VERSION = 2
PIECE = 1 << 20
"""Most bytes of a file in one message."""
LARGEST = 8 << 20
"""Most bytes of a message: a line of a journal is not cut."""
_LONGEST_HEADER = 1 << 16


@dataclass(frozen=True, slots=True)
class Message:
    """One message: what it is about, its fields and its bytes."""

    do: str
    fields: dict[str, Any]
    payload: bytes = b""

    def text(self, key: str) -> str:
        """Return a field that is text.

        Raises
        ------
        TransferError
            If it is not.
        """
        value = self.fields.get(key)
        if not isinstance(value, str):
            raise TransferError(f"a message {self.do!r} without the text {key!r} came")
        return value

    def number(self, key: str) -> int:
        """Return a field that is a whole number from 0 on.

        Raises
        ------
        TransferError
            If it is not.
        """
        value = self.fields.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
            raise TransferError(f"a message {self.do!r} without the number {key!r} came")
        return value


def pack(do: str, payload: bytes = b"", **fields: Any) -> list[bytes]:
    """Make the parts of a message."""
    return [json.dumps({"do": do, **fields}, separators=(",", ":")).encode(), payload]


def unpack(parts: list[bytes]) -> Message:
    """Read a message from its parts.

    Raises
    ------
    TransferError
        If they are not a message.
    """
    if len(parts) != 2 or len(parts[0]) > _LONGEST_HEADER:
        raise TransferError("a message came that does not have a header and bytes")
    try:
        fields: Any = json.loads(parts[0])
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict) or not isinstance(cast(dict[str, Any], fields).get("do"), str):
        raise TransferError(f"a message came that is not one: {parts[0][:60]!r}")
    found = cast(dict[str, Any], fields)
    return Message(found.pop("do"), found, parts[1])
