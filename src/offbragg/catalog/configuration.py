"""What the catalog server is given: its key, and the configuration of Tiled."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from offbragg.errors import CatalogError


def catalog_key(directory: Path) -> str:
    """Read the key of the catalog; create one if there is none.

    Parameters
    ----------
    directory
        Directory of the catalog; the key is the file ``key`` in it, readable by its owner only.

    Raises
    ------
    CatalogError
        If others can read the key, or it is not a key.
    """
    path = directory / "key"
    key = secrets.token_hex(32)
    part = directory / f".key.{os.getpid()}"
    part.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key + "\n")
        os.link(part, path)  # whole at once: another process may be starting, too
    except FileExistsError:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise CatalogError(
                f"the catalog's key {path} can be read by others (mode {mode:04o})\n"
                f"Anyone on this host may have it. Remove the file; a new key is created at the "
                f"next start."
            ) from None
        key = path.read_text().strip()
        if not key.isalnum():
            raise CatalogError(
                f"the catalog's key {path} holds other characters than letters and digits\n"
                f"Remove the file; a new key is created at the next start."
            ) from None
    finally:
        part.unlink(missing_ok=True)
    return key


def server_configuration(
    directory: Path,
    readable: Sequence[Path],
    *,
    key: str,
    database: str = "",
    reader: bool = False,
) -> dict[str, Any]:
    """Generate the configuration of Tiled, with the field names of its documentation.

    Parameters
    ----------
    directory
        Directory for the catalog's own database, tables and files.
    readable
        Roots below which frames and scan files may be read; anything else is refused.
    key
        Key of the catalog.
    database
        Address of a PostgreSQL database; empty for SQLite in the directory.
    reader
        Whether the server only reads, beside another one.
    """
    duckdb = directory / "tables.duckdb"  # one process alone can open it
    tables = [tables_address(database)] if database else []
    if not database or (duckdb.exists() and not reader):  # of an older version
        tables.append(f"duckdb:///{duckdb}")
    return {
        "trees": [
            {
                "path": "/",
                "tree": "catalog",
                "args": {
                    "uri": database or f"sqlite:///{directory / 'catalog.db'}",
                    "writable_storage": [str(directory / "files"), *tables],
                    "readable_storage": [str(root.resolve()) for root in readable],
                },
            }
        ],
        "authentication": {"single_user_api_key": key, "allow_anonymous_access": False},
        "media_types": {
            "BlueskyRun": {"application/json-seq": "offbragg.catalog.documents:export_documents"}
        },
        "streaming_cache": {"uri": "memory"},
        "expose_raw_assets": False,
        "metrics": {"prometheus": False},
    }


def tables_address(database: str) -> str:
    """Return the address of a PostgreSQL database in the form in which Tiled keeps tables there.

    Tiled reads a host only before the path, and takes a user without a password for one with the
    password ``None``; so the user stands behind the question mark, where libpq reads it, too.

    Examples
    --------
    >>> tables_address("postgresql://offbragg@/catalog?host=/run/postgresql")
    'postgresql://localhost/catalog?host=/run/postgresql&user=offbragg'
    """
    parts = urlsplit(database)
    user, at, host = parts.netloc.rpartition("@")
    host = host or "localhost"  # libpq prefers the one behind the question mark
    if ":" in user:
        return urlunsplit(parts._replace(netloc=f"{user}@{host}"))
    query = "&".join(filter(None, (parts.query, f"user={quote(unquote(user))}" if at else "")))
    return urlunsplit(parts._replace(netloc=host, query=query))
