"""Runs the command line as a small installation on Windows would: ``as_at_home.py verify f1.h5``.

Whatever offbragg itself imports is refused if only POSIX has it, or only an extra installs it; its
`os` has neither the functions nor the flags that Windows lacks, and no path leads to an open file.
With ``--import`` each module that is named is imported instead.
"""

from __future__ import annotations

import builtins
import importlib
import os
import re
import sys
import types
from importlib.metadata import requires

POSIX_MODULES = {
    "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "spwd", "syslog", "termios",
    "tty",
}  # fmt: skip
POSIX_NAMES = re.compile(
    "O_(CLOEXEC|DIRECTORY|DSYNC|NOCTTY|NOFOLLOW|NONBLOCK|PATH|SYNC|TMPFILE)|POSIX_.*|SCHED_.*|"
    "p(read|write)v?|readv|writev|posix_.*|sched_.*|(f|l)?chown|fork|forkpty|"
    "get(e?uid|e?gid|groups|loadavg|pgid|priority|sid)|set(pgid|priority|sid)|initgroups|killpg|"
    "mkfifo|mknod|nice|openpty|register_at_fork|sendfile|copy_file_range|splice|statvfs|fstatvfs|"
    "sync|sysconf|uname|wait|wait3|wait4|WIFEXITED|WEXITSTATUS|memfd_create"
)
_OTHER_NAME = {"pyepics": "epics"}
_import = builtins.__import__


def _of_extras() -> set[str]:
    """Return the modules that are there with an extra only."""
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for text in requires("offbragg") or ():
        found = re.match(r"[\w.-]+", text)
        assert found is not None
        module = _OTHER_NAME.get(found[0], found[0]).replace("-", "_")
        names["extra ==" in text].add(module)
    return names[True] - names[False] - {"offbragg", "pytest"}


def _like_windows(module: types.ModuleType, **instead: object) -> types.ModuleType:
    copy = types.ModuleType(module.__name__)
    kept = {name: value for name, value in vars(module).items() if not POSIX_NAMES.fullmatch(name)}
    vars(copy).update(kept, **instead)
    return copy


_MODULES = {"os": _like_windows(os), "sys": _like_windows(sys, platform="win32")}
_ABSENT = POSIX_MODULES | _of_extras()


def _import_at_home(name, globals=None, locals=None, fromlist=(), level=0):
    """Import for whoever asks; offbragg's own modules get what there is at home."""
    if str((globals or {}).get("__name__", "")).startswith("offbragg") and not level:
        top = name.partition(".")[0]
        if top in _ABSENT:
            raise ModuleNotFoundError(f"No module named {top!r} at home", name=top)
        if name in _MODULES:
            return _MODULES[name]
    return _import(name, globals, locals, fromlist, level)


if __name__ == "__main__":
    builtins.__import__ = _import_at_home
    if sys.argv[1] == "--import":
        for each in sys.argv[2:]:
            importlib.import_module(each)
        sys.exit()
    root = importlib.import_module("offbragg.files.root")
    root._OPEN_FILES = ()
    importlib.import_module("offbragg.__main__").main()
