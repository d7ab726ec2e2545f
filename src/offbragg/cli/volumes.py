"""The verbs for volumes: plot, pdf, why, convert; see :mod:`offbragg.cli`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from offbragg.cli.app import REDUCTION, AsJson, app
from offbragg.cli.numbers import Number, numbers
from offbragg.cli.terminal import check_free, say
from offbragg.cli.terminal import progress as progress_bar

_MOST_UNMEASURED = 0.1  # of what is transformed


# -1kl is a plane
@app.command(
    name="plot", rich_help_panel=REDUCTION, context_settings={"ignore_unknown_options": True}
)
def plot_command(
    volume: Annotated[Path, typer.Argument(metavar="VOLUME", help="Volume file.")],
    plane: Annotated[
        str, typer.Argument(metavar="PLANE", help="Plane: hk0, h0.5l, -1kl, hhl, or h,k,-h-k.")
    ] = "hk0",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PNG", help="Picture.", show_default="beside the volume"),
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
        float | None,
        typer.Option("--low", help="Intensity of the first colour.", parser=Number()),
    ] = None,
    high: Annotated[
        float | None,
        typer.Option(
            "--high",
            help="Intensity of the last colour.",
            show_default="set by --top",
            parser=Number(),
        ),
    ] = None,
    top: Annotated[
        float,
        typer.Option(
            "--top",
            metavar="PERCENT",
            help="Last colour: this percentile of the cells away from Bragg points, %.",
            parser=Number(0, 100, above=True, unit="%"),
        ),
    ] = 99.0,
    as_json: AsJson = False,
) -> None:
    """Draw a plane of a volume as a picture.

    Colours are logarithmic; lengths and angles are those of the reciprocal lattice; cells that were
    not measured are hatched. The last colour is set by the diffuse scattering (--top): all Bragg
    peaks have it.
    """
    from offbragg.plots.planes import plot

    if low is not None and high is not None and low >= high:
        raise typer.BadParameter(f"--low is {low:g}, not below --high, {high:g}")
    target = out or volume.with_name(f"{volume.stem}-{plane}.png")
    plot(volume, plane, out=target, thickness=thickness, low=low, high=high, top=top)
    say(json.dumps({"file": str(target)}) if as_json else target)


@app.command(name="pdf", rich_help_panel=REDUCTION)
def pdf_command(
    volume: Annotated[Path, typer.Argument(metavar="VOLUME", help="Volume file.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="HDF5 file.", show_default="VOLUME-pdf.h5"),
    ] = None,
    punch: Annotated[
        float,
        typer.Option(
            "--punch",
            help="Radius removed around Bragg points, Å⁻¹ with 2π.",
            parser=Number(0, unit="Å⁻¹"),
        ),
    ] = 0.15,
    centring: Annotated[
        str, typer.Option("--centring", help="Lattice centring: P, A, B, C, I, F or R.")
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

    Bragg peaks are removed and filled from their surroundings. Use a symmetrised volume.
    """
    from offbragg.files.digest import sha256
    from offbragg.files.other_volumes import read_any_volume
    from offbragg.reduction.pair_distribution import pair_distribution
    from offbragg.workflows.pair_distribution import save
    from offbragg.workflows.sweeps import next_free

    target = out or next_free(volume.parent, f"{volume.stem}-pdf")
    check_free(target)
    pdf = pair_distribution(read_any_volume(volume), punch=punch, centring=centring, q_max=q_max)
    made_from = {"volume": volume.name, "volume_sha256": sha256(volume)}
    save(target, pdf, {**made_from, "punch": punch, "centring": centring})
    found = pdf.strongest()
    if as_json:
        facts = {name: getattr(pdf, name) for name in ("residual", "filled", "unmeasured", "q_max")}
        say(json.dumps({"file": str(target), **facts, "strongest": found}))
        return
    say(f"{target}\nup to {pdf.q_max:.2f} Å⁻¹, {pdf.filled:.1%} filled ({pdf.unmeasured:.1%} not "
          f"measured), back-transform off by {pdf.residual:.1e}")  # fmt: skip
    if pdf.unmeasured > _MOST_UNMEASURED:
        say(
            f"WARNING: {pdf.unmeasured:.0%} of the volume was not measured; filled values are not "
            "data.\nMeasure more, symmetrise (reduce --symmetry), or lower --q-max."
        )
    for peak in found:
        x, y, z = peak["vector"]
        say(f"  {x:6.2f} {y:6.2f} {z:6.2f}  {peak['length']:7.2f} Å  {peak['value']:12.4g}")


@app.command(name="convert", rich_help_panel=REDUCTION)
def convert_command(
    volume: Annotated[
        Path,
        typer.Argument(
            metavar="VOLUME",
            help="Volume of offbragg, Mantid, meerkat, Yell, DISCUS (HDF5, or a layer as text), "
            "NXRefine, or a list h k l I of Scatty.",
        ),
    ],
    to: Annotated[
        str, typer.Option("--to", help="Format: offbragg, mantid, yell or nxrefine.")
    ] = "offbragg",
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="File.", show_default="beside the volume"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read a volume of any program that is known here, and write it for another one.

    A file of another program is found by what is in it. As a volume of offbragg it can be put into
    the catalog (`offbragg publish`). What a format has no place for is lost: Yell has no standard
    deviations.
    """
    from offbragg.workflows.convert import FORMATS, convert

    if to not in FORMATS:
        raise typer.BadParameter(f"--to is {to!r}: one of {', '.join(FORMATS)}")
    made, kind, converted = convert(volume, to, out=out, free=check_free)
    if as_json:
        say(json.dumps({"file": str(made), "from": kind, "to": to}))
    else:
        say(f"{made}\nfrom {kind}: {converted!r}")


# -1,0,2 is a point
@app.command(
    name="why", rich_help_panel=REDUCTION, context_settings={"ignore_unknown_options": True}
)
def why_command(
    volume: Annotated[Path, typer.Argument(metavar="VOLUME", help="Volume file.")],
    point: Annotated[
        str, typer.Argument(metavar="H,K,L", help="Point in the cell, r.l.u., as 0.5,0.5,-1.")
    ],
    rows: Annotated[int, typer.Option("--rows", help="Pixels to list.", min=0)] = 40,
    as_json: AsJson = False,
) -> None:
    """Show which frames and pixels made a cell of a volume, and which did not count and why.

    The scan files must be where the volume's record has them. The pixels that count sum to the
    cell exactly; with a symmetry they are those of its equivalent cells, too.

    Exit code 1: the file does not have the sum of these pixels.
    """
    from offbragg.workflows.why import describe, why

    hkl = numbers(point, 3, "H,K,L", "0.5,0.5,0.5")
    with progress_bar("looking for pixels", quiet=as_json) as progress:
        found = why(volume, hkl, progress=progress)
    say(json.dumps(found.to_dict()) if as_json else describe(found, most=rows))
    if not found.exact:
        raise typer.Exit(1)
