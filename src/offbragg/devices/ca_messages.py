"""Messages of the Channel Access library: into the log, in one line, instead of onto the prompt.

The library prints a box of six lines for each circuit that is interrupted, in the middle of what
somebody types. The devices say in their own words that an IOC is away.
"""

from __future__ import annotations

import ctypes
import logging
import re
import threading
from typing import Any

from offbragg.private_parts import PrivatePart, examine, require

log = logging.getLogger(__name__)

ORDINARY = ("disconnect", "unresponsive", "no longer", "reconnect")
"""What a message of a network or an IOC that is away contains: not for the prompt."""
FRAME = ("", "CA.Client.Exception")
LONGEST = 2000  # characters

_HANDLER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_kept: list[Any] = []  # the library calls it as long as the process lives


class Box:
    """Joins what comes piece by piece to one message: a box of lines, or a line."""

    def __init__(self) -> None:
        self._text = ""
        self._lock = threading.Lock()

    def add(self, text: str) -> None:
        """Take a piece of text; the log gets the message once it is complete."""
        with self._lock:
            self._text += text
            if self._text.startswith("CA.Client.Exception"):
                complete = re.search(r"\n\.{10,}\n", self._text)
            else:
                complete = self._text.endswith("\n") or len(self._text) > LONGEST
            if not complete:
                return
            lines = [line.strip() for line in self._text.splitlines()]
            self._text = ""
        message = "; ".join(line for line in lines if line.rstrip(".") not in FRAME)
        if message:
            usual = any(word in message.lower() for word in ORDINARY)
            log.log(logging.DEBUG if usual else logging.WARNING, "%s", message)


def log_messages() -> None:
    """Send what the library has to say to this module's logger, from now on."""
    import ophyd  # noqa: F401  # first: it chooses the libca that pyepics loads
    from epics import ca

    if _kept:
        return
    part = self_test()
    if not part.active:  # they are printed, then
        log.warning("%s", part)
        return
    if ca.libca is None:
        ca.initialize_libca()
    box = Box()
    libc = ctypes.CDLL(None)

    def handle(template: bytes, arguments: int) -> int:
        text = ctypes.create_string_buffer(2048)
        # va_list is a pointer, or passed as one, on all platforms that libca is built for here
        libc.vsnprintf(text, ctypes.c_size_t(len(text)), template, ctypes.c_void_p(arguments))
        box.add(text.value.decode("utf-8", "replace"))
        return len(text.value)

    handler = _HANDLER(handle)
    _kept.append(handler)
    library: Any = ca.libca
    library.ca_replace_printf_handler(handler)


def self_test() -> PrivatePart:
    """Return whether pyepics has the library that we ask for its messages where we look for it."""

    def look() -> None:
        import ophyd  # noqa: F401  # first: it chooses the libca that pyepics loads
        from epics import ca

        require(ca, "libca", "initialize_libca")

    return examine("pyepics", "messages of Channel Access in the log", look)
