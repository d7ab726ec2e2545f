"""Log in to a catalog that has people: ``offbragg.login(url, name)``."""

from __future__ import annotations

import contextlib
import getpass
from typing import Any

import httpx

from offbragg.errors import CatalogError
from offbragg.printable import printable
from offbragg.remote.connection import Connection, connect
from offbragg.remote.link import CatalogAway, Link

_PATIENCE = 60.0  # s: passwords of several people are compared one after the other


def login(url: str, name: str, password: str | None = None, *, timeout: float = 10.0) -> Connection:
    """Log in with name and password, and connect; the login lasts for hours.

    Parameters
    ----------
    url
        The catalog's address, as ``http://127.0.0.1:8000``.
    name
        As the catalog's file of people has it.
    password
        Asked for at the terminal if it is not given.
    timeout
        Time limit for a server that is starting, s.

    Raises
    ------
    CatalogError
        If the name or the password is wrong, nobody logs in there, or it does not answer.

    Examples
    --------
    >>> catalog = offbragg.login("http://127.0.0.1:8000", "ada")  # doctest: +SKIP
    """
    link = Link(url, "none")
    link.close()
    body = {
        "name": name,
        "password": getpass.getpass("Password: ") if password is None else password,
        "program": True,
    }
    try:
        answer = httpx.post(
            f"{link.address}/login", json=body, timeout=_PATIENCE, trust_env=not link.is_local
        )
    except httpx.TransportError as error:
        raise CatalogAway(f"the catalog at {link.address} does not answer: {error}") from None
    document: Any = {}
    with contextlib.suppress(ValueError):
        document = answer.json()
    if answer.status_code != 200 or "key" not in document:
        why = printable(str(document.get("detail") or f"it answered {answer.status_code}"))
        raise CatalogError(f"{link.address} lets nobody in as {printable(name)}: {why}")
    return connect(link.address, document["key"], timeout=timeout)
