"""CURVE keys: a file with both halves for its owner, and a list of the senders that may send."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from offbragg.errors import TransferError

log = logging.getLogger(__name__)

_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Key:
    """A pair of keys, each 64 hexadecimal digits."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"Key(public={self.public!r})"


def make_key(path: Path) -> Key:
    """Make a key and write it into a new file that only its owner reads.

    Raises
    ------
    TransferError
        If there is a file of this name, or it cannot be written.
    """
    public, secret = (z85.decode(half).hex() for half in zmq.curve_keypair())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise TransferError(
            f"{path} is there already: it is not overwritten\nRemove it, or choose another name."
        ) from None
    except OSError as error:
        raise TransferError(f"the key cannot be written: {error.strerror}\n{path}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(f"public {public}\nsecret {secret}\n")
        file.flush()
        os.fsync(descriptor)
    return Key(public, secret)


def read_key(path: Path) -> Key:
    """Read a key that `make_key` wrote.

    Raises
    ------
    TransferError
        If it is not one, or others than its owner may read it.
    """
    try:
        with path.open() as file:
            mode = os.fstat(file.fileno()).st_mode
            lines = dict(line.split(maxsplit=1) for line in file.read(4096).splitlines() if line)
    except OSError as error:
        raise TransferError(f"the key cannot be read: {error.strerror}\n{path}") from error
    except ValueError:
        lines, mode = {}, 0
    if mode & 0o077 and os.name != "nt":
        raise TransferError(
            f"others than its owner may read the key {path}: its mode is {mode & 0o777:o}\n"
            "chmod 600 it; if it was read by others, make a new one with --make-key."
        )
    public, secret = (lines.get(half, "").strip() for half in ("public", "secret"))
    if not _KEY.fullmatch(public) or not _KEY.fullmatch(secret):
        raise TransferError(f"{path} is not a key\nMake one: offbragg send --make-key FILE")
    return Key(public, secret)


def read_public(text: str) -> str:
    """Return a public key that was typed.

    Raises
    ------
    TransferError
        If it is not 64 hexadecimal digits.
    """
    if not _KEY.fullmatch(text.strip().lower()):
        raise TransferError(
            f"{text[:70]!r} is not a public key: it has 64 hexadecimal digits\n"
            "offbragg receive --make-key prints it, and it is in the first line of the key's file."
        )
    return text.strip().lower()


def encoded(key: str) -> bytes:
    """Return a key as ZeroMQ takes it."""
    return z85.encode(bytes.fromhex(key))


class Senders:
    """The public keys that may send: one a line, then a name; read at each new connection.

    Parameters
    ----------
    path
        The list; what follows a ``#`` is a remark.

    Raises
    ------
    TransferError
        If it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._refused: set[str] = set()
        if not self.read():
            raise TransferError(
                f"{path} lists no sender\nWrite the public key of each into a line of it."
            )

    def read(self) -> dict[str, str]:
        """Return the names of the senders by their keys."""
        try:
            text = self._path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise TransferError(f"the list of senders cannot be read: {error}") from error
        found: dict[str, str] = {}
        for line in text.splitlines():
            words = line.partition("#")[0].split(maxsplit=1)
            if words:
                found[read_public(words[0])] = words[1].strip() if len(words) > 1 else words[0][:8]
        return found

    def callback(self, domain: str, key: bytes) -> bool:
        """Return whether a key may send; ZeroMQ's authenticator calls this."""
        known: dict[str, str] = {}
        with contextlib.suppress(TransferError):  # then nobody may
            known = self.read()
        public = z85.decode(key).hex()
        if public not in known and public not in self._refused:
            self._refused.add(public)  # it comes again and again: once is enough
            log.warning("a sender with the key %s was refused: it is not listed", public)
        return public in known
