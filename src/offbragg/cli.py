"""The command line: verbs for people at a beamline, ``--json`` for machines.

Exit codes: 0 done; 1 something was found wrong; 2 the command was not understood; 3 and up
one for each kind of error (see :mod:`offbragg.errors`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from offbragg.cli_numbers import Number
from offbragg.cli_reduction import add_reduction_commands
from offbragg.cli_up import add_up_commands
from offbragg.errors import (
    CatalogError,
    ConfigError,
    DeviceError,
    FrameError,
    JournalError,
    OffbraggError,
    ScanFileError,
)
from offbragg.ledger import describe_problems
from offbragg.parent import follow_parent
from offbragg.terminal import PrintableFormatter, printable, typed_options
from offbragg.terminal import progress as _progress
from offbragg.terminal import say as _say

app = typer.Typer(
    name="offbragg",
    help="Single-crystal diffuse X-ray scattering: measure, stack, find and check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Beamline = Annotated[
    Path | None,
    typer.Option(
        "--beamline",
        metavar="FILE",
        help="The beamline.toml; else the one that $OFFBRAGG_BEAMLINE names.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
Ready = Annotated[
    Path | None,
    typer.Option("--ready", metavar="FILE", help="Write this JSON file once it serves."),
]


def _follow_parent(pid: int | None) -> int | None:
    if pid is not None:
        follow_parent(pid)  # from now on, also while the command is still being imported
    return pid


WithParent = Annotated[
    int | None,
    typer.Option("--with-parent", metavar="PID", hidden=True, callback=_follow_parent),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from offbragg import __version__

        print(f"offbragg {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """Single-crystal diffuse X-ray scattering: measure, stack, find and check."""


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


@app.command()
def demo(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where all of it goes.",
            show_default="a fresh folder, named",
        ),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(
            "--replay", metavar="DIR", help="Play real CBF frames of this folder, in name order."
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FILE",
            help="Geometry and axes of the replayed frames, JSON.",
        ),
    ] = None,
    detector: Annotated[
        Size, typer.Option("--detector", help="Size of the simulated Pilatus.")
    ] = Size.P100K,
    file_format: Annotated[
        FrameFormat, typer.Option("--format", help="What the simulated detector writes.")
    ] = FrameFormat.CBF,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave instruments and catalog up until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a temperature series on a simulated beamline, and look at it over HTTP.

    Starts simulated instruments, a catalog and a stacker; runs three temperatures of two sweeps
    each; reads the frames over HTTP while the crystal turns; compares the superlattice below
    and above its transition. Takes about two minutes.
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


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def ioc(context: typer.Context) -> None:
    """Serve the simulated instruments over Channel Access (``offbragg ioc -- --help``)."""
    os.execv(sys.executable, [sys.executable, "-m", "sim_iocs", *context.args])


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def shell(context: typer.Context, beamline: Beamline = None) -> None:
    """Open IPython with RE, the devices, the plans, cat and db of the beamline."""
    from offbragg.beamline import load, profile_directory

    config = load(beamline)  # a wrong configuration is told before IPython starts
    os.environ["OFFBRAGG_BEAMLINE"] = str(config.file)
    # IPython keeps its history beside the profile, and the installed one is not ours to write to
    profile = config.paths.log / "profile_offbragg"
    shutil.copytree(profile_directory(), profile, dirs_exist_ok=True)
    arguments = ["--profile-dir", str(profile), *context.args]
    os.execv(sys.executable, [sys.executable, "-m", "IPython", *arguments])


@app.command()
def stack(
    context: typer.Context,
    beamline: Beamline = None,
    once: Annotated[
        bool, typer.Option("--once", help="Finish every run that there is, then end.")
    ] = False,
    late: Annotated[
        float,
        typer.Option(
            "--late",
            metavar="SECONDS",
            help="How late a frame may be before it is missing.",
            parser=Number(0, 86400, unit="s"),
        ),
    ] = 5.0,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="With --once: rebuild damaged journals and scan files."),
    ] = False,
    catalog: Annotated[
        bool, typer.Option("--catalog/--no-catalog", help="Publish the runs to the catalog, too.")
    ] = True,
    # how a folder was stacked before there was stack-files; goes with the next release
    from_files: Annotated[str | None, typer.Option("--from-files", hidden=True)] = None,
    out: Annotated[Path | None, typer.Option("--out", hidden=True)] = None,
    model: Annotated[Path | None, typer.Option("--model", hidden=True)] = None,
    trust_model: Annotated[bool, typer.Option("--trust-model", hidden=True)] = False,
    sample: Annotated[str | None, typer.Option("--sample", hidden=True)] = None,
    as_json: AsJson = False,
    with_parent: WithParent = None,  # its callback has done what it asks for
) -> None:
    """Follow the journal: stack frames into scan files, and publish the runs.

    Run one of these for a beamline, on any host that sees the frame files. It can be killed at
    any moment and started again. With --once it finishes what is there (exit code 1 if a run
    could not be finished, or a journal is damaged). If a package that publishing needs is absent or
    broken, everything is stacked all the same, and the exit code is 8. With --once --repair every
    journal and scan file is verified first. A damaged journal is rebuilt from its intact lines, a
    damaged scan file from its intact frames, the frame files and the journal; the damaged file is
    kept beside the new one as <uid>.jsonl.damaged-1 or fN.h5.damaged-1.

    Frames of a folder, without a run and a beamline, are stacked by: offbragg stack-files
    """
    if any(given is not None for given in (from_files, out, model, sample)) or trust_model:
        if from_files is None or out is None:
            raise typer.BadParameter(
                "--from-files and --out need each other; --model and --sample need both"
            )
        if trust_model and model is None:
            raise typer.BadParameter("--trust-model needs --model")
        typed = typed_options(context)
        for name in ("once", "late", "repair"):
            if name in typed:
                raise typer.BadParameter(
                    f"--{name} is for runs in the journal: --from-files does not take it"
                )
        given = [from_files, "--out", str(out)]
        for name, value in (("--model", model), ("--sample", sample)):
            given += [name, str(value)] if value is not None else []
        given += ["--trust-model"] if trust_model else []
        _say(
            "offbragg: stack --from-files will be removed in the next release; the same is:\n"
            f"offbragg stack-files {shlex.join(given)}",
            file=sys.stderr,
        )
        _stack_files(
            from_files,
            out,
            model,
            sample,
            trust_model=trust_model,
            as_json=as_json,
        )
        return
    if repair and not once:
        raise typer.BadParameter("--repair needs --once")
    from offbragg.beamline import load, watch_data
    from offbragg.callbacks.stacker import Stacker
    from offbragg.follow import Follower, follow

    config = load(beamline)
    repairs: list[Any] = []
    stacker = Stacker(config.paths.experiment, late=late, frames=config.paths.frames)
    followers: list[Follower] = [stacker]
    off: CatalogError | None = None
    if catalog:
        from offbragg.catalog.publishing import make_publisher

        publisher, off = make_publisher(config.connect_catalog, config.paths.experiment)
        followers.append(publisher)
    watchdog: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if not once:
        watchdog, watching = watch_data(config, stacker, catalog=catalog)
        followers.append(watching)
    with (
        watchdog,
        _until_told_to_stop() as stop,
        _progress("stacking", quiet=as_json or not once) as progress,
    ):
        _log_to_stderr()  # by way of the bar, if there is one
        if off is not None:
            logging.getLogger("offbragg").error("%s", off)

        def mend() -> None:
            from offbragg.repair import repair as make_anew

            repairs.extend(
                make_anew(
                    config.paths.journal,
                    config.paths.experiment,
                    frames=config.paths.frames,
                    progress=progress,
                )
            )

        failed = follow(
            config.paths.journal,
            followers,
            once=once,
            stop=stop,
            progress=progress,
            first=mend if repair else lambda: None,
        )
    if as_json:
        said: dict[str, Any] = {"failed": failed}
        if off is not None:
            said["publishing"] = str(off)
        if repair:
            said["repaired"] = [each.to_dict() for each in repairs]
        print(json.dumps(said))
    elif repair:
        for each in repairs:
            _say(f"{each.path}\n  {printable(each.done or each.error)}")
        _say(f"damaged journals and scan files: {len(repairs)}")
    for follower, runs in failed.items():
        for run in runs:
            _say(f"{follower}: run {run} could not be finished; see above", file=sys.stderr)
    if any(failed.values()) or any(each.error or each.lost for each in repairs):
        raise typer.Exit(1)
    if off is not None:
        raise off


@app.command(name="stack-files")
def stack_files(
    patterns: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR|PATTERN",
            help="A folder with the frames of one sweep, or a pattern of their names; quote it.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The scan file to make or go on with.")
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FILE",
            help="Geometry and axes of the frames, JSON. Its start_deg is that of the lowest "
            "number only if the headers have no angles. Or only exposure_time and "
            "exposure_period, s.",
        ),
    ] = None,
    trust_model: Annotated[
        bool,
        typer.Option(
            "--trust-model", help="Use --model also where the frames' headers contradict it."
        ),
    ] = False,
    sample: Annotated[
        str | None,
        typer.Option(
            "--sample",
            metavar="NAME",
            help="Name of the sample.",
            show_default="that of the folder",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Stack a folder of CBF or TIFF frames into one scan file; needs no run and no beamline.

    The number that differs between the names says which frame a file is; a number without a file
    is a missing frame. A frame whose header says that it is of another sweep than most is rejected.
    It can be interrupted; the same command goes on. Exit code 5 if files were rejected or
    incomplete; 1 if it was interrupted.
    """
    if len(patterns) > 1:
        raise typer.BadParameter(
            f"one folder or pattern is needed, not {len(patterns)}: quote the pattern"
        )
    if trust_model and model is None:
        raise typer.BadParameter("--trust-model needs --model")
    _stack_files(patterns[0], out, model, sample, trust_model=trust_model, as_json=as_json)


def _stack_files(
    pattern: str,
    out: Path,
    model: Path | None,
    sample: str | None,
    *,
    trust_model: bool,
    as_json: bool,
) -> None:
    from offbragg.callbacks.finished import stack_files as stack_these

    with (
        _until_told_to_stop() as stop,
        _progress("stacking", quiet=as_json) as progress,
    ):
        stacked = stack_these(
            pattern,
            out,
            model=model,
            sample=sample,
            trust_model=trust_model,
            progress=progress,
            stop=stop,
        )
    if as_json:
        print(json.dumps(stacked.to_dict()))
    else:
        counts = {
            key: getattr(stacked, key) for key in ("stored", "missing", "rejected", "pending")
        }
        said = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
        _say(f"{out}\n{stacked.frames} frames: {said}")
        _say(f"{stacked.seconds:.2f} s, {stacked.frames_per_second:.0f} frames/s")
        if stacked.wrapper is not None:
            _say(f"for NXRefine: {stacked.wrapper}")
        for problem in stacked.problems:
            _say(f"  {printable(problem)}")
    if stacked.pending:
        _say("ended before all was done; the same command goes on", file=sys.stderr)
        raise typer.Exit(1)
    if stacked.unused:
        raise typer.Exit(FrameError.exit_code)


@app.command()
def serve(
    beamline: Beamline = None,
    ready: Ready = None,
    with_parent: WithParent = None,  # its callback has done what it asks for
) -> None:
    """Serve the catalog over HTTP (Tiled), with the API key in the configured key file."""
    from offbragg.beamline import load
    from offbragg.catalog.server import serve as serve_catalog

    config = load(beamline)
    _log_to_stderr()
    serve_catalog(
        config.paths.catalog,
        [config.paths.experiment, config.paths.frames],
        host=config.catalog.host,
        port=config.catalog.port,
        ready=ready,
    )


@app.command()
def key(
    days: Annotated[
        float,
        typer.Option(
            "--days",
            metavar="N",
            help="Days until the key expires.",
            parser=Number(0, 3650, above=True, unit="days"),
        ),
    ] = 30.0,
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Create a read-only key that expires.

    Give this one away, not the file 'key', which may write and delete. It cannot be revoked on its
    own: remove the file 'key' and restart the catalog, and all keys are invalid.

    The key alone goes to stdout; the address and the lines for Python go to stderr.
    """
    from offbragg.beamline import load
    from offbragg.catalog.gate import reading_key

    config = load(beamline)
    ends = time.time() + 86400 * days
    made = reading_key(config.read_key(), ends=ends)
    if as_json:
        print(json.dumps({"key": made, "ends": ends, "address": config.catalog_url}))
        return
    _say(made)
    where = config.catalog
    until = time.strftime("%a %d %b %Y %H:%M", time.localtime(ends))
    tunnel = ""
    if where.host in ("127.0.0.1", "localhost", "::1"):
        tunnel = (
            f"\n\nFrom elsewhere, this first: ssh -L {where.port}:127.0.0.1:{where.port} "
            f"{socket.gethostname()}"
        )
    _say(
        f"for reading, until {until}; at {config.catalog_url}\n\nIn Python:\n\n"
        "from tiled.client import from_uri\n"
        f'cat = from_uri("{config.catalog_url}", api_key="{made}")["raw"]\n'
        f"print(len(cat), 'runs'); run = cat.values().last(){tunnel}",
        file=sys.stderr,
    )


@app.command()
def verify(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE|UID]...", help="Scan files, or runs by their uids."),
    ] = None,
    beamline: Beamline = None,
    every: Annotated[
        bool, typer.Option("--all", help="The scan files of all runs in the journal.")
    ] = False,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Read the pixels of all frames and frame files, too; slow."),
    ] = False,
    catalog: Annotated[
        bool, typer.Option("--catalog/--no-catalog", help="Ask the catalog, too.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Compare scan files with their checksums, ledger, journal, frame files and catalog.

    One changed byte anywhere in a finished file is found, and the frame is named in which it lies.
    Journal and catalog are asked if a beamline is named.

    Exit code 0: every file holds what was measured. 1: at least one does not, or is not finished;
    each problem is listed. 6: at least one could not be checked, and nothing else was found. Frames
    that are listed as missing or rejected are told, and are no problem of the file.
    """
    from offbragg.audit import all_scan_files, scan_file_of_run
    from offbragg.audit import verify as check
    from offbragg.files.examine import Examiner

    config = None
    if beamline is not None or "OFFBRAGG_BEAMLINE" in os.environ:
        from offbragg.beamline import load

        config = load(beamline)
    if every == bool(what):
        raise typer.BadParameter("give scan files or uids, or --all")
    if every and config is None:
        raise typer.BadParameter("--all needs a beamline: --beamline FILE")
    names: list[str | Path] = list(what or ())
    journal, frames, connect = None, None, None
    if config is not None:
        journal, frames = config.paths.journal, config.paths.frames
        if every:
            names += all_scan_files(journal, config.paths.experiment)
        if catalog:
            connect = _once(config.connect_catalog)
    verdicts: list[dict[str, Any]] = []
    code = 0
    with _progress("checking", quiet=as_json) as progress, Examiner() as examiner:
        for name in names:
            path = Path(name)
            try:
                if not path.exists():
                    if config is None:
                        raise ScanFileError(
                            f"{name} is not a file, and no beamline says where its run would be\n"
                            "Give the path of a scan file, or --beamline FILE and a run's uid."
                        )
                    path = scan_file_of_run(
                        str(name), journal=config.paths.journal, experiment=config.paths.experiment
                    )
                verdict = check(
                    path,
                    journal=journal,
                    frames=frames,
                    catalog=connect,
                    deep=deep,
                    examiner=examiner,
                    progress=progress,
                )
            except OffbraggError as error:
                verdicts.append({"path": str(path), "ok": False, "error": str(error)})
                _say(f"offbragg: {error}", file=sys.stderr)
                code = code or error.exit_code
                continue
            verdicts.append(verdict.to_dict())
            if not as_json:
                _tell_verdict(verdict)
            if not verdict.ok:
                code = 1
    if as_json:
        print(json.dumps({"ok": code == 0, "files": verdicts}))
    raise typer.Exit(code)


def _once(connect: Callable[[], Any]) -> Callable[[], Any]:
    """Connect at the first call; what went wrong then goes wrong at every later one, at once."""
    known: list[Any] = []

    def connected() -> Any:
        if not known:
            try:
                known.append(connect())
            except OffbraggError as error:
                known.append(error)
        if isinstance(known[0], OffbraggError):
            raise known[0]
        return known[0]

    return connected


def _tell_verdict(verdict: Any) -> None:
    counts = ", ".join(f"{n} {status}" for status, n in verdict.frames.items() if n)
    _say(f"{verdict.path}\nrun {verdict.run}\nframes: {counts}")
    if verdict.ended:
        _say(f"ended: {printable(verdict.ended)}")
    _say(f"{verdict.checked} compared with their checksum, {verdict.unchecked} have none")
    _say(f"digest: {verdict.digest}")
    if (offset := verdict.angles.get("offset")) is not None:
        sigma = verdict.angles["sigma"]
        known = "" if sigma is None else f", σ {sigma:.4f}"
        sources = ", ".join(f"{n} {source}" for source, n in verdict.angles["sources"].items())
        _say(f"angles: {sources}; at most {offset:+.4f} degree from those asked for{known}")
    if verdict.catalog in ("agrees", "differs"):
        _say(f"catalog: {verdict.catalog}")
    _say(f"{verdict.size / 1e6:.1f} MB in {verdict.seconds:.2f} s")
    listed = [(frame["number"], frame["status"], frame["reason"]) for frame in verdict.listed]
    for line in describe_problems(listed):
        _say(f"  {printable(line)}")
    for note in verdict.notes:
        _say(f"  note: {printable(note)}")
    for problem in verdict.problems:
        _say(f"  PROBLEM: {printable(problem)}")
    _say(_conclusion(verdict))


def _conclusion(verdict: Any) -> str:
    if verdict.ok:
        return "OK: the file holds what was measured"
    n = len(verdict.problems)
    return f"{n} problem{'s' if n > 1 else ''}"


@app.command()
def rebuild(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[UID]...", help="Runs that are published again in any case."),
    ] = None,
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Make a lost catalog again, from the journals and the scan files.

    The catalog's server must run (offbragg serve), and no offbragg stack. Runs that the catalog has
    as they should be are left alone. It can be killed at any moment and started again. Exit code 0:
    every run is in the catalog. 1: at least one is not; see the messages.
    """
    from offbragg.beamline import load
    from offbragg.repair import rebuild as build

    config = load(beamline)
    with (
        _until_told_to_stop() as stop,
        _progress("rebuilding", quiet=as_json) as progress,
    ):
        _log_to_stderr()
        rebuilt = build(
            config.paths.journal,
            config.paths.experiment,
            config.connect_catalog,
            frames=config.paths.frames,
            runs=runs or (),
            progress=progress,
            stop=stop,
        )
    if as_json:
        print(json.dumps(rebuilt))
    else:
        _say(f"{rebuilt['runs']} runs: {len(rebuilt['published'])} published")
        for uid in rebuilt["failed"]:
            _say(f"run {uid} could not be published; see above", file=sys.stderr)
    if rebuilt["failed"]:
        raise typer.Exit(1)


@app.command()
def doctor(
    beamline: Beamline = None,
    devices: Annotated[
        bool, typer.Option("--devices/--no-devices", help="Look at the instruments, too.")
    ] = True,
    expose: Annotated[
        bool,
        typer.Option("--expose/--no-expose", help="Take one short frame if the detector is idle."),
    ] = True,
    make_directories: Annotated[
        bool,
        typer.Option("--make-directories", help="Make the missing directories of [paths] first."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look at everything that a measurement needs; say of each failure what to do.

    Records and their types, paths (a file is written and read back; the detector writes a frame
    that is read here), disks, clocks, journal, stacker, catalog, versions. Nothing moves. Exit
    code 0: one can measure, perhaps with warnings. 1: one cannot.
    """
    from offbragg.beamline import load
    from offbragg.doctor import Finding, examine, tell

    try:
        findings = tell(
            examine(
                load(beamline), devices=devices, expose=expose, make_directories=make_directories
            ),
            (lambda text: None) if as_json else _say,
        )
    except ConfigError as error:
        if not as_json:
            raise
        findings = [Finding("configuration", "failure", str(error))]
    failed = [finding for finding in findings if finding.level == "failure"]
    if as_json:
        print(json.dumps({"ok": not failed, "findings": [f.to_dict() for f in findings]}))
    else:
        _say(
            f"{len(failed)} failure{'s' if len(failed) > 1 else ''}"
            if failed
            else "ready to measure"
        )
    if failed:
        raise typer.Exit(1)


@app.command()
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
            help="A rotation axis: phi=IOC:m1. Repeatable; the first is turned by sweeps.",
        ),
    ] = None,
    translation: Annotated[
        list[str] | None,
        typer.Option("--translation", metavar="NAME=PREFIX", help="A motor in mm. Repeatable."),
    ] = None,
    cryostream: Annotated[
        str, typer.Option("--cryostream", metavar="PREFIX", help="An Oxford CryoStream 800.")
    ] = "",
    shutter: Annotated[
        str,
        typer.Option(
            "--shutter",
            metavar="PREFIX",
            help="A shutter with the records open and open_RBV; or COMMAND,READBACK.",
        ),
    ] = "",
    monitor: Annotated[
        str, typer.Option("--monitor", metavar="PREFIX", help="A multichannel scaler (SIS38xx).")
    ] = "",
    ring: Annotated[
        str, typer.Option("--ring", metavar="RECORD", help="The record of the ring current, mA.")
    ] = "",
    address_list: Annotated[
        str | None,
        typer.Option(
            "--address-list",
            metavar="LIST",
            help="Addresses of all IOCs: '10.0.0.5 10.0.0.6:5066'. Without: EPICS_CA_ADDR_LIST.",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--name", help="Name of the beamline.", show_default="from --detector")
    ] = "",
    data: Annotated[
        str, typer.Option("--data", metavar="DIR", help="Root of the directories of [paths].")
    ] = "offbragg-data",
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="The new file; never overwritten.")
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
    """Write a beamline.toml for a new beamline from what its IOCs say.

    Reads the detector's size, driver and plugins, and the motors' units, limits and speeds. What
    no IOC knows (wavelength, distance, sensor) becomes a TODO line. Nothing is written to a record.
    """
    from offbragg.beamline import ChannelAccess
    from offbragg.init import Wanted, named_prefixes, write_beamline

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
    _say(f"{written.file}\nto be filled in: {', '.join(written.todo)}")
    for note in written.notes:
        _say(f"note: {printable(note)}")
    _say(f"then: offbragg doctor --make-directories --beamline {written.file}")


@app.command()
def status(
    beamline: Beamline = None,
    devices: Annotated[
        bool,
        typer.Option(
            "--devices/--no-devices",
            help="Look for alarms of the instruments, too: all are connected, which takes seconds.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Return what runs, how far stacking and publishing are behind, the last run, and alarms.

    It also says if this host has more to do than it can: its load, and processes that come late.
    """
    from offbragg.beamline import load
    from offbragg.status import describe
    from offbragg.status import status as look

    state = look(load(beamline), devices=devices)
    _say(json.dumps(state) if as_json else describe(state))


add_reduction_commands(app)
add_up_commands(app)


class Format(StrEnum):
    """What a run can be exported to."""

    NXSAS = "nxsas"
    CSV = "csv"


@app.command(context_settings={"ignore_unknown_options": True})  # -1 is a run
def export(
    run: Annotated[
        str, typer.Argument(metavar="UID", help="A run: its uid or the begin of it, #42, or -1.")
    ],
    file_format: Annotated[
        Format, typer.Option("--format", help="nxsas: one NeXus file; csv: a table per stream.")
    ] = Format.NXSAS,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files go.")] = Path(),
    prefix: Annotated[
        str,
        typer.Option("--prefix", help="Begin of their names, filled from the start document."),
    ] = "{uid}-",
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Write a run into a NeXus file with the layout of suitcase-nxsas, or into CSV tables.

    The documents come from the journal. Frames are not copied: the NeXus file links to them in
    the scan file. What is there already is not overwritten.
    """
    from offbragg.audit import scan_file_of_run
    from offbragg.beamline import load
    from offbragg.callbacks.journal import find_run, read_journal
    from offbragg.export import csv, nxsas

    config = load(beamline)
    documents, _ = read_journal(find_run(config.paths.journal, run))
    start = documents[0][1]
    if documents[-1][0] != "stop":
        raise JournalError(
            f"run {start['uid']} is not over: it has no stop document\n"
            "Wait for its end; if its RunEngine died, run: offbragg stack --once"
        )
    scan_file = None
    if "sweep" in start:
        scan_file = scan_file_of_run(
            start["uid"], journal=config.paths.journal, experiment=config.paths.experiment
        )
    write = {Format.NXSAS: nxsas.export, Format.CSV: csv.export}[file_format]
    files = write(documents, out, prefix, scan_file=scan_file)["stream_data"]
    if as_json:
        print(json.dumps({"run": start["uid"], "files": [str(path) for path in files]}))
    else:
        _say("\n".join(printable(file) for file in files))


def main() -> None:
    """Run the command line; each error that a user can mend is one message and an exit code."""
    before = threading.enumerate()
    try:
        app()
        code: Any = 0
    except SystemExit as end:
        code = end.code
    except OffbraggError as error:
        _say(f"offbragg: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:  # before typer listens for one
        code = 130
    except BrokenPipeError:  # whoever read the output has ended
        code = 1
    except TimeoutError as error:  # ophyd's, of a record that answered too late, is one
        _say(
            f"offbragg: no answer in time: {error}\nEither the IOC is away, or this host is too "
            "busy: look at its load, and try again. offbragg doctor says which IOC answers.",
            file=sys.stderr,
        )
        code = DeviceError.exit_code
    except (OSError, MemoryError) as error:
        _say(f"offbragg: {_plainly(error)}", file=sys.stderr)
        code = 1
    _leave(code, before)


def _plainly(error: OSError | MemoryError) -> str:
    """Say of another user's file, a full disk or a lack of memory what it is."""
    if isinstance(error, MemoryError):
        return f"there is not enough memory: {error or 'it could not be had'}"
    if error.strerror is None:
        return str(error)
    where = "" if error.filename is None else f"{error.filename}: "
    user = (
        ""
        if error.errno not in (errno.EACCES, errno.EPERM)
        else (f"\nThis process runs as user {os.geteuid()}: ask the owner of the file.")
    )
    return f"{where}{error.strerror}{user}"


def _leave(code: Any, before: list[threading.Thread]) -> None:
    """End the process, also while threads are in HDF5.

    An ordinary end lets HDF5 close its library under them: the process crashes, or waits for ever.
    """
    running = [thread for thread in threading.enumerate() if thread not in before]
    if running:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    sys.exit(code)


@contextlib.contextmanager
def _until_told_to_stop() -> Iterator[threading.Event]:
    """Give an event that SIGINT and SIGTERM set, and so the end of a parent that is followed."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    yield stop


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("offbragg").setLevel(logging.INFO)
