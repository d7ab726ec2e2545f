"""The verb that makes volumes while they are measured: live; see :mod:`offbragg.cli`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from offbragg.cli.app import REDUCTION, Beamline, WithParent, app, log_to_stderr, until_stopped
from offbragg.cli.numbers import Number
from offbragg.cli.reduction import (
    Air,
    Background,
    BackgroundScale,
    Box,
    Efficiency,
    Fold,
    Hot,
    InvertMask,
    MaskFile,
    Monitor,
    Polarization,
    Symmetry,
)

_NICE = 10  # the stacker comes first
_HOUR = 3600.0


@app.command(name="live", rich_help_panel=REDUCTION)
def live_command(
    beamline: Beamline = None,
    once: Annotated[
        bool, typer.Option("--once", help="Make volumes of all that is stored now, then end.")
    ] = False,
    every: Annotated[
        float,
        typer.Option(
            "--every",
            metavar="SECONDS",
            help="Least time between two writings of all cells of a growing volume, s.",
            parser=Number(0, 86400, unit="s"),
        ),
    ] = 1.8,
    since: Annotated[
        float,
        typer.Option(
            "--since",
            metavar="HOURS",
            help="Age of the oldest runs that volumes are made of, hours.",
            parser=Number(0, 1e6, unit="hours"),
        ),
    ] = 24.0,
    grid: Box = None,
    symmetry: Symmetry = "none",
    fold: Fold = False,
    background: Background = "auto",
    background_scale: BackgroundScale = 1.0,
    monitor: Monitor = True,
    mask: MaskFile = None,
    invert_mask: InvertMask = False,
    hot: Hot = True,
    polarization: Polarization = 0.99,
    efficiency: Efficiency = True,
    air: Air = True,
    publish: Annotated[
        bool,
        typer.Option("--publish/--no-publish", help="Publish the volumes in the catalog."),
    ] = True,
    with_parent: WithParent = None,  # its callback has done what it asks for
) -> None:
    """Make volumes of S(Q) while the crystal turns: live-f1.h5 beside f1.h5.

    It follows the journal and the scan files, and writes what changed of the volume: coarse levels
    within a second, all cells every few. Once its sweeps have ended, the volume is closed: it is
    the one that offbragg reduce makes of the same files with the same options, bit for bit, and
    reduce --again reproduces it. The sweeps of one folder, which are those of one sample and
    temperature, merge into one volume.

    The orientation is that of the start document or of orientation.json beside the scan file. If
    there is none, the newest one of this mount is copied there; else it is looked for in the
    frames that are stored, from 20 degrees on, and orientation.json is written once one is certain.
    If that file is replaced, the volume is made again.

    The volumes are published in the catalog from their first frames on; while it is away, later.

    Run it once per beamline, on any host that sees the files. It can be killed at any moment and
    restarted, and never delays the stacker.
    """
    from offbragg.beamline.config import load
    from offbragg.catalog.volume_offers import VolumeOffers
    from offbragg.cli.publish import volume_publisher
    from offbragg.errors import ReductionError
    from offbragg.files.mask import read_mask
    from offbragg.followers.live_runs import LiveRuns
    from offbragg.followers.live_state import growing_volumes
    from offbragg.grid import Grid
    from offbragg.reduction import Corrections
    from offbragg.reduction.symmetry import Laue
    from offbragg.workflows.choices import Choices

    config = load(beamline)
    choices = Choices(
        grid=None if grid is None else Grid.parse(grid),
        symmetry=symmetry,
        fold=fold,
        background=background,
        background_scale=background_scale,
        monitor=monitor,
        mask=None if mask is None else Path(mask).absolute(),
        invert_mask=invert_mask,
        hot=hot,
        corrections=Corrections(polarization=polarization, efficiency=efficiency, air=air),
    )
    if choices.mask is not None:
        read_mask(choices.mask, inverted=invert_mask)  # refuse a wrong one now
    if symmetry not in ("auto", "none"):
        Laue.named(symmetry)
    if fold and symmetry == "none":
        raise ReductionError("--fold folds by a symmetry, and --symmetry is none")
    os.nice(_NICE)
    with until_stopped() as stop, growing_volumes(config.paths.journal):
        log_to_stderr()
        offers = VolumeOffers(volume_publisher(config)) if publish else None
        LiveRuns(
            config.paths.journal,
            config.paths.experiment,
            choices,
            every=every,
            since=since * _HOUR,
            stop=stop,
            written=(lambda path: None) if offers is None else offers.offer,
        ).run(once=once)
        if offers is not None:
            offers.close()
