"""The runs of the catalog, connected when first used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from offbragg.errors import CatalogError

# a catalog is not a device, and a search for devices must not connect it
_VERBS = frozenset(
    {"read", "describe", "set", "kickoff", "complete", "trigger", "stage", "name", "children"}
)


class _AwayError(CatalogError, AttributeError):
    """The catalog is away; an AttributeError too, so that ``hasattr`` returns False."""


class LaterCatalog:
    """The runs of the catalog, connected when first used: one can measure before it is up.

    Parameters
    ----------
    connect
        Connects to the catalog, or raises a CatalogError.
    interface
        "v1" or "v2" for Databroker's interfaces.
    """

    def __init__(self, connect: Callable[[], Any], interface: str = "") -> None:
        self._connect = connect
        self._interface = interface
        self._runs: Any = None

    @property
    def v1(self) -> LaterCatalog:
        """Databroker's old interface."""
        return LaterCatalog(self._connect, "v1")

    @property
    def v2(self) -> LaterCatalog:
        """Databroker's newer interface."""
        return LaterCatalog(self._connect, "v2")

    def _connected(self) -> Any:
        if self._runs is None:
            runs = self._connect()
            self._runs = getattr(runs, self._interface) if self._interface else runs
        return self._runs

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in _VERBS:  # IPython and the queueserver try many
            raise AttributeError(name)
        try:
            return getattr(self._connected(), name)
        except CatalogError as error:
            raise _AwayError(str(error)) from error

    def __getitem__(self, item: object) -> Any:
        return self._connected()[item]

    def __len__(self) -> int:
        return len(self._connected())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._connected())

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Search, as Databroker's v1 does: db(scan_id=42)."""
        return self._connected()(*args, **kwargs)

    def __dir__(self) -> list[str]:
        return dir(self._connected()) if self._runs is not None else ["v1", "v2"]

    def __repr__(self) -> str:
        try:
            return repr(self._connected())
        except CatalogError as error:
            return f"<catalog away: {error}>"
