"""The catalog's runs, connected when first used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from offbragg.errors import CatalogError

# a catalog is no device, and whoever looks for devices must not connect it
_VERBS = frozenset(
    {"read", "describe", "set", "kickoff", "complete", "trigger", "stage", "name", "children"}
)


class _AwayError(CatalogError, AttributeError):
    """The catalog is away, said so that ``hasattr`` is a question and not a failure."""


class LaterCatalog:
    """The catalog's runs, connected when first used: one can measure before it is up.

    Parameters
    ----------
    connect
        Connects to the catalog, or raises a CatalogError.
    face
        "v1" or "v2" for Databroker's faces.
    """

    def __init__(self, connect: Callable[[], Any], face: str = "") -> None:
        self._connect = connect
        self._face = face
        self._runs: Any = None

    @property
    def v1(self) -> LaterCatalog:
        """Databroker's old face."""
        return LaterCatalog(self._connect, "v1")

    @property
    def v2(self) -> LaterCatalog:
        """Databroker's newer face."""
        return LaterCatalog(self._connect, "v2")

    def _connected(self) -> Any:
        if self._runs is None:
            runs = self._connect()
            self._runs = getattr(runs, self._face) if self._face else runs
        return self._runs

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in _VERBS:  # IPython and the queueserver ask for many
            raise AttributeError(name)
        try:
            return getattr(self._connected(), name)
        except CatalogError as error:
            raise _AwayError(str(error)) from error

    def __getitem__(self, item: Any) -> Any:
        return self._connected()[item]

    def __len__(self) -> int:
        return len(self._connected())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._connected())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Search, as Databroker's v1 does: db(scan_id=42)."""
        return self._connected()(*args, **kwargs)

    def __dir__(self) -> list[str]:
        return dir(self._connected()) if self._runs is not None else ["v1", "v2"]

    def __repr__(self) -> str:
        try:
            return repr(self._connected())
        except CatalogError as error:
            return f"<catalog away: {error}>"
