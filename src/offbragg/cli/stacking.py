"""Commands that stack: a beamline as it measures, or a folder of frames."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from offbragg.cli.app import AsJson, Beamline, WithParent, app, log_to_stderr, until_stopped
from offbragg.cli.numbers import Number
from offbragg.cli.terminal import progress as _progress
from offbragg.cli.terminal import say as say
from offbragg.cli.terminal import typed_options
from offbragg.errors import (
    CatalogError,
    FrameError,
)
from offbragg.printable import printable


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
        say(
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
    from offbragg.beamline.config import load
    from offbragg.followers.alarm_follower import watch_data
    from offbragg.followers.follow import Follower, follow, following
    from offbragg.followers.stacker import Stacker

    config = load(beamline)
    repairs: list[Any] = []
    stacker = Stacker(config.paths.experiment, late=late, frames=config.paths.frames)
    followers: list[Follower] = [stacker]
    off: CatalogError | None = None
    if catalog:
        from offbragg.followers.publishing import make_publisher

        publisher, off = make_publisher(config.connect_catalog, config.paths.experiment)
        followers.append(publisher)
    watchdog: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if not once:
        watchdog, watching = watch_data(config, stacker, catalog=catalog)
        followers.append(watching)
    with (
        watchdog,
        until_stopped() as stop,
        _progress("stacking", quiet=as_json or not once) as progress,
    ):
        log_to_stderr()  # by way of the bar, if there is one
        if off is not None:
            logging.getLogger("offbragg").error("%s", off)

        with following(config.paths.journal) as lock:
            if repair:
                from offbragg.recovery.repair import repair as rebuild_damaged

                repairs = rebuild_damaged(
                    config.paths.journal,
                    config.paths.experiment,
                    frames=config.paths.frames,
                    progress=progress,
                )
            failed = follow(
                config.paths.journal,
                followers,
                once=once,
                stop=stop,
                progress=progress,
                held=lock,
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
            say(f"{each.path}\n  {printable(each.done or each.error)}")
        say(f"damaged journals and scan files: {len(repairs)}")
    for follower, runs in failed.items():
        for run in runs:
            say(f"{follower}: run {run} could not be finished; see above", file=sys.stderr)
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
    from offbragg.followers.folder import stack_files as stack_these

    with (
        until_stopped() as stop,
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
        say(f"{out}\n{stacked.frames} frames: {said}")
        say(f"{stacked.seconds:.2f} s, {stacked.frames_per_second:.0f} frames/s")
        if stacked.wrapper is not None:
            say(f"for NXRefine: {stacked.wrapper}")
        for problem in stacked.problems:
            say(f"  {printable(problem)}")
    if stacked.pending:
        say("ended before all was done; the same command goes on", file=sys.stderr)
        raise typer.Exit(1)
    if stacked.unused:
        raise typer.Exit(FrameError.exit_code)
