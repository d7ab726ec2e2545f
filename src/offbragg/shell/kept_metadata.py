"""``RE.md``, kept in a file that all prompts of a beamline share.

There is one crystal on the goniometer, whoever types. So the others take over what is set at one
prompt, key by key, at their next prompt or plan, and show it; a plan that has started keeps what it
began with. A second prompt is allowed: it is used to look at things, and the queueserver's worker
is one, too.
"""

from __future__ import annotations

import contextlib
import copy
import getpass
import json
import logging
import os
import socket
import time
from collections import UserDict
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from offbragg.errors import ConfigError, MetadataError
from offbragg.files.lock import lock
from offbragg.json_values import plain

log = logging.getLogger(__name__)

_OURS = frozenset({"beamline_id", "versions", "scan_id"})  # of this process; never set by a user
_PATIENCE = 5.0  # timeout for another process that writes, s


class KeptMetadata(UserDict[str, Any]):
    """A mapping whose changes are kept in a file that people can read.

    The beamline's own values (its id, versions, [metadata] of beamline.toml) are not written, so
    that a changed beamline.toml takes effect; what was set at the prompt overrides them.

    Parameters
    ----------
    path
        A JSON file; created when there is something to keep.
    base
        The beamline's own values.

    Raises
    ------
    ConfigError
        If the file is damaged: naming it and the line.
    """

    def __init__(self, path: Path, base: Mapping[str, Any]) -> None:
        super().__init__()
        self.path = path
        self._base = copy.deepcopy(dict(base))
        self.data.update(base)
        self._stamp: object = None
        self._synced: dict[str, str] = {}  # what the file held when it was last read or written
        self._news: dict[str, Any] = {}
        self._take(self._read())
        self._news.clear()

    def __setitem__(self, key: str, value: Any) -> None:
        try:
            _to_json(value)
        except (TypeError, ValueError) as error:
            raise MetadataError(
                f"RE.md[{key!r}] cannot be written into a document: {error}\n"
                "Text, numbers, true or false, lists and mappings of them can."
            ) from error
        super().__setitem__(key, value)
        self.save()

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self.save()

    def save(self) -> None:
        """Write what was changed here, and take over what others have changed since."""
        if not self._changed():
            return
        try:
            with self._locked() as held:
                theirs = self._read()
                mine = self._changed()
                self._take(theirs, but=mine)
                kept = {key: text for key, text in theirs.items() if key not in mine}
                kept |= {key: text for key, text in mine.items() if text is not None}
                self._write(kept)
                self._sign(held)
        except OSError as error:
            raise ConfigError(
                f"RE.md cannot be kept: {error.strerror}\n{self.path}\n"
                "Repair that disk, or free space on it."
            ) from error

    def refresh(self) -> dict[str, Any]:
        """Take over what other processes have changed; return it, with None for what they removed.

        A file that cannot be read at the moment changes nothing.
        """
        try:
            if self._stamp_now() != self._stamp:
                self.save()  # our nested changes, before another's whole value
                self._take(self._read())
        except (OSError, ConfigError) as error:
            log.warning("RE.md cannot be compared with other prompts: %s", error)
            self._stamp = self._stamp_now()  # once is enough
        news, self._news = self._news, {}
        return news

    def changed_by(self) -> str:
        """Return the last writer, as "user on host, pid 123"; empty if unknown."""
        try:
            by = json.loads(self._lock_path.read_text(encoding="utf-8"))
            return f"{by['user']} on {by['host']}, pid {by['pid']}"
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    # -- what differs ----------------------------------------------------------------------

    def _set_here(self) -> dict[str, str]:
        """Return key → JSON of what is not the beamline's own."""
        return {
            key: _to_json(value)
            for key, value in self.data.items()
            if key not in _OURS and (key not in self._base or self._base[key] != value)
        }

    def _changed(self) -> dict[str, str | None]:
        """Return key → JSON of what was changed in this process, with None for a removed key."""
        ours = self._set_here()
        keys = ours.keys() | self._synced.keys()
        return {key: ours.get(key) for key in keys if ours.get(key) != self._synced.get(key)}

    def _take(self, theirs: Mapping[str, str], but: Container[str] = ()) -> None:
        """Take over the content of the file, and remember what that changes."""
        for key in (theirs.keys() | self._synced.keys()) - _OURS:
            if key in but or theirs.get(key) == self._synced.get(key):
                continue
            if key in theirs:
                self.data[key] = json.loads(theirs[key])
            elif key in self._base:
                self.data[key] = copy.deepcopy(self._base[key])
            else:
                self.data.pop(key, None)
            self._news[key] = self.data.get(key)
        self._synced = dict(theirs)

    # -- the file --------------------------------------------------------------------------

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(f".{self.path.name}.lock")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[IO[str]]:
        # beside the file, which is replaced: a lock on it would be on the old one
        with self._lock_path.open("a+", encoding="utf-8") as held:
            deadline = time.monotonic() + _PATIENCE
            while True:
                try:
                    lock(held)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise ConfigError(
                            f"RE.md cannot be kept: another process has held it for "
                            f"{_PATIENCE:g} s\n{self.path}\nThe last writer was "
                            f"{self.changed_by() or 'unknown'}. Was it suspended?"
                        ) from None
                    time.sleep(0.02)
            yield held

    def _sign(self, held: IO[str]) -> None:
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = str(os.getuid())
        held.truncate(0)
        json.dump({"user": user, "host": socket.gethostname(), "pid": os.getpid()}, held)

    def _stamp_now(self) -> object:
        try:
            stat = self.path.stat()
            return stat.st_ino, stat.st_mtime_ns, stat.st_size
        except OSError:
            return None

    def _read(self) -> dict[str, str]:
        stamp = self._stamp_now()
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            damage = "it is not a JSON object"
        except FileNotFoundError:
            content, damage = {}, ""
        except (OSError, ValueError) as error:
            content, damage = None, str(error)
        if not isinstance(content, dict):
            raise ConfigError(
                f"RE.md cannot be restored: {damage}\n{self.path}\nCorrect the file, or rename it "
                "and set sample(…) and experiment(…) again."
            )
        self._stamp = stamp
        return {key: _to_json(value) for key, value in content.items()}

    def _write(self, kept: Mapping[str, str]) -> None:
        content = {key: json.loads(text) for key, text in kept.items()}
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(self.path)
        self._synced = dict(kept)
        self._stamp = self._stamp_now()


def _to_json(value: object) -> str:
    return json.dumps(value, default=plain, ensure_ascii=False)
