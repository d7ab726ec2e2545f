"""The target of an export: a directory, or a manager as in the suitcase packages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offbragg.errors import ConfigError
from offbragg.printable import printable

_LONGEST_NAME = 255  # characters that a file system takes


class Directory:
    """Names for new files in a directory; existing files are never overwritten.

    It implements the part of suitcase-utils' ``MultiFileManager`` that the exports here use.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._artifacts: defaultdict[str, list[Path]] = defaultdict(list)

    @property
    def artifacts(self) -> dict[str, list[Path]]:
        """Label → files."""
        return dict(self._artifacts)

    def reserve_name(self, label: str, postfix: str) -> Path:
        """Return the path of a new file.

        Raises
        ------
        ConfigError
            If it is outside the directory, or exists already.
        """
        root = self._directory.expanduser().resolve()
        shown = printable(postfix)
        if shown != postfix or any(len(part) > _LONGEST_NAME for part in Path(postfix).parts):
            raise ConfigError(
                f"{shown[:300]} cannot be the name of a file\nChoose another file_prefix."
            )
        path = (root / postfix).resolve()
        if path == root or not path.is_relative_to(root):
            raise ConfigError(
                f"{postfix} is not below {root}\nChoose a file_prefix without '..' or a leading /."
            )
        if path.exists():
            raise ConfigError(
                f"{path} is there already and is not overwritten\n"
                "Rename it, or choose another directory or file_prefix."
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{path.parent} cannot be created: {error.strerror}") from error
        self._artifacts[label].append(path)
        return path

    def close(self) -> None:
        """Do nothing: no file is held open here."""


def manager_of(directory: Any) -> Any:
    """Return the manager of a suitcase ``directory``, which is a path or a manager."""
    return Directory(directory) if isinstance(directory, str | Path) else directory


def target(manager: Any, label: str, postfix: str, *, mode: str = "xb") -> Any:
    """Return a path from a manager, or a buffer from one that keeps its files in memory."""
    if isinstance(manager, Directory):
        return manager.reserve_name(label, postfix)
    try:
        path = Path(manager.reserve_name(label, postfix))
    except Exception as error:  # suitcase-utils' own type; it is not a dependency
        if type(error).__name__ != "SuitcaseUtilsTypeError":
            raise
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path
    return manager.open(label, postfix, mode)


def fill_prefix(file_prefix: str, start: Mapping[str, Any]) -> str:
    """Fill a template like ``{uid}-`` from the start document.

    Raises
    ------
    ConfigError
        If the start document lacks a key of the template.

    Examples
    --------
    >>> fill_prefix("{sample[name]}-{scan_id}-", {"sample": {"name": "LSMO"}, "scan_id": 7})
    'LSMO-7-'
    """
    try:
        return file_prefix.format(**start, start=start)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"file_prefix {file_prefix!r} cannot be filled from the start document: {error!r}\n"
            f"It has {', '.join(sorted(start))}."
        ) from error
