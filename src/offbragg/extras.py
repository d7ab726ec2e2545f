"""Which of its extras offbragg needs for what: the small installation has none of them."""

from __future__ import annotations

import re

# the first one that has a package is advised
_ORDER = ("tiled", "catalog", "transfer", "beamline", "dask")
_POSIX = frozenset({"fcntl", "grp", "pwd", "resource", "termios"})
# modules that are not called as their distribution
_OTHER_NAME = {"epics": "pyepics", "zmq": "pyzmq"}


def extra_with(module: str) -> str:
    """Return the extra of offbragg that installs a module; empty if none does.

    Examples
    --------
    >>> extra_with("tiled.server.app"), extra_with("epics"), extra_with("numpy")
    ('tiled', 'beamline', '')
    """
    from importlib.metadata import requires  # it takes a while, and is rarely needed

    top = module.partition(".")[0]
    wanted = _plain(_OTHER_NAME.get(top, top))
    listed: dict[str, set[str]] = {}
    for text in requires("offbragg") or ():
        package = re.match(r"[\w.-]+", text)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", text)
        if package and extra:
            listed.setdefault(extra[1], set()).add(_plain(package[0]))
    return next((extra for extra in _ORDER if wanted in listed.get(extra, ())), "")


def describe_absent(error: ModuleNotFoundError) -> str:
    """Return what is missing and what to do; empty if neither an extra nor POSIX would have it."""
    if error.name in _POSIX:
        return "this runs on Linux and macOS only\nAt home, files are read, reduced and plotted."
    extra = extra_with(error.name or "")
    if not extra:
        return ""
    return (
        f"this needs {error.name}, which the small installation of offbragg does not have\n"
        f"Install it: pip install 'offbragg[{extra}]'"
    )


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
