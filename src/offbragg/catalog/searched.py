"""The searched tables, as questions to the database name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import column, table

from offbragg.catalog.search_tables import (
    MEMBERS_TABLE,
    RUN_COLUMNS,
    RUNS_TABLE,
    VOLUME_COLUMNS,
    VOLUMES_TABLE,
    WORDS_TABLE,
)


def _described(name: str, columns: Sequence[Any]) -> Any:
    return table(name, column("node_id"), column("uid"), *(column(c.name) for c in columns))


RUNS: Any = _described(RUNS_TABLE, RUN_COLUMNS)
VOLUMES: Any = _described(VOLUMES_TABLE, VOLUME_COLUMNS)
MEMBERS: Any = table(MEMBERS_TABLE, column("run"), column("node_id"))
WORDS: Any = table(WORDS_TABLE, column("rowid"), column("words"))
