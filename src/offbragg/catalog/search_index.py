"""Keep the searched tables in the catalog's database, and make them again where they are not."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import text

from offbragg.catalog.search_tables import (
    RUNS_TABLE,
    STATE_TABLE,
    VOLUMES_TABLE,
    Dialect,
    Tables,
)

if TYPE_CHECKING:
    from fastapi import FastAPI
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_log = logging.getLogger(__name__)


def keep_search_tables(app: FastAPI) -> None:
    """Let the app have the searched tables before its first request."""
    lifespan = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def with_tables(app: FastAPI) -> AsyncIterator[Any]:
        async with lifespan(app) as state:
            await ensure_search_tables(app.state.root_tree.context.engine)
            yield state

    app.router.lifespan_context = with_tables


async def ensure_search_tables(engine: AsyncEngine) -> bool:
    """Make the tables again if they are missing, of another version, or without their triggers.

    Returns
    -------
    made
        Whether they were made; otherwise only a few rows were read.
    """
    tables = Tables.of(dialect_of(engine))
    async with engine.connect() as connection:
        if await are_kept(connection, tables):
            return False
    began = time.monotonic()
    async with engine.begin() as connection:
        for statement in (*tables.drop, *tables.create, *tables.fill):
            await connection.exec_driver_sql(statement)
        await connection.execute(
            text(f"INSERT INTO {STATE_TABLE} (signature) VALUES (:signature)"),
            {"signature": tables.signature},
        )
        runs = await connection.scalar(text(f"SELECT count(*) FROM {RUNS_TABLE}"))
        volumes = await connection.scalar(text(f"SELECT count(*) FROM {VOLUMES_TABLE}"))
    async with engine.connect() as connection:
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).exec_driver_sql(
            "ANALYZE"
        )
    if runs or volumes:
        took = time.monotonic() - began
        _log.warning("%d runs and %d volumes were indexed in %.1f s", runs, volumes, took)
    return True


def dialect_of(engine: AsyncEngine) -> Dialect:
    """Return which kind of database it is."""
    name = engine.dialect.name
    if name not in ("sqlite", "postgresql"):
        raise ValueError(f"a catalog's database is sqlite or postgresql, not {name}")
    return cast("Dialect", name)


async def are_kept(connection: AsyncConnection, tables: Tables) -> bool:
    """Return whether the tables are there, of this version, and their triggers with them."""
    if connection.dialect.name == "sqlite":
        there = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'nodes'"
        known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name"
    else:
        there = (
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'nodes'::regclass AND tgenabled <> 'D'"
        )
        known = "SELECT 1 WHERE to_regclass(:name) IS NOT NULL"
    if not await connection.scalar(text(known), {"name": STATE_TABLE}):
        return False
    signature = await connection.scalar(text(f"SELECT signature FROM {STATE_TABLE}"))
    names = {name for (name,) in await connection.execute(text(there))}
    return signature == tables.signature and names.issuperset(tables.triggers)
