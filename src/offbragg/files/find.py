"""Find the scan file of a run."""

from __future__ import annotations

import os
from pathlib import Path

from offbragg.errors import OffbraggError, ScanFileError
from offbragg.files.scan_file import ScanFile
from offbragg.files.shared_reader import stamp_of
from offbragg.files.writer_lock import is_opening, noted_uid, owner


def find_scan_file(directory: Path | str, run_uid: str) -> Path | None:
    """Find the scan file of a run among the ``fN.h5`` of a directory.

    Raises
    ------
    ScanFileError
        If the directory, or a file in it, cannot be read: the file may be there, unseen.
    """
    try:
        names = os.listdir(directory)  # noqa: PTH208  glob passes over what it may not see
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ScanFileError(f"{directory} cannot be looked at: {error.strerror}") from error
    for name in sorted(name for name in names if name.startswith("f") and name.endswith(".h5")):
        path = Path(directory) / name
        if _run_of(path) == run_uid:
            return path
    return None


def _run_of(path: Path) -> str:
    """Return the uid of a file's run; an unchanged file is not opened again."""
    try:
        look = stamp_of(path)
        known = _runs_of.get(path)
        if known is None or known[0] != look:
            # one that cannot be read, or not yet: its writer has noted the run beside it
            if is_opening(path) and (noted := noted_uid(path)):
                return noted
            with ScanFile.open(path) as scan:
                known = _runs_of[path] = look, scan.run
        return known[1]
    except FileNotFoundError:
        return ""
    except (OffbraggError, OSError) as error:
        if uid := owner(path):
            return uid
        if isinstance(error, OSError) or "errno = " in str(error):  # as HDF5 writes it
            raise ScanFileError(f"{path} cannot be looked at: {error}") from error
        return ""  # it is not ours


_runs_of: dict[Path, tuple[tuple[int, int], str]] = {}
