"""The verbs that reduce sweeps: index, reduce, series; see :mod:`offbragg.cli`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from offbragg.cli.app import REDUCTION, AsJson, Beamline, app
from offbragg.cli.numbers import Number, numbers
from offbragg.cli.publish import publish_made
from offbragg.cli.terminal import check_free, progress_of_steps, say, typed_options
from offbragg.cli.terminal import progress as progress_bar
from offbragg.errors import ReductionError

# what more than one of them takes
Symmetry = Annotated[
    str,
    typer.Option(
        "--symmetry",
        metavar="CLASS",
        help="Laue class to symmetrise by, as m-3m; auto: that of the space group.",
    ),
]
Fold = Annotated[
    bool,
    typer.Option(
        "--fold",
        help="Keep sums of the part of the box that --symmetry does not repeat: less memory.",
    ),
]
Background = Annotated[
    str,
    typer.Option(
        "--background", metavar="UID", help="Air run: its uid or scan file; or auto, none."
    ),
]
Orientation = Annotated[
    Path | None,
    typer.Option(
        "--orientation",
        metavar="FILE",
        help="Orientation: JSON with UB and lattice.",
        show_default="orientation.json beside the scan file",
    ),
]
MaskFile = Annotated[
    Path | None,
    typer.Option(
        "--mask",
        metavar="FILE",
        help="Mask; pixels other than 0 are excluded: npy, CBF, TIFF, EDF, HDF5 (FILE::/DATASET).",
    ),
]
InvertMask = Annotated[
    bool, typer.Option("--invert-mask", help="Exclude the pixels that are 0 in the mask.")
]
MaskOverHalf = Annotated[
    bool,
    typer.Option("--mask-over-half", help="Accept a mask that excludes over half of the pixels."),
]
RefuseDamaged = Annotated[
    bool,
    typer.Option(
        "--refuse-damaged", help="Fail if a stored frame is damaged, instead of excluding it."
    ),
]
DespiteHeaders = Annotated[
    bool,
    typer.Option(
        "--despite-headers",
        help="Trust the run where headers of frames contradict it and q would differ.",
    ),
]
Monitor = Annotated[
    bool,
    typer.Option(
        "--monitor/--no-monitor",
        help="Normalise to the monitor; --no-monitor assumes constant flux.",
    ),
]
Efficiency = Annotated[
    bool,
    typer.Option("--efficiency/--no-efficiency", help="Correct for the sensor's efficiency."),
]
Box = Annotated[
    str | None,
    typer.Option(
        "--grid",
        metavar="BOX",
        help="Limits and steps, r.l.u., as -4:4:0.02 for h, k and l, with commas between; a "
        "step is 1/integer.",
        show_default="all that was measured",
    ),
]
BackgroundScale = Annotated[
    float,
    typer.Option(
        "--background-scale",
        help="Scale factor applied to the background (> 0).",
        parser=Number(0, above=True),
    ),
]
Hot = Annotated[bool, typer.Option("--hot/--no-hot", help="Find and exclude hot pixels.")]
Polarization = Annotated[
    float,
    typer.Option(
        "--polarization",
        help="Degree of polarisation: 1 horizontal, 0 none.",
        parser=Number(-1, 1),
    ),
]
Air = Annotated[bool, typer.Option("--air/--no-air", help="Correct for absorption in air.")]
_MOST_PARTS = 100  # that a pixel or a frame is divided into


@app.command(name="index", rich_help_panel=REDUCTION)
def index_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Scan files of one mount.")],
    cell: Annotated[
        str | None,
        typer.Option(
            "--cell",
            metavar="a,b,c,al,be,ga",
            help="Unit cell, Å and degree.",
            show_default="from the start document",
        ),
    ] = None,
    unknown_cell: Annotated[
        bool,
        typer.Option("--unknown-cell", help="Determine the cell, too, ignoring any known one."),
    ] = False,
    centring: Annotated[
        str | None,
        typer.Option(
            "--centring",
            metavar="LETTER",
            help="Lattice centring: P, A, B, C, I, F or R.",
            show_default="from the space group, or P",
        ),
    ] = None,
    refine: Annotated[
        str,
        typer.Option(
            "--refine", metavar="WHAT", help="Panel parameters to refine: beam,distance,tilt."
        ),
    ] = "",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Orientation file.",
            show_default="orientation.json beside the first FILE",
        ),
    ] = None,
    spots: Annotated[
        list[Path] | None,
        typer.Option("--spots", metavar="FILE", help="DIALS's spots (.refl), one for each FILE."),
    ] = None,
    picture: Annotated[
        bool,
        typer.Option("--picture/--no-picture", help="Draw peaks and residuals, PNG."),
    ] = True,
    refuse_damaged: RefuseDamaged = False,
    despite_headers: DespiteHeaders = False,
    as_json: AsJson = False,
) -> None:
    """Find the orientation: peaks, cell and refined UB; writes orientation.json.

    Sweeps of one mount are indexed together. An orientation that is not certain is refused, with
    the numbers. An earlier orientation.json is kept under another name.
    """
    from offbragg.workflows.index import describe, find_orientation

    with progress_bar("looking for peaks", quiet=as_json) as progress:
        found = find_orientation(
            files,
            lattice=None if cell is None else _cell(cell),
            unknown_cell=unknown_cell,
            centring=centring,
            what=[word.strip() for word in refine.split(",") if word.strip()],
            out=out,
            picture=picture,
            refuse_damaged=refuse_damaged,
            despite_headers=despite_headers,
            spots=spots or (),
            progress=progress,
        )
    say(json.dumps(found.to_dict()) if as_json else describe(found))


def _cell(text: str) -> list[float]:
    words = ",".join(text.replace(",", " ").split())
    return list(numbers(words, 6, "--cell", "3.9,3.9,3.9,90,90,90"))


@app.command(name="reduce", rich_help_panel=REDUCTION)
def reduce_command(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Scan files; with --again, one volume file."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Volume file.", show_default="volume-f1.h5 beside f1.h5"
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Make one volume of all files, instead of one for each.")
    ] = False,
    grid: Box = None,
    symmetry: Symmetry = "none",
    fold: Fold = False,
    background: Background = "auto",
    background_scale: BackgroundScale = 1.0,
    orientation: Orientation = None,
    monitor: Monitor = True,
    mask: MaskFile = None,
    invert_mask: InvertMask = False,
    mask_over_half: MaskOverHalf = False,
    hot: Hot = True,
    refuse_damaged: RefuseDamaged = False,
    despite_headers: DespiteHeaders = False,
    oversample: Annotated[
        str,
        typer.Option(
            "--oversample", metavar="P,F", help="Parts of a pixel, P × P, and of a frame, F."
        ),
    ] = "1,1",
    polarization: Polarization = 0.99,
    efficiency: Efficiency = True,
    air: Air = True,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="URL",
            help="Dask scheduler whose workers sum the frames, as tcp://host:8786.",
            show_default="this process",
        ),
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Reproduce a volume from its own record, and compare."),
    ] = False,
    publish: Annotated[
        bool,
        typer.Option(
            "--publish/--no-publish",
            help="Publish the volume in the catalog, if a beamline is configured.",
        ),
    ] = True,
    beamline: Beamline = None,
    as_json: AsJson = False,
) -> None:
    """Reduce scan files to intensity in reciprocal space, S(Q).

    Every count is added to the hkl cell it belongs to. The volume file keeps the counts, the weight
    (how long and how efficiently each cell was measured) and the record of how it was made.

    Exit code 1: --again found a difference.
    """
    from offbragg.grid import Grid
    from offbragg.reduction import Corrections
    from offbragg.reduction.binning import Oversample
    from offbragg.workflows.choices import Choices
    from offbragg.workflows.reduce import reduce_to_file
    from offbragg.workflows.reproduce import reproduce
    from offbragg.workflows.sweeps import next_free

    if again:
        if len(files) != 1:
            raise typer.BadParameter("--again takes one volume file")
        own = ("files", "out", "again", "as_json")
        if others := [flag for name, flag in typed_options(context).items() if name not in own]:
            raise typer.BadParameter(
                f"--again takes no {', '.join(others)}: the volume follows its own record"
            )
        with progress_bar("reducing", quiet=as_json) as progress:
            verdict = reproduce(files[0], out=out, progress=progress)
        if as_json:
            say(json.dumps({"file": verdict.file, "same": verdict.same,
                              "differences": list(verdict.differences)}))  # fmt: skip
        else:
            differs = f"DIFFERS: {', '.join(verdict.differences)}"
            same = "the same, bit for bit"
            if verdict.rounded:
                same = "the same, but for the rounding of weights: it is of an earlier version"
            say(f"{verdict.file}: {same if verdict.same else differs}")
        if not verdict.same:
            raise typer.Exit(1)
        return
    try:
        pixels, frames = (int(part) for part in oversample.split(","))
    except ValueError:
        raise typer.BadParameter("--oversample takes two whole numbers, as 2,3") from None
    if not (1 <= pixels <= _MOST_PARTS and 1 <= frames <= _MOST_PARTS):
        raise typer.BadParameter(f"--oversample is {oversample}: each from 1 to {_MOST_PARTS}")
    if out is not None and len(files) > 1 and not merge:
        raise typer.BadParameter("--out takes one volume: give one file, or --merge")
    choices = Choices(
        grid=None if grid is None else Grid.parse(grid),
        symmetry=symmetry,
        fold=fold,
        background=background,
        background_scale=background_scale,
        orientation=orientation,
        monitor=monitor,
        corrections=Corrections(polarization=polarization, efficiency=efficiency, air=air),
        oversample=Oversample(pixels, frames),
        mask=mask,
        invert_mask=invert_mask,
        mask_over_half=mask_over_half,
        hot=hot,
        refuse_damaged=refuse_damaged,
        despite_headers=despite_headers,
    )
    made: list[dict[str, Any]] = []
    for group in [files] if merge else [[file] for file in files]:
        stem = "volume-" + "+".join(file.stem for file in group)
        target = out or next_free(group[0].parent, stem)
        check_free(target)
        messages: list[str] = []
        with progress_of_steps("reducing", "writing", quiet=as_json) as (reducing, writing):
            volume = reduce_to_file(
                group, choices, target, scheduler=scheduler, progress=reducing, writing=writing,
                say=messages.append,
            )  # fmt: skip
        key, message = publish_made(target, beamline) if publish else (None, "")
        made.append(
            {
                "file": str(target), "published": key, "inputs": [str(file) for file in group],
                "grid": volume.grid.to_dict(), "symmetry": volume.symmetry,
                "completeness": volume.completeness, "counts": volume.counts,
                "said": messages,
            }
        )  # fmt: skip
        if not as_json:
            say(f"{target}\n{volume.grid}")
            say(f"{volume.completeness:.1%} of the cells measured")
            for line in messages:
                say(f"  {line}")
            if message:
                say(message)
    if as_json:
        say(json.dumps({"volumes": made}))


@app.command(name="series", rich_help_panel=REDUCTION)
def series_command(
    where: Annotated[
        list[str],
        typer.Argument(metavar="SERIES", help="Scan files, folders of them, or uids of series."),
    ],
    at: Annotated[str, typer.Option("--at", metavar="H,K,L", help="Superlattice point, r.l.u.")],
    reach: Annotated[
        float,
        typer.Option(
            "--reach",
            help="Half width of the box around the point, r.l.u.",
            parser=Number(0, above=True, unit="r.l.u."),
        ),
    ] = 0.2,
    step: Annotated[
        float,
        typer.Option(
            "--step",
            help="Cell size in the box, r.l.u.; 1/integer.",
            parser=Number(0, 1, above=True, unit="r.l.u."),
        ),
    ] = 0.025,
    symmetry: Symmetry = "none",
    background: Background = "auto",
    orientation: Orientation = None,
    monitor: Monitor = True,
    mask: MaskFile = None,
    invert_mask: InvertMask = False,
    mask_over_half: MaskOverHalf = False,
    efficiency: Efficiency = True,
    refuse_damaged: RefuseDamaged = False,
    despite_headers: DespiteHeaders = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PNG", help="Picture to draw.")
    ] = None,
    beamline: Annotated[
        Path | None,
        typer.Option(
            "--beamline",
            metavar="FILE",
            help="Configuration of the beamline, for uids; default: $OFFBRAGG_BEAMLINE.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Follow a superlattice point over temperature: order parameter, Tc and β.

    At each temperature a Gaussian, a Lorentzian and a quadratic background are fitted to the box
    around the point; a power law is fitted to the intensities of the Gaussians.
    """
    from offbragg.plots.figure import check_picture
    from offbragg.plots.transition import draw
    from offbragg.reduction import Corrections
    from offbragg.workflows.choices import Choices
    from offbragg.workflows.order_parameter import find_sweeps, order_parameter

    h, k, l = numbers(at, 3, "--at", "0.5,0.5,0.5")  # noqa: E741
    places: list[str | Path] = [name for name in where if name and Path(name).exists()]
    uids = [name for name in where if name not in places]
    for name in uids:
        if not re.fullmatch(r"[\w-]+", name):
            raise ReductionError(f"{name!r} is not there, and is not a uid\nCheck its spelling.")
    if not places:
        from offbragg.beamline.config import load

        places = [load(beamline).paths.experiment]
    if out is not None:
        check_picture(out)
    choices = Choices(
        symmetry=symmetry,
        background=background,
        orientation=orientation,
        monitor=monitor,
        mask=mask,
        invert_mask=invert_mask,
        mask_over_half=mask_over_half,
        corrections=Corrections(efficiency=efficiency),
        refuse_damaged=refuse_damaged,
        despite_headers=despite_headers,
    )
    with progress_bar("temperatures", quiet=as_json) as progress:
        found = order_parameter(
            find_sweeps(places, uids), (h, k, l), reach=reach, step=step, choices=choices,
            progress=progress,
        )  # fmt: skip
    if out is not None:
        draw(found, out)
    say(json.dumps(found.to_dict()) if as_json else "\n".join([found.table(), *found.notes]))
