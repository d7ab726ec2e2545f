"""Commands about a beamline: init, doctor, shell, status, demo, ioc."""

from __future__ import annotations

import json
import os
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from offbragg.cli.app import BEAMLINE, SIMULATION, AsJson, Beamline, app
from offbragg.cli.numbers import Number
from offbragg.cli.terminal import say
from offbragg.errors import ConfigError
from offbragg.printable import printable


class Size(StrEnum):
    """Detectors that can be simulated."""

    P100K = "100K"
    P300K = "300K"
    P1M = "1M"
    P2M = "2M"


class FrameFormat(StrEnum):
    """Formats of frame files."""

    CBF = "cbf"
    TIFF = "tif"


@app.command(rich_help_panel=SIMULATION)
def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder for all files of the demo.",
            show_default="a new folder named after the time",
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay", metavar="DIR", help="Folder of real CBF frames to play, in order of names."
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FILE",
            help="Geometry and axes of the replayed frames: JSON, or of DIALS or XDS.",
        ),
    ] = None,
    detector: Annotated[
        Size, typer.Option("--detector", help="Size of the simulated Pilatus.")
    ] = Size.P100K,
    file_format: Annotated[
        FrameFormat, typer.Option("--format", help="Format of the simulated frame files.")
    ] = FrameFormat.CBF,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep instruments and catalog running until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a temperature series on a simulated beamline, and read it over HTTP.

    Starts simulated instruments, a catalog, a stacker and live volumes; runs a sweep at each of six
    temperatures; reads the frames over HTTP while the crystal rotates; draws planes of S(Q) above
    and below the transition, and fits its temperature. Takes about two minutes.

    Real frames (--replay) are measured at three temperatures, and no volumes are made of them.
    """
    from offbragg.demo import run_demo

    result = run_demo(
        out=out,
        replay=replay,
        model=model,
        detector=detector,
        file_format=file_format,
        keep=keep,
        quiet=as_json,
    )
    if as_json:
        print(json.dumps(result))


@app.command(
    rich_help_panel=SIMULATION,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def ioc(context: typer.Context) -> None:
    """Serve the simulated instruments over Channel Access; options: offbragg ioc -- --help."""
    import caproto  # noqa: F401 - here its absence is described, not where it is executed

    os.execv(sys.executable, [sys.executable, "-m", "sim_iocs", *context.args])


@app.command(
    rich_help_panel=BEAMLINE,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def shell(context: typer.Context, beamline: Beamline = None) -> None:
    """Open IPython with RE and the beamline's devices, plans, cat and db."""
    from offbragg.beamline.config import load, profile_directory

    config = load(beamline)  # a wrong configuration is an error before IPython starts
    os.environ["OFFBRAGG_BEAMLINE"] = str(config.file)
    # IPython keeps its history beside the profile, and the installed one is not ours to write to
    profile = config.paths.log / "profile_offbragg"
    shutil.copytree(profile_directory(), profile, dirs_exist_ok=True)
    arguments = ["--profile-dir", str(profile), *context.args]
    os.execv(sys.executable, [sys.executable, "-m", "IPython", *arguments])


@app.command(rich_help_panel=BEAMLINE)
def doctor(
    beamline: Beamline = None,
    devices: Annotated[
        bool, typer.Option("--devices/--no-devices", help="Check the instruments.")
    ] = True,
    expose: Annotated[
        bool,
        typer.Option("--expose/--no-expose", help="Take one short frame if the detector is idle."),
    ] = True,
    make_directories: Annotated[
        bool,
        typer.Option("--make-directories", help="Make missing directories (paths) first."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check everything that a measurement needs; each failure comes with what to do.

    Checks records and their types, paths (a file is written and read back; the detector writes a
    frame that is read here), disks, clocks, journal, stacker, catalog and versions. Nothing moves.

    Exit code 0: ready to measure, perhaps with warnings. 1: at least one failure.
    """
    from offbragg.beamline.config import load
    from offbragg.doctor.examine import Finding, examine, show

    try:
        findings = show(
            examine(
                load(beamline), devices=devices, expose=expose, make_directories=make_directories
            ),
            (lambda text: None) if as_json else say,
        )
    except ConfigError as error:
        if not as_json:
            raise
        findings = [Finding("configuration", "failure", str(error))]
    failed = [finding for finding in findings if finding.level == "failure"]
    if as_json:
        print(json.dumps({"ok": not failed, "findings": [f.to_dict() for f in findings]}))
    else:
        say(
            f"{len(failed)} failure{'s' if len(failed) > 1 else ''}"
            if failed
            else "ready to measure"
        )
    if failed:
        raise typer.Exit(1)


@app.command(rich_help_panel=BEAMLINE)
def init(
    detector: Annotated[
        str | None,
        typer.Option(
            "--detector", metavar="PREFIX", help="Prefix of the detector's records: 13PIL1:cam1:"
        ),
    ] = None,
    axis: Annotated[
        list[str] | None,
        typer.Option(
            "--axis",
            metavar="NAME=PREFIX",
            help="Rotation axis: phi=IOC:m1. Repeatable; sweeps rotate the first.",
        ),
    ] = None,
    translation: Annotated[
        list[str] | None,
        typer.Option("--translation", metavar="NAME=PREFIX", help="Motor in mm. Repeatable."),
    ] = None,
    cryostream: Annotated[
        str,
        typer.Option("--cryostream", metavar="PREFIX", help="Prefix of an Oxford Cryostream 800."),
    ] = "",
    shutter: Annotated[
        str,
        typer.Option(
            "--shutter",
            metavar="PREFIX",
            help="Prefix of a shutter with records open and open_RBV; or COMMAND,READBACK.",
        ),
    ] = "",
    monitor: Annotated[
        str,
        typer.Option(
            "--monitor", metavar="PREFIX", help="Prefix of a multichannel scaler (SIS38xx)."
        ),
    ] = "",
    ring: Annotated[
        str, typer.Option("--ring", metavar="RECORD", help="Record of the ring current, mA.")
    ] = "",
    address_list: Annotated[
        str | None,
        typer.Option(
            "--address-list",
            metavar="LIST",
            help="Addresses of all IOCs: '10.0.0.5 10.0.0.6:5066'.",
            show_default="$EPICS_CA_ADDR_LIST",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", help="Name of the beamline.", show_default="from --detector")
    ] = "",
    data: Annotated[
        str, typer.Option("--data", metavar="DIR", help="Root of the directories (paths).")
    ] = "offbragg-data",
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="New file; never overwritten.")
    ] = Path("beamline.toml"),
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            help="Time limit for the records to answer, s.",
            parser=Number(0.1, 3600, unit="s"),
        ),
    ] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Write a beamline.toml for a new beamline from what its IOCs report.

    Reads the detector's size, driver and plugins, and the motors' units, limits and speeds. What
    no IOC knows (wavelength, distance, sensor) becomes a TODO line. No record is written.
    """
    from offbragg.beamline.init import Wanted, named_prefixes, write_beamline
    from offbragg.beamline.tables import ChannelAccess

    if sys.stdin.isatty() and not as_json:
        detector = detector or typer.prompt("Prefix of the detector, as 13PIL1:cam1:")
        axis = axis or typer.prompt("Rotation axes, as phi=IOC:m1 omega=IOC:m2").split()
    if not detector or not axis:
        raise typer.BadParameter("--detector and at least one --axis are needed")
    access = ChannelAccess()
    if address_list is not None:
        access = ChannelAccess(
            address_list=address_list, auto_address_list=False, max_array_bytes=20_000_000
        )
    axes, translations = (
        named_prefixes("--axis", axis),
        named_prefixes("--translation", translation or ()),
    )
    written = write_beamline(
        Wanted(
            detector, axes, translations, cryostream=cryostream, monitor=monitor, shutter=shutter,
            ring=ring, name=name, data=data,
        ),
        out, access=access, timeout=timeout,
    )  # fmt: skip
    if as_json:
        print(json.dumps(written.to_dict()))
        return
    say(f"{written.file}\nto be filled in: {', '.join(written.todo)}")
    for note in written.notes:
        say(f"note: {printable(note)}")
    say(f"then: offbragg doctor --make-directories --beamline {written.file}")


@app.command(rich_help_panel=BEAMLINE)
def status(
    beamline: Beamline = None,
    devices: Annotated[
        bool,
        typer.Option(
            "--devices/--no-devices",
            help="Check the instruments for alarms: connects to all of them, some seconds.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what runs, the backlog of stacking and publishing, the last run, and alarms.

    It also shows whether this host is overloaded: its load, and processes that are late.
    """
    from offbragg.beamline.config import load
    from offbragg.status import describe
    from offbragg.status import status as look

    state = look(load(beamline), devices=devices)
    say(json.dumps(state) if as_json else describe(state))
