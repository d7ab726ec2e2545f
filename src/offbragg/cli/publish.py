"""Publish what a command has made, where the beamline has a catalog; never fail the command."""

from __future__ import annotations

import os
from pathlib import Path

from offbragg.printable import printable


def publish_made(volume: Path, beamline: Path | None) -> tuple[str | None, str]:
    """Publish a volume file in the catalog of the beamline, if one is configured.

    Parameters
    ----------
    volume
        The file.
    beamline
        Configuration; None: that of ``$OFFBRAGG_BEAMLINE``.

    Returns
    -------
    key, message
        Key of its node, or None; and one line for the user, empty without a beamline.
    """
    from offbragg.beamline.config import VARIABLE, load

    if beamline is None and not os.environ.get(VARIABLE):
        return None, ""
    try:
        from offbragg.catalog.volumes import publish_volume

        config = load(beamline)
        key = publish_volume(
            volume, host=config.catalog.host, port=config.catalog.port, key=config.read_key()
        )
    except Exception as error:  # whatever it is, the volume is made
        first = printable(str(error).partition("\n")[0])
        return None, f"not published: {first or type(error).__name__}"
    return key, f"published as volumes/{key}"
