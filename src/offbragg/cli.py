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
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from offbragg.errors import ConfigError, JournalError, OffbraggError, ScanFileError
from offbragg.terminal import PrintableFormatter, printable

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
    repair: Annotated[
        bool,
        typer.Option("--repair", help="With --once: first make scan files anew that are damaged."),
    ] = False,
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
    could not be finished). With --once --repair every scan file is verified first, and one that is
    damaged is made anew from its intact frames, the frame files and the journal; the damaged one
    is kept beside it as fN.h5.damaged-1.

    With --from-files it needs no run and no beamline: frames that are there are stacked into one
    scan file, which can be gone on with in the same way. A number that has no file is a missing
    frame.
    """
    if from_files is not None or out is not None or model is not None:
        if from_files is None or out is None:
            raise typer.BadParameter("--from-files and --out need each other")
        _stack_files(from_files, out, model, as_json=as_json, with_parent=with_parent)
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
    if catalog:
        from offbragg.catalog.publisher import Publisher

        followers.append(Publisher(config.connect_catalog, config.paths.experiment))
    watchdog: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if not once:
        watchdog, watching = watch_data(config, stacker, catalog=catalog)
        followers.append(watching)
    with (
        watchdog,
        _until_told_to_stop(with_parent=with_parent) as stop,
        _progress("stacking", quiet=as_json or not once) as progress,
    ):
        _log_to_stderr()  # by way of the bar, if there is one

        def mend() -> None:
            from offbragg.repair import repair as make_anew

            repairs.extend(
                make_anew(config.paths.journal, config.paths.experiment, progress=progress)
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
        if repair:
            said["repaired"] = [each.to_dict() for each in repairs]
        print(json.dumps(said))
    elif repair:
        for each in repairs:
            _say(f"{each.path}\n  {printable(each.done or each.error)}")
        _say(f"damaged scan files: {len(repairs)}")
    for follower, runs in failed.items():
        for run in runs:
            _say(f"{follower}: run {run} could not be finished; see above", file=sys.stderr)
    if any(failed.values()) or any(each.error or each.lost for each in repairs):
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
        _say(f"{out}\n{stacked.frames} frames: {said}")
        _say(f"{stacked.seconds:.2f} s, {stacked.frames_per_second:.0f} frames/s")
        for problem in stacked.problems:
            _say(f"  {printable(problem)}")
    if stacked.pending:
        _say("ended before all was done; the same command goes on", file=sys.stderr)
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
    _log_to_stderr()
    serve_catalog(
        config.paths.catalog,
        [config.paths.experiment, config.paths.frames],
        host=config.catalog.host,
        port=config.catalog.port,
        ready=ready,
        parent=with_parent,
    )


@app.command()
def key(
    days: Annotated[
        float, typer.Option("--days", metavar="N", min=0, max=3650, help="So long it is good.")
    ] = 30.0,
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Make a key for reading the catalog, which ends by itself.

    Give this one away, not the file 'key', which may write and delete. It cannot be called back by
    itself: remove the file 'key' and start the catalog again, and all keys end.
    """
    from offbragg.beamline import load
    from offbragg.catalog.gate import reading_key

    ends = time.time() + 86400 * days
    made = reading_key(load(beamline).read_key(), ends=ends)
    if as_json:
        print(json.dumps({"key": made, "ends": ends}))
    else:
        _say(made)


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
    journal, connect = None, None
    if config is not None:
        journal = config.paths.journal
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
                            f"{name} is no file, and no beamline says where its run would be\n"
                            "Give the path of a scan file, or --beamline FILE and a run's uid."
                        )
                    path = scan_file_of_run(
                        str(name), journal=config.paths.journal, experiment=config.paths.experiment
                    )
                verdict = check(
                    path,
                    journal=journal,
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
    _say(f"{verdict.checked} compared with their checksum, {verdict.unchecked} have none")
    _say(f"digest: {verdict.digest}")
    if verdict.catalog in ("agrees", "differs"):
        _say(f"catalog: {verdict.catalog}")
    _say(f"{verdict.size / 1e6:.1f} MB in {verdict.seconds:.2f} s")
    for frame in verdict.listed:
        _say(f"  frame {frame['number']} {frame['status']}: {printable(frame['reason'])}")
    for note in verdict.notes:
        _say(f"  note: {printable(note)}")
    for problem in verdict.problems:
        _say(f"  PROBLEM: {printable(problem)}")
    _say("as measured" if verdict.ok else f"{len(verdict.problems)} problems")


@app.command()
def rebuild(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[UID]...", help="Runs that are published anew in any case."),
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
        _until_told_to_stop(with_parent=None) as stop,
        _progress("rebuilding", quiet=as_json) as progress,
    ):
        _log_to_stderr()
        rebuilt = build(
            config.paths.journal,
            config.paths.experiment,
            config.connect_catalog,
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
        _say(f"{len(failed)} failures" if failed else "ready to measure")
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
    _say(json.dumps(state) if as_json else describe(state))


@app.command(name="reduce")
def reduce_command(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Scan files; with --again, one volume file."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The volume. [default: volume-f1.h5 beside f1.h5]"
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="One volume of all files, instead of one for each.")
    ] = False,
    grid: Annotated[
        str | None,
        typer.Option(
            "--grid",
            metavar="BOX",
            help="h0:h1:step,k0:k1:step,l0:l1:step, steps 1/integer. [default: all that is seen]",
        ),
    ] = None,
    symmetry: Annotated[
        str,
        typer.Option(
            "--symmetry", metavar="CLASS", help="A Laue class as m-3m; auto: the space group's."
        ),
    ] = "none",
    background: Annotated[
        str,
        typer.Option(
            "--background", metavar="UID", help="auto, none, or an air run's uid or scan file."
        ),
    ] = "auto",
    background_scale: Annotated[
        float, typer.Option("--background-scale", help="The background counts so much.")
    ] = 1.0,
    orientation: Annotated[
        Path | None,
        typer.Option(
            "--orientation",
            metavar="FILE",
            help="JSON with UB and lattice. [default: orientation.json beside the scan file]",
        ),
    ] = None,
    monitor: Annotated[
        bool, typer.Option("--monitor/--no-monitor", help="Without: the flux was constant.")
    ] = True,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", metavar="FILE", help="Pixels not to count: .npy, CBF or TIFF."),
    ] = None,
    hot: Annotated[bool, typer.Option("--hot/--no-hot", help="Look for hot pixels.")] = True,
    oversample: Annotated[
        str,
        typer.Option(
            "--oversample", metavar="P,F", help="Divide pixels into P × P, frames into F parts."
        ),
    ] = "1,1",
    polarization: Annotated[
        float, typer.Option("--polarization", help="Degree; 1 is horizontal, 0 none.")
    ] = 0.99,
    efficiency: Annotated[
        bool, typer.Option("--efficiency/--no-efficiency", help="Correct for the sensor's.")
    ] = True,
    air: Annotated[
        bool, typer.Option("--air/--no-air", help="Correct for absorption in air.")
    ] = True,
    again: Annotated[
        bool,
        typer.Option("--again", help="Make a volume again from its own record, and compare."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Turn scan files into intensity in reciprocal space, S(Q).

    Every count goes to the hkl cell it belongs to, and beside the counts is summed how long and
    how well each cell was looked at; the volume file keeps both, and the record of how it was
    made. Exit code 1: --again found a difference.
    """
    from offbragg.recipe import Choices, make_again, next_free, reduce_files
    from offbragg.reduction import Corrections
    from offbragg.reduction.binning import Oversample
    from offbragg.volume import Grid

    if again:
        if len(files) != 1:
            raise typer.BadParameter("--again takes one volume file")
        with _progress("reducing", quiet=as_json) as progress:
            verdict = make_again(files[0], out=out, progress=progress)
        if as_json:
            print(json.dumps({"file": verdict.file, "same": verdict.same,
                              "differences": list(verdict.differences)}))  # fmt: skip
        else:
            differs = ", ".join(verdict.differences)
            print(
                f"{verdict.file}: the same, bit for bit" if verdict.same else f"DIFFERS: {differs}"
            )
        if not verdict.same:
            raise typer.Exit(1)
        return
    try:
        pixels, frames = (int(part) for part in oversample.split(","))
    except ValueError:
        raise typer.BadParameter("--oversample takes two whole numbers, as 2,3") from None
    if out is not None and len(files) > 1 and not merge:
        raise typer.BadParameter("--out takes one volume: give one file, or --merge")
    choices = Choices(
        grid=None if grid is None else Grid.parse(grid),
        symmetry=symmetry,
        background=background,
        background_scale=background_scale,
        orientation=orientation,
        monitor=monitor,
        corrections=Corrections(polarization=polarization, efficiency=efficiency, air=air),
        oversample=Oversample(pixels, frames),
        mask=mask,
        hot=hot,
    )
    made: list[dict[str, Any]] = []
    for group in [files] if merge else [[file] for file in files]:
        stem = "volume-" + "+".join(file.stem for file in group)
        target = out or next_free(group[0].parent, stem)
        said: list[str] = []
        with _progress("reducing", quiet=as_json) as progress:
            volume = reduce_files(group, choices, out=target, progress=progress, say=said.append)
        assert volume.grid is not None
        made.append(
            {
                "file": str(target), "inputs": [str(file) for file in group],
                "grid": volume.grid.to_dict(), "symmetry": volume.symmetry,
                "completeness": volume.completeness, "counts": float(volume.counts.sum()),
                "said": said,
            }
        )  # fmt: skip
        if not as_json:
            print(f"{target}\n{volume.grid}")
            print(f"{volume.completeness:.1%} of the cells measured")
            for line in said:
                print(f"  {line}")
    if as_json:
        print(json.dumps({"volumes": made}))


@app.command(name="plot", context_settings={"ignore_unknown_options": True})  # -1kl is a plane
def plot_command(
    volume: Annotated[Path, typer.Argument(metavar="VOLUME", help="A volume file.")],
    plane: Annotated[str, typer.Argument(metavar="PLANE", help="hk0, h0.5l, -1kl.")] = "hk0",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PNG", help="The picture. [default: beside the volume]"),
    ] = None,
    thickness: Annotated[
        float, typer.Option("--thickness", help="Sum so much across the plane, r.l.u.")
    ] = 0.0,
    low: Annotated[float | None, typer.Option("--low", help="Where the colours begin.")] = None,
    high: Annotated[float | None, typer.Option("--high", help="Where they end.")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a plane of a volume into a picture.

    Colours are logarithmic, lengths and angles those of the reciprocal lattice; what was not
    measured is grey.
    """
    from offbragg.picture import plot

    target = out or volume.with_name(f"{volume.stem}-{plane}.png")
    plot(volume, plane, out=target, thickness=thickness, low=low, high=high)
    print(json.dumps({"file": str(target)}) if as_json else target)


@app.command(name="series")
def series_command(
    where: Annotated[
        list[str],
        typer.Argument(metavar="SERIES…", help="Scan files, folders of them, or a series' uid."),
    ],
    at: Annotated[str, typer.Option("--at", metavar="H,K,L", help="The point, r.l.u.")],
    reach: Annotated[float, typer.Option("--reach", help="Half the box around it, r.l.u.")] = 0.2,
    step: Annotated[float, typer.Option("--step", help="Of its cells, r.l.u.; 1/integer.")] = 0.025,
    background: Annotated[
        str, typer.Option("--background", metavar="UID", help="auto, none, or an air run.")
    ] = "auto",
    orientation: Annotated[
        Path | None, typer.Option("--orientation", metavar="FILE", help="JSON with UB and lattice.")
    ] = None,
    monitor: Annotated[
        bool, typer.Option("--monitor/--no-monitor", help="Without: the flux was constant.")
    ] = True,
    mask: Annotated[
        Path | None, typer.Option("--mask", metavar="FILE", help="Pixels not to count.")
    ] = None,
    efficiency: Annotated[
        bool, typer.Option("--efficiency/--no-efficiency", help="Correct for the sensor's.")
    ] = True,
    out: Annotated[Path | None, typer.Option("--out", metavar="PNG", help="Draw it, too.")] = None,
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Follow a superlattice point over temperature: order parameter, Tc and β.

    At each temperature a Gaussian, a Lorentzian and a quadratic are fitted to the box around the
    point; a power law goes through the Gaussians.
    """
    from offbragg.order import draw, find_sweeps, order_parameter
    from offbragg.recipe import Choices
    from offbragg.reduction import Corrections

    try:
        h, k, l = (float(x) for x in at.split(","))  # noqa: E741
    except ValueError:
        raise typer.BadParameter("--at takes three numbers, as 0.5,0.5,0.5") from None
    uid = None
    places: list[str | Path] = [name for name in where if Path(name).exists()]
    if unknown := [name for name in where if not Path(name).exists()]:
        from offbragg.beamline import load

        uid = unknown[0]
        places = places or [load(beamline).paths.experiment]
    choices = Choices(
        background=background,
        orientation=orientation,
        monitor=monitor,
        mask=mask,
        corrections=Corrections(efficiency=efficiency),
    )
    with _progress("temperatures", quiet=as_json) as progress:
        found = order_parameter(
            find_sweeps(places, uid), (h, k, l), reach=reach, step=step, choices=choices,
            progress=progress,
        )  # fmt: skip
    if out is not None:
        draw(found, out)
    print(json.dumps(found.to_dict()) if as_json else found.table())


@app.command(name="pdf")
def pdf_command(
    volume: Annotated[Path, typer.Argument(metavar="VOLUME", help="A volume file.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="HDF5. [default: VOLUME-pdf.h5]"),
    ] = None,
    punch: Annotated[
        float, typer.Option("--punch", help="Radius cut out around Bragg points, Å⁻¹ with 2π.")
    ] = 0.15,
    centring: Annotated[
        str, typer.Option("--centring", help="P, I, F, A, B, C or R: where Bragg points are.")
    ] = "P",
    q_max: Annotated[
        float | None, typer.Option("--q-max", help="End of the taper, Å⁻¹ with 2π.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Transform a volume into a 3D-ΔPDF: pairs more or less frequent than in the average crystal.

    Bragg peaks are punched out and filled from around; use a volume that is symmetrised.
    """
    from offbragg.files.volume_file import read_volume
    from offbragg.pdf import pair_distribution, save

    target = out or volume.with_name(f"{volume.stem}-pdf.h5")
    pdf = pair_distribution(read_volume(volume), punch=punch, centring=centring, q_max=q_max)
    save(target, pdf, {"volume": volume.name, "punch": punch, "centring": centring})
    found = pdf.strongest()
    if as_json:
        told = {"file": str(target), "residual": pdf.residual, "filled": pdf.filled}
        print(json.dumps({**told, "q_max": pdf.q_max, "strongest": found}))
        return
    print(f"{target}\nup to {pdf.q_max:.2f} Å⁻¹, {pdf.filled:.1%} filled, "
          f"back-transform off by {pdf.residual:.1e}")  # fmt: skip
    for one in found:
        x, y, z = one["vector"]
        print(f"  {x:6.2f} {y:6.2f} {z:6.2f}  {one['length']:7.2f} Å  {one['value']:12.4g}")


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
        _say("\n".join(printable(file) for file in files))


def _say(text: str, *, file: Any = None) -> None:
    """Print our own lines; whatever names and messages hold is shown, and not acted upon."""
    print(printable(text, lines=True), file=file)


def main() -> None:
    """Run the command line; each of our own errors becomes one message and an exit code."""
    try:
        app()
    except OffbraggError as error:
        _say(f"offbragg: {error}", file=sys.stderr)
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("offbragg").setLevel(logging.INFO)
