"""Commands that stack: the runs of a beamline, or a folder of frames."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from offbragg.cli.app import DATA, AsJson, Beamline, WithParent, app, log_to_stderr, until_stopped
from offbragg.cli.numbers import Number
from offbragg.cli.terminal import progress as progress_bar
from offbragg.cli.terminal import say, typed_options
from offbragg.errors import CatalogError, FrameError
from offbragg.printable import printable


@app.command(rich_help_panel=DATA)
def stack(
    context: typer.Context,
    beamline: Beamline = None,
    once: Annotated[
        bool, typer.Option("--once", help="Finish every run in the journal, then end.")
    ] = False,
    late: Annotated[
        float,
        typer.Option(
            "--late",
            metavar="SECONDS",
            help="Time limit for a late frame before it counts as missing, s.",
            parser=Number(0, 86400, unit="s"),
        ),
    ] = 5.0,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="With --once: rebuild damaged files first."),
    ] = False,
    catalog: Annotated[
        bool, typer.Option("--catalog/--no-catalog", help="Publish the runs to the catalog.")
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

    Run it once per beamline, on any host that sees the frame files. It can be killed at any moment
    and restarted. With --once it finishes the runs in the journal and ends.

    With --once --repair every journal and scan file is verified first. A damaged journal is rebuilt
    from its intact lines, a damaged scan file from its intact frames, the frame files and the
    journal; the damaged file is kept beside it as <uid>.jsonl.damaged-1 or fN.h5.damaged-1.

    Exit code 1: a run could not be finished, a journal is damaged, or a file could not be rebuilt
    without loss. 8: a package that publishing needs is missing or broken; everything was stacked
    all the same.

    To stack a folder of frames, without a run and a beamline: offbragg stack-files
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
    from offbragg.followers.follow import follow, following
    from offbragg.followers.followed_run import Follower
    from offbragg.followers.on_stored import OnStored
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
    if config.hooks.on_stored:
        followers.append(
            OnStored(
                config.hooks.on_stored, journal=config.paths.journal,
                experiment=config.paths.experiment, beamline=config.beamline_id,
                timeout=config.hooks.timeout, tries=config.hooks.tries,
            )
        )  # fmt: skip
    watchdog: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if not once:
        watchdog, watching = watch_data(config, stacker, catalog=catalog)
        followers.append(watching)
    with (
        watchdog,
        until_stopped() as stop,
        progress_bar("stacking", quiet=as_json or not once) as progress,
    ):
        log_to_stderr()  # through the progress bar, if there is one
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
        document: dict[str, Any] = {"failed": failed}
        if off is not None:
            document["publishing"] = str(off)
        if repair:
            document["repaired"] = [each.to_dict() for each in repairs]
        print(json.dumps(document))
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


@app.command(name="stack-files", rich_help_panel=DATA)
def stack_files(
    patterns: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR|PATTERN",
            help="Folder with the frames of one sweep, or a quoted pattern of their names.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Scan file to make or to continue.")
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FILE",
            help="Geometry and axes of the frames: JSON, DIALS .expt or XDS XPARM.XDS; or only "
            "exposure_time and exposure_period, s. start_deg, degree, belongs to the lowest "
            "number, and is used only if the headers have no angles.",
        ),
    ] = None,
    trust_model: Annotated[
        bool,
        typer.Option("--trust-model", help="Use the model even where the headers contradict it."),
    ] = False,
    sample: Annotated[
        str | None,
        typer.Option(
            "--sample",
            metavar="NAME",
            help="Name of the sample.",
            show_default="name of the folder",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Stack a folder of CBF or TIFF frames into one scan file, without a run or beamline.

    The number that differs between the names is the frame number; a number without a file is a
    missing frame. A frame whose header contradicts the sweep of most frames is rejected. After an
    interruption the same command continues.

    Exit code 1: it was interrupted. 5: files were rejected or incomplete.
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
        progress_bar("stacking", quiet=as_json) as progress,
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
        parts = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
        n = stacked.frames
        say(f"{out}\n{n} frame{'' if n == 1 else 's'}: {parts}")
        say(f"{stacked.seconds:.2f} s, {stacked.frames_per_second:.0f} frames/s")
        if stacked.wrapper is not None:
            say(f"for NXRefine: {stacked.wrapper}")
        for problem in stacked.problems:
            say(f"  {printable(problem)}")
    if stacked.pending:
        say(
            "interrupted before all frames were stacked; the same command continues",
            file=sys.stderr,
        )
        raise typer.Exit(1)
    if stacked.unused:
        raise typer.Exit(FrameError.exit_code)
