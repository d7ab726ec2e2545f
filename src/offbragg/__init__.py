"""Single-crystal diffuse X-ray scattering with Bluesky and EPICS.

For notebooks, the steps from scan files to S(Q) are here, each imported at its first use::

    import offbragg

    volume = offbragg.reduce("f1.h5", symmetry="auto")
    offbragg.plot(volume, "hk0.5")

And so is the way to a catalog from anywhere::

    catalog = offbragg.connect()  # OFFBRAGG_CATALOG, OFFBRAGG_KEY
    catalog.latest().frames[-1]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offbragg.files.volume_file import read_volume
    from offbragg.files.volume_writer import write_volume
    from offbragg.plots.planes import plot
    from offbragg.remote.connection import connect
    from offbragg.remote.login import login
    from offbragg.workflows.reduce import merge_and_reduce as reduce
    from offbragg.workflows.why import why

    __version__: str

__all__ = [
    "__version__",
    "connect",
    "login",
    "plot",
    "read_volume",
    "reduce",
    "why",
    "write_volume",
]

_WHERE = {
    "connect": ("offbragg.remote.connection", "connect"),
    "login": ("offbragg.remote.login", "login"),
    "plot": ("offbragg.plots.planes", "plot"),
    "read_volume": ("offbragg.files.volume_file", "read_volume"),
    "reduce": ("offbragg.workflows.reduce", "merge_and_reduce"),
    "why": ("offbragg.workflows.why", "why"),
    "write_volume": ("offbragg.files.volume_writer", "write_volume"),
}


def _installed_version() -> str:
    """Return the installed version, or ``unknown`` for a source tree that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("offbragg")
    except PackageNotFoundError:
        return "unknown"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _installed_version()
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, thing = _WHERE[name]
    return getattr(import_module(module), thing)
