"""Passwords of people: kept as scrypt hashes, compared in the same time for every name."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets

from offbragg.errors import CatalogError

SHORTEST, LONGEST = 10, 200  # characters
_N, _R, _P = 2**15, 8, 1  # 32 MB and about 0.1 s for each try
_MEMORY = 2**26  # bytes; OpenSSL's own limit is below what these take
_HASH = re.compile(r"scrypt\$15\$8\$1\$([A-Za-z0-9+/]{22})==\$([A-Za-z0-9+/]{43})=")

NOBODYS = f"scrypt$15$8$1${'A' * 22}==${'A' * 43}="
"""A hash that no password has: a name that does not exist takes as long as one that does."""


def hash_password(password: str) -> str:
    """Return what the file of people holds of a password.

    Raises
    ------
    CatalogError
        If it is too short, or too long.

    Examples
    --------
    >>> kept = hash_password("correct horse battery")
    >>> is_password("correct horse battery", kept), is_password("Correct horse battery", kept)
    (True, False)
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise CatalogError(
            f"the password has {len(password)} characters\nIt must have {SHORTEST} to {LONGEST}."
        )
    salt = secrets.token_bytes(16)
    parts = (base64.b64encode(each).decode() for each in (salt, _derived(password, salt)))
    return "$".join(("scrypt", "15", str(_R), str(_P), *parts))


def is_hash(kept: str) -> bool:
    """Return whether a text is what `hash_password` returns."""
    return _HASH.fullmatch(kept) is not None


def is_password(password: str, kept: str) -> bool:
    """Return whether a password is the one that was hashed."""
    found = _HASH.fullmatch(kept)
    if found is None:
        return False
    salt, derived = (base64.b64decode(text + "=" * (-len(text) % 4)) for text in found.groups())
    return hmac.compare_digest(_derived(password[: LONGEST + 1], salt), derived)


def _derived(password: str, salt: bytes) -> bytes:
    coded = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(coded, salt=salt, n=_N, r=_R, p=_P, maxmem=_MEMORY, dklen=32)
