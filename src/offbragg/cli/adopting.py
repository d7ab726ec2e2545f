"""The command that adopts frames of others where they lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from offbragg.cli.app import DATA, AsJson, Beamline, app
from offbragg.cli.numbers import Number
from offbragg.cli.terminal import progress as progress_bar
from offbragg.cli.terminal import say
from offbragg.ledger import Ledger, describe_problems
from offbragg.printable import printable


def _number(name: str, text: str, parser: Number) -> Any:
    return typer.Option(name, metavar="N", help=text, parser=parser)


@app.command(rich_help_panel=DATA)
def adopt(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="HDF5 file with frames or links to them, TIFF file, or folder; of each sweep.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Scan file to make; without: a run of the beamline."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="/A/B", help="Frames in the file (frame, slow, fast)."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option("--model", metavar="FILE", help="Geometry and axes, as for stack-files."),
    ] = None,
    sample: Annotated[
        str | None, typer.Option("--sample", metavar="NAME", help="Name of the sample.")
    ] = None,
    axis: Annotated[
        str | None, typer.Option("--axis", metavar="NAME", help="Axis that turned.")
    ] = None,
    start: Annotated[
        float | None, _number("--start", "Angle where frame 0 began, degree.", Number())
    ] = None,
    step: Annotated[float | None, _number("--step", "Turned per frame, degree.", Number())] = None,
    exposure: Annotated[
        float | None, _number("--exposure", "Exposure time, s.", Number(0, above=True, unit="s"))
    ] = None,
    period: Annotated[
        float | None,
        _number("--period", "From frame to frame, s.", Number(0, above=True, unit="s")),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option("--frames", metavar="N", min=1, help="How many, if the last file is missing."),
    ] = None,
    angles: Annotated[
        str | None,
        typer.Option("--angles", metavar="/A/B", help="Angles where frames begin, degree."),
    ] = None,
    monitor: Annotated[
        str | None,
        typer.Option(
            "--monitor",
            metavar="/A/B",
            help="Incident monitor, one number per frame; or a column of FILE_meta.txt.",
        ),
    ] = None,
    temperature: Annotated[
        float | None, _number("--temperature", "Temperature of the sample, K.", Number(0, unit="K"))
    ] = None,
    series: Annotated[
        str | None,
        typer.Option("--series", metavar="NAME", help="Series of the run, for several sweeps."),
    ] = None,
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Adopt frames in files of others where they lie: nothing is copied.

    The scan file that is made has angles, geometry, ledger and checksums, and names the files and
    datasets; index, reduce and plot take it as any other. What is not known is asked for by name.
    External links of a master file are followed within its folder only.

    With --out it is a file by itself. Without, the sweep becomes a run of the beamline: its scan
    file and its journal go where those of other runs are, and offbragg stack, or offbragg stack
    --once, publishes it in the catalog. Several sweeps of one sample, as the stacks of a
    temperature, may be named at once; all options are those of each.

    Exit code 5: frames are missing or could not be read.
    """
    from offbragg.errors import ConfigError, FrameError
    from offbragg.files.scan_file import ScanFile
    from offbragg.workflows.adopt import adopt_as_run, describe, write

    if out is not None and len(paths) > 1:
        raise ConfigError(f"--out is one file, and {len(paths)} sweeps are to be adopted")
    given = {
        "oscillation_axis": axis,
        "start_angle": start,
        "angle_increment": step,
        "exposure_time": exposure,
        "exposure_period": period,
    }
    config = None
    if out is None:
        from offbragg.beamline.config import load

        config = load(beamline)
    whole = True
    for path in paths:
        with progress_bar(f"adopting {path.name}", quiet=as_json) as progress:
            what = describe(
                path,
                dataset=dataset,
                model=model,
                sample=sample,
                n_frames=frames,
                monitor=monitor,
                given=given,
                angles=angles,
                temperature=temperature,
                series=series,
            )
            if config is None:
                assert out is not None
                made = write(what, out, progress=progress)
            else:
                places = config.paths
                made = adopt_as_run(
                    what,
                    experiment=places.experiment,
                    journal=places.journal,
                    readable=[places.experiment, places.frames, *config.catalog.adopted],
                    progress=progress,
                )
        with ScanFile.open(made) as scan:
            ledger = scan.ledger
        _report(made, what.start, ledger, as_json=as_json, monitor=monitor)
        whole &= ledger.counts()["stored"] == ledger.n_frames
    if not whole:
        raise typer.Exit(FrameError.exit_code)


def _report(
    made: Path, start: Mapping[str, Any], ledger: Ledger, *, as_json: bool, monitor: str | None
) -> None:
    counts, problems = ledger.counts(), describe_problems(ledger.problems())
    if as_json:
        run = start["uid"]
        print(json.dumps({"file": str(made), "run": run, **counts, "problems": list(problems)}))
        return
    parts = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    say(f"{made}\n{ledger.n_frames} frames: {parts}")
    for problem in problems:
        say(f"  {printable(problem)}")
    columns = start.get("logs", {}).get("columns", [])
    if columns and monitor is None:
        say(f"no monitor is taken; beside it are {printable(', '.join(columns))}: --monitor NAME")
