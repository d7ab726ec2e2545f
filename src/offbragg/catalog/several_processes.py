"""Several processes that serve one catalog: one writes, any number beside it only read.

What must be done once is done by the process that writes: it makes the tables of the database,
watches the volumes, and takes what is published. Readers share the database and the files with it,
and nothing else, so that any of them may end or start at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from tiled.utils import ensure_specified_sql_driver

from offbragg.catalog.authentication import App, Receive, Scope, Send, refuse
from offbragg.catalog.containers import CONTAINER, VOLUMES
from offbragg.catalog.door import only_reads
from offbragg.catalog.search_index import are_kept
from offbragg.catalog.search_tables import Tables
from offbragg.catalog.tiled_app import unusable
from offbragg.errors import CatalogError

_log = logging.getLogger(__name__)

STARTING = 60.0
"""Time limit for a reader to wait for the process that writes, s."""

_WRITER = 0x6F666662  # of an advisory lock: "offb"
_PAUSE = 0.5  # s
_LOOK = 2.0  # s between two looks whether the lock is still held
_TAKEN = (
    "another process serves this database and writes to it\n"
    "End it first, or start this one beside it to read only: offbragg serve --reader PORT"
)
_TRY_AGAIN_LATER = 1013  # why a websocket is closed, RFC 6455's registry
_WRITES = (
    "This process of the catalog only reads. Send this to the one that writes: its address is host "
    "and port of [catalog] in beamline.toml; nginx sends it there (see how-to/serve-a-facility)."
)


class Reader:
    """Refuses what only the process that writes can do, and passes on all other requests.

    Parameters
    ----------
    app
        The app that answers all other requests.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket" and scope["path"].startswith("/api/"):
            # Tiled tells of what was written to the process itself
            await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER})
        elif scope["type"] == "http" and not only_reads(scope):
            await refuse(send, 421, _WRITES)
        else:
            await self._app(scope, receive, send)


@contextlib.contextmanager
def writing(database: str) -> Iterator[None]:
    """Be the only process that writes to a PostgreSQL database, within a ``with``.

    The lock is held by a connection: it is free when this process has ended, however it ended. If
    the database was away meanwhile it is taken again; if another process was faster, this one ends.

    Parameters
    ----------
    database
        Its address.

    Raises
    ------
    CatalogError
        If another process writes to it, or it cannot be used.
    """
    held, over = _lock(database), threading.Event()
    if held is None:
        raise CatalogError(_TAKEN)
    keeper = threading.Thread(
        target=_keep, args=(database, held, over), name="writer-lock", daemon=True
    )
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def _lock(database: str) -> Any:
    """Return a connection that holds the writer's lock; None if another process has it."""
    from adbc_driver_postgresql import dbapi

    connection: Any = None
    try:
        connection = dbapi.connect(database, autocommit=True)
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT pg_try_advisory_lock({_WRITER})")
            if cursor.fetchone() == (True,):
                held, connection = connection, None
                return held
        return None
    except dbapi.Error as error:
        raise unusable(database, error) from error
    finally:
        if connection is not None:
            connection.close()


def _keep(database: str, held: Any, over: threading.Event) -> None:
    """Take the lock again when the database was restarted; end where another process has it."""
    from adbc_driver_postgresql import dbapi

    while held is not None and not over.wait(_LOOK):
        try:
            with held.cursor() as cursor:
                cursor.execute("SELECT 1")
                cursor.fetchone()
        except dbapi.Error:
            _log.warning("the database is away, and with it the lock of this process")
            _close(held)
            held = _lock_again(database, over)
    _close(held)


def _lock_again(database: str, over: threading.Event) -> Any:
    """Return a connection that holds the lock once the database is back; None: at the end."""
    while not over.is_set():
        try:
            held = _lock(database)
        except CatalogError:
            over.wait(_LOOK)
            continue
        if held is None:
            _log.error("%s", _TAKEN)
            os.kill(os.getpid(), signal.SIGTERM)  # two that write would spoil what they keep
        else:
            _log.warning("the database is back: this process writes to it as before")
        return held
    return None


def _close(connection: Any) -> None:
    if connection is not None:
        with contextlib.suppress(Exception):  # it may be broken
            connection.close()


def await_tables(database: str, *, timeout: float = STARTING) -> None:
    """Wait until the process that writes has made the tables of a database.

    Raises
    ------
    CatalogError
        If they are not there, or are of another version, after a time limit, s.
    """
    if not database:
        raise CatalogError(
            "a catalog in SQLite is served by one process: a second one cannot read its tables\n"
            "Several processes need PostgreSQL: [catalog] database of beamline.toml."
        )
    asyncio.run(_await_tables(database, timeout))


async def _await_tables(database: str, timeout: float) -> None:
    engine = create_async_engine(ensure_specified_sql_driver(database))
    tables = Tables.of("postgresql")
    wanted = text('SELECT count(*) FROM nodes WHERE parent = 0 AND "key" IN (:runs, :volumes)')
    end = time.monotonic() + timeout
    try:
        while True:
            reason: Exception | None = None
            try:
                async with engine.connect() as connection:
                    names = {"runs": CONTAINER, "volumes": VOLUMES}
                    made = await connection.scalar(wanted, names) == len(names)
                    if made and await are_kept(connection, tables):
                        return
            except (OSError, SQLAlchemyError) as error:
                reason = error
            if time.monotonic() > end:
                raise CatalogError(
                    f"the catalog's tables are not there, or of another version, after {timeout:g} "
                    "s\nStart the process that writes first, of this version: offbragg serve"
                ) from reason
            await asyncio.sleep(_PAUSE)
    finally:
        await engine.dispose()
