"""What a writer left behind that died: a file without its digest, a file that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

from offbragg.errors import ScanFileError
from offbragg.files.digest import LATER, has_digest, make_digest, write_digest
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_writer import ScanWriter
from offbragg.files.writer_lock import beside, is_opening, take_lock


def seal(scan: ScanFile) -> None:
    """Make the digest of a finished file that has none: its writer died before it could.

    Raises
    ------
    ScanFileError
        If the file is not finished, another process writes it, or nothing can be written.
    """
    lock = take_lock(scan.path, None)
    try:
        if not scan.complete:
            raise ScanFileError(f"{scan.path} is not finished: it gets no digest")
        if not has_digest(scan.path):
            digest = make_digest(scan.path, scan.run, scan.chunks(), made=LATER)
            write_digest(scan.path, digest)
        beside(scan.path, "superblock").unlink(missing_ok=True)
        beside(scan.path, "writer").unlink(missing_ok=True)
    except OSError as error:
        raise ScanFileError(
            f"the digest of {scan.path} cannot be made: {error}\n"
            "The scan file is whole. Look at the disk's space and permissions."
        ) from error
    finally:
        os.close(lock)


def release_if_left(path: Path) -> None:
    """Make a file readable whose writer died between opening it and beginning SWMR.

    Raises
    ------
    ScanFileError
        If its writer lives after all.
    """
    if is_opening(path):
        ScanWriter.resume(path).close()
