"""The verb that packs journals: archive; see :mod:`offbragg.cli`."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from typing import Annotated

import typer

from offbragg.cli.app import DATA, AsJson, Beamline, app, until_stopped
from offbragg.cli.numbers import Number
from offbragg.cli.terminal import progress as progress_bar
from offbragg.cli.terminal import say
from offbragg.printable import printable

_DAY = 86400.0
_PATIENCE = 10.0  # s for each answer of the catalog


@app.command(name="archive", rich_help_panel=DATA)
def archive_command(
    older: Annotated[
        float,
        typer.Option(
            "--older",
            metavar="DAYS",
            help="Least time since the end of a run, days.",
            parser=Number(0, 1e5, unit="days"),
        ),
    ] = 30.0,
    catalog: Annotated[
        bool,
        typer.Option(
            "--catalog/--no-catalog",
            help="Pack only runs that the catalog has; without: of a beamline that has none.",
        ),
    ] = True,
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Pack the journals of old runs into one ZIP file per month, archive/2026-11.zip.

    Each run must have ended; its scan file is verified first, as offbragg verify does, and the
    catalog must have it. A run of which this is not true keeps its journal, and the reason is
    printed. All other commands read the journals from the archive as before: verify, rebuild,
    export, send, and a series that is resumed.

    It can run beside everything else, and be killed at any moment: a journal is removed only once
    the archive that has it is on the disk and was compared with it.

    Exit code 1: some runs keep their journals for a reason other than their age.
    """
    from offbragg.beamline.config import load
    from offbragg.catalog.ask import unpublished
    from offbragg.recovery.archive import archive

    config = load(beamline)
    where = config.catalog

    def lacking(uids: Collection[str]) -> Collection[str]:
        return unpublished(where.host, where.port, config.read_key(), uids, timeout=_PATIENCE)[1]

    with until_stopped() as stop, progress_bar("archiving", quiet=as_json) as progress:
        done = archive(
            config.paths.journal,
            config.paths.experiment,
            older=older * _DAY,
            frames=config.paths.frames,
            unpublished=lacking if catalog else None,
            progress=progress,
            stop=stop,
        )
    if as_json:
        print(json.dumps(done.to_dict()))
    else:
        for uid, why in done.left.items():
            say(f"run {uid} keeps its journal: {printable(why)}", file=sys.stderr)
        say("\n".join(map(printable, done.archives)) or "no archive was changed")
        n = len(done.runs)
        say(f"{n} journal{'' if n == 1 else 's'} packed, {done.bytes / 1e6:.1f} MB before")
    if done.left:
        raise typer.Exit(1)
