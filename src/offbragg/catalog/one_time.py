"""One-time tokens: a link that lets one browser in, once, for a few minutes.

A token is a file in the folder ``tokens`` of the catalog. Its name is the hash of the token, so
that whoever reads the folder cannot use it; it holds until when it may be used, and when the
read-only key expires that it is exchanged for. The token itself is behind ``#`` in the link: a
browser sends that to no server, and no log has it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from pathlib import Path

from offbragg.errors import CatalogError

FOLDER = "tokens"
MINUTES = 10.0  # that a token may be used
DAYS = 30.0  # until the read-only key expires
_KEPT = 3600.0  # s; a token that was not used is removed then


def create_link(
    catalog: Path, address: str, *, minutes: float = MINUTES, days: float = DAYS
) -> str:
    """Return an address of the page that lets one browser in, once.

    Parameters
    ----------
    catalog
        The catalog's directory.
    address
        Where it is served, such as ``http://127.0.0.1:8000``.
    minutes
        Time limit for using it.
    days
        How long the browser may read then.

    Raises
    ------
    CatalogError
        If the token cannot be kept.
    """
    return f"{address}/live#enter={create_token(catalog, minutes=minutes, days=days)}"


def describe_page(catalog: Path, address: str, *, beamline: Path, terminal: bool) -> str:
    """Return where the page is, for people; with a link that lets one browser in for a terminal.

    What is not a terminal is kept, perhaps where others read it. Then, and if no token can be
    kept, it is the address alone and how to get a link.
    """
    if terminal:
        with contextlib.suppress(CatalogError):
            link = create_link(catalog, address)
            return f"page      {link}  (lets one browser in, within {MINUTES:g} min)"
    how = f"offbragg key --link --beamline {beamline}"
    return f"page      {address}/live  (a link that lets a browser in: {how})"


def create_token(catalog: Path, *, minutes: float = MINUTES, days: float = DAYS) -> str:
    """Create a one-time token; parameters as those of `create_link`."""
    token = secrets.token_urlsafe(24)
    folder = catalog / FOLDER
    now = time.time()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        _remove_old(folder, now)
        path = folder / _hashed(token)
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(made, "w") as file:
            file.write(f"{now + 60 * minutes:.0f} {now + 86400 * days:.0f}\n")
    except OSError as error:
        raise CatalogError(
            f"a one-time link cannot be created: {error.strerror}\n{folder}\n"
            "It is created by the user who owns the catalog. Without it: offbragg key"
        ) from error
    return token


def consume(catalog: Path, token: str) -> float | None:
    """Use a token up; return when the right to read ends, POSIX s, or None if it gives none.

    However many ask at the same time, one of them has it.
    """
    path = catalog / FOLDER / _hashed(token)
    try:
        until, ends = map(float, path.read_text().split())
        path.unlink()  # fails for all but one
    except (OSError, ValueError):
        return None
    return ends if time.time() < until else None


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _remove_old(folder: Path, now: float) -> None:
    for path in folder.iterdir():
        with contextlib.suppress(OSError, ValueError):
            if float(path.read_text().split()[0]) + _KEPT < now:
                path.unlink()
