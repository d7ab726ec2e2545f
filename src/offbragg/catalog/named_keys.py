"""Named keys: each opens the catalog for one person or program, expires, and can be revoked.

A named key is a file in the folder ``keys`` of the catalog, which holds its label, scope and expiry
time. The key itself is kept nowhere. A browser gets another text, which is computed from the key
and only reads; the file's name is the hash of that. So from the folder neither can be used, and
from a browser's cookie the key cannot be found. The content is signed with the catalog's key: a
file that is damaged, edited or of another catalog opens nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from offbragg.errors import CatalogError
from offbragg.printable import printable

FOLDER = "keys"
LABEL = 60  # characters
Opens = Literal["read", "annotate", "beamline", "staff", "operator"]
_OWNED = ("read", "annotate")  # scopes of keys that may be a person's, or some proposals'

_ALWAYS = ("label", "scope", "made", "ends")
_KEY = re.compile(r"named[0-9a-f]{48}")
_BROWSER = re.compile(r"shown[0-9a-f]{64}")
_LARGEST = 4096  # bytes of a file


@dataclass(frozen=True, slots=True)
class NamedKey:
    """What a named key is, without the key."""

    label: str
    scope: Opens
    made: float
    """POSIX s."""
    ends: float
    """When it expires, POSIX s."""
    person: str = ""
    """Whose it is: it opens what this person may see; empty: nobody's."""
    proposals: tuple[str, ...] = ()
    """Those of which it opens the runs; empty: all that its person may see."""


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A named key as it was sent."""

    key: NamedKey
    only_reads: bool
    """The text of a browser was sent, or the scope of the key is ``read``."""


class NamedKeys:
    """The named keys of one catalog.

    Files are read whenever a key is sent, so a key that is revoked opens nothing from then on.

    Parameters
    ----------
    catalog
        The catalog's directory.
    key
        The catalog's key.
    """

    def __init__(self, catalog: Path, key: str) -> None:
        self._folder = catalog / FOLDER
        self._key = key.encode()

    def create(
        self,
        label: str,
        *,
        scope: Opens,
        ends: float,
        person: str = "",
        proposals: Sequence[str] = (),
    ) -> str:
        """Create a named key, and return it; parameters as those of `NamedKey`.

        Raises
        ------
        CatalogError
            If the label is not one, a key has it already, or the key cannot be kept.
        """
        if not label.strip() or label != label.strip() or len(label) > LABEL:
            raise CatalogError(
                f"not a label of a key: {label[: LABEL + 1]!r}\n"
                f"It has 1 to {LABEL} characters, and no space at its ends: who uses the key, and "
                "where."
            )
        if not label.isprintable():
            raise CatalogError(f"a label of a key holds control characters: {printable(label)}")
        if scope not in get_args(Opens):
            raise CatalogError(f"a key has no scope {scope}: choose {' or '.join(get_args(Opens))}")
        if (person or proposals) and scope not in _OWNED:
            raise CatalogError(
                f"a key with the scope {scope} is nobody's, and of no proposal\n"
                f"Leave the person and the proposals out, or choose {' or '.join(_OWNED)}."
            )
        if not all(proposals):
            raise CatalogError("a proposal of a key is an empty text")
        if any(each.label == label for each in self.known()):
            raise CatalogError(
                f"a key has the label {label} already\n"
                "Choose another label, or revoke that key first: offbragg token --revoke"
            )
        given = f"named{secrets.token_hex(24)}"
        name = _hashed(for_browser(given))
        made = NamedKey(
            label, scope, float(int(time.time())), float(int(ends)), person, tuple(proposals)
        )
        # what is empty is left out, as in files from before there were people
        content = {k: v for k, v in asdict(made).items() if k in _ALWAYS or v}
        content = json.loads(json.dumps(content))
        text = json.dumps({**content, "signature": self._signature(name, content)})
        part = self._folder / f".{name}.part"
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            created = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(created, "w") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            part.rename(self._folder / name)
        except OSError as error:
            raise CatalogError(
                f"a named key cannot be created: {error.strerror}\n{self._folder}\n"
                "It is created by the user who owns the catalog."
            ) from error
        return given

    def find(self, given: str) -> FoundKey | None:
        """Find the key that a client has sent, also one that has expired; None if there is none."""
        if _KEY.fullmatch(given):
            shown, only_reads = for_browser(given), False
        elif _BROWSER.fullmatch(given):
            shown, only_reads = given, True
        else:
            return None
        key = self._read(_hashed(shown))
        return None if key is None else FoundKey(key, only_reads or key.scope != "staff")

    def known(self) -> list[NamedKey]:
        """Return the named keys that the catalog knows, by label, also those that have expired.

        Raises
        ------
        CatalogError
            If the folder cannot be read.
        """
        found = [key for name in self._names() if (key := self._read(name)) is not None]
        return sorted(found, key=lambda key: (key.label, key.made))

    def revoke(self, label: str) -> None:
        """Revoke the key with a label.

        Raises
        ------
        CatalogError
            If no key has this label, or its file cannot be removed.
        """
        names = [n for n in self._names() if (key := self._read(n)) and key.label == label]
        if not names:
            raise CatalogError(
                f"no key has the label {printable(label)}\noffbragg token lists the keys."
            )
        for name in names:
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError as error:
                raise CatalogError(
                    f"the key {printable(label)} is not revoked: {error.strerror}\n"
                    f"Remove its file: {self._folder / name}"
                ) from error

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self._folder.iterdir() if not path.name.startswith(".")]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CatalogError(
                f"the named keys cannot be read: {error.strerror}\n{self._folder}\n"
                "They are read by the user who owns the catalog."
            ) from error

    def _read(self, name: str) -> NamedKey | None:
        """Read the file of a key; None if it is absent, damaged or not signed by this catalog."""
        try:
            with (self._folder / name).open("rb") as file:
                content: Any = json.loads(file.read(_LARGEST))
            signature = content.pop("signature")
            if not hmac.compare_digest(signature, self._signature(name, content)):
                return None
            proposals = content.pop("proposals", [])
            return NamedKey(**content, proposals=tuple(proposals))
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            return None

    def _signature(self, name: str, content: dict[str, Any]) -> str:
        signed = f"named key {name} {json.dumps(content, sort_keys=True)}"
        return hmac.new(self._key, signed.encode(), hashlib.sha256).hexdigest()


def for_browser(given: str) -> str:
    """Return the text that a browser gets for a named key; it only reads.

    Examples
    --------
    >>> shown = for_browser("named" + 48 * "0")
    >>> len(shown), for_browser(shown) == shown
    (69, True)
    """
    if _BROWSER.fullmatch(given):
        return given
    return f"shown{hashlib.sha256(f'for a browser {given}'.encode()).hexdigest()}"


def _hashed(shown: str) -> str:
    return hashlib.sha256(shown.encode()).hexdigest()
