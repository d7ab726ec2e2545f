"""One line of a journal: ``["name", {document}]``, and its checksum in the white space after it.

JSON allows white space after a value. A line ends in 32 spaces and tabs, which are the bits of the
CRC-32 of what stands before them: a space is 0, a tab 1, the highest bit first. So any program
that reads JSON lines reads the documents as they are, and a line of an older journal, without
them, is read unchecked.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, cast

from offbragg.json_values import plain

_BITS = 32
_TO_SPACE = bytes.maketrans(b"01", b" \t")

_NUMBER = (int, float)
# What a document must have, for those who read it without asking.
_NEEDED: dict[str, dict[str, type]] = {
    "start": {"uid": str},
    "descriptor": {"uid": str},
    "event": {"descriptor": str, "data": dict},
    "event_page": {"descriptor": str, "data": dict, "seq_num": list},
    "resource": {"uid": str},
    "datum": {"resource": str},
    "datum_page": {"resource": str},
    "stream_resource": {"uid": str, "mimetype": str, "uri": str, "parameters": dict},
    "stream_datum": {"descriptor": str, "stream_resource": str, "indices": dict, "seq_nums": dict},
    "stop": {"exit_status": str},
}
# What it need not have, and how it is if it does.
_ALLOWED: dict[str, dict[str, Any]] = {
    "start": {
        "time": _NUMBER, "sweep": dict, "detector": dict, "per_frame": dict, "motor_speeds": dict,
    },
    "descriptor": {"name": str, "configuration": dict, "data_keys": dict},
    "event": {"time": _NUMBER, "timestamps": dict},
    "event_page": {"time": list, "timestamps": dict},
    "stop": {"time": _NUMBER, "reason": str, "num_events": dict},
}  # fmt: skip
_OF_A_SWEEP: dict[str, Any] = {"sample": dict, "temperature": dict, "geometry": (dict, type(None))}


class LineError(ValueError):
    """A line is not a document as it was written; the message says why."""


def encode_line(name: str, doc: Mapping[str, Any]) -> bytes:
    """Make the line of a document, with its checksum and its end."""
    text = json.dumps([name, doc], default=plain, separators=(",", ":")).encode()
    return text + _checksum(text) + b"\n"


def decode_line(line: bytes) -> tuple[str, dict[str, Any]]:
    """Read a line.

    Parameters
    ----------
    line
        Without its end.

    Raises
    ------
    LineError
        If it does not have its checksum, or is not a document that can be used.
    """
    text = line.rstrip(b" \t")
    spaces = line[len(text) :]
    try:
        pair = json.loads(text)
    except RecursionError:
        raise LineError("it is nested too deeply") from None
    except ValueError as error:
        raise LineError(f"it is not JSON: {error}") from None
    if spaces and spaces != _checksum(text):
        raise LineError("it does not have the checksum with which it was written")
    if not (isinstance(pair, list) and len(cast(list[Any], pair)) == 2):
        raise LineError("it is not a name and a document")
    name, doc = cast(list[Any], pair)
    if not isinstance(name, str):
        raise LineError("it is not a name and a document")
    if not isinstance(doc, dict):
        raise LineError(f"its {name} document is {type(doc).__name__}, not a mapping")
    if name not in _NEEDED:
        raise LineError(f"it has a document of the unknown kind {name[:40]!r}")
    document = cast(dict[str, Any], doc)
    _check(name, document)
    return name, document


def is_checked(line: bytes) -> bool:
    """Return whether a line has a checksum."""
    return line.endswith((b" ", b"\t"))


def complete_line(line: bytes) -> bytes:
    """Complete a checksum of which a killed writer wrote a part; empty if that cannot be."""
    text = line.rstrip(b" \t")
    whole = text + _checksum(text)
    return whole if whole.startswith(line) and text.endswith(b"]") and is_whole(text) else b""


def is_whole(line: bytes) -> bool:
    """Return whether a line begins with all of a document; what a killed writer leaves does not."""
    try:
        json.JSONDecoder().raw_decode(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return False
    return True


def _checksum(text: bytes) -> bytes:
    return format(zlib.crc32(text), f"0{_BITS}b").encode().translate(_TO_SPACE)


def _check(name: str, doc: Mapping[str, Any]) -> None:
    wanted = {key: kind for key, kind in _ALLOWED.get(name, {}).items() if key in doc}
    if name == "start" and "sweep" in doc:
        wanted |= {key: kind for key, kind in _OF_A_SWEEP.items() if key in doc}
    for key, kind in {**_NEEDED[name], **wanted}.items():
        if key not in doc:
            raise LineError(f"its {name} document has no {key!r}")
        if not isinstance(doc[key], kind) or isinstance(doc[key], bool):
            raise LineError(f"{key!r} of its {name} document is {type(doc[key]).__name__}")
    if name == "stream_datum":
        for key in ("indices", "seq_nums"):
            if not all(isinstance(doc[key].get(end), int) for end in ("start", "stop")):
                raise LineError(f"{key!r} of its {name} document has no start and stop")
