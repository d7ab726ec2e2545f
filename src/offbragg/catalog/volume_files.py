"""Open volume files for the catalog's server."""

from __future__ import annotations

import time

from offbragg.catalog.readable import shown
from offbragg.catalog.sent import OpenFile
from offbragg.errors import CatalogError, ReductionError
from offbragg.files.volume_file import VolumeFile
from offbragg.printable import printable

_MOST_RECORD = 4_000_000  # bytes of a record, as for files that are sent
_TRIES, _PAUSE = 5, 0.05  # s; a file that is being sent is open in another way for a moment


def opened_volume(file: OpenFile) -> VolumeFile:
    """Read what was opened as a volume.

    Raises
    ------
    CatalogError
        If it is not one.
    """
    for left in reversed(range(_TRIES)):
        try:
            return VolumeFile(file.path, descriptor=file.descriptor, most_text=_MOST_RECORD)
        except ReductionError as error:
            if not left or file.is_replaced or "cannot be opened" not in str(error):
                why = printable(str(error).partition("\n")[0])
                raise CatalogError(f"{shown(file.path.name)} is not read: {why}") from error
            time.sleep(_PAUSE)
    raise AssertionError
