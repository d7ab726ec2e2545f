"""The command line: verbs for people at a beamline, ``--json`` for machines.

Exit codes: 0 done; 1 something was found wrong; 2 the command was not understood; 3 and up
one for each kind of error (see :mod:`offbragg.errors`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from offbragg.errors import ConfigError, JournalError, OffbraggError, ScanFileError

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
WithParent = Annotated[int | None, typer.Option("--with-parent", metavar="PID", hidden=True)]


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
            "--out", metavar="DIR", help="Where all of it goes. [default: a fresh folder, named]"
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
    beamline: Beamline = None,
    once: Annotated[
        bool, typer.Option("--once", help="Finish every run that there is, then end.")
    ] = False,
    late: Annotated[
        float,
        typer.Option(
            "--late", metavar="SECONDS", help="How late a frame may be before it is missing."
        ),
    ] = 5.0,
    catalog: Annotated[
        bool, typer.Option("--catalog/--no-catalog", help="Publish the runs to the catalog, too.")
    ] = True,
    from_files: Annotated[
        str | None,
        typer.Option(
            "--from-files",
            metavar="PATTERN",
            help="Stack these CBF or TIFF files, by the numbers in their names; quote it.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="The scan file that --from-files makes."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", metavar="FILE", help="Geometry and axes of --from-files' frames, JSON."
        ),
    ] = None,
    as_json: AsJson = False,
    with_parent: WithParent = None,
) -> None:
    """Follow the journal: stack frames into scan files, and publish the runs.

    Run one of these for a beamline, on any host that sees the frame files. It can be killed at
    any moment and started again. With --once it finishes what is there (exit code 1 if a run
    could not be finished).

    With --from-files it needs no run and no beamline: frames that are there are stacked into one
    scan file, which can be gone on with in the same way. A number that has no file is a missing
    frame.
    """
    if from_files is not None or out is not None or model is not None:
        if from_files is None or out is None:
            raise typer.BadParameter("--from-files and --out need each other")
        _stack_files(from_files, out, model, as_json=as_json, with_parent=with_parent)
        return
    from offbragg.beamline import load
    from offbragg.callbacks.stacker import Stacker
    from offbragg.follow import Follower, follow

    config = load(beamline)
    followers: list[Follower] = [Stacker(config.paths.experiment, late=late)]
    if catalog:
        from offbragg.catalog.publisher import Publisher

        followers.append(Publisher(config.connect_catalog, config.paths.experiment))
    with (
        _until_told_to_stop(with_parent=with_parent) as stop,
        _progress("stacking", quiet=as_json or not once) as progress,
    ):
        _log_to_stderr()  # by way of the bar, if there is one
        failed = follow(config.paths.journal, followers, once=once, stop=stop, progress=progress)
    if as_json:
        print(json.dumps({"failed": failed}))
    for follower, runs in failed.items():
        for run in runs:
            print(f"{follower}: run {run} could not be finished; see above", file=sys.stderr)
    if any(failed.values()):
        raise typer.Exit(1)


def _stack_files(
    pattern: str, out: Path, model: Path | None, *, as_json: bool, with_parent: int | None
) -> None:
    from offbragg.callbacks.finished import stack_files

    with (
        _until_told_to_stop(with_parent=with_parent) as stop,
        _progress("stacking", quiet=as_json) as progress,
    ):
        stacked = stack_files(pattern, out, model=model, progress=progress, stop=stop)
    if as_json:
        print(json.dumps(stacked.to_dict()))
    else:
        counts = {
            key: getattr(stacked, key) for key in ("stored", "missing", "rejected", "pending")
        }
        said = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
        print(f"{out}\n{stacked.frames} frames: {said}")
        print(f"{stacked.seconds:.2f} s, {stacked.frames_per_second:.0f} frames/s")
        for problem in stacked.problems:
            print(f"  {problem}")
    if stacked.pending:
        print("ended before all was done; the same command goes on", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def serve(
    beamline: Beamline = None,
    ready: Ready = None,
    with_parent: WithParent = None,
) -> None:
    """Serve the catalog over HTTP (Tiled), with the API key in the configured key file."""
    from offbragg.beamline import load
    from offbragg.catalog.server import serve as serve_catalog

    config = load(beamline)
    serve_catalog(
        config.paths.catalog,
        [config.paths.experiment, config.paths.frames],
        host=config.catalog.host,
        port=config.catalog.port,
        ready=ready,
        parent=with_parent,
    )


@app.command()
def verify(
    what: Annotated[str, typer.Argument(metavar="FILE|UID", help="A scan file, or a run's uid.")],
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Compare a scan file with its ledger, the frames' MD5s and its journal.

    Exit code 0: the file holds what was measured. 1: it does not; each problem is listed.
    Frames that are listed as missing or rejected are told, and are no problem of the file.
    """
    from offbragg.audit import scan_file_of_run, verify

    config = None
    if beamline is not None or "OFFBRAGG_BEAMLINE" in os.environ:
        from offbragg.beamline import load

        config = load(beamline)
    path = Path(what)
    if not path.exists():
        if config is None:
            raise ScanFileError(
                f"{what} is no file, and no beamline says where its run would be\n"
                "Give the path of a scan file, or --beamline FILE and a run's uid."
            )
        path = scan_file_of_run(
            what, journal=config.paths.journal, experiment=config.paths.experiment
        )
    with _progress("checking frames", quiet=as_json) as progress:
        verdict = verify(path, journal=config.paths.journal if config else None, progress=progress)
    if as_json:
        print(json.dumps(verdict.to_dict()))
    else:
        counts = ", ".join(f"{n} {status}" for status, n in verdict.frames.items() if n)
        print(f"{verdict.path}\nrun {verdict.run}\nframes: {counts}")
        print(f"{verdict.checked} compared with their MD5, {verdict.unchecked} came without one")
        for frame in verdict.listed:
            print(f"  frame {frame['number']} {frame['status']}: {frame['reason']}")
        for problem in verdict.problems:
            print(f"  PROBLEM: {problem}")
        print("as measured" if verdict.ok else f"{len(verdict.problems)} problems")
    if not verdict.ok:
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
            examine(load(beamline), devices=devices, expose=expose),
            (lambda text: None) if as_json else print,
        )
    except ConfigError as error:
        if not as_json:
            raise
        findings = [Finding("configuration", "failure", str(error))]
    failed = [finding for finding in findings if finding.level == "failure"]
    if as_json:
        print(json.dumps({"ok": not failed, "findings": [f.to_dict() for f in findings]}))
    else:
        print(f"{len(failed)} failures" if failed else "ready to measure")
    if failed:
        raise typer.Exit(1)


@app.command()
def status(
    beamline: Beamline = None,
    devices: Annotated[
        bool, typer.Option("--devices/--no-devices", help="Look for alarms of the instruments.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Say what runs, how far stacking and publishing are behind, the last run, and alarms."""
    from offbragg.beamline import load
    from offbragg.status import describe
    from offbragg.status import status as look

    state = look(load(beamline), devices=devices)
    print(json.dumps(state) if as_json else describe(state))


@app.command()
def index(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Scan files of one mount.")],
    cell: Annotated[
        str | None,
        typer.Option(
            "--cell",
            metavar="a,b,c,al,be,ga",
            help="The cell, Å and degree. [default: that of the start document]",
        ),
    ] = None,
    unknown_cell: Annotated[
        bool, typer.Option("--unknown-cell", help="Find the cell, too, whatever is known of it.")
    ] = False,
    centring: Annotated[
        str | None,
        typer.Option(
            "--centring",
            metavar="LETTER",
            help="Of the cell: P, A, B, C, I, F or R. [default: that of the space group, or P]",
        ),
    ] = None,
    refine: Annotated[
        str,
        typer.Option(
            "--refine", metavar="WHAT", help="Of the panel, too: beam,distance,tilt or some."
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="What to write. [default: orientation.json beside the first FILE]",
        ),
    ] = None,
    picture: Annotated[
        bool,
        typer.Option("--picture/--no-picture", help="Draw peaks and residuals beside it, PNG."),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Find how the crystal lies: peaks, cell, UB, refined; writes orientation.json.

    Sweeps of one mount are indexed together. It refuses, with the numbers, rather than give an
    orientation that is not sure. An earlier orientation.json is kept under another name.
    """
    from offbragg.orient import describe, find_orientation

    with _progress("looking for peaks", quiet=as_json) as progress:
        found = find_orientation(
            files,
            lattice=None if cell is None else _cell(cell),
            unknown_cell=unknown_cell,
            centring=centring,
            what=[word.strip() for word in refine.split(",") if word.strip()],
            out=out,
            picture=picture,
            progress=progress,
        )
    print(json.dumps(found.to_dict()) if as_json else describe(found))


def _cell(text: str) -> list[float]:
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 6:
        raise typer.BadParameter(f"--cell is {text!r}: six numbers, a,b,c,alpha,beta,gamma")
    return numbers


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
        print(*files, sep="\n")


def main() -> None:
    """Run the command line; each of our own errors becomes one message and an exit code."""
    try:
        app()
    except OffbraggError as error:
        print(f"offbragg: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@contextlib.contextmanager
def _until_told_to_stop(*, with_parent: int | None) -> Iterator[threading.Event]:
    """Give an event that SIGINT, SIGTERM or, if asked, the end of the parent process sets."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if with_parent is not None:
        threading.Thread(target=_follow_parent, args=(with_parent,), daemon=True).start()
    yield stop


def _follow_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _progress(what: str, *, quiet: bool) -> Iterator[Any]:
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("offbragg").setLevel(logging.INFO)
