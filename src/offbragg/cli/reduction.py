"""The verbs of the reduction: index, reduce, plot, series, pdf; see :mod:`offbragg.cli`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from offbragg.cli.numbers import Number, numbers
from offbragg.cli.terminal import progress as progress_bar
from offbragg.cli.terminal import say, typed_options
from offbragg.errors import ReductionError

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
MaskFile = Annotated[
    Path | None,
    typer.Option(
        "--mask",
        metavar="FILE",
        help="Pixels not to count are not 0 (or NaN): .npy, CBF, TIFF, EDF, HDF5 (FILE::/DATASET).",
    ),
]
InvertMask = Annotated[
    bool, typer.Option("--invert-mask", help="Pixels not to count are 0 in the mask.")
]
MaskOverHalf = Annotated[
    bool,
    typer.Option("--mask-over-half", help="Accept a mask of more than half of the pixels."),
]
RefuseDamaged = Annotated[
    bool,
    typer.Option(
        "--refuse-damaged", help="Fail if a stored frame is damaged, instead of leaving it out."
    ),
]
_MOST_PARTS = 100  # that a pixel or a frame is divided into
_MOST_UNMEASURED = 0.1  # of what is transformed


def add_reduction_commands(app: typer.Typer) -> None:
    """Add them to the command line; what they need is imported when one is run."""
    app.command(name="reduce")(reduce_command)
    options = {"ignore_unknown_options": True}  # -1kl is a plane
    app.command(name="plot", context_settings=options)(plot_command)
    app.command(name="series")(series_command)
    app.command(name="pdf")(pdf_command)
    app.command(name="index")(index_command)


def reduce_command(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Scan files; with --again, one volume file."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="The volume.", show_default="volume-f1.h5 beside f1.h5"
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
            help="h0:h1:step,k0:k1:step,l0:l1:step, steps 1/integer.",
            show_default="all that is seen",
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
        float,
        typer.Option(
            "--background-scale",
            help="Scale factor applied to the background, above 0.",
            parser=Number(0, above=True),
        ),
    ] = 1.0,
    orientation: Annotated[
        Path | None,
        typer.Option(
            "--orientation",
            metavar="FILE",
            help="JSON with UB and lattice.",
            show_default="orientation.json beside the scan file",
        ),
    ] = None,
    monitor: Annotated[
        bool, typer.Option("--monitor/--no-monitor", help="Without: the flux was constant.")
    ] = True,
    mask: MaskFile = None,
    invert_mask: InvertMask = False,
    mask_over_half: MaskOverHalf = False,
    hot: Annotated[bool, typer.Option("--hot/--no-hot", help="Look for hot pixels.")] = True,
    refuse_damaged: RefuseDamaged = False,
    oversample: Annotated[
        str,
        typer.Option(
            "--oversample", metavar="P,F", help="Divide pixels into P × P, frames into F parts."
        ),
    ] = "1,1",
    polarization: Annotated[
        float,
        typer.Option(
            "--polarization", help="Degree; 1 is horizontal, 0 none.", parser=Number(-1, 1)
        ),
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
    from offbragg.grid import Grid
    from offbragg.reduction import Corrections
    from offbragg.reduction.binning import Oversample
    from offbragg.workflows.choices import Choices
    from offbragg.workflows.reduce import reduce_files
    from offbragg.workflows.reproduce import reproduce
    from offbragg.workflows.sweeps import next_free

    if again:
        if len(files) != 1:
            raise typer.BadParameter("--again takes one volume file")
        theirs = ("files", "out", "again", "as_json")
        if others := [flag for name, flag in typed_options(context).items() if name not in theirs]:
            raise typer.BadParameter(
                f"--again takes no {', '.join(others)}: the volume is made by its own record"
            )
        with progress_bar("reducing", quiet=as_json) as progress:
            verdict = reproduce(files[0], out=out, progress=progress)
        if as_json:
            say(json.dumps({"file": verdict.file, "same": verdict.same,
                              "differences": list(verdict.differences)}))  # fmt: skip
        else:
            differs = f"DIFFERS: {', '.join(verdict.differences)}"
            say(f"{verdict.file}: {'the same, bit for bit' if verdict.same else differs}")
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
    )
    made: list[dict[str, Any]] = []
    for group in [files] if merge else [[file] for file in files]:
        stem = "volume-" + "+".join(file.stem for file in group)
        target = out or next_free(group[0].parent, stem)
        _check_free(target)
        said: list[str] = []
        with progress_bar("reducing", quiet=as_json) as progress:
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
            say(f"{target}\n{volume.grid}")
            say(f"{volume.completeness:.1%} of the cells measured")
            for line in said:
                say(f"  {line}")
    if as_json:
        say(json.dumps({"volumes": made}))


def plot_command(
    volume: Annotated[Path, typer.Argument(metavar="VOLUME", help="A volume file.")],
    plane: Annotated[
        str, typer.Argument(metavar="PLANE", help="hk0, h0.5l, -1kl, hhl, or h,k,-h-k.")
    ] = "hk0",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PNG", help="The picture.", show_default="beside the volume"),
    ] = None,
    thickness: Annotated[
        float,
        typer.Option(
            "--thickness",
            help="Thickness over which the plane is averaged, r.l.u.",
            parser=Number(0, unit="r.l.u."),
        ),
    ] = 0.0,
    low: Annotated[
        float | None, typer.Option("--low", help="Where the colours begin.", parser=Number())
    ] = None,
    high: Annotated[
        float | None,
        typer.Option(
            "--high", help="Where they end.", show_default="set by --top", parser=Number()
        ),
    ] = None,
    top: Annotated[
        float,
        typer.Option(
            "--top",
            metavar="PERCENT",
            help="Percentile of the cells away from Bragg points.",
            parser=Number(0, 100, above=True, unit="%"),
        ),
    ] = 99.0,
    as_json: AsJson = False,
) -> None:
    """Draw a plane of a volume into a picture.

    Colours are logarithmic, lengths and angles those of the reciprocal lattice; what was not
    measured is grey. The colours end where the diffuse scattering does (--top), so Bragg peaks are
    all of the brightest one.
    """
    from offbragg.plots.planes import plot

    if low is not None and high is not None and low >= high:
        raise typer.BadParameter(f"--low is {low:g}, not below --high, {high:g}")
    target = out or volume.with_name(f"{volume.stem}-{plane}.png")
    plot(volume, plane, out=target, thickness=thickness, low=low, high=high, top=top)
    say(json.dumps({"file": str(target)}) if as_json else target)


def series_command(
    where: Annotated[
        list[str],
        typer.Argument(metavar="SERIES…", help="Scan files, folders of them, or uids of series."),
    ],
    at: Annotated[str, typer.Option("--at", metavar="H,K,L", help="The point, r.l.u.")],
    reach: Annotated[
        float,
        typer.Option(
            "--reach",
            help="Half the box around it, r.l.u.",
            parser=Number(0, above=True, unit="r.l.u."),
        ),
    ] = 0.2,
    step: Annotated[
        float,
        typer.Option(
            "--step",
            help="Of its cells, r.l.u.; 1/integer.",
            parser=Number(0, 1, above=True, unit="r.l.u."),
        ),
    ] = 0.025,
    symmetry: Annotated[
        str,
        typer.Option(
            "--symmetry",
            metavar="CLASS",
            help="Sum over equivalents: a Laue class as m-3m; auto: the space group's.",
        ),
    ] = "none",
    background: Annotated[
        str, typer.Option("--background", metavar="UID", help="auto, none, or an air run.")
    ] = "auto",
    orientation: Annotated[
        Path | None, typer.Option("--orientation", metavar="FILE", help="JSON with UB and lattice.")
    ] = None,
    monitor: Annotated[
        bool, typer.Option("--monitor/--no-monitor", help="Without: the flux was constant.")
    ] = True,
    mask: MaskFile = None,
    invert_mask: InvertMask = False,
    mask_over_half: MaskOverHalf = False,
    efficiency: Annotated[
        bool, typer.Option("--efficiency/--no-efficiency", help="Correct for the sensor's.")
    ] = True,
    refuse_damaged: RefuseDamaged = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="PNG", help="Draw it, too.")] = None,
    beamline: Annotated[
        Path | None,
        typer.Option(
            "--beamline",
            metavar="FILE",
            help="The beamline.toml, if a series' uid is given; else that of $OFFBRAGG_BEAMLINE.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Follow a superlattice point over temperature: order parameter, Tc and β.

    At each temperature a Gaussian, a Lorentzian and a quadratic are fitted to the box around the
    point; a power law goes through the Gaussians.
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
            raise ReductionError(f"{name!r} is not there, and is no uid\nLook at its spelling.")
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
    )
    with progress_bar("temperatures", quiet=as_json) as progress:
        found = order_parameter(
            find_sweeps(places, uids), (h, k, l), reach=reach, step=step, choices=choices,
            progress=progress,
        )  # fmt: skip
    if out is not None:
        draw(found, out)
    say(json.dumps(found.to_dict()) if as_json else "\n".join([found.table(), *found.notes]))


def pdf_command(
    volume: Annotated[Path, typer.Argument(metavar="VOLUME", help="A volume file.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="HDF5.", show_default="VOLUME-pdf.h5"),
    ] = None,
    punch: Annotated[
        float,
        typer.Option(
            "--punch",
            help="Radius cut out around Bragg points, Å⁻¹ with 2π.",
            parser=Number(0, unit="Å⁻¹"),
        ),
    ] = 0.15,
    centring: Annotated[
        str, typer.Option("--centring", help="P, I, F, A, B, C or R: where Bragg points are.")
    ] = "P",
    q_max: Annotated[
        float | None,
        typer.Option(
            "--q-max",
            help="End of the taper, Å⁻¹ with 2π.",
            parser=Number(0, above=True, unit="Å⁻¹"),
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Transform a volume into a 3D-ΔPDF: pairs more or less frequent than in the average crystal.

    Bragg peaks are punched out and filled from around; use a volume that is symmetrised.
    """
    from offbragg.files.volume_file import read_volume
    from offbragg.reduction.pair_distribution import pair_distribution
    from offbragg.workflows.pair_distribution import save
    from offbragg.workflows.sweeps import next_free

    target = out or next_free(volume.parent, f"{volume.stem}-pdf")
    _check_free(target)
    pdf = pair_distribution(read_volume(volume), punch=punch, centring=centring, q_max=q_max)
    save(target, pdf, {"volume": volume.name, "punch": punch, "centring": centring})
    found = pdf.strongest()
    if as_json:
        told = {name: getattr(pdf, name) for name in ("residual", "filled", "unmeasured", "q_max")}
        say(json.dumps({"file": str(target), **told, "strongest": found}))
        return
    say(f"{target}\nup to {pdf.q_max:.2f} Å⁻¹, {pdf.filled:.1%} filled ({pdf.unmeasured:.1%} not "
          f"measured), back-transform off by {pdf.residual:.1e}")  # fmt: skip
    if pdf.unmeasured > _MOST_UNMEASURED:
        say(
            f"WARNING: {pdf.unmeasured:.0%} of it nobody measured, and what is filled in is no "
            "measurement.\nMeasure more, symmetrise (reduce --symmetry), or end sooner (--q-max)."
        )
    for one in found:
        x, y, z = one["vector"]
        say(f"  {x:6.2f} {y:6.2f} {z:6.2f}  {one['length']:7.2f} Å  {one['value']:12.4g}")


def index_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Scan files of one mount.")],
    cell: Annotated[
        str | None,
        typer.Option(
            "--cell",
            metavar="a,b,c,al,be,ga",
            help="The cell, Å and degree.",
            show_default="that of the start document",
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
            help="Of the cell: P, A, B, C, I, F or R.",
            show_default="that of the space group, or P",
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
            help="What to write.",
            show_default="orientation.json beside the first FILE",
        ),
    ] = None,
    picture: Annotated[
        bool,
        typer.Option("--picture/--no-picture", help="Draw peaks and residuals beside it, PNG."),
    ] = True,
    refuse_damaged: RefuseDamaged = False,
    as_json: AsJson = False,
) -> None:
    """Find how the crystal lies: peaks, cell, UB, refined; writes orientation.json.

    Sweeps of one mount are indexed together. It refuses, with the numbers, rather than give an
    orientation that is not sure. An earlier orientation.json is kept under another name.
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
            progress=progress,
        )
    say(json.dumps(found.to_dict()) if as_json else describe(found))


def _cell(text: str) -> list[float]:
    words = ",".join(text.replace(",", " ").split())
    return list(numbers(words, 6, "--cell", "3.9,3.9,3.9,90,90,90"))


def _check_free(target: Path) -> None:
    """Refuse a name that is taken before an hour of work, not after."""
    if target.exists():
        raise ReductionError(
            f"{target} is there already: it is not overwritten\nGive another --out."
        )
