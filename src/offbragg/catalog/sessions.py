"""Keys of people who have logged in: they expire, and end with the person or their password.

Nothing is stored: such a key holds the name and the expiry time, and is signed with the catalog's
key together with what the file of people has of the person.
"""

from __future__ import annotations

import hashlib
import hmac
import re

from offbragg.catalog.people import People

_KEY = re.compile(r"login([0-9a-f]{10})((?:[0-9a-f]{2}){1,60})\.([0-9a-f]{48})")


def session_key(key: str, people: People, name: str, *, ends: float) -> str:
    """Return the key of a person who has logged in.

    Parameters
    ----------
    key
        The catalog's key.
    people
        Where the person is.
    name
        Of the person.
    ends
        When it expires, POSIX s.
    """
    until, coded = f"{int(ends):010x}", name.encode().hex()
    return f"login{until}{coded}.{_signature(key, until, coded, people.fingerprint(name))}"


def read_session(given: str, key: str, people: People) -> tuple[str, float] | None:
    """Return whose key it is and when it expires, POSIX s, also if it has; None: it is none."""
    found = _KEY.fullmatch(given)
    if found is None:
        return None
    until, coded, signature = found.groups()
    name = bytes.fromhex(coded).decode("utf-8", "replace")
    if name not in people.people:
        return None
    expected = _signature(key, until, coded, people.fingerprint(name))
    return (name, float(int(until, 16))) if hmac.compare_digest(signature, expected) else None


def _signature(key: str, until: str, name: str, fingerprint: str) -> str:
    text = f"logged in {until} {name} {fingerprint}"
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()[:48]
