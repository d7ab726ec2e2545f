"""The hold on private parts of Tiled's server: its database, the containers of runs and volumes.

It does not guard: without it the catalog cannot be served.
"""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError
from tiled.catalog.adapter import CatalogContainerAdapter, CatalogNodeAdapter
from tiled.commandline._catalog import init
from tiled.structures.core import Spec, StructureFamily

from offbragg.catalog.containers import CONTAINER, VOLUMES
from offbragg.errors import CatalogError
from offbragg.printable import printable
from offbragg.private_parts import PrivatePart, examine, require

if TYPE_CHECKING:
    from fastapi import FastAPI

_CONTAINERS = {
    CONTAINER: Spec("CatalogOfBlueskyRuns", version="3.0"),
    VOLUMES: Spec("OffbraggVolumes", version="1.0"),
}


def self_test() -> PrivatePart:
    """Return whether the catalog can be set up with these versions of Tiled and FastAPI."""
    return examine("tiled", "a catalog set up in this process", _examine_members)


def _examine_members() -> None:
    from fastapi import FastAPI

    inspect.signature(init).bind("sqlite:///catalog.db", if_not_exists=True)
    require(CatalogContainerAdapter, "create_node", "keys_range", "lookup_adapter")
    require(CatalogNodeAdapter, "data_sources")
    require(FastAPI().router, "lifespan_context")


def create_database(uri: str) -> None:
    """Create the tables of the catalog if they are missing.

    Tiled itself would start a second interpreter for it.

    Raises
    ------
    CatalogError
        If there is no such database, or it cannot be used.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            init(uri, if_not_exists=True)
    except (OSError, SQLAlchemyError) as error:
        raise unusable(uri, error) from error


def unusable(uri: str, error: Exception) -> CatalogError:
    """Return the error that says why a database cannot be used."""
    first = printable(str(getattr(error, "orig", None) or error).partition("\n")[0])
    return CatalogError(
        f"the catalog's database {make_url(uri).render_as_string()} cannot be used: {first}\n"
        "[catalog] database of beamline.toml names it; a database is created with: createdb"
    )


def keep_containers(app: FastAPI) -> None:
    """Create the containers of runs and volumes, if missing, before the first request."""
    tree = app.state.root_tree
    lifespan = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def with_containers(app: FastAPI) -> AsyncIterator[Any]:
        async with lifespan(app) as state:
            there = await tree.keys_range(0, None)
            for key, spec in _CONTAINERS.items():
                if key not in there:
                    await tree.create_node(
                        structure_family=StructureFamily.container,
                        metadata={},
                        key=key,
                        specs=[spec],
                    )
            yield state

    app.router.lifespan_context = with_containers
