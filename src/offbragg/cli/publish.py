"""Publish volumes in the catalog: what a command has made, and the verb publish."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from offbragg.cli.app import DATA, AsJson, Beamline, app
from offbragg.cli.terminal import say
from offbragg.errors import OffbraggError, ReductionError
from offbragg.printable import printable


@app.command(name="publish", rich_help_panel=DATA)
def publish_command(
    volumes: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="VOLUME|FOLDER",
            help="Volume files, and folders with volume files.",
            show_default="the folder of the experiment",
        ),
    ] = None,
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Publish volume files that exist in the catalog, where planes are cut out of them.

    offbragg reduce and offbragg live publish what they make. This command is for volumes that were
    made while the catalog was away, with --no-publish, or elsewhere. The files stay where they are;
    they must lie below the folders that the catalog serves (those of the experiment and of the
    frames). A volume that is published already is brought up to date.

    Exit code 1: a volume could not be published.
    """
    from offbragg.beamline.config import load

    config = load(beamline)
    publish = volume_publisher(config)
    done: list[dict[str, Any]] = []
    for path in _volumes(volumes or [config.paths.experiment]):
        try:
            key, why = publish(path), ""
        except OffbraggError as error:
            key, why = None, printable(str(error).partition("\n")[0])
        done.append({"file": str(path), "published": key, "why": why})
        if not as_json:
            if key:
                say(f"{path}: published as volumes/{key}")
            else:
                say(f"{path}: not published: {why}", file=sys.stderr)
    if as_json:
        say(json.dumps({"volumes": done}))
    elif not done:
        say("no volume files found", file=sys.stderr)
    if not done or not all(each["published"] for each in done):
        raise typer.Exit(1)


def publish_made(volume: Path, beamline: Path | None) -> tuple[str | None, str]:
    """Publish a volume file in the catalog of the beamline, if one is configured.

    It never raises: whatever happens, the volume is made.

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
    if beamline is None and not os.environ.get("OFFBRAGG_BEAMLINE"):
        return None, ""
    try:
        from offbragg.beamline.config import load  # an extra, see pyproject.toml

        key = volume_publisher(load(beamline))(volume)
    except Exception as error:
        first = printable(str(error).partition("\n")[0])
        return None, f"not published: {first or type(error).__name__}"
    return key, f"published as volumes/{key}"


def volume_publisher(config: Any) -> Callable[[Path], str]:
    """Return what publishes a volume in the catalog of a beamline."""

    def publish(volume: Path) -> str:
        from offbragg.catalog.volumes import publish_volume
        from offbragg.files.other_volumes import KINDS, other_kind

        if (kind := other_kind(volume)) is not None:
            raise ReductionError(
                f"it is a volume of {KINDS[kind]}: convert it first, offbragg convert {volume.name}"
            )
        return publish_volume(
            volume, host=config.catalog.host, port=config.catalog.port, key=config.read_key()
        )

    return publish


def _volumes(given: list[Path]) -> Iterator[Path]:
    """Yield the files that were named, and the volume files of the folders."""
    from offbragg.files.volume_file import VolumeFile

    for where in given:
        if not where.is_dir():
            yield where
            continue
        for path in sorted(where.rglob("*.h5")):
            if path.name.startswith("."):
                continue  # a volume that is being written
            try:
                VolumeFile(path).close()
            except OffbraggError:
                continue  # another HDF5 file
            yield path
